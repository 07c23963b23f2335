//! The Dockerfile and the context of a request.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{BuildError, Place};
use super::frontend::secret;
use super::request::Request;
use crate::context::git::GitOptions;
use crate::context::ignore::Ignore;
use crate::context::local::LocalTree;
use crate::context::source::{self, Location, OpenOptions, Opened};
use crate::context::stats::Stats;
use crate::context::{Tree, auth, http};
use crate::digest::{Digest, Hasher};
use crate::dockerfile::span::Span;
use crate::event::{Cancel, Event, Events};
use crate::solve::Remote;
use crate::store::Store;
use crate::sys::fs::Root;

/// Standard input, for whoever is asked to read it; it can be taken once.
pub type Stdin = Mutex<Option<Box<dyn Read + Send>>>;

/// The largest Dockerfile or ignore file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;
/// The largest context that is downloaded or unpacked, in bytes.
const MAX_CONTEXT: u64 = 100 << 30;

/// What a build reads.
pub(super) struct Input {
    /// The Dockerfile and what decides on the context's files.
    pub(super) main: Main,
    /// The build context.
    pub(super) context: Arc<dyn Tree>,
    /// Named contexts that are files.
    pub(super) named: BTreeMap<String, Arc<dyn Tree>>,
    /// Times of named contexts that have one, in seconds since 1970.
    pub(super) named_times: BTreeMap<String, i64>,
    /// What is known of the files of contexts, by where it is kept.
    stats: Vec<(Digest, Arc<Stats>)>,
    /// Holds named contexts that were downloaded, as long as the build reads
    /// them.
    _keep: Vec<tempfile::TempDir>,
}

impl Input {
    /// Keeps what was found out about the contexts' files; where that can't be
    /// written, the next build reads them again.
    pub(super) fn keep_stats(&self, store: &Store, events: &Events) {
        for (key, stats) in &self.stats {
            if stats.has_news()
                && let Err(e) = store.stats_put(key, |out| stats.write(out))
            {
                events.emit(Event::Warning {
                    rule: None,
                    message: format!("can't keep what is known of the context's files: {e}"),
                    line: None,
                });
            }
        }
    }
}

/// What is known of the files of the context `text`, if it is a directory that
/// may be built from again.
fn stats_of(text: &str, dir: &Path, store: &Store) -> Option<(Digest, Arc<Stats>)> {
    let Ok(Location::Directory(_)) = source::classify(text) else {
        return None;
    };
    let mut key = Hasher::new();
    key.field(b"context");
    key.field(dir.canonicalize().ok()?.as_os_str().as_bytes());
    let key = key.finish();
    let load = (store.clone(), key.clone());
    let store = store.clone();
    let stats = Stats::new(
        move || load.0.stats_open(&load.1),
        move || store.temp_file(),
    );
    Some((key, Arc::new(stats)))
}

/// The Dockerfile and its context's directory.
pub(super) struct Main {
    /// What the Dockerfile is called in messages.
    pub(super) file: String,
    /// Its text.
    pub(super) text: Arc<str>,
    /// The ignore patterns of the context.
    pub(super) ignore: Option<Ignore>,
    /// The time of a context that has one, in seconds since 1970.
    pub(super) time: Option<i64>,
    /// The context's directory.
    dir: PathBuf,
    _keep: Option<tempfile::TempDir>,
}

/// What it takes to read what a request names.
pub(super) struct Reader<'a> {
    /// Reaches URLs and repositories.
    pub(super) remote: &'a Remote,
    /// Standard input.
    pub(super) stdin: &'a Stdin,
    /// Where directories of our own are made.
    pub(super) scratch: &'a Path,
    /// What is read.
    pub(super) request: &'a Request,
    /// Asks to stop.
    pub(super) cancel: &'a Cancel,
}

/// Where a Dockerfile is.
enum Origin {
    /// In the context, where no link leads out.
    Inside {
        /// Relative to the context.
        path: PathBuf,
        /// As people see it.
        shown: PathBuf,
    },
    /// A file of the user's.
    Own(PathBuf),
    /// Only a text.
    Text(PathBuf),
}

