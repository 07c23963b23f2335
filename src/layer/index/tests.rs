use super::*;
use crate::layer::compress::{Compressor, Settings};
use crate::layer::tar_read::raw::Raw;
use crate::layer::tar_write::TarWriter;
use crate::layer::workers::Workers;
use crate::layer::{Change, Content};
use crate::layer::{Meta, Mtime};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        uid: 1000,
        gid: 70_000,
        mtime: Mtime {
            secs: -3,
            nanos: 999_999_999,
        },
        xattrs: BTreeMap::from([(b"user.a".to_vec(), vec![0, 1, 255])]),
    }
}

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    Entry {
        path: path.into(),
        kind,
        meta: meta(mode),
    }
}

/// A layer with one of each kind, and the elements that it has.
fn tar() -> (Vec<u8>, Vec<Item>) {
    let target = PathBuf::from("../x y\n");
    let file = |size| Kind::File { size };
    let entries = vec![
        entry("dir", Kind::Dir, 0o1777),
        entry("dir/file", file(3), 0o644),
        entry("dir/empty", file(0), 0o4755),
        entry(
            "dir/same",
            Kind::Hardlink {
                target: "dir/file".into(),
            },
            0o644,
        ),
        entry("link", Kind::Symlink { target }, 0o777),
        entry("null", Kind::Char { major: 1, minor: 3 }, 0o666),
        entry(
            "disk",
            Kind::Block {
                major: 8,
                minor: 300,
            },
            0o660,
        ),
        entry("pipe", Kind::Fifo, 0o600),
        entry("big", file(3_000_000), 0o600),
        entry("z", file(1), 0o600),
    ];
    let mut tar = TarWriter::new(Vec::new(), None);
    let mut items = Vec::new();
    for e in entries {
        let content = match e.kind {
            Kind::File { size: 0 } => Content::None,
            Kind::File { size } => Content::Bytes(vec![b'x'; size as usize].into()),
            _ => Content::None,
        };
        items.push(Item::Put(e.clone()));
        tar.change(Change::Put(e, content)).unwrap();
    }
    for (path, opaque) in [("gone", false), ("dir", true)] {
        let path = PathBuf::from(path);
        items.push(match opaque {
            true => Item::Opaque(path.clone()),
            false => Item::Whiteout(path.clone()),
        });
        let change = match opaque {
            true => Change::Opaque(path),
            false => Change::Whiteout(path),
        };
        tar.change(change).unwrap();
    }
    (tar.finish().unwrap(), items)
}

fn all(index: &LayerIndex) -> Vec<Indexed> {
    index.entries().map(Result::unwrap).collect()
}

fn bytes_of(index: &LayerIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    bytes
}

fn parse(bytes: &[u8]) -> Option<LayerIndex> {
    LayerIndex::open(Stored::memory(bytes.to_vec())).ok()
}

fn make(bytes: Vec<u8>, compression: Compression) -> Result<LayerIndex, TarError> {
    LayerIndex::make(io::Cursor::new(bytes), compression)
}

#[test]
fn an_index_has_what_the_layer_has() {
    let (tar, items) = tar();
    let plain = make(tar.clone(), Compression::Uncompressed).unwrap();
    assert_eq!(plain.diff_id, DiffId::new(Digest::of(&tar)));
    assert_eq!(plain.tar_bytes, tar.len() as u64);
    assert_eq!(plain.len(), items.len() as u64);
    let found = all(&plain);
    let found_items: Vec<Item> = found.iter().map(|i| i.item.clone()).collect();
    assert_eq!(found_items, items);
    for indexed in &found {
        if let Item::Put(Entry {
            kind: Kind::File { size },
            ..
        }) = indexed.item
        {
            let from = indexed.data as usize;
            let content = &tar[from..from + size as usize];
            let digest = (size > 0).then(|| Sha256::of(content));
            assert_eq!(indexed.digest, digest, "{:?}", indexed.path());
        }
        // The header is where reading the tar begins anew.
        let mut reader = TarReader::new(&tar[indexed.header as usize..], Names::Layer);
        assert_eq!(reader.next_entry().unwrap().as_ref(), Some(&indexed.item));
    }
    for compression in [Compression::Gzip, Compression::Zstd] {
        let settings = Settings {
            compression,
            level: None,
            workers: Workers::new(1),
        };
        let mut packed = Compressor::new(Vec::new(), &settings).unwrap();
        packed.write_all(&tar).unwrap();
        let index = make(packed.finish().unwrap(), compression).unwrap();
        assert_eq!(all(&index), all(&plain));
        assert!(!index.restarts.is_empty());
        let parsed = parse(&bytes_of(&index));
        assert_eq!(parsed.as_ref(), Some(&index));
        assert_eq!(index.restart_before(0), Restart::default());
        let last = *index.restarts.last().unwrap();
        assert_eq!(index.restart_before(u64::MAX), last);
        assert_eq!(index.restart_before(last.plain), last);
    }
}

