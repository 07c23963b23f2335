//! One repository of a registry, and its manifests.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ureq::http::Method;
use url::Url;

use super::auth::{Access, Actions};
use super::client::{Call, Client, Host, Operation};
use super::connection::{Answer, Payload};
use super::error::{Failure, RegistryError, clean};
use super::registries::{PullFrom, RegistriesError};
use crate::digest::{Digest, VerifyingReader};
use crate::image::{Descriptor, Document, MAX_MANIFEST_BYTES, media_type};
use crate::reference::Reference;

/// What is accepted as a manifest.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
application/vnd.oci.image.index.v1+json, \
application/vnd.docker.distribution.manifest.v2+json, \
application/vnd.docker.distribution.manifest.list.v2+json";

/// One repository of a registry; cheap to clone.
///
/// As a [`BlobSource`](crate::image::BlobSource) it reads blobs, and also
/// manifests and indexes, when the descriptor's media type says that it names
/// one.
#[derive(Clone)]
pub struct Repository {
    pub(super) client: Client,
    pub(super) host: Arc<Host>,
    pub(super) name: String,
    /// Asked first when reading.
    mirrors: Arc<[Mirror]>,
    /// The place among `mirrors`, or their number for the registry itself,
    /// that answered last; blobs are first looked for where the manifest was.
    served: Arc<AtomicUsize>,
    refused: Option<Arc<RegistriesError>>,
    /// Further attempts of a request, where not those of the options.
    pub(super) retries: Option<u32>,
}

/// Another repository with the same content.
struct Mirror {
    repository: Repository,
    pull: PullFrom,
}

/// No place has answered yet.
const NOWHERE: usize = usize::MAX;

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host.name, self.name)
    }
}

impl Client {
    /// Finds out what `reference` names now: its descriptor and the bytes of
    /// the manifest or index, checked against every digest that is known.
    ///
    /// # Errors
    /// See [`Failure`](super::Failure).
    pub fn resolve(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        self.repository(reference).resolve(reference.target())
    }
}

impl Repository {
    pub(super) fn new(client: Client, host: Arc<Host>, name: &str) -> Self {
        Self {
            client,
            host,
            name: name.to_owned(),
            mirrors: Arc::new([]),
            served: Arc::new(AtomicUsize::new(NOWHERE)),
            refused: None,
            retries: None,
        }
    }

    /// Reads from `mirrors` before it reads from the registry itself. A
    /// mirror gets one more attempt only: there is another place to ask.
    pub(super) fn with_mirrors(self, mirrors: Vec<(Self, PullFrom)>) -> Self {
        let mirrors = mirrors.into_iter().map(|(repository, pull)| Mirror {
            repository: Self {
                retries: Some(1),
                ..repository
            },
            pull,
        });
        Self {
            mirrors: mirrors.collect(),
            ..self
        }
    }

    /// Refuses every request.
    pub(super) fn with_refusal(self, error: RegistriesError) -> Self {
        Self {
            refused: Some(Arc::new(error)),
            ..self
        }
    }

    /// Where a blob may be read, the best place first. The last is the
    /// registry itself.
    pub(super) fn places(&self) -> Vec<Self> {
        let served = self.served.load(Ordering::Relaxed);
        let mut places = Vec::new();
        if let Some(mirror) = self.mirrors.get(served) {
            places.push(mirror.repository.clone());
        }
        if served != self.mirrors.len() {
            let others = self.mirrors.iter().enumerate();
            let others = others.filter(|(at, m)| *at != served && m.pull.allows(true));
            places.extend(others.map(|(_, m)| m.repository.clone()));
        }
        places.push(self.clone());
        places
    }

    /// Asks the mirrors in turn and then the registry itself, until one has
    /// an answer; `None` is one of the registry only.
    fn ask_each<T>(
        &self,
        target: &str,
        what: &str,
        ask: impl Fn(&Self) -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, RegistryError> {
        let by_digest = Digest::parse(target).is_ok();
        let mut told = Vec::new();
        for (at, mirror) in self.mirrors.iter().enumerate() {
            if !mirror.pull.allows(by_digest) {
                continue;
            }
            match ask(&mirror.repository) {
                Ok(Some(found)) => {
                    self.served.store(at, Ordering::Relaxed);
                    return Ok(Some(found));
                }
                Ok(None) => told.push(format!("{} does not have it", mirror.repository)),
                Err(Failure::Cancelled) => break,
                Err(failure) => told.push(format!("{}: {failure}", mirror.repository)),
            }
        }
        let found = ask(self).map_err(|failure| RegistryError {
            mirrors: told,
            ..self
                .operation(format!("{what} {}", self.display(target)))
                .fail(failure)
        })?;
        self.served.store(self.mirrors.len(), Ordering::Relaxed);
        Ok(found)
    }

    /// The registry, `host[:port]`.
    pub fn registry(&self) -> &str {
        &self.host.name
    }

    /// The repository's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn operation(&self, what: String) -> Operation<'_> {
        Operation {
            what,
            host: &self.host,
            repository: &self.name,
        }
    }

