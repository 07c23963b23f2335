//! Storing blobs: look first, mount where the registry has the blob already,
//! else upload it in one piece.
//!
//! An upload that fails is not given up before the registry was asked whether
//! it has the blob after all: registries commit and then lose the answer. It
//! goes on where the session is, where the registry says so; a lost session
//! is replaced by a new one, a few times.
//!
//! # Specification
//! distribution-spec "Pushing blobs", "Mounting a blob from another
//! repository".

use std::io::{self, Read};

use ureq::http::Method;
use url::Url;

use super::auth::{Access, Actions};
use super::client::{Call, Sending, asked_to_wait};
use super::connection::{Answer, Broken, Payload};
use super::error::{Failure, RegistryError, clean};
use super::manifest::Repository;
use super::origin;
use super::retry::is_transient;
use crate::digest::Digest;
use crate::image::{BlobSource, Descriptor};

/// From this size on, in bytes, a registry is asked whether it would take a
/// blob before the blob is sent, so that a refusal does not cost the transfer.
const ASK_FROM: u64 = 16 << 20;
/// The same for a registry that has not taken any yet.
const ASK_UNKNOWN_FROM: u64 = 1 << 20;

/// Told how many bytes of the blob were sent.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// What came of asking for a blob of another repository.
#[derive(Debug)]
pub enum Mount {
    /// The repository has the blob now.
    Done,
    /// The registry would rather have it uploaded, and opened a session.
    Session(UploadSession),
}

/// A place where a blob may be sent to.
#[derive(Debug, Clone)]
pub struct UploadSession(Url);

impl UploadSession {
    pub(super) fn url(&self) -> &Url {
        &self.0
    }
}

