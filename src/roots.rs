//! CA certificates: by whom a server must be vouched for that is spoken to by
//! TLS, be it a registry, a server with a context, or one with a repository.
//!
//! They are the system's, further ones that a user names, and, where there is
//! neither, the ones that come with the program.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ureq::tls::{Certificate, PemItem, RootCerts};

/// Where Linux distributions keep the CA certificates of the system.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The largest file of certificates that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A file can't be read.
    #[error("can't read the certificates in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no PEM text, or has no certificate in it.
    #[error("{} has no certificate in PEM", path.display())]
    None {
        /// The file.
        path: PathBuf,
    },
}

/// The certificates, read when they are first needed. What is cloned shares
/// them.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    file: Option<PathBuf>,
    dirs: Vec<PathBuf>,
    read: Arc<OnceLock<Vec<Certificate<'static>>>>,
}

impl Roots {
    /// The system's certificates and those in `file`, which must be there, and
    /// in the files of `dirs`, as far as they are there.
    pub fn new(file: Option<PathBuf>, dirs: Vec<PathBuf>) -> Self {
        Self {
            file,
            dirs,
            read: Arc::default(),
        }
    }

    /// `own` and these, as the HTTP library takes them.
    ///
    /// # Errors
    /// When the file that was named can't be read or has no certificate.
    pub fn with(&self, own: Vec<Certificate<'static>>) -> Result<RootCerts, RootsError> {
        let mut all = own;
        all.extend(self.all()?.iter().cloned());
        Ok(match all.as_slice() {
            [] => RootCerts::WebPki,
            some => RootCerts::new_with_certs(some),
        })
    }

    /// All of them in one PEM text for a program that would take the system's
    /// only; `None` where these are all there are.
    ///
    /// # Errors
    /// As [`with`](Self::with).
    pub fn bundle(&self) -> Result<Option<String>, RootsError> {
        use base64::Engine as _;
        if self.file.is_none() && self.dirs.is_empty() {
            return Ok(None);
        }
        let mut text = String::new();
        for certificate in self.all()? {
            let der = base64::engine::general_purpose::STANDARD.encode(certificate.der());
            text.push_str("-----BEGIN CERTIFICATE-----\n");
            for line in der.as_bytes().chunks(64) {
                text.push_str(&String::from_utf8_lossy(line));
                text.push('\n');
            }
            text.push_str("-----END CERTIFICATE-----\n");
        }
        Ok((!text.is_empty()).then_some(text))
    }

    fn all(&self) -> Result<&[Certificate<'static>], RootsError> {
        if let Some(all) = self.read.get() {
            return Ok(all);
        }
        let mut all = match &self.file {
            Some(file) => certificates_in(file)?,
            None => Vec::new(),
        };
        for path in self.dirs.iter().flat_map(|dir| files(dir)) {
            all.extend(certificates_in(&path).unwrap_or_default());
        }
        let system = SYSTEM_BUNDLES.iter().find_map(|path| read(path).ok());
        all.extend(system.iter().flat_map(|pem| certificates(pem)));
        // In directories, links lead to the same files.
        let mut seen = HashSet::new();
        all.retain(|certificate| seen.insert(certificate.der().to_vec()));
        Ok(self.read.get_or_init(|| all))
    }
}

/// The certificates in the file at `path`, one at least.
///
/// # Errors
/// When it can't be read or has none.
pub fn certificates_in(path: &Path) -> Result<Vec<Certificate<'static>>, RootsError> {
    let pem = read(path).map_err(|source| RootsError::Read {
        path: path.to_owned(),
        source,
    })?;
    match certificates(&pem) {
        none if none.is_empty() => Err(RootsError::None {
            path: path.to_owned(),
        }),
        some => Ok(some),
    }
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    ureq::tls::parse_pem(pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect()
}

/// Reads a file with certificates or keys, its beginning if it is very large.
///
/// # Errors
/// When it can't be read.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut pem)?;
    Ok(pem)
}

/// The files of a directory in the order of their names; none where there is
/// no such directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        // A pipe would wait for its writer.
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands for a certificate: nothing here looks into one.
    fn pem(content: &str) -> String {
        use base64::Engine as _;
        let der = base64::engine::general_purpose::STANDARD.encode(content);
        format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn files_and_directories_add_to_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("two.pem"), pem("one") + &pem("two")).unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        std::fs::write(at("dir/three.pem"), pem("three")).unwrap();
        std::os::unix::fs::symlink("three.pem", at("dir/0123abcd.0")).unwrap();
        std::fs::write(at("dir/README"), "not one").unwrap();
        let system = Roots::default();
        assert!(system.bundle().unwrap().is_none());
        let more = Roots::new(Some(at("two.pem")), vec![at("none"), at("dir")]);
        let names = |roots: &Roots| -> Vec<Vec<u8>> {
            let all = roots.all().unwrap().iter();
            all.map(|certificate| certificate.der().to_vec()).collect()
        };
        assert_eq!(names(&more)[..3], [&b"one"[..], b"two", b"three"]);
        assert_eq!(names(&more)[3..], names(&system));
        let bundle = more.bundle().unwrap().unwrap();
        let again: Vec<Vec<u8>> = certificates(bundle.as_bytes())
            .iter()
            .map(|certificate| certificate.der().to_vec())
            .collect();
        assert_eq!(again, names(&more));
    }

    #[test]
    fn a_file_that_was_named_must_have_some() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Roots::new(Some(dir.path().join("none")), Vec::new());
        let error = missing.with(Vec::new()).unwrap_err().to_string();
        assert!(
            error.starts_with("can't read the certificates in "),
            "{error}"
        );
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "nothing").unwrap();
        let error = Roots::new(Some(empty), Vec::new()).bundle().unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("/empty has no certificate in PEM")
        );
    }
}
