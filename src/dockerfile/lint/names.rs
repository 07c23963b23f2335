//! What can be an image's name, and what can be a platform. Only as much as
//! the rules need; who looks images up parses names for real.

/// The longest name a registry takes.
const MAX_NAME: usize = 255;

/// Whether `text` has the form `[domain/]path[:tag][@digest]`.
pub(super) fn is_reference(text: &str) -> bool {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|d| !is_digest(d)) {
        return false;
    }
    let slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match rest[slash..].split_once(':') {
        Some((last, tag)) => (&rest[..slash + last.len()], Some(tag)),
        None => (rest, None),
    };
    if tag.is_some_and(|t| !is_tag(t)) {
        return false;
    }
    // A bare image ID isn't a name.
    if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return false;
    }
    let (domain, path) = match name.split_once('/') {
        Some((domain, path)) if is_domain_like(domain) => (Some(domain), path),
        _ => (None, name),
    };
    name.len() <= MAX_NAME && domain.is_none_or(is_domain) && path.split('/').all(is_path_component)
}

fn is_domain_like(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost" || text.chars().any(char::is_uppercase)
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let host_fits = if let Some(inner) = host.strip_prefix('[') {
        inner
            .strip_suffix(']')
            .is_some_and(|a| !a.is_empty() && a.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'))
    } else {
        host.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    port_fits && host_fits
}

/// Small letters and digits, with single `.` and `_`, double `_` and any
/// number of `-` between them.
fn is_path_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    bytes.split(alphanumeric).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn is_tag(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(fits)
        && text.bytes().all(|b| fits(b) || b == b'.' || b == b'-')
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The operating system and architecture of `os/arch[/variant]`, `os` or
/// `arch`, under their common names; `None` where it is no platform.
pub(super) fn platform(text: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = text.split('/').collect();
    let fits = |p: &&str| {
        !p.is_empty()
            && p.bytes().all(|b| {
                b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'(' | b')' | b'+')
            })
    };
    if !parts.iter().all(fits) {
        return None;
    }
    match parts.as_slice() {
        [one] => {
            let lower = one.to_lowercase();
            if is_system(&lower) {
                Some((system(&lower), "amd64".to_owned()))
            } else if is_architecture(&architecture(&lower)) {
                Some(("linux".to_owned(), architecture(&lower)))
            } else {
                None
            }
        }
        [os, arch] | [os, arch, _] => Some((
            system(&os.to_lowercase()),
            architecture(&arch.to_lowercase()),
        )),
        _ => None,
    }
}

fn system(os: &str) -> String {
    let os = os.split('(').next().unwrap_or_default();
    if os == "macos" { "darwin" } else { os }.to_owned()
}

fn architecture(arch: &str) -> String {
    match arch {
        "i386" => "386",
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armhf" | "armel" => "arm",
        arch => arch,
    }
    .to_owned()
}

fn is_system(os: &str) -> bool {
    matches!(
        system(os).as_str(),
        "aix"
            | "android"
            | "darwin"
            | "dragonfly"
            | "freebsd"
            | "hurd"
            | "illumos"
            | "ios"
            | "js"
            | "linux"
            | "nacl"
            | "netbsd"
            | "openbsd"
            | "plan9"
            | "solaris"
            | "windows"
            | "zos"
    )
}

fn is_architecture(arch: &str) -> bool {
    matches!(
        arch,
        "386"
            | "amd64"
            | "amd64p32"
            | "arm"
            | "armbe"
            | "arm64"
            | "arm64be"
            | "ppc64"
            | "ppc64le"
            | "loong64"
            | "mips"
            | "mipsle"
            | "mips64"
            | "mips64le"
            | "mips64p32"
            | "mips64p32le"
            | "ppc"
            | "riscv"
            | "riscv64"
            | "s390"
            | "s390x"
            | "sparc"
            | "sparc64"
            | "wasm"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for (text, expected) in [
            ("alpine", true),
            ("alpine:3.22", true),
            ("localhost:5000/a/b:c", true),
            ("example.org/a__b/c-d.e", true),
            ("[::1]:80/a", true),
            (digest.as_str(), true),
            ("", false),
            ("alpine:", false),
            (":tag", false),
            ("Alpine", false),
            ("a/B", false),
            ("a//b", false),
            ("a___b", false),
            ("a@sha256:0", false),
            ("-a", false),
            ("a:b:c", false),
            ("a b", false),
        ] {
            assert_eq!(is_reference(text), expected, "{text}");
        }
        assert!(!is_reference(&"0".repeat(64)));
    }

    #[test]
    fn platforms() {
        for (text, expected) in [
            ("linux/amd64", Some(("linux", "amd64"))),
            ("Linux/x86_64", Some(("linux", "amd64"))),
            ("linux/arm/v7", Some(("linux", "arm"))),
            ("aarch64", Some(("linux", "arm64"))),
            ("windows", Some(("windows", "amd64"))),
            ("windows(10.0.1)/amd64", Some(("windows", "amd64"))),
            ("nope", None),
            ("a//b", None),
            ("a/b/c/d", None),
        ] {
            let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(platform(text), expected, "{text}");
        }
    }
}
