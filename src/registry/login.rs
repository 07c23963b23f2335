//! Keeping credentials where docker keeps them: in the `config.json` form of
//! a file, or with the helper that the file names.
//!
//! The file is replaced in one step and is for its owner only. Fields that are
//! not ours stay as they are.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::credentials::{CredentialError, DOCKER_HUB_URL, is_url_of, read_file};
use super::helper::Helpers;
use crate::reference::DEFAULT_REGISTRY;
use crate::sys::whole_file::{Access, WholeFile};

/// A file with logins.
#[derive(Debug, Clone)]
pub struct LoginFile {
    path: PathBuf,
    search_path: Option<OsString>,
}

/// Where credentials went to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Into the file itself, where they are readable.
    File(PathBuf),
    /// To this helper.
    Helper(String),
}

/// How long a helper may take: it may ask its user.
const HELPER_LIMIT: Duration = Duration::from_secs(60);

impl LoginFile {
    /// The file at `path`, which need not be there. Helpers are looked up in
    /// the directories of `search_path`.
    pub fn new(path: PathBuf, search_path: Option<OsString>) -> Self {
        Self { path, search_path }
    }

    /// Keeps a user name and a password for `key`, `host[:port][/path]`.
    ///
    /// # Errors
    /// When the file or the helper can't keep them; the file is then as it
    /// was.
    pub fn save(&self, key: &str, user: &str, password: &str) -> Result<Kept, CredentialError> {
        let mut config = self.read()?;
        let key = canonical(key);
        let kept = match helper_for(&config, &key) {
            Some((name, listed)) => {
                self.helpers().store(&name, &key, user, password)?;
                if listed {
                    // Docker lists what a store of everything has like this.
                    self.auths(&mut config)?.insert(key, json!({}));
                    self.write(&config)?;
                }
                Kept::Helper(name)
            }
            None => {
                let auth = STANDARD.encode(format!("{user}:{password}"));
                let auths = self.auths(&mut config)?;
                auths.retain(|k, _| !is_same(k, &key));
                auths.insert(key, json!({ "auth": auth }));
                self.write(&config)?;
                Kept::File(self.path.clone())
            }
        };
        Ok(kept)
    }

    /// Forgets what is kept for `key`, and says whether there was something.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub fn erase(&self, key: &str) -> Result<bool, CredentialError> {
        let mut config = self.read()?;
        let key = canonical(key);
        let mut known = false;
        if let Some((name, _)) = helper_for(&config, &key) {
            known |= self.helpers().erase(&name, &key)?;
        }
        if config.contains_key("auths") {
            let auths = self.auths(&mut config)?;
            let before = auths.len();
            auths.retain(|k, _| !is_same(k, &key));
            if auths.len() < before {
                known = true;
                self.write(&config)?;
            }
        }
        Ok(known)
    }

    /// Forgets everything that the file knows of; what that was.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub fn erase_all(&self) -> Result<Vec<String>, CredentialError> {
        let mut config = self.read()?;
        let keys_of = |field: &str| {
            let map = config.get(field).and_then(Value::as_object);
            map.map(|map| map.keys().cloned().collect())
                .unwrap_or_default()
        };
        let mut keys: Vec<String> = keys_of("auths");
        let own: Vec<String> = keys_of("credHelpers");
        keys.extend(
            own.into_iter()
                .filter(|k| !keys.contains(k))
                .collect::<Vec<_>>(),
        );
        for key in &keys {
            if let Some((name, _)) = helper_for(&config, key) {
                self.helpers().erase(&name, key)?;
            }
        }
        if config.contains_key("auths") {
            self.auths(&mut config)?.clear();
            self.write(&config)?;
        }
        Ok(keys)
    }

    fn helpers(&self) -> Helpers<'_> {
        Helpers {
            search_path: self.search_path.as_deref(),
            limit: HELPER_LIMIT,
        }
    }

    fn malformed(&self, reason: &str) -> CredentialError {
        CredentialError::Malformed {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    fn read(&self) -> Result<Map<String, Value>, CredentialError> {
        let bytes = read_file(&self.path)?.unwrap_or_default();
        if bytes.trim_ascii().is_empty() {
            return Ok(Map::new());
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(config)) => Ok(config),
            Ok(_) => Err(self.malformed("it is no JSON object")),
            // The message of the parser may quote the content.
            Err(_) => Err(self.malformed("it is no valid JSON")),
        }
    }

    fn auths<'a>(
        &self,
        config: &'a mut Map<String, Value>,
    ) -> Result<&'a mut Map<String, Value>, CredentialError> {
        let auths = config.entry("auths").or_insert(Value::Null);
        if auths.is_null() {
            *auths = json!({});
        }
        auths
            .as_object_mut()
            .ok_or_else(|| self.malformed("auths is no object"))
    }

    fn write(&self, config: &Map<String, Value>) -> Result<(), CredentialError> {
        let fail = |source| CredentialError::Write {
            path: self.path.clone(),
            source,
        };
        // A link into somebody's collection of settings stays one.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut text = serde_json::to_vec_pretty(config).map_err(|e| fail(e.into()))?;
        text.push(b'\n');
        replace(&path, &text).map_err(fail)
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let mut file = WholeFile::create(path, Access::Owner)?;
    file.write_all(text)?;
    file.finish_flushed()
}

