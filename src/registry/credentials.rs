//! Credentials: where users already have them.
//!
//! [`AuthFiles`] reads docker's `config.json` and `.dockercfg`, the
//! `auth.json` of the containers tools and Kubernetes' `.dockerconfigjson`,
//! and asks the credential helpers that they name. Which files there are is
//! the caller's to say. Files are read when a registry asks for credentials,
//! not before.
//!
//! An entry is offered to the registry it names and to nothing else: keys are
//! compared whole, never by prefix; a key with a path covers the repositories
//! at and below that path.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use super::helper::Helpers;
use crate::reference::DEFAULT_REGISTRY;

/// The largest credential file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// What Docker Hub is called by docker and its helpers.
pub(super) const DOCKER_HUB_URL: &str = "https://index.docker.io/v1/";
/// What is looked for in a directory with credentials.
const FILE_NAMES: &[&str] = &[
    "config.json",
    ".dockerconfigjson",
    "auth.json",
    ".dockercfg",
];
/// Names under which Docker Hub's credentials are kept.
const DOCKER_HUB_KEYS: &[&str] = &["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Something that opens a registry. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password or access token.
        password: String,
    },
    /// A refresh token, to be exchanged at the token server.
    IdentityToken(String),
    /// A token for the registry itself.
    RegistryToken(String),
}

impl Credential {
    /// The part that must not be shown.
    pub(super) fn secret(&self) -> &str {
        match self {
            Self::Basic { password, .. } => password,
            Self::IdentityToken(token) | Self::RegistryToken(token) => token,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, ***)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(***)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(***)"),
        }
    }
}

/// Why credentials could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A credential file can't be read.
    #[error("can't read the credentials in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A credential file is not what it should be.
    #[error("the credentials in {} are malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong; holds nothing of the file's content.
        reason: String,
    },
    /// A credential file can't be written.
    #[error("can't write the credentials to {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A credential helper failed.
    #[error("the credential helper docker-credential-{name} failed: {reason}")]
    Helper {
        /// Its name, escaped.
        name: String,
        /// What happened.
        reason: String,
    },
}

/// Finds the credentials for a repository.
pub trait CredentialSource: Send + Sync {
    /// The credentials to use for `repository` on `registry` (`host[:port]`,
    /// `docker.io` for Docker Hub); `None` where there are none.
    ///
    /// # Errors
    /// When there may be some but they can't be read.
    fn find(&self, registry: &str, repository: &str)
    -> Result<Option<Credential>, CredentialError>;
}

/// Has none.
#[derive(Debug, Clone, Copy)]
pub struct NoCredentials;

impl CredentialSource for NoCredentials {
    fn find(&self, _: &str, _: &str) -> Result<Option<Credential>, CredentialError> {
        Ok(None)
    }
}

/// One credential for one registry, as given on a command line.
#[derive(Debug, Clone)]
pub struct Explicit {
    /// The registry it is for.
    pub registry: String,
    /// What opens it.
    pub credential: Credential,
}

impl CredentialSource for Explicit {
    fn find(&self, registry: &str, _: &str) -> Result<Option<Credential>, CredentialError> {
        Ok((registry == self.registry).then(|| self.credential.clone()))
    }
}

/// Several sources; the first that has something wins.
#[derive(Default)]
pub struct Chain(pub Vec<Box<dyn CredentialSource>>);

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({})", self.0.len())
    }
}

