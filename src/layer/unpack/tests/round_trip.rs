//! Random trees: written, applied, walked, written again.

use super::*;
use crate::layer::Change;
use crate::layer::tar_write::TarWriter;
use crate::layer::unpack::unpack;
use crate::layer::{Content, Mtime};
use proptest::prelude::*;

type Tree = BTreeMap<PathBuf, (Kind, Meta, Vec<u8>)>;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-d]",
        1 => "[a-z]{90,120}",
        1 => "[é=\n .]{1,4}x",
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let path = prop::collection::vec(name(), 1..5).prop_map(|parts| parts.join("/"));
    let kind = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..3000)
            .prop_map(|c| (Kind::File { size: c.len() as u64 }, c)),
        1 => name().prop_map(|t| (Kind::Symlink { target: t.into() }, Vec::new())),
        1 => Just((Kind::Fifo, Vec::new())),
        2 => Just((Kind::Dir, Vec::new())),
    ];
    let meta = (
        0..=0o7777u32,
        0..3_000_000u32,
        -1_000_000..2_000_000_000i64,
        0..3u32,
    );
    let meta = meta.prop_map(|(mode, id, secs, nanos)| {
        let mut meta = Meta {
            mode: mode | 0o700,
            mtime: Mtime {
                secs,
                nanos: nanos * 333_333_333,
            },
            ..Meta::default()
        };
        if is_root() {
            (meta.uid, meta.gid) = (id, id / 2);
        } else {
            meta.uid = rustix::process::geteuid().as_raw();
            meta.gid = rustix::process::getegid().as_raw();
            meta.mode &= 0o777;
        }
        meta
    });
    prop::collection::vec((path, kind, meta, any::<bool>()), 0..25).prop_map(|list| {
        let mut tree = Tree::new();
        for (path, (kind, content), mut meta, marked) in list {
            let path = PathBuf::from(path);
            // Parents are directories, and what is there stays.
            if path
                .ancestors()
                .any(|a| tree.get(a).is_some_and(|n: &(Kind, _, _)| n.0 != Kind::Dir))
                || tree.contains_key(&path)
            {
                continue;
            }
            for parent in path.ancestors().skip(1) {
                if !parent.as_os_str().is_empty() {
                    let dir = || {
                        (
                            Kind::Dir,
                            Meta {
                                xattrs: BTreeMap::new(),
                                ..meta.clone()
                            },
                            Vec::new(),
                        )
                    };
                    tree.entry(parent.into()).or_insert_with(dir);
                }
            }
            if marked && matches!(kind, Kind::File { .. } | Kind::Dir) {
                meta.xattrs
                    .insert(b"user.mark".to_vec(), b"a=\n\0b".to_vec());
            }
            if matches!(kind, Kind::Symlink { .. }) {
                meta.mode = 0o777;
            }
            tree.insert(path, (kind, meta, content));
        }
        tree
    })
}

fn write(tree: &Tree) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new(), None);
    for (path, (kind, meta, content)) in tree {
        let entry = Entry {
            path: path.clone(),
            kind: kind.clone(),
            meta: meta.clone(),
        };
        let content = Content::Bytes(content.clone().into());
        tar.change(Change::Put(entry, content)).unwrap();
    }
    tar.finish().unwrap()
}

fn walk(base: &Path, path: &Path, out: &mut Tree) {
    for item in std::fs::read_dir(base.join(path)).unwrap() {
        let path = path.join(item.unwrap().file_name());
        let real = base.join(&path);
        let stat = std::fs::symlink_metadata(&real).unwrap();
        let mut content = Vec::new();
        let kind = if stat.is_dir() {
            walk(base, &path, out);
            Kind::Dir
        } else if stat.is_symlink() {
            Kind::Symlink {
                target: std::fs::read_link(&real).unwrap(),
            }
        } else if stat.is_file() {
            content = std::fs::read(&real).unwrap();
            Kind::File { size: stat.len() }
        } else {
            Kind::Fifo
        };
        let fd = rustix::fs::open(
            &real,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        let xattrs = match stat.is_symlink() {
            true => BTreeMap::new(),
            false => crate::sys::xattr::xattrs(fd.as_fd())
                .unwrap()
                .into_iter()
                .collect(),
        };
        let meta = Meta {
            mode: stat.mode() & 0o7777,
            uid: stat.uid(),
            gid: stat.gid(),
            mtime: Mtime {
                secs: stat.mtime(),
                nanos: stat.mtime_nsec() as u32,
            },
            xattrs,
        };
        out.insert(path, (kind, meta, content));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn unpacked_trees_are_the_same(tree in tree(), overlay in any::<bool>(), walking in any::<bool>()) {
        let sandbox = Sandbox::new();
        let root = sandbox.root("r", walking);
        let tar = write(&tree);
        let done = unpack(&tar[..], &root, &options(overlay)).unwrap();
        prop_assert_eq!(done.tar_bytes, tar.len() as u64);
        prop_assert_eq!(done.entries, tree.len() as u64);
        let mut seen = Tree::new();
        walk(&sandbox.dir.path().join("r"), Path::new(""), &mut seen);
        prop_assert_eq!(&seen, &tree);
        prop_assert_eq!(write(&seen), tar);
    }
}
