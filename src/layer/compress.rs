//! Compression on all cores, and reading what others compressed.
//!
//! Input is cut into blocks of a fixed size that are compressed on their own
//! and written in order, so the output depends on the input and the level,
//! never on the number of threads. gzip blocks are members, or several where
//! parts of a block are not worth compressing; in the single-member form they
//! are parts of one deflate stream that know the 32 KiB before them. zstd blocks
//! are frames. Memory is a few blocks per thread.
//!
//! # Specification
//! RFC 1951, RFC 1952, RFC 8878.

mod ahead;
mod behind;
mod restarts;
mod split;

use std::io::{self, BufReader, Read, Write};

use flate2::{Compress, Compression as FlateLevel, FlushCompress};
use libdeflater::CompressionLvl;

pub use self::ahead::{Feed, feed, read_ahead};
pub(super) use self::behind::Behind;
pub use self::restarts::{Restart, Restarts, decompress_noting};
use super::workers::{Lane, Workers};
pub use crate::image::media_type::Compression;

/// Size of the blocks that gzip works on.
const GZIP_BLOCK: usize = 1 << 20;
/// gzip's level unless another is asked for. 6 takes up to twice the time of 5
/// and saves half a percent at best.
const GZIP_LEVEL: i32 = 5;
/// Size of zstd's; larger, as a frame knows nothing of the one before it.
const ZSTD_BLOCK: usize = 2 << 20;
/// What deflate looks back on.
const WINDOW: usize = 32 << 10;
/// The largest zstd window that is read, as a power of two: 128 MiB, what the
/// `zstd` program takes without being asked.
const MAX_WINDOW_LOG: u32 = 27;
/// Fixed header of the single-member form: no name, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// How to compress.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The format.
    pub compression: Compression,
    /// gzip: 0 to 9, 5 unless given; zstd: 1 to 22, 3 unless given.
    pub level: Option<i32>,
    /// Threads that compress.
    pub workers: Workers,
}

impl Settings {
    fn level(&self) -> io::Result<i32> {
        let (name, default, range) = match self.compression {
            Compression::Uncompressed => return Ok(0),
            Compression::Gzip | Compression::GzipSingle => ("gzip", GZIP_LEVEL, 0..=9),
            Compression::Zstd => ("zstd", 3, 1..=22),
        };
        let level = self.level.unwrap_or(default);
        if range.contains(&level) {
            return Ok(level);
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{name} has no compression level {level}, only {} to {}",
                range.start(),
                range.end()
            ),
        ))
    }
}

/// One block with all that it takes to compress it.
struct Job {
    data: Vec<u8>,
    how: How,
}

enum How {
    /// gzip members.
    Members(CompressionLvl),
    /// A part of one gzip member.
    Part {
        level: FlateLevel,
        /// What comes before the block.
        dictionary: Vec<u8>,
        last: bool,
    },
    /// A zstd frame.
    Frame(i32),
}

struct Done {
    /// The job's buffer, to be used again.
    buffer: Vec<u8>,
    packed: io::Result<Vec<u8>>,
}

/// The compressors of one thread.
#[derive(Default)]
pub(super) struct Packers {
    gzip: Option<(CompressionLvl, libdeflater::Compressor)>,
    stored: Option<libdeflater::Compressor>,
    zstd: Option<(i32, zstd::bulk::Compressor<'static>)>,
    out: Vec<u8>,
}

impl Packers {
    fn pack(&mut self, job: Job) -> Done {
        let packed = match &job.how {
            How::Members(level) => self.members(*level, &job.data),
            How::Part {
                level,
                dictionary,
                last,
            } => part(*level, &job.data, dictionary, *last),
            How::Frame(level) => self.frame(*level, &job.data),
        };
        Done {
            buffer: job.data,
            packed,
        }
    }

