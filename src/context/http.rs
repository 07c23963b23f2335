//! Files from the web: ADD's URLs, remote contexts and Dockerfiles.
//!
//! A download goes into a file of ours, hashed as it comes, and is only handed
//! out when it is whole. What the server says for revalidation is handed out
//! too, so that the next build can ask whether anything changed. Nothing of
//! the answer decides about a place on disk: the file's name is the last part
//! of the URL's path, and none at all where that is no plain name.
//!
//! # Specification
//! Dockerfile reference, ADD with a URL; RFC 9110 for conditional requests and
//! redirects.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use url::Url;

use crate::digest::{Digest, Hasher, VerifyingReader};
use crate::event::Cancel;
use crate::layer::Mtime;
use crate::roots::{Roots, RootsError};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// The name of a file whose URL has none.
pub const UNNAMED: &str = "__unnamed__";

/// Why a file could not be had. URLs are shown without credentials.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It is no URL, or not one of http or https.
    #[error("{0:?} is not an http or https URL")]
    Url(String),
    /// The server can't be reached, or the connection broke.
    #[error("can't fetch {url}")]
    Transport {
        /// The URL.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// There are no CA certificates.
    #[error("can't fetch {url}")]
    Roots {
        /// The URL.
        url: String,
        /// Why.
        source: RootsError,
    },
    /// The server answered with an error.
    #[error("can't fetch {url}: the server answered {status}")]
    Status {
        /// The URL.
        url: String,
        /// The status with its usual name.
        status: String,
    },
    /// A redirect that is not followed.
    #[error("can't fetch {url}: {reason}")]
    Redirect {
        /// The URL that was redirected.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The body is longer than is allowed.
    #[error("can't fetch {url}: it is longer than the {limit} bytes that are allowed")]
    TooLong {
        /// The URL.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// The body is not what it should be, or broke off, or can't be stored.
    #[error("can't fetch {url}")]
    Body {
        /// The URL.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The content has another digest than `--checksum` says.
    #[error("{url} has the digest {actual}, --checksum says {expected}")]
    Checksum {
        /// The URL.
        url: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: String,
    },
    /// The work was given up.
    #[error("cancelled")]
    Cancelled,
}

/// What a server needs to tell whether a file has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Validators {
    /// The `ETag`, verbatim.
    pub etag: Option<String>,
    /// The `Last-Modified`, verbatim.
    pub last_modified: Option<String>,
}

/// What to fetch and how.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The URL. User and password in it are sent as basic credentials.
    pub url: &'a str,
    /// The digest that the content must have.
    pub checksum: Option<&'a Digest>,
    /// What is known from an earlier download.
    pub known: Option<&'a Validators>,
    /// The value of an `Authorization` header, for the URL's own origin only.
    pub authorization: Option<&'a str>,
    /// Longest body, in bytes.
    pub limit: u64,
}

/// What came of a request.
#[derive(Debug)]
pub enum Fetched {
    /// What is known is still right.
    Unchanged,
    /// The file.
    File(Download),
}

/// A file that was downloaded.
#[derive(Debug)]
pub struct Download {
    /// The name that the URL gives it: a plain file name, [`UNNAMED`] where
    /// there is none.
    pub name: String,
    /// Its content.
    pub file: tempfile::NamedTempFile,
    /// Number of bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub digest: Digest,
    /// The server's time of last change, the beginning of 1970 where it says
    /// none that makes sense.
    pub mtime: Mtime,
    /// For the next time.
    pub validators: Validators,
    /// The media type that the server gives, without parameters.
    pub media_type: Option<String>,
}

/// Connections with limits that suit downloads, each by the proxy that its URL
/// goes through.
#[derive(Clone)]
pub struct Agents {
    proxy_of: Arc<ProxyOf>,
    roots: Roots,
    made: Arc<Mutex<HashMap<Way, Agent>>>,
}

/// Whether certificates may count, and the proxy.
type Way = (bool, Option<String>);

type ProxyOf = dyn Fn(&Url) -> Option<String> + Send + Sync;

impl std::fmt::Debug for Agents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agents").finish_non_exhaustive()
    }
}

