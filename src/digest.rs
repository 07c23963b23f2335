//! Content digests: what names a blob, a layer's content and a chain of layers.
//!
//! A [`Digest`] can only be made by the validating parser or by hashing, so a
//! value of the type is always safe to use in a file name or a URL. The three
//! identities of a layer are three types: [`Digest`] of the blob as stored
//! (compressed), [`DiffId`] of the tar inside, [`ChainId`] of the layer on top
//! of all layers below it.
//!
//! # Specification
//! image-spec `descriptor.md#digests`, `config.md#layer-diffid`,
//! `config.md#layer-chainid`.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// Why a string is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {text:?}: {reason}")]
pub struct DigestError {
    /// The offending text, cut to 100 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A content digest, `algorithm:encoded`.
///
/// `sha256` and `sha512` must have their exact number of lower-case hex
/// digits; other algorithms are accepted if they follow the grammar, but
/// nothing can be verified against them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Box<str>);

impl Digest {
    /// Checks `text` against the grammar of the image-spec.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let fail = |reason| DigestError {
            text: text.chars().take(100).collect(),
            reason,
        };
        if text.len() > 512 {
            return Err(fail("it is too long"));
        }
        let (algorithm, encoded) = text
            .split_once(':')
            .ok_or_else(|| fail("it has no algorithm, as in sha256:<hex>"))?;
        let component = |c: &str| {
            !c.is_empty()
                && c.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if !algorithm.split(['+', '.', '_', '-']).all(component) {
            return Err(fail("the algorithm is malformed"));
        }
        if encoded.is_empty()
            || !encoded
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'))
        {
            return Err(fail("the encoded part is malformed"));
        }
        let hex_len = match algorithm {
            "sha256" => Some(64),
            "sha384" => Some(96),
            "sha512" => Some(128),
            _ => None,
        };
        if let Some(len) = hex_len {
            if encoded.len() != len {
                return Err(fail("it has the wrong number of hex digits"));
            }
            if !encoded
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            {
                return Err(fail("it has characters other than lower-case hex digits"));
            }
        }
        Ok(Self(text.into()))
    }

    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Hasher::new().chain(bytes).finish()
    }

    /// The part before the colon.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(a, _)| a)
    }

    /// The part after the colon.
    pub fn encoded(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, e)| e)
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve characters of the encoded part, for people.
    pub fn short(&self) -> &str {
        let e = self.encoded();
        &e[..e.len().min(12)]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(s: &str) -> Result<Self, DigestError> {
        Self::parse(s)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// Takes `digest` for this kind of identity.
            pub fn new(digest: Digest) -> Self {
                Self(digest)
            }
            /// The digest itself.
            pub fn digest(&self) -> &Digest {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

digest_newtype! {
    /// The digest of a layer's uncompressed tar.
    DiffId
}
digest_newtype! {
    /// The digest that names a layer on top of all layers below it.
    ChainId
}

impl ChainId {
    /// The chainID of a stack of layers, lowest first; `None` for no layers.
    pub fn of(diff_ids: &[DiffId]) -> Option<Self> {
        let (first, rest) = diff_ids.split_first()?;
        let mut chain = first.0.clone();
        for id in rest {
            chain = Digest::of(format!("{chain} {id}").as_bytes());
        }
        Some(Self(chain))
    }
}

/// A running SHA-256.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    /// Starts at the empty input.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds `bytes` behind their length, so that neighbouring fields can't
    /// run into each other.
    pub fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// [`update`](Self::update), by value.
    pub fn chain(mut self, bytes: &[u8]) -> Self {
        self.update(bytes);
        self
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        self.finish_raw().into()
    }

    /// The same as plain bytes.
    pub fn finish_raw(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

/// A SHA-256 as plain bytes, where there are very many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// That of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Hasher::new().chain(bytes).finish_raw()
    }
}

impl From<Sha256> for Digest {
    fn from(raw: Sha256) -> Self {
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        push_hex(&mut text, &raw.0);
        Self(text.into())
    }
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for b in bytes {
        out.push(DIGITS[usize::from(b >> 4)] as char);
        out.push(DIGITS[usize::from(b & 15)] as char);
    }
}

/// Counts and hashes what passes through to `inner`.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Wraps `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::new(),
            bytes: 0,
        }
    }

    /// The writer, the digest and the number of bytes written.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.bytes)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

