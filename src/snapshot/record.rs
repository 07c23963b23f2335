//! A tree as it was once, kept in a file: what an image was unpacked to, for
//! finding out later what has changed.
//!
//! A [`Record`] is a [table](super::copy::Table) whose rows say what each
//! entry is. It is also the tree that changes are compared with, but for the
//! bytes of files: whoever knows their digests gives [`Contents`].
//!
//! ```text
//! record   magic, young i64 u32, length of the detail u32, detail of the root,
//!          rows
//! ```
//! Numbers are little-endian.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::copy::{Table, TableChanges};
use super::kept::Kept;
use super::rows::{self, Reader, Rows};
use crate::context::{Node, Tree};
use crate::digest::{Digest, HashingWriter};
use crate::layer::index::Spool;
use crate::layer::{Kind, Meta, Mtime};

/// Begins what [`Record::write_to`] writes; changes with its form.
const MAGIC: &[u8; 16] = b"shiplap-record3\n";
/// Directories that are kept open for further names; as many as are walked at
/// the same time, and more.
const MAX_OPEN: usize = 8;

/// Says what bytes a file had.
pub trait Contents: Send + Sync {
    /// The sha256 of the file at `path`, a path without links; `None` where it
    /// is not known.
    ///
    /// # Errors
    /// When it can't be found out.
    fn digest(&self, path: &Path) -> io::Result<Option<Digest>>;
}

/// The status and the metadata of every entry of a tree at one time.
#[derive(Debug)]
pub struct Record {
    table: Arc<Table>,
    /// What [`rows::detail`] says of the root.
    root: Vec<u8>,
}

impl Record {
    /// Notes the tree `root`, in `spool`. `kept` says what stands for what on
    /// its disk.
    ///
    /// # Errors
    /// When something can't be read, or `spool` not be written.
    pub fn read(root: &Path, kept: Kept, spool: Spool) -> io::Result<Self> {
        let (table, entry) = Table::record(root, kept, spool)?;
        Ok(Self {
            table: Arc::new(table),
            root: rows::detail(&entry.kind, &entry.meta),
        })
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the tree had no entries.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// What changed in `root` since it was noted, in terms of the image; see
    /// [`Table::changes`].
    ///
    /// # Errors
    /// When something can't be read.
    pub fn changes(
        self,
        root: &Path,
        contents: Arc<dyn Contents>,
        kept: Kept,
    ) -> io::Result<TableChanges> {
        let table = Arc::clone(&self.table);
        let lower = Recorded::new(self, contents);
        table.compare_once(root, Arc::new(lower), kept)
    }

    /// Writes all of it, for [`read_from`](Self::read_from).
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut head = MAGIC.to_vec();
        let young = self.table.young();
        head.extend_from_slice(&young.secs.to_le_bytes());
        head.extend_from_slice(&young.nanos.to_le_bytes());
        let root = u32::try_from(self.root.len()).unwrap_or(u32::MAX);
        head.extend_from_slice(&root.to_le_bytes());
        head.extend_from_slice(&self.root);
        out.write_all(&head)?;
        self.table.rows().write_to(out)
    }

    /// Reads what [`write_to`](Self::write_to) wrote, to the end of `input`.
    /// Most of it stays in the file, which may not change then.
    ///
    /// # Errors
    /// When it can't be read, or is anything else.
    pub fn read_from(mut input: BufReader<File>) -> io::Result<Self> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        if rows::array(&mut input)? != *MAGIC {
            return Err(damaged());
        }
        let young = Mtime {
            secs: i64::from_le_bytes(rows::array(&mut input)?),
            nanos: u32::from_le_bytes(rows::array(&mut input)?),
        };
        let root = rows::text(&mut input)?;
        rows::parse_detail(&root).ok_or_else(damaged)?;
        let table = Arc::new(Table::of(Rows::read_from(input)?, young));
        Ok(Self { table, root })
    }
}

/// The tree that a record describes.
struct Recorded {
    record: Record,
    contents: Arc<dyn Contents>,
    /// The directories that were looked in last, by path.
    open: Mutex<Vec<(PathBuf, Reader)>>,
}