    pub(super) fn access(&self, actions: Actions) -> Access {
        Access {
            repository: self.name.clone(),
            actions,
            from: None,
        }
    }

    /// The URL of `tail` below the repository.
    pub(super) fn url(&self, tail: &str) -> Result<Url, Failure> {
        if let Some(error) = &self.refused {
            return Err(Failure::Configuration((**error).clone()));
        }
        let base = self.client.base(&self.host)?;
        base.join(&format!("{}/{tail}", self.name))
            .map_err(|e| Failure::Protocol(format!("{}/{tail} makes no URL: {e}", self.name)))
    }

    pub(super) fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        self.client.send(&self.host, call)
    }

    /// A request about the repository.
    pub(super) fn call<'a>(&self, method: Method, url: Url, actions: Actions) -> Call<'a> {
        Call {
            retries: self.retries,
            ..Call::new(method, url, self.access(actions))
        }
    }

    pub(super) fn refusal(&self, answer: Answer) -> Failure {
        self.client.refusal(&self.host, answer)
    }

    /// Reads the manifest or index that `target`, a tag or a digest, names.
    ///
    /// # Errors
    /// Also when the content has another digest than `target` or than the
    /// registry says, or is of another kind than the registry says.
    pub fn resolve(&self, target: &str) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let ask = |place: &Self| place.get_manifest(target).map(Some);
        let found = self.ask_each(target, "pull the manifest of", ask)?;
        // The registry itself has an answer or an error.
        found.ok_or_else(|| {
            let op = self.operation(format!("pull the manifest of {}", self.display(target)));
            op.fail(Failure::Network("there is no answer".into()))
        })
    }

    pub(super) fn display(&self, target: &str) -> String {
        let separator = if target.contains(':') { '@' } else { ':' };
        format!("{self}{separator}{target}")
    }

    fn get_manifest(&self, target: &str) -> Result<(Descriptor, Vec<u8>), Failure> {
        let url = self.url(&format!("manifests/{target}"))?;
        let call = self
            .call(Method::GET, url, Actions::Pull)
            .header("accept", ACCEPT);
        // A body that breaks off is worth another request or two.
        let mut last = None;
        for _ in 0..3 {
            let answer = self.send(&call)?;
            if answer.status != 200 {
                return Err(self.refusal(answer));
            }
            let content_type = answer.header("content-type").map(essence);
            let claimed = answer.header("docker-content-digest").map(str::to_owned);
            match answer.read(MAX_MANIFEST_BYTES) {
                Ok(bytes) => {
                    let digest = check_digest(&bytes, target, claimed.as_deref())?;
                    let kind = check_kind(&bytes, content_type.as_deref())?;
                    let descriptor = Descriptor::new(&kind, digest, bytes.len() as u64);
                    return Ok((descriptor, bytes));
                }
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    return Err(Failure::Protocol(e.to_string()));
                }
                Err(e) => last = Some(e),
            }
        }
        let reason = last.map_or_else(String::new, |e| clean(&e.to_string()));
        Err(Failure::Network(format!("the answer breaks off: {reason}")))
    }

    /// Asks what `target` names without reading it; `None` when there is no
    /// such manifest.
    ///
    /// # Errors
    /// See [`Failure`](super::Failure).
    pub fn head(&self, target: &str) -> Result<Option<Descriptor>, RegistryError> {
        self.ask_each(target, "look up", |place| place.head_manifest(target))
    }

    fn head_manifest(&self, target: &str) -> Result<Option<Descriptor>, Failure> {
        let url = self.url(&format!("manifests/{target}"))?;
        let call = self
            .call(Method::HEAD, url, Actions::Pull)
            .header("accept", ACCEPT);
        let answer = self.send(&call)?;
        match answer.status {
            200 => {}
            404 => return Ok(None),
            _ => return Err(self.refusal(answer)),
        }
        let digest = answer
            .header("docker-content-digest")
            .and_then(|d| Digest::parse(d).ok());
        let size = answer
            .header("content-length")
            .and_then(|l| l.parse::<u64>().ok());
        let kind = answer.header("content-type").map(essence);
        if let (Some(digest), Some(size), Some(kind)) = (digest, size, kind)
            && (media_type::is_manifest(&kind) || media_type::is_index(&kind))
        {
            if let Ok(expected) = Digest::parse(target)
                && expected != digest
            {
                return Err(Failure::Mismatch(format!(
                    "the registry says that {target} has the digest {digest}"
                )));
            }
            return Ok(Some(Descriptor::new(&kind, digest, size)));
        }
        // Some registries leave headers out: then only reading tells.
        self.get_manifest(target)
            .map(|(descriptor, _)| Some(descriptor))
    }

    /// Stores a manifest or index under `target`, a tag or its digest. What it
    /// names must be there already.
    ///
    /// # Errors
    /// Also when the registry confirms something else than was sent.
    pub fn put_manifest(
        &self,
        target: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let op = self.operation(format!("push the manifest {}", self.display(target)));
        self.store_manifest(target, media_type, bytes)
            .map(drop)
            .map_err(|f| op.fail(f))
    }

    /// As [`put_manifest`](Self::put_manifest); also says whether the registry
    /// has taken note of the manifest's subject.
    pub(super) fn put_manifest_with_subject(
        &self,
        target: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<bool, RegistryError> {
        let op = self.operation(format!("push the manifest {}", self.display(target)));
        self.store_manifest(target, media_type, bytes)
            .map_err(|f| op.fail(f))
    }

    fn store_manifest(&self, target: &str, kind: &str, bytes: &[u8]) -> Result<bool, Failure> {
        let url = self.url(&format!("manifests/{target}"))?;
        let call = self
            .call(Method::PUT, url, Actions::Push)
            .header("content-type", kind)
            .payload(Payload::Bytes(bytes));
        let answer = self.send(&call)?;
        if !matches!(answer.status, 200 | 201 | 204) {
            return Err(self.refusal(answer));
        }
        if let Some(claimed) = answer.header("docker-content-digest")
            && let Ok(claimed) = Digest::parse(claimed)
            && claimed.algorithm() == "sha256"
        {
            let sent = Digest::of(bytes);
            if claimed != sent {
                return Err(Failure::Mismatch(format!(
                    "{sent} was sent, the registry stored {claimed}"
                )));
            }
        }
        let subject = answer.header("oci-subject").is_some();
        drop(answer.read_some());
        Ok(subject)
    }
}

