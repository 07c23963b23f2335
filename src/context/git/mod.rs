//! Trees from git repositories, by the `git` program.
//!
//! A repository and everything that names it may be hostile: URLs, refs and
//! paths are checked against a narrow grammar before they become arguments
//! ([`url`]), the program runs with an environment of its own, without the
//! user's or the system's configuration, without hooks, filters, prompts or
//! file-system protocols ([`run`]), and credentials never are arguments.
//!
//! # Specification
//! Dockerfile reference, ADD with a git repository; the fragment `#ref:dir` and
//! the query form of remote build contexts.

mod run;
mod url;

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::event::Cancel;
use crate::roots::{Roots, RootsError};

use self::run::Git;
pub use self::url::GitUrl;

/// Why a repository can't be had. URLs are shown without credentials.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The URL, ref or directory is malformed, or of a kind that is refused.
    #[error("invalid git URL {url:?}: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no git program.
    #[error("can't run {program:?}, which git sources need; install git")]
    Program {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// git failed.
    #[error("git {what} of {url} failed: {message}")]
    Failed {
        /// What it was to do.
        what: &'static str,
        /// The repository.
        url: String,
        /// The end of what it said.
        message: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{url} has no branch, tag or commit {reference:?}")]
    NoRef {
        /// The repository.
        url: String,
        /// What was asked for.
        reference: String,
    },
    /// The commit is another one than `--checksum` says.
    #[error("{url} is at commit {actual}, the checksum says {expected}")]
    Checksum {
        /// The repository.
        url: String,
        /// What was promised.
        expected: String,
        /// What is there.
        actual: String,
    },
    /// The directory named in the URL is not there, or leads through a link.
    #[error("{url} has no directory {subdir:?}")]
    Subdir {
        /// The repository.
        url: String,
        /// What was asked for.
        subdir: String,
    },
    /// A file of ours can't be written or read.
    #[error("preparing {path:?}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are no CA certificates.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The work was given up.
    #[error("cancelled")]
    Cancelled,
}

/// How to get a repository.
#[derive(Debug, Clone)]
pub struct GitOptions {
    /// The program, found by the caller.
    pub program: PathBuf,
    /// `PATH` for the helpers that git runs (ssh).
    pub path: OsString,
    /// Further variables: those of proxies, `SSH_AUTH_SOCK`.
    pub env: Vec<(OsString, OsString)>,
    /// CA certificates for https.
    pub roots: Roots,
    /// The value of an `Authorization` header for http and https.
    pub authorization: Option<String>,
    /// Whether `.git` stays in the tree; the URL may say otherwise.
    pub keep_git_dir: bool,
    /// A commit, or the beginning of its id, that it must be.
    pub checksum: Option<String>,
}

impl GitOptions {
    /// Without a program: nothing can be fetched.
    pub fn absent() -> Self {
        Self {
            program: PathBuf::new(),
            path: OsString::new(),
            env: Vec::new(),
            roots: Roots::default(),
            authorization: None,
            keep_git_dir: false,
            checksum: None,
        }
    }
}

/// A tree that was checked out.
#[derive(Debug)]
pub struct Checkout {
    /// The full id of the commit.
    pub commit: String,
    /// When it was committed, in seconds since 1970.
    pub time: i64,
    /// The tree, or the directory in it that the URL names. It lies in the
    /// directory given for work and goes with it.
    pub tree: PathBuf,
}

/// The commit that `url` means now, without fetching it.
pub fn resolve(
    url: &GitUrl,
    options: &GitOptions,
    work: &Path,
    cancel: &Cancel,
) -> Result<Option<String>, GitError> {
    let git = Git::new(url, options, work, cancel)?;
    Ok(find(&git, url)?.map(|found| found.id))
}

/// Checks `url` out in the private directory `work`.
pub fn checkout(
    url: &GitUrl,
    options: &GitOptions,
    work: &Path,
    cancel: &Cancel,
) -> Result<Checkout, GitError> {
    let git = Git::new(url, options, work, cancel)?;
    let tree = work.join("tree");
    std::fs::create_dir(&tree).map_err(|source| GitError::Io {
        path: tree.clone(),
        source,
    })?;
    git.run("init", &["init", "--quiet", "--initial-branch=main", "."])?;
    git.run("init", &["remote", "add", "origin", url.remote()])?;
    let commit = fetch(&git, url)?;
    let expected = options.checksum.as_deref().or(url.checksum());
    if let Some(expected) = expected
        && !(expected.len() >= 7 && commit.starts_with(&expected.to_ascii_lowercase()))
    {
        return Err(GitError::Checksum {
            url: url.remote().to_owned(),
            expected: expected.to_owned(),
            actual: commit,
        });
    }
    git.run(
        "checkout",
        &["checkout", "--quiet", "--force", "--detach", &commit],
    )?;
    let time = git.output(
        "show",
        &[
            "show",
            "--no-patch",
            "--format=%ct",
            "--end-of-options",
            &commit,
        ],
    )?;
    let time = time.trim().parse().unwrap_or_default();
    if url.submodules() && tree.join(".gitmodules").is_file() {
        let args = [
            "submodule",
            "update",
            "--init",
            "--recursive",
            "--depth=1",
            "--quiet",
        ];
        git.run("submodule update", &args)?;
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| GitError::Io { path, source }
    };
    if url.keep_git_dir().unwrap_or(options.keep_git_dir) {
        // What the fetch left says nothing that the commit does not.
        for name in ["FETCH_HEAD", "logs", "hooks"] {
            let path = tree.join(".git").join(name);
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            match removed {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(&path)(e)),
                _ => {}
            }
        }
    } else {
        drop_git_dirs(&tree, 0).map_err(io(&tree))?;
    }
    let tree = match url.subdir() {
        Some(subdir) => inside(&tree, subdir).ok_or_else(|| GitError::Subdir {
            url: url.remote().to_owned(),
            subdir: subdir.to_owned(),
        })?,
        None => tree,
    };
    Ok(Checkout { commit, time, tree })
}