    fn members(&mut self, level: CompressionLvl, block: &[u8]) -> io::Result<Vec<u8>> {
        let packer = match &mut self.gzip {
            Some((same, packer)) if *same == level => packer,
            other => {
                let packer = libdeflater::Compressor::new(level);
                &mut other.insert((level, packer)).1
            }
        };
        let store = || libdeflater::Compressor::new(CompressionLvl::fastest());
        let store = self.stored.get_or_insert_with(store);
        self.out.clear();
        for piece in split::pieces(block) {
            let packer = if piece.random {
                &mut *store
            } else {
                &mut *packer
            };
            let data = &block[piece.range];
            let begin = self.out.len();
            let bound = packer.gzip_compress_bound(data.len());
            self.out.resize(begin + bound, 0);
            let len = packer
                .gzip_compress(data, &mut self.out[begin..])
                .map_err(|e| io::Error::other(e.to_string()))?;
            self.out.truncate(begin + len);
        }
        Ok(self.out.clone())
    }

    fn frame(&mut self, level: i32, block: &[u8]) -> io::Result<Vec<u8>> {
        let packer = match &mut self.zstd {
            Some((same, packer)) if *same == level => packer,
            other => {
                let packer = zstd::bulk::Compressor::new(level)?;
                &mut other.insert((level, packer)).1
            }
        };
        packer.compress(block)
    }
}

/// Compresses what is written to it into `inner`.
///
/// Without [`finish`](Self::finish) the output has no end.
#[derive(Debug)]
pub struct Compressor<W: Write> {
    inner: W,
    blocks: Option<Blocks>,
}

#[derive(Debug)]
struct Blocks {
    lane: Lane<Packers, Done>,
    kind: Kind,
    size: usize,
    block: Vec<u8>,
    spare: Vec<Vec<u8>>,
    started: bool,
}

#[derive(Debug)]
enum Kind {
    Members(CompressionLvl),
    Single(FlateLevel, Single),
    Frames(i32),
}

/// State of the single-member form.
#[derive(Default)]
struct Single {
    dictionary: Vec<u8>,
    crc: libdeflater::Crc,
    bytes: u32,
}

impl std::fmt::Debug for Single {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Single")
    }
}

impl<W: Write> Compressor<W> {
    /// Begins; threads are started when there is work for them.
    ///
    /// # Errors
    /// `InvalidInput` for a level that the format does not have.
    pub fn new(inner: W, settings: &Settings) -> io::Result<Self> {
        let level = settings.level()?;
        let (kind, size) = match settings.compression {
            Compression::Uncompressed => {
                return Ok(Self {
                    inner,
                    blocks: None,
                });
            }
            Compression::GzipSingle => {
                let level = FlateLevel::new(level.unsigned_abs());
                (Kind::Single(level, Single::default()), GZIP_BLOCK)
            }
            Compression::Gzip => {
                let no_level =
                    |_| io::Error::new(io::ErrorKind::InvalidInput, "no such gzip level");
                let level = CompressionLvl::new(level).map_err(no_level)?;
                (Kind::Members(level), GZIP_BLOCK)
            }
            Compression::Zstd => (Kind::Frames(level), ZSTD_BLOCK),
        };
        Ok(Self {
            inner,
            blocks: Some(Blocks {
                lane: settings.workers.pack.lane(),
                kind,
                size,
                block: Vec::new(),
                spare: Vec::new(),
                started: false,
            }),
        })
    }

    /// Writes the rest and hands back the writer.
    pub fn finish(mut self) -> io::Result<W> {
        let Some(blocks) = &mut self.blocks else {
            return Ok(self.inner);
        };
        let is_single = matches!(blocks.kind, Kind::Single(..));
        if !blocks.started {
            // All there is: not worth a thread.
            let job = blocks.job(&mut self.inner, true)?;
            self.inner
                .write_all(&Packers::default().pack(job).packed?)?;
        } else if !blocks.block.is_empty() || is_single {
            blocks.submit(&mut self.inner, true)?;
        }
        while blocks.lane.pending() > 0 {
            blocks.take(&mut self.inner)?;
        }
        if let Kind::Single(_, single) = &blocks.kind {
            self.inner.write_all(&single.crc.sum().to_le_bytes())?;
            self.inner.write_all(&single.bytes.to_le_bytes())?;
        }
        Ok(self.inner)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(blocks) = &mut self.blocks else {
            return self.inner.write(bytes);
        };
        let n = bytes.len().min(blocks.size - blocks.block.len());
        blocks.block.extend_from_slice(&bytes[..n]);
        if blocks.block.len() == blocks.size {
            blocks.submit(&mut self.inner, false)?;
        }
        Ok(n)
    }

