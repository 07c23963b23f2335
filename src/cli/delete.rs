//! `shiplap delete`.

use clap::Args;

use super::Session;
use super::access::RegistryArgs;
use super::error::Hinted;
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  Take a tag away
    shiplap delete reg.example/app:old

  Delete a manifest, and with it all tags that name it
    shiplap delete reg.example/app@sha256:0123…
    shiplap delete --manifest reg.example/app:old";

/// Delete a tag or a manifest in a registry
///
/// Registries free the room of the blobs later, by a run of their own.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeleteArgs {
    /// Name with a tag or a digest
    #[arg(value_name = "NAME:TAG|NAME@DIGEST")]
    name: String,
    /// Delete the manifest that the tag names, and with it all its tags
    #[arg(long)]
    manifest: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl DeleteArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let last = self.name.rsplit('/').next().unwrap_or_default();
        if !last.contains([':', '@']) {
            return Err(super::error::Usage::error(
                "say what to delete: NAME:TAG or NAME@DIGEST",
            ));
        }
        let cancel = session.interrupts.cancel();
        let (client, mut reference) = self.registry.named(&self.name, cancel)?;
        if self.manifest && reference.digest().is_none() {
            let descriptor = super::digest::look_up(&client, &reference, None)?;
            reference = reference.with_digest(descriptor.digest);
        }
        let by_tag = reference.digest().is_none();
        let deleted = client
            .repository(&reference)
            .delete_manifest(reference.target());
        deleted.map_err(|error| {
            let hint = match error.status() {
                Some(400 | 405 | 415 | 501) if by_tag => {
                    "this registry deletes no tags; --manifest deletes what the tag names, with all its tags"
                }
                Some(405 | 501) => {
                    "this registry has deletion switched off (docker-registry: storage.delete.enabled)"
                }
                _ => return anyhow::Error::from(error),
            };
            Hinted {
                hint: hint.into(),
                error: error.into(),
            }
            .into()
        })?;
        output::result(&format!("deleted {}\n", reference.familiar()))
    }
}
