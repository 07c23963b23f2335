use super::raw::Raw;
use super::*;
use crate::layer::tar_write::TarWriter;
use crate::layer::{Meta, Mtime};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

type Read1 = Result<Vec<(Item, Vec<u8>)>, String>;

fn read_as(bytes: &[u8], names: Names) -> Read1 {
    let mut reader = TarReader::new(bytes, names);
    let mut items = Vec::new();
    while let Some(item) = reader.next_entry().map_err(|e| e.to_string())? {
        let mut content = Vec::new();
        let limit = 1 << 20;
        reader
            .body()
            .take(limit)
            .read_to_end(&mut content)
            .map_err(|e| e.to_string())?;
        items.push((item, content));
    }
    let all = reader.finish(u64::MAX).map_err(|e| e.to_string())?;
    assert_eq!(all, bytes.len() as u64);
    Ok(items)
}

fn read(bytes: &[u8]) -> Read1 {
    read_as(bytes, Names::Layer)
}

fn one(raw: Raw) -> Result<(Entry, Vec<u8>), String> {
    let mut items = read(&raw.end())?;
    match (items.pop(), items.len()) {
        (Some((Item::Put(entry), content)), 0) => Ok((entry, content)),
        other => panic!("{other:?}"),
    }
}

fn paths(raw: Raw) -> Result<Vec<PathBuf>, String> {
    let items = read(&raw.end())?;
    let path = |item| match item {
        Item::Put(entry) => entry.path,
        Item::Whiteout(path) | Item::Opaque(path) => path,
    };
    Ok(items.into_iter().map(|(item, _)| path(item)).collect())
}

fn refused(what: &str, raw: Raw, reason: &str) {
    match read(&raw.end()) {
        Err(e) => assert!(e.contains(reason), "{what}: {e}"),
        Ok(items) => panic!("{what}: {items:?}"),
    }
}

#[test]
fn names_are_made_relative_or_refused() {
    for (name, path) in [
        ("/etc/x", "etc/x"),
        ("//etc//x", "etc/x"),
        ("./a/./b", "a/b"),
        ("....//x", "..../x"),
        ("a ", "a "),
        ("a\n\x1b]0;", "a\n\x1b]0;"),
    ] {
        assert_eq!(
            paths(Raw::new().file(name, b"")).unwrap(),
            [Path::new(path)]
        );
    }
    for name in ["../x", "a/../../x", "..", "a/..", "./../x", "/../../x"] {
        refused(name, Raw::new().file(name, b"x"), "`..`");
        refused(name, Raw::new().dir(name, 0o755), "`..`");
        refused(name, Raw::new().link(name, "t"), "`..`");
        refused(name, Raw::new().hard(name, "t"), "`..`");
        refused(name, Raw::new().device(b'3', name, 1, 1), "`..`");
        refused(name, Raw::new().fifo(name), "`..`");
        refused(
            name,
            Raw::new().pax(&[("path", name.as_bytes())]).file("ok", b""),
            "`..`",
        );
    }
    for name in [".", "/", "./", "//"] {
        refused(name, Raw::new().link(name, "OUT"), "root");
        refused(name, Raw::new().hard(name, "etc"), "root");
        refused(name, Raw::new().fifo(name), "root");
        let (entry, _) = one(Raw::new().dir(name, 0)).unwrap();
        assert_eq!((entry.path, entry.meta.mode), (PathBuf::new(), 0));
    }
    refused("root file", Raw::new().file(".", b"x"), "root");
    refused("empty", Raw::new().file("", b"x"), "no name");
    let raw = [&b"a\xff"[..], b"a\xfe"];
    let tar = raw
        .iter()
        .fold(Raw::new(), |tar, name| tar.header(b'0', name, 0, |_| {}));
    let expected: Vec<PathBuf> = raw.iter().map(|n| OsStr::from_bytes(n).into()).collect();
    assert_eq!(paths(tar).unwrap(), expected);
}

