//! `shiplap login`.

use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use shiplap::reference::{DEFAULT_REGISTRY, Reference};
use shiplap::registry::{Kept, LoginFile};

use super::Session;
use super::access::ConnectionArgs;
use super::environment::{self, variable};
use super::error::Usage;
use crate::ui::{escape, output, prompt};

/// The longest password that is read, in bytes.
const MAX_PASSWORD: u64 = 64 << 10;

const EXAMPLES: &str = "\
Examples:
  In a pipeline
    echo \"$TOKEN\" | shiplap login -u ci --password-stdin reg.example

  For one part of a registry only
    shiplap login -u ci --password-stdin reg.example/team < token

  Into a file of its own
    shiplap login --authfile auth.json -u ci --password-stdin reg.example < token";

/// Keep the credentials for a registry
///
/// The registry is asked first whether it takes them. They go to the file of
/// --authfile, $REGISTRY_AUTH_FILE, or docker's config.json, or to the helper
/// that the file names. Docker and podman find them there.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LoginArgs {
    /// The registry, with a path when the credentials are for a part of it
    /// [default: docker.io]
    #[arg(value_name = "HOST[:PORT][/PATH]", default_value = DEFAULT_REGISTRY, hide_default_value = true)]
    registry: String,
    /// User name; asked for when it is missing
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// Password or token; other users of the machine may see it
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        conflicts_with = "password_stdin"
    )]
    password: Option<Secret>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// File to keep them in
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Text that is not shown.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl LoginArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let (key, host) = registry_key(&self.registry)?;
        let file = login_file(self.authfile.clone())?;
        let cancel = session.interrupts.cancel();
        let user = match (&self.username, self.password_stdin) {
            (Some(user), _) => user.clone(),
            (None, true) => return Err(Usage::error("--password-stdin needs --username")),
            (None, false) if prompt::is_possible() => prompt::ask("Username", false, &cancel)?,
            (None, false) => return Err(Usage::error("who logs in? give --username")),
        };
        let password = match &self.password {
            Some(Secret(password)) => password.clone(),
            None if self.password_stdin => read_password()?,
            None if prompt::is_possible() => prompt::ask("Password", true, &cancel)?,
            None => return Err(Usage::error("give the password with --password-stdin")),
        };
        if user.is_empty() || user.contains(':') || password.is_empty() {
            return Err(Usage::error(
                "user and password must not be empty, and a user name has no colon",
            ));
        }
        let client = self.connection.client_of(&host, &user, &password, cancel)?;
        let asked = client.check_login(&host)?;
        let place = match LoginFile::new(file, variable("PATH")).save(&key, &user, &password)? {
            Kept::File(path) => path.display().to_string(),
            Kept::Helper(name) => format!("docker-credential-{name}"),
        };
        if !asked {
            output::message(&format!(
                "warning: {host} lets everybody in; the password was not checked\n"
            ));
        }
        let text = format!("logged in to {key} as {user}; kept in {place}");
        output::result(&format!("{}\n", escape::text(&text)))
    }
}

/// What credentials are kept under, and the registry that it is about.
pub(super) fn registry_key(text: &str) -> anyhow::Result<(String, String)> {
    let trimmed = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text)
        .trim_end_matches('/');
    let trimmed = match trimmed.strip_suffix("/v1").or(trimmed.strip_suffix("/v2")) {
        Some(host) if trimmed != text => host,
        _ => trimmed,
    };
    let wrong = || Usage::error(format!("{text:?} is not HOST[:PORT][/PATH]"));
    let whole = Reference::parse(&format!("{trimmed}/x")).map_err(|_| wrong())?;
    let host = trimmed.split('/').next().unwrap_or_default();
    // A first part that is no host would have become a path of Docker Hub.
    if whole.registry() == DEFAULT_REGISTRY && !host.ends_with("docker.io") {
        return Err(wrong());
    }
    let registry = whole.registry().to_owned();
    let key = match trimmed.split_once('/') {
        Some((_, path)) => format!("{registry}/{path}"),
        None => registry.clone(),
    };
    Ok((key, registry))
}

/// The file that logins are in.
pub(super) fn login_file(authfile: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    authfile
        .or_else(|| environment::login_file(&variable))
        .ok_or_else(|| Usage::error("where to? HOME is not set; give --authfile FILE"))
}

fn read_password() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_PASSWORD)
        .read_to_string(&mut text)
        .context("can't read the password from standard input")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_and_their_keys() {
        for (text, expected) in [
            ("r.io", Some(("r.io", "r.io"))),
            ("https://r.io:5000/", Some(("r.io:5000", "r.io:5000"))),
            ("r.io/team", Some(("r.io/team", "r.io"))),
            ("localhost", Some(("localhost", "localhost"))),
            ("docker.io", Some(("docker.io", "docker.io"))),
            (
                "https://index.docker.io/v1/",
                Some(("docker.io", "docker.io")),
            ),
            ("team", None),
            ("team/app", None),
            ("", None),
            ("a b.io", None),
        ] {
            let got = registry_key(text).ok();
            let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(got, expected, "{text}");
        }
    }
}
