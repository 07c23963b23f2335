//! Reading blobs: resumed where the connection broke, verified to the end.

use std::fmt;
use std::io::{self, Read};

use ureq::http::Method;

use super::auth::Actions;
use super::client::Call;
use super::connection::Answer;
use super::error::{Failure, RegistryError, clean};
use super::manifest::Repository;
use super::retry::Backoff;
use crate::digest::VerifyingReader;
use crate::image::{BlobSource, Descriptor, media_type};

/// How often one blob is resumed at most, progress or not.
const MAX_RESUMES: u32 = 100;

impl Repository {
    /// Opens a blob for reading. A connection that breaks is replaced by a new
    /// one that goes on at the same place; the reader fails at its end when
    /// the content is not what `descriptor` promises.
    ///
    /// # Errors
    /// When the registry does not have it or refuses; later failures come
    /// from the reader, as [`io::Error`]s that hold a [`RegistryError`].
    pub fn open_blob(
        &self,
        descriptor: &Descriptor,
    ) -> Result<impl Read + Send + use<>, RegistryError> {
        let op = self.operation(format!("pull {} from {self}", descriptor.digest));
        let options = &self.client.inner.options;
        let mut reader = BlobReader {
            repository: self.clone(),
            descriptor: descriptor.clone(),
            offset: 0,
            body: None,
            backoff: Backoff::new(options.backoff, options.retries),
            resumes: 0,
        };
        reader.connect().map_err(|f| op.fail(f))?;
        let size = Some(descriptor.size);
        VerifyingReader::new(reader, descriptor.digest.clone(), size)
            .map_err(|e| op.fail(Failure::Mismatch(e.to_string())))
    }
}

impl BlobSource for Repository {
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let kind = &descriptor.media_type;
        if media_type::is_manifest(kind) || media_type::is_index(kind) {
            let (found, bytes) = self
                .resolve(descriptor.digest.as_str())
                .map_err(RegistryError::into_io)?;
            if found.size != descriptor.size {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{} has {} bytes, {} were promised",
                        found.digest, found.size, descriptor.size
                    ),
                ));
            }
            return Ok(Box::new(io::Cursor::new(bytes)));
        }
        Ok(Box::new(
            self.open_blob(descriptor).map_err(RegistryError::into_io)?,
        ))
    }
}

struct BlobReader {
    repository: Repository,
    descriptor: Descriptor,
    /// Bytes handed out so far.
    offset: u64,
    body: Option<Box<dyn Read + Send>>,
    backoff: Backoff,
    resumes: u32,
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BlobReader({} at {})",
            self.descriptor.digest, self.offset
        )
    }
}

impl BlobReader {
    /// Asks for what is still missing.
    fn connect(&mut self) -> Result<(), Failure> {
        let repository = &self.repository;
        let url = repository.url(&format!("blobs/{}", self.descriptor.digest))?;
        let mut call = Call::new(Method::GET, url, repository.access(Actions::Pull));
        if self.offset > 0 {
            call = call.header("range", format!("bytes={}-", self.offset));
        }
        let mut answer = repository.send(&call)?;
        if answer.status == 416 {
            // It can't resume: take it from the start.
            call.headers.clear();
            drop(answer.read_some());
            answer = repository.send(&call)?;
        }
        let skip = match answer.status {
            200 => self.offset,
            206 if starts_at(&answer, self.offset) => 0,
            206 => {
                // Another part than was asked for: only the whole will do.
                call.headers.clear();
                drop(answer);
                answer = repository.send(&call)?;
                if answer.status != 200 {
                    return Err(repository.refusal(answer));
                }
                self.offset
            }
            _ => return Err(repository.refusal(answer)),
        };
        if let Some(encoding) = answer.header("content-encoding")
            && !encoding.eq_ignore_ascii_case("identity")
        {
            return Err(Failure::Protocol(format!(
                "the blob comes with the encoding {}, which was not asked for",
                clean(encoding)
            )));
        }
        let mut body = answer.into_body();
        let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink())
            .map_err(|e| Failure::Network(clean(&e.to_string())))?;
        if skipped < skip {
            return Err(Failure::Network("the blob became shorter".into()));
        }
        self.body = Some(body);
        Ok(())
    }

    fn fail(&self, failure: Failure) -> io::Error {
        let repository = &self.repository;
        let what = format!("pull {} from {repository}", self.descriptor.digest);
        repository.operation(what).fail(failure).into_io()
    }

    /// Connects again after `reason`, as often as is allowed.
    fn resume(&mut self, reason: &str) -> io::Result<()> {
        self.body = None;
        loop {
            self.resumes += 1;
            let wait = self
                .backoff
                .next(None)
                .filter(|_| self.resumes <= MAX_RESUMES);
            let Some(wait) = wait else {
                let reason = format!(
                    "the transfer broke off after {} of {} bytes: {reason}",
                    self.offset, self.descriptor.size
                );
                return Err(self.fail(Failure::Network(reason)));
            };
            self.repository
                .client
                .pause(wait)
                .map_err(|f| self.fail(f))?;
            match self.connect() {
                Ok(()) => return Ok(()),
                Err(Failure::Network(_)) => {}
                Err(failure) => return Err(self.fail(failure)),
            }
        }
    }
}

/// Whether a partial answer begins where it should.
fn starts_at(answer: &Answer, offset: u64) -> bool {
    let Some(range) = answer.header("content-range") else {
        return false;
    };
    let range = range.trim();
    let first = range
        .strip_prefix("bytes ")
        .and_then(|r| r.split_once('-'))
        .and_then(|(first, _)| first.trim().parse::<u64>().ok());
    first == Some(offset)
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let cancelled = self.repository.client.inner.options.cancel.is_cancelled();
            if cancelled {
                return Err(self.fail(Failure::Cancelled));
            }
            let Some(body) = &mut self.body else {
                return Ok(0);
            };
            let reason = match body.read(buf) {
                Ok(0) if self.offset >= self.descriptor.size => {
                    self.body = None;
                    return Ok(0);
                }
                Ok(0) => "the answer ended early".to_owned(),
                Ok(n) => {
                    self.offset += n as u64;
                    self.backoff.reset();
                    return Ok(n);
                }
                // All is there; how the connection ends does not matter.
                Err(_) if self.offset >= self.descriptor.size => {
                    self.body = None;
                    return Ok(0);
                }
                Err(e) => clean(&e.to_string()),
            };
            self.resume(&reason)?;
        }
    }
}
