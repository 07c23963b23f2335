//! The ports of EXPOSE: `80`, `80/udp`, `7000-7010/tcp`.
//!
//! A host's address and port before the port mean nothing in an image; they
//! are read and left out, and the linter says so.

use thiserror::Error;

/// A port or a range of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Whether the protocol was written in other letters than small ones.
    pub odd_case: bool,
    /// Whether a host's address or port was given.
    pub has_host: bool,
}

impl Ports {
    /// Each as `80/tcp`, the form of image configs.
    pub fn each(&self) -> impl Iterator<Item = String> + '_ {
        (self.first..=self.last).map(|port| format!("{port}/{}", self.protocol))
    }
}

/// Why a text is no port.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no port to expose: {problem}")]
pub struct PortError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Reads one word of EXPOSE, expanded.
///
/// # Errors
/// [`PortError`] where it has no port, or one that isn't below 65536, or an
/// unknown protocol, or a host part that is none.
pub fn parse(text: &str) -> Result<Ports, PortError> {
    let error = |problem| PortError {
        text: text.to_owned(),
        problem,
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (Some(host), port),
        None => (None, text),
    };
    let (number, protocol) = port.split_once('/').unwrap_or((port, ""));
    if number.is_empty() {
        return Err(error("it has no number"));
    }
    let lower = match protocol.to_lowercase() {
        empty if empty.is_empty() => "tcp".to_owned(),
        lower => lower,
    };
    if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
        return Err(error("the protocol must be tcp, udp or sctp"));
    }
    let (first, last) =
        range(number).ok_or_else(|| error("a port is a number up to 65535, or a range of two"))?;
    let (address, host_port) = match host {
        None => ("", ""),
        Some(host) => host.rsplit_once(':').unwrap_or(("", host)),
    };
    if !host_port.is_empty() {
        let (from, to) = range(host_port).ok_or_else(|| error("the host's port is none"))?;
        if to - from != last - first && first != last {
            return Err(error("the two ranges differ in length"));
        }
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let address_fits =
        address.is_empty() || bare.unwrap_or(address).parse::<std::net::IpAddr>().is_ok();
    if !address_fits {
        return Err(error("the host's address is no IP address"));
    }
    Ok(Ports {
        first,
        last,
        odd_case: protocol.chars().any(char::is_uppercase),
        protocol: lower,
        has_host: !address.is_empty() || !host_port.is_empty(),
    })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| text.parse().ok()).flatten()
    };
    let Some((first, last)) = text.split_once('-') else {
        let port = port(text)?;
        return Some((port, port));
    };
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, expected) in [
            ("80", vec!["80/tcp"]),
            ("53/UDP", vec!["53/udp"]),
            ("1-3/sctp", vec!["1/sctp", "2/sctp", "3/sctp"]),
            ("127.0.0.1:8080:80", vec!["80/tcp"]),
            ("[::1]:8080:80", vec!["80/tcp"]),
            ("8000-8001:80-81", vec!["80/tcp", "81/tcp"]),
            ("8000-8010:80", vec!["80/tcp"]),
            ("80/", vec!["80/tcp"]),
            ("65535", vec!["65535/tcp"]),
        ] {
            let ports: Vec<String> = parse(text).unwrap().each().collect();
            assert_eq!(ports, expected, "{text}");
        }
        for text in [
            "",
            "/tcp",
            "a",
            "80/http",
            "65536",
            "3-1",
            "1-2-3",
            "+80",
            "x:80:80",
            "1-2:80-82",
            "80:",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let odd = parse("0.0.0.0:80:80/TCP").unwrap();
        assert!(odd.odd_case && odd.has_host);
    }
}
