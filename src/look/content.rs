//! The content of one file of an image.
//!
//! Reading begins at the last place before it that the index knows, where the
//! blob can be read from there; else the layer is read from its start. The
//! bytes are those of the index's digest, or reading ends with an error.

use std::io::{self, Read};
use std::path::Path;

use super::indexes::compression;
use super::{Inode, LookError};
use crate::digest::{Hasher, Sha256};
use crate::image::{Descriptor, Image};
use crate::layer::compress::{Restart, decompress};
use crate::layer::index::{LayerIndex, MAX_HOLES};
use crate::layer::tar_read::{Item, Names, TarReader};
use crate::layer::{Entry, Kind};

/// Opens the file `inode`; `indexes` are those of the image's layers.
///
/// # Errors
/// When it is no file, or its layer can't be read.
pub fn open(image: &Image, index: &LayerIndex, inode: &Inode) -> Result<FileReader, LookError> {
    let Some(layer) = image.manifest.layers.get(inode.layer) else {
        return Err(LookError::Read {
            digest: image.descriptor.digest.clone(),
            source: io::Error::other("it has no such layer"),
        });
    };
    let stale = |reason: &str| LookError::Stale {
        digest: layer.digest.clone(),
        reason: reason.to_owned(),
    };
    let (Kind::File { size }, Some(origin)) = (&inode.kind, inode.origin) else {
        return Err(stale("what is to be read is no file"));
    };
    let tar = tar_at(image, layer, index, origin.header)?;
    let mut reader = TarReader::new(tar, Names::Layer);
    let item = reader.next_entry().map_err(|source| LookError::Layer {
        digest: layer.digest.clone(),
        source,
    })?;
    match item {
        Some(Item::Put(Entry {
            kind: Kind::File { size: found },
            ..
        })) if found == *size => {}
        _ => return Err(stale("there is another entry")),
    }
    Ok(FileReader {
        reader,
        left: *size,
        hasher: Hasher::new(),
        // A file with more holes has the digest of its form.
        expected: inode
            .digest
            .filter(|_| !origin.sparse || *size <= MAX_HOLES),
    })
}

/// The tar of `layer` from the byte `offset` on.
fn tar_at(
    image: &Image,
    layer: &Descriptor,
    index: &LayerIndex,
    offset: u64,
) -> Result<Box<dyn Read + Send>, LookError> {
    let fail = |source| LookError::Read {
        digest: layer.digest.clone(),
        source,
    };
    let compression = compression(layer)?;
    let mut begin = index.restart_before(offset);
    let mut blob = None;
    if begin.packed > 0 {
        let part = image.blobs.open_from(layer, begin.packed);
        blob = part.map_err(fail)?;
    }
    let blob = match blob {
        Some(part) => part,
        None => {
            begin = Restart::default();
            image.blobs.open(layer).map_err(fail)?
        }
    };
    let mut tar = decompress(blob, compression).map_err(fail)?;
    let before = offset - begin.plain;
    let skipped = io::copy(&mut (&mut tar).take(before), &mut io::sink()).map_err(fail)?;
    if skipped < before {
        return Err(fail(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(tar)
}

/// Reads a file and verifies it.
pub struct FileReader {
    reader: TarReader<Box<dyn Read + Send>>,
    left: u64,
    hasher: Hasher,
    expected: Option<Sha256>,
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileReader({} left)", self.left)
    }
}

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.left == 0 {
            return Ok(0);
        }
        let n = self.reader.body().read(buf)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(n as u64);
        if let Some(expected) = self.expected {
            self.hasher.update(&buf[..n]);
            if self.left == 0 && self.hasher.clone().finish_raw() != expected {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the file is not what the layer's index says",
                ));
            }
        }
        Ok(n)
    }
}

/// Whether a path that someone wrote leads to a file of an image: relative,
/// with or without a slash in front.
pub fn inside(path: &str) -> &Path {
    Path::new(path.trim_start_matches('/'))
}