impl Repository {
    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// When the registry does not say.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let op = self.operation(format!("look for {digest} in {self}"));
        self.look(digest).map_err(|f| op.fail(f))
    }

    fn look(&self, digest: &Digest) -> Result<bool, Failure> {
        let url = self.url(&format!("blobs/{digest}"))?;
        // The same access as for what follows, so that one token does.
        let answer = self.send(&self.call(Method::HEAD, url, Actions::Push))?;
        match answer.status {
            200..=299 => Ok(true),
            404 => Ok(false),
            _ => Err(self.refusal(answer)),
        }
    }

    /// Asks the registry to take `digest` over from the repository `from` of
    /// the same registry. `None` when it won't, which costs nothing.
    ///
    /// # Errors
    /// When even an upload would not be possible.
    pub fn mount(&self, digest: &Digest, from: &str) -> Result<Option<Mount>, RegistryError> {
        let op = self.operation(format!("mount {digest} from {from} in {self}"));
        self.try_mount(digest, from).map_err(|f| op.fail(f))
    }

    fn try_mount(&self, digest: &Digest, from: &str) -> Result<Option<Mount>, Failure> {
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", digest.as_str())
            .append_pair("from", from);
        let access = Access {
            from: Some(from.to_owned()),
            ..self.access(Actions::Push)
        };
        let answer = match self.send(&Call::new(Method::POST, url, access)) {
            Ok(answer) => answer,
            // The token server knows of no such right.
            Err(Failure::Status { .. } | Failure::RealmRefused { .. }) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        match answer.status {
            201 => Ok(Some(Mount::Done)),
            202 => Ok(self.session(&answer).ok().map(Mount::Session)),
            _ => {
                drop(answer.read_some());
                Ok(None)
            }
        }
    }

    /// Uploads the blob `descriptor` out of `source`, which is opened once
    /// for each attempt. `session` is one that [`mount`](Self::mount) got.
    ///
    /// # Errors
    /// When the source can't be read, or the registry does not have the blob
    /// after a bounded number of attempts.
    pub fn upload(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        session: Option<UploadSession>,
        progress: Progress<'_>,
    ) -> Result<(), RegistryError> {
        let op = self.operation(format!("push {} to {self}", descriptor.digest));
        self.try_upload(descriptor, source, session, progress)
            .map_err(|f| op.fail(f))
    }

    fn try_upload(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        mut session: Option<UploadSession>,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let mut backoff = self.backoff();
        let mut from = 0;
        loop {
            let here = match session.take() {
                Some(session) => session,
                None => match self.begin()? {
                    Some(session) => session,
                    None => {
                        return Err(Failure::Protocol(
                            "it confirms an upload before anything was sent".into(),
                        ));
                    }
                },
            };
            let outcome = match self.send_blob(descriptor, source, &here, from, progress) {
                Ok(answer) if matches!(answer.status, 200 | 201 | 204) => {
                    self.host.took_upload();
                    return confirm(descriptor, answer);
                }
                Ok(answer) => Outcome::of(self, answer),
                Err(Sending::Broken(Broken::Source(source))) => {
                    return Err(Failure::Source {
                        digest: descriptor.digest.clone(),
                        source,
                    });
                }
                Err(Sending::Broken(broken)) if broken.is_transient() => Outcome {
                    wait: None,
                    next: Next::Resume,
                    failure: broken.into_failure(),
                },
                Err(problem) => return Err(problem.into_failure()),
            };
            if outcome.next == Next::GiveUp {
                return Err(outcome.failure);
            }
            let Some(wait) = backoff.next(outcome.wait) else {
                return match self.look(&descriptor.digest) {
                    Ok(true) => Ok(()),
                    _ => Err(outcome.failure),
                };
            };
            self.client.pause(wait)?;
            if self.look(&descriptor.digest)? {
                return Ok(());
            }
            from = 0;
            if outcome.next == Next::Resume
                && let Some((there, received)) = self.received(&here, descriptor.size)
            {
                session = Some(there);
                from = received;
            }
        }
    }

    /// How many bytes of a blob of `size` a session has, and where it goes
    /// on; `None` when it is gone, has none, or makes no sense.
    fn received(&self, session: &UploadSession, size: u64) -> Option<(UploadSession, u64)> {
        let call = self.call(Method::GET, session.0.clone(), Actions::Push);
        let answer = self.client.send_once(&self.host, &call).ok()?;
        if !matches!(answer.status, 200 | 202 | 204) {
            drop(answer.read_some());
            return None;
        }
        // An empty session is "0-0" with some registries.
        let received = answer.header("range").and_then(received_bytes);
        let received = received.filter(|n| *n > 1 && *n <= size)?;
        let there = self.session(&answer).unwrap_or_else(|_| session.clone());
        drop(answer.read_some());
        Some((there, received))
    }

    /// Opens an upload session; `None` when the registry claims to be done.
    fn begin(&self) -> Result<Option<UploadSession>, Failure> {
        let url = self.url("blobs/uploads/")?;
        let answer = self.send(&self.call(Method::POST, url, Actions::Push))?;
        match answer.status {
            202 => {
                let session = self.session(&answer)?;
                drop(answer.read_some());
                Ok(Some(session))
            }
            201 => Ok(None),
            _ => Err(self.refusal(answer)),
        }
    }

    /// Where the session of `answer` is.
    pub(super) fn session(&self, answer: &Answer) -> Result<UploadSession, Failure> {
        let location = answer
            .header("location")
            .filter(|l| !l.trim().is_empty())
            .ok_or_else(|| Failure::Protocol("it opens an upload without saying where".into()))?;
        let base = self.client.base(&self.host)?;
        upload_location(&base, &answer.url, location).map(UploadSession)
    }

    fn send_blob(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        session: &UploadSession,
        from: u64,
        progress: Progress<'_>,
    ) -> Result<Answer, Sending> {
        let mut url = session.0.clone();
        url.query_pairs_mut()
            .append_pair("digest", descriptor.digest.as_str());
        let open = || -> io::Result<Box<dyn Read + Send + '_>> {
            let mut inner = source.open(descriptor)?;
            // What the registry has is read all the same: the whole is
            // verified before its last bytes leave.
            io::copy(&mut (&mut inner).take(from), &mut io::sink())?;
            Ok(Box::new(Counting {
                inner,
                sent: from,
                progress,
            }))
        };
        let size = descriptor.size - from;
        let known = self.host.takes_uploads();
        let payload = Payload::Stream {
            size,
            ask_first: size >= ASK_FROM || !known && size >= ASK_UNKNOWN_FROM,
            open: &open,
        };
        let mut call = self
            .call(Method::PUT, url, Actions::Push)
            .header("content-type", "application/octet-stream")
            .payload(payload);
        if from > 0 && size > 0 {
            call = call.header("content-range", format!("{from}-{}", descriptor.size - 1));
        }
        self.client.send_once(&self.host, &call)
    }
}

