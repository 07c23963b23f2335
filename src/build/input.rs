//! The Dockerfile and the context of a request.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::request::Request;
use super::{BuildError, Tools};
use crate::context::Tree;
use crate::context::ignore::Ignore;
use crate::context::local::LocalTree;
use crate::sys::fs::Root;

/// The largest Dockerfile or ignore file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What a build reads.
pub(super) struct Input {
    /// What the Dockerfile is called in messages.
    pub(super) file: String,
    /// Its text.
    pub(super) text: Arc<str>,
    /// The build context.
    pub(super) context: Option<Arc<dyn Tree>>,
    /// The ignore patterns of the context.
    pub(super) ignore: Option<Ignore>,
    /// Holds a context that was downloaded, as long as the build reads it.
    pub(super) _keep: Option<tempfile::TempDir>,
}

/// Opens the context and reads the Dockerfile.
pub(super) fn open(request: &Request, tools: &Tools) -> Result<Input, BuildError> {
    let context = PathBuf::from(&request.context);
    let root = Root::open(&context).map_err(|source| BuildError::Read {
        what: "the build context",
        path: context.clone(),
        source,
    })?;
    let (file, text) = dockerfile(request, tools, &context, &root)?;
    let ignore = ignore_rules(request, &file, &context, &root)?;
    let mut tree =
        LocalTree::open(&context, ignore.clone()).map_err(|source| BuildError::Read {
            what: "the build context",
            path: context.clone(),
            source,
        })?;
    // A store inside of the context is no part of it.
    if let (Ok(store), Ok(context)) = (tools.store.root().canonicalize(), context.canonicalize())
        && let Ok(inside) = store.strip_prefix(&context)
    {
        tree = tree.hide([inside.to_path_buf()]);
    }
    Ok(Input {
        file,
        text: text.into(),
        context: Some(Arc::new(tree)),
        ignore,
        _keep: None,
    })
}

/// Name and text of the Dockerfile.
fn dockerfile(
    request: &Request,
    tools: &Tools,
    context: &Path,
    root: &Root,
) -> Result<(String, String), BuildError> {
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
            Ok(("standard input".into(), to_text(bytes, Path::new("-"))?))
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
            Ok((path.display().to_string(), read_file(opened, path)?))
        }
        None => {
            // Inside the context nothing is trusted: links stay inside, and
            // only a regular file is opened.
            let mut last = None;
            for name in ["Dockerfile", "Containerfile"] {
                let path = context.join(name);
                match root.open_file(Path::new(name)) {
                    Ok(opened) => {
                        return Ok((path.display().to_string(), read_file(opened, &path)?));
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
    dockerfile: &str,
    context: &Path,
    root: &Root,
) -> Result<Option<Ignore>, BuildError> {
    let parse = |path: &Path, bytes: &[u8]| {
        Ignore::parse(bytes)
            .map(Some)
            .map_err(|e| BuildError::Input(format!("{}: {e}", path.display())))
    };
    let fail = |path: &Path, source| BuildError::Read {
        what: "the ignore file",
        path: path.to_path_buf(),
        source,
    };
    if let Some(path) = &request.ignore_file {
        let bytes = std::fs::read(path).map_err(|e| fail(path, e))?;
        return parse(path, &bytes);
    }
    let own = PathBuf::from(format!("{dockerfile}.dockerignore"));
    if request.file.as_deref() != Some("-") && own.is_file() {
        let bytes = std::fs::read(&own).map_err(|e| fail(&own, e))?;
        return parse(&own, &bytes);
    }
    for name in [".containerignore", ".dockerignore"] {
        let path = context.join(name);
        match root.open_file(Path::new(name)) {
            Ok(file) => {
                let text = read_file(file, &path)?;
                return parse(&path, text.as_bytes());
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(fail(&path, e)),
        }
    }
    Ok(None)
}