#[test]
fn whiteouts_are_told_apart() {
    let tar = || {
        Raw::new()
            .file("d/.wh.x", b"")
            .file("d/.wh..wh..opq", b"")
            .hard(".wh.old", ".wh..wh.aufs")
            .file(".wh..wh.plnk/1.2", b"abc")
            .dir(".wh..wh.orph", 0o700)
    };
    let items: Vec<Item> = read(&tar().end())
        .unwrap()
        .into_iter()
        .map(|i| i.0)
        .collect();
    assert_eq!(
        items,
        [
            Item::Whiteout("d/x".into()),
            Item::Opaque("d".into()),
            Item::Whiteout("old".into())
        ]
    );
    let plain = read_as(&tar().end(), Names::Plain).unwrap();
    assert_eq!(plain.len(), 5);
    for name in [".wh.", "a/.wh.", ".wh..", ".wh...", ".wh.a/b", "a/.wh.b/c"] {
        refused(name, Raw::new().file(name, b""), "whiteout");
    }
    refused("dir", Raw::new().dir(".wh.x", 0o755), "regular file");
    refused("link", Raw::new().link(".wh.x", "t"), "regular file");
}

/// Sets a field to text that is no octal number of a writer.
fn field(at: ustar::Field, text: &'static [u8]) -> impl FnOnce(&mut Block) {
    move |block| {
        block[at.at..at.at + at.len].fill(0);
        at.put(block, text);
    }
}

#[test]
fn header_garbage_is_refused() {
    let entry = |edit: fn(&mut Block)| Raw::new().header(b'0', b"f", 0, edit);
    for (what, raw, reason) in [
        (
            "size",
            Raw::new().header(b'0', b"f", 0, field(ustar::SIZE, b"-1")),
            "size",
        ),
        (
            "size hex",
            Raw::new().header(b'0', b"f", 0, field(ustar::SIZE, b"0x10")),
            "size",
        ),
        (
            "negative",
            Raw::new().header(b'0', b"f", 0, field(ustar::SIZE, &[0xff; 12])),
            "size",
        ),
        (
            "huge",
            Raw::new().header(
                b'0',
                b"f",
                0,
                field(
                    ustar::SIZE,
                    &[
                        0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                    ],
                ),
            ),
            "size",
        ),
        (
            "uid -1",
            Raw::new().header(b'0', b"f", 0, field(ustar::UID, &[0xff; 8])),
            "user",
        ),
        (
            "uid 2^32",
            Raw::new().header(
                b'0',
                b"f",
                0,
                field(ustar::UID, &[0x80, 0, 0, 1, 0, 0, 0, 0]),
            ),
            "user",
        ),
        (
            "gid 2^32-1",
            Raw::new().header(
                b'0',
                b"f",
                0,
                field(ustar::GID, &[0x80, 0, 0, 0, 255, 255, 255, 255]),
            ),
            "group",
        ),
        (
            "mode",
            Raw::new().header(b'0', b"f", 0, field(ustar::MODE, b"rw")),
            "mode",
        ),
        (
            "type Z",
            Raw::new().header(b'Z', b"f", 0, |_| {}),
            "unknown type Z",
        ),
        (
            "type V",
            Raw::new().header(b'V', b"f", 0, |_| {}),
            "unknown type V",
        ),
        (
            "type M",
            Raw::new().header(b'M', b"f", 0, |_| {}),
            "unknown type M",
        ),
        (
            "type D",
            Raw::new().header(b'D', b"f", 0, |_| {}),
            "unknown type D",
        ),
        (
            "magic",
            entry(|b| ustar::MAGIC.put(b, b"ustar\x0099")),
            "unknown version",
        ),
        (
            "device",
            Raw::new().device(b'3', "d", 5000, 1),
            "device number",
        ),
        (
            "device",
            Raw::new().device(b'4', "d", 8, 0o7777777),
            "device number",
        ),
        (
            "link data",
            Raw::new()
                .header(b'2', b"l", 512, |b| ustar::LINK.put(b, b"t"))
                .bytes(&[1; 512]),
            "no file",
        ),
        (
            "hard link data",
            Raw::new()
                .header(b'1', b"l", 512, |b| ustar::LINK.put(b, b"t"))
                .bytes(&[1; 512]),
            "no file",
        ),
        ("no target", Raw::new().link("l", ""), "links to nothing"),
        (
            "hard to root",
            Raw::new().hard("h", "/"),
            "hard link to the root",
        ),
        ("slash", Raw::new().file("f/", b"x"), "slash"),
    ] {
        refused(what, raw, reason);
    }
    let mut bad = Raw::new().file("f", b"x").end();
    bad[0] = b'g';
    assert!(read(&bad).unwrap_err().contains("checksum"));
    // Headers from before ustar, and GNU's.
    let (entry, _) = one(Raw::new().header(0, b"old", 0, |b| b[257..].fill(0))).unwrap();
    assert_eq!(entry.kind, Kind::File { size: 0 });
    let (entry, _) = one(Raw::new().header(0, b"old/", 0, |b| b[257..].fill(0))).unwrap();
    assert_eq!(entry.kind, Kind::Dir);
    let gnu = |b: &mut Block| {
        ustar::MAGIC.put(b, ustar::GNU);
        ustar::PREFIX.put(b, b"not-a-prefix");
        ustar::MODE.put(b, b"0100755\0");
    };
    let (entry, _) = one(Raw::new().header(b'0', b"f", 0, gnu)).unwrap();
    assert_eq!((entry.path, entry.meta.mode), ("f".into(), 0o755));
}

