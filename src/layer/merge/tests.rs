use std::collections::BTreeMap;
use std::io::Cursor;

use super::*;
use crate::digest::Digest;
use crate::layer::tar_read::raw::Raw;
use crate::layer::unpack::{Form, UnpackOptions, unpack};
use crate::sys::fs::Root;

struct Blobs(Vec<Vec<u8>>);

impl BlobSource for Blobs {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let found = self.0.iter().find(|b| Digest::of(b) == d.digest);
        Ok(Box::new(Cursor::new(found.unwrap().clone())))
    }
}

fn merge(layers: &[Vec<u8>], below: usize) -> Result<Vec<u8>, MergeError> {
    let list = layers.iter().map(|tar| LayerBlob {
        blob: Descriptor::of("application/vnd.oci.image.layer.v1.tar", tar),
        diff_id: DiffId::new(Digest::of(tar)),
    });
    let blobs = Blobs(layers.to_vec());
    let list: Vec<LayerBlob> = list.collect();
    let plain = crate::image::media_type::Compression::Uncompressed;
    let known = |digest: &Digest| {
        let tar = layers.iter().find(|tar| Digest::of(tar) == *digest)?;
        LayerIndex::make(Cursor::new(tar.clone()), plain).ok()
    };
    let headers = Headers {
        blobs: &blobs,
        threads: 2,
        known: None,
        spools: &Spools::default(),
    };
    let merge = Merge::read(list.clone(), below, headers)?;
    // From indexes it is the same.
    let known: Vec<Option<LayerIndex>> = list.iter().map(|l| known(&l.blob.digest)).collect();
    let digests: Vec<Digest> = list.iter().map(|l| l.blob.digest.clone()).collect();
    let known: Box<Known> = Box::new(move |digest| {
        let at = digests.iter().position(|d| d == digest)?;
        known[at].clone()
    });
    let headers = Headers {
        known: Some(&*known),
        ..headers
    };
    let indexed = Merge::read(list, below, headers)?;
    let mut same = TarWriter::new(Vec::new(), None);
    indexed.write(&blobs, &mut same)?;
    let same = same.finish().unwrap();
    let mut out = TarWriter::new(Vec::new(), None);
    merge.write(&blobs, &mut out)?;
    let out = out.finish().unwrap();
    assert_eq!(out, same);
    Ok(out)
}

type Tree = BTreeMap<PathBuf, String>;

/// What an unpacker makes of layers, everything that can be seen.
fn tree(layers: &[Vec<u8>]) -> Option<Tree> {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    for layer in layers {
        let options = UnpackOptions {
            owners: is_root,
            ..UnpackOptions::new(Form::Flat)
        };
        unpack(&layer[..], &root, &options).ok()?;
    }
    let mut tree = Tree::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = dir.path().join(&path);
        let meta = std::fs::symlink_metadata(&full).unwrap();
        let mut seen = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        if meta.is_dir() {
            let mut children: Vec<_> = std::fs::read_dir(&full).unwrap().collect();
            children.sort_by_key(|e| std::cmp::Reverse(e.as_ref().unwrap().file_name()));
            todo.extend(
                children
                    .into_iter()
                    .map(|e| path.join(e.unwrap().file_name())),
            );
            // What no entry is about has the time of the test, or none.
            let is_stated = meta.mtime() == 1_500_000_000;
            if !path.as_os_str().is_empty() && is_stated {
                seen += " stated";
            }
        } else {
            seen += &format!(" {}", meta.mtime());
            let first = links.entry(meta.ino()).or_insert_with(|| path.clone());
            seen += &format!(" {}", first.display());
        }
        if meta.is_file() {
            seen += &format!(" {}", std::fs::read_to_string(&full).unwrap());
        } else if meta.is_symlink() {
            seen += &format!(" -> {}", std::fs::read_link(&full).unwrap().display());
        }
        tree.insert(path, seen);
    }
    Some(tree)
}

/// Merges the upper layers at every place; what an unpacker refuses is to be
/// refused.
fn same(layers: &[Vec<u8>]) {
    let wanted = tree(layers);
    if wanted.is_none() {
        assert!(merge(layers, 0).is_err());
        return;
    }
    for below in 0..layers.len() {
        let top = merge(layers, below).unwrap();
        let mut merged = layers[..below].to_vec();
        merged.push(top);
        assert_eq!(tree(&merged), wanted, "{below} layers below");
    }
}

