//! A build context, or a Dockerfile alone, that comes as a stream of bytes.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::layer::archive::{open_archive, sniff};
use crate::layer::unpack::{Devices, Form, UnpackError, UnpackOptions, unpack};
use crate::sys::fs::Root;

/// Longest Dockerfile or ignore file, in bytes.
pub const MAX_TEXT: u64 = 16 << 20;

/// Why a stream can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It breaks off, or can't be read.
    #[error("reading the build context")]
    Read(#[source] io::Error),
    /// It is compressed, but there is no tar inside.
    #[error("the build context is compressed data, but no tar")]
    NoTar,
    /// It is no archive, and too long for a Dockerfile.
    #[error("the build context is no tar, and longer than a Dockerfile may be ({MAX_TEXT} bytes)")]
    TooLong,
    /// The archive can't be unpacked.
    #[error("unpacking the build context")]
    Unpack(#[source] UnpackError),
    /// The directory for it can't be used.
    #[error("unpacking the build context to {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a stream turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Stream {
    /// A tar, now unpacked.
    Unpacked,
    /// A Dockerfile.
    Dockerfile(Vec<u8>),
}

/// Reads `stream` to its end: a tar, compressed or not, is unpacked into the
/// empty private directory `dir`; anything else is a Dockerfile.
///
/// Owners are not set, and device nodes are empty files: neither means
/// anything in a build context.
pub fn receive(
    mut stream: impl Read + Send + 'static,
    dir: &Path,
    max_bytes: u64,
) -> Result<Stream, StreamError> {
    let mut start = Vec::new();
    stream
        .by_ref()
        .take(512)
        .read_to_end(&mut start)
        .map_err(StreamError::Read)?;
    let looks_packed = sniff(&start).is_some();
    let whole = io::Cursor::new(start).chain(stream);
    if !looks_packed {
        let mut text = Vec::new();
        whole
            .take(MAX_TEXT + 1)
            .read_to_end(&mut text)
            .map_err(StreamError::Read)?;
        if text.len() as u64 > MAX_TEXT {
            return Err(StreamError::TooLong);
        }
        return Ok(Stream::Dockerfile(text));
    }
    let tar = open_archive(whole)
        .map_err(StreamError::Read)?
        .ok_or(StreamError::NoTar)?;
    let root = Root::open(dir).map_err(|source| StreamError::Directory {
        path: dir.to_owned(),
        source,
    })?;
    let options = UnpackOptions {
        max_bytes,
        owners: false,
        devices: Devices::Placeholder,
        ..UnpackOptions::new(Form::Flat)
    };
    unpack(tar, &root, &options).map_err(StreamError::Unpack)?;
    Ok(Stream::Unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn streams() {
        let from = tempfile::tempdir().unwrap();
        std::fs::create_dir(from.path().join("d")).unwrap();
        std::fs::write(from.path().join("d/f"), "text").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.path().join("l")).unwrap();
        for flag in ["-c", "-cz"] {
            let tar = Command::new("tar")
                .args([flag, "-C", from.path().to_str().unwrap(), "."])
                .output()
                .unwrap()
                .stdout;
            let dir = tempfile::tempdir().unwrap();
            let cut = tar[..tar.len() / 3].to_vec();
            let done = receive(io::Cursor::new(tar), dir.path(), 1 << 20).unwrap();
            assert_eq!(done, Stream::Unpacked);
            assert_eq!(std::fs::read(dir.path().join("d/f")).unwrap(), b"text");
            let dir = tempfile::tempdir().unwrap();
            assert!(receive(io::Cursor::new(cut), dir.path(), 1 << 20).is_err());
        }
        let dir = tempfile::tempdir().unwrap();
        let text = b"FROM scratch\n".to_vec();
        assert_eq!(
            receive(io::Cursor::new(text.clone()), dir.path(), 10).unwrap(),
            Stream::Dockerfile(text)
        );
        let long = io::repeat(b'#').take(MAX_TEXT + 1);
        let error = receive(long, dir.path(), 10).unwrap_err();
        assert!(matches!(error, StreamError::TooLong));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, b"only text").unwrap();
        let packed = io::Cursor::new(gzip.finish().unwrap());
        let error = receive(packed, dir.path(), 10).unwrap_err();
        assert!(matches!(error, StreamError::NoTar));
    }
}
