//! Where a build context comes from: a directory, a stream, the web, git.
//!
//! [`classify`] reads what was typed, [`open`] gets it. Whatever does not lie
//! in a directory already is put into one of our own, private to this user,
//! that goes when the result is dropped.
//!
//! # Specification
//! Docker's build reference, "Build context": local directories, tarballs,
//! remote tarballs, git repositories, Dockerfiles without a context.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::git::{self, GitError, GitOptions, GitUrl};
use super::http::{self, Fetched, HttpError};
pub use super::similar::similar;
use super::tar::{self, Stream, StreamError};
use crate::digest::Digest;
use crate::event::Cancel;

/// What names a build context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `-`: a tar or a Dockerfile on standard input.
    Stdin,
    /// A directory.
    Directory(PathBuf),
    /// A tar or a Dockerfile behind a URL.
    Http(String),
    /// A git repository.
    Git(GitUrl),
}

/// Reads what was typed. A directory that exists is one, even if its name
/// could be a repository's.
pub fn classify(text: &str) -> Result<Location, GitError> {
    if text == "-" {
        return Ok(Location::Stdin);
    }
    if !text.contains("://") && Path::new(text).exists() {
        return Ok(Location::Directory(text.into()));
    }
    if let Some(url) = GitUrl::parse(text)? {
        return Ok(Location::Git(url));
    }
    if http::is_url(text) {
        return Ok(Location::Http(text.to_owned()));
    }
    Ok(Location::Directory(text.into()))
}

/// Why a context can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such directory.
    #[error("the build context {path:?} can't be opened")]
    Directory {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The stream is no good.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The download failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The checkout failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// There is no place to put it.
    #[error("making a temporary directory in {path:?}")]
    Temp {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard input was asked for twice, or not handed over.
    #[error("standard input is not available for the build context")]
    NoStdin,
}

/// What it takes to open a context.
pub struct OpenOptions<'a> {
    /// Where directories of our own are made.
    pub temp: &'a Path,
    /// For downloads.
    pub agents: &'a http::Agents,
    /// For repositories.
    pub git: &'a GitOptions,
    /// The value of an `Authorization` header for a download.
    pub authorization: Option<&'a str>,
    /// Standard input, if it may be read.
    pub stdin: Option<Box<dyn Read + Send>>,
    /// Bytes that a download or an unpacked tar may have.
    pub max_bytes: u64,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for OpenOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOptions")
            .field("temp", &self.temp)
            .finish_non_exhaustive()
    }
}

/// A context that is at hand.
#[derive(Debug)]
pub struct Opened {
    /// Its directory; empty where the context is a Dockerfile alone.
    pub dir: PathBuf,
    /// The Dockerfile, where the context is that alone.
    pub dockerfile: Option<Vec<u8>>,
    /// The commit, for a repository.
    pub commit: Option<String>,
    /// Seconds since 1970: when the commit was made, when the server says that
    /// the file was changed, or the time of the archive's newest file.
    pub time: Option<i64>,
    /// The digest of what was downloaded.
    pub digest: Option<Digest>,
    /// Our own directory, which goes with this value.
    pub keep: Option<tempfile::TempDir>,
}

/// Gets a context.
pub fn open(location: &Location, options: OpenOptions<'_>) -> Result<Opened, OpenError> {
    if let Location::Directory(path) = location {
        let fail = |source| OpenError::Directory {
            path: path.clone(),
            source,
        };
        let meta = std::fs::metadata(path).map_err(fail)?;
        if !meta.is_dir() {
            return Err(fail(io::ErrorKind::NotADirectory.into()));
        }
        return Ok(Opened {
            dir: path.clone(),
            dockerfile: None,
            commit: None,
            time: None,
            digest: None,
            keep: None,
        });
    }
    let keep = private_dir(options.temp)?;
    let dir = keep.path().join("context");
    make_dir(&dir)?;
    let mut opened = Opened {
        dir,
        dockerfile: None,
        commit: None,
        time: None,
        digest: None,
        keep: None,
    };
    let mut name = None;
    let stream = match location {
        Location::Directory(_) => Stream::Unpacked,
        Location::Stdin => {
            let stdin = options.stdin.ok_or(OpenError::NoStdin)?;
            tar::receive(stdin, &opened.dir, options.max_bytes)?
        }
        Location::Http(url) => {
            let request = http::Request {
                url,
                checksum: None,
                known: None,
                authorization: options.authorization,
                limit: options.max_bytes,
            };
            match http::fetch(options.agents, &request, keep.path(), options.cancel)? {
                Fetched::File(download) => {
                    opened.digest = Some(download.digest);
                    opened.time = (download.validators.last_modified.is_some()
                        && download.mtime.secs > 0)
                        .then_some(download.mtime.secs);
                    name = Some(download.name);
                    let file = download.file.reopen().map_err(StreamError::Read)?;
                    tar::receive(file, &opened.dir, options.max_bytes)?
                }
                // Nothing was said to be known.
                Fetched::Unchanged => Stream::Unpacked,
            }
        }
        Location::Git(url) => {
            let work = keep.path().join("git");
            make_dir(&work)?;
            let done = git::checkout(url, options.git, &work, options.cancel)?;
            opened.dir = done.tree;
            opened.commit = Some(done.commit);
            opened.time = Some(done.time);
            Stream::Unpacked
        }
    };
    match stream {
        Stream::Unpacked if opened.time.is_none() => {
            opened.time = newest(&opened.dir, 0).map_err(StreamError::Read)?;
        }
        Stream::Unpacked => {}
        Stream::Dockerfile(text) => {
            // A file by itself is a context too, for those who don't take it
            // for a Dockerfile.
            if let Some(name) = name {
                std::fs::write(opened.dir.join(name), &text).map_err(StreamError::Read)?;
            }
            opened.dockerfile = Some(text);
        }
    }
    opened.keep = Some(keep);
    Ok(opened)
}