fn base() -> Raw {
    Raw::new()
        .dir("etc/", 0o755)
        .file("etc/a", b"a")
        .file("etc/b", b"b")
        .dir("usr/", 0o755)
        .dir("usr/lib/", 0o750)
        .file("usr/lib/x", b"x")
        .file("usr/lib/y", b"y")
        .link("lib", "usr/lib")
        .dir("d/", 0o700)
        .dir("d/e/", 0o711)
        .file("d/e/f", b"f")
        .file("d/g", b"g")
}

#[test]
fn it_is_what_an_unpacker_makes() {
    let one = |raw: Raw| vec![base().end(), raw.end()];
    for (number, layers) in [
        one(Raw::new().file("etc/a", b"new").file("etc/.wh.b", b"")),
        one(Raw::new()
            .dir("d/", 0o1777)
            .file("d/.wh..wh..opq", b"")
            .file("d/new", b"n")),
        one(Raw::new().file("d/e/new", b"n").file("d/.wh..wh..opq", b"")),
        one(Raw::new().file("lib/z", b"z").file("lib/.wh.x", b"")),
        one(Raw::new().dir("lib/", 0o755).file("lib/z", b"z")),
        one(Raw::new().file("usr/lib", b"a file now")),
        one(Raw::new().file("d", b"a file now")),
        one(Raw::new().file("etc/a/below", b"a directory now")),
        one(Raw::new().dir("etc/a/", 0o700)),
        one(Raw::new().hard("h", "etc/a")),
        one(Raw::new().hard("h", "etc/a").file("etc/.wh.a", b"")),
        one(Raw::new().hard("h", "etc/a").file("etc/a", b"other")),
        one(Raw::new().hard("h", "lib/x").file("usr/.wh.lib", b"")),
        one(Raw::new()
            .file("new/implied/f", b"x")
            .file("gone/.wh.x", b"")),
        one(Raw::new().file(".wh.d", b"").file("d/e/again", b"x")),
        one(Raw::new().file(".wh..wh..opq", b"").file("only", b"o")),
        one(Raw::new().file(".wh.lib", b"").file(".wh.usr", b"")),
    ]
    .into_iter()
    .enumerate()
    {
        same(&layers);
        // A third layer on every third: all pairs would take seconds.
        if number % 3 != 0 {
            continue;
        }
        let mut more = layers.clone();
        for top in [
            Raw::new().file(".wh.d", b""),
            Raw::new()
                .dir("d/", 0o755)
                .file("d/last", b"l")
                .hard("h2", "h3"),
            Raw::new().dir("d/", 0o755).file("d/last", b"l"),
            Raw::new().file("lib/q", b"q").link("etc/b", "../usr"),
            Raw::new().file("etc/.wh..wh..opq", b"").file("h", b"own"),
        ] {
            more.push(top.end());
            same(&more);
            more.pop();
        }
    }
}

#[test]
fn a_directory_that_was_replaced_hides_what_was_there() {
    let layers = [
        base().end(),
        Raw::new().file(".wh.d", b"").end(),
        Raw::new().dir("d/", 0o755).file("d/new", b"n").end(),
        Raw::new().file("usr", b"file").end(),
        Raw::new().dir("usr/", 0o700).end(),
    ];
    same(&layers);
}

#[test]
fn the_tar_is_the_same_however_it_is_made() {
    let layers = [base().end(), Raw::new().hard("z", "etc/a").end()];
    let first = merge(&layers, 0).unwrap();
    assert_eq!(merge(&layers, 0).unwrap(), first);
    // Once merged there is nothing left to do.
    assert_eq!(merge(std::slice::from_ref(&first), 0).unwrap(), first);
}

