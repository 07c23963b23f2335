//! Telling by its content whether a file is an archive that ADD unpacks.
//!
//! A file counts when it is a tar, or when its first decompressed block is a
//! tar's. File names play no role, and no program is run.

use std::io::{self, BufReader, Read};

use super::compress;
use super::ustar::{self, BLOCK, Block};

/// What a file's first bytes say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// A tar, not compressed.
    Tar,
    /// gzip data; of what is not known yet.
    Gzip,
    /// bzip2 data.
    Bzip2,
    /// xz data.
    Xz,
    /// Zstandard data.
    Zstd,
}

/// Memory that an xz archive may ask for, in bytes: what `xz -9` needs.
const XZ_MEMORY: u64 = 128 << 20;

/// Looks at the first bytes of a file; 512 are enough.
pub fn sniff(start: &[u8]) -> Option<ArchiveKind> {
    let magics: [(&[u8], ArchiveKind); 4] = [
        (&[0x1f, 0x8b, 8], ArchiveKind::Gzip),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], ArchiveKind::Xz),
        (&[0x28, 0xb5, 0x2f, 0xfd], ArchiveKind::Zstd),
        (b"BZh", ArchiveKind::Bzip2),
    ];
    let by_magic = magics
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map(|(_, kind)| *kind);
    by_magic.or_else(|| {
        let block: &Block = start.get(..BLOCK)?.try_into().ok()?;
        is_tar_header(block).then_some(ArchiveKind::Tar)
    })
}

/// A block of zeros has no checksum, so an empty archive is none.
fn is_tar_header(block: &Block) -> bool {
    block[0] != 0 && ustar::is_sealed(block)
}

/// Opens `reader` as a stream of tar, decompressing it where needed; `None`
/// when it is no archive.
///
/// A file that only begins like compressed data, or holds something else than
/// a tar, is no archive.
///
/// # Errors
/// When `reader` itself can't be read.
pub fn open_archive(
    mut reader: impl Read + Send + 'static,
) -> io::Result<Option<Box<dyn Read + Send>>> {
    let start = read_start(&mut reader)?;
    let kind = sniff(&start);
    let whole = io::Cursor::new(start).chain(reader);
    let mut inside: Box<dyn Read + Send> = match kind {
        None => return Ok(None),
        Some(ArchiveKind::Tar) => return Ok(Some(Box::new(whole))),
        Some(ArchiveKind::Gzip) => Box::new(compress::gunzip(whole)),
        Some(ArchiveKind::Zstd) => Box::new(compress::unzstd(whole)?),
        Some(ArchiveKind::Bzip2) => {
            let whole = BufReader::with_capacity(128 << 10, whole);
            Box::new(bzip2::bufread::MultiBzDecoder::new(whole))
        }
        Some(ArchiveKind::Xz) => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
            let whole = BufReader::with_capacity(128 << 10, whole);
            Box::new(liblzma::bufread::XzDecoder::new_stream(whole, stream))
        }
    };
    // What fails to decompress from its very start is an ordinary file.
    let Ok(start) = read_start(&mut inside) else {
        return Ok(None);
    };
    match sniff(&start) {
        Some(ArchiveKind::Tar) => Ok(Some(Box::new(io::Cursor::new(start).chain(inside)))),
        _ => Ok(None),
    }
}

fn read_start(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(BLOCK);
    reader.take(BLOCK as u64).read_to_end(&mut start)?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tar() -> Vec<u8> {
        let mut block = [0; BLOCK];
        ustar::NAME.put(&mut block, b"d/");
        block[ustar::TYPE] = b'5';
        ustar::seal(&mut block);
        [&block[..], &[0; 1024]].concat()
    }

    fn open(bytes: Vec<u8>) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        open_archive(io::Cursor::new(bytes))
            .unwrap()?
            .read_to_end(&mut out)
            .unwrap();
        Some(out)
    }

    fn packed(bytes: &[u8]) -> Vec<(ArchiveKind, Vec<u8>)> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(bytes).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(bytes).unwrap();
        vec![
            (ArchiveKind::Gzip, gzip.finish().unwrap()),
            (ArchiveKind::Bzip2, bzip2.finish().unwrap()),
            (ArchiveKind::Xz, xz.finish().unwrap()),
            (ArchiveKind::Zstd, zstd::encode_all(bytes, 1).unwrap()),
        ]
    }

    #[test]
    fn archives_are_known_by_content() {
        assert_eq!(sniff(&tar()), Some(ArchiveKind::Tar));
        assert_eq!(open(tar()).as_deref(), Some(&tar()[..]));
        for (kind, bytes) in packed(&tar()) {
            assert_eq!(sniff(&bytes), Some(kind));
            assert_eq!(open(bytes.clone()).as_deref(), Some(&tar()[..]), "{kind:?}");
            let cut = bytes[..12].to_vec();
            assert_eq!(open(cut), None, "{kind:?} cut");
        }
    }

    #[test]
    fn other_files_are_files() {
        for bytes in [
            &b""[..],
            b"hello",
            b"\x1f\x8b\x08 not gzip",
            b"BZh",
            &[0; 4096],
        ] {
            assert_eq!(open(bytes.to_vec()), None);
        }
        for (kind, bytes) in packed(b"only text") {
            assert_eq!(open(bytes), None, "{kind:?}");
        }
        let mut broken = tar();
        broken[3] ^= 1;
        assert_eq!(open(broken), None);
    }
}
