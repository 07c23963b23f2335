//! `shiplap export`: an image's files as a tar.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use shiplap::bundle::export;
use shiplap::event::Outcome;

use super::error::Usage;
use super::image::ImageArgs;
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
        let task = ui.events().start(format!("[export] {}", self.image.image));
        let done = if to_stdout {
            export(&image, io::stdout().lock(), &cancel).map_err(anyhow::Error::from)
        } else {
            to_file(&self.output, |file| Ok(export(&image, file, &cancel)?))
        };
        task.finish(match &done {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        });
        done
    }
}

/// Writes a file that appears under its name when it is complete.
fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let context = || format!("can't write {}", path.display());
    // A device or a pipe is written to as it is.
    let special = std::fs::metadata(path).is_ok_and(|m| !m.is_file());
    if special {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .with_context(context)?;
        return write(&mut file);
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        .with_context(context)?;
    write(&mut file)?;
    file.persist(path)
        .map_err(|e| e.error)
        .with_context(context)?;
    Ok(())
}