#[test]
fn extended_headers_win_or_are_refused() {
    let inner = Raw::new().file("smuggled", b"bad").0;
    // The header says nothing follows; the extended header is right.
    let smuggle = Raw::new()
        .pax(&[("size", inner.len().to_string().as_bytes())])
        .header(b'0', b"f", 0, |_| {})
        .bytes(&inner);
    let (entry, content) = one(smuggle).unwrap();
    assert_eq!(entry.path, Path::new("f"));
    assert_eq!(content, inner);

    let record = |body: &[u8]| Raw::new().extended(b'x', body).file("f", b"");
    let pax = |records: &[(&str, &[u8])]| Raw::new().pax(records).file("f", b"");
    for (what, raw, reason) in [
        ("twice", pax(&[("size", b"0"), ("size", b"0")]), "twice"),
        ("negative", pax(&[("size", b"-1")]), "size"),
        ("plus", pax(&[("size", b"+5")]), "size"),
        ("hex", pax(&[("size", b"0x5")]), "size"),
        ("empty", pax(&[("size", b"")]), "size"),
        ("over", pax(&[("size", b"9223372036854775808")]), "size"),
        ("uid", pax(&[("uid", b"4294967295")]), "uid"),
        ("uid", pax(&[("uid", b"4294967296")]), "uid"),
        ("uid", pax(&[("uid", b"-1")]), "uid"),
        ("path", pax(&[("path", b"a\0b")]), "path"),
        ("path", pax(&[("path", b"")]), "path"),
        ("mtime", pax(&[("mtime", b"NaN")]), "mtime"),
        ("star", pax(&[("SCHILY.realsize", b"1")]), "realsize"),
        ("length", record(b"5 a=b\n"), "record"),
        ("line", record(b"6 a=b "), "line"),
        (
            "two",
            pax(&[("a", b"b")])
                .pax(&[("a", b"b")])
                .pax(&[])
                .file("g", b""),
            "two extended",
        ),
        (
            "global",
            Raw::new().extended(b'g', b"10 path=x\n").file("f", b""),
            "global",
        ),
        (
            "global",
            Raw::new().extended(b'g', b"10 size=9\n").file("f", b""),
            "global",
        ),
        (
            "both",
            Raw::new()
                .extended(b'L', b"n\0")
                .pax(&[("path", b"p")])
                .file("f", b""),
            "both",
        ),
        (
            "both",
            Raw::new()
                .pax(&[("path", b"p")])
                .extended(b'L', b"n\0")
                .file("f", b""),
            "both",
        ),
        (
            "LL",
            Raw::new()
                .extended(b'L', b"n\0")
                .extended(b'L', b"m\0")
                .file("f", b""),
            "two long",
        ),
        (
            "L",
            Raw::new().extended(b'L', b"n\0m\0").file("f", b""),
            "malformed",
        ),
        ("last", Raw::new().pax(&[("path", b"p")]), "before the end"),
    ] {
        refused(what, raw, reason);
    }
    let comment = Raw::new()
        .extended(b'g', b"19 comment=1234567\n")
        .file("f", b"");
    assert_eq!(paths(comment).unwrap(), [Path::new("f")]);
    let names = Raw::new()
        .extended(b'K', b"long target\0")
        .extended(b'L', b"long name\0\0")
        .link("short", "t");
    let (entry, _) = one(names).unwrap();
    assert_eq!(entry.path, Path::new("long name"));
    let target = "long target".into();
    assert_eq!(entry.kind, Kind::Symlink { target });
    // Names of users are of no interest.
    let (entry, _) = one(pax(&[("uname", b"root"), ("uid", b"1000")])).unwrap();
    assert_eq!(entry.meta.uid, 1000);
    let (entry, _) = one(pax(&[("mtime", b"4611686018427387904")])).unwrap();
    assert_eq!(entry.meta.mtime.secs, 1 << 62);
}

