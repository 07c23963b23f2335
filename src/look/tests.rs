use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::waste::waste;
use super::*;
use crate::layer::compress::Compression;
use crate::layer::index::{LayerIndex, Spool};
use crate::layer::pile::Spools;
use crate::layer::tar_write::TarWriter;
use crate::layer::unpack::{Form, UnpackOptions, unpack};
use crate::layer::{Change as Delta, Content, Entry, Kind, Meta, path_order};
use crate::sys::fs::Root;

fn put(path: &str, kind: Kind, content: &str) -> Delta {
    let meta = Meta {
        mode: if kind == Kind::Dir { 0o755 } else { 0o644 },
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        ..Meta::default()
    };
    let entry = Entry {
        path: path.into(),
        kind,
        meta,
    };
    let content = match content {
        "" => Content::None,
        text => Content::Bytes(text.as_bytes().into()),
    };
    Delta::Put(entry, content)
}

fn dir(path: &str) -> Delta {
    put(path, Kind::Dir, "")
}

fn file(path: &str, content: &str) -> Delta {
    let size = content.len() as u64;
    put(path, Kind::File { size }, content)
}

fn hard(path: &str, target: &str) -> Delta {
    let target = target.into();
    put(path, Kind::Hardlink { target }, "")
}

fn link(path: &str, target: &str) -> Delta {
    let target = target.into();
    put(path, Kind::Symlink { target }, "")
}

fn gone(path: &str) -> Delta {
    Delta::Whiteout(path.into())
}

fn opaque(path: &str) -> Delta {
    Delta::Opaque(path.into())
}

fn tar(layer: Vec<Delta>) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new(), None);
    layer.into_iter().for_each(|d| tar.change(d).unwrap());
    tar.finish().unwrap()
}

fn index(tar: &[u8]) -> LayerIndex {
    let tar = std::io::Cursor::new(tar.to_vec());
    LayerIndex::make(tar, Compression::Uncompressed).unwrap()
}

fn tree(layers: Vec<Vec<Delta>>) -> Tree {
    Tree::build(
        layers.into_iter().map(|l| Arc::new(index(&tar(l)))),
        Spools::default(),
    )
    .unwrap()
}

/// What is there when `layer` was applied, as `path layer`.
fn there(tree: &Tree, layer: usize) -> Vec<String> {
    let nodes = tree.walk().filter(|(n, _)| *n != Tree::ROOT);
    nodes
        .filter_map(|(n, _)| {
            let inode = tree.inode(tree.at(n, layer)?).unwrap();
            Some(format!("{} {}", tree.path(n).display(), inode.layer))
        })
        .collect()
}

