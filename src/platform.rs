//! Platforms: operating system, architecture and variant of an image.
//!
//! # Specification
//! image-spec `image-index.md#platform-variants`; names are Go's `GOOS` and
//! `GOARCH`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an image is made to run on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `GOARCH`, for example `amd64`.
    pub architecture: String,
    /// `GOOS`, for example `linux`.
    pub os: String,
    /// Version of the operating system; used by Windows images.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// Features of the operating system that are required.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the CPU, for example `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: {reason}; write os/arch or os/arch/variant, as in linux/amd64")]
pub struct PlatformError {
    text: String,
    reason: &'static str,
}

impl Platform {
    /// A platform without a variant, normalized.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            os_version: None,
            os_features: Vec::new(),
            variant: None,
        }
        .normalized()
    }

    /// The platform that this program runs on.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH)
    }

    /// Reads `os/arch[/variant]`, `os` or `arch` alone, or `local`.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let fail = |reason| PlatformError {
            text: text.chars().take(100).collect(),
            reason,
        };
        // `os(version)/arch`, as Windows images need it.
        if let Some((os, rest)) = text.split_once('(') {
            let Some((version, rest)) = rest.split_once(')') else {
                return Err(fail("a ( is not closed"));
            };
            if version.is_empty() || !version.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
                return Err(fail("the version is no number"));
            }
            if rest.contains('(') {
                return Err(fail("it has two versions"));
            }
            let mut platform = Self::parse(&format!("{os}{rest}"))?;
            platform.os_version = Some(version.to_owned());
            return Ok(platform);
        }
        let parts: Vec<&str> = text.split('/').collect();
        for part in &parts {
            let ok = !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
                && !part.starts_with('.');
            if !ok {
                return Err(fail(
                    "a part is empty or has characters that are not allowed",
                ));
            }
        }
        let lower: Vec<String> = parts.iter().map(|p| p.to_ascii_lowercase()).collect();
        let platform = match lower.as_slice() {
            [one] if one == "local" => return Ok(Self::host()),
            [one] if is_os(one) => Self::new(one, &Self::host().architecture),
            [one] => {
                let p = Self::new("linux", one);
                if !is_architecture(&p.architecture) {
                    return Err(fail("it is no known operating system or architecture"));
                }
                p
            }
            [os, arch] => Self::new(os, arch),
            [os, arch, variant] => Self {
                variant: Some(variant.clone()),
                ..Self::raw(os, arch)
            }
            .normalized(),
            _ => return Err(fail("it has more than three parts")),
        };
        Ok(platform)
    }

    fn raw(os: &str, architecture: &str) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            os_version: None,
            os_features: Vec::new(),
            variant: None,
        }
    }

    /// The same platform under its usual names: `aarch64` is `arm64`, `arm`
    /// alone is `arm/v7`, `amd64/v1` is `amd64`, `arm64/v8` is `arm64`.
    pub fn normalized(mut self) -> Self {
        let mut arch = self.architecture.to_ascii_lowercase();
        let mut variant = self.variant.take().map(|v| v.to_ascii_lowercase());
        match arch.as_str() {
            "i386" | "i486" | "i586" | "i686" | "x86" => arch = "386".into(),
            "x86_64" | "x86-64" => arch = "amd64".into(),
            "aarch64" => arch = "arm64".into(),
            "armhf" => {
                arch = "arm".into();
                variant = Some("v7".into());
            }
            "armel" => {
                arch = "arm".into();
                variant = Some("v6".into());
            }
            "powerpc64le" | "ppc64el" => arch = "ppc64le".into(),
            _ => {}
        }
        if let Some(v) = &variant
            && v.bytes().all(|b| b.is_ascii_digit())
        {
            variant = Some(format!("v{v}"));
        }
        variant = match (arch.as_str(), variant.as_deref()) {
            ("amd64", Some("v1")) | ("arm64", Some("v8")) | (_, Some("")) => None,
            ("arm", None) => Some("v7".into()),
            _ => variant,
        };
        self.os = self.os.to_ascii_lowercase();
        if self.os == "macos" {
            self.os = "darwin".into();
        }
        self.architecture = arch;
        self.variant = variant;
        self
    }

    /// How well an image for `self` serves a request for `wanted`: 0 is exact,
    /// higher is a lesser variant that still runs, `None` does not run.
    pub fn serves(&self, wanted: &Self) -> Option<u32> {
        let (have, want) = (self.clone().normalized(), wanted.clone().normalized());
        if have.os != want.os || have.architecture != want.architecture {
            return None;
        }
        if have.variant == want.variant {
            return Some(0);
        }
        let level = |p: &Self| -> Option<u32> {
            match (&p.variant, p.architecture.as_str()) {
                (Some(v), _) => v.strip_prefix('v')?.parse().ok(),
                (None, "amd64") => Some(1),
                (None, "arm64") => Some(8),
                (None, _) => None,
            }
        };
        match (level(&have), level(&want)) {
            (Some(h), Some(w)) if h < w => Some(w - h),
            _ => None,
        }
    }
}

fn is_os(text: &str) -> bool {
    matches!(
        text,
        "linux"
            | "windows"
            | "darwin"
            | "macos"
            | "freebsd"
            | "netbsd"
            | "openbsd"
            | "solaris"
            | "aix"
            | "android"
            | "dragonfly"
            | "illumos"
            | "js"
            | "plan9"
            | "wasip1"
            | "wasi"
    )
}

fn is_architecture(text: &str) -> bool {
    matches!(
        text,
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "loong64"
            | "mips"
            | "mips64"
            | "mips64le"
            | "mipsle"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(v) = &self.variant {
            write!(f, "/{v}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_normalizes() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("arm64", "linux/arm64"),
            ("Linux/AMD64", "linux/amd64"),
        ] {
            assert_eq!(
                Platform::parse(text).unwrap().to_string(),
                expected,
                "{text}"
            );
        }
        for bad in [
            "",
            "linux/",
            "a/b/c/d",
            "linux/../x",
            "nonsense",
            "linux/a b",
        ] {
            assert!(Platform::parse(bad).is_err(), "{bad:?}");
        }
        let windows = Platform::parse("windows(10.0.17763)/amd64").unwrap();
        assert_eq!(windows.os_version.as_deref(), Some("10.0.17763"));
        let versions = format!("linux{}/amd64", "(1)".repeat(100_000));
        assert!(Platform::parse(&versions).is_err());
    }

    #[test]
    fn serves_lesser_variants() {
        let p = |t| Platform::parse(t).unwrap();
        assert_eq!(p("linux/arm/v6").serves(&p("linux/arm/v7")), Some(1));
        assert_eq!(p("linux/arm/v7").serves(&p("linux/arm/v6")), None);
        assert_eq!(p("linux/amd64").serves(&p("linux/amd64/v3")), Some(2));
        assert_eq!(p("linux/arm64").serves(&p("linux/amd64")), None);
    }
}
