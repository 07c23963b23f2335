//! What a git URL says: repository, ref, directory and options.

use std::fmt;

use super::GitError;
use crate::context::http;

/// A git URL, checked. Its remote has no password, and no part of it can be
/// taken for an option.
#[derive(Clone, PartialEq, Eq)]
pub struct GitUrl {
    remote: String,
    /// User and password that the URL had, for http and https.
    credentials: Option<(String, String)>,
    reference: Option<String>,
    subdir: Option<String>,
    checksum: Option<String>,
    keep_git_dir: Option<bool>,
    submodules: bool,
}

impl fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GitUrl({self})")
    }
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.remote)?;
        if self.reference.is_some() || self.subdir.is_some() {
            write!(f, "#{}", self.reference.as_deref().unwrap_or_default())?;
        }
        match &self.subdir {
            Some(subdir) => write!(f, ":{subdir}"),
            None => Ok(()),
        }
    }
}

/// Longest URL, in bytes.
const MAX_URL: usize = 8192;

impl GitUrl {
    /// Reads `text`; `None` when it is not a git URL at all: those begin with
    /// `git://`, `ssh://`, `user@host:` or are http or https URLs whose path
    /// ends in `.git`; `github.com/…` without a scheme is one too.
    pub fn parse(text: &str) -> Result<Option<Self>, GitError> {
        let (base, fragment) = match text.split_once('#') {
            Some((base, fragment)) => (base, Some(fragment)),
            None => (text, None),
        };
        let (base, query) = match base.split_once('?') {
            Some((base, query)) if base.contains("://") => (base, Some(query)),
            _ => (base, None),
        };
        let Some((remote, credentials)) = remote(base) else {
            return Ok(None);
        };
        let bad = |reason: &str| GitError::Url {
            url: http::redacted(text).chars().take(200).collect(),
            reason: reason.to_owned(),
        };
        if text.len() > MAX_URL {
            return Err(bad("it is too long"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad("it has blanks or control characters"));
        }
        let mut url = Self {
            remote,
            credentials,
            reference: None,
            subdir: None,
            checksum: None,
            keep_git_dir: None,
            submodules: true,
        };
        url.check_remote().map_err(bad)?;
        if let Some(query) = query {
            url.query(query).map_err(|reason| bad(&reason))?;
        }
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            for (own, new, what) in [
                (&mut url.reference, reference, "ref"),
                (&mut url.subdir, subdir, "directory"),
            ] {
                if new.is_empty() {
                    continue;
                }
                if own.is_some() {
                    let reason = format!("the {what} is named in the query and after the #");
                    return Err(bad(&reason));
                }
                *own = Some(new.to_owned());
            }
        }
        url.check_parts().map_err(bad)?;
        Ok(Some(url))
    }

