//! Where reading a compressed blob can begin: members of gzip, frames of zstd.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::bufread::GzDecoder;
use zstd::stream::raw::{self, DParameter, InBuffer, Operation, OutBuffer};

use super::{Compression, MAX_WINDOW_LOG};

/// Bytes that lie between two places that are kept, at least: blobs of very
/// many small members have no more of them than others.
const SPACING: u64 = 64 << 10;

/// A place where a member or frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restart {
    /// Its offset in the blob.
    pub packed: u64,
    /// Its offset in what comes out.
    pub plain: u64,
}

/// The places found so far, in ascending order; the beginning is none of them.
#[derive(Debug, Clone, Default)]
pub struct Restarts(Arc<Mutex<Vec<Restart>>>);

impl Restarts {
    /// Takes what was found.
    pub fn take(&self) -> Vec<Restart> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, packed: u64, plain: u64) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = found.last().map_or(0, |last| last.plain);
        if plain - last >= SPACING {
            found.push(Restart { packed, plain });
        }
    }
}

/// As [`decompress`](super::decompress), and finds out where reading can
/// begin. All is found when the end was read.
pub fn decompress_noting(
    reader: impl Read + Send + 'static,
    compression: Compression,
) -> io::Result<(Box<dyn Read + Send>, Restarts)> {
    let restarts = Restarts::default();
    let reader = Counted {
        inner: BufReader::with_capacity(128 << 10, reader),
        position: 0,
    };
    let noting: Box<dyn Read + Send> = match compression {
        Compression::Uncompressed => Box::new(reader),
        Compression::Gzip | Compression::GzipSingle => Box::new(Members {
            state: State::Between(reader),
            plain: 0,
            begun: false,
            restarts: restarts.clone(),
        }),
        Compression::Zstd => {
            let mut decoder = raw::Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
            Box::new(Frames {
                decoder,
                reader,
                plain: 0,
                within: false,
                restarts: restarts.clone(),
            })
        }
    };
    Ok((noting, restarts))
}

/// Knows how many bytes were consumed.
struct Counted<R> {
    inner: BufReader<R>,
    position: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl<R: Read> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount as u64;
        self.inner.consume(amount);
    }
}

enum State<R> {
    Between(Counted<R>),
    Within(Box<GzDecoder<Counted<R>>>),
    Failed,
}

/// The members of a gzip stream.
struct Members<R> {
    state: State<R>,
    plain: u64,
    begun: bool,
    restarts: Restarts,
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Failed) {
                State::Between(mut reader) => {
                    if self.begun && reader.fill_buf()?.is_empty() {
                        self.state = State::Between(reader);
                        return Ok(0);
                    }
                    self.begun = true;
                    self.restarts.note(reader.position, self.plain);
                    State::Within(Box::new(GzDecoder::new(reader)))
                }
                State::Within(mut decoder) => match decoder.read(buf)? {
                    0 => State::Between(decoder.into_inner()),
                    n => {
                        self.plain += n as u64;
                        self.state = State::Within(decoder);
                        return Ok(n);
                    }
                },
                State::Failed => return Err(io::Error::other("reading it has failed before")),
            };
        }
    }
}

/// The frames of a zstd stream.
struct Frames<R> {
    decoder: raw::Decoder<'static>,
    reader: Counted<R>,
    plain: u64,
    within: bool,
    restarts: Restarts,
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let position = self.reader.position;
            let input = self.reader.fill_buf()?;
            let at_end = input.is_empty();
            if !self.within {
                if at_end {
                    return Ok(0);
                }
                self.restarts.note(position, self.plain);
                self.within = true;
            }
            // At the end the decoder may still have something to hand out.
            let mut input = InBuffer::around(input);
            let mut output = OutBuffer::around(&mut *buf);
            let left = self.decoder.run(&mut input, &mut output)?;
            let (read, written) = (input.pos(), output.pos());
            self.reader.consume(read);
            self.plain += written as u64;
            self.within = left != 0;
            if written > 0 {
                return Ok(written);
            }
            if at_end && self.within {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it ends in the middle of a zstd frame",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, decompress};
    use super::*;
    use crate::layer::compress::Compressor;
    use crate::layer::workers::Workers;
    use std::io::Write;

    fn packed(data: &[u8], compression: Compression) -> Vec<u8> {
        let settings = Settings {
            compression,
            level: None,
            workers: Workers::new(2),
        };
        let mut compressor = Compressor::new(Vec::new(), &settings).unwrap();
        compressor.write_all(data).unwrap();
        compressor.finish().unwrap()
    }

    fn read(bytes: &[u8], compression: Compression) -> io::Result<(Vec<u8>, Vec<Restart>)> {
        let (mut reader, restarts) =
            decompress_noting(io::Cursor::new(bytes.to_vec()), compression)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((out, restarts.take()))
    }

    #[test]
    fn reading_begins_anywhere() {
        let data: Vec<u8> = (0..5_000_000_u32).map(|n| (n / 7 % 251) as u8).collect();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let bytes = packed(&data, compression);
            let (out, restarts) = read(&bytes, compression).unwrap();
            assert!(out == data && restarts.len() >= 2, "{compression:?}");
            for at in restarts {
                let rest = bytes[at.packed as usize..].to_vec();
                let mut out = Vec::new();
                let mut reader = decompress(io::Cursor::new(rest), compression).unwrap();
                reader.read_to_end(&mut out).unwrap();
                assert!(out == data[at.plain as usize..], "{compression:?} {at:?}");
            }
        }
        let single = packed(&data, Compression::GzipSingle);
        let (out, restarts) = read(&single, Compression::Gzip).unwrap();
        assert!(out == data && restarts.is_empty());
    }

    #[test]
    fn broken_streams_are_errors() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let whole = packed(&[7; 100_000], compression);
            for end in [whole.len() - 1, whole.len() / 2, 3] {
                assert!(
                    read(&whole[..end], compression).is_err(),
                    "{compression:?} {end}"
                );
            }
            let garbage = [&whole[..], b"garbage behind it"].concat();
            assert!(read(&garbage, compression).is_err(), "{compression:?}");
            let twice = [&whole[..], &whole[..]].concat();
            let (out, restarts) = read(&twice, compression).unwrap();
            assert_eq!(out.len(), 200_000);
            assert_eq!(restarts.len(), 1);
        }
        assert!(read(b"", Compression::Gzip).is_err());
    }

    #[test]
    fn many_small_members_have_few_places() {
        let member = packed(&[1; 100], Compression::Gzip);
        let (out, restarts) = read(&member.repeat(10_000), Compression::Gzip).unwrap();
        assert_eq!((out.len(), restarts.len()), (1_000_000, 15));
    }
}