impl Origin {
    fn path(&self) -> &Path {
        match self {
            Self::Inside { shown: path, .. } | Self::Own(path) | Self::Text(path) => path,
        }
    }
}

impl Reader<'_> {
    /// Opens all contexts and reads the Dockerfile. `store` is no part of a
    /// context it lies in, and remembers what files were like.
    pub(super) fn open(&self, store: &Store) -> Result<Input, BuildError> {
        let main = self.main()?;
        let mut tree = tree_of(&main.dir, main.ignore.clone())?;
        // A store inside of the context is no part of it.
        if let (Ok(root), Ok(context)) = (store.root().canonicalize(), main.dir.canonicalize())
            && let Ok(inside) = root.strip_prefix(&context)
        {
            tree = tree.hide([inside.to_path_buf()]);
        }
        let mut stats = Vec::new();
        if let Some(own) = stats_of(&self.request.context, &main.dir, store) {
            tree = tree.remembering(Arc::clone(&own.1));
            stats.push(own);
        }
        let mut input = Input {
            main,
            context: Arc::new(tree),
            named: BTreeMap::new(),
            named_times: BTreeMap::new(),
            stats,
            _keep: Vec::new(),
        };
        for (name, value) in &self.request.build_contexts {
            if is_image_context(value) {
                continue;
            }
            let opened = self.context(value).map_err(|e| in_context(name, e))?;
            let ignore = ignore_of(&opened.dir, &root_of(&opened.dir)?)?;
            let mut tree = tree_of(&opened.dir, ignore)?;
            if let Some(own) = stats_of(value, &opened.dir, store) {
                tree = tree.remembering(Arc::clone(&own.1));
                input.stats.push(own);
            }
            input.named.insert(name.clone(), Arc::new(tree));
            let time = opened.time;
            input
                .named_times
                .extend(time.map(|time| (name.clone(), time)));
            input._keep.extend(opened.keep);
        }
        Ok(input)
    }

    /// Opens the main context and reads the Dockerfile.
    pub(super) fn main(&self) -> Result<Main, BuildError> {
        let request = self.request;
        let opened = self.context(&request.context)?;
        let dir = opened.dir;
        let root = root_of(&dir)?;
        let (origin, text) = match opened.dockerfile {
            Some(bytes) if request.file.is_none() => {
                let origin = Origin::Text(PathBuf::from("Dockerfile"));
                (origin, to_text(bytes, Path::new("-"))?)
            }
            _ => self.dockerfile(request.file.as_deref(), &dir, &root, opened.keep.is_some())?,
        };
        Ok(Main {
            ignore: ignore_rules(request, &origin, &dir, &root)?,
            file: origin.path().display().to_string(),
            text: text.into(),
            time: opened.time,
            dir,
            _keep: opened.keep,
        })
    }

    fn context(&self, text: &str) -> Result<Opened, BuildError> {
        let location = source::classify(text).map_err(|e| BuildError::Context(e.into()))?;
        let stdin = match &location {
            Location::Stdin => Some(self.stdin()?),
            _ => None,
        };
        let mut git = match &location {
            Location::Git(_) => self.git().map_err(BuildError::Input)?,
            _ => GitOptions::absent(),
        };
        let secrets = |id: &str| secret(&self.request.secrets, id);
        let refused = |e: std::io::Error| BuildError::Input(e.to_string());
        let mut authorization = None;
        match &location {
            Location::Git(url) => {
                let own = auth::for_git(url.remote(), &secrets).map_err(refused)?;
                git.authorization = own.or(git.authorization);
                git.keep_git_dir |= keeps_git_dir(self.request);
            }
            Location::Http(url) => {
                authorization = auth::for_http(url, &secrets).map_err(refused)?;
            }
            Location::Stdin | Location::Directory(_) => {}
        }
        let options = OpenOptions {
            temp: self.scratch,
            agents: &self.remote.agents,
            git: &git,
            authorization: authorization.as_deref(),
            stdin,
            max_bytes: MAX_CONTEXT,
            cancel: self.cancel,
        };
        source::open(&location, options).map_err(BuildError::Context)
    }

    /// Place and text of the Dockerfile. `foreign` is a context that isn't the
    /// user's own directory.
    fn dockerfile(
        &self,
        file: Option<&str>,
        context: &Path,
        root: &Root,
        foreign: bool,
    ) -> Result<(Origin, String), BuildError> {
        match file {
            Some("-") => {
                let path = PathBuf::from("-");
                let text = read_file(self.stdin()?, &path)?;
                Ok((Origin::Text(path), text))
            }
            Some(url) if http::is_url(url) => {
                let secrets = |id: &str| secret(&self.request.secrets, id);
                let authorization =
                    auth::for_http(url, &secrets).map_err(|e| BuildError::Input(e.to_string()))?;
                let request = http::Request {
                    url,
                    checksum: None,
                    known: None,
                    authorization: authorization.as_deref(),
                    limit: MAX_FILE,
                };
                let path = PathBuf::from(http::redacted(url));
                let fetched = http::fetch(&self.remote.agents, &request, self.scratch, self.cancel)
                    .map_err(|e| BuildError::Context(e.into()))?;
                let http::Fetched::File(download) = fetched else {
                    return Err(BuildError::Input(format!("{url} has no content")));
                };
                let file = download.file.reopen();
                let text = read_file(file.map_err(|e| unread(&path, e))?, &path)?;
                Ok((Origin::Text(path), text))
            }
            Some(file) if foreign && !Path::new(file).is_absolute() => {
                let text = inside(root, Path::new(file), context)?;
                let text = text.ok_or_else(|| missing(file.into(), context))?;
                let (path, shown) = (file.into(), file.into());
                Ok((Origin::Inside { path, shown }, text))
            }
            Some(file) => {
                let path = Path::new(file);
                let in_context = context.join(path);
                // As typed, and where that is nothing, inside the context.
                let path = if !path.exists() && in_context.exists() {
                    &in_context
                } else {
                    path
                };
                Ok((Origin::Own(path.to_path_buf()), own(path, context)?))
            }
            None => {
                // Inside the context nothing is trusted: links stay inside, and
                // only a regular file is opened.
                for name in ["Dockerfile", "Containerfile"] {
                    if let Some(text) = inside(root, Path::new(name), context)? {
                        let path = PathBuf::from(name);
                        let shown = match foreign {
                            true => path.clone(),
                            false => context.join(name),
                        };
                        return Ok((Origin::Inside { path, shown }, text));
                    }
                }
                let path = match foreign {
                    true => PathBuf::from("Dockerfile"),
                    false => context.join("Dockerfile"),
                };
                Err(missing(path, context))
            }
        }
    }

    /// The git program.
    pub(super) fn git(&self) -> Result<GitOptions, String> {
        let none = "a git repository can't be fetched: there is no git program; install git";
        self.remote.git.clone().ok_or_else(|| none.to_owned())
    }

    /// Standard input, once.
    fn stdin(&self) -> Result<Box<dyn Read + Send>, BuildError> {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        stdin
            .take()
            .ok_or_else(|| BuildError::Input("standard input can be read only once".into()))
    }
}
/// Whether the value of a named context is an image.
pub(super) fn is_image_context(value: &str) -> bool {
    value.starts_with("docker-image://") || value.starts_with("oci-layout://")
}

