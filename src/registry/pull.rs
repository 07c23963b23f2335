//! Reading blobs: resumed where the connection broke, verified to the end.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use ureq::http::Method;

use super::auth::Actions;
use super::connection::Answer;
use super::error::{Failure, RegistryError, clean};
use super::manifest::Repository;
use super::retry::Backoff;
use crate::digest::{Digest, VerifyingReader};
use crate::image::{BlobSource, Descriptor, PartReader, media_type};

/// How often one blob is resumed at most, progress or not.
const MAX_RESUMES: u32 = 100;
/// Bytes after which attempts are counted anew. A server that hands out a few
/// bytes for each request makes no progress.
const PROGRESS: u64 = 1 << 20;

impl Repository {
    /// The size of a blob, in bytes, as the registry states it.
    ///
    /// # Errors
    /// When the registry does not have it, or does not say.
    pub fn blob_size(&self, digest: &Digest) -> Result<u64, RegistryError> {
        let op = self.operation(format!("look for {digest} in {self}"));
        let ask = |place: &Self| {
            let url = place.url(&format!("blobs/{digest}"))?;
            let answer = place.send(&place.call(Method::HEAD, url, Actions::Pull))?;
            if answer.status != 200 {
                return Err(place.refusal(answer));
            }
            let size = answer.header("content-length").and_then(|l| l.parse().ok());
            size.ok_or_else(|| Failure::Protocol("it does not say how large the blob is".into()))
        };
        let mut result = Err(Failure::Cancelled);
        for place in self.places() {
            result = ask(&place);
            if matches!(result, Ok(_) | Err(Failure::Cancelled)) {
                break;
            }
        }
        result.map_err(|f| op.fail(f))
    }

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
        let reader = self.read_blob(descriptor, 0)?;
        let size = Some(descriptor.size);
        VerifyingReader::new(reader, descriptor.digest.clone(), size).map_err(|e| {
            self.operation(format!("pull {} from {self}", descriptor.digest))
                .fail(Failure::Mismatch(e.to_string()))
        })
    }

    /// Reads a blob from the byte `offset` on, unverified. A registry that
    /// serves no ranges sends all of it.
    fn read_blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader, RegistryError> {
        let op = self.operation(format!("pull {} from {self}", descriptor.digest));
        let mut places = self.places().into_iter();
        let mut reader = BlobReader {
            repository: places.next().unwrap_or_else(|| self.clone()),
            others: places,
            descriptor: descriptor.clone(),
            offset,
            counted_at: offset,
            body: None,
            backoff: self.backoff(),
            resumes: 0,
        };
        let mut mirrors = Vec::new();
        while let Err(failure) = reader.connect() {
            let problem = format!("{}: {failure}", reader.repository);
            if matches!(failure, Failure::Cancelled) || !reader.move_on() {
                return Err(RegistryError {
                    mirrors,
                    ..op.fail(failure)
                });
            }
            mirrors.push(problem);
        }
        Ok(reader)
    }
}

impl Repository {
    pub(super) fn backoff(&self) -> Backoff {
        let options = &self.client.inner.options;
        Backoff::new(options.backoff, self.retries.unwrap_or(options.retries))
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

    fn open_from(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Option<PartReader>> {
        let reader = self.read_blob(descriptor, offset);
        Ok(Some(Box::new(reader.map_err(RegistryError::into_io)?)))
    }
}

struct BlobReader {
    repository: Repository,
    /// Where else it may be.
    others: std::vec::IntoIter<Repository>,
    descriptor: Descriptor,
    /// Bytes handed out so far.
    offset: u64,
    /// Offset at which attempts were last counted anew.
    counted_at: u64,
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
        let mut call = repository.call(Method::GET, url, Actions::Pull);
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

    /// Goes on at the next place, if there is one.
    fn move_on(&mut self) -> bool {
        let Some(next) = self.others.next() else {
            return false;
        };
        self.repository = next;
        self.backoff = self.repository.backoff();
        self.resumes = 0;
        true
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
            let Some(wait) = wait.or_else(|| self.move_on().then_some(Duration::ZERO)) else {
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
                Err(failure) if !matches!(failure, Failure::Cancelled) && self.move_on() => {}
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
                    if self.offset - self.counted_at >= PROGRESS {
                        self.counted_at = self.offset;
                        self.backoff.reset();
                    }
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
