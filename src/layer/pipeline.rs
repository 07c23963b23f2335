//! Changes in, layer blob out, in one pass.
//!
//! ```text
//!  changes ─ batches ─▶ readers (open, read, tar) ─▶ in order: sha256 = diffID
//!                                                       │ blocks
//!          BlobWriter ◀─ sha256 = digest ◀─ in order ◀─ compressors
//! ```
//! The calling thread runs the iterator and the first hash; files are read and
//! blocks are compressed by the [`Workers`] that all layers share, and one more
//! thread hashes and writes the blob. Small files share a batch; a large file
//! is streamed. What fits one batch is done here and now. Memory is a few
//! batches and blocks, whatever the layer's size, and the blob's bytes do not
//! depend on the number of threads.

use std::io::{self, Read as _, Write};

use super::compress::{self, Behind, Compressor};
use super::tar_write::{TarWriter, WriteError};
use super::workers::{Lane, Workers};
use super::{Change, Content, Kind};
use crate::digest::{DiffId, HashingWriter, VerifyingReader};
use crate::image::media_type::{self, Compression, Format};
use crate::image::{BlobSink, BlobSource, BlobWriter, Descriptor};

/// A batch is handed to a reader when its files have this many bytes…
const BATCH_BYTES: u64 = 1 << 20;
/// …or when it has this many changes.
const BATCH_CHANGES: usize = 256;
/// Files above this size are not batched.
const LARGE: u64 = 512 << 10;

/// How to make a layer.
#[derive(Debug, Clone)]
pub struct SealOptions {
    /// Which family's media type the descriptor gets.
    pub format: Format,
    /// How to compress.
    pub compression: Compression,
    /// gzip: 0 to 9, 5 unless given; zstd: 1 to 22, 3 unless given.
    pub level: Option<i32>,
    /// Threads, shared by all layers that are made with a clone of these
    /// options.
    pub workers: Workers,
    /// No entry gets a time after this second since 1970.
    pub clamp_mtime: Option<i64>,
}

impl Default for SealOptions {
    /// OCI, gzip, as many threads as there are cores.
    fn default() -> Self {
        Self {
            format: Format::Oci,
            compression: Compression::Gzip,
            level: None,
            workers: Workers::default(),
            clamp_mtime: None,
        }
    }
}

/// A layer that is in its sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Names the blob.
    pub descriptor: Descriptor,
    /// Names the tar inside.
    pub diff_id: DiffId,
    /// Size of the tar in bytes.
    pub uncompressed: u64,
    /// Number of entries, whiteouts among them.
    pub entries: u64,
}

/// Why no layer was made. Nothing is left in the sink.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The list of changes broke off.
    #[error("can't list what the layer holds")]
    Changes(#[source] io::Error),
    /// An entry can't be written.
    #[error(transparent)]
    Entry(WriteError),
    /// The blob can't be written.
    #[error("can't store the layer")]
    Store(#[source] io::Error),
}

impl From<WriteError> for SealError {
    fn from(e: WriteError) -> Self {
        match e {
            WriteError::Write(e) => Self::Store(e),
            e => Self::Entry(e),
        }
    }
}

/// Writes `changes` as one layer into `sink`.
///
/// The order of the entries is that of `changes`. Files are opened shortly
/// before their turn, on other threads.
///
/// # Errors
/// When a change can't be had, a file is not as long as its entry says, or the
/// sink fails; nothing is committed then.
pub fn seal(
    changes: impl IntoIterator<Item = io::Result<Change>>,
    sink: &dyn BlobSink,
    options: &SealOptions,
) -> Result<Sealed, SealError> {
    let (tar, entries) = write_tar(changes, begin(sink, options)?, options)?;
    end(tar, entries, options)
}

/// The same, with the layer's tar written to `copy` as well, byte for byte.
///
/// # Errors
/// The same; what `copy` has got then is worth nothing.
pub fn seal_copied(
    changes: impl IntoIterator<Item = io::Result<Change>>,
    sink: &dyn BlobSink,
    options: &SealOptions,
    copy: &mut dyn Write,
) -> Result<Sealed, SealError> {
    let both = Both {
        tar: begin(sink, options)?,
        copy,
    };
    let (both, entries) = write_tar(changes, both, options)?;
    end(both.tar, entries, options)
}

/// Writes everything twice.
struct Both<'a> {
    tar: Chain,
    copy: &'a mut dyn Write,
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.copy.write_all(bytes)?;
        self.tar.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.copy.flush()?;
        self.tar.flush()
    }
}

