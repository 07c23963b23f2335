//! Which server is which: the rules for where a request, a secret or a
//! redirect may go. Pure.
//!
//! An origin is scheme, host and port; a different port is a different
//! origin. The rules need no name resolution: they are about what is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Whether `a` and `b` have the same scheme, host and port.
pub fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether `registry` (`host[:port]`) is this machine: `localhost` or an
/// address of the loopback network, and no name that only looks like one.
pub fn is_loopback(registry: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{registry}/")) else {
        return false;
    };
    url.host().is_some_and(|host| host_is_loopback(&host))
}

fn host_is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    }
}

/// Whether a redirect from `from` to `to` may be followed (without secrets,
/// when it leaves the origin).
///
/// # Errors
/// The reason why not.
pub fn check_redirect(from: &Url, to: &Url) -> Result<(), &'static str> {
    match (from.scheme(), to.scheme()) {
        ("https", "http") => return Err("it leaves https for http"),
        (_, "http" | "https") => {}
        _ => return Err("it is not http or https"),
    }
    if !to.has_host() {
        return Err("it names no host");
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("it carries a user name");
    }
    let inward = to.host().is_some_and(|h| is_special(&h));
    let from_inside = from.host().is_some_and(|h| is_special(&h));
    if inward && !from_inside && from.host() != to.host() {
        return Err("it leads to an address that is only reachable from here");
    }
    Ok(())
}

/// Addresses that a server elsewhere has no business to name: link-local
/// (cloud metadata), unspecified, loopback.
fn is_special(host: &Host<&str>) -> bool {
    let v4 = |ip: &Ipv4Addr| ip.is_loopback() || ip.is_link_local() || ip.is_unspecified();
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(ip) => v4(ip),
        Host::Ipv6(ip) => {
            let link_local = (ip.segments()[0] & 0xffc0) == 0xfe80;
            ip.is_loopback()
                || ip.is_unspecified()
                || link_local
                || ip.to_ipv4_mapped().is_some_and(|ip| v4(&ip))
        }
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private() || ip.is_broadcast() || ip.is_loopback() || ip.is_unspecified()
        }
        IpAddr::V6(ip) => is_unique_local(ip),
    }
}

fn is_unique_local(ip: Ipv6Addr) -> bool {
    (ip.segments()[0] & 0xfe00) == 0xfc00
}

/// What a token server may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Realm {
    /// The registry's credentials.
    Trusted,
    /// A request without credentials; the reason is what stands against more.
    Anonymous(&'static str),
}

/// What may be sent to `realm`, the token server that `registry` names.
///
/// Trusted is a server on the registry's own host, or one whose name belongs
/// to the same domain, over https (over http only for a registry that is
/// itself reached by http).
///
/// # Errors
/// The reason why not even an anonymous request may be made.
pub fn check_realm(registry: &Url, realm: &Url) -> Result<Realm, &'static str> {
    match (registry.scheme(), realm.scheme()) {
        ("https", "http") => return Err("it is http, the registry is https"),
        (_, "http" | "https") => {}
        _ => return Err("it is not http or https"),
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err("it carries a user name");
    }
    let (Some(ours), Some(theirs)) = (registry.host(), realm.host()) else {
        return Err("it names no host");
    };
    if ours == theirs {
        return Ok(Realm::Trusted);
    }
    if is_special(&theirs) {
        return Err("it is an address that is only reachable from here");
    }
    match (ours, theirs) {
        (_, Host::Ipv4(ip)) if is_private(ip.into()) => Err("it is a private address"),
        (_, Host::Ipv6(ip)) if is_private(ip.into()) => Err("it is a private address"),
        (Host::Domain(a), Host::Domain(b)) if same_site(a, b) => {
            if realm.scheme() == "https" {
                Ok(Realm::Trusted)
            } else {
                Ok(Realm::Anonymous("it is another host and not https"))
            }
        }
        _ => Ok(Realm::Anonymous("it belongs to another domain")),
    }
}

/// Suffixes of two or more labels under which strangers register names.
const SHARED_SUFFIXES: &[&str] = &[
    "amazonaws.com",
    "appspot.com",
    "azurecr.io",
    "azurewebsites.net",
    "cloudapp.azure.com",
    "cloudapp.net",
    "cloudfront.net",
    "digitaloceanspaces.com",
    "duckdns.org",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "googleusercontent.com",
    "herokuapp.com",
    "ngrok.app",
    "ngrok.dev",
    "ngrok.io",
    "ngrok-free.app",
    "ngrok-free.dev",
    "netlify.app",
    "nip.io",
    "onrender.com",
    "pages.dev",
    "r2.dev",
    "run.app",
    "sslip.io",
    "vercel.app",
    "web.app",
    "windows.net",
    "workers.dev",
];

