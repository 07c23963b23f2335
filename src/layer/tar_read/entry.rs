//! From the headers of one entry to the entry. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::sparse::{self, Form, Region};
use crate::layer::ustar::{self, Block};
use crate::layer::{Entry, Kind, Meta, Mtime, pax};

/// The largest user or group: the one above means "leave it" to the kernel.
const MAX_ID: u64 = u32::MAX as u64 - 1;
/// What Linux has room for in a device number.
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

/// What the headers before an entry's own one say.
#[derive(Debug, Default)]
pub(super) struct Extended {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    has_records: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Mtime>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse: Sparse,
}

/// The `GNU.sparse.` records.
#[derive(Debug, Default)]
struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    count: Option<u64>,
    /// Offsets and lengths in turn, from separate records or one list.
    numbers: Vec<u64>,
    listed: bool,
}

/// Accepts a global header only when it changes nothing that is kept.
pub(super) fn check_global(bytes: &[u8]) -> Result<(), String> {
    for (key, _) in pax::parse(bytes)? {
        let kept = matches!(
            key,
            b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime"
        ) || key.starts_with(pax::XATTR)
            || key.starts_with(b"GNU.sparse.");
        if kept {
            return Err(format!(
                "a global header sets {} for all entries",
                key.escape_ascii()
            ));
        }
    }
    Ok(())
}

impl Extended {
    pub(super) fn add_long_name(&mut self, bytes: &[u8]) -> Result<(), String> {
        set_once(&mut self.long_name, "long name", long(bytes)?)
    }

    pub(super) fn add_long_link(&mut self, bytes: &[u8]) -> Result<(), String> {
        set_once(&mut self.long_link, "long link", long(bytes)?)
    }

    pub(super) fn add_records(&mut self, bytes: &[u8]) -> Result<(), String> {
        if std::mem::replace(&mut self.has_records, true) {
            return Err("two extended headers stand before one entry".into());
        }
        let mut seen = BTreeSet::new();
        for (key, value) in pax::parse(bytes)? {
            // Format 0.0 of sparse files repeats these two.
            let repeats = matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes");
            if !repeats && key != b"comment" && !seen.insert(key) {
                let key = key.escape_ascii();
                return Err(format!("an extended header sets {key} twice"));
            }
            self.add_record(key, value).ok_or_else(|| {
                let (key, value) = (
                    key.escape_ascii(),
                    value[..value.len().min(40)].escape_ascii(),
                );
                format!("an extended header sets {key} to \"{value}\"")
            })?;
        }
        Ok(())
    }

