//! Certificates for single registries, in docker's directories: `*.crt` are
//! CA certificates, `NAME.cert` with `NAME.key` is a client's certificate.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PemItem};
use url::Url;

use crate::roots;

/// Where certificates are.
#[derive(Debug, Clone, Default)]
pub struct CertificateDirs {
    /// Directories like `/etc/docker/certs.d`, with one directory per
    /// `host[:port]`. For each registry the first that has one counts.
    pub per_registry: Vec<PathBuf>,
    /// One directory with the files themselves, which comes before.
    pub given: Option<PathBuf>,
    /// The registries that `given` is for; all when `None`.
    pub given_for: Option<BTreeSet<String>>,
}

/// What a directory has.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    pub(super) roots: Vec<Certificate<'static>>,
    pub(super) client: Option<ClientCert>,
}

impl CertificateDirs {
    /// The directory for connections to `url`, if there is one.
    pub(super) fn find(&self, url: &Url) -> Option<PathBuf> {
        let host = url.host_str()?;
        let port = url.port_or_known_default()?;
        let mut names = vec![format!("{host}:{port}")];
        if url.port().is_none() {
            names.push(host.to_owned());
        }
        if let Some(given) = &self.given {
            let meant = |list: &BTreeSet<String>| names.iter().any(|n| list.contains(n));
            if self.given_for.as_ref().is_none_or(meant) {
                return Some(given.clone());
            }
        }
        let places = self.per_registry.iter();
        places
            .flat_map(|dir| names.iter().map(|name| dir.join(name)))
            .find(|dir| dir.is_dir())
    }
}

impl Certificates {
    /// Reads a directory.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        let fail = |e: std::io::Error| format!("can't read {}: {e}", dir.display());
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(fail)? {
            paths.push(entry.map_err(fail)?.path());
        }
        paths.sort();
        let mut found = Self::default();
        for path in &paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => found.roots.extend(certificates_in(path)?),
                Some("cert") if found.client.is_none() => {
                    let key = private_key(&path.with_extension("key"))?;
                    let chain = certificates_in(path)?;
                    found.client = Some(ClientCert::new_with_certs(&chain, key));
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(format!(
                        "{} has no certificate beside it; it would be NAME.cert (CA certificates are NAME.crt)",
                        path.display()
                    ));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn certificates_in(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    roots::certificates_in(path).map_err(|e| e.to_string())
}

fn private_key(path: &Path) -> Result<ureq::tls::PrivateKey<'static>, String> {
    let pem = roots::read(path).map_err(|e| format!("can't read {}: {e}", path.display()))?;
    ureq::tls::parse_pem(&pem)
        .find_map(|item| match item {
            Ok(PemItem::PrivateKey(key)) => Some(key),
            _ => None,
        })
        .ok_or_else(|| format!("{} has no private key in PEM", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_registry_is_its_own() {
        let base = tempfile::tempdir().unwrap();
        let (a, b) = (base.path().join("a"), base.path().join("b"));
        for dir in ["a/r.io:5000", "b/r.io:5000", "b/r.io", "b/d.io:443"] {
            std::fs::create_dir_all(base.path().join(dir)).unwrap();
        }
        let mut dirs = CertificateDirs {
            per_registry: vec![a.clone(), b.clone()],
            ..CertificateDirs::default()
        };
        let find = |dirs: &CertificateDirs, url: &str| dirs.find(&Url::parse(url).unwrap());
        for (url, expected) in [
            ("https://r.io:5000/v2/", Some(a.join("r.io:5000"))),
            ("https://r.io/v2/", Some(b.join("r.io"))),
            ("https://r.io:5001/", None),
            ("https://d.io/", Some(b.join("d.io:443"))),
            ("https://evil.io/", None),
        ] {
            assert_eq!(find(&dirs, url), expected, "{url}");
        }
        dirs.given = Some("/given".into());
        dirs.given_for = Some(["r.io".to_owned()].into());
        assert_eq!(find(&dirs, "https://r.io/"), Some("/given".into()));
        assert_eq!(find(&dirs, "https://d.io/"), Some(b.join("d.io:443")));
        dirs.given_for = None;
        assert_eq!(find(&dirs, "https://d.io/"), Some("/given".into()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(dir.path().join(name), "nothing").unwrap();
        let error = || Certificates::read(dir.path()).unwrap_err();
        write("client.key");
        assert!(error().contains("client.key has no certificate beside it"));
        write("client.cert");
        assert!(error().contains("client.key has no private key"));
        write("ca.crt");
        assert!(error().contains("ca.crt has no certificate"));
        assert!(Certificates::read(Path::new("/nowhere")).is_err());
    }
}
