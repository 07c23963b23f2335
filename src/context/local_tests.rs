use super::*;
use std::io::Read;
use std::os::unix::fs::symlink;

fn make(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("canary"), "outside").unwrap();
    let root = dir.path().join("ctx");
    std::fs::create_dir(&root).unwrap();
    for file in files {
        if let Some((link, target)) = file.split_once(" -> ") {
            symlink(target, root.join(link)).unwrap();
        } else if let Some(name) = file.strip_suffix('/') {
            std::fs::create_dir_all(root.join(name)).unwrap();
        } else {
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), *file).unwrap();
        }
    }
    dir
}

fn tree(dir: &tempfile::TempDir, ignore: &str) -> LocalTree {
    let ignore = Ignore::parse(ignore.as_bytes()).unwrap();
    LocalTree::open(&dir.path().join("ctx"), Some(ignore)).unwrap()
}

fn all(tree: &LocalTree, dir: &Path, out: &mut Vec<String>) {
    for (name, node) in tree.read_dir(dir).unwrap() {
        let path = dir.join(name);
        out.push(path.to_str().unwrap().to_owned());
        if node.kind == Kind::Dir {
            all(tree, &path, out);
        }
    }
}

fn list(tree: &LocalTree) -> Vec<String> {
    let mut out = Vec::new();
    all(tree, Path::new(""), &mut out);
    out
}

