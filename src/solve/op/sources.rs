//! Sources of ADD that are no files of a tree: what a URL names.

use std::sync::Arc;

use super::super::{Solver, StepError};
use super::add::UnpackOptions;
use super::copy::{Body, Single, Source};
use super::files::spool;
use crate::context::checksum::Contents;
use crate::context::git::{GitOptions, GitUrl};
use crate::context::ignore::Ignore;
use crate::context::local::LocalTree;
use crate::context::select::select;
use crate::context::{Tree, auth, git, http};
use crate::digest::{Digest, Hasher};
use crate::event::chain;
use crate::graph::CopyOp;
use crate::image::{BlobSource, Descriptor};
use crate::layer::records::NewFile;
use crate::layer::{MAX_ENTRIES, MAX_TAR_BYTES};

/// The largest file that is downloaded, in bytes.
const MAX_DOWNLOAD: u64 = 64 << 30;

/// How remote sources are reached.
#[derive(Debug, Clone)]
pub struct Remote {
    /// For http and https.
    pub agents: http::Agents,
    /// The git program and its environment; `None` where there is none.
    pub git: Option<GitOptions>,
}

/// A remote source that was fetched.
pub(super) struct Fetched {
    /// Of all that enters the layer.
    pub(super) digest: Digest,
    pub(super) source: Source,
}

/// The limits within which ADD unpacks archives: of what is in one, a layer is
/// made.
pub(super) fn limits<'a>(solver: &'a Solver<'_, '_>, new_file: NewFile<'a>) -> UnpackOptions<'a> {
    UnpackOptions {
        new_file,
        max_bytes: MAX_TAR_BYTES,
        max_entries: MAX_ENTRIES,
        cancel: &solver.env.cancel,
    }
}

/// Fetches what a URL names: a git repository or a file.
pub(super) fn fetch(
    solver: &Solver<'_, '_>,
    op: &CopyOp,
    url: &str,
    exclude: &Ignore,
) -> Result<Fetched, StepError> {
    let refused = |message: String| StepError::Refused {
        message,
        hint: None,
    };
    match GitUrl::parse(url).map_err(|e| refused(chain(&e)))? {
        Some(repository) => fetch_git(solver, op, &repository, exclude),
        None => fetch_file(solver, op, url),
    }
}

/// The value of a secret, for a server that wants one.
fn secret(solver: &Solver<'_, '_>, id: &str) -> std::io::Result<Option<Vec<u8>>> {
    let found = solver.env.options.secrets.get(id);
    found.map(|secret| secret.read()).transpose()
}

fn fetch_git(
    solver: &Solver<'_, '_>,
    op: &CopyOp,
    url: &GitUrl,
    exclude: &Ignore,
) -> Result<Fetched, StepError> {
    let Some(options) = &solver.env.remote.git else {
        return Err(StepError::Refused {
            message: "a git repository can't be fetched: there is no git program".into(),
            hint: Some("install git".into()),
        });
    };
    let fail = |e: &dyn std::error::Error| StepError::Refused {
        message: chain(e),
        hint: None,
    };
    let authorization = auth::for_git(url.remote(), &|id| secret(solver, id));
    let options = GitOptions {
        keep_git_dir: op.keep_git_dir.unwrap_or(false),
        checksum: op.checksum.clone(),
        authorization: authorization.map_err(|e| fail(&e))?,
        ..options.clone()
    };
    let work = tempfile::TempDir::new_in(solver.scratch()?).map_err(|e| fail(&e))?;
    // The directory lives until the build's scratch directory goes.
    let work = work.keep();
    let checkout = git::checkout(url, &options, &work, &solver.env.cancel).map_err(|e| fail(&e))?;
    let tree: Arc<dyn Tree> =
        Arc::new(LocalTree::open(&checkout.tree, None).map_err(|e| fail(&e))?);
    let selection = select(&*tree, "/", false, exclude, &|| spool(solver))?;
    let contents = Contents::unhashed(tree, &selection);
    let mut hasher = Hasher::new();
    hasher.field(b"git");
    hasher.field(checkout.commit.as_bytes());
    hasher.field(format!("{:?}", url.subdir()).as_bytes());
    hasher.field(if options.keep_git_dir { b"1" } else { b"0" });
    Ok(Fetched {
        digest: hasher.finish(),
        // The commit says what is in them.
        source: Source::tree(Arc::new(contents), selection),
    })
}

