//! What is in a directory of the union, a part of it at a time: a directory may
//! have millions of entries.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType};

use super::{MergedDir, Part, attr};
use crate::context::{DirNames, Node};
use crate::layer::Kind;
use crate::sys::fs::lstat_at;

/// Where a name was read, as its number in [`DirNames`]: twice the number of
/// the part, and one more where only its status tells whether it is there.
#[derive(Clone, Copy)]
struct Tag(u16);

impl Tag {
    fn part(self) -> usize {
        usize::from(self.0 / 2)
    }

    fn may_hide(self) -> bool {
        self.0 % 2 == 1
    }
}

impl Part {
    /// Calls `each` with every name in the directory and whether it may stand
    /// for something that is not there.
    fn each(&self, mut each: impl FnMut(&OsStr, bool) -> io::Result<()>) -> io::Result<()> {
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let may_hide = match entry.file_type() {
                FileType::Socket | FileType::CharacterDevice | FileType::Unknown => true,
                FileType::RegularFile => self.marks.xattr_whiteouts,
                _ => false,
            };
            each(OsStr::from_bytes(name), may_hide)?;
        }
        Ok(())
    }

    /// Whether `name` is a whiteout or a socket.
    fn is_nothing(&self, name: &OsStr) -> io::Result<bool> {
        let stat = lstat_at(self.fd.as_fd(), name)?;
        Ok(attr::file_type(&stat) == FileType::Socket || self.hides(name, &stat)?)
    }
}

impl MergedDir {
    /// The names of all parts, sorted, each with a [`Tag`] of the highest part
    /// that has it; whiteouts are among them.
    pub(super) fn names(&self) -> io::Result<DirNames> {
        let mut names = DirNames::default();
        for (number, part) in self.parts.iter().enumerate() {
            let tag = u16::try_from(2 * number).map_err(io::Error::other)?;
            part.each(|name, may_hide| {
                names.push_tagged(name, tag + u16::from(may_hide));
                Ok(())
            })?;
        }
        names.sort();
        Ok(names)
    }

    /// The entries `some` of `names`; `here` is the directory's path.
    pub(super) fn list(
        &self,
        here: &Path,
        names: &DirNames,
        some: Range<usize>,
        with_xattrs: bool,
    ) -> io::Result<Vec<(OsString, Node)>> {
        let names = names.tagged(some);
        let mut out = Vec::with_capacity(names.len());
        for (name, tag) in names {
            let number = Tag(tag).part();
            let Some(part) = self.parts.get(number) else {
                continue;
            };
            let stat = lstat_at(part.fd.as_fd(), name)?;
            if part.hides(name, &stat)? {
                continue;
            }
            let path = here.join(name);
            let Some(mut node) = self.node((&path, name), number, &stat)? else {
                continue;
            };
            if with_xattrs && !matches!(node.kind, Kind::Symlink { .. }) {
                node.meta.xattrs = part.content_xattrs(name, &path)?;
            }
            out.push((name.to_owned(), node));
        }
        Ok(out)
    }

    /// Calls `each` with every name, in any order.
    pub(super) fn each_name(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        if let [part] = &self.parts[..] {
            return part.each(|name, may_hide| {
                if !may_hide || !part.is_nothing(name)? {
                    each(name);
                }
                Ok(())
            });
        }
        let names = self.names()?;
        for (name, tag) in names.tagged(0..names.len()) {
            let tag = Tag(tag);
            let Some(part) = self.parts.get(tag.part()) else {
                continue;
            };
            if !tag.may_hide() || !part.is_nothing(name)? {
                each(name);
            }
        }
        Ok(())
    }
}