fn changes(tree: &Tree, layer: usize) -> Vec<String> {
    let mut lines: Vec<String> = tree
        .changes(layer)
        .map(|c| {
            let kind = tree.kind(&c).unwrap().0;
            format!("{kind:?} {}", tree.path(c.node).display())
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn layers_lie_over_each_other() {
    let tree = tree(vec![
        vec![
            dir("a"),
            file("a/x", "one"),
            file("a/y", "two"),
            dir("b"),
            file("b/z", "3"),
        ],
        vec![
            dir("a"),
            file("a/x", "other"),
            gone("a/y"),
            file("c/new", "n"),
        ],
        vec![
            dir("b"),
            opaque("b"),
            file("b/own", "o"),
            file("a/y", "back"),
        ],
    ]);
    assert_eq!(there(&tree, 0), ["a 0", "a/x 0", "a/y 0", "b 0", "b/z 0"]);
    assert_eq!(
        there(&tree, 1),
        ["a 1", "a/x 1", "b 0", "b/z 0", "c 1", "c/new 1"]
    );
    assert_eq!(
        there(&tree, 2),
        ["a 1", "a/x 1", "a/y 2", "b 2", "b/own 2", "c 1", "c/new 1"]
    );
    assert_eq!(
        changes(&tree, 1),
        [
            "Added c",
            "Added c/new",
            "Changed a/x",
            "Removed a/y",
            "Same a"
        ]
    );
    assert_eq!(
        changes(&tree, 2),
        ["Added a/y", "Added b/own", "Removed b/z", "Same b"]
    );
    let sums = summary(&tree).unwrap();
    assert_eq!((sums[1].added, sums[1].added_bytes), (2, 1));
    assert_eq!((sums[1].changed, sums[1].changed_bytes), (1, 5));
    assert_eq!((sums[1].removed, sums[1].removed_bytes), (1, 3));
    for (layer, all) in [(2, 5 + 4 + 1 + 1), (0, 3 + 3 + 1)] {
        let own = |node| tree.at(node, layer).map_or(0, |id| tree.size(id));
        let sums = tree.sums(own, |_, _| true);
        assert_eq!(tree.sum(&sums, Tree::ROOT), Some(all));
    }
    let found = waste(&tree, usize::MAX);
    let paths: Vec<_> = found
        .paths
        .iter()
        .map(|w| (tree.path(w.node), w.files, w.bytes, w.is_removed(&tree)))
        .collect();
    assert_eq!(
        paths,
        [
            ("a/x".into(), 1, 3, false),
            ("a/y".into(), 1, 3, false),
            ("b/z".into(), 1, 1, true)
        ]
    );
    assert_eq!(
        (found.bytes, found.written, found.user_written),
        (7, 18, 11)
    );
    // x: 3 of 8; y: 0 of 7, as it was removed in between; z: 0 of 1; new, own.
    let score = (3.0 + 2.0) / 18.0;
    assert!(
        (found.efficiency - score).abs() < 1e-9,
        "{}",
        found.efficiency
    );
}

#[test]
fn links_lead_where_an_unpacker_goes() {
    let t = tree(vec![
        vec![
            dir("usr"),
            dir("usr/lib"),
            link("lib", "usr/lib"),
            link("up", "../../usr"),
            file("usr/lib/a", "aaa"),
            hard("b", "usr/lib/a"),
            link("loop", "loop"),
            link("abs", "/lib/a"),
        ],
        vec![file("lib/new", "n"), gone("lib/a"), hard("c", "b")],
    ]);
    assert_eq!(t.problems(), []);
    let find = |path: &str, follow| t.find(Path::new(path), follow).unwrap().map(|n| t.path(n));
    assert_eq!(find("lib/new", true), Some("usr/lib/new".into()));
    assert_eq!(find("up/lib/new", true), Some("usr/lib/new".into()));
    assert_eq!(find("lib", false), Some("lib".into()));
    assert_eq!(find("lib", true), Some("usr/lib".into()));
    assert_eq!(find("../..", true), Some("".into()));
    assert_eq!(find("usr/lib/a", true), None);
    assert_eq!(find("abs", true), None);
    assert_eq!(find("abs", false), Some("abs".into()));
    assert_eq!(find("loop", true), None);
    assert_eq!(find("b/x", true), None);
    let inode = |path: &str| t.now(t.find(Path::new(path), false).unwrap().unwrap());
    assert_eq!(inode("b"), inode("c"));
    // Its content is there under another name.
    assert_eq!(waste(&t, 0).bytes, 0);
    let wrong = tree(vec![
        vec![file("f", "x"), link("l", "f")],
        vec![hard("h", "nothing"), file("l/x", "y"), file("good", "g")],
    ]);
    let problems: Vec<&str> = wrong.problems().iter().map(|(_, p)| p.as_str()).collect();
    assert_eq!(
        problems,
        [
            "h: its target nothing does not exist",
            "l/x: a link on the way to it leads to no directory"
        ]
    );
    assert!(wrong.find(Path::new("good"), true).unwrap().is_some());
}

#[test]
fn images_are_compared_by_path() {
    let a = tree(vec![vec![
        dir("d"),
        file("d/same", "s"),
        file("d/content", "a"),
        file("gone", "g"),
        hard("other", "gone"),
        link("l", "x"),
        dir("kind"),
        file("kind/below", "b"),
    ]]);
    let b = tree(vec![
        vec![
            dir("d"),
            file("d/same", "s"),
            file("d/content", "b"),
            link("l", "y"),
        ],
        vec![file("other", "g"), file("kind", "k"), file("d/new", "n")],
    ]);
    let rows = |tree: &Tree| Rows::of(tree, Spool::memory()).unwrap();
    let (a, b) = (rows(&a), rows(&b));
    let named = |ignore: Aspects| -> Vec<String> {
        diff::files(&a, &b, ignore)
            .map(|c| {
                let c = c.unwrap();
                let what = match (&c.before, &c.after) {
                    (None, _) => "+".to_owned(),
                    (_, None) => "-".to_owned(),
                    _ => c
                        .aspects
                        .iter()
                        .map(Aspect::name)
                        .collect::<Vec<_>>()
                        .join(","),
                };
                format!("{} {what}", c.path.display())
            })
            .collect()
    };
    assert_eq!(
        named(Aspects::default()),
        [
            "d/content content",
            "d/new +",
            "gone -",
            "kind kind,mode",
            "kind/below -",
            "l link",
            "other hardlink"
        ]
    );
    let ignore = [Aspect::Hardlink, Aspect::Link, Aspect::Kind, Aspect::Mode];
    assert_eq!(
        named(ignore.into_iter().collect()),
        ["d/content content", "d/new +", "gone -", "kind/below -"]
    );
    assert!(diff::files(&a, &a, Aspects::default()).next().is_none());
}

#[test]
fn documents_are_compared_by_field() {
    let a = serde_json::json!({"Env": ["A=1", "B=2"], "User": "x", "list": [{"a": 1}]});
    let b = serde_json::json!({"Env": ["A=1", "B=3"], "Cmd": ["sh"], "list": [{"a": 1}, {"a": 2}]});
    let found: Vec<String> = diff::fields(&a, &b)
        .iter()
        .map(|c| {
            let show = |v: &Option<serde_json::Value>| {
                v.as_ref().map_or("-".to_owned(), ToString::to_string)
            };
            format!("{} {} {}", c.field, show(&c.before), show(&c.after))
        })
        .collect();
    assert_eq!(
        found,
        [
            r#"Cmd - ["sh"]"#,
            r#"Env.1 "B=2" "B=3""#,
            r#"User "x" -"#,
            r#"list.1 - {"a":2}"#
        ]
    );
}

#[test]
fn removals_again_and_again_cost_little() {
    let mut layers = vec![vec![dir("d")]];
    layers[0].extend((0..5000).map(|n| file(&format!("d/{n}"), "x")));
    let again = (0..20_000).flat_map(|n| {
        [
            opaque("d"),
            gone("d"),
            file(&format!("d/own{}", n % 7), "y"),
        ]
    });
    layers.push(again.collect());
    let deep = "p/".repeat(2000);
    layers.push(vec![file(&format!("{deep}f"), "x"), gone("p")]);
    let t = tree(layers);
    assert_eq!(there(&t, 1).len(), 8);
    assert_eq!(there(&t, 2).len(), 8 + 2001);
}

/// A random layer over few names.
fn layers() -> impl Strategy<Value = Vec<Vec<(u8, String, String)>>> {
    let path = "[abl](/[abl]){0,2}";
    let element = (
        0..8_u8,
        path,
        prop_oneof![path, "(\\.\\./|/)[abl](/[abl])?"],
    );
    prop::collection::vec(prop::collection::vec(element, 1..10), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 4000 }))]

    /// The tree is what unpacking makes of the same layers.
    #[test]
    fn the_tree_is_what_would_be_unpacked(layers in layers()) {
        let scratch = tempfile::tempdir().unwrap();
        let mut indexes = Vec::new();
        for layer in layers {
            let bytes = tar(layer
                .iter()
                .map(|(what, path, other)| match what {
                    0 | 1 => file(path, other),
                    2 | 3 => dir(path),
                    4 => link(path, other),
                    5 => hard(path, other.trim_start_matches(['.', '/'])),
                    6 => gone(path),
                    _ => opaque(path),
                })
                .collect());
            let root = Root::open(scratch.path()).unwrap();
            let mut options = UnpackOptions::new(Form::Flat);
            options.owners = false;
            // In a file, as the store has them.
            let tar = std::io::Cursor::new(bytes.clone());
            let spool = Spool::file(tempfile::tempfile().unwrap());
            let made = LayerIndex::make_in(spool, tar, Compression::Uncompressed);
            indexes.push(Arc::new(made.unwrap()));
            let tree = Tree::build(indexes.iter().cloned(), Spools::default()).unwrap();
            if unpack(&bytes[..], &root, &options).is_err() {
                prop_assert!(!tree.problems().is_empty(), "unpacking it fails");
                return Ok(());
            }
            prop_assert_eq!(tree.problems(), &[]);
            let mut found = BTreeMap::new();
            walk(scratch.path(), scratch.path(), &mut found);
            let made: BTreeMap<PathBuf, String> = tree.walk()
                .filter(|(n, _)| *n != Tree::ROOT)
                .filter_map(|(n, _)| {
                    Some((tree.path(n), shown(&tree.inode(tree.now(n)?).unwrap())))
                })
                .collect();
            prop_assert_eq!(&made, &found);
            // The rows are the same once more, in order.
            let rows = Rows::of(&tree, Spool::memory()).unwrap();
            let rows: Vec<rows::Row> = rows.iter().map(Result::unwrap).collect();
            let in_order = |x: &rows::Row, y: &rows::Row| path_order(&x.path, &y.path).is_lt();
            prop_assert!(rows.is_sorted_by(in_order));
            let rows = rows.iter().skip(1).map(|r| (r.path.clone(), shown(&r.inode)));
            prop_assert_eq!(rows.collect::<BTreeMap<_, _>>(), found);
        }
    }
}

fn shown(inode: &Inode) -> String {
    match &inode.kind {
        Kind::Dir => "dir".into(),
        Kind::Symlink { target } => format!("-> {}", target.display()),
        Kind::File { size: 0 } => crate::digest::Sha256::of(b"").0[0].to_string(),
        _ => inode.digest.unwrap().0[0].to_string(),
    }
}

fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        let what = if kind.is_dir() {
            walk(root, &path, found);
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(&path).unwrap().display())
        } else {
            let content = std::fs::read(&path).unwrap();
            crate::digest::Sha256::of(&content).0[0].to_string()
        };
        found.insert(path.strip_prefix(root).unwrap().to_owned(), what);
    }
}
