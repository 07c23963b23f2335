//! The store and the registries as the environment and the flags have them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use shiplap::build::Tools;
use shiplap::build::frontend::Sources;
use shiplap::event::Cancel;
use shiplap::image::Descriptor;
use shiplap::reference::Reference;
use shiplap::registry::credentials::{Chain, Explicit};
use shiplap::registry::{
    AuthFile, AuthFiles, CertificateDirs, Client, ClientOptions, Credential, CredentialSource,
    Registries,
};
use shiplap::solve::Remote;
use shiplap::store::{Store, StoreError};
use shiplap::transport::Location;
use shiplap::transport::local::{LocalDestination, Names};

use super::Session;
use super::environment::{self, variable};
use super::error::Usage;
use super::{transfer, values};

impl Session {
    /// Opens the store.
    pub(super) fn store(&self) -> anyhow::Result<Store> {
        Ok(Store::open(&self.root()?)?)
    }

    /// The store, where there is one already that can be opened.
    pub(super) fn existing_store(&self) -> Option<Store> {
        let root = self.root().ok()?;
        root.join("index.json")
            .exists()
            .then(|| Store::open(&root).ok())?
    }

    /// What a build works with.
    pub(super) fn tools(&self, client: Client) -> anyhow::Result<Tools> {
        let program = std::env::current_exe().context("can't find this program's own file")?;
        // A machine without network has none; then steps have none either.
        let resolv_conf = std::fs::read("/etc/resolv.conf").unwrap_or_default();
        let Sources { remote, stdin, .. } = Self::sources();
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
    pub(super) fn sources() -> Sources {
        let roots = environment::roots(&variable);
        let proxies = environment::proxies(&variable);
        let proxy_of = move |url: &url::Url| proxies.for_url(url).map(str::to_owned);
        Sources {
            remote: Remote {
                agents: shiplap::context::http::Agents::new(proxy_of, roots.clone()),
                git: environment::git(roots),
            },
            stdin: Mutex::new(Some(Box::new(std::io::stdin()))),
            scratch: std::env::temp_dir(),
        }
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

/// Flags about reaching a registry.
#[derive(Debug, Clone, Args)]
pub(super) struct ConnectionArgs {
    /// Allow plain http, and https without a known certificate
    #[arg(long, help_heading = "Registries")]
    insecure: bool,
    /// Check certificates and refuse plain http; =false is --insecure
    #[arg(long, num_args = 0..=1, require_equals = true, help_heading = "Registries")]
    #[arg(
        default_missing_value = "true",
        value_name = "BOOL",
        conflicts_with = "insecure"
    )]
    tls_verify: Option<bool>,
    /// Directory with CA certificates (*.crt) and a client's certificate
    /// (NAME.cert, NAME.key) for the registry
    #[arg(long, value_name = "DIR", help_heading = "Registries")]
    cert_dir: Option<PathBuf>,
    /// Give the credentials to this token server although it is of another
    /// domain than the registry
    #[arg(long, value_name = "HOST", help_heading = "Registries")]
    trust_token_server: Vec<String>,
    /// How often a request that fails may be sent again
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        help_heading = "Registries"
    )]
    #[arg(alias = "retry-times", alias = "push-retry")]
    retry: u32,
    /// Pause before it is sent again; doubles each time [default: 500ms]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    #[arg(
        default_value = "500ms",
        hide_default_value = true,
        help_heading = "Registries"
    )]
    retry_delay: Duration,
}

/// Flags of commands that talk to registries.
#[derive(Debug, Clone, Args)]
pub(super) struct RegistryArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// User and password for the registry
    #[arg(long, value_name = "USER:PASSWORD", help_heading = "Registries", value_parser = basic)]
    creds: Option<Basic>,
    /// File with credentials to use instead of docker's and podman's, or a
    /// directory with one (a mounted Kubernetes secret)
    #[arg(long, value_name = "FILE", help_heading = "Registries")]
    authfile: Option<PathBuf>,
    /// Ask this registry before Docker Hub, or before another one
    #[arg(
        long,
        value_name = "[REGISTRY=]HOST[/PATH]",
        help_heading = "Registries"
    )]
    registry_mirror: Vec<String>,
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

