//! `shiplap unpack`: an image as a directory.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use shiplap::bundle::state::Manner;
use shiplap::bundle::{BundleError, UnpackRequest, runtime, unpack};
use shiplap::layer::ids::{IdMaps, IdRange};
use shiplap::layer::unpack::UnpackError;
use shiplap::reference::Reference;
use shiplap::transport::Location;

use super::error::{Hinted, Usage};
use super::image::{ImageArgs, Opened};
use super::{Format, ProgressArgs, Session};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  The root filesystem
    shiplap unpack debian:12 rootfs

  A bundle that runc or crun runs
    shiplap unpack --bundle docker://registry.example.com/app:1 app
    runc run --bundle app app-1

  Changed by hand, and made an image again
    shiplap repack app app:2

A plain user gets files of its own, and a bundle with a user namespace in which
it is root; which owners the files should have is kept beside them, so that
repack gives them back. What repack needs to know is in DIR.shiplap, or in the
bundle's shiplap.state.";

/// Unpack an image: a root filesystem, or a bundle for an OCI runtime
///
/// DIR must not exist or be empty. It appears when all of the image is there;
/// before that, and after an error, there is nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct UnpackArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Directory to make
    dir: PathBuf,
    /// Make a bundle: config.json, and the files in rootfs
    #[arg(long)]
    bundle: bool,
    /// The bundle's command instead of the image's; after --
    #[arg(last = true, value_name = "COMMAND", requires = "bundle")]
    command: Vec<String>,
    /// Give the bundle's process a terminal
    #[arg(short, long, requires = "bundle")]
    tty: bool,
    /// Let all files belong to this user, and map it to root in a bundle; what
    /// a plain user gets
    #[arg(long, conflicts_with_all = ["uid_map", "gid_map"])]
    rootless: bool,
    /// Give the files of these users of the image to those of the host
    #[arg(long, value_name = "CONTAINER:HOST[:SIZE]", value_parser = IdRange::parse)]
    uid_map: Vec<IdRange>,
    /// The same for groups
    #[arg(long, value_name = "CONTAINER:HOST[:SIZE]", value_parser = IdRange::parse)]
    gid_map: Vec<IdRange>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl UnpackArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let mapped = !(self.uid_map.is_empty() && self.gid_map.is_empty());
        if mapped && !rustix::process::geteuid().is_root() {
            return Err(Usage::error(
                "only root can give files to other users; without maps all files will be yours",
            ));
        }
        let store = session.store()?;
        let opened = self.image.open(session, &store)?;
        let image = opened.image()?;
        let manner = Manner {
            rootless: self.rootless || !rustix::process::geteuid().is_root(),
            placeholders: false,
            ids: IdMaps {
                users: self.uid_map,
                groups: self.gid_map,
            },
        };
        let request = UnpackRequest {
            image: &image,
            location: lasting(&opened).to_string(),
            dir: &self.dir,
            bundle: self.bundle.then_some(runtime::Options {
                args: self.command,
                terminal: self.tty,
            }),
            manner,
        };
        let ui = session.ui(&self.progress)?;
        let cancel = session.interrupts.cancel_patiently();
        let done = unpack(&request, &ui.events(), &cancel);
        drop(ui);
        let done = done.map_err(hinted)?;
        let digest = &image.descriptor.digest;
        match self.format {
            Format::Text => output::result(&format!("{digest}\n")),
            Format::Json => output::json(&json!({
                "digest": digest,
                "directory": self.dir,
                "bundle": self.bundle,
                "entries": done.entries,
                "bytes": done.bytes,
            })),
        }
    }
}

/// The place of an image for later: from wherever, and also when a tag has
/// moved on.
fn lasting(opened: &Opened) -> Location {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let pinned = |reference: &Reference| {
        let digest = opened.source.descriptor.digest.clone();
        Location::Registry(reference.with_digest(digest))
    };
    match &opened.location {
        Location::Registry(reference) => pinned(reference),
        // It was not in the store.
        Location::Name(name) if !opened.source.repositories.is_empty() => {
            match Reference::parse(name) {
                Ok(reference) => pinned(&reference),
                Err(_) => opened.location.clone(),
            }
        }
        Location::Name(name) => Location::Name(name.clone()),
        Location::Oci { path, name } => Location::Oci {
            path: absolute(path),
            name: name.clone(),
        },
        Location::OciArchive { path, name } => Location::OciArchive {
            path: absolute(path),
            name: name.clone(),
        },
        Location::DockerArchive { path, name } => Location::DockerArchive {
            path: absolute(path),
            name: name.clone(),
        },
        Location::Dir(path) => Location::Dir(absolute(path)),
    }
}

/// Adds what the user can do.
pub(super) fn hinted(error: BundleError) -> anyhow::Error {
    let hint = match &error {
        BundleError::Occupied(path) => format!(
            "choose another directory, or remove {} first",
            path.display()
        ),
        BundleError::Layer {
            source: UnpackError::Io { action, source, .. },
            ..
        } if action.contains("owner") && source.kind() == std::io::ErrorKind::InvalidInput => {
            "this user namespace lacks ids that the image uses; --rootless keeps all files yours"
                .into()
        }
        BundleError::NoState { .. } => {
            "unpack the image with shiplap unpack, change it, and repack it then".into()
        }
        BundleError::Other { expected, .. } => format!(
            "the image has been replaced since; name one that still has {expected} with --from"
        ),
        _ => return error.into(),
    };
    Hinted {
        hint,
        error: error.into(),
    }
    .into()
}
