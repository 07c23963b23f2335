//! Streams from one thread to another.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

/// Bytes that are handed over at a time.
const CHUNK: usize = 256 << 10;
/// Chunks that wait to be read.
const AHEAD: usize = 4;

type Chunk = io::Result<Vec<u8>>;

/// What is written to the one can be read from the other, on another thread, a
/// little later.
///
/// The reader comes to an end only with [`Feed::finish`]; without, reading
/// fails.
pub fn feed() -> (Feed, impl Read + Send) {
    let (full, empty, reader) = channel();
    let feed = Feed {
        full: Some(full),
        empty,
        chunk: Vec::new(),
    };
    (feed, reader)
}

fn channel() -> (SyncSender<Chunk>, Receiver<Vec<u8>>, ReadAhead) {
    let (full, chunks) = mpsc::sync_channel(AHEAD);
    let (empty, spare) = mpsc::channel();
    let reader = ReadAhead {
        chunks,
        empty,
        chunk: Vec::new(),
        at: 0,
        state: State::Reading,
    };
    (full, spare, reader)
}

/// The end of [`feed`] that is written to. Writing never fails: once the reader
/// is gone, what is written is gone too.
#[derive(Debug)]
pub struct Feed {
    full: Option<SyncSender<Chunk>>,
    empty: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
}

impl Feed {
    /// Tells the reader that this was all.
    pub fn finish(mut self) {
        if !self.chunk.is_empty() {
            self.hand_over();
        }
        self.hand_over();
    }

    /// An empty chunk is the end.
    fn hand_over(&mut self) {
        let mut next = self.empty.try_recv().unwrap_or_default();
        next.clear();
        let chunk = std::mem::replace(&mut self.chunk, next);
        if let Some(full) = &self.full
            && full.send(Ok(chunk)).is_err()
        {
            self.full = None;
        }
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.full.is_none() {
            return Ok(bytes.len());
        }
        let n = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..n]);
        if self.chunk.len() == CHUNK {
            self.hand_over();
        }
        Ok(n)
    }

    /// What is no full chunk waits for more.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads `reader` on a thread of its own, a little ahead: lets decompression
/// run beside whatever is done with its output.
///
/// Dropping it ends the thread after its current read.
pub fn read_ahead(mut reader: impl Read + Send + 'static) -> io::Result<impl Read + Send> {
    let (full, spare, ahead) = channel();
    std::thread::Builder::new()
        .name("read-ahead".into())
        .spawn(move || {
            loop {
                let mut buffer = spare.try_recv().unwrap_or_default();
                buffer.resize(CHUNK, 0);
                let mut len = 0;
                let mut failure = None;
                while len < CHUNK {
                    match reader.read(&mut buffer[len..]) {
                        Ok(0) => break,
                        Ok(n) => len += n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => {
                            failure = Some(e);
                            break;
                        }
                    }
                }
                let end = len < CHUNK;
                buffer.truncate(len);
                // An empty one would say that this is the end.
                let whole = failure.is_none() || !buffer.is_empty();
                if whole && full.send(Ok(buffer)).is_err() {
                    return;
                }
                if let Some(e) = failure {
                    let _ = full.send(Err(e));
                    return;
                }
                if end {
                    let _ = full.send(Ok(Vec::new()));
                    return;
                }
            }
        })?;
    Ok(ahead)
}

enum State {
    Reading,
    End,
    /// An error was handed out; there is nothing behind it.
    Failed,
}

struct ReadAhead {
    chunks: Receiver<Chunk>,
    empty: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    state: State,
}

impl Read for ReadAhead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while self.at == self.chunk.len() {
            match self.state {
                State::Reading => {}
                State::End => return Ok(0),
                State::Failed => return Err(io::Error::other("the stream has failed before")),
            }
            match self.chunks.recv() {
                Ok(Ok(chunk)) => {
                    if chunk.is_empty() {
                        self.state = State::End;
                    }
                    let old = std::mem::replace(&mut self.chunk, chunk);
                    self.at = 0;
                    // The thread may be done already.
                    let _ = self.empty.send(old);
                }
                Ok(Err(e)) => {
                    self.state = State::Failed;
                    return Err(e);
                }
                Err(_) => {
                    self.state = State::Failed;
                    return Err(io::Error::other("the reading thread has died"));
                }
            }
        }
        let rest = &self.chunk[self.at..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fed_is_read() {
        let all: Vec<u8> = (0..1_500_000_u32).map(|n| (n % 251) as u8).collect();
        for size in [1, 1000, CHUNK, CHUNK + 1, 4 * CHUNK, all.len()] {
            let (mut feed, mut reader) = feed();
            let bytes = &all[..size];
            let read = std::thread::scope(|scope| {
                let read = scope.spawn(move || {
                    let mut read = Vec::new();
                    reader.read_to_end(&mut read).map(|_| read)
                });
                for piece in bytes.chunks(4999) {
                    feed.write_all(piece).unwrap();
                }
                feed.finish();
                read.join().unwrap()
            });
            assert!(read.unwrap() == bytes, "{size}");
        }
    }

    #[test]
    fn an_end_that_was_not_told_is_an_error() {
        let (mut feed, mut reader) = feed();
        feed.write_all(&[1; 2 * CHUNK]).unwrap();
        drop(feed);
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn nobody_need_read() {
        let (mut feed, reader) = feed();
        drop(reader);
        feed.write_all(&vec![1; 20 * CHUNK]).unwrap();
        feed.finish();
    }
}
