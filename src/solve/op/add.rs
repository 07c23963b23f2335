//! What ADD does beyond COPY: archives among the sources become their entries.
//!
//! Whether a file is an archive is told by its content.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::{Archive, ArchiveWriter, Fault, Place};
use super::copy::{Body, Source};
use crate::context::checksum::Contents;
use crate::context::select::{Match, is_portable_xattr};
use crate::event::Cancel;
use crate::layer::Kind;
use crate::layer::archive::open_archive;
use crate::layer::records::NewFile;
use crate::layer::tar_read::{Item, Names, TarError, TarReader};

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
#[derive(Clone, Copy)]
pub struct UnpackOptions<'a> {
    /// Makes files for what has to wait.
    pub new_file: NewFile<'a>,
    /// Bytes that the files of one archive may have together.
    pub max_bytes: u64,
    /// Entries that one archive may have.
    pub max_entries: u64,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for UnpackOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnpackOptions")
            .field("max_bytes", &self.max_bytes)
            .field("max_entries", &self.max_entries)
            .finish_non_exhaustive()
    }
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
                    if found.apart {
                        unpack_apart(&contents, (part, found), options, &mut out)?;
                        continue;
                    }
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
                    match archive {
                        Some(archive) => out.push(Source::Archive(archive)),
                        None => keep(&contents, (part, found), &mut out),
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
                    Some(archive) => Source::Archive(archive),
                    None => Source::File(single),
                });
            }
            Source::Archive(archive) => out.push(Source::Archive(archive)),
        }
    }
    Ok(out)
}

/// Leaves a match what it is.
fn keep(contents: &Arc<Contents>, found: (usize, Match), out: &mut Vec<Source>) {
    match out.last_mut() {
        Some(Source::Tree {
            contents: last,
            matches,
        }) if Arc::ptr_eq(last, contents) => matches.push(found),
        _ => out.push(Source::Tree {
            contents: Arc::clone(contents),
            matches: vec![found],
        }),
    }
}

/// The same for matches that are in one list: parted where archives are.
fn unpack_apart(
    contents: &Arc<Contents>,
    (part, found): (usize, Match),
    options: &UnpackOptions<'_>,
    out: &mut Vec<Source>,
) -> Result<(), AddError> {
    let fail = |source| AddError::Read {
        path: found.path.clone(),
        source,
    };
    // What was looked at and not taken over yet.
    let mut behind = found.below.read();
    let mut left = 0;
    let mut parted = false;
    for entry in found.below.read() {
        let entry = entry.map_err(fail)?;
        let path = found.path_of(&entry);
        let archive = match contents.file(part, &entry) {
            Some(file) => {
                let file = contents.open(file).map_err(|source| AddError::Read {
                    path: path.clone(),
                    source,
                })?;
                entries(file, &path, options)?
            }
            None => None,
        };
        let Some(archive) = archive else {
            left += 1;
            continue;
        };
        let before = found.some(behind.by_ref().take(left), options.new_file);
        behind.next();
        keep(contents, (part, before.map_err(fail)?), out);
        out.push(Source::Archive(archive));
        left = 0;
        parted = true;
    }
    let rest = match parted {
        true => found.some(behind, options.new_file).map_err(fail)?,
        false => found,
    };
    keep(contents, (part, rest), out);
    Ok(())
}

/// The entries of the archive `reader`, `None` when it is none.
fn entries(
    reader: impl Read + Send + 'static,
    path: &Path,
    options: &UnpackOptions<'_>,
) -> Result<Option<Archive>, AddError> {
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
    let put_aside = |fault| match fault {
        Fault::Read(source) => fail(TarError::Read(source)),
        Fault::Write(source) => AddError::Spool {
            path: path.to_owned(),
            source,
        },
        Fault::Cancelled => AddError::Cancelled,
    };
    let mut aside = ArchiveWriter::new(options.new_file, options.cancel);
    let mut tar = TarReader::new(archive, Names::Plain);
    let mut bytes = 0_u64;
    while let Some(item) = tar.next_entry().map_err(fail)? {
        if options.cancel.is_cancelled() {
            return Err(AddError::Cancelled);
        }
        // Only layers have anything but entries.
        let Item::Put(mut entry) = item else { continue };
        if aside.len() >= options.max_entries {
            return Err(too_large(options.max_entries, "entries"));
        }
        entry.meta.xattrs.retain(|name, _| is_portable_xattr(name));
        let mut place = Place::unpacked(0);
        if let Kind::File { size } = entry.kind {
            bytes = bytes.saturating_add(size);
            if bytes > options.max_bytes {
                return Err(too_large(options.max_bytes, "bytes"));
            }
            place = aside.content(tar.body(), size).map_err(put_aside)?;
        }
        aside.push(&entry, place).map_err(put_aside)?;
    }
    aside.finish().map(Some).map_err(put_aside)
}

#[cfg(test)]
#[path = "add_tests.rs"]
mod tests;
