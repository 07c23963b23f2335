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

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::copy::{Table, TableChanges};
use super::kept::Kept;
use super::rows::{self, Input, Rows};
use crate::context::{Node, Tree};
use crate::digest::{Digest, HashingWriter};
use crate::layer::{Kind, Meta, Mtime};

/// Begins what [`Record::to_bytes`] writes; changes with its form.
const MAGIC: &[u8; 16] = b"shiplap-record1\n";

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
    pub fn read(root: &Path, kept: &Kept) -> io::Result<Self> {
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
        let lower = Recorded {
            record: self,
            contents,
        };
        table.compare(root, Arc::new(lower), Some(kept))
    }

    /// All of it, for [`parse`](Self::parse).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let young = self.table.young();
        out.extend_from_slice(&young.secs.to_le_bytes());
        out.extend_from_slice(&young.nanos.to_le_bytes());
        rows::text(&mut out, &self.root);
        out.extend_from_slice(&(self.table.dirs().len() as u64).to_le_bytes());
        for dir in self.table.dirs() {
            out.extend_from_slice(&(dir.first_child as u64).to_le_bytes());
            out.extend_from_slice(&(dir.count as u64).to_le_bytes());
            rows::text(&mut out, &dir.bytes);
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for anything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes.strip_prefix(MAGIC)?);
        let young = Mtime {
            secs: i64::from_le_bytes(input.array()?),
            nanos: input.u32()?,
        };
        let root = input.text()?.to_vec();
        rows::parse_detail(&root)?;
        let mut dirs = Vec::new();
        for _ in 0..input.u64()? {
            let first_child = usize::try_from(input.u64()?).ok()?;
            let count = usize::try_from(input.u64()?).ok()?;
            let bytes = input.text()?.to_vec();
            dirs.push(Rows {
                bytes,
                first_child,
                count,
            });
        }
        let table = Arc::new(Table::of(dirs, young)?);
        input.0.is_empty().then_some(Self { table, root })
    }

    fn find(&self, path: &Path) -> Option<(Kind, Meta)> {
        let mut dir = Some(0);
        let mut detail: &[u8] = &self.root;
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            let (row, child) = self.table.dirs().get(dir?)?.find(name.as_bytes())?;
            (detail, dir) = (row.detail, child);
        }
        rows::parse_detail(detail)
    }
}

/// The tree that a record describes.
struct Recorded {
    record: Record,
    contents: Arc<dyn Contents>,
}

impl Tree for Recorded {
    fn lookup(&self, path: &Path, _: bool) -> io::Result<Option<Node>> {
        Ok(self.record.find(path).map(|(kind, meta)| Node {
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
        let found = self.record.find(path);
        Ok(found.map(|(_, meta)| meta.xattrs).unwrap_or_default())
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}