#[test]
fn only_its_own_form_is_read() {
    let (tar, _) = tar();
    let index = make(tar, Compression::Uncompressed).unwrap();
    let bytes = bytes_of(&index);
    for cut in 0..bytes.len() {
        assert_eq!(parse(&bytes[..cut]), None, "{cut}");
    }
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 0x55;
        // Never a panic, and the same number of elements as it says.
        if let Some(parsed) = parse(&other) {
            assert_eq!(all(&parsed).len() as u64, parsed.len(), "{at}");
        }
    }
}

#[test]
fn holes_count_as_zeros() {
    let sparse = |size: &[u8], map: &[u8]| {
        let data = [map, &vec![0; 512 - map.len()], &[7; 512]].concat();
        let mut content = vec![0; 512];
        content[..data.len().min(512)].copy_from_slice(&data[..512]);
        Raw::new()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.realsize", size),
            ])
            .header(b'0', b"s", data.len() as u64, |_| {})
            .bytes(&data)
            .file("after", b"x")
            .end()
    };
    let index = make(
        sparse(b"100000", b"1\n4096\n512\n"),
        Compression::Uncompressed,
    )
    .unwrap();
    let found = all(&index);
    let mut content = vec![0; 100_000];
    content[4096..4608].fill(7);
    assert!(found[0].sparse);
    assert_eq!(found[0].digest, Some(Sha256::of(&content)));
    assert_eq!(found[1].digest, Some(Sha256::of(b"x")));
    assert_eq!(parse(&bytes_of(&index)), Some(index));
    // An enormous one takes no time.
    let huge = sparse(b"8000000000000000000", b"1\n4096\n512\n");
    let index = make(huge, Compression::Uncompressed).unwrap();
    assert!(all(&index)[0].digest.is_some());
}

#[test]
fn what_is_no_layer_has_none() {
    let (mut tar, _) = tar();
    tar.truncate(1000);
    assert!(make(tar, Compression::Uncompressed).is_err());
    let slip = Raw::new().file("../x", b"x").end();
    assert!(make(slip, Compression::Uncompressed).is_err());
    assert!(make(b"no gzip".to_vec(), Compression::Gzip).is_err());
    let none = make(Vec::new(), Compression::Uncompressed).unwrap();
    assert!(none.is_empty() && none.entries().next().is_none());
}

#[test]
fn an_index_in_a_file_is_read_from_any_place() {
    let mut tar = TarWriter::new(Vec::new(), None);
    for n in 0..3000_usize {
        let content: Arc<[u8]> = vec![b'x'; n % 7].into();
        let size = content.len() as u64;
        let mut entry = entry(&format!("dir/{}/{n}", n % 10), Kind::File { size }, 0o644);
        // Some records are longer than what is read at a time.
        let value = vec![7; if n % 500 == 3 { 9000 } else { n % 50 }];
        entry.meta.xattrs.insert(b"user.b".to_vec(), value);
        entry.meta.mtime.secs = (n as i64 * 7919) % 1000;
        let content = match size {
            0 => Content::None,
            _ => Content::Bytes(content),
        };
        tar.change(Change::Put(entry, content)).unwrap();
    }
    let tar = io::Cursor::new(tar.finish().unwrap());
    let plain = Compression::Uncompressed;
    let held = LayerIndex::make(tar.clone(), plain).unwrap();
    let spool = Spool::file(tempfile::tempfile().unwrap());
    let filed = LayerIndex::make_in(spool, tar, plain).unwrap();
    assert_eq!(held, filed);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before").unwrap();
    filed.write(&mut file).unwrap();
    let len = file.metadata().unwrap().len() - 6;
    let opened = LayerIndex::open(Stored::file(file, 6, len)).unwrap();
    let expected = all(&held);
    let without_path = |indexed: &Indexed| {
        let mut indexed = indexed.clone();
        if let Item::Put(entry) = &mut indexed.item {
            entry.path = PathBuf::new();
        }
        indexed
    };
    for index in [&held, &filed, &opened] {
        assert_eq!(all(index), expected);
        let mut lookup = Lookup::default();
        let far = (0..3000).map(|n| n * 1237 % 3000);
        for number in (0..100).chain(far).chain([2999, 2999, 15, 16, 0]) {
            let found = lookup.get(index, number).unwrap();
            let is = without_path(&expected[number as usize]);
            assert_eq!(found, Some(is), "{number}");
        }
        assert_eq!(lookup.get(index, 3000).unwrap(), None);
        assert_eq!(lookup.get(index, u64::MAX).unwrap(), None);
    }
}
