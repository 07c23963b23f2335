//! An entry of a plan, and how it waits in a file.

use std::path::PathBuf;

use super::archive::Place;
use super::spilled::Packed;
use crate::context::checksum::Selected;
use crate::context::select::Found;
use crate::layer::code::{Input, kind, meta, number};
use crate::layer::{Kind, Meta};

/// What is at a path, with the plan so far applied.
pub(super) enum At {
    Nothing,
    Dir,
    Link(PathBuf),
    Other,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Dir,
    /// A link, a device, a pipe.
    Plain(Kind),
    /// A name of a file that is in no tree.
    File(Lone),
    /// A name of a file of a source's tree.
    Selected {
        size: u64,
        /// Which file it is, for one with several names.
        shared: Option<FileId>,
        /// Number of the selection that it is of.
        contents: usize,
        file: Selected,
    },
}

/// A file that is in no tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lone {
    /// Its number among those of the plan.
    pub(super) number: usize,
    pub(super) size: u64,
    pub(super) body: LoneBody,
}

/// Where its bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) enum LoneBody {
    /// With this number in the plan's bodies.
    Single(usize),
    /// In the archive with this number.
    Archive(usize, Place),
}

/// Tells the files of a plan apart that have several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FileId {
    /// The number of a file that is in no tree.
    Lone(usize),
    /// The order of a source, and the number of a file in its selection.
    InSource(usize, u32),
}

#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) what: What,
    pub(super) meta: Meta,
    /// Below this directory the root has nothing.
    pub(super) fresh: bool,
    /// Number of the source that it is of.
    pub(super) order: usize,
}

impl Planned {
    /// What is at its path then.
    pub(super) fn at(&self) -> At {
        match &self.what {
            What::Dir => At::Dir,
            What::Plain(Kind::Symlink { target }) => At::Link(target.clone()),
            What::Plain(_) | What::File(_) | What::Selected { .. } => At::Other,
        }
    }
}

/// A directory that entries of an archive go to.
pub(super) struct Way {
    /// As the archive has it.
    pub(super) written: PathBuf,
    /// Where it is, without links.
    pub(super) path: PathBuf,
    /// The root has nothing in it.
    pub(super) fresh: bool,
}

/// The directories that were asked for last, as long as nothing on the way to
/// them may have changed.
#[derive(Default)]
pub(super) struct Ways {
    /// Of the entry before.
    pub(super) entry: Option<Way>,
    /// Of what a hard link named: as the archive has it, and where it is.
    pub(super) named: Option<(PathBuf, PathBuf)>,
}

fn long(input: &mut Input<'_>) -> Option<usize> {
    input.number()?.try_into().ok()
}

impl What {
    fn pack(&self, out: &mut Vec<u8>) {
        match self {
            Self::Dir => out.push(b'd'),
            Self::Plain(plain) => {
                out.push(b'p');
                kind(out, plain);
            }
            Self::File(file) => {
                let (tag, number_of, place) = match file.body {
                    LoneBody::Single(body) => (b's', body, 0),
                    LoneBody::Archive(archive, place) => (b'a', archive, place.packed()),
                };
                out.push(tag);
                for value in [file.number as u64, file.size, number_of as u64, place] {
                    number(out, value);
                }
            }
            Self::Selected {
                size,
                shared,
                contents,
                file,
            } => {
                let (tag, id) = match shared {
                    None => (b'f', [0, 0]),
                    Some(FileId::InSource(order, file)) => (b'm', [*order as u64, (*file).into()]),
                    Some(FileId::Lone(number)) => (b'l', [*number as u64, 0]),
                };
                out.push(tag);
                for value in [*size, *contents as u64, id[0], id[1]] {
                    number(out, value);
                }
                file.pack(out);
            }
        }
    }

    fn unpack(input: &mut Input<'_>) -> Option<Self> {
        Some(match input.byte()? {
            b'd' => Self::Dir,
            b'p' => Self::Plain(input.kind()?),
            tag @ (b's' | b'a') => {
                let (number, size) = (long(input)?, input.number()?);
                let (from, place) = (long(input)?, Place::unpacked(input.number()?));
                let body = match tag {
                    b's' => LoneBody::Single(from),
                    _ => LoneBody::Archive(from, place),
                };
                Self::File(Lone { number, size, body })
            }
            tag @ (b'f' | b'm' | b'l') => {
                let (size, contents) = (input.number()?, long(input)?);
                let (first, second) = (long(input)?, input.small()?);
                Self::Selected {
                    size,
                    shared: match tag {
                        b'f' => None,
                        b'm' => Some(FileId::InSource(first, second)),
                        _ => Some(FileId::Lone(first)),
                    },
                    contents,
                    file: Selected::unpack(input)?,
                }
            }
            _ => return None,
        })
    }
}

fn target_bytes(kind: &Kind) -> usize {
    match kind {
        Kind::Symlink { target } => target.as_os_str().len(),
        _ => 0,
    }
}

fn xattr_bytes(meta: &Meta) -> usize {
    let xattrs = meta.xattrs.iter();
    xattrs.map(|(name, value)| name.len() + value.len()).sum()
}

impl Packed for Planned {
    fn weight(&self) -> usize {
        match &self.what {
            What::Plain(kind) => target_bytes(kind) + xattr_bytes(&self.meta),
            _ => xattr_bytes(&self.meta),
        }
    }

    fn pack(&self, out: &mut Vec<u8>) {
        self.what.pack(out);
        meta(out, &self.meta);
        number(out, u64::from(self.fresh));
        number(out, self.order as u64);
    }

    fn unpack(input: &mut Input<'_>) -> Option<Self> {
        Some(Self {
            what: What::unpack(input)?,
            meta: input.meta()?,
            fresh: input.number()? != 0,
            order: long(input)?,
        })
    }
}

impl Packed for Found {
    fn weight(&self) -> usize {
        let place = self.place.as_ref();
        let paths = self.name.as_os_str().len() + place.map_or(0, |p| p.as_os_str().len());
        paths + target_bytes(&self.node.kind) + xattr_bytes(&self.node.meta)
    }

    fn pack(&self, out: &mut Vec<u8>) {
        Self::pack(self, out);
    }

    fn unpack(input: &mut Input<'_>) -> Option<Self> {
        Self::unpack(input.0)
    }
}