/// Whether two names are below one domain that one owner registered. Without
/// the public suffix list this errs on the side of "no": two labels must be
/// shared, three below the usual second-level country suffixes.
fn same_site(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim_end_matches('.'), b.trim_end_matches('.'));
    let common: Vec<&str> = a
        .rsplit('.')
        .zip(b.rsplit('.'))
        .take_while(|(x, y)| x == y)
        .map(|(x, _)| x)
        .collect();
    let needed = match common.as_slice() {
        // As in co.uk, com.au, or.jp, gov.br.
        [country, second, ..] if country.len() == 2 && second.len() <= 3 => 3,
        _ => 2,
    };
    if common.len() < needed {
        return false;
    }
    let mut shared: Vec<&str> = common;
    shared.reverse();
    let shared = shared.join(".");
    !SHARED_SUFFIXES.iter().any(|s| {
        shared == *s || (s.ends_with(&shared) && s.len() > shared.len() && is_label_end(s, &shared))
    })
}

fn is_label_end(suffix: &str, tail: &str) -> bool {
    suffix
        .strip_suffix(tail)
        .is_some_and(|head| head.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn loopback_is_this_machine_only() {
        for yes in [
            "localhost",
            "localhost:5000",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]:5000",
            "2130706433",
        ] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in [
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "evil.com",
            "foo.local",
            "10.0.0.1",
            "[::2]:1",
            "localhost@evil.com",
            "evil.com/localhost",
        ] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn realms() {
        use Realm::*;
        let trusted = |r: Result<Realm, _>| matches!(r, Ok(Trusted));
        let anonymous = |r: Result<Realm, _>| matches!(r, Ok(Anonymous(_)));
        let refused = |r: Result<Realm, &str>| r.is_err();
        type Check = fn(Result<Realm, &'static str>) -> bool;
        for (registry, realm, check) in [
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io/token",
                trusted as Check,
            ),
            (
                "https://registry.gitlab.com",
                "https://gitlab.com/jwt/auth",
                trusted,
            ),
            (
                "https://r.example.com:5000",
                "https://r.example.com:5001/t",
                trusted,
            ),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/t", trusted),
            ("http://r.lan:5000", "http://r.lan/t", trusted),
            ("https://r.example.com", "http://r.example.com/t", refused),
            ("https://r.example.com", "https://evil.com/t", anonymous),
            ("https://a.co.uk", "https://b.co.uk/t", anonymous),
            ("https://a.github.io", "https://b.github.io/t", anonymous),
            ("https://a.azurecr.io", "https://b.azurecr.io/t", anonymous),
            (
                "https://a.x.azure.com",
                "https://b.y.azure.com/t",
                anonymous,
            ),
            ("https://io", "https://io.evil/t", anonymous),
            ("https://r.example.com", "https://169.254.169.254/", refused),
            ("https://r.example.com", "https://[::]/", refused),
            ("https://r.example.com", "https://[::1]/", refused),
            (
                "https://r.example.com",
                "https://[::ffff:127.0.0.1]/",
                refused,
            ),
            ("https://r.example.com", "https://2130706433/", refused),
            ("https://r.example.com", "https://10.1.2.3/", refused),
            ("https://r.example.com", "https://localhost/", refused),
            (
                "https://r.example.com",
                "https://r.example.com@evil.com/",
                refused,
            ),
            ("https://r.example.com", "file:///etc/passwd", refused),
            ("http://127.0.0.1:1", "http://127.0.0.2:1/", refused),
            (
                "https://docker.io.evil.com",
                "https://auth.docker.io/",
                anonymous,
            ),
        ] {
            let got = check_realm(&url(registry), &url(realm));
            assert!(check(got), "{registry} {realm}: {got:?}");
        }
    }

    #[test]
    fn redirects() {
        for (from, to, ok) in [
            ("https://a.io/x", "https://cdn.net/y", true),
            ("http://a.io/x", "https://cdn.net/y", true),
            ("https://a.io/x", "http://a.io/y", false),
            ("http://a.io/x", "file:///etc/passwd", false),
            ("http://a.io/x", "ftp://a.io/", false),
            ("https://a.io/x", "https://169.254.169.254/", false),
            ("https://a.io/x", "https://127.0.0.1/", false),
            ("https://a.io/x", "https://u@b.io/", false),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:2/", true),
            ("http://127.0.0.1:1/x", "http://127.0.0.2:1/", true),
            ("https://r.lan/x", "https://10.0.0.5/minio", true),
        ] {
            assert_eq!(
                check_redirect(&url(from), &url(to)).is_ok(),
                ok,
                "{from} {to}"
            );
        }
    }
}