/// A ref of the remote.
struct Remote {
    id: String,
    name: String,
}

/// The ref that the URL means. A branch wins over a tag of the same name.
fn find(git: &Git<'_>, url: &GitUrl) -> Result<Option<Remote>, GitError> {
    let wanted = url.reference().unwrap_or("HEAD");
    if is_full_id(wanted) {
        return Ok(Some(Remote {
            id: wanted.to_ascii_lowercase(),
            name: wanted.to_owned(),
        }));
    }
    let out = git.output("ls-remote", &["ls-remote", "--", url.remote(), wanted])?;
    let refs: Vec<(&str, &str)> = out.lines().filter_map(|l| l.split_once('\t')).collect();
    let candidates = [
        format!("refs/heads/{wanted}"),
        format!("refs/tags/{wanted}"),
        wanted.to_owned(),
        format!("refs/{wanted}"),
    ];
    for name in candidates {
        if let Some((id, _)) = refs.iter().find(|(id, n)| *n == name && is_full_id(id)) {
            return Ok(Some(Remote {
                id: (*id).to_owned(),
                name,
            }));
        }
    }
    Ok(None)
}

/// Fetches what the URL means and gives its commit.
fn fetch(git: &Git<'_>, url: &GitUrl) -> Result<String, GitError> {
    let wanted = url.reference().unwrap_or("HEAD");
    let no_ref = || GitError::NoRef {
        url: url.remote().to_owned(),
        reference: wanted.to_owned(),
    };
    let plain = |depth: Option<&'static str>, name: &str| {
        let args = ["fetch", "--quiet", "--no-tags"].into_iter().chain(depth);
        let args: Vec<&str> = args.chain(["--", "origin", name]).collect();
        git.run("fetch", &args)
    };
    let shallow = |name: &str| match plain(Some("--depth=1"), name) {
        // A server that only hands out files can't cut the history.
        Err(GitError::Failed { message, .. }) if message.contains("shallow") => plain(None, name),
        done => done,
    };
    let found = find(git, url)?;
    let fetched = match &found {
        Some(remote) => match shallow(&remote.name) {
            Ok(()) => true,
            // A server may refuse to hand out a commit by its id alone.
            Err(GitError::Failed { .. }) if is_full_id(wanted) => false,
            Err(e) => return Err(e),
        },
        None => false,
    };
    let revision = if fetched {
        "FETCH_HEAD^{commit}".to_owned()
    } else {
        // The beginning of an id is all that is left.
        let hex = wanted.len() >= 7 && wanted.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex {
            return Err(no_ref());
        }
        let all = [
            "fetch",
            "--quiet",
            "--tags",
            "--",
            "origin",
            "+refs/heads/*:refs/remotes/origin/*",
        ];
        git.run("fetch", &all)?;
        format!("{wanted}^{{commit}}")
    };
    let args = [
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        &revision,
    ];
    let commit = match git.output("rev-parse", &args) {
        Ok(text) => text.trim().to_owned(),
        Err(GitError::Failed { .. }) => return Err(no_ref()),
        Err(e) => return Err(e),
    };
    if !is_full_id(&commit) || (is_full_id(wanted) && !commit.eq_ignore_ascii_case(wanted)) {
        return Err(no_ref());
    }
    Ok(commit)
}

fn is_full_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Removes each `.git`, those of submodules too.
fn drop_git_dirs(dir: &Path, depth: usize) -> io::Result<()> {
    if depth > 1024 {
        return Err(io::Error::other("the tree is nested too deeply"));
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if entry.file_name() == ".git" {
            if kind.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        } else if kind.is_dir() {
            std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o755))?;
            drop_git_dirs(&entry.path(), depth + 1)?;
        } else if kind.is_file() {
            // git knows one permission; the rest came from our umask.
            let exec = entry.metadata()?.permissions().mode() & 0o100 != 0;
            let mode = if exec { 0o755 } else { 0o644 };
            std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// `subdir` of `tree`, each component a real directory.
fn inside(tree: &Path, subdir: &str) -> Option<PathBuf> {
    let mut here = tree.to_owned();
    for part in subdir.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." || part.eq_ignore_ascii_case(".git") {
            return None;
        }
        here.push(part);
        if !std::fs::symlink_metadata(&here).is_ok_and(|m| m.is_dir()) {
            return None;
        }
    }
    Some(here)
}

#[cfg(test)]
mod tests;
