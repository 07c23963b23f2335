//! `shiplap export`: an image's files as a tar.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use shiplap::bundle::export;
use shiplap::event::Outcome;
use shiplap::sys::whole_file::Access;

use super::error::Usage;
use super::image::ImageArgs;
use super::values::to_file;
use super::{ProgressArgs, Session};

const EXAMPLES: &str = "\
Examples:
  The files of an image, to a disk
    shiplap export debian:12 | tar -C /mnt -x --xattrs --numeric-owner

  To a file
    shiplap export docker://registry.example.com/app:1 -o app.tar

  What has one layer and no history
    shiplap export app:1 | shiplap import - app:flat";

/// Write an image's files as one tar
///
/// What the layers make together, with owners, hard links and extended
/// attributes. The layers are read twice as streams; nothing is unpacked. The
/// same layers give the same tar.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// File to write, - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl ExportArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let to_stdout = self.output.as_os_str() == "-";
        if to_stdout && io::stdout().is_terminal() {
            return Err(Usage::error(
                "an archive would go to the terminal; name a file with --output",
            ));
        }
        let store = session.store()?;
        let image = self.image.open(session, &store)?.image()?;
        let ui = session.ui(&self.progress)?;
        let cancel = session.interrupts.cancel();
        let spools = store.spools();
        let task = ui.events().start(format!("[export] {}", self.image.image));
        let done = if to_stdout {
            export(&image, &spools, io::stdout().lock(), &cancel).map_err(anyhow::Error::from)
        } else {
            to_file(&self.output, Access::Umask, |file| {
                Ok(export(&image, &spools, file, &cancel)?)
            })
        };
        task.finish(match &done {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        });
        done
    }
}
