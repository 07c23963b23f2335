//! Sources of ADD that are no files of a tree: archives and what a URL names.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::super::layers::chain;
use super::super::{Solver, StepError};
use super::copy::{Body, SharedTree, Single, Source};
use crate::context::git::{GitOptions, GitUrl};
use crate::context::ignore::Ignore;
use crate::context::local::LocalTree;
use crate::context::select::{Match, select};
use crate::context::{Tree, git, http};
use crate::digest::{Digest, Hasher};
use crate::graph::CopyOp;
use crate::image::{BlobSource, Descriptor};
use crate::layer::Kind;
use crate::layer::archive::open_archive;
use crate::layer::tar_read::{Item, Names, TarReader};

/// Files of archives up to this size stay in memory…
const SMALL: u64 = 64 << 10;
/// …until they have this many bytes together.
const SMALL_IN_ALL: u64 = 32 << 20;
/// The largest file that is downloaded, in bytes.
const MAX_DOWNLOAD: u64 = 64 << 30;

/// How remote sources are reached.
#[derive(Debug, Clone)]
pub struct Remote {
    /// For http and https.
    pub agent: ureq::Agent,
    /// The git program and its environment; `None` where there is none.
    pub git: Option<GitOptions>,
}

/// A remote source that was fetched.
pub(super) struct Fetched {
    /// Of all that enters the layer.
    pub(super) digest: Digest,
    pub(super) source: Source,
}

/// Turns those matches that are archives into sources of their own; the rest
/// comes back.
pub(super) fn split_archives(
    solver: &Solver<'_, '_>,
    tree: &Arc<dyn Tree>,
    matches: Vec<Match>,
    sources: &mut Vec<Source>,
) -> Result<Vec<Match>, StepError> {
    let mut rest = Vec::new();
    for found in matches {
        let file = found
            .root()
            .filter(|r| matches!(r.node.kind, Kind::File { size } if size > 0));
        let Some(file) = file else {
            rest.push(found);
            continue;
        };
        let path = file.path.clone();
        let what = || StepError::io(format!("can't read {}", path.display()));
        let opened = tree.open(&path).map_err(what())?;
        match open_archive(opened).map_err(what())? {
            Some(tar) => sources.push(read_archive(solver, tar, &path)?),
            None => rest.push(found),
        }
    }
    Ok(rest)
}

/// All entries of an archive; their content is put aside.
fn read_archive(solver: &Solver<'_, '_>, tar: impl Read, name: &Path) -> Result<Source, StepError> {
    let fail = |e: &dyn std::error::Error| StepError::Refused {
        message: format!("can't unpack {}: {}", name.display(), chain(e)),
        hint: Some("ADD --unpack=false copies the archive as it is".into()),
    };
    let scratch = solver.scratch()?;
    let keep = Arc::new(tempfile::TempDir::new_in(scratch).map_err(|e| fail(&e))?);
    let mut tar = TarReader::new(tar, Names::Plain);
    let mut entries = Vec::new();
    let mut in_memory = 0;
    while let Some(item) = tar.next_entry().map_err(|e| fail(&e))? {
        let Item::Put(entry) = item else {
            continue;
        };
        let body = match entry.kind {
            Kind::File { size: 0 } => Body::None,
            Kind::File { size } if size <= SMALL && in_memory + size <= SMALL_IN_ALL => {
                in_memory += size;
                let mut bytes = Vec::new();
                tar.body().read_to_end(&mut bytes).map_err(|e| fail(&e))?;
                Body::Bytes(bytes.into())
            }
            Kind::File { .. } => {
                let path = keep.path().join(entries.len().to_string());
                let mut file = std::fs::File::create_new(&path).map_err(|e| fail(&e))?;
                std::io::copy(&mut tar.body(), &mut file).map_err(|e| fail(&e))?;
                file.flush().map_err(|e| fail(&e))?;
                Body::Spooled {
                    path,
                    keep: Arc::clone(&keep),
                }
            }
            _ => Body::None,
        };
        entries.push((entry, body));
    }
    Ok(Source::Archive(entries))
}

/// Fetches what a URL names: a git repository, an archive to unpack, or a
/// file.
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
    let options = GitOptions {
        keep_git_dir: op.keep_git_dir.unwrap_or(false),
        checksum: op.checksum.clone(),
        ..options.clone()
    };
    let fail = |e: &dyn std::error::Error| StepError::Refused {
        message: chain(e),
        hint: None,
    };
    let work = tempfile::TempDir::new_in(solver.scratch()?).map_err(|e| fail(&e))?;
    // The directory lives until the build's scratch directory goes.
    let work = work.keep();
    let checkout = git::checkout(url, &options, &work, &solver.env.cancel).map_err(|e| fail(&e))?;
    let tree: Arc<dyn Tree> =
        Arc::new(LocalTree::open(&checkout.tree, None).map_err(|e| fail(&e))?);
    let matches = select(&*tree, "/", false, exclude)?;
    let mut hasher = Hasher::new();
    hasher.field(b"git");
    hasher.field(checkout.commit.as_bytes());
    hasher.field(format!("{:?}", url.subdir()).as_bytes());
    hasher.field(if options.keep_git_dir { b"1" } else { b"0" });
    Ok(Fetched {
        digest: hasher.finish(),
        source: Source::Tree {
            tree: SharedTree(tree),
            matches,
        },
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
    let known: Option<Remembered> = env
        .store
        .cache_get(&key)
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
        authorization: None,
        limit: MAX_DOWNLOAD,
    };
    let scratch = solver.scratch()?;
    let fetched =
        http::fetch(&env.remote.agent, &request, scratch, &env.cancel).map_err(|e| fail(&e))?;
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
            let record = serde_json::to_vec(&file).map_err(|e| fail(&e))?;
            env.store.cache_put(&key, &record)?;
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
    if op.unpack == Some(true) {
        let reader = env.store.open(&blob).map_err(|e| fail(&e))?;
        let Some(tar) = open_archive(reader).map_err(|e| fail(&e))? else {
            return Err(StepError::Refused {
                message: format!("{} is no archive that can be unpacked", http::redacted(url)),
                hint: None,
            });
        };
        let source = read_archive(solver, tar, Path::new(&file.name))?;
        return Ok(Fetched { digest, source });
    }
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