/// The tar on its way into a blob: diffID, compression, digest.
type Chain = HashingWriter<Compressor<Behind<Blob>>>;
type Blob = HashingWriter<Box<dyn BlobWriter>>;

fn begin(sink: &dyn BlobSink, options: &SealOptions) -> Result<Chain, SealError> {
    let blob = HashingWriter::new(sink.create().map_err(SealError::Store)?);
    let packed = Compressor::new(Behind::new(blob), &settings(options));
    Ok(HashingWriter::new(packed.map_err(SealError::Store)?))
}

/// Publishes the blob.
fn end(tar: Chain, entries: u64, options: &SealOptions) -> Result<Sealed, SealError> {
    let (packed, diff_id, uncompressed) = tar.finish();
    let blob = packed.finish().and_then(Behind::finish);
    let (writer, digest, size) = blob.map_err(SealError::Store)?.finish();
    writer.commit(&digest).map_err(SealError::Store)?;
    let media_type = media_type::layer(options.format, options.compression);
    Ok(Sealed {
        descriptor: Descriptor::new(media_type, digest, size),
        diff_id: DiffId::new(diff_id),
        uncompressed,
        entries,
    })
}

/// A layer that is written entry by entry as its content streams by. What is
/// written does not differ from what [`seal`] writes for the same entries.
///
/// Dropping it leaves nothing in the sink.
pub struct LayerWriter {
    tar: TarWriter<Chain>,
    options: SealOptions,
}

impl std::fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerWriter({} entries)", self.tar.entries())
    }
}

impl LayerWriter {
    /// Begins a layer in `sink`.
    ///
    /// # Errors
    /// When the sink fails, or there is no such compression level.
    pub fn new(sink: &dyn BlobSink, options: &SealOptions) -> Result<Self, SealError> {
        Ok(Self {
            tar: TarWriter::new(begin(sink, options)?, options.clamp_mtime),
            options: options.clone(),
        })
    }

    /// Where entries are written to.
    pub fn tar(&mut self) -> &mut TarWriter<impl Write + use<>> {
        &mut self.tar
    }

    /// Completes the layer.
    ///
    /// # Errors
    /// When the sink fails; nothing is committed then.
    pub fn finish(self) -> Result<Sealed, SealError> {
        let entries = self.tar.entries();
        let tar = self.tar.finish().map_err(SealError::Store)?;
        end(tar, entries, &self.options)
    }
}

type Batch = (Vec<Change>, Option<i64>);
type Read = Result<(Vec<u8>, u64), WriteError>;

/// Turns a batch into its piece of the tar.
fn read_batch((changes, clamp): Batch) -> Read {
    let mut tar = TarWriter::new(Vec::new(), clamp);
    for change in changes {
        tar.change(change)?;
    }
    let entries = tar.entries();
    Ok((tar.into_inner(), entries))
}

/// What waits for its place in the tar.
enum Piece {
    /// The oldest batch that is with the readers.
    Batch,
    /// A large file, streamed when its turn comes.
    Large(Box<Change>),
}

/// Compresses a layer anew; its content, and so its diffID, stays the same.
///
/// # Errors
/// When the blob is not what `blob` and `diff_id` promise, or either side
/// fails; nothing is committed then.
pub fn recompress(
    blob: &Descriptor,
    diff_id: &DiffId,
    source: &dyn BlobSource,
    sink: &dyn BlobSink,
    options: &SealOptions,
) -> Result<Sealed, SealError> {
    let mut tar = open(blob, Some(diff_id), source).map_err(SealError::Changes)?;
    let mut out = begin(sink, options)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = tar.read(&mut buffer).map_err(SealError::Changes)?;
        if n == 0 {
            break;
        }
        out.write_all(&buffer[..n]).map_err(SealError::Store)?;
    }
    let sealed = end(out, 0, options)?;
    Ok(Sealed {
        diff_id: diff_id.clone(),
        ..sealed
    })
}