fn content(tree: &LocalTree, path: &str) -> io::Result<String> {
    let mut text = String::new();
    tree.open(Path::new(path))?.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn each_name_is_one_that_is_listed() {
    let dir = make(&["d/a", "d/b", "d/drop", "d/sub/c", "to -> d"]);
    for ignore in ["", "**/drop\nd/sub"] {
        let tree = tree(&dir, ignore);
        for path in ["", "d", "to", "d/sub"].map(Path::new) {
            let mut names = Vec::new();
            let each = tree.each_name(path, &mut |name| names.push(name.to_owned()));
            let listed = tree.read_dir(path);
            assert_eq!(each.is_ok(), listed.is_ok(), "{path:?}");
            names.sort();
            let listed: Vec<_> = listed.into_iter().flatten().map(|(name, _)| name).collect();
            assert_eq!(names, listed, "{path:?}");
        }
    }
}

#[test]
fn ignored_is_absent() {
    let dir = make(&[
        "a/keep",
        "a/drop",
        "b/x",
        "c",
        "deep/er/x.go",
        "deep/other",
        "into -> b/x",
        "dir -> b",
        "seen -> c",
    ]);
    for (ignore, expected) in [
        (
            "",
            "a a/drop a/keep b b/x c deep deep/er deep/er/x.go deep/other dir into seen",
        ),
        ("*\n!a/keep", "a a/keep"),
        ("*\n!**/*.go", "deep deep/er deep/er/x.go"),
        ("*\n!nothing/x", ""),
        ("a\ndeep\n!a/zzz", "b b/x c dir into seen"),
        ("b\ninto\ndir\na\ndeep", "c seen"),
    ] {
        assert_eq!(list(&tree(&dir, ignore)).join(" "), expected, "{ignore:?}");
    }
    let tree = tree(&dir, "b\n!a/keep\na/drop\n");
    for gone in ["b", "b/x", "into", "dir/x", "a/drop", "a/../b/x", "/b"] {
        assert_eq!(tree.lookup(Path::new(gone), true).unwrap(), None, "{gone}");
        assert!(content(&tree, gone).is_err(), "{gone}");
    }
    assert!(tree.lookup(Path::new("into"), false).unwrap().is_some());
    assert_eq!(content(&tree, "a/keep").unwrap(), "a/keep");
    assert_eq!(content(&tree, "seen").unwrap(), "c");
    assert!(tree.is_left_out(Path::new("b/x")));
    assert!(!tree.is_left_out(Path::new("nope")) && !tree.is_left_out(Path::new("c")));
}

#[test]
fn hidden_names_stay_hidden() {
    let dir = make(&["a/b", "c"]);
    let tree = tree(&dir, "*\n!**").hide(["/a".into()]);
    assert_eq!(list(&tree), ["c"]);
    assert!(content(&tree, "a/b").is_err());
}

#[test]
fn excluded_directories_are_not_opened() {
    if !rustix::process::geteuid().is_root() {
        let dir = make(&["node_modules/x", "c"]);
        let closed = dir.path().join("ctx/node_modules");
        let mode = |m| std::os::unix::fs::PermissionsExt::from_mode(m);
        std::fs::set_permissions(&closed, mode(0)).unwrap();
        let seen = list(&tree(&dir, "node_modules\n!c/x"));
        std::fs::set_permissions(&closed, mode(0o755)).unwrap();
        assert_eq!(seen, ["c"]);
    }
    // A FIFO where a directory could be is not waited for.
    let dir = make(&["c"]);
    let fifo = dir.path().join("ctx/pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(list(&tree(&dir, "pipe\n!**/x")), ["c"]);
    let open = tree(&dir, "");
    let node = open.lookup(Path::new("pipe"), true).unwrap().unwrap();
    assert_eq!(node.kind, Kind::Fifo);
    assert!(content(&open, "pipe").is_err());
    assert!(content(&tree(&dir, "x"), "pipe").is_err());
}

#[test]
fn nothing_leads_out() {
    let dir = make(&[
        "in/file",
        "abs -> /canary",
        "up -> ../canary",
        "far -> ../../../../../../etc/passwd",
        "in/back -> ../../canary",
        "root -> /",
        "ok -> /in/file",
        "loop -> loop",
    ]);
    for ignore in ["", "unrelated"] {
        let tree = tree(&dir, ignore);
        for path in [
            "abs",
            "up",
            "far",
            "in/back",
            "root/canary",
            "../canary",
            "/canary",
            "loop",
        ] {
            assert!(content(&tree, path).is_err(), "{path}");
        }
        for path in [
            "ok",
            "root/ok",
            "in/file",
            "/in/../in/file",
            "../../in/file",
        ] {
            assert_eq!(content(&tree, path).unwrap(), "in/file", "{path}");
        }
        for (path, expected) in [
            ("root/in", "in"),
            ("ok", "in/file"),
            ("root/new/../other", "other"),
            ("abs", "canary"),
            ("", ""),
        ] {
            // A dangling link is kept as it is.
            let expected = if path == "abs" { "abs" } else { expected };
            assert_eq!(
                tree.resolve(Path::new(path)).unwrap(),
                Path::new(expected),
                "{path}"
            );
        }
    }
}

#[test]
fn a_socket_is_not_shown_and_owners_are_root() {
    let dir = make(&["c"]);
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("ctx/s")).unwrap();
    let tree = tree(&dir, "");
    assert_eq!(list(&tree), ["c"]);
    assert_eq!(tree.lookup(Path::new("s"), true).unwrap(), None);
    let node = tree.lookup(Path::new("c"), true).unwrap().unwrap();
    assert_eq!((node.meta.uid, node.meta.gid, node.links), (0, 0, 1));
}

/// Another process swaps a directory for a link to the outside, again and
/// again; the outside is never seen.
#[test]
fn racing_swap_never_leads_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = make(&["d/canary"]);
    let root = dir.path().join("ctx");
    symlink(dir.path(), root.join("l")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let ctx = rustix::fs::open(&root, OFlags::PATH, Mode::empty()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&ctx, "d", &ctx, "l", flags).unwrap();
            }
        });
        for ignore in ["", "unrelated"] {
            let tree = tree(&dir, ignore);
            for _ in 0..3_000 {
                if let Ok(text) = content(&tree, "d/canary") {
                    assert_eq!(text, "d/canary");
                }
                if let Ok(entries) = tree.read_dir(Path::new("d")) {
                    assert!(entries.iter().all(|(name, _)| name != "ctx"));
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
