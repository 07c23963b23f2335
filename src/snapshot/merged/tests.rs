// Skipped tests say so.
#![allow(clippy::print_stderr)]

use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

use super::*;

/// Whether this process can make what only root can; says so when not.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root for device nodes and trusted attributes");
    }
    root
}

struct Layers {
    dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Layers {
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..count).map(|i| dir.path().join(i.to_string())).collect();
        for path in &paths {
            std::fs::create_dir(path).unwrap();
        }
        Self { dir, paths }
    }

    fn file(&self, layer: usize, path: &str, content: &str) {
        let path = self.paths[layer].join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn link(&self, layer: usize, path: &str, target: &str) {
        let path = self.paths[layer].join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn whiteout(&self, layer: usize, path: &str) {
        let path = self.paths[layer].join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::empty(), 0).unwrap();
        assert!(
            path.symlink_metadata()
                .unwrap()
                .file_type()
                .is_char_device()
        );
    }

    fn mark(&self, layer: usize, path: &str, name: &str, value: &str) {
        let path = self.paths[layer].join(path);
        if !path.exists() {
            std::fs::create_dir_all(&path).unwrap();
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(&path, name, value.as_bytes(), flags).unwrap();
    }

    fn merged(&self) -> Merged {
        Merged::new(self.paths.clone()).unwrap()
    }
}

fn names(tree: &Merged, path: &str) -> Vec<String> {
    tree.read_dir(Path::new(path))
        .unwrap()
        .into_iter()
        .map(|(n, _)| n.into_string().unwrap())
        .collect()
}

fn content(tree: &Merged, path: &str) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut tree.open(Path::new(path))?, &mut text)?;
    Ok(text)
}

#[test]
fn upper_layers_hide_lower_ones() {
    if !is_root() {
        return;
    }
    let l = Layers::new(3);
    l.file(0, "a/low", "0");
    l.file(0, "a/both", "0");
    l.file(0, "gone/x", "0");
    l.file(0, "file-then-dir", "0");
    l.file(0, "dir-then-file/x", "0");
    l.file(0, "opaque/old", "0");
    l.file(0, "user-opaque/old", "0");
    l.file(0, "removed-and-new/old", "0");
    l.file(0, "xw/a", "0");
    l.file(0, "xw/b", "0");
    l.file(1, "a/both", "1");
    l.whiteout(1, "gone");
    l.file(1, "file-then-dir/x", "1");
    l.file(1, "dir-then-file", "1");
    l.mark(1, "opaque", "trusted.overlay.opaque", "y");
    l.file(1, "opaque/new", "1");
    l.mark(1, "user-opaque", "user.overlay.opaque", "y");
    l.whiteout(1, "removed-and-new");
    l.mark(1, "xw", "trusted.overlay.opaque", "x");
    l.file(1, "xw/a", "");
    l.mark(1, "xw/a", "trusted.overlay.whiteout", "");
    l.file(1, "xw/b", "");
    l.file(2, "a/top", "2");
    l.file(2, "removed-and-new/new", "2");
    l.file(2, "opaque/newest", "2");
    let m = l.merged();
    assert_eq!(
        names(&m, "/"),
        [
            "a",
            "dir-then-file",
            "file-then-dir",
            "opaque",
            "removed-and-new",
            "user-opaque",
            "xw"
        ]
    );
    for (path, expected) in [
        ("a", &["both", "low", "top"][..]),
        ("file-then-dir", &["x"]),
        ("opaque", &["new", "newest"]),
        ("user-opaque", &[]),
        ("removed-and-new", &["new"]),
        ("xw", &["b"]),
    ] {
        assert_eq!(names(&m, path), expected, "{path}");
    }
    for (path, expected) in [
        ("a/both", Some("1")),
        ("/a/low", Some("0")),
        ("a/../a/./top", Some("2")),
        ("gone/x", None),
        ("gone", None),
        ("file-then-dir", None),
        ("dir-then-file", Some("1")),
        ("dir-then-file/x", None),
        ("opaque/old", None),
        ("removed-and-new/old", None),
        ("xw/a", None),
        ("xw/b", Some("")),
    ] {
        // Once with an empty cache, once with what the others left in it.
        for tree in [&l.merged(), &m] {
            assert_eq!(content(tree, path).ok().as_deref(), expected, "{path}");
        }
    }
    assert_eq!(m.lookup(Path::new("gone"), true).unwrap(), None);
    assert!(m.read_dir(Path::new("dir-then-file")).is_err());
    assert!(m.xattrs(Path::new("opaque")).unwrap().is_empty());
}