/// The newest time of the regular files below `dir`.
fn newest(dir: &Path, depth: usize) -> io::Result<Option<i64>> {
    use std::os::unix::fs::MetadataExt;
    if depth > 1024 {
        return Ok(None);
    }
    let mut time = None;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let found = if meta.is_dir() {
            newest(&entry.path(), depth + 1)?
        } else {
            meta.is_file().then(|| meta.mtime())
        };
        time = time.max(found);
    }
    Ok(time)
}

fn private_dir(temp: &Path) -> Result<tempfile::TempDir, OpenError> {
    tempfile::Builder::new()
        .prefix("context-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(temp)
        .map_err(|source| OpenError::Temp {
            path: temp.to_owned(),
            source,
        })
}

fn make_dir(path: &Path) -> Result<(), OpenError> {
    std::fs::create_dir(path).map_err(|source| OpenError::Temp {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::local::LocalTree;
    use crate::roots::Roots;

    fn options<'a>(
        temp: &'a Path,
        agents: &'a http::Agents,
        git: &'a GitOptions,
        cancel: &'a Cancel,
    ) -> OpenOptions<'a> {
        OpenOptions {
            temp,
            agents,
            git,
            authorization: None,
            stdin: None,
            max_bytes: 1 << 20,
            cancel,
        }
    }

    #[test]
    fn kinds() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().to_str().unwrap();
        assert_eq!(classify(text).unwrap(), Location::Directory(text.into()));
        assert_eq!(classify("-").unwrap(), Location::Stdin);
        assert!(matches!(
            classify("https://h/x.tar.gz").unwrap(),
            Location::Http(_)
        ));
        assert!(matches!(
            classify("https://h/x.git#main").unwrap(),
            Location::Git(_)
        ));
        assert!(matches!(classify("git@h:x").unwrap(), Location::Git(_)));
        assert!(matches!(
            classify("no/such/dir").unwrap(),
            Location::Directory(_)
        ));
        assert!(classify("https://h/x.git#-c").is_err());
    }

    #[test]
    fn opening() {
        let temp = tempfile::tempdir().unwrap();
        let agents = http::Agents::new(|_| None, Roots::default());
        let git = GitOptions {
            program: "/nonexistent/git".into(),
            path: "/bin".into(),
            ..GitOptions::absent()
        };
        let cancel = Cancel::new();
        let options = || options(temp.path(), &agents, &git, &cancel);
        let here = Location::Directory(temp.path().into());
        assert_eq!(open(&here, options()).unwrap().dir, temp.path());
        let file = temp.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert!(open(&Location::Directory(file), options()).is_err());
        assert!(matches!(
            open(&Location::Stdin, options()),
            Err(OpenError::NoStdin)
        ));
        let mut with_stdin = options();
        with_stdin.stdin = Some(Box::new(io::Cursor::new(b"FROM scratch")));
        let opened = open(&Location::Stdin, with_stdin).unwrap();
        assert_eq!(opened.dockerfile.as_deref(), Some(&b"FROM scratch"[..]));
        let own = opened.keep.as_ref().unwrap().path().to_owned();
        let mode = own.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        assert_eq!(std::fs::read_dir(&opened.dir).unwrap().count(), 0);
        drop(opened);
        assert!(!own.exists());
        let url = classify("https://h/x.git").unwrap();
        assert!(matches!(open(&url, options()), Err(OpenError::Git(_))));
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_similar_name_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Dockerfile"), "FROM scratch").unwrap();
        let tree = LocalTree::open(dir.path(), None).unwrap();
        assert_eq!(
            similar(&tree, Path::new("dockerfile")).as_deref(),
            Some("Dockerfile")
        );
    }
}
