//! The store and the registries as the environment and the flags have them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use clap::Args;
use shiplap::build::Tools;
use shiplap::build::frontend::Sources;
use shiplap::context::git::GitOptions;
use shiplap::event::Cancel;
use shiplap::image::Descriptor;
use shiplap::reference::Reference;
use shiplap::registry::credentials::{Chain, Explicit};
use shiplap::registry::{
    AuthFile, AuthFiles, Client, ClientOptions, Credential, CredentialSource, Proxies,
};
use shiplap::solve::Remote;
use shiplap::store::{Store, StoreError};
use shiplap::transport::local::{LocalDestination, Names};

use super::Session;
use super::error::Usage;

impl Session {
    /// Opens the store.
    pub(super) fn store(&self) -> anyhow::Result<Store> {
        Ok(Store::open(&self.root()?)?)
    }

    /// What a build works with.
    pub(super) fn tools(&self, client: Client) -> anyhow::Result<Tools> {
        let program = std::env::current_exe().context("can't find this program's own file")?;
        // A machine without network has none; then steps have none either.
        let resolv_conf = std::fs::read("/etc/resolv.conf").unwrap_or_default();
        let Sources { remote, stdin, .. } = Self::sources()?;
        Ok(Tools {
            store: self.store()?,
            client,
            program,
            resolv_conf: String::from_utf8_lossy(&resolv_conf).into_owned(),
            remote,
            stdin,
        })
    }

    /// What looking at a Dockerfile takes.
    pub(super) fn sources() -> anyhow::Result<Sources> {
        let proxies = proxies(&variable);
        let proxy = proxies.https.as_deref().or(proxies.http.as_deref());
        Ok(Sources {
            remote: Remote {
                agent: shiplap::context::http::agent(proxy, None)?,
                git: git(),
            },
            stdin: Mutex::new(Some(Box::new(std::io::stdin()))),
            scratch: std::env::temp_dir(),
        })
    }

    /// The store as a place to copy an image to, under `names`.
    pub(super) fn destination(store: &Store, names: Vec<Reference>) -> LocalDestination {
        let given = Arc::new(StoreNames(store.clone()));
        LocalDestination::new(Arc::new(store.clone()), given, names).remembering(store)
    }
}

/// Gives names in the store.
struct StoreNames(Store);

impl Names for StoreNames {
    fn set(&self, names: &[(Reference, Descriptor)]) -> std::io::Result<()> {
        self.0.set_refs(names).map_err(StoreError::into_io)
    }
}

/// Flags of commands that talk to registries.
#[derive(Debug, Clone, Args)]
pub(super) struct RegistryArgs {
    /// Allow plain http, and https without a known certificate
    #[arg(long, help_heading = "Registries")]
    insecure: bool,
    /// The same, as other tools have it
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_name = "BOOL")]
    tls_verify: Option<bool>,
    /// User and password for the registry
    #[arg(long, value_name = "USER:PASSWORD", help_heading = "Registries", value_parser = basic)]
    creds: Option<Basic>,
    /// File with credentials to use instead of docker's and podman's
    #[arg(long, value_name = "FILE", help_heading = "Registries")]
    authfile: Option<PathBuf>,
}

/// Flags for one end of a copy, which come before those for both.
#[derive(Debug, Clone, Default)]
pub(super) struct Side {
    pub(super) creds: Option<Basic>,
    pub(super) tls_verify: Option<bool>,
    pub(super) authfile: Option<PathBuf>,
}

#[derive(Clone)]
pub(super) struct Basic(Credential);

impl std::fmt::Debug for Basic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

pub(super) fn basic(text: &str) -> Result<Basic, String> {
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() => Ok(Basic(Credential::Basic {
            username: user.into(),
            password: password.into(),
        })),
        _ => Err("it must be USER:PASSWORD".into()),
    }
}

/// Which registries `--insecure` and `--creds` are about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// These, `host[:port]`.
    Registries(&'a [&'a str]),
    /// `--insecure` is about all registries, `--creds` about these.
    Build(&'a [&'a str]),
}

impl RegistryArgs {
    /// The flags for one end of a copy.
    pub(super) fn side(&self, side: &Side) -> Self {
        let mut args = self.clone();
        args.creds = side.creds.clone().or(args.creds);
        args.authfile = side.authfile.clone().or(args.authfile);
        if let Some(verify) = side.tls_verify {
            args.insecure = !verify;
            args.tls_verify = None;
        }
        args
    }

    /// A client for registries.
    ///
    /// # Errors
    /// When a file that was named can't be read.
    pub(super) fn client(&self, scope: Scope<'_>, cancel: Cancel) -> anyhow::Result<Client> {
        let (registries, all) = match scope {
            Scope::Registries(registries) => (registries, false),
            Scope::Build(registries) => (registries, true),
        };
        let insecure = self.insecure || self.tls_verify == Some(false);
        let names: BTreeSet<String> = registries.iter().map(|r| (*r).to_owned()).collect();
        if self.creds.is_some() && names.is_empty() {
            return Err(Usage::error(
                "--creds needs a name that says which registry they are for; give --tag",
            ));
        }
        Ok(Client::new(ClientOptions {
            insecure_all: insecure && all,
            insecure: if insecure {
                names.clone()
            } else {
                BTreeSet::new()
            },
            ca_certificates: ca_certificates()?,
            credentials: self.credentials(&names)?,
            proxies: proxies(&variable),
            cancel,
            ..ClientOptions::default()
        }))
    }

