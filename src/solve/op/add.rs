//! What ADD does beyond COPY: archives among the sources become their entries.
//!
//! Whether a file is an archive is told by its content. An archive is read
//! once, in order; since a layer's entries are in path order, the contents of
//! its files wait in memory or in a private directory until their turn.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::{Body, Source};
use crate::context::select::is_portable_xattr;
use crate::event::Cancel;
use crate::layer::archive::open_archive;
use crate::layer::tar_read::{Item, Names, TarError, TarReader};
use crate::layer::{Entry, Kind};

/// Files up to this size, in bytes, wait in memory…
const SMALL: u64 = 64 << 10;
/// …as long as all of them together are not more than this.
const IN_MEMORY: u64 = 64 << 20;

/// Why an archive can't be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// A source can't be read.
    #[error("reading {path:?}")]
    Read {
        /// The source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive breaks off or makes no sense.
    #[error("unpacking {path:?}")]
    Archive {
        /// The source.
        path: PathBuf,
        /// Why.
        source: TarError,
    },
    /// Contents can't be put aside.
    #[error("storing the content of {path:?}")]
    Spool {
        /// The source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive is a bomb, or far larger than expected.
    #[error("{path:?} has more than the {limit} {what} that are allowed")]
    TooLarge {
        /// The source.
        path: PathBuf,
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// The work was given up.
    #[error("cancelled")]
    Cancelled,
}

/// Limits and places for unpacking.
#[derive(Debug, Clone)]
pub struct UnpackOptions<'a> {
    /// Where contents wait; a private directory is made in it.
    pub temp: &'a Path,
    /// Bytes that the files of one archive may have together.
    pub max_bytes: u64,
    /// Entries that one archive may have.
    pub max_entries: u64,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

/// Replaces each archive among `sources` by its entries, all others stay as
/// they are and where they are.
pub fn unpack_archives(
    sources: Vec<Source>,
    options: &UnpackOptions<'_>,
) -> Result<Vec<Source>, AddError> {
    let mut out = Vec::with_capacity(sources.len());
    for source in sources {
        match source {
            Source::Tree { contents, matches } => {
                for (part, found) in matches {
                    let archive = match contents.file(part, &found.top) {
                        Some(file) => {
                            let fail = |source| AddError::Read {
                                path: found.path.clone(),
                                source,
                            };
                            let file = contents.open(file).map_err(fail)?;
                            entries(file, &found.path, options)?
                        }
                        None => None,
                    };
                    match (archive, out.last_mut()) {
                        (Some(entries), _) => out.push(Source::Archive(entries)),
                        (
                            None,
                            Some(Source::Tree {
                                contents: last,
                                matches,
                            }),
                        ) if Arc::ptr_eq(last, &contents) => {
                            matches.push((part, found));
                        }
                        (None, _) => out.push(Source::Tree {
                            contents: Arc::clone(&contents),
                            matches: vec![(part, found)],
                        }),
                    }
                }
            }
            Source::File(single) => {
                let name = PathBuf::from(&single.name);
                let archive = match &single.body {
                    Body::None => None,
                    Body::Bytes(bytes) => entries(io::Cursor::new(bytes.clone()), &name, options)?,
                    Body::Spooled { path, .. } => {
                        let file = File::open(path).map_err(|source| AddError::Read {
                            path: name.clone(),
                            source,
                        })?;
                        entries(file, &name, options)?
                    }
                };
                out.push(match archive {
                    Some(entries) => Source::Archive(entries),
                    None => Source::File(single),
                });
            }
            Source::Archive(entries) => out.push(Source::Archive(entries)),
        }
    }
    Ok(out)
}

/// The entries of the archive `reader`, `None` when it is none.
fn entries(
    reader: impl Read + Send + 'static,
    path: &Path,
    options: &UnpackOptions<'_>,
) -> Result<Option<Vec<(Entry, Body)>>, AddError> {
    let archive = open_archive(reader).map_err(|source| AddError::Read {
        path: path.to_owned(),
        source,
    })?;
    let Some(archive) = archive else {
        return Ok(None);
    };
    let fail = |source| AddError::Archive {
        path: path.to_owned(),
        source,
    };
    let too_large = |limit, what| AddError::TooLarge {
        path: path.to_owned(),
        limit,
        what,
    };
    let mut spool = Spool::new(path, options);
    let mut tar = TarReader::new(archive, Names::Plain);
    let mut out = Vec::new();
    while let Some(item) = tar.next_entry().map_err(fail)? {
        if options.cancel.is_cancelled() {
            return Err(AddError::Cancelled);
        }
        // Only layers have anything but entries.
        let Item::Put(mut entry) = item else { continue };
        if out.len() as u64 >= options.max_entries {
            return Err(too_large(options.max_entries, "entries"));
        }
        entry.meta.xattrs.retain(|name, _| is_portable_xattr(name));
        let body = match entry.kind {
            Kind::File { size } => {
                spool.bytes = spool.bytes.saturating_add(size);
                if spool.bytes > options.max_bytes {
                    return Err(too_large(options.max_bytes, "bytes"));
                }
                spool.keep(tar.body(), size)?
            }
            _ => Body::None,
        };
        out.push((entry, body));
    }
    Ok(Some(out))
}

/// Where the contents of one archive wait.
struct Spool<'a> {
    source: &'a Path,
    options: &'a UnpackOptions<'a>,
    dir: Option<Arc<tempfile::TempDir>>,
    files: u64,
    bytes: u64,
    in_memory: u64,
}

impl<'a> Spool<'a> {
    fn new(source: &'a Path, options: &'a UnpackOptions<'a>) -> Self {
        Self {
            source,
            options,
            dir: None,
            files: 0,
            bytes: 0,
            in_memory: 0,
        }
    }

    fn keep<R: Read>(
        &mut self,
        mut body: crate::layer::tar_read::Body<'_, R>,
        size: u64,
    ) -> Result<Body, AddError> {
        let broken = |source: io::Error| AddError::Archive {
            path: self.source.to_owned(),
            source: TarError::Read(source),
        };
        if size == 0 {
            return Ok(Body::None);
        }
        if size <= SMALL && self.in_memory + size <= IN_MEMORY {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).map_err(broken)?;
            self.in_memory += size;
            return Ok(Body::Bytes(bytes.into()));
        }
        let fail = |source: io::Error| AddError::Spool {
            path: self.source.to_owned(),
            source,
        };
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => {
                let dir = tempfile::Builder::new()
                    .prefix("add-")
                    .tempdir_in(self.options.temp)
                    .map_err(fail)?;
                self.dir.insert(Arc::new(dir)).clone()
            }
        };
        let path = dir.path().join(self.files.to_string());
        self.files += 1;
        let mut file = File::create_new(&path).map_err(fail)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            // Holes stay holes: a sparse file may be larger than the disk.
            let hole = body.skip_hole();
            if hole > 0 {
                let by = i64::try_from(hole).map_err(|e| fail(io::Error::other(e)))?;
                file.seek(SeekFrom::Current(by)).map_err(fail)?;
            }
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(broken(e)),
            };
            file.write_all(buffer.get(..n).unwrap_or_default())
                .map_err(fail)?;
            if self.options.cancel.is_cancelled() {
                return Err(AddError::Cancelled);
            }
        }
        file.set_len(size).map_err(fail)?;
        Ok(Body::Spooled { path, keep: dir })
    }
}

#[cfg(test)]
#[path = "add_tests.rs"]
mod tests;
