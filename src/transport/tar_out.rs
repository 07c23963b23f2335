//! Writing a tar archive whose entries come in the order of a copy.
//!
//! The archive grows in a temporary file beside its destination, so that it
//! can be taken back by an entry and appears only when it is complete. Headers
//! are the same for the same content: no owner, no time.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::TransportError;
use crate::sys::whole_file::{Access, Target, WholeFile};

const BLOCK: u64 = 512;

/// Where an archive goes.
pub enum Output {
    /// A file; replaced when the new one is complete.
    File(PathBuf),
    /// A stream such as standard output; gets the archive when it is complete.
    Stream(Box<dyn Write + Send>),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Output {
    pub(super) fn display(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stream(_) => "-".into(),
        }
    }
}

/// An archive under way.
#[derive(Debug)]
pub(super) struct TarOut {
    /// Its destination, for errors.
    place: PathBuf,
    file: Growing,
    /// End of the last whole entry.
    end: u64,
    names: HashSet<String>,
}

enum Growing {
    /// Beside its destination.
    Whole(WholeFile),
    /// In a file without a name, until the stream gets it.
    Aside(File, Box<dyn Write + Send>),
}

impl std::fmt::Debug for Growing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(file) => file.fmt(f),
            Self::Aside(file, _) => file.fmt(f),
        }
    }
}

impl Growing {
    fn aside(out: Box<dyn Write + Send>) -> Result<Self, TransportError> {
        let file = tempfile::tempfile();
        let file = file.map_err(TransportError::file("write", "a temporary file"))?;
        Ok(Self::Aside(file, out))
    }

    fn file(&mut self) -> &mut File {
        match self {
            Self::Whole(file) => file.file(),
            Self::Aside(file, _) => file,
        }
    }
}

impl TarOut {
    pub(super) fn create(output: Output) -> Result<Self, TransportError> {
        let place = PathBuf::from(output.display());
        let file = match output {
            Output::File(path) => {
                let target = Target::open(&path, Access::All);
                match target.map_err(TransportError::file("write", &path))? {
                    Target::Whole(file) => Growing::Whole(file),
                    Target::AsItIs(file) => Growing::aside(Box::new(file))?,
                }
            }
            Output::Stream(out) => Growing::aside(out)?,
        };
        Ok(Self {
            place,
            file,
            end: 0,
            names: HashSet::new(),
        })
    }

    /// The error of a write.
    pub(super) fn failed(&self, source: io::Error) -> TransportError {
        TransportError::file("write", &self.place)(source)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Adds a directory, once.
    pub(super) fn dir(&mut self, name: &str) -> io::Result<()> {
        let name = format!("{}/", name.trim_end_matches('/'));
        if self.names.contains(&name) {
            return Ok(());
        }
        let header = header(&name, 0, true)?;
        self.entry(&name, |file| file.write_all(&header))
    }

    /// Adds a file from memory; does nothing if it is there.
    pub(super) fn bytes(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.names.contains(name) {
            return Ok(());
        }
        let header = header(name, bytes.len() as u64, false)?;
        self.entry(name, |file| {
            file.write_all(&header)?;
            file.write_all(bytes)
        })
    }

    /// Adds a file of `size` bytes.
    pub(super) fn stream(
        &mut self,
        name: &str,
        size: u64,
        reader: &mut dyn Read,
    ) -> io::Result<()> {
        let header = header(name, size, false)?;
        self.entry(name, |file| {
            file.write_all(&header)?;
            let copied = io::copy(reader, file)?;
            if copied == size {
                return Ok(());
            }
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{copied} bytes came, {size} were promised"),
            ))
        })
    }

    /// Adds a file whose size and name are known only when it was written:
    /// `write` gets the file and says both.
    pub(super) fn late(
        &mut self,
        write: impl FnOnce(&mut File) -> io::Result<(String, u64)>,
    ) -> io::Result<String> {
        let mut named = String::new();
        let start = self.end;
        let result = self.at_end(|file| {
            file.seek(SeekFrom::Start(start + BLOCK))?;
            let (name, size) = write(file)?;
            file.seek(SeekFrom::Start(start))?;
            file.write_all(&block(&name, size, tar::EntryType::Regular)?)?;
            file.seek(SeekFrom::Start(start + BLOCK + size))?;
            named = name;
            Ok(())
        });
        result?;
        if !self.names.insert(named.clone()) {
            // Its content is there already under the same name.
            self.take_back(start)?;
        }
        Ok(named)
    }

    fn entry(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.at_end(write)?;
        self.names.insert(name.to_owned());
        Ok(())
    }

    /// Appends what `write` writes, padded; all of it or nothing.
    fn at_end(&mut self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let start = self.end;
        let file = self.file.file();
        file.seek(SeekFrom::Start(start))?;
        let result = write(file).and_then(|()| {
            let end = file.stream_position()?;
            let padding = usize::try_from(end.next_multiple_of(BLOCK) - end).unwrap_or(0);
            file.write_all(&vec![0; padding])?;
            file.stream_position()
        });
        match result {
            Ok(end) => {
                self.end = end;
                Ok(())
            }
            Err(e) => {
                self.take_back(start)?;
                Err(e)
            }
        }
    }

    fn take_back(&mut self, to: u64) -> io::Result<()> {
        self.end = to;
        self.file.file().set_len(to)
    }

    /// Ends the archive and puts it where it belongs.
    pub(super) fn finish(mut self) -> Result<(), TransportError> {
        let fail = TransportError::file("write", &self.place);
        let end = self.end;
        let close = |file: &mut File| {
            file.seek(SeekFrom::Start(end))?;
            file.write_all(&[0; 2 * BLOCK as usize])
        };
        let finished = close(self.file.file()).and_then(|()| match self.file {
            Growing::Whole(file) => file.finish_flushed(),
            Growing::Aside(mut file, mut out) => {
                file.seek(SeekFrom::Start(0))?;
                io::copy(&mut file, &mut out)?;
                out.flush()
            }
        });
        finished.map_err(fail)
    }
}

/// The header of an entry; names that do not fit get a GNU long name before.
fn header(name: &str, size: u64, directory: bool) -> io::Result<Vec<u8>> {
    let kind = if directory {
        tar::EntryType::Directory
    } else {
        tar::EntryType::Regular
    };
    let mut bytes = Vec::new();
    let mut short = name;
    if name.len() > 100 {
        let length = name.len() as u64 + 1;
        bytes.extend(block("././@LongLink", length, tar::EntryType::GNULongName)?);
        bytes.extend(name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512).max(bytes.len() + 1), 0);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        short = name.get(..100).unwrap_or("long");
    }
    bytes.extend(block(short, size, kind)?);
    Ok(bytes)
}

fn block(name: &str, size: u64, kind: tar::EntryType) -> io::Result<[u8; 512]> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_entry_type(kind);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(*header.as_bytes())
}
