//! Which secrets a server is shown.
//!
//! A build may be given secrets under names that say which server they are
//! for. They become the value of an `Authorization` header, and nothing else.
//!
//! | secret | header |
//! |---|---|
//! | `HTTP_AUTH_HEADER_<host>` | its value |
//! | `HTTP_AUTH_TOKEN_<host>` | `Bearer <value>` |
//! | `GIT_AUTH_HEADER.<host>`, `GIT_AUTH_HEADER` | its value |
//! | `GIT_AUTH_TOKEN.<host>`, `GIT_AUTH_TOKEN` | basic, with the user `x-access-token` |
//!
//! A host may be given with its port.
//!
//! # Specification
//! Docker's build documentation, "Build secrets"; Dockerfile reference, ADD
//! from private sources.

use std::io;

use base64::Engine as _;
use url::Url;

/// Finds a secret's value by its name.
pub type Secrets<'a> = dyn Fn(&str) -> io::Result<Option<Vec<u8>>> + 'a;

/// What to show the server of `url`.
///
/// # Errors
/// When a secret can't be read or is nothing for a header.
pub fn for_http(url: &str, secrets: &Secrets<'_>) -> io::Result<Option<String>> {
    for host in hosts(url) {
        if let Some(value) = read(&format!("HTTP_AUTH_HEADER_{host}"), secrets)? {
            return Ok(Some(value));
        }
        if let Some(token) = read(&format!("HTTP_AUTH_TOKEN_{host}"), secrets)? {
            return Ok(Some(format!("Bearer {token}")));
        }
    }
    Ok(None)
}

/// What to show the server of the repository `remote`; nothing unless that is
/// an http or https URL.
///
/// # Errors
/// As [`for_http`].
pub fn for_git(remote: &str, secrets: &Secrets<'_>) -> io::Result<Option<String>> {
    let hosts = hosts(remote);
    if hosts.is_empty() {
        return Ok(None);
    }
    let names = |kind: &str| -> Vec<String> {
        let own = hosts.iter().map(|host| format!("{kind}.{host}"));
        own.chain([kind.to_owned()]).collect()
    };
    for name in names("GIT_AUTH_HEADER") {
        if let Some(value) = read(&name, secrets)? {
            return Ok(Some(value));
        }
    }
    for name in names("GIT_AUTH_TOKEN") {
        if let Some(token) = read(&name, secrets)? {
            let plain = format!("x-access-token:{token}");
            let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
            return Ok(Some(format!("Basic {encoded}")));
        }
    }
    Ok(None)
}

/// The host with its port, where the URL has one, and the host alone.
fn hosts(text: &str) -> Vec<String> {
    let Ok(url) = Url::parse(text) else {
        return Vec::new();
    };
    let (true, Some(host)) = (matches!(url.scheme(), "http" | "https"), url.host_str()) else {
        return Vec::new();
    };
    let with_port = url.port().map(|port| format!("{host}:{port}"));
    with_port.into_iter().chain([host.to_owned()]).collect()
}

/// The secret's text, without the newline that files end with.
fn read(name: &str, secrets: &Secrets<'_>) -> io::Result<Option<String>> {
    let Some(value) = secrets(name)? else {
        return Ok(None);
    };
    let text = String::from_utf8(value).unwrap_or_else(|_| "\0".into());
    let text = text.trim_end_matches(['\r', '\n']);
    if text.chars().any(char::is_control) {
        return Err(io::Error::other(format!(
            "the secret {name:?} has characters that no header can have"
        )));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_decides() {
        let secrets = |name: &str| {
            Ok(match name {
                "HTTP_AUTH_TOKEN_a.example" => Some(b"t1\n".to_vec()),
                "HTTP_AUTH_HEADER_a.example:81" => Some(b"Own x".to_vec()),
                "GIT_AUTH_TOKEN.a.example" => Some(b"t2".to_vec()),
                "GIT_AUTH_TOKEN" => Some(b"t3".to_vec()),
                _ => None,
            })
        };
        let http = |url| for_http(url, &secrets).unwrap();
        let git = |url| for_git(url, &secrets).unwrap();
        assert_eq!(http("https://a.example/x").as_deref(), Some("Bearer t1"));
        assert_eq!(http("http://a.example:81/x").as_deref(), Some("Own x"));
        assert_eq!(http("https://b.example/a.example"), None);
        let basic = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        assert_eq!(
            git("https://a.example/x.git"),
            Some(format!("Basic {}", basic("x-access-token:t2")))
        );
        assert_eq!(
            git("https://b.example/x.git"),
            Some(format!("Basic {}", basic("x-access-token:t3")))
        );
        assert_eq!(git("ssh://git@a.example/x.git"), None);
        assert_eq!(git("git@a.example:x.git"), None);
    }

    #[test]
    fn nothing_is_smuggled_into_the_header() {
        for value in [&b"a\r\nx-evil: 1"[..], b"a\0", b"\xff"] {
            let secrets = |_: &str| Ok(Some(value.to_vec()));
            let error = for_http("https://h/x", &secrets).unwrap_err();
            assert!(!error.to_string().contains("evil"));
        }
        let none = |_: &str| Ok(Some(b"\n".to_vec()));
        assert_eq!(for_http("https://h/x", &none).unwrap(), None);
    }
}