#[test]
fn hard_link_targets_stay_inside() {
    for (target, path) in [("/a", "a"), ("../../a", "a"), ("b/../a", "a"), ("./a", "a")] {
        let (entry, _) = one(Raw::new().hard("h", target)).unwrap();
        let target = path.into();
        assert_eq!(entry.kind, Kind::Hardlink { target });
    }
}

#[test]
fn metadata_is_capped() {
    let declared = |kind| Raw::new().header(kind, b"x", 1 << 30, |_| {});
    for kind in [b'x', b'g', b'L', b'K'] {
        refused("1 GiB", declared(kind), "1 MiB");
    }
    let mut many = Raw::new();
    for _ in 0..5 {
        many = many.extended(b'g', &[b"300000 a=", &[b'v'; 299_990][..], b"\n"].concat());
    }
    refused("many", many.file("f", b""), "1 MiB");
}

#[test]
fn the_end_is_where_it_may_be() {
    let raw = || {
        Raw::new()
            .dir("d", 0o755)
            .file("d/f", &[b'x'; 700])
            .pax(&[("path", b"p")])
            .file("l", b"y")
    };
    let whole = raw().end();
    let full = read(&whole).unwrap();
    assert_eq!(full.len(), 3);
    // An archive without its end is accepted, so a cut between two entries, or
    // in the padding of one, can only be found by the digest.
    let end = whole.len() - 1024;
    let mut between = vec![0, 512, end + 512];
    between.extend(512 + 512 + 700..=512 + 512 + 1024);
    between.extend(end - 512 + 1..=end);
    for cut in 0..whole.len() {
        match read(&whole[..cut]) {
            Ok(items) => assert!(
                between.contains(&cut) && items == full[..items.len()],
                "{cut}"
            ),
            Err(_) => assert!(!between.contains(&cut) && cut < whole.len(), "{cut}"),
        }
        if between.contains(&cut) {
            assert!(read(&whole[..cut]).is_ok(), "{cut}");
        }
    }
    let lone = Raw::new().file("f", b"").bytes(&[0; 512]).file("g", b"");
    refused("lone zeros", lone, "lone block of zeros");
    let followed = [&whole[..], &Raw::new().file("second", b"").end()].concat();
    assert_eq!(read(&followed).unwrap(), full);
    let mut padded = TarReader::new(io::Cursor::new(whole).chain(io::repeat(0)), Names::Layer);
    while padded.next_entry().unwrap().is_some() {}
    assert!(padded.finish(10 << 20).is_err());
}

#[test]
fn errors_are_final() {
    let bytes = Raw::new()
        .header(b'Z', b"f", 0, |_| {})
        .file("g", b"")
        .end();
    let mut reader = TarReader::new(&bytes[..], Names::Layer);
    assert!(reader.next_entry().is_err());
    assert!(reader.next_entry().is_err());
}

fn sparse_header(tar: Raw, stored: u64, real: u64, regions: &[(u64, u64)], more: bool) -> Raw {
    tar.header(b'S', b"s", stored, |b| {
        ustar::MAGIC.put(b, ustar::GNU);
        for (i, (offset, len)) in regions.iter().enumerate() {
            let at = ustar::SPARSE.at + 24 * i;
            ustar::Field { at, len: 12 }.put_octal(b, *offset);
            ustar::Field {
                at: at + 12,
                len: 12,
            }
            .put_octal(b, *len);
        }
        b[ustar::SPARSE_MORE] = u8::from(more);
        ustar::SPARSE_SIZE.put_octal(b, real);
    })
}