enum AnyHasher {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

/// Hands out the bytes of `inner` and fails at the end, or as soon as too many
/// have come, if they are not the blob that was promised.
///
/// A reader that stops before end of file has verified nothing: read on until
/// `Ok(0)`.
pub struct VerifyingReader<R> {
    inner: R,
    hasher: AnyHasher,
    expected: Digest,
    size: Option<u64>,
    bytes: u64,
    checked: bool,
}

impl<R> fmt::Debug for VerifyingReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingReader({})", self.expected)
    }
}

impl<R: Read> VerifyingReader<R> {
    /// Expects `expected` and, where it is known, `size` bytes.
    ///
    /// # Errors
    /// When the digest's algorithm is one that can't be computed.
    pub fn new(inner: R, expected: Digest, size: Option<u64>) -> io::Result<Self> {
        let hasher = match expected.algorithm() {
            "sha256" => AnyHasher::Sha256(sha2::Sha256::new()),
            "sha384" => AnyHasher::Sha384(sha2::Sha384::new()),
            "sha512" => AnyHasher::Sha512(sha2::Sha512::new()),
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("{expected} can't be verified: unknown digest algorithm {other}"),
                ));
            }
        };
        Ok(Self {
            inner,
            hasher,
            expected,
            size,
            bytes: 0,
            checked: false,
        })
    }

    fn check(&mut self) -> io::Result<()> {
        if self.checked {
            return Ok(());
        }
        if let Some(size) = self.size
            && size != self.bytes
        {
            return Err(invalid(format!(
                "{} has {} bytes, {size} were promised",
                self.expected, self.bytes
            )));
        }
        let mut text = format!("{}:", self.expected.algorithm());
        match &self.hasher {
            AnyHasher::Sha256(h) => push_hex(&mut text, &h.clone().finalize()),
            AnyHasher::Sha384(h) => push_hex(&mut text, &h.clone().finalize()),
            AnyHasher::Sha512(h) => push_hex(&mut text, &h.clone().finalize()),
        }
        if text != self.expected.as_str() {
            return Err(invalid(format!(
                "the content of {} has the digest {text}",
                self.expected
            )));
        }
        self.checked = true;
        Ok(())
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buf)?;
        if n == 0 {
            self.check()?;
            return Ok(0);
        }
        self.bytes += n as u64;
        if let Some(size) = self.size
            && self.bytes > size
        {
            return Err(invalid(format!(
                "{} is longer than the {size} bytes that were promised",
                self.expected
            )));
        }
        match &mut self.hasher {
            AnyHasher::Sha256(h) => h.update(&buf[..n]),
            AnyHasher::Sha384(h) => h.update(&buf[..n]),
            AnyHasher::Sha512(h) => h.update(&buf[..n]),
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn accepts_and_refuses() {
        let long = format!("sha256:{}", "a".repeat(1 << 20));
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        let newline = format!("{EMPTY}\n");
        for bad in [
            "",
            "sha256:",
            "sha256",
            "sha256:../../../../etc/passwd",
            "../x:abc",
            "sha256:%2e%2e",
            "sha256:abc",
            "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "a..b:00",
            &long,
            &upper,
            &newline,
            &EMPTY[..70],
            &format!("{EMPTY}0"),
            &format!("sha256:{}", "/".repeat(64)),
        ] {
            assert!(Digest::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in [EMPTY, "blake3:abc", "multihash+base58:QmRZx"] {
            assert_eq!(Digest::parse(good).map(|d| d.to_string()), Ok(good.into()));
        }
    }

    #[test]
    fn hashing_and_verifying() {
        assert_eq!(Digest::of(b"").as_str(), EMPTY);
        let mut w = HashingWriter::new(Vec::new());
        w.write_all(b"shiplap").unwrap();
        let (bytes, digest, n) = w.finish();
        assert_eq!((bytes.as_slice(), n), (&b"shiplap"[..], 7));
        let read = |data: &[u8], size| {
            let mut out = Vec::new();
            VerifyingReader::new(data, digest.clone(), size)
                .unwrap()
                .read_to_end(&mut out)
                .map(|_| out)
        };
        assert_eq!(read(b"shiplap", Some(7)).unwrap(), b"shiplap");
        assert!(read(b"shiplap", Some(8)).is_err());
        assert!(read(b"shiplapx", Some(7)).is_err());
        assert!(read(b"shiplaq", None).is_err());
        assert!(VerifyingReader::new(&b""[..], Digest::parse("md5:00").unwrap(), None).is_err());
    }

    #[test]
    fn chain_ids() {
        let a = DiffId::new(Digest::of(b"a"));
        let b = DiffId::new(Digest::of(b"b"));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(
            ChainId::of(std::slice::from_ref(&a)).unwrap().digest(),
            a.digest()
        );
        let two = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::of(&[a, b]).unwrap().digest(), &two);
    }
}