    fn credentials(
        &self,
        registries: &BTreeSet<String>,
    ) -> anyhow::Result<Arc<dyn CredentialSource>> {
        let mut sources: Vec<Box<dyn CredentialSource>> = Vec::new();
        if let Some(Basic(credential)) = &self.creds {
            for registry in registries {
                sources.push(Box::new(Explicit {
                    registry: registry.clone(),
                    credential: credential.clone(),
                }));
            }
        }
        let files = match &self.authfile {
            Some(file) => {
                // A file that was named must be there.
                std::fs::metadata(file)
                    .with_context(|| format!("can't read {}", file.display()))?;
                vec![AuthFile::Path(file.clone())]
            }
            None => auth_files(&variable),
        };
        sources.push(Box::new(AuthFiles::new(files, variable("PATH"))));
        Ok(Arc::new(Chain(sources)))
    }
}

/// The git program, for sources that are repositories.
fn git() -> Option<GitOptions> {
    let path = variable("PATH")?;
    let program = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("git"))
        .find(|program| program.is_file())?;
    let passed = ["SSH_AUTH_SOCK", "HOME"].into_iter().chain(PROXIES);
    let env = passed.filter_map(|name| Some((name.into(), variable(name)?)));
    Some(GitOptions {
        program,
        env: env.collect(),
        path,
        authorization: None,
        keep_git_dir: false,
        checksum: None,
    })
}

/// Variables that name proxies.
const PROXIES: [&str; 7] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "no_proxy",
    "NO_PROXY",
];

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Where credentials may be, in the order in which they are asked.
fn auth_files(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<AuthFile> {
    let path = |name: &str| variable(name).map(PathBuf::from);
    let docker = path("DOCKER_CONFIG").or_else(|| path("HOME").map(|home| home.join(".docker")));
    let inline =
        variable("DOCKER_AUTH_CONFIG").map(|text| AuthFile::Inline(text.into_encoded_bytes()));
    path("REGISTRY_AUTH_FILE")
        .map(AuthFile::Path)
        .into_iter()
        .chain(inline)
        .chain(docker.map(|dir| AuthFile::Path(dir.join("config.json"))))
        .chain(path("XDG_RUNTIME_DIR").map(|dir| AuthFile::Path(dir.join("containers/auth.json"))))
        .collect()
}

/// Proxies as the usual variables name them; lower case wins.
fn proxies(variable: &dyn Fn(&str) -> Option<OsString>) -> Proxies {
    let text = |name: &str| {
        variable(name)
            .or_else(|| variable(&name.to_ascii_uppercase()))
            .map(|value| value.to_string_lossy().into_owned())
    };
    let all = text("all_proxy");
    Proxies {
        http: text("http_proxy").or_else(|| all.clone()),
        https: text("https_proxy").or(all),
        exceptions: text("no_proxy")
            .map(|list| list.split(',').map(|e| e.trim().to_owned()).collect())
            .unwrap_or_default(),
    }
}

/// Certificates beside the built-in ones, as other programs are told them.
fn ca_certificates() -> anyhow::Result<Vec<Vec<u8>>> {
    match variable("SSL_CERT_FILE") {
        Some(file) => {
            let file = PathBuf::from(file);
            let pem = std::fs::read(&file)
                .with_context(|| format!("can't read the certificates in {}", file.display()))?;
            Ok(vec![pem])
        }
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_files_in_their_order() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/u".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1".into()),
            "REGISTRY_AUTH_FILE" => Some("/a.json".into()),
            "DOCKER_AUTH_CONFIG" => Some("{}".into()),
            _ => None,
        };
        let shown: Vec<_> = auth_files(&variable)
            .iter()
            .map(|f| format!("{f:?}"))
            .collect();
        assert_eq!(
            shown,
            [
                "Path(/a.json)",
                "Inline(***)",
                "Path(/home/u/.docker/config.json)",
                "Path(/run/user/1/containers/auth.json)",
            ]
        );
        assert!(auth_files(&|_| None).is_empty());
    }

    #[test]
    fn proxies_come_from_either_case() {
        let variable = |name: &str| match name {
            "http_proxy" => Some("http://p:1".into()),
            "HTTP_PROXY" => Some("http://no:1".into()),
            "ALL_PROXY" => Some("http://all:1".into()),
            "NO_PROXY" => Some("a, .b".into()),
            _ => None,
        };
        let proxies = proxies(&variable);
        assert_eq!(proxies.http.as_deref(), Some("http://p:1"));
        assert_eq!(proxies.https.as_deref(), Some("http://all:1"));
        assert_eq!(proxies.exceptions, ["a", ".b"]);
    }
}