/// Opens the tar that a layer's blob has in it, decompressed and verified on
/// threads of their own. A `diff_id` that is not given is not verified; the
/// blob always is. It is seen only by who reads to the end.
///
/// # Errors
/// When the blob is no layer, or can't be opened.
pub fn open(
    blob: &Descriptor,
    diff_id: Option<&DiffId>,
    source: &dyn BlobSource,
) -> io::Result<Box<dyn io::Read + Send>> {
    let kind = media_type::layer_compression(&blob.media_type).ok_or_else(|| {
        let reason = format!("{} is no layer", blob.media_type);
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })?;
    let tar = compress::decompress(source.open(blob)?, kind)?;
    Ok(match diff_id {
        None => Box::new(compress::read_ahead(tar)?),
        Some(diff_id) => {
            let verified = VerifyingReader::new(tar, diff_id.digest().clone(), None)?;
            Box::new(compress::read_ahead(verified)?)
        }
    })
}

fn settings(options: &SealOptions) -> compress::Settings {
    compress::Settings {
        compression: options.compression,
        level: options.level,
        workers: options.workers.clone(),
    }
}

fn write_tar<W: Write>(
    changes: impl IntoIterator<Item = io::Result<Change>>,
    out: W,
    options: &SealOptions,
) -> Result<(W, u64), SealError> {
    let mut assembly = Assembly {
        out: TarWriter::new(out, options.clamp_mtime),
        readers: options.workers.read.lane(),
        queue: std::collections::VecDeque::new(),
        entries: 0,
    };
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for change in changes {
        let mut change = change.map_err(SealError::Changes)?;
        // Fractions of seconds would cost every entry a record of its own and
        // double the layer of many small files; other builders drop them too.
        if let Change::Put(entry, _) = &mut change {
            entry.meta.mtime.nanos = 0;
        }
        let size = match &change {
            Change::Put(entry, Content::Open(_) | Content::Read(_) | Content::Bytes(_)) => {
                match entry.kind {
                    Kind::File { size } => size,
                    _ => 0,
                }
            }
            _ => 0,
        };
        if size > LARGE {
            assembly.batch(&mut batch, options.clamp_mtime)?;
            bytes = 0;
            assembly.push(Piece::Large(Box::new(change)))?;
            continue;
        }
        batch.push(change);
        bytes += size;
        if bytes >= BATCH_BYTES || batch.len() >= BATCH_CHANGES {
            assembly.batch(&mut batch, options.clamp_mtime)?;
            bytes = 0;
        }
    }
    if assembly.queue.is_empty() {
        for change in batch {
            assembly.out.change(change)?;
        }
    } else {
        assembly.batch(&mut batch, options.clamp_mtime)?;
    }
    while assembly.place()? {}
    let entries = assembly.entries + assembly.out.entries();
    Ok((assembly.out.finish().map_err(SealError::Store)?, entries))
}

/// Puts the pieces together in their order.
struct Assembly<W: Write> {
    out: TarWriter<W>,
    readers: Lane<(), Read>,
    queue: std::collections::VecDeque<Piece>,
    entries: u64,
}

impl<W: Write> Assembly<W> {
    fn batch(&mut self, changes: &mut Vec<Change>, clamp: Option<i64>) -> Result<(), SealError> {
        if changes.is_empty() {
            return Ok(());
        }
        let batch = (std::mem::take(changes), clamp);
        self.readers.submit(|()| read_batch(batch));
        self.push(Piece::Batch)
    }

    fn push(&mut self, piece: Piece) -> Result<(), SealError> {
        self.queue.push_back(piece);
        while self.queue.len() > self.readers.share() {
            self.place()?;
        }
        Ok(())
    }

    fn place(&mut self) -> Result<bool, SealError> {
        match self.queue.pop_front() {
            None => return Ok(false),
            Some(Piece::Large(change)) => self.out.change(*change)?,
            Some(Piece::Batch) => {
                let batch = self.readers.next().transpose().map_err(SealError::Store)?;
                let (bytes, entries) = batch.transpose()?.unwrap_or_default();
                self.out.append(&bytes).map_err(SealError::Store)?;
                self.entries += entries;
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
