//! `shiplap append`: one layer more.

use std::cell::RefCell;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use shiplap::context::Empty;
use shiplap::layer::{Change, Changes};
use shiplap::mutate::append::{Placing, append, append_tar};
use shiplap::snapshot::overlay;

use super::error::Usage;
use super::reshape::{Failed, FormArgs, LayerArgs, RemarkArgs, ReshapeArgs, now};
use super::{Session, open_input};

const EXAMPLES: &str = "\
Examples:
  The files of a directory, below /srv and owned by a user
    shiplap append app:1 site -t app:2 --prefix /srv/www --chown 1000:1000

  What a tar has, from a pipe
    tar -C build -c . | shiplap append docker://reg.example/app:1 - -t docker://reg.example/app:2";

/// Add a layer with the content of a tar or a directory
///
/// A tar may be compressed with gzip, bzip2, xz or zstd; names in it that begin
/// with .wh. are whiteouts, as in any layer. Of a directory everything in it is
/// added, hard links and extended attributes included. Directories of --prefix
/// that the image lacks are made 0755 by whoever unpacks the layer. Prints the
/// new image's digest.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AppendArgs {
    #[command(flatten)]
    common: ReshapeArgs,
    /// The tar, a directory, or - for a tar on standard input
    #[arg(value_name = "TAR|DIR")]
    content: PathBuf,
    /// Directory of the image that the content comes into
    #[arg(long, value_name = "DIR", default_value = "/", value_parser = prefix)]
    #[arg(hide_default_value = true)]
    prefix: Prefix,
    /// Owner of all that is added, as numbers; the group is the user's number
    /// unless given
    #[arg(long, value_name = "UID[:GID]", value_parser = owner)]
    chown: Option<(u32, u32)>,
    /// Mode of all that is added but links, in octal
    #[arg(long, value_name = "MODE", value_parser = mode)]
    chmod: Option<u32>,
    /// What the history says the layer was made by
    #[arg(long, value_name = "TEXT")]
    created_by: Option<String>,
    #[command(flatten)]
    remark: RemarkArgs,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    form: FormArgs,
}

/// A directory of an image, relative to its root.
#[derive(Debug, Clone)]
struct Prefix(PathBuf);

fn prefix(text: &str) -> Result<Prefix, String> {
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err("it has .. in it".into());
            }
        }
    }
    Ok(Prefix(path))
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, group),
        None => (text, text),
    };
    let number = |text: &str| {
        // The number above the highest means "leave it" to the kernel.
        let number = text.parse().ok().filter(|n| *n != u32::MAX);
        number.ok_or_else(|| format!("{text:?} is no number of a user or group"))
    };
    Ok((number(user)?, number(group)?))
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
    mode.ok_or_else(|| "it must be octal, as 0644".into())
}

impl AppendArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let placing = Placing {
            prefix: self.prefix.0.clone(),
            owner: self.chown,
            mode: self.chmod,
        };
        let name = match self.content.file_name() {
            Some(name) if self.content.as_os_str() != "-" => name.to_string_lossy().into_owned(),
            Some(_) => "standard input".into(),
            // Of a path that ends in `..` or is the root.
            None => self.content.display().to_string(),
        };
        let by = format!("shiplap append {name} /{}", self.prefix.0.display());
        let by = self.created_by.clone().unwrap_or(by);
        let history = self.remark.entry(now()?, by);
        let read = RefCell::new(false);
        let (form, layers) = (self.form.format, Some(&self.layers));
        self.common
            .run(session, "append to", form, layers, &mut |image, new| {
                if self.content.as_os_str() == "-" && read.replace(true) {
                    return Err(Failed::from(Usage::error(
                        "standard input can be read only once, the image is for several platforms; \
                     put the tar into a file or choose with --platform",
                    )));
                }
                if self.content.is_dir() {
                    let at_root = placing.prefix.as_os_str().is_empty();
                    let changes = files(&self.content, at_root)?;
                    return Ok(append(image, changes, &placing, history.clone(), new)?);
                }
                let archive = open_input(&self.content)?;
                Ok(append_tar(image, archive, &placing, history.clone(), new)?)
            })
    }
}

/// What a directory holds. Its own attributes are not the image's root's.
fn files(dir: &Path, at_root: bool) -> anyhow::Result<Changes> {
    let changes = overlay::changes(dir, Arc::new(Empty))
        .with_context(|| format!("can't read {}", dir.display()))?;
    let is_root =
        |change: &Change| matches!(change, Change::Put(..)) && change.path().as_os_str().is_empty();
    Ok(Box::new(changes.filter(move |change| {
        !at_root || !change.as_ref().is_ok_and(is_root)
    })))
}