impl Agents {
    /// `proxy_of` gives the URL of the proxy for a URL, `None` for none.
    /// Servers are trusted that `roots` vouch for.
    pub fn new(
        proxy_of: impl Fn(&Url) -> Option<String> + Send + Sync + 'static,
        roots: Roots,
    ) -> Self {
        Self {
            proxy_of: Arc::new(proxy_of),
            roots,
            made: Arc::default(),
        }
    }

    fn for_url(&self, url: &Url) -> Result<Agent, HttpError> {
        let proxy = (self.proxy_of)(url);
        let key = (url.scheme() == "https" || proxy.is_some(), proxy);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = made.get(&key) {
            return Ok(agent.clone());
        }
        let roots = match key.0 {
            true => self
                .roots
                .with(Vec::new())
                .map_err(|source| HttpError::Roots {
                    url: url.to_string(),
                    source,
                })?,
            false => RootCerts::WebPki,
        };
        let agent = agent(key.1.as_deref(), roots)?;
        made.insert(key, agent.clone());
        Ok(agent)
    }
}

fn agent(proxy: Option<&str>, roots: RootCerts) -> Result<Agent, HttpError> {
    let proxy = match proxy {
        Some(text) => Some(ureq::Proxy::new(text).map_err(|e| HttpError::Transport {
            url: redacted(text),
            source: Box::new(e),
        })?),
        None => None,
    };
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // Redirects are followed here, where credentials are minded.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .user_agent(concat!("shiplap/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(120)))
        .timeout_per_read(Some(Duration::from_secs(120)));
    Ok(Agent::new_with_config(config.build()))
}

/// Whether `text` looks like a URL that can be fetched.
pub fn is_url(text: &str) -> bool {
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    lower.starts_with("http://") || lower.starts_with("https://")
}

/// The name that the URL gives a file.
pub fn file_name(url: &str) -> Result<String, HttpError> {
    let url = parse(url)?;
    let last = url
        .path_segments()
        .and_then(|mut s| s.rfind(|p| !p.is_empty()));
    let decoded = percent_decode(last.unwrap_or_default());
    let name = decoded.rsplit('/').next().unwrap_or_default();
    let plain = !matches!(name, "" | "." | "..") && !name.chars().any(char::is_control);
    Ok(if plain { name } else { UNNAMED }.to_owned())
}

/// Fetches a file into `dir`.
pub fn fetch(
    agents: &Agents,
    request: &Request<'_>,
    dir: &Path,
    cancel: &Cancel,
) -> Result<Fetched, HttpError> {
    let mut url = parse(request.url)?;
    let mut authorization = request.authorization.map(str::to_owned);
    if authorization.is_none() && !url.username().is_empty() {
        use base64::Engine as _;
        let user = percent_decode(url.username());
        let password = percent_decode(url.password().unwrap_or_default());
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        authorization = Some(format!("Basic {encoded}"));
    }
    strip_credentials(&mut url);
    let name = file_name(request.url)?;
    for _ in 0..=MAX_REDIRECTS {
        if cancel.is_cancelled() {
            return Err(HttpError::Cancelled);
        }
        let mut call = agents.for_url(&url)?.get(url.as_str());
        if let Some(value) = &authorization {
            call = call.header("authorization", value);
        }
        if let Some(known) = request.known {
            if let Some(etag) = &known.etag {
                call = call.header("if-none-match", etag);
            }
            if let Some(time) = &known.last_modified {
                call = call.header("if-modified-since", time);
            }
        }
        let response = call.call().map_err(|source| HttpError::Transport {
            url: url.to_string(),
            source: Box::new(source),
        })?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && request.known.is_some() {
            return Ok(Fetched::Unchanged);
        }
        if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            let next = redirect(&url, response.headers(), request.checksum.is_some())?;
            if next.origin() != url.origin() {
                authorization = None;
            }
            url = next;
            continue;
        }
        if !status.is_success() {
            return Err(HttpError::Status {
                url: url.to_string(),
                status: status.to_string(),
            });
        }
        return receive(response, &url, name, request, dir, cancel).map(Fetched::File);
    }
    Err(HttpError::Redirect {
        url: redacted(request.url),
        reason: format!("more than {MAX_REDIRECTS} redirects"),
    })
}