#[test]
fn sparse_files_are_read_in_all_forms() {
    let expected = [&[0; 100][..], b"hello", &[0; 15], b"world", &[0; 75]].concat();
    let data = b"helloworld";
    let mut more = [0; BLOCK];
    let field = |at| ustar::Field { at, len: 12 };
    field(0).put_octal(&mut more, 120);
    field(12).put_octal(&mut more, 5);
    let mut map = b"2\n100\n5\n120\n5\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(data);
    let forms = [
        sparse_header(Raw::new(), 10, 200, &[(100, 5), (120, 5)], false).bytes(data),
        sparse_header(
            Raw::new(),
            10,
            200,
            &[(100, 1), (101, 1), (102, 1), (103, 2)],
            true,
        )
        .bytes(&more)
        .bytes(data),
        Raw::new()
            .pax(&[
                ("GNU.sparse.size", b"200"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"100"),
                ("GNU.sparse.numbytes", b"5"),
                ("GNU.sparse.offset", b"120"),
                ("GNU.sparse.numbytes", b"5"),
            ])
            .file("s", data),
        Raw::new()
            .pax(&[
                ("GNU.sparse.size", b"200"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.map", b"100,5,120,5"),
            ])
            .file("GNUSparseFile.1/s", data),
        Raw::new()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.realsize", b"200"),
            ])
            .file(
                "GNUSparseFile.1/s",
                std::str::from_utf8(&map).unwrap().as_bytes(),
            ),
    ];
    for (i, form) in forms.into_iter().enumerate() {
        let (entry, content) = one(form).unwrap();
        assert_eq!(entry.path, Path::new("s"), "{i}");
        assert_eq!(entry.kind, Kind::File { size: 200 }, "{i}");
        assert_eq!(content, expected, "{i}");
    }
}

#[test]
fn sparse_lies_are_refused() {
    let old = |regions: &[(u64, u64)], real| {
        sparse_header(Raw::new(), 10, real, regions, false).bytes(&[1; 10])
    };
    for (what, raw) in [
        ("overlap", old(&[(0, 6), (5, 4)], 100)),
        ("descending", old(&[(50, 5), (0, 5)], 100)),
        ("outside", old(&[(0, 5), (96, 5)], 100)),
        ("too little", old(&[(0, 5)], 100)),
        ("too much", old(&[(0, 50)], 100)),
    ] {
        refused(what, raw, "map of a sparse file");
    }
    // A map that is longer than what it describes may be.
    let header = |body: Vec<u8>| {
        Raw::new()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"99999999999"),
            ])
            .header(b'0', b"s", body.len() as u64, |_| {})
            .bytes(&body)
    };
    refused(
        "regions",
        header(
            b"10000000\n"
                .iter()
                .copied()
                .chain(b"1\n0\n".repeat(1 << 19))
                .collect(),
        ),
        "1 MiB",
    );
    refused("number", header(vec![b'1'; 4096]), "endless");
    refused("no map", header(Vec::new()), "longer than its data");
    let huge = sparse_header(Raw::new(), 0, (1 << 33) - 1, &[((1 << 33) - 1, 0)], false);
    let (entry, _) = one(huge).unwrap();
    assert_eq!(
        entry.kind,
        Kind::File {
            size: (1 << 33) - 1
        }
    );
}

#[test]
fn extended_sparse_blocks_are_capped() {
    let mut more = [0; BLOCK];
    for at in (0..504).step_by(12) {
        ustar::Field { at, len: 12 }.put_octal(&mut more, 0);
    }
    more[504] = 1;
    let mut tar = sparse_header(Raw::new(), 0, 0, &[(0, 0); 4], true);
    for _ in 0..2100 {
        tar = tar.bytes(&more);
    }
    refused("blocks", tar, "1 MiB");
    let gap = sparse_header(Raw::new(), 0, 0, &[(0, 0)], true).bytes(&more);
    refused("gap", gap, "behind its end");
}