/// A media type without its parameters, in lower case.
fn essence(header: &str) -> String {
    let kind = header.split(';').next().unwrap_or_default();
    kind.trim().to_ascii_lowercase()
}

fn check_digest(bytes: &[u8], target: &str, claimed: Option<&str>) -> Result<Digest, Failure> {
    let verify = |expected: &Digest| {
        let mismatch = |e: io::Error| Failure::Mismatch(e.to_string());
        let mut reader = VerifyingReader::new(bytes, expected.clone(), None).map_err(mismatch)?;
        io::copy(&mut reader, &mut io::sink()).map_err(mismatch)
    };
    let computed = Digest::of(bytes);
    if let Some(claimed) = claimed {
        let claimed = Digest::parse(claimed).map_err(|e| {
            Failure::Protocol(format!("the registry's digest header: {}", e.reason))
        })?;
        verify(&claimed)?;
    }
    match Digest::parse(target) {
        Ok(expected) => {
            verify(&expected)?;
            Ok(expected)
        }
        Err(_) => Ok(computed),
    }
}

/// The kind of a manifest: what the document itself says, which the header
/// must not contradict.
fn check_kind(bytes: &[u8], header: Option<&str>) -> Result<String, Failure> {
    let document = Document::parse(bytes).map_err(|e| {
        Failure::Protocol(format!(
            "the manifest is malformed: {}",
            clean(&e.to_string())
        ))
    })?;
    let (stated, fallback) = match &document {
        Document::Manifest(m) => (m.media_type.as_str(), media_type::OCI_MANIFEST),
        Document::Index(i) => (i.media_type.as_str(), media_type::OCI_INDEX),
    };
    let known = |t: &&str| media_type::is_manifest(t) || media_type::is_index(t);
    let header = header.filter(known);
    let is_index = matches!(document, Document::Index(_));
    if let Some(header) = header
        && (media_type::is_index(header) != is_index || (!stated.is_empty() && stated != header))
    {
        let what = if stated.is_empty() { fallback } else { stated };
        return Err(Failure::Mismatch(format!(
            "the registry calls it {header}, but it is {}",
            clean(what)
        )));
    }
    let kind = if stated.is_empty() {
        header.unwrap_or(fallback)
    } else {
        stated
    };
    Ok(kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_the_documents() {
        let config = r#"{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;
        let plain = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        let typed = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[]}}"#,
            media_type::OCI_MANIFEST
        );
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        for (text, header, expected) in [
            (plain.as_str(), None, Some(media_type::OCI_MANIFEST)),
            (
                &plain,
                Some(media_type::DOCKER_MANIFEST),
                Some(media_type::DOCKER_MANIFEST),
            ),
            (
                &plain,
                Some("application/json"),
                Some(media_type::OCI_MANIFEST),
            ),
            (&plain, Some(media_type::OCI_INDEX), None),
            (
                &typed,
                Some(media_type::OCI_MANIFEST),
                Some(media_type::OCI_MANIFEST),
            ),
            (&typed, Some(media_type::DOCKER_MANIFEST), None),
            (&typed, Some("text/html"), Some(media_type::OCI_MANIFEST)),
            (index, None, Some(media_type::OCI_INDEX)),
            (index, Some(media_type::OCI_MANIFEST), None),
            ("[]", None, None),
        ] {
            let got = check_kind(text.as_bytes(), header).ok();
            assert_eq!(got.as_deref(), expected, "{text} {header:?}");
        }
    }
}