impl Recorded {
    fn new(record: Record, contents: Arc<dyn Contents>) -> Self {
        Self {
            record,
            contents,
            open: Mutex::default(),
        }
    }

    fn find(&self, path: &Path) -> io::Result<Option<(Kind, Meta)>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(rows::parse_detail(&self.record.root));
        };
        let Some((dir, mut reader)) = self.dir(parent)? else {
            return Ok(None);
        };
        let found = reader.find(self.record.table.rows(), name.as_bytes())?;
        let found = found.and_then(|(row, _)| rows::parse_detail(row.detail));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() == MAX_OPEN {
            open.remove(0);
        }
        open.push((dir, reader));
        Ok(found)
    }

    /// The directory at `path`; `None` where there was none.
    fn dir(&self, path: &Path) -> io::Result<Option<(PathBuf, Reader)>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = open
            .iter()
            .position(|(p, _)| p.as_os_str() == path.as_os_str())
        {
            return Ok(Some(open.remove(n)));
        }
        drop(open);
        let mut reader = Reader::new(0);
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            let found = reader.find(self.record.table.rows(), name.as_bytes())?;
            let Some(child) = found.and_then(|(_, child)| child) else {
                return Ok(None);
            };
            reader = Reader::new(child);
        }
        Ok(Some((path.to_owned(), reader)))
    }
}

impl Tree for Recorded {
    fn lookup(&self, path: &Path, _: bool) -> io::Result<Option<Node>> {
        Ok(self.find(path)?.map(|(kind, meta)| Node {
            kind,
            meta: Meta {
                xattrs: BTreeMap::new(),
                ..meta
            },
            ctime: Mtime::default(),
            inode: (0, 0),
            links: 1,
            digest: None,
        }))
    }

    fn read_dir(&self, _: &Path) -> io::Result<Vec<(OsString, Node)>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, _: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn has_content(&self, path: &Path, mut other: File) -> io::Result<bool> {
        let Some(digest) = self.contents.digest(path)? else {
            return Ok(false);
        };
        let mut hashed = HashingWriter::new(io::sink());
        io::copy(&mut other, &mut hashed)?;
        Ok(hashed.finish().1 == digest)
    }

    fn xattrs(&self, path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let found = self.find(path)?;
        Ok(found.map(|(_, meta)| meta.xattrs).unwrap_or_default())
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Unknown;

    impl Contents for Unknown {
        fn digest(&self, _: &Path) -> io::Result<Option<Digest>> {
            Ok(None)
        }
    }

    #[test]
    fn every_name_of_a_large_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let name = |n: usize| format!("{:05}", 2 * n + 1);
        let count = 2_000;
        for n in 0..count {
            let path = dir.path().join(name(n));
            match n % 7 {
                0 => std::fs::create_dir_all(path.join(format!("in{n}"))).unwrap(),
                _ => std::fs::write(path, vec![b'x'; n % 11]).unwrap(),
            }
        }
        let record = Record::read(dir.path(), Kept::OnDisk, Spool::memory()).unwrap();
        let recorded = Recorded::new(record, Arc::new(Unknown));
        assert!(recorded.record.table.rows().block(0, 1).is_some());
        let kind = |path: &str| {
            let found = recorded.find(Path::new(path)).unwrap();
            found.map(|(kind, _)| kind)
        };
        for n in 0..count {
            let size = (n % 11) as u64;
            let expected = match n % 7 {
                0 => Kind::Dir,
                _ => Kind::File { size },
            };
            assert_eq!(kind(&name(n)), Some(expected), "{n}");
            let inner = format!("{}/in{n}", name(n));
            assert_eq!(kind(&inner), (n % 7 == 0).then_some(Kind::Dir), "{n}");
        }
        for n in 0..=count {
            assert_eq!(kind(&format!("{:05}", 2 * n)), None, "{n}");
        }
        // In no order, there and not there.
        for n in (0..count).map(|n| n * 977 % count) {
            assert!(kind(&name(n)).is_some(), "{n}");
            assert_eq!(kind(&format!("{:05}", 2 * n)), None, "{n}");
        }
    }
}
