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
use crate::context::select::{Found, Kinds, Match, Of, is_portable_xattr};
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
    /// What was selected can't be had back from where it waits.
    #[error("can't read the list of what is added")]
    Waiting(#[source] io::Error),
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
            Source::Tree {
                found: Some(found),
                contents,
            } => {
                let top = match &found.of {
                    Of::Path { top, .. } => top,
                    Of::Pattern(kinds) => {
                        unpack_matches(&contents, &found, *kinds, options, &mut out)?;
                        continue;
                    }
                };
                out.push(match archive_of(&contents, &found, top, options)? {
                    Some(archive) => Source::Archive(archive),
                    None => Source::Tree {
                        contents,
                        found: Some(found),
                    },
                });
            }
            Source::Tree { found: None, .. } => {}
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

/// The entries of an entry of a match that is an archive.
fn archive_of(
    contents: &Arc<Contents>,
    found: &Match,
    entry: &Found,
    options: &UnpackOptions<'_>,
) -> Result<Option<Archive>, AddError> {
    let Some(file) = contents.file(entry) else {
        return Ok(None);
    };
    let path = found.path_of(entry);
    let file = contents.open(file).map_err(|source| AddError::Read {
        path: path.clone(),
        source,
    })?;
    entries(file, &path, options)
}

/// Parts the matches of a pattern where archives are.
fn unpack_matches(
    contents: &Arc<Contents>,
    found: &Match,
    all: Kinds,
    options: &UnpackOptions<'_>,
    out: &mut Vec<Source>,
) -> Result<(), AddError> {
    let mut reader = found.below.read();
    let mut part = Part::new(reader.place());
    // Also where there is nothing in it, it makes the destination.
    (part.kinds.dirs, part.kinds.dir_first) = (all.dir_first, all.dir_first);
    while let Some(entry) = reader.next() {
        let entry = entry.map_err(AddError::Waiting)?;
        let archive = match entry.itself {
            true => archive_of(contents, found, &entry, options)?,
            false => None,
        };
        match archive {
            Some(archive) => {
                let ended = std::mem::replace(&mut part, Part::new(reader.place()));
                out.extend(ended.of(contents, found));
                out.push(Source::Archive(archive));
            }
            None => part.add(&entry),
        }
    }
    // Where nothing else is in them, directories make the destination too.
    part.kinds.dirs |= all.dirs && part.count == found.below.len();
    out.extend(part.of(contents, found));
    Ok(())
}

/// Some of the matches of a pattern.
struct Part {
    place: u64,
    count: u64,
    bytes: u64,
    kinds: Kinds,
}

impl Part {
    fn new(place: u64) -> Self {
        Self {
            place,
            count: 0,
            bytes: 0,
            kinds: Kinds::default(),
        }
    }

    fn add(&mut self, entry: &Found) {
        self.count += 1;
        match entry.itself {
            true => self.kinds.others = true,
            false => self.kinds.add_dir(),
        }
        if let (Kind::File { size }, 0) = (&entry.node.kind, entry.back) {
            self.bytes = self.bytes.saturating_add(*size);
        }
    }

    /// The source that it is; `None` for nothing.
    fn of(self, contents: &Arc<Contents>, all: &Match) -> Option<Source> {
        (self.count > 0 || self.kinds.dirs).then(|| Source::Tree {
            contents: Arc::clone(contents),
            found: Some(Match {
                of: Of::Pattern(self.kinds),
                path: all.path.clone(),
                below: Arc::new(all.below.part(self.place, self.count)),
                bytes: self.bytes,
            }),
        })
    }
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