impl CredentialSource for Chain {
    fn find(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        for source in &self.0 {
            if let Some(found) = source.find(registry, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// A credential file, or the text of one.
#[derive(Clone)]
pub enum AuthFile {
    /// A file that may be missing, or a directory with one: `config.json`,
    /// `.dockerconfigjson`, `auth.json` or `.dockercfg`.
    Path(PathBuf),
    /// The content itself, as CI systems hand it over in a variable.
    Inline(Vec<u8>),
}

impl fmt::Debug for AuthFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Inline(_) => f.write_str("Inline(***)"),
        }
    }
}

/// Credential files in the order in which they are asked.
#[derive(Debug, Clone)]
pub struct AuthFiles {
    files: Vec<AuthFile>,
    search_path: Option<OsString>,
    helper_limit: Duration,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(rename = "credHelpers")]
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl AuthFiles {
    /// Asks `files` in order; helpers are looked up in the directories of
    /// `search_path`, which has the form of `PATH`.
    pub fn new(files: Vec<AuthFile>, search_path: Option<OsString>) -> Self {
        Self {
            files,
            search_path,
            helper_limit: Duration::from_secs(30),
        }
    }

    /// Gives helpers this long to answer, instead of 30 seconds.
    pub fn with_helper_limit(mut self, limit: Duration) -> Self {
        self.helper_limit = limit;
        self
    }

    fn find_in(
        &self,
        file: &AuthFile,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let (path, bytes) = match file {
            AuthFile::Inline(bytes) => (PathBuf::from("the given text"), bytes.clone()),
            AuthFile::Path(path) => {
                let path = in_directory(path);
                match read_file(&path)? {
                    Some(bytes) => (path, bytes),
                    None => return Ok(None),
                }
            }
        };
        if bytes.trim_ascii().is_empty() {
            return Ok(None);
        }
        let malformed = |reason: String| CredentialError::Malformed {
            path: path.clone(),
            reason,
        };
        // The message of the parser may quote the content.
        let no_json = |e: serde_json::Error| {
            malformed(format!(
                "no valid JSON at line {}, column {}",
                e.line(),
                e.column()
            ))
        };
        let config = if path.file_name().is_some_and(|name| name == ".dockercfg") {
            // The old form has the entries only.
            Config {
                auths: Some(serde_json::from_slice(&bytes).map_err(no_json)?),
                ..Config::default()
            }
        } else {
            serde_json::from_slice::<Config>(&bytes).map_err(no_json)?
        };
        let keys = keys(registry, repository);
        let helpers = config.cred_helpers.unwrap_or_default();
        for key in &keys {
            if let Some(name) = lookup(&helpers, key)
                && let Some(found) = self.ask(name, key, registry)?
            {
                return Ok(Some(found));
            }
        }
        if let Some(name) = config.creds_store.filter(|n| !n.is_empty())
            && let Some(found) = self.ask(&name, registry, registry)?
        {
            return Ok(Some(found));
        }
        let auths = config.auths.unwrap_or_default();
        for key in &keys {
            if let Some(entry) = lookup(&auths, key)
                && let Some(found) = entry
                    .credential()
                    .map_err(|r| malformed(format!("the entry {key}: {r}")))?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn ask(
        &self,
        name: &str,
        key: &str,
        registry: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        // Docker's own helpers keep the Hub under this URL.
        let server = match registry {
            DEFAULT_REGISTRY => DOCKER_HUB_URL,
            _ => key,
        };
        let helpers = Helpers {
            search_path: self.search_path.as_deref(),
            limit: self.helper_limit,
        };
        helpers.get(name, server)
    }
}

impl CredentialSource for AuthFiles {
    fn find(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        // A helper that fails is no reason not to look on; when nothing else
        // is found, it is what there is to tell.
        let mut broken = None;
        for file in &self.files {
            match self.find_in(file, registry, repository) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(e @ CredentialError::Helper { .. }) => broken = broken.or(Some(e)),
                Err(e) => return Err(e),
            }
        }
        broken.map_or(Ok(None), Err)
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let text = |field: &Option<String>| field.clone().filter(|t| !t.is_empty());
        if let Some(token) = text(&self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(token)));
        }
        if let Some(token) = text(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if let Some(auth) = text(&self.auth) {
            let auth = auth.trim();
            let bytes = STANDARD
                .decode(auth)
                .or_else(|_| STANDARD_NO_PAD.decode(auth))
                .map_err(|_| "auth is no base64")?;
            let plain = String::from_utf8(bytes).map_err(|_| "auth is no text")?;
            let plain = plain.trim_end_matches('\0');
            let (username, password) = plain
                .split_once(':')
                .ok_or("auth is not user:password in base64")?;
            return Ok(Some(Credential::Basic {
                username: username.into(),
                password: password.into(),
            }));
        }
        Ok(match (text(&self.username), text(&self.password)) {
            (Some(username), Some(password)) => Some(Credential::Basic { username, password }),
            _ => None,
        })
    }
}

/// The keys that cover a repository, the most specific first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let hosts: &[&str] = if registry == DEFAULT_REGISTRY {
        DOCKER_HUB_KEYS
    } else {
        &[registry]
    };
    for host in hosts {
        let mut path = repository;
        loop {
            keys.push(format!("{host}/{path}"));
            match path.rsplit_once('/') {
                Some((parent, _)) => path = parent,
                None => break,
            }
        }
    }
    keys.extend(hosts.iter().map(|h| (*h).to_owned()));
    keys
}

