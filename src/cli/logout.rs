//! `shiplap logout`.

use std::path::PathBuf;

use clap::Args;
use shiplap::reference::DEFAULT_REGISTRY;
use shiplap::registry::{AuthFiles, CredentialSource, LoginFile};

use super::environment::{self, variable};
use super::error::Negative;
use super::login::{login_file, registry_key};
use crate::ui::{escape, output};

const EXAMPLES: &str = "\
Examples:
  shiplap logout reg.example
  shiplap logout --all";

/// Forget the credentials for a registry
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LogoutArgs {
    /// The registry [default: docker.io]
    #[arg(value_name = "HOST[:PORT][/PATH]", default_value = DEFAULT_REGISTRY, hide_default_value = true)]
    registry: String,
    /// Forget all registries that the file knows of
    #[arg(short, long, conflicts_with = "registry")]
    all: bool,
    /// File that they are in
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl LogoutArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let path = login_file(self.authfile.clone())?;
        let file = LoginFile::new(path.clone(), variable("PATH"));
        if self.all {
            let gone = file.erase_all()?;
            let lines: String = gone
                .iter()
                .map(|key| format!("logged out of {}\n", escape::text(key)))
                .collect();
            return output::result(&lines);
        }
        let (key, host) = registry_key(&self.registry)?;
        let known = file.erase(&key)?;
        if known {
            output::result(&format!("logged out of {key}\n"))?;
        } else {
            let text = format!("{} has no credentials for {key}", path.display());
            output::message(&format!("{}\n", escape::text(&text)));
        }
        if self.authfile.is_none() {
            let others = AuthFiles::new(environment::auth_files(&variable), variable("PATH"));
            if let Ok(Some(_)) = others.find(&host, "") {
                output::message(&format!(
                    "warning: credentials for {host} are still in another file of docker's or podman's\n"
                ));
            }
        }
        match known {
            true => Ok(()),
            false => Err(Negative.into()),
        }
    }
}
