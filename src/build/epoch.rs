//! The time of what `SOURCE_DATE_EPOCH` names.

use std::io::Read;

use super::error::{BuildError, SourceText};
use super::frontend::secret;
use super::input::{Input, Reader};
use super::plan_options;
use crate::context::git::{self, GitOptions, GitUrl};
use crate::context::{auth, http};
use crate::digest::Digest;
use crate::dockerfile::ast::Dockerfile;
use crate::graph::{EpochSource, PlanError, SOURCE_DATE_EPOCH, epoch_source};
use crate::layer::Kind;
use crate::layer::archive::open_archive;
use crate::layer::tar_read::{Item, Names, TarReader};
use crate::platform::Platform;

/// The largest file that is fetched for its time, in bytes.
const MAX_DOWNLOAD: u64 = 64 << 30;

/// The build argument that takes the place of what `SOURCE_DATE_EPOCH` names:
/// its time as a number, or nothing where it has none. `None` where nothing
/// is named.
pub(super) fn resolve(
    file: &Dockerfile,
    input: &Input,
    reader: &Reader<'_>,
    source: &SourceText,
) -> Result<Option<(String, String)>, BuildError> {
    let options = plan_options(reader.request, Platform::host());
    let time = match epoch_source(file, &options).map_err(|e| source.plan(e))? {
        None | Some(EpochSource::Seconds(_)) => return Ok(None),
        Some(EpochSource::Context) => input.main.time,
        Some(EpochSource::Named(name)) => input.named_times.get(&name).copied(),
        Some(EpochSource::Remote {
            url,
            checksum,
            span,
        }) => of_remote(&url, checksum.as_deref(), reader).map_err(|e| match e {
            Failure::Cancelled => BuildError::Cancelled,
            Failure::Other(message) => source.plan(PlanError {
                message: format!("can't find the time of {}: {message}", http::redacted(&url)),
                span: Some(span),
                hint: None,
            }),
        })?,
    };
    let text = time.map(|seconds| seconds.to_string()).unwrap_or_default();
    Ok(Some((SOURCE_DATE_EPOCH.to_owned(), text)))
}

enum Failure {
    Cancelled,
    Other(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        Self::Other(text)
    }
}

/// When the commit was made, when the server says that the file was changed,
/// or the time of the archive's newest file.
fn of_remote(
    url: &str,
    checksum: Option<&str>,
    reader: &Reader<'_>,
) -> Result<Option<i64>, Failure> {
    let secrets = |id: &str| secret(&reader.request.secrets, id);
    let scratch = tempfile::TempDir::new_in(reader.scratch)?;
    if let Some(repository) = GitUrl::parse(url)? {
        let options = GitOptions {
            checksum: checksum.map(str::to_owned),
            authorization: auth::for_git(repository.remote(), &secrets)?,
            ..reader.git().map_err(Failure::Other)?
        };
        let done = git::checkout(&repository, &options, scratch.path(), reader.cancel);
        return match done {
            Ok(done) => Ok(Some(done.time)),
            Err(git::GitError::Cancelled) => Err(Failure::Cancelled),
            Err(e) => Err(e.into()),
        };
    }
    let checksum = checksum.map(Digest::parse).transpose()?;
    let authorization = auth::for_http(url, &secrets)?;
    let request = http::Request {
        url,
        checksum: checksum.as_ref(),
        known: None,
        authorization: authorization.as_deref(),
        limit: MAX_DOWNLOAD,
    };
    let fetched = http::fetch(
        &reader.remote.agents,
        &request,
        scratch.path(),
        reader.cancel,
    );
    let download = match fetched {
        Ok(http::Fetched::File(download)) => download,
        // Nothing was said to be known.
        Ok(http::Fetched::Unchanged) => return Ok(None),
        Err(http::HttpError::Cancelled) => return Err(Failure::Cancelled),
        Err(e) => return Err(e.into()),
    };
    if download.validators.last_modified.is_some() && download.mtime.secs > 0 {
        return Ok(Some(download.mtime.secs));
    }
    Ok(newest(download.file.reopen()?))
}

/// The newest time of an archive's files; `None` for what is no archive.
fn newest(file: impl Read + Send + 'static) -> Option<i64> {
    let mut tar = TarReader::new(open_archive(file).ok()??, Names::Plain);
    let mut time = None;
    while let Some(item) = tar.next_entry().ok()? {
        if let Item::Put(entry) = item
            && matches!(entry.kind, Kind::File { .. })
        {
            time = time.max(Some(entry.meta.mtime.secs));
        }
    }
    time
}
