//! `shiplap strip`: without some files.

use std::path::Path;

use clap::Args;
use shiplap::context::ignore::Ignore;
use shiplap::image::History;
use shiplap::mutate::strip::{hide, purge};

use super::Session;
use super::error::Usage;
use super::reshape::{FormArgs, LayerArgs, ReshapeArgs, now};

const EXAMPLES: &str = "\
Examples:
  Hide documentation in a layer of whiteouts; the image does not get smaller
    shiplap strip app:1 /usr/share/doc '/usr/share/man/**' -t app:2

  Take a file out of the layers, so that nobody finds it there
    shiplap strip --hard app:1 /root/.netrc '**/*.pem' -t app:clean";

/// Take files out of an image
///
/// Patterns are those of a .dockerignore file: * and ? stand for characters of
/// one name, ** for any number of directories, and a directory goes with all in
/// it. They are compared with paths in the image in which no link is followed.
/// Without --hard a new layer hides the files, and the layers below still have
/// them. With --hard the layers are written anew without them; a file that has
/// another hard link is kept under that name. Layers without such files keep
/// their digest. An image in which nothing matches stays as it is. Prints the
/// new image's digest.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StripArgs {
    #[command(flatten)]
    common: ReshapeArgs,
    /// What is to go
    #[arg(required = true, value_name = "PATHGLOB")]
    patterns: Vec<String>,
    /// Take it out of the layers themselves
    #[arg(long)]
    hard: bool,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    form: FormArgs,
}

impl StripArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        // Paths in an image are relative to its root.
        let relative = self.patterns.iter().map(|p| p.trim_start_matches('/'));
        let rules = Ignore::from_patterns(relative)
            .map_err(|e| Usage::error(format!("pattern {}: {}", e.line, e.fault)))?;
        if rules.has_exceptions() {
            return Err(Usage::error(
                "patterns with ! in front have no meaning here",
            ));
        }
        if rules.is_empty() {
            return Err(Usage::error("the patterns are empty"));
        }
        let hard = if self.hard { "--hard " } else { "" };
        let history = History {
            created: Some(now()?),
            created_by: format!("shiplap strip {hard}{}", self.patterns.join(" ")),
            ..History::default()
        };
        let matches = |path: &Path| rules.ignored(path);
        let (form, layers) = (self.form.format, Some(&self.layers));
        self.common
            .run(session, "strip", form, layers, &mut |image, new| {
                let history = history.clone();
                Ok(match self.hard {
                    true => purge(image, &matches, history, new)?,
                    false => hide(image, &matches, history, new)?,
                })
            })
    }
}