#[test]
fn what_no_unpacker_takes_is_refused() {
    for bad in [
        Raw::new().hard("x", "nowhere"),
        Raw::new().hard("x", "etc"),
        Raw::new().hard("etc/a", "etc/a"),
        Raw::new().hard("d", "d/g"),
        Raw::new().device(b'3', "x", 0, 0),
        Raw::new().link("l", "l").file("l/x", b""),
        Raw::new().link("l", "etc/a").file("l/x", b""),
        Raw::new().file("../x", b""),
    ] {
        assert!(merge(&[base().end(), bad.end()], 0).is_err());
    }
    let mut cut = base().end();
    cut.truncate(2000);
    assert!(merge(&[cut], 0).is_err());
}

#[test]
fn deep_and_long_paths_cost_no_stack() {
    let deep = vec!["a"; 16_000].join("/");
    let far = format!("{deep}/{}", "b".repeat(1000));
    let put = |path: &str| Raw::new().pax(&[("path", path.as_bytes())]);
    let base = put(&deep).file("x", b"deep").end();
    let gone = Raw::new().file(".wh.a", b"").end();
    let empty = merge(&[base.clone(), gone], 0).unwrap();
    assert!(!empty.windows(4).any(|w| w == b"deep"));
    assert!(merge(std::slice::from_ref(&base), 0).is_ok());
    // Short in the layer, too long without the links.
    let half = vec!["a"; 2000].join("/");
    let links = Raw::new()
        .pax(&[("linkpath", half.as_bytes())])
        .link("l", "x")
        .pax(&[
            ("path", format!("{half}/l").as_bytes()),
            ("linkpath", b"/l"),
        ])
        .link("x", "x")
        .end();
    let long = put(&format!("l/{}", "c/".repeat(15_000) + "d"))
        .file("x", b"")
        .end();
    let refused = merge(&[links, long], 0).unwrap_err();
    assert!(matches!(refused, MergeError::Entry { .. }), "{refused:?}");
    assert!(merge(&[put(&far).file("x", b"").end()], 0).is_err());
}

#[test]
fn places_of_what_is_gone_are_used_again() {
    let (mut layers, mut made) = (vec![base().end()], 0..);
    for round in 0..3 {
        let (mut files, mut whiteouts) = (Raw::new(), Raw::new());
        for number in made.by_ref().take(1500) {
            let dir = ["", "d/", "d/new/"][number % 3];
            files = files.file(&format!("{dir}{number}"), b"x");
            if number % 100 != round {
                whiteouts = whiteouts.file(&format!("{dir}.wh.{number}"), b"");
            }
        }
        layers.extend([files.end(), whiteouts.end()]);
    }
    let wanted = tree(&layers).unwrap();
    for below in [0, 3, 6] {
        let mut merged = layers[..below].to_vec();
        merged.push(merge(&layers, below).unwrap());
        assert_eq!(tree(&merged).unwrap(), wanted, "{below} layers below");
    }
}

mod random {
    use proptest::prelude::*;

    use super::{Raw, same};

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"))
    }

    fn marker(path: &str, name: Option<&str>) -> String {
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        let (parent, name) = match name {
            Some(name) => (path, name.to_owned()),
            None => (parent, format!(".wh.{last}")),
        };
        format!("{parent}{}{name}", if parent.is_empty() { "" } else { "/" })
    }

    type Step = (u8, String, String);

    fn layer(steps: &[Step]) -> Vec<u8> {
        let mut raw = Raw::new();
        for (kind, path, other) in steps {
            raw = match kind {
                0..3 => raw.file(path, other.as_bytes()),
                3..5 => raw.dir(&format!("{path}/"), 0o700 + other.len() as u64),
                5 => raw.hard(path, other),
                6 if other.len() == 1 => raw.link(path, &format!("../{other}")),
                6 if other.len() == 3 => raw.link(path, &format!("/{other}")),
                6 => raw.link(path, other),
                7 => raw.file(&marker(path, Some(".wh..wh..opq")), b""),
                _ => raw.file(&marker(path, None), b""),
            };
        }
        raw.end()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
        #[test]
        fn it_is_what_an_unpacker_makes(
            layers in prop::collection::vec(
                prop::collection::vec((0u8..10, name(), name()), 1..12),
                1..5,
            ),
        ) {
            let layers: Vec<_> = layers.iter().map(|steps| layer(steps)).collect();
            same(&layers);
        }
    }
}