/// What a refused upload means for the next attempt.
struct Outcome {
    wait: Option<std::time::Duration>,
    next: Next,
    failure: Failure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Go on where the session is, or start again.
    Resume,
    /// Start again with a new session.
    Restart,
    /// It is a plain "no".
    GiveUp,
}

impl Outcome {
    fn of(repository: &Repository, answer: Answer) -> Self {
        let wait = asked_to_wait(&answer);
        // A session that is gone or confused, or a digest that went wrong on
        // the way, is worth a new session.
        let next = match answer.status {
            202 | 416 => Next::Resume,
            status if is_transient(status) => Next::Resume,
            400 | 404 | 409 => Next::Restart,
            _ => Next::GiveUp,
        };
        Self {
            wait,
            next,
            failure: repository.refusal(answer),
        }
    }
}

/// The number of bytes that a `Range` of a session stands for: `0-N`, with or
/// without a unit.
fn received_bytes(range: &str) -> Option<u64> {
    let range = range.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    if first.trim() != "0" {
        return None;
    }
    last.trim().parse::<u64>().ok()?.checked_add(1)
}

fn confirm(descriptor: &Descriptor, answer: Answer) -> Result<(), Failure> {
    if let Some(claimed) = answer.header("docker-content-digest")
        && let Ok(claimed) = Digest::parse(claimed)
        && claimed.algorithm() == descriptor.digest.algorithm()
        && claimed != descriptor.digest
    {
        return Err(Failure::Mismatch(format!(
            "{} was sent, the registry stored {claimed}",
            descriptor.digest
        )));
    }
    drop(answer.read_some());
    Ok(())
}

/// Resolves the place of an upload. It may be on another server, which then
/// gets no credentials; a registry behind a proxy that ends TLS often names
/// its own host with http, and is taken at its host.
fn upload_location(base: &Url, asked: &Url, location: &str) -> Result<Url, Failure> {
    let mut target = asked.join(location).map_err(|e| {
        Failure::Protocol(format!(
            "the upload's location is no URL: {}",
            clean(&e.to_string())
        ))
    })?;
    if base.scheme() == "https" && target.scheme() == "http" && target.host() == base.host() {
        // Fails only for URLs that have no host.
        let _ = target.set_scheme("https");
        let _ = target.set_port(base.port());
    }
    target.set_fragment(None);
    // A user name would go out as credentials.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    if !origin::same_origin(base, &target) {
        origin::check_redirect(base, &target).map_err(|reason| Failure::RedirectRefused {
            target: super::client::display_url(&target),
            reason,
        })?;
    }
    Ok(target)
}

struct Counting<'a> {
    inner: Box<dyn Read + Send>,
    sent: u64,
    progress: Progress<'a>,
}

impl Read for Counting<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.sent += n as u64;
        (self.progress)(self.sent);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_sessions() {
        for (text, expected) in [
            ("0-0", Some(1)),
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("5-99", None),
            ("0-18446744073709551615", None),
            ("0-", None),
            ("", None),
        ] {
            assert_eq!(received_bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn locations() {
        let https = Url::parse("https://r.io/v2/").unwrap();
        let http = Url::parse("http://127.0.0.1:5000/v2/").unwrap();
        for (base, location, expected) in [
            (
                &https,
                "/v2/x/blobs/uploads/1?_state=a%3D",
                Some("https://r.io/v2/x/blobs/uploads/1?_state=a%3D"),
            ),
            (&https, "https://r.io/u/1", Some("https://r.io/u/1")),
            (&https, "http://r.io/u/1", Some("https://r.io/u/1")),
            (&https, "https://cdn.io/u/1", Some("https://cdn.io/u/1")),
            (&https, "//cdn.io/u/1", Some("https://cdn.io/u/1")),
            (&https, "http://cdn.io/u/1", None),
            (&https, "https://169.254.169.254/u", None),
            (&https, "https://127.0.0.1/u", None),
            (&https, "file:///etc/passwd", None),
            (&https, "https://u:p@r.io/u", Some("https://r.io/u")),
            (
                &http,
                "http://127.0.0.1:5001/u",
                Some("http://127.0.0.1:5001/u"),
            ),
        ] {
            let got = upload_location(base, base, location).ok();
            assert_eq!(got.as_ref().map(Url::as_str), expected, "{location}");
        }
    }
}