/// Whether `.git` is to stay in a context that is a repository.
fn keeps_git_dir(request: &Request) -> bool {
    let mut args = request.build_args.iter().rev();
    let found = args.find(|(n, _)| n == "BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    found.is_some_and(|(_, value)| {
        matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")
    })
}

fn in_context(name: &str, error: BuildError) -> BuildError {
    BuildError::Named {
        name: name.to_owned(),
        source: Box::new(error),
    }
}

fn root_of(dir: &Path) -> Result<Root, BuildError> {
    Root::open(dir).map_err(|source| BuildError::Read {
        what: "the build context",
        path: dir.to_path_buf(),
        source,
    })
}

fn tree_of(dir: &Path, ignore: Option<Ignore>) -> Result<LocalTree, BuildError> {
    LocalTree::open(dir, ignore).map_err(|source| BuildError::Read {
        what: "the build context",
        path: dir.to_path_buf(),
        source,
    })
}

fn unread(path: &Path, source: std::io::Error) -> BuildError {
    BuildError::Read {
        what: "the Dockerfile",
        path: path.to_path_buf(),
        source,
    }
}

/// There is no such Dockerfile; a file of the context may have been meant.
fn missing(path: PathBuf, context: &Path) -> BuildError {
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let tree = tree_of(context, None).ok();
    let similar = tree.and_then(|tree| source::similar(&tree, &name));
    BuildError::NoDockerfile { path, similar }
}

