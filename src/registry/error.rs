//! What goes wrong when talking to a registry, told so that it can be acted
//! on. Text that came from the registry is escaped and cut.

use std::io;

use crate::digest::Digest;

/// Longest text of a registry that is passed on, in characters.
const MAX_TEXT: usize = 500;

/// An operation on a registry that failed.
#[derive(Debug, thiserror::Error)]
#[error("can't {operation}{}: {failure}", without(.mirrors))]
pub struct RegistryError {
    /// What was tried, with its object, as in `pull the manifest of …`.
    pub operation: String,
    /// The registry, `host[:port]`.
    pub registry: String,
    /// The repository; empty where the operation is about none.
    pub repository: String,
    /// Mirrors that were asked before, and why each of them did not help.
    pub mirrors: Vec<String>,
    /// Why.
    #[source]
    pub failure: Box<Failure>,
}

impl RegistryError {
    /// The HTTP status, where the registry gave one.
    pub fn status(&self) -> Option<u16> {
        match &*self.failure {
            Failure::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the registry has no such thing.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// What the user could do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        let registry = &self.registry;
        match &*self.failure {
            Failure::Status { status: 401, .. } => Some(format!(
                "log in to {registry}, or check the credentials that are stored for it"
            )),
            Failure::Status { status: 403, .. } => Some(format!(
                "the credentials for {registry} do not allow this on {}",
                self.repository
            )),
            Failure::Status { status: 404, .. } => {
                Some("check the name; registries also answer this for private repositories".into())
            }
            Failure::Status { status: 413, .. } => {
                Some("the registry or a proxy before it limits the size of uploads".into())
            }
            Failure::Status { status: 429, .. } => Some(format!(
                "{registry} limits the rate of requests; wait, or log in"
            )),
            Failure::Tls(_) => Some(format!(
                "give the CA certificate of {registry}, or mark it as insecure if it speaks plain http"
            )),
            Failure::RealmRefused { host, .. } => Some(format!(
                "if {host} really is the token server of {registry}, say that it is trusted"
            )),
            _ => None,
        }
    }

    /// As an I/O error, for readers; the registry's error is its source.
    pub fn into_io(self) -> io::Error {
        let kind = match &*self.failure {
            Failure::Mismatch(_) => io::ErrorKind::InvalidData,
            Failure::Status { status: 404, .. } => io::ErrorKind::NotFound,
            Failure::Status {
                status: 401 | 403, ..
            } => io::ErrorKind::PermissionDenied,
            Failure::Cancelled => io::ErrorKind::Interrupted,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

/// Why an operation on a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The registry refused.
    #[error("the registry answered {status}{}", with_message(.message))]
    Status {
        /// HTTP status.
        status: u16,
        /// What the registry said, escaped and cut; may be empty.
        message: String,
    },
    /// No connection, or it broke, and trying again did not help.
    #[error("{0}")]
    Network(String),
    /// TLS could not be established.
    #[error("no trusted connection: {0}")]
    Tls(String),
    /// The registry's answer makes no sense.
    #[error("the registry's answer is not usable: {0}")]
    Protocol(String),
    /// Content is not what was promised.
    #[error("{0}")]
    Mismatch(String),
    /// A redirect that must not be followed.
    #[error("the registry redirects to {target}, which is refused: {reason}")]
    RedirectRefused {
        /// Where to, without query.
        target: String,
        /// Why not.
        reason: &'static str,
    },
    /// Credentials would have to go to a server that nothing vouches for.
    #[error("the registry wants the credentials sent to {host}, which is refused: {reason}")]
    RealmRefused {
        /// Host of the token server.
        host: String,
        /// Why not.
        reason: &'static str,
    },
    /// The configuration forbids it or makes no sense.
    #[error(transparent)]
    Configuration(#[from] super::RegistriesError),
    /// Credentials could not be read.
    #[error("{0}")]
    Credentials(#[from] super::CredentialError),
    /// What was to be sent could not be read.
    #[error("can't read {digest} to send it: {source}")]
    Source {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Someone asked to stop.
    #[error("it was cancelled")]
    Cancelled,
}

fn without(mirrors: &[String]) -> String {
    match mirrors {
        [] => String::new(),
        some => format!(" (nor from its mirrors: {})", some.join("; ")),
    }
}

fn with_message(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// Makes text of unknown origin fit for a terminal: control characters and
/// direction overrides escaped, white space folded, cut.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .enumerate()
    {
        if i >= MAX_TEXT {
            out.push('…');
            break;
        }
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || hidden {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// What an error body says: the messages of the registry's JSON, or the text
/// itself when it is short and no markup.
pub(super) fn error_message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        details: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(body) = serde_json::from_slice::<Body>(body) {
        let mut parts: Vec<String> = body
            .errors
            .into_iter()
            .take(4)
            .map(|e| match (e.code.is_empty(), e.message.is_empty()) {
                (false, false) => format!("{} ({})", e.message, e.code),
                (false, true) => e.code,
                _ => e.message,
            })
            .collect();
        if parts.is_empty() {
            parts.extend(body.details.or(body.message));
        }
        return clean(&parts.join("; "));
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() || text.starts_with('<') {
        return String::new();
    }
    clean(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_tamed() {
        let json =
            br#"{"errors":[{"code":"DENIED","message":"no \u001b[31mway\u001b[0m"},{"code":"X"}]}"#;
        assert_eq!(
            error_message(json),
            "no \\u{1b}[31mway\\u{1b}[0m (DENIED); X"
        );
        assert_eq!(error_message(b"<html>oops</html>"), "");
        assert_eq!(
            error_message(b"too\nmany\r\n requests"),
            "too many requests"
        );
        let long = "x".repeat(10_000);
        assert_eq!(error_message(long.as_bytes()).chars().count(), MAX_TEXT + 1);
        assert_eq!(error_message(br#"{"details":"bad token"}"#), "bad token");
    }
}
