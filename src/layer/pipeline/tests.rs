use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex};

use super::*;
use crate::digest::Digest;
use crate::image::BlobWriter;
use crate::layer::{Entry, Meta};

#[derive(Clone, Default)]
struct Sink {
    blobs: Arc<Mutex<BTreeMap<Digest, Vec<u8>>>>,
    room: Option<usize>,
}

struct Blob(Sink, Vec<u8>);

impl BlobSink for Sink {
    fn create(&self) -> io::Result<Box<dyn BlobWriter>> {
        Ok(Box::new(Blob(self.clone(), Vec::new())))
    }
    fn has(&self, digest: &Digest) -> bool {
        self.blobs.lock().unwrap().contains_key(digest)
    }
}

impl Write for Blob {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self
            .0
            .room
            .is_some_and(|room| self.1.len() + buf.len() > room)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.1.extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for Blob {
    fn commit(self: Box<Self>, digest: &Digest) -> io::Result<()> {
        assert_eq!(*digest, Digest::of(&self.1));
        self.0.blobs.lock().unwrap().insert(digest.clone(), self.1);
        Ok(())
    }
}

fn file(path: &str, content: Vec<u8>) -> Change {
    let kind = Kind::File {
        size: content.len() as u64,
    };
    let mut meta = Meta {
        mode: 0o644,
        ..Meta::default()
    };
    meta.mtime.secs = 1_000_000_000;
    let content = if content.len().is_multiple_of(2) {
        Content::Bytes(content.into())
    } else {
        Content::Open(Box::new(move || {
            use std::io::Seek;
            let mut file = tempfile::tempfile()?;
            file.write_all(&content)?;
            file.rewind()?;
            Ok(file)
        }))
    };
    let path = path.into();
    Change::Put(Entry { path, kind, meta }, content)
}

/// Small and large files, more of them than a batch holds.
fn changes() -> Vec<io::Result<Change>> {
    let mut changes = Vec::new();
    for n in 0..700_usize {
        let len = match n % 100 {
            99 => 1_500_000,
            k => k * 37,
        };
        changes.push(Ok(file(&format!("f{n:04}"), vec![n as u8; len])));
        if n % 10 == 0 {
            changes.push(Ok(Change::Whiteout(format!("gone{n:04}").into())));
        }
    }
    changes
}

fn blob(sink: &Sink, sealed: &Sealed) -> Vec<u8> {
    sink.blobs.lock().unwrap()[&sealed.descriptor.digest].clone()
}

#[test]
fn the_blob_is_what_was_sealed() {
    let mut diff_ids = std::collections::BTreeSet::new();
    for compression in [
        Compression::Gzip,
        Compression::Zstd,
        Compression::Uncompressed,
    ] {
        let mut all = Vec::new();
        for threads in [1, 3] {
            let sink = Sink::default();
            let options = SealOptions {
                compression,
                workers: Workers::new(threads),
                ..SealOptions::default()
            };
            let sealed = seal(changes(), &sink, &options).unwrap();
            let blob = blob(&sink, &sealed);
            assert_eq!(sealed.descriptor.size, blob.len() as u64);
            assert_eq!(sealed.entries, 770);
            let mut tar = Vec::new();
            compress::decompress(io::Cursor::new(blob), compression)
                .unwrap()
                .read_to_end(&mut tar)
                .unwrap();
            assert_eq!(sealed.uncompressed, tar.len() as u64);
            assert_eq!(*sealed.diff_id.digest(), Digest::of(&tar));
            diff_ids.insert(sealed.diff_id.clone());

            let mut plain = TarWriter::new(Vec::new(), None);
            for change in changes() {
                plain.change(change.unwrap()).unwrap();
            }
            assert!(plain.finish().unwrap() == tar);
            all.push(sealed);
        }
        assert_eq!(all[0], all[1], "threads");
    }
    assert_eq!(diff_ids.len(), 1);
}

#[test]
fn no_changes_are_an_empty_tar() {
    let sink = Sink::default();
    let sealed = seal([], &sink, &SealOptions::default()).unwrap();
    assert_eq!((sealed.uncompressed, sealed.entries), (1024, 0));
    assert_eq!(*sealed.diff_id.digest(), Digest::of(&[0; 1024]));
    assert_eq!(
        sealed.descriptor.media_type,
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
}

#[test]
fn failures_commit_nothing() {
    let wrong = |size| {
        let Change::Put(mut entry, content) = file("wrong", vec![1; 11]) else {
            unreachable!()
        };
        entry.kind = Kind::File { size };
        Change::Put(entry, content)
    };
    let lists: Vec<(&str, Vec<io::Result<Change>>)> = vec![
        ("10 bytes were expected, it has more", vec![Ok(wrong(10))]),
        ("12 bytes were expected, it has 11", vec![Ok(wrong(12))]),
        (
            "900000 bytes were expected, it has 11",
            vec![Ok(wrong(900_000))],
        ),
        ("can't list", vec![Err(io::ErrorKind::NotFound.into())]),
        ("begin with .wh.", vec![Ok(file("d/.wh.x", vec![1; 3]))]),
        ("can't read \"gone\"", {
            let Change::Put(entry, _) = file("gone", vec![1; 3]) else {
                unreachable!()
            };
            let open = || Err(io::ErrorKind::NotFound.into());
            vec![Ok(Change::Put(entry, Content::Open(Box::new(open))))]
        }),
    ];
    for (message, list) in lists {
        let mut changes = changes();
        changes.extend(list);
        changes.extend(self::changes());
        let sink = Sink::default();
        let e = seal(changes, &sink, &SealOptions::default()).unwrap_err();
        assert!(e.to_string().contains(message), "{e}");
        assert!(sink.blobs.lock().unwrap().is_empty());
    }
    let sink = Sink {
        room: Some(10_000),
        ..Sink::default()
    };
    let e = seal(changes(), &sink, &SealOptions::default()).unwrap_err();
    assert!(matches!(e, SealError::Store(_)), "{e}");
    assert!(sink.blobs.lock().unwrap().is_empty());
}

#[test]
fn times_are_clamped() {
    let tar = |clamp_mtime| {
        let sink = Sink::default();
        let options = SealOptions {
            compression: Compression::Uncompressed,
            clamp_mtime,
            ..SealOptions::default()
        };
        seal([Ok(file("f", vec![1; 3]))], &sink, &options)
            .unwrap()
            .diff_id
    };
    assert_eq!(tar(None), tar(Some(1_000_000_000)));
    assert_eq!(tar(None), tar(Some(2_000_000_000)));
    assert_ne!(tar(None), tar(Some(999_999_999)));
}