impl ConnectionArgs {
    /// A client's options as far as these flags decide on them.
    fn options(&self, scope: Scope<'_>, cancel: Cancel) -> anyhow::Result<ClientOptions> {
        let (registries, all) = match scope {
            Scope::Registries(registries) => (registries, false),
            Scope::Build(registries) => (registries, true),
        };
        let insecure = self.insecure || self.tls_verify == Some(false);
        let names: BTreeSet<String> = registries.iter().map(|r| (*r).to_owned()).collect();
        if let Some(dir) = &self.cert_dir {
            // A directory that was named must be there.
            std::fs::read_dir(dir).with_context(|| format!("can't read {}", dir.display()))?;
        }
        Ok(ClientOptions {
            insecure_all: insecure && all,
            insecure: match insecure {
                true => names.clone(),
                false => BTreeSet::new(),
            },
            plain_http: self.tls_verify != Some(true),
            roots: environment::roots(&variable),
            certificates: CertificateDirs {
                per_registry: environment::certificate_dirs(&variable),
                given: self.cert_dir.clone(),
                given_for: (!all).then_some(names),
            },
            trusted_realms: self.trust_token_server.iter().cloned().collect(),
            proxies: environment::proxies(&variable),
            retries: self.retry,
            backoff: self.retry_delay,
            cancel,
            ..ClientOptions::default()
        })
    }

    /// A client that opens `registry` with one user's password and nothing
    /// else.
    pub(super) fn client_of(
        &self,
        registry: &str,
        username: &str,
        password: &str,
        cancel: Cancel,
    ) -> anyhow::Result<Client> {
        let credential = Credential::Basic {
            username: username.into(),
            password: password.into(),
        };
        Ok(Client::new(ClientOptions {
            credentials: Arc::new(Explicit {
                registry: registry.to_owned(),
                credential,
            }),
            ..self.options(Scope::Registries(&[registry]), cancel)?
        }))
    }
}

impl RegistryArgs {
    /// The flags for one end of a copy.
    pub(super) fn side(&self, side: &Side) -> Self {
        let mut args = self.clone();
        args.creds = side.creds.clone().or(args.creds);
        args.authfile = side.authfile.clone().or(args.authfile);
        if let Some(verify) = side.tls_verify {
            args.connection.insecure = !verify;
            args.connection.tls_verify = verify.then_some(true);
        }
        args
    }

    /// A client for registries.
    ///
    /// # Errors
    /// When a file that was named can't be read.
    pub(super) fn client(&self, scope: Scope<'_>, cancel: Cancel) -> anyhow::Result<Client> {
        self.client_with(scope, self.registries()?, cancel)
    }

    fn client_with(
        &self,
        scope: Scope<'_>,
        registries: Registries,
        cancel: Cancel,
    ) -> anyhow::Result<Client> {
        let (Scope::Registries(names) | Scope::Build(names)) = scope;
        if self.creds.is_some() && names.is_empty() {
            return Err(Usage::error(
                "--creds needs a name that says which registry they are for; give --tag",
            ));
        }
        let names = names.iter().map(|r| (*r).to_owned()).collect();
        Ok(Client::new(ClientOptions {
            credentials: self.credentials(&names)?,
            registries,
            ..self.connection.options(scope, cancel)?
        }))
    }

    /// What `name` means, and a client for its registry. Where several
    /// registries are searched, it is the first that has it.
    ///
    /// # Errors
    /// [`Usage`] when it is no name.
    pub(super) fn named(&self, name: &str, cancel: Cancel) -> anyhow::Result<(Client, Reference)> {
        let registries = self.registries()?;
        let name = name.strip_prefix("docker://").unwrap_or(name);
        let meant = registries.candidates(name);
        let mut meant = meant.map_err(|e| Usage::error(e.to_string()))?;
        let names: Vec<String> = meant.iter().map(|r| r.registry().to_owned()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let client = self.client_with(Scope::Registries(&names), registries, cancel)?;
        let at = match meant.as_slice() {
            [_] => 0,
            several => several
                .iter()
                .position(|r| matches!(client.repository(r).head(r.target()), Ok(Some(_))))
                .unwrap_or(0),
        };
        Ok((client, meant.swap_remove(at)))
    }

    /// A place to read from, where a bare name is one in a registry, and a
    /// client for it.
    ///
    /// # Errors
    /// [`Usage`] when it is no place.
    pub(super) fn remote(&self, text: &str, cancel: Cancel) -> anyhow::Result<(Client, Location)> {
        match transfer::location(text)? {
            Location::Name(name) => {
                let (client, reference) = self.named(&name, cancel)?;
                Ok((client, Location::Registry(reference)))
            }
            place => {
                let registry = transfer::registry_of(&place);
                let client = self.client(Scope::Registries(registry.as_slice()), cancel)?;
                Ok((client, place))
            }
        }
    }

    fn registries(&self) -> anyhow::Result<Registries> {
        let mut registries = Registries::default();
        for (file, text) in environment::registries_files(&variable)? {
            registries.add(&file.display().to_string(), &text)?;
        }
        for mirror in &self.registry_mirror {
            registries
                .add_mirror(mirror)
                .map_err(|reason| Usage::error(format!("--registry-mirror: {reason}")))?;
        }
        Ok(registries)
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
            None => environment::auth_files(&variable),
        };
        sources.push(Box::new(AuthFiles::new(files, variable("PATH"))));
        Ok(Arc::new(Chain(sources)))
    }
}