/// The helper that keeps `key`, and whether it is the one for everything.
fn helper_for(config: &Map<String, Value>, key: &str) -> Option<(String, bool)> {
    let own = config.get("credHelpers").and_then(Value::as_object);
    let name = |value: &Value| value.as_str().filter(|n| !n.is_empty()).map(str::to_owned);
    own.and_then(|own| own.iter().find(|(k, _)| is_same(k, key)))
        .and_then(|(_, value)| name(value))
        .map(|name| (name, false))
        .or_else(|| Some((config.get("credsStore").and_then(name)?, true)))
}

/// The key under which docker and the containers tools find it.
fn canonical(key: &str) -> String {
    let hub = [DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io"];
    if hub.contains(&key) {
        DOCKER_HUB_URL.to_owned()
    } else {
        key.to_owned()
    }
}

/// Whether two keys are about the same registry.
fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (canonical(a), canonical(b));
    a == b || is_url_of(&a, &b) || is_url_of(&b, &a)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::registry::credentials::{AuthFile, AuthFiles, Credential, CredentialSource};

    fn find(path: &Path, registry: &str, repository: &str) -> Option<(String, String)> {
        let files = AuthFiles::new(vec![AuthFile::Path(path.to_owned())], None);
        match files.find(registry, repository).unwrap() {
            Some(Credential::Basic { username, password }) => Some((username, password)),
            _ => None,
        }
    }

    #[test]
    fn what_is_kept_is_found_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        let file = LoginFile::new(path.clone(), None);
        for (key, user) in [("r.io:5000", "a"), ("docker.io", "hub"), ("r.io/team", "t")] {
            assert_eq!(
                file.save(key, user, "p:w").unwrap(),
                Kept::File(path.clone())
            );
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let user = |registry, repository| find(&path, registry, repository).map(|(u, _)| u);
        assert_eq!(
            find(&path, "r.io:5000", "x"),
            Some(("a".into(), "p:w".into()))
        );
        assert_eq!(user("docker.io", "library/x").as_deref(), Some("hub"));
        assert_eq!(user("r.io", "team/x").as_deref(), Some("t"));
        assert_eq!(user("r.io", "x"), None);

        std::fs::write(
            &path,
            r#"{"HttpHeaders":{"X":"y"},"auths":{"https://r.io/v1/":{"auth":"b2xkOnB3"},"b.io":{"auth":"YjpwYg==","email":"e"}}}"#,
        )
        .unwrap();
        file.save("r.io", "new", "pw").unwrap();
        let text: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(text["HttpHeaders"]["X"], "y");
        assert_eq!(text["auths"]["b.io"]["email"], "e");
        assert_eq!(text["auths"].as_object().unwrap().len(), 2);
        assert_eq!(user("r.io", "x").as_deref(), Some("new"));
        assert!(file.erase("r.io").unwrap() && !file.erase("r.io").unwrap());
        assert_eq!(file.erase_all().unwrap(), ["b.io"]);
        assert_eq!(user("b.io", "x"), None);
    }

    #[test]
    fn what_is_malformed_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let file = LoginFile::new(path.clone(), None);
        for bad in ["{", "[]", r#"{"auths": 3}"#] {
            std::fs::write(&path, bad).unwrap();
            assert!(file.save("r.io", "u", "p").is_err(), "{bad}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
        // A link stays a link.
        let real = dir.path().join("real.json");
        std::fs::write(&real, "{}").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        file.save("r.io", "u", "p").unwrap();
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
        assert!(find(&real, "r.io", "x").is_some());
    }

    #[test]
    fn helpers_keep_what_is_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-box");
        let script = format!(
            "#!/bin/sh\nd={}\ncase $1 in\nstore) cat >> $d/kept;;\nerase) cat > $d/erased;;\nesac\n",
            dir.path().display()
        );
        // Written by a child, so that no other test's fork holds the file
        // open for writing while it is executed.
        let status = std::process::Command::new("sh")
            .args([
                "-c",
                "printf '%s' \"$2\" > \"$1\" && chmod 755 \"$1\"",
                "sh",
            ])
            .arg(&program)
            .arg(script)
            .status()
            .unwrap();
        assert!(status.success());
        let path = dir.path().join("config.json");
        std::fs::write(
            &path,
            r#"{"credHelpers":{"r.io":"box"},"credsStore":"box"}"#,
        )
        .unwrap();
        let file = LoginFile::new(path.clone(), Some(dir.path().into()));
        for key in ["r.io", "docker.io"] {
            assert_eq!(
                file.save(key, "u", "hunter2").unwrap(),
                Kept::Helper("box".into())
            );
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains("hunter2") && text.contains(DOCKER_HUB_URL),
            "{text}"
        );
        let kept = std::fs::read_to_string(dir.path().join("kept")).unwrap();
        assert!(kept.contains(r#""ServerURL":"r.io""#) && kept.contains(DOCKER_HUB_URL));
        file.erase("docker.io").unwrap();
        let erased = std::fs::read_to_string(dir.path().join("erased")).unwrap();
        assert_eq!(erased, DOCKER_HUB_URL);
    }
}
