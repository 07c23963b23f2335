//! Reading `WWW-Authenticate`. Pure; never fails, only finds nothing.
//!
//! # Specification
//! RFC 7235 section 4.1.

/// Longest header value that is looked at, in bytes.
const MAX_HEADER: usize = 16 << 10;
/// Most parameters of one challenge that are kept.
const MAX_PARAMETERS: usize = 32;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// Name of the registry as the token server knows it.
        service: Option<String>,
    },
}

/// The challenge to answer among those in `headers`: a bearer token where one
/// is offered, else basic.
pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = false;
    for header in headers.take(8) {
        for (scheme, parameters) in parse(header) {
            let get = |name: &str| {
                parameters
                    .iter()
                    .find(|(k, _)| k == name)
                    .map(|(_, v)| v.clone())
            };
            match scheme.as_str() {
                "bearer" => {
                    if let Some(realm) = get("realm").filter(|r| !r.is_empty()) {
                        let service = get("service").filter(|s| !s.is_empty());
                        return Some(Challenge::Bearer { realm, service });
                    }
                }
                "basic" => basic = true,
                _ => {}
            }
        }
    }
    basic.then_some(Challenge::Basic)
}

type Parameters = Vec<(String, String)>;

fn parse(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    if header.len() > MAX_HEADER {
        return challenges;
    }
    let mut rest = header.trim_start_matches(is_separator);
    while !rest.is_empty() {
        let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            // Not a token: step over one character and go on.
            let mut chars = rest.chars();
            chars.next();
            rest = chars.as_str();
            continue;
        }
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        match (value, challenges.last_mut()) {
            (Some(value), Some((_, parameters))) if !value.starts_with('=') => {
                let (text, after) = read_value(value.trim_start_matches([' ', '\t']));
                if parameters.len() < MAX_PARAMETERS {
                    parameters.push((word.to_ascii_lowercase(), text));
                }
                rest = after;
            }
            _ => {
                challenges.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
        rest = rest.trim_start_matches(is_separator);
    }
    challenges
}

fn is_separator(c: char) -> bool {
    matches!(c, ',' | ' ' | '\t')
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string, and what follows it.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
        })
    }

    #[test]
    fn picks_the_challenge() {
        let long = format!("Bearer realm=\"{}\"", "x".repeat(MAX_HEADER));
        let many = format!("Bearer {}realm=\"late\"", "a=b,".repeat(10_000 / 4));
        for (header, expected) in [
            (
                r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull""#,
                bearer("https://a/t", Some("s")),
            ),
            ("bearer REALM=https://a/t", bearer("https://a/t", None)),
            (
                r#"Basic realm="x", Bearer realm="https://a/t""#,
                bearer("https://a/t", None),
            ),
            (r#"Bearer realm="a\"b""#, bearer("a\"b", None)),
            (r#"Basic realm="Registry Realm""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            (r#"Bearer service="x""#, None),
            (
                r#"Bearer realm="unterminated"#,
                bearer("unterminated", None),
            ),
            ("Negotiate abc==", None),
            ("", None),
            ("\u{1}\u{2}=,,,===\"", None),
            (&long, None),
            (&many, None),
        ] {
            assert_eq!(choose([header].into_iter()), expected, "{header:.60}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(header in ".{0,200}") {
            let _ = choose([header.as_str()].into_iter());
        }
    }
}
