//! The Dockerfile and the context of a request.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::request::Request;
use super::{BuildError, Tools};
use crate::context::git::GitOptions;
use crate::context::ignore::Ignore;
use crate::context::local::LocalTree;
use crate::context::source::{self, Location, OpenOptions, Opened};
use crate::context::{Tree, http};
use crate::event::Cancel;
use crate::store::TempDir;
use crate::sys::fs::Root;

/// The largest Dockerfile or ignore file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;
/// The largest context that is downloaded or unpacked, in bytes.
const MAX_CONTEXT: u64 = 100 << 30;

/// What a build reads.
pub(super) struct Input {
    /// What the Dockerfile is called in messages.
    pub(super) file: String,
    /// Its text.
    pub(super) text: Arc<str>,
    /// The build context.
    pub(super) context: Arc<dyn Tree>,
    /// Named contexts that are files.
    pub(super) named: BTreeMap<String, Arc<dyn Tree>>,
    /// The ignore patterns of the context.
    pub(super) ignore: Option<Ignore>,
    /// Holds contexts that were downloaded, as long as the build reads them.
    pub(super) _keep: (Vec<tempfile::TempDir>, TempDir),
}

/// Opens the context and reads the Dockerfile.
pub(super) fn open(request: &Request, tools: &Tools, cancel: &Cancel) -> Result<Input, BuildError> {
    let kept = tools.store.temp_dir()?;
    let scratch = kept.path();
    let opened = open_context(&request.context, tools, scratch, cancel)?;
    let dir = opened.dir;
    let root = Root::open(&dir).map_err(|source| BuildError::Read {
        what: "the build context",
        path: dir.clone(),
        source,
    })?;
    let (file, text) = match opened.dockerfile {
        Some(bytes) if request.file.is_none() => {
            let text = to_text(bytes, Path::new("-"))?;
            (PathBuf::from("Dockerfile"), text)
        }
        _ => dockerfile(request, tools, scratch, cancel, &dir, &root)?,
    };
    let ignore = ignore_rules(request, &file, &dir, &root)?;
    let mut tree = tree_of(&dir, ignore.clone())?;
    // A store inside of the context is no part of it.
    if let (Ok(store), Ok(context)) = (tools.store.root().canonicalize(), dir.canonicalize())
        && let Ok(inside) = store.strip_prefix(&context)
    {
        tree = tree.hide([inside.to_path_buf()]);
    }
    let mut keep: Vec<tempfile::TempDir> = opened.keep.into_iter().collect();
    let mut named: BTreeMap<String, Arc<dyn Tree>> = BTreeMap::new();
    for (name, value) in &request.build_contexts {
        if is_image_context(value) {
            continue;
        }
        let opened = open_context(value, tools, scratch, cancel)?;
        let root = Root::open(&opened.dir).map_err(|source| BuildError::Read {
            what: "the build context",
            path: opened.dir.clone(),
            source,
        })?;
        let ignore = ignore_of(&opened.dir, &root)?;
        named.insert(name.clone(), Arc::new(tree_of(&opened.dir, ignore)?));
        keep.extend(opened.keep);
    }
    Ok(Input {
        file: file.display().to_string(),
        text: text.into(),
        context: Arc::new(tree),
        named,
        ignore,
        _keep: (keep, kept),
    })
}

/// Whether the value of a named context is an image.
pub(super) fn is_image_context(value: &str) -> bool {
    value.starts_with("docker-image://") || value.starts_with("oci-layout://")
}

fn open_context(
    text: &str,
    tools: &Tools,
    scratch: &Path,
    cancel: &Cancel,
) -> Result<Opened, BuildError> {
    let location = source::classify(text).map_err(|e| BuildError::Context(e.into()))?;
    let stdin = match &location {
        Location::Stdin => Some(tools.stdin()?),
        _ => None,
    };
    let git = match (&tools.remote.git, &location) {
        (Some(git), _) => git.clone(),
        (None, Location::Git(_)) => {
            return Err(BuildError::Input(
                "a git repository can't be fetched: there is no git program".into(),
            ));
        }
        (None, _) => GitOptions::absent(),
    };
    let options = OpenOptions {
        temp: scratch,
        agent: &tools.remote.agent,
        git: &git,
        stdin,
        max_bytes: MAX_CONTEXT,
        cancel,
    };
    source::open(&location, options).map_err(BuildError::Context)
}

fn tree_of(dir: &Path, ignore: Option<Ignore>) -> Result<LocalTree, BuildError> {
    LocalTree::open(dir, ignore).map_err(|source| BuildError::Read {
        what: "the build context",
        path: dir.to_path_buf(),
        source,
    })
}

/// Path and text of the Dockerfile.
fn dockerfile(
    request: &Request,
    tools: &Tools,
    scratch: &Path,
    cancel: &Cancel,
    context: &Path,
    root: &Root,
) -> Result<(PathBuf, String), BuildError> {
    let fail = |path: &Path| {
        let path = path.to_path_buf();
        move |source| BuildError::Read {
            what: "the Dockerfile",
            path,
            source,
        }
    };
    match request.file.as_deref() {
        Some("-") => {
            let mut bytes = Vec::new();
            let stdin = tools.stdin()?;
            stdin
                .take(MAX_FILE + 1)
                .read_to_end(&mut bytes)
                .map_err(fail(Path::new("-")))?;
            Ok((PathBuf::from("-"), to_text(bytes, Path::new("-"))?))
        }
        Some(url) if http::is_url(url) => {
            let request = http::Request {
                url,
                checksum: None,
                known: None,
                authorization: None,
                limit: MAX_FILE,
            };
            let fetched = http::fetch(&tools.remote.agent, &request, scratch, cancel)
                .map_err(|e| BuildError::Context(e.into()))?;
            let http::Fetched::File(download) = fetched else {
                return Err(BuildError::Input(format!("{url} has no content")));
            };
            let path = PathBuf::from(http::redacted(url));
            let text = read_file(download.file.reopen().map_err(fail(&path))?, &path)?;
            Ok((path, text))
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
            let opened = std::fs::File::open(path).map_err(fail(path))?;
            if !opened.metadata().map_err(fail(path))?.is_file() {
                return Err(fail(path)(std::io::Error::other(
                    "it is not a regular file",
                )));
            }
            Ok((path.to_path_buf(), read_file(opened, path)?))
        }
        None => {
            // Inside the context nothing is trusted: links stay inside, and
            // only a regular file is opened.
            let mut last = None;
            for name in ["Dockerfile", "Containerfile"] {
                let path = context.join(name);
                match root.open_file(Path::new(name)) {
                    Ok(opened) => {
                        let text = read_file(opened, &path)?;
                        return Ok((path, text));
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                        last.get_or_insert_with(|| fail(&path)(e));
                    }
                    Err(e) => return Err(fail(&path)(e)),
                }
            }
            Err(last.unwrap_or_else(|| BuildError::Input("there is no Dockerfile".into())))
        }
    }
}

fn read_file(file: std::fs::File, path: &Path) -> Result<String, BuildError> {
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
    dockerfile: &Path,
    context: &Path,
    root: &Root,
) -> Result<Option<Ignore>, BuildError> {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(".dockerignore");
    let own = PathBuf::from(own);
    let given = match &request.ignore_file {
        Some(path) => Some(path.clone()),
        None => Some(own).filter(|p| p.is_file()),
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
    Ignore::parse(text.as_bytes())
        .map(Some)
        .map_err(|e| BuildError::Input(format!("{}: {e}", path.display())))
}
