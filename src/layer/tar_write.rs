//! Writes the one tar that a list of changes has.
//!
//! The bytes depend on the entries alone: a ustar header where everything
//! fits, an extended header before it with just the fields that do not, no
//! user and group names, fixed attributes on whiteouts, two zero blocks at the
//! end. The order is the caller's.
//!
//! # Specification
//! image-spec `layer.md`; POSIX.1-2017 `pax`.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::ustar::{self, BLOCK, Block};
use super::{Change, Content, Entry, Kind, Mtime, pax, whiteout};

/// Why a change can't be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No tar can hold the entry.
    #[error("{path:?} can't be put into a layer: {reason}")]
    Unrepresentable {
        /// The entry.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The file is not as long as its entry says.
    #[error("{path:?} changed while it was read: {expected} bytes were expected, it has {found}")]
    Length {
        /// The entry.
        path: PathBuf,
        /// Bytes that the entry has.
        expected: u64,
        /// What was found.
        found: String,
    },
    /// The file can't be read.
    #[error("can't read {path:?} for the layer")]
    Read {
        /// The entry.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The list of changes broke off.
    #[error("can't list what the layer holds")]
    Changes(#[source] io::Error),
    /// The tar can't be written.
    #[error("can't write the layer")]
    Write(#[from] io::Error),
}

/// Writes entries in the order they are given.
///
/// Without [`finish`](Self::finish) the archive has no end.
#[derive(Debug)]
pub struct TarWriter<W: Write> {
    inner: W,
    clamp_mtime: Option<i64>,
    bytes: u64,
    entries: u64,
    buffer: Vec<u8>,
}

/// The bytes that files are read in.
const BUFFER: usize = 128 << 10;

impl<W: Write> TarWriter<W> {
    /// Writes to `inner`. With `clamp_mtime` no entry gets a time after that
    /// second.
    pub fn new(inner: W, clamp_mtime: Option<i64>) -> Self {
        Self {
            inner,
            clamp_mtime,
            bytes: 0,
            entries: 0,
            buffer: Vec::new(),
        }
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries written so far, whiteouts among them.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Writes one change, reading its content.
    pub fn change(&mut self, change: Change) -> Result<(), WriteError> {
        match change {
            Change::Whiteout(path) => self.whiteout(&path),
            Change::Opaque(path) => self.opaque(&path),
            Change::Put(entry, Content::None) => self.put(&entry, &mut io::empty()),
            Change::Put(entry, Content::Bytes(bytes)) => self.put(&entry, &mut &bytes[..]),
            Change::Put(entry, Content::Open(open)) => {
                let mut file = open().map_err(|source| WriteError::Read {
                    path: entry.path.clone(),
                    source,
                })?;
                self.put(&entry, &mut file)
            }
            Change::Put(entry, Content::Read(open)) => {
                let mut reader = open().map_err(|source| WriteError::Read {
                    path: entry.path.clone(),
                    source,
                })?;
                self.put(&entry, &mut *reader)
            }
        }
    }

    /// Writes one entry with the content that `body` has.
    ///
    /// # Errors
    /// When no tar can hold it, and when `body` does not have exactly the
    /// entry's size; the archive is then unusable.
    pub fn put(&mut self, entry: &Entry, body: &mut dyn Read) -> Result<(), WriteError> {
        if whiteout::is_reserved(&entry.path) {
            return Err(unrepresentable(
                &entry.path,
                "names that begin with .wh. stand for removed files; rename it",
            ));
        }
        self.header(entry, self.mtime(entry.meta.mtime))?;
        let Kind::File { size } = entry.kind else {
            return Ok(());
        };
        self.body(entry, size, body)
    }

    /// Writes that `path` is gone.
    pub fn whiteout(&mut self, path: &Path) -> Result<(), WriteError> {
        if whiteout::is_reserved(path) {
            return Err(unrepresentable(path, "a whiteout can't be removed"));
        }
        let name = whiteout::whiteout_name(path)
            .ok_or_else(|| unrepresentable(path, "the root can't be removed"))?;
        self.marker(name)
    }

    /// Writes that lower layers' content of the directory `path` is gone.
    pub fn opaque(&mut self, path: &Path) -> Result<(), WriteError> {
        self.marker(whiteout::opaque_name(path))
    }

    fn marker(&mut self, path: PathBuf) -> Result<(), WriteError> {
        let entry = Entry {
            path,
            kind: Kind::File { size: 0 },
            meta: super::Meta::default(),
        };
        self.header(&entry, Mtime::default())
    }

    /// Adds what another writer has written, without its end.
    pub(super) fn append(&mut self, tar: &[u8]) -> io::Result<()> {
        self.write(tar)
    }

    /// Hands back the writer without ending the archive.
    pub(super) fn into_inner(self) -> W {
        self.inner
    }

    /// Ends the archive and hands back the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.inner)
    }

    fn mtime(&self, mtime: Mtime) -> Mtime {
        match self.clamp_mtime {
            Some(secs) => mtime.min(Mtime { secs, nanos: 0 }),
            None => mtime,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.write(&[0; BLOCK][..ustar::padding(size)])
    }

    fn body(&mut self, entry: &Entry, size: u64, body: &mut dyn Read) -> Result<(), WriteError> {
        let wrong = |found: String| WriteError::Length {
            path: entry.path.clone(),
            expected: size,
            found,
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER, 0);
        let mut left = size;
        loop {
            // One byte more than is left, to see a file that has grown without
            // another read.
            let want = usize::try_from(left)
                .unwrap_or(BUFFER)
                .saturating_add(1)
                .min(BUFFER);
            let n = match body.read(&mut buffer[..want]) {
                Ok(0) if left == 0 => break,
                Ok(0) => return Err(wrong((size - left).to_string())),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(WriteError::Read {
                        path: entry.path.clone(),
                        source,
                    });
                }
            };
            left = left
                .checked_sub(n as u64)
                .ok_or_else(|| wrong("more".into()))?;
            self.write(&buffer[..n])?;
        }
        self.buffer = buffer;
        self.pad(size)?;
        Ok(())
    }

    fn header(&mut self, entry: &Entry, mtime: Mtime) -> Result<(), WriteError> {
        let (block, records) = encode(entry, mtime)?;
        if !records.is_empty() {
            let extended = extended(&entry.path, records.len() as u64);
            self.write(&extended)?;
            self.write(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.write(&block)?;
        self.entries += 1;
        Ok(())
    }
}

fn unrepresentable(path: &Path, reason: impl Into<String>) -> WriteError {
    WriteError::Unrepresentable {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// The header block, and the records that it has no room for.
fn encode(entry: &Entry, mtime: Mtime) -> Result<(Block, Vec<u8>), WriteError> {
    let fail = |reason: &str| unrepresentable(&entry.path, reason);
    let mut block = [0; BLOCK];
    let mut records = Vec::new();
    let name = entry_name(entry).map_err(fail)?;
    if !put_name(&mut block, &name) {
        ustar::NAME.put(&mut block, &ascii(&name));
        pax::push(&mut records, b"path", &name);
    }
    let (kind, size, device) = match &entry.kind {
        Kind::File { size } => (b'0', *size, None),
        Kind::Dir => (b'5', 0, None),
        Kind::Symlink { .. } => (b'2', 0, None),
        Kind::Hardlink { .. } => (b'1', 0, None),
        Kind::Char { major, minor } => (b'3', 0, Some((*major, *minor))),
        Kind::Block { major, minor } => (b'4', 0, Some((*major, *minor))),
        Kind::Fifo => (b'6', 0, None),
    };
    if let Kind::Symlink { target } | Kind::Hardlink { target } = &entry.kind {
        let text = target.as_os_str().as_bytes();
        if text.is_empty() || text.contains(&0) {
            return Err(fail("its link has no target"));
        }
        if text.len() <= ustar::LINK.len && text.is_ascii() {
            ustar::LINK.put(&mut block, text);
        } else {
            ustar::LINK.put(&mut block, &ascii(text));
            pax::push(&mut records, b"linkpath", text);
        }
    }
    let mut number = |field: ustar::Field, key: &[u8], value: u64| {
        if value <= field.max() {
            field.put_octal(&mut block, value);
        } else {
            field.put_octal(&mut block, 0);
            pax::push(&mut records, key, value.to_string().as_bytes());
        }
    };
    number(ustar::SIZE, b"size", size);
    number(ustar::UID, b"uid", entry.meta.uid.into());
    number(ustar::GID, b"gid", entry.meta.gid.into());
    let whole = u64::try_from(mtime.secs).unwrap_or(u64::MAX);
    if mtime.nanos == 0 && whole <= ustar::MTIME.max() {
        ustar::MTIME.put_octal(&mut block, whole);
    } else {
        let rough = if whole <= ustar::MTIME.max() {
            whole
        } else {
            0
        };
        ustar::MTIME.put_octal(&mut block, rough);
        pax::push(&mut records, b"mtime", pax::format_time(mtime).as_bytes());
    }
    ustar::MODE.put_octal(&mut block, u64::from(entry.meta.mode & 0o7777));
    let (major, minor) = device.unwrap_or((0, 0));
    for (field, value) in [(ustar::MAJOR, major), (ustar::MINOR, minor)] {
        if u64::from(value) > field.max() {
            return Err(fail("its device number is too large"));
        }
        field.put_octal(&mut block, value.into());
    }
    for (name, value) in &entry.meta.xattrs {
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            return Err(fail("an extended attribute has a name with `=` in it"));
        }
        pax::push(&mut records, &[pax::XATTR, name].concat(), value);
    }
    block[ustar::TYPE] = kind;
    ustar::MAGIC.put(&mut block, ustar::POSIX);
    ustar::seal(&mut block);
    Ok((block, records))
}

/// The entry's name in the archive: directories end in a slash, and the root
/// is `./`.
fn entry_name(entry: &Entry) -> Result<Vec<u8>, &'static str> {
    let bytes = entry.path.as_os_str().as_bytes();
    let ok = |c: Component<'_>| matches!(c, Component::Normal(_));
    if !entry.path.components().all(ok) || bytes.contains(&0) {
        return Err("its path is not relative to the root");
    }
    let is_dir = entry.kind == Kind::Dir;
    if bytes.is_empty() && !is_dir {
        return Err("the root must be a directory");
    }
    let mut name = if bytes.is_empty() { b"." } else { bytes }.to_vec();
    while name.last() == Some(&b'/') {
        name.pop();
    }
    if is_dir {
        name.push(b'/');
    }
    Ok(name)
}

/// Puts `name` into the name and prefix fields; false when it does not fit.
fn put_name(block: &mut Block, name: &[u8]) -> bool {
    if !name.is_ascii() {
        return false;
    }
    if name.len() <= ustar::NAME.len {
        ustar::NAME.put(block, name);
        return true;
    }
    // The last slash that leaves something behind it and a short prefix.
    let fits = |at: &usize| {
        *at > 0
            && *at <= ustar::PREFIX.len
            && name.len() - at - 1 <= ustar::NAME.len
            && at + 1 < name.len()
    };
    let mut slashes = (0..name.len()).rev().filter(|at| name[*at] == b'/');
    match slashes.find(fits) {
        Some(at) => {
            ustar::PREFIX.put(block, &name[..at]);
            ustar::NAME.put(block, &name[at + 1..]);
            true
        }
        None => false,
    }
}

/// What readers without extended headers are shown.
fn ascii(text: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| if b.is_ascii() { *b } else { b'_' };
    text.iter().map(plain).collect()
}

/// The header of an extended header with `size` bytes of records.
fn extended(path: &Path, size: u64) -> Block {
    let mut block = [0; BLOCK];
    let mut name = b"PaxHeaders.0/".to_vec();
    let base = path.file_name().map_or(&b"."[..], OsStrExt::as_bytes);
    name.extend(ascii(base));
    ustar::NAME.put(&mut block, &name);
    for (field, value) in [
        (ustar::MODE, 0o644),
        (ustar::UID, 0),
        (ustar::GID, 0),
        (ustar::SIZE, size),
        (ustar::MTIME, 0),
        (ustar::MAJOR, 0),
        (ustar::MINOR, 0),
    ] {
        field.put_octal(&mut block, value);
    }
    block[ustar::TYPE] = b'x';
    ustar::MAGIC.put(&mut block, ustar::POSIX);
    ustar::seal(&mut block);
    block
}

#[cfg(test)]
mod tests;