mod round_trip {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            8 => b'a'..=b'z',
            1 => Just(b'.'),
            1 => prop_oneof![Just(0xff), Just(b'\n'), Just(b'='), Just(b' '), 0x80..=0xc3_u8],
        ];
        prop::collection::vec(byte, 1..40).prop_filter("special", |n| {
            n != b"." && n != b".." && !n.starts_with(b".wh.")
        })
    }

    fn path() -> impl Strategy<Value = PathBuf> {
        prop::collection::vec(name(), 1..10)
            .prop_map(|parts| OsStr::from_bytes(&parts.join(&b'/')).into())
    }

    fn kind() -> impl Strategy<Value = (Kind, Vec<u8>)> {
        let plain = |kind: BoxedStrategy<Kind>| kind.prop_map(|k| (k, Vec::new()));
        prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(|c| {
                (Kind::File { size: c.len() as u64 }, c)
            }),
            2 => plain(Just(Kind::Dir).boxed()),
            1 => plain(path().prop_map(|target| Kind::Symlink { target }).boxed()),
            1 => plain(path().prop_map(|target| Kind::Hardlink { target }).boxed()),
            1 => plain((0..4096u32, 0..1_048_576u32)
                .prop_map(|(major, minor)| Kind::Char { major, minor }).boxed()),
            1 => plain(Just(Kind::Block { major: 8, minor: 1 }).boxed()),
            1 => plain(Just(Kind::Fifo).boxed()),
        ]
    }

    fn meta() -> impl Strategy<Value = Meta> {
        let id = || prop_oneof![Just(0u32), 0..70_000u32, Just(u32::MAX - 1)];
        let secs = prop_oneof![0..2_000_000_000i64, -5_000_000_000..20_000_000_000i64];
        let nanos = prop_oneof![3 => Just(0u32), 1 => 0..1_000_000_000u32];
        let key = "(user|security)\\.[a-z.]{1,20}".prop_map(String::into_bytes);
        let xattrs =
            prop::collection::btree_map(key, prop::collection::vec(any::<u8>(), 0..50), 0..3);
        (0..=0o7777u32, id(), id(), secs, nanos, xattrs).prop_map(
            |(mode, uid, gid, secs, nanos, xattrs)| Meta {
                mode,
                uid,
                gid,
                mtime: Mtime { secs, nanos },
                xattrs,
            },
        )
    }

    fn entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
        (path(), kind(), meta())
            .prop_map(|(path, (kind, content), meta)| (Entry { path, kind, meta }, content))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in prop::collection::vec(entry(), 0..12)) {
            let mut tar = TarWriter::new(Vec::new(), None);
            for (entry, content) in &entries {
                tar.put(entry, &mut &content[..]).unwrap();
                tar.whiteout(&entry.path).unwrap();
                tar.opaque(&entry.path).unwrap();
            }
            let tar = tar.finish().unwrap();
            let items = read(&tar).unwrap();
            prop_assert_eq!(items.len(), 3 * entries.len());
            for (three, (entry, content)) in items.chunks(3).zip(&entries) {
                prop_assert_eq!(&three[0], &(Item::Put(entry.clone()), content.clone()));
                prop_assert_eq!(&three[1].0, &Item::Whiteout(entry.path.clone()));
                prop_assert_eq!(&three[2].0, &Item::Opaque(entry.path.clone()));
            }
        }

        #[test]
        fn noise_never_panics(
            entries in prop::collection::vec(entry(), 1..4),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            seal in any::<bool>(),
        ) {
            let mut tar = TarWriter::new(Vec::new(), None);
            for (entry, content) in &entries {
                tar.put(entry, &mut &content[..]).unwrap();
            }
            let mut tar = tar.finish().unwrap();
            for (at, byte) in damage {
                let at = at.index(tar.len());
                tar[at] = byte;
                // Keep the checksum right, so that the damage is looked at.
                if seal {
                    let start = at / BLOCK * BLOCK;
                    let block: &mut Block =
                        (&mut tar[start..start + BLOCK]).try_into().unwrap();
                    ustar::seal(block);
                }
            }
            let _ = read(&tar);
        }
    }
}