/// What is remembered of a download, to ask next time whether it changed.
#[derive(serde::Serialize, serde::Deserialize)]
struct Remembered {
    etag: Option<String>,
    last_modified: Option<String>,
    name: String,
    digest: Digest,
    size: u64,
    mtime: i64,
}

fn fetch_file(solver: &Solver<'_, '_>, op: &CopyOp, url: &str) -> Result<Fetched, StepError> {
    let env = solver.env;
    let fail = |e: &dyn std::error::Error| StepError::Refused {
        message: chain(e),
        hint: None,
    };
    let checksum = match &op.checksum {
        Some(text) => Some(Digest::parse(text).map_err(|e| StepError::Refused {
            message: format!("--checksum: {e}"),
            hint: Some("write it as sha256:<64 hex digits>".into()),
        })?),
        None => None,
    };
    let mut key = Hasher::new();
    key.field(b"download");
    key.field(url.as_bytes());
    let key = key.finish();
    let authorization = auth::for_http(url, &|id| secret(solver, id)).map_err(|e| fail(&e))?;
    // What a secret has opened is not handed to whoever builds next without it.
    let known: Option<Remembered> = env
        .store
        .cache_get(&key)
        .filter(|_| authorization.is_none())
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .filter(|r: &Remembered| {
            env.store.has(&r.digest) && checksum.as_ref().is_none_or(|c| *c == r.digest)
        });
    let validators = known.as_ref().map(|r| http::Validators {
        etag: r.etag.clone(),
        last_modified: r.last_modified.clone(),
    });
    let request = http::Request {
        url,
        checksum: checksum.as_ref(),
        known: validators.as_ref(),
        authorization: authorization.as_deref(),
        limit: MAX_DOWNLOAD,
    };
    let scratch = solver.scratch()?;
    let fetched =
        http::fetch(&env.remote.agents, &request, scratch, &env.cancel).map_err(|e| fail(&e))?;
    let file = match (fetched, known) {
        (http::Fetched::File(download), _) => {
            let descriptor = blob_of(&download.digest, download.size);
            let reader = download.file.reopen().map_err(|e| fail(&e))?;
            env.store.put_reader(&descriptor, reader)?;
            let file = Remembered {
                etag: download.validators.etag,
                last_modified: download.validators.last_modified,
                name: download.name,
                digest: download.digest,
                size: download.size,
                mtime: download.mtime.secs,
            };
            if authorization.is_none() {
                let record = serde_json::to_vec(&file).map_err(|e| fail(&e))?;
                env.store.cache_put(&key, &record)?;
            }
            file
        }
        (http::Fetched::Unchanged, Some(file)) => file,
        (http::Fetched::Unchanged, None) => {
            return Err(StepError::Refused {
                message: format!(
                    "{} says that it did not change, but it was never fetched",
                    http::redacted(url)
                ),
                hint: None,
            });
        }
    };
    let mut digest = Hasher::new();
    for part in [file.name.as_str(), file.digest.as_str()] {
        digest.field(part.as_bytes());
    }
    let digest = digest.finish();
    let blob = blob_of(&file.digest, file.size);
    let keep = Arc::new(tempfile::TempDir::new_in(scratch).map_err(|e| fail(&e))?);
    let path = keep.path().join("file");
    let mut reader = env.store.open(&blob).map_err(|e| fail(&e))?;
    let mut out = std::fs::File::create_new(&path).map_err(|e| fail(&e))?;
    std::io::copy(&mut reader, &mut out).map_err(|e| fail(&e))?;
    Ok(Fetched {
        digest,
        source: Source::File(Single {
            name: file.name,
            body: Body::Spooled { path, keep },
            size: file.size,
            mode: 0o600,
            mtime: crate::layer::Mtime {
                secs: file.mtime,
                nanos: 0,
            },
        }),
    })
}

fn blob_of(digest: &Digest, size: u64) -> Descriptor {
    Descriptor::new("application/octet-stream", digest.clone(), size)
}
