//! What an archive has in it, put aside until a layer wants it.
//!
//! An archive is read once, in order, and a layer's entries are in path order.
//! So the entries wait as packed records, and the contents of files one behind
//! the other: the first small ones in memory, all others in a file.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::event::Cancel;
use crate::layer::code::{Input, field, kind, meta, number};
use crate::layer::records::{Cursor, NewFile, Records};
use crate::layer::tar_read::Body;
use crate::layer::{Content, ContentReader, Entry};

/// Files up to this size, in bytes, wait in memory…
const SMALL: u64 = 64 << 10;
/// …as long as all of them together are not more than this.
const IN_MEMORY: usize = 8 << 20;
/// Bytes that are read and written at a time.
const BUFFER: usize = 128 << 10;

/// An archive that was read.
#[derive(Debug)]
pub struct Archive {
    entries: Records,
    contents: Arc<Contents>,
}

/// Contents of an archive's files.
#[derive(Debug)]
pub(super) struct Contents {
    memory: Vec<u8>,
    file: Option<File>,
}

/// Where a content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    in_file: bool,
    at: u64,
}

impl Place {
    /// As one number.
    pub(super) fn packed(self) -> u64 {
        self.at << 1 | u64::from(self.in_file)
    }

    /// From that number.
    pub(super) fn unpacked(number: u64) -> Self {
        Self {
            in_file: number & 1 == 1,
            at: number >> 1,
        }
    }
}

/// Why an entry can't be put aside.
#[derive(Debug)]
pub(super) enum Fault {
    /// The archive can't be read.
    Read(io::Error),
    /// The file for what waits can't be written.
    Write(io::Error),
    /// The work was given up.
    Cancelled,
}

/// Puts an archive aside.
pub(super) struct ArchiveWriter<'a> {
    new_file: NewFile<'a>,
    cancel: &'a Cancel,
    entries: Records,
    memory: Vec<u8>,
    /// The file, and how long it is.
    file: Option<(BufWriter<File>, u64)>,
    buffer: Vec<u8>,
}

impl<'a> ArchiveWriter<'a> {
    pub(super) fn new(new_file: NewFile<'a>, cancel: &'a Cancel) -> Self {
        Self {
            new_file,
            cancel,
            entries: Records::default(),
            memory: Vec::new(),
            file: None,
            buffer: Vec::new(),
        }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u64 {
        self.entries.len()
    }

    /// Adds an entry, whose content, if it is a file, is at `place`.
    pub(super) fn push(&mut self, entry: &Entry, place: Place) -> Result<(), Fault> {
        let pushed = self.entries.push(self.new_file, |out| {
            field(out, entry.path.as_os_str().as_bytes());
            kind(out, &entry.kind);
            meta(out, &entry.meta);
            number(out, place.packed());
        });
        pushed.map(drop).map_err(Fault::Write)
    }

    /// Takes the content of a file of `size` bytes.
    pub(super) fn content<R: Read>(
        &mut self,
        mut body: Body<'_, R>,
        size: u64,
    ) -> Result<Place, Fault> {
        let at = self.memory.len();
        if size <= SMALL && at + size as usize <= IN_MEMORY {
            body.read_to_end(&mut self.memory).map_err(Fault::Read)?;
            return Ok(Place {
                in_file: false,
                at: at as u64,
            });
        }
        let (file, length) = match &mut self.file {
            Some(known) => known,
            None => {
                let file = (self.new_file)().map_err(Fault::Write)?;
                let file = BufWriter::with_capacity(BUFFER, file);
                self.file.insert((file, 0))
            }
        };
        self.buffer.resize(BUFFER, 0);
        let at = *length;
        let mut end = at;
        loop {
            // Holes stay holes: a sparse file may be larger than the disk.
            let hole = body.skip_hole();
            if hole > 0 {
                end += hole;
                file.seek(SeekFrom::Start(end)).map_err(Fault::Write)?;
            }
            let n = match body.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Fault::Read(e)),
            };
            file.write_all(self.buffer.get(..n).unwrap_or_default())
                .map_err(Fault::Write)?;
            end += n as u64;
            if self.cancel.is_cancelled() {
                return Err(Fault::Cancelled);
            }
        }
        *length = at + size;
        if end != *length {
            file.seek(SeekFrom::Start(*length)).map_err(Fault::Write)?;
        }
        Ok(Place { in_file: true, at })
    }

    /// Takes a content that is at hand.
    #[cfg(test)]
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Place {
        let at = self.memory.len() as u64;
        self.memory.extend_from_slice(bytes);
        Place { in_file: false, at }
    }

    pub(super) fn finish(mut self) -> Result<Archive, Fault> {
        let file = match self.file {
            Some((file, length)) => {
                let file = file
                    .into_inner()
                    .map_err(|e| Fault::Write(e.into_error()))?;
                // A hole at the end has nothing written behind it.
                file.set_len(length).map_err(Fault::Write)?;
                Some(file)
            }
            None => None,
        };
        self.entries.shrink();
        self.memory.shrink_to_fit();
        Ok(Archive {
            entries: self.entries,
            contents: Arc::new(Contents {
                memory: self.memory,
                file,
            }),
        })
    }
}

impl Archive {
    /// Its contents.
    pub(super) fn contents(&self) -> Arc<Contents> {
        Arc::clone(&self.contents)
    }

    /// Its entries, in its own order, and where the contents of files are.
    pub(super) fn entries(&self) -> impl Iterator<Item = io::Result<(Entry, Place)>> {
        let mut cursor = Cursor::new(&self.entries);
        std::iter::from_fn(move || {
            let record = cursor.next_record().transpose()?;
            Some(record.and_then(|r| entry(r).ok_or_else(|| io::ErrorKind::InvalidData.into())))
        })
    }
}

fn entry(record: &[u8]) -> Option<(Entry, Place)> {
    let mut input = Input(record);
    let entry = Entry {
        path: input.path_field()?,
        kind: input.kind()?,
        meta: input.meta()?,
    };
    Some((entry, Place::unpacked(input.number()?)))
}

impl Contents {
    /// The content of `size` bytes at `place`.
    pub(super) fn get(self: &Arc<Self>, place: Place, size: u64) -> io::Result<Content> {
        if size == 0 {
            return Ok(Content::None);
        }
        let mut section = Section {
            contents: Arc::clone(self),
            place,
            left: size,
        };
        if size > SMALL {
            return Ok(Content::Read(Box::new(move || Ok(Box::new(section)))));
        }
        let mut bytes = vec![0; size as usize];
        section.read_exact(&mut bytes)?;
        Ok(Content::Bytes(bytes.into()))
    }
}

/// One of the contents while it is read.
struct Section {
    contents: Arc<Contents>,
    place: Place,
    left: u64,
}

impl ContentReader for Section {}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = &mut buf[..want];
        let n = match (self.place.in_file, &self.contents.file) {
            (true, Some(file)) => file.read_at(buf, self.place.at)?,
            _ => {
                let from = usize::try_from(self.place.at).map_err(io::Error::other)?;
                (self.contents.memory.get(from..).unwrap_or_default()).read(buf)?
            }
        };
        self.place.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
