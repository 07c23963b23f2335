//! A tree as it was once, kept in a file: what an image was unpacked to, for
//! finding out later what has changed.
//!
//! A [`Record`] is a [table](super::copy::Table) whose rows say what each
//! entry is. It is also the tree that changes are compared with, but for the
//! bytes of files: whoever knows their digests gives [`Contents`].
//!
//! ```text
//! record   magic, young i64 u32, detail of the root, count u64, directories
//! dir      number of its first directory u64, entries u64, rows
//! ```
//! Numbers are little-endian; the detail and the rows are behind their lengths,
//! u32.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::copy::{Table, TableChanges};
use super::kept::Kept;
use super::rows::{self, Cursor, Rows};
use crate::context::{Node, Tree};
use crate::digest::{Digest, HashingWriter};
use crate::layer::{Kind, Meta, Mtime};

/// Begins what [`Record::write_to`] writes; changes with its form.
const MAGIC: &[u8; 16] = b"shiplap-record2\n";
/// In a directory of more entries, every so many can be found at once.
const MARKED: usize = 256;

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
    /// Notes the tree `root`. `kept` says what stands for what on its disk.
    ///
    /// # Errors
    /// When something can't be read.
    pub fn read(root: &Path, kept: Kept) -> io::Result<Self> {
        let (table, entry) = Table::record(root, kept)?;
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
        head.extend_from_slice(&(self.table.dirs().len() as u64).to_le_bytes());
        out.write_all(&head)?;
        for dir in self.table.dirs() {
            out.write_all(&(dir.first_child as u64).to_le_bytes())?;
            out.write_all(&(dir.count as u64).to_le_bytes())?;
            let len = u32::try_from(dir.bytes.len())
                .map_err(|_| io::Error::other("a directory has too many entries"))?;
            out.write_all(&len.to_le_bytes())?;
            out.write_all(&dir.bytes)?;
        }
        Ok(())
    }

    /// Reads what [`write_to`](Self::write_to) wrote, to the end of `input`.
    ///
    /// # Errors
    /// When it can't be read, or is anything else.
    pub fn read_from(input: &mut impl Read) -> io::Result<Self> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        if array(input)? != *MAGIC {
            return Err(damaged());
        }
        let young = Mtime {
            secs: i64::from_le_bytes(array(input)?),
            nanos: u32::from_le_bytes(array(input)?),
        };
        let root = text(input)?;
        rows::parse_detail(&root).ok_or_else(damaged)?;
        let mut dirs = Vec::new();
        for _ in 0..u64::from_le_bytes(array(input)?) {
            let mut number = || -> io::Result<usize> {
                usize::try_from(u64::from_le_bytes(array(input)?)).map_err(|_| damaged())
            };
            let (first_child, count) = (number()?, number()?);
            dirs.push(Rows {
                bytes: text(input)?,
                first_child,
                count,
            });
        }
        if input.read(&mut [0])? > 0 {
            return Err(damaged());
        }
        let table = Arc::new(Table::of(dirs, young).ok_or_else(damaged)?);
        Ok(Self { table, root })
    }
}

/// The tree that a record describes.
struct Recorded {
    record: Record,
    contents: Arc<dyn Contents>,
    /// Places in directories that are too large to look at every name.
    marks: HashMap<usize, Vec<Cursor>>,
}

impl Recorded {
    fn new(record: Record, contents: Arc<dyn Contents>) -> Self {
        let dirs = record.table.dirs().iter().enumerate();
        let large = dirs.filter(|(_, dir)| dir.count > MARKED);
        let marks = large.map(|(number, dir)| (number, dir.marks(MARKED)));
        Self {
            marks: marks.collect(),
            record,
            contents,
        }
    }

    fn find(&self, path: &Path) -> Option<(Kind, Meta)> {
        let mut dir = Some(0);
        let mut detail: &[u8] = &self.record.root;
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            let (number, name) = (dir?, name.as_bytes());
            let rows = self.record.table.dirs().get(number)?;
            let from = self.marks.get(&number).and_then(|marks| {
                let is_before =
                    |at: &Cursor| rows.get(*at).is_some_and(|(row, _)| row.name <= name);
                let behind = marks.partition_point(is_before);
                marks.get(behind.checked_sub(1)?).copied()
            });
            let (row, child) = rows.find(from.unwrap_or_default(), name)?;
            (detail, dir) = (row.detail, child);
        }
        rows::parse_detail(detail)
    }
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads bytes behind their length.
fn text(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let len = u32::from_le_bytes(array(input)?);
    let mut bytes = Vec::new();
    // A wrong length takes no more than there is.
    input.take(len.into()).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != u64::from(len) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.shrink_to_fit();
    Ok(bytes)
}

impl Tree for Recorded {
    fn lookup(&self, path: &Path, _: bool) -> io::Result<Option<Node>> {
        Ok(self.find(path).map(|(kind, meta)| Node {
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
        let found = self.find(path);
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
        let count = 3 * MARKED + 7;
        for n in 0..count {
            let path = dir.path().join(name(n));
            match n % 7 {
                0 => std::fs::create_dir_all(path.join(format!("in{n}"))).unwrap(),
                _ => std::fs::write(path, vec![b'x'; n % 11]).unwrap(),
            }
        }
        let record = Record::read(dir.path(), Kept::OnDisk).unwrap();
        let recorded = Recorded::new(record, Arc::new(Unknown));
        assert_eq!(recorded.marks.len(), 1);
        let kind = |path: &str| recorded.find(Path::new(path)).map(|(kind, _)| kind);
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
    }
}