    /// Flushes the inner writer; a block that is not full waits for more.
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Blocks {
    /// The block so far as a job.
    fn job(&mut self, inner: &mut impl Write, last: bool) -> io::Result<Job> {
        let data = std::mem::take(&mut self.block);
        let how = match &mut self.kind {
            Kind::Members(level) => How::Members(*level),
            Kind::Frames(level) => How::Frame(*level),
            Kind::Single(level, single) => {
                if !self.started {
                    inner.write_all(&GZIP_HEADER)?;
                }
                single.crc.update(&data);
                // The trailer has the length modulo 2^32.
                single.bytes = single.bytes.wrapping_add(data.len() as u32);
                let tail = data[data.len().saturating_sub(WINDOW)..].to_vec();
                How::Part {
                    level: *level,
                    dictionary: std::mem::replace(&mut single.dictionary, tail),
                    last,
                }
            }
        };
        self.started = true;
        Ok(Job { data, how })
    }

    fn submit(&mut self, inner: &mut impl Write, last: bool) -> io::Result<()> {
        let job = self.job(inner, last)?;
        self.lane.submit(|packers| packers.pack(job));
        while self.lane.pending() > self.lane.share() {
            self.take(inner)?;
        }
        if !last {
            let fresh = || Vec::with_capacity(self.size);
            self.block = self.spare.pop().unwrap_or_else(fresh);
        }
        Ok(())
    }

    fn take(&mut self, inner: &mut impl Write) -> io::Result<()> {
        let Some(done) = self.lane.next() else {
            return Ok(());
        };
        let mut done = done?;
        inner.write_all(&done.packed?)?;
        done.buffer.clear();
        self.spare.push(done.buffer);
        Ok(())
    }
}

/// One part of a deflate stream, ended on a byte.
fn part(level: FlateLevel, data: &[u8], dictionary: &[u8], last: bool) -> io::Result<Vec<u8>> {
    // A new state for each part: after a reset zlib-rs still knows something
    // of the part before, and the output would depend on who did that one.
    let mut packer = Compress::new(level, false);
    if !dictionary.is_empty() {
        packer.set_dictionary(dictionary)?;
    }
    let flush = if last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let mut out = Vec::with_capacity(data.len() / 2 + 1024);
    loop {
        let read = usize::try_from(packer.total_in()).unwrap_or(usize::MAX);
        let rest = data.get(read..).unwrap_or_default();
        let status = packer.compress_vec(rest, &mut out, flush)?;
        // Room left over means that nothing waits to be written.
        let done = match status {
            flate2::Status::StreamEnd => true,
            _ => !last && out.len() < out.capacity(),
        };
        if done {
            return Ok(out);
        }
        out.reserve(64 << 10);
    }
}

/// Reads a blob of the given compression.
///
/// All gzip members and zstd frames are read. What follows the last one and
/// is none is an error, and so is an end in the middle. zstd frames that want
/// a window over 128 MiB or a dictionary are refused. Memory is bounded, the
/// number of bytes that come out is not.
pub fn decompress(
    reader: impl Read + Send + 'static,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Compression::Uncompressed => Box::new(reader),
        Compression::Gzip | Compression::GzipSingle => Box::new(gunzip(reader)),
        Compression::Zstd => Box::new(unzstd(reader)?),
    })
}

/// Reads all members of a gzip stream.
pub(super) fn gunzip<R: Read>(reader: R) -> impl Read + use<R> {
    flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(128 << 10, reader))
}

/// Reads all frames of a zstd stream.
pub(super) fn unzstd<R: Read>(
    reader: R,
) -> io::Result<zstd::stream::read::Decoder<'static, BufReader<R>>> {
    let reader = BufReader::with_capacity(128 << 10, reader);
    let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests;