    fn add_record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let text = || (!value.is_empty() && !value.contains(&0)).then(|| value.to_vec());
        let id = || {
            let id = pax::decimal(value).filter(|n| *n <= MAX_ID)?;
            u32::try_from(id).ok()
        };
        let number = || pax::decimal(value).filter(|n| *n <= i64::MAX as u64);
        match key {
            b"path" => self.path = Some(text()?),
            b"linkpath" => self.link = Some(text()?),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(id()?),
            b"gid" => self.gid = Some(id()?),
            b"mtime" => self.mtime = Some(pax::parse_time(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(number()?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(number()?),
            b"GNU.sparse.name" => self.sparse.name = Some(text()?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                let size = number()?;
                if self
                    .sparse
                    .size
                    .replace(size)
                    .is_some_and(|old| old != size)
                {
                    return None;
                }
            }
            b"GNU.sparse.numblocks" => self.sparse.count = Some(number()?),
            b"GNU.sparse.offset" => self.sparse.push(0, number()?)?,
            b"GNU.sparse.numbytes" => self.sparse.push(1, number()?)?,
            b"GNU.sparse.map" => self.sparse.list(value)?,
            // Another way to be sparse, of which only star knows.
            b"SCHILY.realsize" => return None,
            _ if key.starts_with(b"GNU.sparse.") => return None,
            _ => {
                if let Some(name) = key.strip_prefix(pax::XATTR) {
                    if name.is_empty() {
                        return None;
                    }
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Some(())
    }

    /// The name as messages show it.
    pub(super) fn display_name(&self, block: &Block) -> String {
        let (name, _) = self.name(block);
        let mut text = name.escape_ascii().to_string();
        if text.len() > 200 {
            text.truncate(200);
            text.push('…');
        }
        text
    }

    fn name(&self, block: &Block) -> (Vec<u8>, bool) {
        let extended = self.sparse.name.as_ref().or(self.path.as_ref());
        if let Some(name) = extended.or(self.long_name.as_ref()) {
            return (name.clone(), true);
        }
        let prefix = match ustar::MAGIC.of(block) == ustar::POSIX {
            true => ustar::PREFIX.text(block),
            false => b"",
        };
        let name = ustar::NAME.text(block);
        if prefix.is_empty() {
            return (name.to_vec(), false);
        }
        ([prefix, b"/", name].concat(), false)
    }

    /// The entry, the number of bytes stored for it, and whether it is sparse.
    pub(super) fn entry(mut self, block: &Block) -> Result<(Entry, u64, Option<Form>), String> {
        let magic = ustar::MAGIC.of(block);
        let (posix, gnu) = (magic == ustar::POSIX, magic == ustar::GNU);
        if magic.starts_with(b"ustar") && !posix && !gnu {
            return Err("its header is of an unknown version".into());
        }
        if (self.long_name.is_some() && self.path.is_some())
            || (self.long_link.is_some() && self.link.is_some())
        {
            return Err("a GNU long name and an extended header both name it".into());
        }
        let (name, _) = self.name(block);
        let (path, slash) = clean(&name)?;
        let stored = self.stored(block)?;
        let meta = self.meta(block)?;
        let sparse = self.sparse_form(block)?;
        let kind = match block[ustar::TYPE] {
            b'0' | 0 | b'7' if slash && stored == 0 && sparse.is_none() => Kind::Dir,
            b'0' | 0 | b'7' | b'S' if slash => {
                return Err("it is a file whose name ends in a slash".into());
            }
            b'0' | 0 | b'7' | b'S' => Kind::File {
                size: sparse.as_ref().map_or(stored, |(size, _)| *size),
            },
            b'1' => Kind::Hardlink {
                target: self.hard_target(block)?,
            },
            b'2' => Kind::Symlink {
                target: OsString::from_vec(self.target(block)?).into(),
            },
            b'3' | b'4' => device(block)?,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                let kind = [other].escape_ascii().to_string();
                return Err(format!("it is of the unknown type {kind}"));
            }
        };
        let is_file = matches!(kind, Kind::File { .. });
        // Some writers put a size on directories; on other kinds readers
        // disagree on whether data follows.
        if !is_file && kind != Kind::Dir && stored > 0 {
            return Err("it has data, but is no file".into());
        }
        if !is_file && sparse.is_some() {
            return Err("it is sparse, but no file".into());
        }
        if path.as_os_str().is_empty() && kind != Kind::Dir {
            return Err("it would replace the root directory".into());
        }
        let stored = if is_file { stored } else { 0 };
        let form = sparse.map(|(_, form)| form);
        Ok((Entry { path, kind, meta }, stored, form))
    }

    fn stored(&self, block: &Block) -> Result<u64, String> {
        match self.size {
            Some(size) => Ok(size),
            None => ustar::SIZE
                .number(block)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| "its size is no number".into()),
        }
    }

    fn meta(&mut self, block: &Block) -> Result<Meta, String> {
        let id = |set: Option<u32>, field: ustar::Field, what: &str| match set {
            Some(id) => Ok(id),
            None => field
                .number(block)
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| u64::from(*n) <= MAX_ID)
                .ok_or_else(|| format!("its {what} is out of range")),
        };
        let mode = ustar::MODE.number(block).ok_or("its mode is no number")?;
        let mtime = match self.mtime {
            Some(time) => time,
            None => Mtime {
                secs: ustar::MTIME.number(block).ok_or("its time is no number")?,
                nanos: 0,
            },
        };
        Ok(Meta {
            // Some writers put the file type above the permissions.
            mode: (mode & 0o7777) as u32,
            uid: id(self.uid, ustar::UID, "user")?,
            gid: id(self.gid, ustar::GID, "group")?,
            mtime,
            xattrs: std::mem::take(&mut self.xattrs),
        })
    }

    fn target(&self, block: &Block) -> Result<Vec<u8>, String> {
        let extended = self.link.as_ref().or(self.long_link.as_ref());
        let text = match extended {
            Some(text) => text.clone(),
            None => ustar::LINK.text(block).to_vec(),
        };
        if text.is_empty() {
            return Err("it links to nothing".into());
        }
        Ok(text)
    }

    /// A hard link names an entry of the archive, so `..` can't lead out of
    /// the root: it stays there, as in a changed root.
    fn hard_target(&self, block: &Block) -> Result<PathBuf, String> {
        let text = self.target(block)?;
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in text.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        if parts.is_empty() {
            return Err("it is a hard link to the root".into());
        }
        Ok(OsString::from_vec(parts.join(&b'/')).into())
    }

    /// The real size and the form of a sparse file's map.
    fn sparse_form(&mut self, block: &Block) -> Result<Option<(u64, Form)>, String> {
        let sparse = std::mem::take(&mut self.sparse);
        if block[ustar::TYPE] == b'S' {
            if sparse.is_used() {
                return Err("it is sparse in two ways".into());
            }
            if ustar::MAGIC.of(block) == ustar::POSIX {
                return Err("it is a GNU sparse file with a POSIX header".into());
            }
            let size = ustar::SPARSE_SIZE
                .number(block)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or("its real size is no number")?;
            return Ok(Some((size, Form::Old)));
        }
        if !sparse.is_used() {
            return Ok(None);
        }
        let size = sparse.size.ok_or("it is sparse, but has no real size")?;
        let form = match (sparse.major.unwrap_or(0), sparse.minor.unwrap_or(0)) {
            (1, 0) if sparse.numbers.is_empty() && !sparse.listed => Form::Leading,
            (0, _) => Form::Listed(sparse.regions()?),
            (major, minor) => {
                return Err(format!("it is sparse in the unknown form {major}.{minor}"));
            }
        };
        Ok(Some((size, form)))
    }
}

impl Sparse {
    fn is_used(&self) -> bool {
        self.major.is_some()
            || self.minor.is_some()
            || self.name.is_some()
            || self.size.is_some()
            || self.count.is_some()
            || self.listed
            || !self.numbers.is_empty()
    }

    fn push(&mut self, parity: usize, value: u64) -> Option<()> {
        if self.listed || self.numbers.len() % 2 != parity {
            return None;
        }
        self.numbers.push(value);
        Some(())
    }

    fn list(&mut self, value: &[u8]) -> Option<()> {
        if self.listed || !self.numbers.is_empty() {
            return None;
        }
        self.listed = true;
        if value.is_empty() {
            return Some(());
        }
        for number in value.split(|b| *b == b',') {
            self.numbers.push(pax::decimal(number)?);
        }
        Some(())
    }

    fn regions(&self) -> Result<Vec<Region>, String> {
        let regions = sparse::pairs(&self.numbers)?;
        if self.count.is_some_and(|n| n != regions.len() as u64) {
            return Err("the map of a sparse file has not the length it says".into());
        }
        Ok(regions)
    }
}

fn device(block: &Block) -> Result<Kind, String> {
    let number = |field: ustar::Field, max: i64| {
        field
            .number(block)
            .filter(|n| (0..=max).contains(n))
            .and_then(|n| u32::try_from(n).ok())
            .ok_or("its device number is out of range")
    };
    let major = number(ustar::MAJOR, MAX_MAJOR)?;
    let minor = number(ustar::MINOR, MAX_MINOR)?;
    Ok(match block[ustar::TYPE] {
        b'3' => Kind::Char { major, minor },
        _ => Kind::Block { major, minor },
    })
}

/// The content of a GNU long name: up to its NUL.
fn long(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    if end == 0 || bytes[end..].iter().any(|b| *b != 0) {
        return Err("a GNU long name is malformed".into());
    }
    Ok(bytes[..end].to_vec())
}

fn set_once<T>(slot: &mut Option<T>, what: &str, value: T) -> Result<(), String> {
    match slot.replace(value) {
        Some(_) => Err(format!("two {what}s stand before one entry")),
        None => Ok(()),
    }
}

/// Makes a name relative and plain, and says whether it ended in a slash.
fn clean(name: &[u8]) -> Result<(PathBuf, bool), String> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its name has `..` in it".into()),
            part => parts.push(part),
        }
    }
    if name.is_empty() {
        return Err("it has no name".into());
    }
    let path = OsString::from_vec(parts.join(&b'/'));
    Ok((path.into(), name.ends_with(b"/")))
}
