//! `shiplap attach`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use shiplap::image::{Descriptor, Manifest};
use shiplap::platform::Platform;
use shiplap::registry::FileBlob;

use super::access::RegistryArgs;
use super::error::Usage;
use super::{Session, digest, values};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  shiplap attach --artifact-type application/spdx+json sbom.spdx.json reg.example/app:1
  shiplap attach --artifact-type application/vnd.example.report report.txt \\
    reg.example/app:1 --media-type text/plain --annotation team=qa";

/// Attach a file to an image in a registry
///
/// The file becomes an artifact that names the image as its subject. Prints
/// the artifact's name and digest. The image itself stays as it is.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AttachArgs {
    /// The file
    file: PathBuf,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
    /// What kind of artifact it is, a media type
    #[arg(long, value_name = "TYPE")]
    artifact_type: String,
    /// Media type of the file [default: application/octet-stream]
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream")]
    #[arg(hide_default_value = true)]
    media_type: String,
    /// Remark on the artifact
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::key_value)]
    annotation: Vec<(String, String)>,
    /// Platform to choose from an image of several
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl AttachArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        for kind in [&self.artifact_type, &self.media_type] {
            if !is_media_type(kind) {
                return Err(Usage::error(format!("{kind:?} is no media type")));
            }
        }
        let cancel = session.interrupts.cancel();
        let (client, reference) = self.registry.named(&self.name, cancel)?;
        let subject = digest::look_up(&client, &reference, self.platform.as_ref())?;
        let blob = FileBlob::open(&self.file)
            .with_context(|| format!("can't read {}", self.file.display()))?;
        let mut layer = Descriptor::new(&self.media_type, blob.digest().clone(), blob.size());
        if let Some(name) = self.file.file_name() {
            layer.annotations.insert(
                "org.opencontainers.image.title".into(),
                name.to_string_lossy().into_owned(),
            );
        }
        let annotations: BTreeMap<_, _> = self.annotation.into_iter().collect();
        let manifest = Manifest::artifact(&self.artifact_type, layer, subject, annotations);
        let attached = client.repository(&reference).attach(&manifest, &blob)?;
        output::result(&format!(
            "{}@{}\n",
            reference.familiar_name(),
            attached.digest
        ))
    }
}

/// `type/subtype`, as RFC 6838 has it.
fn is_media_type(text: &str) -> bool {
    let fine = |part: &str| {
        let mut bytes = part.bytes();
        part.len() <= 127
            && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    text.split_once('/')
        .is_some_and(|(a, b)| fine(a) && fine(b))
}