#[test]
fn links_are_resolved_in_the_union() {
    let l = Layers::new(2);
    let canary = l.dir.path().join("canary");
    std::fs::write(&canary, "outside").unwrap();
    l.file(0, "usr/bin/sh", "sh");
    l.link(0, "bin", "usr/bin");
    l.link(0, "etc/up", "../../../../..");
    l.link(0, "leak", canary.to_str().unwrap());
    l.link(0, "leak2", "../canary");
    l.link(0, "loop", "loop");
    l.link(0, "was-link", "usr/bin");
    l.file(1, "usr/bin/top", "top");
    l.link(1, "abs", "/usr/bin/");
    l.link(1, "chain", "abs/../bin/top");
    l.link(1, "dots", "usr/bin/..");
    l.link(1, "to-root", "/");
    l.file(1, "was-link/x", "1");
    let m = l.merged();
    for (path, expected) in [
        ("bin/sh", Some("sh")),
        ("bin/top", Some("top")),
        ("abs/top", Some("top")),
        ("chain", Some("top")),
        ("etc/up/usr/bin/sh", Some("sh")),
        ("../../bin/sh", Some("sh")),
        ("dots/bin/sh", Some("sh")),
        ("to-root/bin/sh", Some("sh")),
        ("leak", None),
        ("leak2", None),
        ("loop", None),
        ("was-link/x", Some("1")),
        ("was-link/sh", None),
        ("usr", None),
    ] {
        for _ in 0..2 {
            assert_eq!(content(&m, path).ok().as_deref(), expected, "{path}");
        }
    }
    for (path, resolved) in [
        ("bin/sh", "usr/bin/sh"),
        ("/", ""),
        ("..", ""),
        ("dots", "usr"),
        ("to-root", ""),
        ("chain", "usr/bin/top"),
        ("no/such/../thing", "no/thing"),
        ("bin/new/x", "usr/bin/new/x"),
        ("usr/bin/sh/below", "usr/bin/sh/below"),
    ] {
        assert_eq!(
            m.resolve(Path::new(path)).unwrap(),
            Path::new(resolved),
            "{path}"
        );
    }
    assert!(m.resolve(Path::new("loop/x")).is_err());
    let link = m.lookup(Path::new("bin"), false).unwrap().unwrap();
    assert_eq!(
        link.kind,
        Kind::Symlink {
            target: "usr/bin".into()
        }
    );
    assert_eq!(
        m.lookup(Path::new("bin"), true).unwrap().unwrap().kind,
        Kind::Dir
    );
    assert_eq!(
        m.lookup(Path::new("dots"), true).unwrap().unwrap().kind,
        Kind::Dir
    );
}