/// Where a redirect leads.
fn redirect(url: &Url, headers: &HeaderMap, verified: bool) -> Result<Url, HttpError> {
    let fail = |reason: String| HttpError::Redirect {
        url: url.to_string(),
        reason,
    };
    let location =
        header(headers, "location").ok_or_else(|| fail("a redirect without a Location".into()))?;
    let mut next = url
        .join(&location)
        .map_err(|_| fail("a redirect to something that is no URL".into()))?;
    if !matches!(next.scheme(), "http" | "https") {
        let scheme = next.scheme().to_owned();
        return Err(fail(format!(
            "a redirect to a {scheme} URL is not followed"
        )));
    }
    if url.scheme() == "https" && next.scheme() == "http" && !verified {
        let reason = "a redirect from https to http is only followed with --checksum";
        return Err(fail(reason.into()));
    }
    strip_credentials(&mut next);
    Ok(next)
}

fn receive(
    response: ureq::http::Response<ureq::Body>,
    url: &Url,
    name: String,
    request: &Request<'_>,
    dir: &Path,
    cancel: &Cancel,
) -> Result<Download, HttpError> {
    let url = url.to_string();
    let fail = |source| HttpError::Body {
        url: url.clone(),
        source,
    };
    let too_long = || HttpError::TooLong {
        url: url.clone(),
        limit: request.limit,
    };
    let (head, body) = response.into_parts();
    let promised = body.content_length();
    if promised.is_some_and(|n| n > request.limit) {
        return Err(too_long());
    }
    let mut reader: Box<dyn Read> = Box::new(body.into_reader());
    if let Some(digest) = request.checksum
        && digest.algorithm() != "sha256"
    {
        reader = Box::new(VerifyingReader::new(reader, digest.clone(), None).map_err(fail)?);
    }
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(fail)?;
    let mut hasher = Hasher::new();
    let mut size = 0_u64;
    let mut buffer = vec![0; 128 << 10];
    loop {
        if cancel.is_cancelled() {
            return Err(HttpError::Cancelled);
        }
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(fail(e)),
        };
        size += n as u64;
        if size > request.limit {
            return Err(too_long());
        }
        let bytes = buffer.get(..n).unwrap_or_default();
        hasher.update(bytes);
        file.write_all(bytes).map_err(fail)?;
    }
    if promised.is_some_and(|n| n != size) {
        return Err(fail(io::ErrorKind::UnexpectedEof.into()));
    }
    let digest = hasher.finish();
    if let Some(expected) = request.checksum
        && expected.algorithm() == "sha256"
        && *expected != digest
    {
        return Err(HttpError::Checksum {
            url,
            expected: expected.clone(),
            actual: digest.to_string(),
        });
    }
    let last_modified = header(&head.headers, "last-modified");
    let media_type = header(&head.headers, "content-type");
    Ok(Download {
        name,
        file,
        size,
        digest,
        mtime: last_modified
            .as_deref()
            .and_then(http_date)
            .unwrap_or_default(),
        validators: Validators {
            etag: header(&head.headers, "etag"),
            last_modified,
        },
        media_type: media_type
            .and_then(|t| t.split(';').next().map(|t| t.trim().to_ascii_lowercase())),
    })
}

/// A header's value where it is plain text of sensible length.
fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= 8192).then(|| value.to_owned())
}

/// The time that `Sun, 06 Nov 1994 08:49:37 GMT` says.
fn http_date(text: &str) -> Option<Mtime> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()?;
    let secs = time.as_second();
    (secs >= 0).then_some(Mtime { secs, nanos: 0 })
}

fn parse(text: &str) -> Result<Url, HttpError> {
    let bad = || HttpError::Url(redacted(text));
    let url = Url::parse(text).map_err(|_| bad())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad());
    }
    Ok(url)
}

fn strip_credentials(url: &mut Url) {
    // Only URLs without a host can't have them, and those were refused.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

/// The text without user and password.
pub fn redacted(text: &str) -> String {
    if let Ok(mut url) = Url::parse(text)
        && url.has_host()
    {
        strip_credentials(&mut url);
        return url.to_string();
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let host = rest.split('/').next().unwrap_or_default();
    match host.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://{}", &rest[user.len() + 1..]),
        None => text.to_owned(),
    }
}

pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        at += 1;
        let hex = (*b == b'%')
            .then(|| text.get(at..at + 2))
            .flatten()
            .filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex {
            Some(decoded) => {
                out.push(decoded);
                at += 2;
            }
            None => out.push(*b),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
