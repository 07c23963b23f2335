//! Image references: `[registry/]repository[:tag][@digest]`.
//!
//! A name without a registry is one of Docker Hub's, as everywhere:
//! `debian` is `docker.io/library/debian:latest`.
//!
//! # Specification
//! distribution-spec "Pulling manifests" (`<name>`, `<reference>`), and the
//! grammar of the distribution project's references.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {reason}")]
pub struct ReferenceError {
    /// The offending text, cut to 200 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A checked image reference. The registry and the repository are always
/// there; without a tag and a digest the tag is `latest`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The registry that a bare name means.
pub const DEFAULT_REGISTRY: &str = "docker.io";

impl Reference {
    /// Reads a reference and fills in what is implied.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason: &str| ReferenceError {
            text: text.chars().take(200).collect(),
            reason: reason.into(),
        };
        if text.is_empty() {
            return Err(fail("it is empty"));
        }
        if text.len() > 1024 {
            return Err(fail("it is longer than 1024 bytes"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest).map_err(|e| fail(e.reason))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => {
                if !is_tag(tag) {
                    return Err(fail(
                        "the tag must be up to 128 letters, digits, '_', '.' or '-', and not start with '.' or '-'",
                    ));
                }
                (name, Some(tag.to_owned()))
            }
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry_like(first) => (first.to_owned(), path.to_owned()),
            _ => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
        };
        let registry = match registry.as_str() {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
            _ => registry,
        };
        if !is_registry(&registry) {
            return Err(fail("the registry is not host[:port]"));
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path
        };
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(fail("the repository must be lower case"));
        }
        if repository.len() > 255 || !repository.split('/').all(is_path_component) {
            return Err(fail(
                "each part of the repository must be lower-case letters and digits, separated by '.', '_', '__' or '-'",
            ));
        }
        let tag = match (&digest, tag) {
            (None, None) => Some("latest".to_owned()),
            (_, tag) => tag,
        };
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }

    /// `host[:port]`; `docker.io` where none was given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path on the registry, `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only where there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where the reference is pinned to one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What stands for `<reference>` in the registry's URLs: the digest if
    /// there is one, else the tag.
    pub fn target(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(d), _) => d.as_str(),
            (None, Some(t)) => t,
            (None, None) => "latest",
        }
    }

    /// The same name pinned to `digest`, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            tag: None,
            ..self.clone()
        }
    }

    /// The same repository with `tag`.
    ///
    /// # Errors
    /// When `tag` is not a tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError {
                text: tag.chars().take(200).collect(),
                reason: "it is no tag".into(),
            });
        }
        Ok(Self {
            tag: Some(tag.into()),
            digest: None,
            ..self.clone()
        })
    }

    /// The short form that people write: without `docker.io/library/` where
    /// it still means the same.
    pub fn familiar(&self) -> String {
        let name = self.familiar_name();
        let tag = self
            .tag
            .as_ref()
            .map(|t| format!(":{t}"))
            .unwrap_or_default();
        let digest = self
            .digest
            .as_ref()
            .map(|d| format!("@{d}"))
            .unwrap_or_default();
        format!("{name}{tag}{digest}")
    }

    /// [`familiar`](Self::familiar) without tag and digest.
    pub fn familiar_name(&self) -> String {
        let repo = self.repository.as_str();
        let short = match repo.strip_prefix("library/") {
            Some(name) if !name.contains('/') => name,
            _ => repo,
        };
        // `docker.io/a.b/c` without its registry would be one of `a.b`.
        let first = short.split_once('/').map(|(first, _)| first);
        if self.registry == DEFAULT_REGISTRY && !first.is_some_and(is_registry_like) {
            short.to_owned()
        } else {
            format!("{}/{repo}", self.registry)
        }
    }
}

fn is_registry_like(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((host, after)) = rest.split_once(']') else {
            return false;
        };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match after.strip_prefix(':') {
            Some(port) => ("ipv6", Some(port)),
            None if after.is_empty() => ("ipv6", None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let host_ok = host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    let port_ok = port.is_none_or(|p| {
        p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|n| n > 0)
    });
    host_ok && host.len() <= 253 && port_ok
}

fn is_path_component(text: &str) -> bool {
    let b = text.as_bytes();
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    if b.is_empty() || !alnum(b[0]) || !alnum(b[b.len() - 1]) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|s| !s.is_empty())
        .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|c| c == b'-'))
}

fn is_tag(text: &str) -> bool {
    let b = text.as_bytes();
    !b.is_empty()
        && b.len() <= 128
        && (b[0].is_ascii_alphanumeric() || b[0] == b'_')
        && b.iter()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(t) = &self.tag {
            write!(f, ":{t}")?;
        }
        if let Some(d) = &self.digest {
            write!(f, "@{d}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(s: &str) -> Result<Self, ReferenceError> {
        Self::parse(s)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_what_is_implied() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("foo/bar", "docker.io/foo/bar:latest", "foo/bar:latest"),
            (
                "localhost/bar",
                "localhost/bar:latest",
                "localhost/bar:latest",
            ),
            (
                "localhost:5000/a/b:x",
                "localhost:5000/a/b:x",
                "localhost:5000/a/b:x",
            ),
            (
                "index.docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            (
                "ghcr.io/a__b/c-d.e",
                "ghcr.io/a__b/c-d.e:latest",
                "ghcr.io/a__b/c-d.e:latest",
            ),
            // What is left out must be what is implied.
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            (
                "docker.io/a.b/c",
                "docker.io/a.b/c:latest",
                "docker.io/a.b/c:latest",
            ),
            (
                "docker.io/localhost/c",
                "docker.io/localhost/c:latest",
                "docker.io/localhost/c:latest",
            ),
        ] {
            let r = Reference::parse(text).unwrap();
            assert_eq!(
                (r.to_string(), r.familiar()),
                (full.into(), familiar.into())
            );
            assert_eq!(Reference::parse(full).unwrap(), r);
            assert_eq!(Reference::parse(familiar).unwrap(), r);
        }
        let pinned = Reference::parse(&format!("a@sha256:{hex}")).unwrap();
        assert_eq!((pinned.tag(), pinned.target().len()), (None, 71));
        let both = Reference::parse(&format!("a:b@sha256:{hex}")).unwrap();
        assert_eq!(both.tag(), Some("b"));
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            "A",
            "a:",
            "a:.x",
            "a@sha256:12",
            "host.io/../../x:tag",
            "a//b",
            "a b",
            "-a",
            "a..b",
            "a___b",
            "host:99999/x",
            "host:0/x",
            "-h.io/x",
            "a@b@c",
            "http://x.io/a",
            "a.io/",
            "[::zz]:1/a",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