/// Looks `key` up as it is, then among keys that are old-style URLs of the
/// same name (`https://host/v1/`).
fn lookup<'a, T>(map: &'a BTreeMap<String, T>, key: &str) -> Option<&'a T> {
    let by_url = || map.iter().find(|(k, _)| is_url_of(k, key)).map(|(_, v)| v);
    map.get(key).or_else(by_url)
}

/// Whether `url` is an old-style URL of the registry `name`.
pub(super) fn is_url_of(url: &str, name: &str) -> bool {
    let Some(rest) = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
    else {
        return false;
    };
    let rest = rest.trim_end_matches('/');
    let rest = rest
        .strip_suffix("/v1")
        .or_else(|| rest.strip_suffix("/v2"))
        .unwrap_or(rest);
    rest == name
}

/// The credential file in a directory; another path as it is.
fn in_directory(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let files = FILE_NAMES.iter().map(|name| path.join(name));
    files
        .into_iter()
        .find(|file| file.exists())
        .unwrap_or_else(|| path.join(FILE_NAMES[0]))
}

/// Whether a credential file can be read by others than its owner.
///
/// # Errors
/// When there is such a file but it can't be looked at.
pub fn is_exposed(path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.permissions().mode() & 0o077 != 0),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>, CredentialError> {
    let fail = |source| CredentialError::Read {
        path: path.to_owned(),
        source,
    };
    // A FIFO must not block us.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = match std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
    {
        Ok(file) => file,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(fail(e)),
    };
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(fail(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fail(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too large for a credential file",
        )));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str) -> String {
        STANDARD.encode(format!("{username}:secret"))
    }

    fn user(files: &AuthFiles, registry: &str, repository: &str) -> Option<String> {
        match files.find(registry, repository).unwrap() {
            Some(Credential::Basic { username, password }) => {
                assert_eq!(password, "secret");
                Some(username)
            }
            Some(Credential::IdentityToken(t)) => Some(format!("identity {t}")),
            Some(Credential::RegistryToken(t)) => Some(format!("registry {t}")),
            None => None,
        }
    }

    #[test]
    fn an_entry_is_offered_only_to_what_it_names() {
        let config = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": basic("hub")},
            "docker.io/team": {"auth": basic("team")},
            "r.io": {"auth": basic("host")},
            "r.io/a/b": {"auth": basic("ab")},
            "r.io:5000": {"username": "port", "password": "secret"},
            "https://old.io/v2/": {"auth": basic("old")},
            "id.io": {"auth": basic("<token>"), "identitytoken": "I"},
            "reg.io": {"registrytoken": "R"},
            "empty.io": {},
        }});
        let files = AuthFiles::new(
            vec![AuthFile::Inline(config.to_string().into_bytes())],
            None,
        );
        for (registry, repository, expected) in [
            ("docker.io", "library/debian", Some("hub")),
            ("docker.io", "team/x", Some("team")),
            ("docker.io", "teamx/x", Some("hub")),
            ("docker.io.evil.com", "library/debian", None),
            ("evil.com", "docker.io/x", None),
            ("r.io", "x", Some("host")),
            ("r.io", "a/b", Some("ab")),
            ("r.io", "a/b/c", Some("ab")),
            ("r.io", "a/bc", Some("host")),
            ("r.io:5000", "x", Some("port")),
            ("r.io:5001", "x", None),
            ("r.i", "x", None),
            ("xr.io", "x", None),
            ("old.io", "x", Some("old")),
            ("id.io", "x", Some("identity I")),
            ("reg.io", "x", Some("registry R")),
            ("empty.io", "x", None),
        ] {
            let got = user(&files, registry, repository);
            assert_eq!(got.as_deref(), expected, "{registry}/{repository}");
        }
    }

    #[test]
    fn earlier_files_win_and_bad_ones_say_where() {
        let dir = tempfile::tempdir().unwrap();
        let second = dir.path().join("b.json");
        std::fs::write(
            &second,
            format!(r#"{{"auths":{{"r.io":{{"auth":"{}"}}}}}}"#, basic("two")),
        )
        .unwrap();
        let missing = AuthFile::Path(dir.path().join("missing.json"));
        let files = AuthFiles::new(vec![missing.clone(), AuthFile::Path(second.clone())], None);
        assert_eq!(user(&files, "r.io", "x").as_deref(), Some("two"));
        let first = AuthFile::Inline(
            format!(r#"{{"auths":{{"r.io":{{"auth":"{}"}}}}}}"#, basic("one")).into_bytes(),
        );
        let files = AuthFiles::new(vec![first, AuthFile::Path(second.clone())], None);
        assert_eq!(user(&files, "r.io", "x").as_deref(), Some("one"));

        for bad in [
            r#"{"auths": "#,
            r#"{"auths":{"r.io":{"auth":"%%%"}}}"#,
            r#"{"auths":{"r.io":{"auth":"c2VjcmV0"}}}"#,
        ] {
            std::fs::write(&second, bad).unwrap();
            let error = AuthFiles::new(vec![AuthFile::Path(second.clone())], None)
                .find("r.io", "x")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("b.json") && !error.contains("%%%"),
                "{error}"
            );
        }
        assert!(is_exposed(&second).unwrap());
    }

    #[test]
    fn secrets_of_kubernetes_and_old_files_are_read() {
        let entry = format!(r#"{{"r.io":{{"auth":"{}"}}}}"#, basic("ana"));
        let wrapped = format!(r#"{{"auths":{entry}}}"#);
        for (name, text) in [
            ("config.json", &wrapped),
            (".dockerconfigjson", &wrapped),
            ("auth.json", &wrapped),
            (".dockercfg", &entry),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            for path in [dir.path().to_owned(), path] {
                let files = AuthFiles::new(vec![AuthFile::Path(path)], None);
                assert_eq!(user(&files, "r.io", "x").as_deref(), Some("ana"), "{name}");
            }
        }
        let empty = tempfile::tempdir().unwrap();
        let files = AuthFiles::new(vec![AuthFile::Path(empty.path().to_owned())], None);
        assert_eq!(user(&files, "r.io", "x"), None);
    }

    #[test]
    fn a_helper_that_fails_hides_no_other_file() {
        let broken = AuthFile::Inline(br#"{"credsStore":"desktop.exe"}"#.to_vec());
        let good = format!(r#"{{"auths":{{"r.io":{{"auth":"{}"}}}}}}"#, basic("ana"));
        let good = AuthFile::Inline(good.into_bytes());
        let files = AuthFiles::new(vec![broken, good], Some("/nowhere".into()));
        assert_eq!(user(&files, "r.io", "x").as_deref(), Some("ana"));
        let error = files.find("other.io", "x").unwrap_err().to_string();
        assert!(error.contains("docker-credential-desktop.exe"), "{error}");
    }

    #[test]
    fn a_fifo_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let files = AuthFiles::new(vec![AuthFile::Path(path)], None);
        assert!(files.find("r.io", "x").is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let c = Credential::Basic {
            username: "u".into(),
            password: "hunter2".into(),
        };
        assert!(!format!("{c:?}").contains("hunter2"));
    }
}