#[test]
fn nothing_but_regular_files_is_opened() {
    let l = Layers::new(2);
    let fifo = l.paths[0].join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(l.paths[1].join("socket")).unwrap();
    l.file(0, "socket", "hidden by a socket");
    l.file(1, "file", "x");
    let file = l.paths[1].join("file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o6751)).unwrap();
    let m = l.merged();
    assert_eq!(names(&m, ""), ["fifo", "file"]);
    assert_eq!(m.lookup(Path::new("socket"), true).unwrap(), None);
    assert!(m.open(Path::new("fifo")).is_err() && m.open(Path::new("socket")).is_err());
    assert!(m.open(Path::new("")).is_err());
    let node = m.lookup(Path::new("file"), true).unwrap().unwrap();
    assert_eq!(
        (node.kind, node.meta.mode, node.links),
        (Kind::File { size: 1 }, 0o6751, 1)
    );
    let nothing = Merged::new(Vec::new()).unwrap();
    assert_eq!(names(&nothing, "/"), Vec::<String>::new());
    assert_eq!(
        nothing.lookup(Path::new(""), true).unwrap().unwrap().kind,
        Kind::Dir
    );
    assert_eq!(nothing.lookup(Path::new("x/y"), true).unwrap(), None);
}

#[test]
fn depth_takes_no_descriptors() {
    let l = Layers::new(1);
    let mut at = rustix::fs::open(&l.paths[0], OFlags::PATH, Mode::empty()).unwrap();
    let mut path = PathBuf::new();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, c"d", OFlags::PATH, Mode::empty()).unwrap();
        path.push("d");
    }
    let m = l.merged();
    assert_eq!(m.read_dir(&path).unwrap(), []);
    assert!(
        m.lookup(&path.join("..").join(".."), true)
            .unwrap()
            .is_some()
    );
    assert!(m.cache.lock().unwrap().fds <= MAX_CACHED_FDS);
    // The temporary directory's own removal can't go that deep.
    let gone = l.dir.path().join("0");
    let status = std::process::Command::new("rm")
        .arg("-rf")
        .arg(&gone)
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn the_parts_of_a_listing_are_the_listing() {
    let l = Layers::new(3);
    for n in 0..40 {
        l.file(n % 3, &format!("d/f{n}"), "x");
        l.file(n % 2, &format!("d/twice{}", n / 2), &"y".repeat(n));
    }
    l.link(1, "d/f0", "somewhere");
    l.file(2, "d/sub/f", "x");
    let socket = l.paths[2].join("d/f1");
    drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
    let mut gone = vec!["f1".to_owned()];
    if is_root() {
        for n in [3, 6, 9] {
            l.whiteout(1, &format!("d/f{n}"));
            gone.push(format!("f{n}"));
        }
        l.whiteout(2, "d/never-there");
        gone.push("never-there".to_owned());
    }
    let flags = rustix::fs::XattrFlags::empty();
    let marked = l.paths[2].join("d/f2");
    // Not every file system has such attributes.
    let has_xattrs = rustix::fs::lsetxattr(&marked, "user.note", b"n", flags).is_ok();
    let top = Merged::new(vec![l.paths[2].clone()]).unwrap();
    for (tree, all) in [(l.merged(), true), (top, false)] {
        let dir = Path::new("d");
        let mut expected = tree.read_dir(dir).unwrap();
        for (name, node) in &mut expected {
            assert_eq!(
                tree.lookup(&dir.join(&*name), false).unwrap().as_ref(),
                Some(&*node)
            );
            node.meta.xattrs = tree.xattrs(&dir.join(name)).unwrap();
        }
        assert!(expected.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(tree.list(dir).unwrap(), expected);
        let names = Tree::names(&tree, dir).unwrap().unwrap();
        let mut parts = Vec::new();
        for from in (0..names.len()).step_by(7) {
            let to = names.len().min(from + 7);
            parts.extend(tree.list_some(dir, &names, from..to).unwrap());
        }
        assert_eq!(parts, expected);
        let mut each = Vec::new();
        tree.each_name(dir, &mut |name| each.push(name.to_owned()))
            .unwrap();
        each.sort();
        assert!(each.iter().eq(expected.iter().map(|(name, _)| name)));
        for name in &gone {
            assert!(!each.iter().any(|n| n.to_str() == Some(name)), "{name}");
        }
        let f2 = expected.iter().find(|(name, _)| name == "f2").unwrap();
        assert_eq!(f2.1.meta.xattrs.len(), usize::from(has_xattrs));
        if all {
            // Of what is gone one was never there.
            let gone = gone.len() - usize::from(gone.len() > 1);
            assert_eq!(each.len(), 40 + 20 + 1 - gone);
        }
    }
}