    fn query(&mut self, query: &str) -> Result<(), String> {
        let mut named = None;
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let flag = || match &*value {
                "" | "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err(format!("{key} must be true or false")),
            };
            match &*key {
                "ref" | "branch" | "tag" => {
                    if named.is_some() {
                        return Err("more than one of ref, branch and tag is given".into());
                    }
                    named = Some(match &*key {
                        "branch" => format!("refs/heads/{value}"),
                        "tag" => format!("refs/tags/{value}"),
                        _ => value.into_owned(),
                    });
                }
                "subdir" => self.subdir = Some(value.into_owned()),
                "checksum" | "commit" => self.checksum = Some(value.into_owned()),
                "keep-git-dir" => self.keep_git_dir = Some(flag()?),
                "submodules" => self.submodules = flag()?,
                _ => return Err(format!("unknown query key {key:?}")),
            }
        }
        self.reference = named;
        Ok(())
    }

    fn check_remote(&self) -> Result<(), &'static str> {
        let host = self.remote.split_once("://").map_or_else(
            || self.remote.split(':').next().unwrap_or_default(),
            |(_, rest)| rest.split('/').next().unwrap_or_default(),
        );
        let host = host.rsplit('@').next().unwrap_or_default();
        // ssh would take such a host for an option.
        if host.is_empty() || host.starts_with('-') || self.remote.starts_with('-') {
            return Err("it names no host");
        }
        if self.remote.contains("::") {
            return Err("remote helpers are not run");
        }
        let path = match self.remote.split_once("://") {
            Some((_, rest)) => rest.split_once('/').map(|(_, path)| path),
            None => self.remote.split_once(':').map(|(_, path)| path),
        };
        match path {
            None | Some("") => Err("it names no repository"),
            Some(path) if path.starts_with('-') => Err("the repository's path begins with -"),
            Some(_) => Ok(()),
        }
    }

    fn check_parts(&self) -> Result<(), &'static str> {
        if let Some(reference) = &self.reference {
            let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
            let malformed = reference.starts_with(['-', '/', '+'])
                || reference.ends_with(['/', '.'])
                || reference.contains("..")
                || reference.contains("@{")
                || reference.contains("//")
                || reference.contains(odd);
            if reference.is_empty() || malformed {
                return Err("the ref is malformed");
            }
        }
        if let Some(subdir) = &self.subdir
            && (subdir.split('/').any(|p| p == "..") || subdir.contains(['\\', '\0', '\n', '\r']))
        {
            return Err("the directory leads out of the repository");
        }
        if let Some(checksum) = &self.checksum
            && !((7..=64).contains(&checksum.len())
                && checksum.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err("the checksum is no commit id, nor the first 7 digits of one");
        }
        Ok(())
    }

    /// The repository, without credentials.
    pub fn remote(&self) -> &str {
        &self.remote
    }

    /// Branch, tag or commit.
    pub fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// The directory that is wanted.
    pub fn subdir(&self) -> Option<&str> {
        self.subdir.as_deref()
    }

    /// The commit it must be, or the beginning of its id.
    pub fn checksum(&self) -> Option<&str> {
        self.checksum.as_deref()
    }

    /// Whether `.git` stays in the tree, where the URL says so.
    pub fn keep_git_dir(&self) -> Option<bool> {
        self.keep_git_dir
    }

    /// Whether submodules are wanted.
    pub fn submodules(&self) -> bool {
        self.submodules
    }

    /// User and password that the URL had.
    pub(super) fn credentials(&self) -> Option<(&str, &str)> {
        let (user, password) = self.credentials.as_ref()?;
        Some((user, password))
    }
}

/// The remote without password, and what was taken out of it.
fn remote(base: &str) -> Option<(String, Option<(String, String)>)> {
    if http::is_url(base) {
        let mut url = url::Url::parse(base).ok()?;
        let path = url.path();
        if !path.trim_end_matches('/').ends_with(".git") {
            return None;
        }
        let credentials = (!url.username().is_empty() || url.password().is_some()).then(|| {
            (
                http::percent_decode(url.username()),
                http::percent_decode(url.password().unwrap_or_default()),
            )
        });
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        return Some((url.to_string(), credentials));
    }
    let lower = base.to_ascii_lowercase();
    if lower.starts_with("git://") || lower.starts_with("ssh://") {
        // The user of an ssh URL is no secret; a password in it is dropped.
        let (scheme, rest) = base.split_once("://")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = match host.rsplit_once('@') {
            Some((user, host)) => {
                let user = user.split(':').next().unwrap_or_default();
                format!("{user}@{host}")
            }
            None => host.to_owned(),
        };
        let scheme = scheme.to_ascii_lowercase();
        return Some((format!("{scheme}://{host}/{path}"), None));
    }
    if lower.starts_with("github.com/") {
        return Some((format!("https://{base}"), None));
    }
    // user@host:path, as scp has it.
    let (user, rest) = base.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let word = |s: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    (word(user) && word(host) && !path.is_empty()).then(|| (base.to_owned(), None))
}
