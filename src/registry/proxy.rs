//! Which requests go through a proxy. Pure.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use super::origin;

/// Proxies by the scheme of the request. This machine is never reached
/// through one.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For http.
    pub http: Option<String>,
    /// For https.
    pub https: Option<String>,
    /// Hosts that are reached directly: names (subdomains included, with or
    /// without a leading dot), addresses, networks (`10.0.0.0/8`), each with
    /// or without `:port`, or `*`.
    pub exceptions: Vec<String>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("exceptions", &self.exceptions)
            .finish()
    }
}

impl Proxies {
    /// The proxy for a request to `url`.
    pub fn for_url(&self, url: &Url) -> Option<&str> {
        let proxy = match url.scheme() {
            "https" => self.https.as_deref(),
            _ => self.http.as_deref(),
        }?;
        let host = url.host()?;
        let port = url.port_or_known_default()?;
        let direct = origin::is_loopback(&format!("{host}:{port}"))
            || self.exceptions.iter().any(|e| excepts(e, &host, port));
        (!direct).then_some(proxy)
    }
}

/// Whether one exception is about `host` and `port`.
fn excepts(exception: &str, host: &Host<&str>, port: u16) -> bool {
    let exception = exception.trim().to_ascii_lowercase();
    if exception == "*" {
        return true;
    }
    if let (Some((network, bits)), Some(address)) = (exception.split_once('/'), address(host)) {
        let network = network.trim_matches(['[', ']']).parse().ok();
        let bits = bits.parse().ok();
        return network
            .zip(bits)
            .is_some_and(|(network, bits)| is_within(address, network, bits));
    }
    let (name, wanted) = match exception.rsplit_once(':') {
        // The last part of a bare IPv6 address is no port.
        Some((name, wanted)) if !name.contains(':') || name.ends_with(']') => {
            (name.to_owned(), wanted.parse::<u16>().ok())
        }
        _ => (exception.clone(), None),
    };
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    match host {
        Host::Domain(host) => {
            let name = name.strip_prefix('*').unwrap_or(&name);
            let name = name.trim_start_matches('.').trim_end_matches('.');
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            !name.is_empty()
                && (host == name || host.strip_suffix(name).is_some_and(|h| h.ends_with('.')))
        }
        Host::Ipv4(_) | Host::Ipv6(_) => {
            let name = name.trim_matches(['[', ']']);
            name.parse().ok() == address(host)
        }
    }
}

fn address(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Domain(_) => None,
        Host::Ipv4(ip) => Some((*ip).into()),
        Host::Ipv6(ip) => Some((*ip).into()),
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, width): (u128, u128, u32) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    // A shift by the whole width is none that the type can do.
    match width.checked_sub(bits) {
        None => false,
        Some(host_bits) => (address ^ network).checked_shr(host_bits).unwrap_or(0) == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_have_exceptions() {
        let proxies = Proxies {
            http: Some("http://p:1".into()),
            https: Some("http://p:2".into()),
            exceptions: [
                ".corp.example",
                "r.io:5000",
                " 10.0.0.1 ",
                "10.2.0.0/16",
                "fd00::/8",
                "[fe80::1]:443",
                "2001:db8::7",
                "*.wild.example",
                "",
                "300.0.0.0/8",
                "10.9.9.9/99",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        for (url, expected) in [
            ("http://a.io/", Some("http://p:1")),
            ("https://a.io/", Some("http://p:2")),
            ("https://x.corp.example/", None),
            ("https://corp.example/", None),
            ("https://evilcorp.example/", Some("http://p:2")),
            ("https://x.wild.example/", None),
            ("https://r.io:5000/", None),
            ("https://sub.r.io:5000/", None),
            ("https://r.io/", Some("http://p:2")),
            ("http://10.0.0.1/", None),
            ("http://10.0.0.11/", Some("http://p:1")),
            ("http://10.2.255.1/", None),
            ("http://10.3.0.1/", Some("http://p:1")),
            ("https://10.9.9.9/", Some("http://p:2")),
            ("https://[fd12::1]/", None),
            ("https://[fe80::1]/", None),
            ("https://[fe80::1]:5000/", Some("http://p:2")),
            ("https://[2001:db8::7]:5000/", None),
            ("https://[2001:db8::8]/", Some("http://p:2")),
            ("http://localhost:5000/", None),
            ("http://127.0.0.1/", None),
        ] {
            let got = proxies.for_url(&Url::parse(url).unwrap());
            assert_eq!(got, expected, "{url}");
        }
        let none = Proxies {
            exceptions: vec!["*".into()],
            ..proxies
        };
        assert_eq!(none.for_url(&Url::parse("https://a.io").unwrap()), None);
    }
}