/// The text of a file of the user's.
fn own(path: &Path, context: &Path) -> Result<String, BuildError> {
    let opened = match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(missing(path.to_path_buf(), context));
        }
        opened => opened.map_err(|e| unread(path, e))?,
    };
    let meta = opened.metadata().map_err(|e| unread(path, e))?;
    if meta.is_dir() {
        return Err(unread(path, std::io::ErrorKind::IsADirectory.into()));
    }
    read_file(opened, path)
}

/// The text of a file of a context; `None` where there is none.
fn inside(root: &Root, name: &Path, context: &Path) -> Result<Option<String>, BuildError> {
    let path = context.join(name);
    match root.open_file(name) {
        Ok(opened) => read_file(opened, &path).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unread(&path, e)),
    }
}

fn read_file(file: impl Read, path: &Path) -> Result<String, BuildError> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| BuildError::Read {
            what: "the file",
            path: path.to_path_buf(),
            source,
        })?;
    to_text(bytes, path)
}

fn to_text(bytes: Vec<u8>, path: &Path) -> Result<String, BuildError> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(BuildError::Input(format!(
            "{} is larger than {MAX_FILE} bytes",
            path.display()
        )));
    }
    // A byte that is no UTF-8 can't be shown, but is no reason not to build.
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}

/// The ignore file that was given, the Dockerfile's own, or the context's.
fn ignore_rules(
    request: &Request,
    dockerfile: &Origin,
    context: &Path,
    root: &Root,
) -> Result<Option<Ignore>, BuildError> {
    let beside = |path: &Path| {
        let mut own = path.as_os_str().to_owned();
        own.push(".dockerignore");
        PathBuf::from(own)
    };
    let given = match (&request.ignore_file, dockerfile) {
        (Some(path), _) => Some(path.clone()),
        (None, Origin::Own(path)) => Some(beside(path)).filter(|p| p.is_file()),
        (None, Origin::Inside { path, .. }) => {
            let own = beside(path);
            if let Some(text) = inside(root, &own, context)? {
                return parse_ignore(&own, &text);
            }
            None
        }
        (None, Origin::Text(_)) => None,
    };
    match given {
        Some(path) => {
            let file = std::fs::File::open(&path).map_err(|source| BuildError::Read {
                what: "the ignore file",
                path: path.clone(),
                source,
            })?;
            parse_ignore(&path, &read_file(file, &path)?)
        }
        None => ignore_of(context, root),
    }
}

/// A directory's own ignore file.
fn ignore_of(dir: &Path, root: &Root) -> Result<Option<Ignore>, BuildError> {
    for name in [".containerignore", ".dockerignore"] {
        let path = dir.join(name);
        match root.open_file(Path::new(name)) {
            Ok(file) => return parse_ignore(&path, &read_file(file, &path)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(BuildError::Read {
                    what: "the ignore file",
                    path,
                    source,
                });
            }
        }
    }
    Ok(None)
}

fn parse_ignore(path: &Path, text: &str) -> Result<Option<Ignore>, BuildError> {
    Ignore::parse(text.as_bytes()).map(Some).map_err(|source| {
        let start = text
            .split_inclusive('\n')
            .take(source.line.saturating_sub(1));
        let start = start.map(str::len).sum();
        let line = text[start..].lines().next().unwrap_or_default();
        BuildError::Ignore {
            place: Place {
                file: path.display().to_string(),
                text: text.into(),
                span: Span::new(start, start + line.len()),
            },
            source: source.fault,
        }
    })
}
