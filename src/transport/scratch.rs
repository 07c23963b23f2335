//! Blobs that are on their way: in unnamed temporary files, gone when nobody
//! reads them any more.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::tar_index::Section;
use crate::digest::{Digest, VerifyingReader};
use crate::image::{BlobSink, BlobSource, BlobWriter, Descriptor};

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Files = Arc<Mutex<HashMap<Digest, (Arc<File>, u64)>>>;

/// Blobs in unnamed temporary files.
#[derive(Default)]
pub struct Scratch(Files);

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scratch({} blobs)", lock(&self.0).len())
    }
}

struct ScratchWriter {
    file: File,
    written: u64,
    files: Files,
}

impl BlobSink for Scratch {
    fn create(&self) -> io::Result<Box<dyn BlobWriter>> {
        Ok(Box::new(ScratchWriter {
            file: tempfile::tempfile()?,
            written: 0,
            files: Arc::clone(&self.0),
        }))
    }

    fn has(&self, digest: &Digest) -> bool {
        lock(&self.0).contains_key(digest)
    }
}

impl Write for ScratchWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter for ScratchWriter {
    fn commit(self: Box<Self>, digest: &Digest) -> io::Result<()> {
        let entry = (Arc::new(self.file), self.written);
        lock(&self.files).insert(digest.clone(), entry);
        Ok(())
    }
}

impl BlobSource for Scratch {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let found = lock(&self.0).get(&d.digest).cloned();
        let (file, size) = found.ok_or(io::ErrorKind::NotFound)?;
        let section = Section::new(file, size);
        let reader = VerifyingReader::new(section, d.digest.clone(), Some(d.size))?;
        Ok(Box::new(reader))
    }
}

/// Blobs that are dear to get, read more than once: what has been read to its
/// end is kept.
pub struct Kept {
    inner: Arc<dyn BlobSource>,
    scratch: Arc<Scratch>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept({:?})", self.scratch)
    }
}

impl Kept {
    /// Keeps what is read from `inner`.
    pub fn new(inner: Arc<dyn BlobSource>) -> Self {
        let scratch = Arc::default();
        Self { inner, scratch }
    }
}

impl BlobSource for Kept {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        if self.scratch.has(&d.digest) {
            return self.scratch.open(d);
        }
        Ok(Box::new(Keeping {
            inner: self.inner.open(d)?,
            copy: Some(self.scratch.create()?),
            digest: d.digest.clone(),
        }))
    }
}

struct Keeping {
    inner: Box<dyn Read + Send>,
    copy: Option<Box<dyn BlobWriter>>,
    digest: Digest,
}

impl Read for Keeping {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buffer)?;
        if n == 0 {
            // Its end: it is verified.
            if let Some(copy) = self.copy.take() {
                copy.commit(&self.digest)?;
            }
        } else if let Some(copy) = &mut self.copy {
            copy.write_all(&buffer[..n])?;
        }
        Ok(n)
    }
}
