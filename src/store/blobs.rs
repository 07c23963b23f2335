//! Blobs: reading them verified, and bringing them in.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::lock::Session;
use super::{Store, StoreError};
use crate::digest::{Digest, VerifyingReader};
use crate::image::{BlobSink, BlobSource, BlobWriter, Descriptor, PartReader};

impl Store {
    /// Where the blob is, if it is there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        // Neither part of a digest can hold a slash or be a dot.
        self.inner
            .root
            .join("blobs")
            .join(digest.algorithm())
            .join(digest.encoded())
    }

    /// Whether the blob is in the store.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_size(digest).is_some()
    }

    /// The blob's size in bytes; `None` when it is not in the store.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        let meta = std::fs::symlink_metadata(self.blob_path(digest)).ok()?;
        meta.is_file().then_some(meta.len())
    }

    /// Opens a blob as it is on the disk; nothing verifies what is read.
    ///
    /// # Errors
    /// When it is not there, or is no regular file.
    pub fn open_raw(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        open_regular(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => StoreError::NoBlob {
                digest: digest.clone(),
            },
            io::ErrorKind::InvalidInput => StoreError::Damaged {
                path,
                reason: "it is no regular file".into(),
            },
            _ => StoreError::io("open the blob", &path)(e),
        })
    }

    /// Stores a small blob and describes it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn put_bytes(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, StoreError> {
        let descriptor = Descriptor::of(media_type, bytes);
        if self.blob_size(&descriptor.digest) != Some(descriptor.size) {
            let mut blob = self.new_blob()?;
            blob.append(bytes)?;
            blob.publish(&descriptor.digest)?;
        }
        Ok(descriptor)
    }

    /// Stores what `reader` gives, if it is what `descriptor` promises; else
    /// nothing is stored. Does not read when the blob is there.
    ///
    /// # Errors
    /// When reading or writing fails, or size or digest are not as promised.
    pub fn put_reader(&self, descriptor: &Descriptor, reader: impl Read) -> Result<(), StoreError> {
        if self.blob_size(&descriptor.digest) == Some(descriptor.size) {
            return Ok(());
        }
        let mut blob = self.new_blob()?;
        let path = self.blob_path(&descriptor.digest);
        let fail = |e| StoreError::io("store the blob", &path)(e);
        let digest = descriptor.digest.clone();
        let mut verified =
            VerifyingReader::new(reader, digest, Some(descriptor.size)).map_err(fail)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match verified.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => blob.append(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(e)),
            }
        }
        blob.publish(&descriptor.digest)
    }

    /// Begins a blob whose digest is not known yet.
    ///
    /// # Errors
    /// When the temporary file can't be made.
    pub fn new_blob(&self) -> Result<Ingest, StoreError> {
        let session = self.session()?;
        let path = session.path("b");
        let file = create_file(&path).map_err(StoreError::io("create", &path))?;
        Ok(Ingest {
            store: self.clone(),
            path,
            file,
            bytes: 0,
            _session: session,
        })
    }

    /// Removes the blob from view.
    pub(super) fn remove_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path)(e))
            }
            _ => Ok(()),
        }
    }
}

/// A blob being written. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Ingest {
    store: Store,
    path: PathBuf,
    file: File,
    bytes: u64,
    _session: Arc<Session>,
}

impl Ingest {
    /// Publishes what was written under `digest`, which must have been
    /// computed from the very bytes that were written. A blob that is there is
    /// kept, unless its size shows that it is damaged.
    ///
    /// # Errors
    /// When the file can't be renamed.
    pub fn publish(self, digest: &Digest) -> Result<(), StoreError> {
        if self.store.blob_size(digest) == Some(self.bytes) {
            return Ok(());
        }
        let to = self.store.blob_path(digest);
        let rename = || rustix::fs::rename(&self.path, &to);
        let renamed = match rename() {
            Err(Errno::NOENT) => {
                // The first blob of this algorithm.
                let parent = to.parent().unwrap_or(&to);
                ensure_dir(parent).map_err(StoreError::io("create", parent))?;
                rename()
            }
            other => other,
        };
        renamed.map_err(StoreError::io("store the blob", &to))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file
            .write_all(bytes)
            .map_err(StoreError::io("write", &self.path))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Reads what is written, also after it was published.
    ///
    /// # Errors
    /// When the file can't be opened again.
    pub fn reader(&self) -> io::Result<File> {
        open_regular(&self.path)
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a rename there is nothing of that name, and names are not
        // given out twice.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf).map_err(|e| match e.kind() {
            io::ErrorKind::Interrupted => e,
            _ => StoreError::io("write", &self.path)(e).into_io(),
        })?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for Ingest {
    fn commit(self: Box<Self>, digest: &Digest) -> io::Result<()> {
        self.publish(digest).map_err(StoreError::into_io)
    }
}

impl BlobSource for Store {
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let file = self
            .open_raw(&descriptor.digest)
            .map_err(StoreError::into_io)?;
        let size = file.metadata()?.size();
        if size != descriptor.size {
            let error = StoreError::Damaged {
                path: self.blob_path(&descriptor.digest),
                reason: format!("it has {size} bytes, {} were promised", descriptor.size),
            };
            return Err(error.into_io());
        }
        let digest = descriptor.digest.clone();
        Ok(Box::new(VerifyingReader::new(file, digest, Some(size))?))
    }

    fn open_from(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Option<PartReader>> {
        let file = self.open_raw(&descriptor.digest);
        let mut file = file.map_err(StoreError::into_io)?;
        file.seek(io::SeekFrom::Start(offset))?;
        Ok(Some(Box::new(file)))
    }
}

impl BlobSink for Store {
    fn create(&self) -> io::Result<Box<dyn BlobWriter>> {
        let blob = self.new_blob().map_err(StoreError::into_io)?;
        Ok(Box::new(blob))
    }

    fn has(&self, digest: &Digest) -> bool {
        Store::has(self, digest)
    }
}

/// Opens a regular file for reading: not through a link, and without waiting
/// for the other end of a FIFO.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let not_regular = || io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP | Errno::NXIO) => return Err(not_regular()),
        Err(e) => return Err(e.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(not_regular());
    }
    Ok(file)
}

/// Makes the file `path` of what `write` puts into `temporary`, whole or not at
/// all.
pub(super) fn place_file(
    temporary: &Path,
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let placed = create_file(temporary).and_then(|mut file| {
        write(&mut file)?;
        Ok(rustix::fs::rename(temporary, path)?)
    });
    placed.inspect_err(|_| {
        let _ = std::fs::remove_file(temporary);
    })
}

/// Makes a directory of the store, unless it is there.
pub(super) fn ensure_dir(path: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Makes a new file, readable by all who get as far as its directory.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    Ok(File::from(rustix::fs::open(path, flags, mode)?))
}
