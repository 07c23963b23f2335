//! `shiplap blob`.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use shiplap::image::Descriptor;
use shiplap::sys::whole_file::Access;

use super::Session;
use super::access::RegistryArgs;
use super::error::Usage;
use super::values::to_file;
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  shiplap blob reg.example/app@sha256:0123… -o layer.tar.gz
  shiplap blob reg.example/app@sha256:4567… | jq .";

/// Fetch a blob from a registry
///
/// What comes is checked: a file appears only when it is right; on standard
/// output the exit code tells.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BlobArgs {
    /// Repository and digest
    #[arg(value_name = "REPOSITORY@DIGEST")]
    name: String,
    /// File to write instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl BlobArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let cancel = session.interrupts.cancel();
        let (client, reference) = self.registry.named(&self.name, cancel)?;
        let Some(digest) = reference.digest() else {
            return Err(Usage::error("a blob has a digest: REPOSITORY@sha256:…"));
        };
        let output = self.output.filter(|path| path.as_os_str() != "-");
        if output.is_none() && io::stdout().is_terminal() {
            return Err(Usage::error(
                "a blob is nothing for a terminal; give -o FILE, or send it into a pipe",
            ));
        }
        let repository = client.repository(&reference);
        let size = repository.blob_size(digest)?;
        let blob = repository.open_blob(&Descriptor::new("", digest.clone(), size))?;
        match output {
            None => output::copy(blob),
            Some(path) => to_file(&path, Access::Umask, |file| pour(blob, file, &path)),
        }
    }
}

fn pour(mut blob: impl io::Read, file: &mut dyn Write, path: &Path) -> anyhow::Result<()> {
    let fail = || format!("can't write {}", path.display());
    let mut buffer = vec![0; 128 << 10];
    loop {
        match blob.read(&mut buffer)? {
            0 => break,
            n => file.write_all(&buffer[..n]).with_context(fail)?,
        }
    }
    Ok(())
}
