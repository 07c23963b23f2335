use super::*;
use crate::context::Empty;
use crate::context::Tree;
use crate::context::checksum::Contents;
use crate::context::ignore::Ignore;
use crate::context::local::LocalTree;
use crate::context::select::select;
use crate::layer::{Change, Content, Mtime};
use crate::solve::op::copy::{CopyOptions, Single, plan};
use std::process::Command;

/// A context with archives that the system's tar made.
fn context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    std::fs::create_dir_all(inside.join("d")).unwrap();
    std::fs::write(inside.join("d/small"), "small").unwrap();
    std::fs::write(inside.join("large"), vec![b'x'; 200_000]).unwrap();
    std::fs::hard_link(inside.join("d/small"), inside.join("again")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", inside.join("link")).unwrap();
    let sparse = File::create(inside.join("sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    for (name, flag) in [
        ("a.tar", "-c"),
        ("b.txt", "-cz"),
        ("c", "-cJ"),
        ("d.bz2", "-cj"),
    ] {
        let done = Command::new("tar")
            .args([flag, "--sparse", "--owner=1:1", "--group=2:2", "-f"])
            .arg(dir.path().join(name))
            .args(["-C", inside.to_str().unwrap(), "."])
            .status();
        if !done.is_ok_and(|s| s.success()) {
            let _ = std::fs::remove_file(dir.path().join(name));
        }
    }
    std::fs::remove_dir_all(inside).unwrap();
    std::fs::write(dir.path().join("e.tar.gz"), "not an archive").unwrap();
    dir
}

fn options() -> CopyOptions {
    CopyOptions {
        chown: None,
        chmod: None,
        link: false,
        several: false,
        created: Mtime::default(),
    }
}

fn sources(dir: &Path, pattern: &str) -> Vec<Source> {
    let tree: Arc<dyn Tree> = Arc::new(LocalTree::open(dir, None).unwrap());
    let nothing = Ignore::default();
    let mut selection = select(&*tree, pattern, false, &nothing, &tempfile::tempfile).unwrap();
    let contents = Arc::new(Contents::of(tree, &mut selection, &tempfile::tempfile).unwrap());
    vec![Source::tree(contents, selection)]
}

fn unpack(sources: Vec<Source>, max_bytes: u64) -> Result<Vec<Source>, AddError> {
    unpack_archives(
        sources,
        &UnpackOptions {
            new_file: &tempfile::tempfile,
            max_bytes,
            max_entries: 100,
            cancel: &Cancel::new(),
        },
    )
}

fn show(sources: Vec<Source>, dest: &str) -> String {
    let (top, root) = (Path::new("/"), Arc::new(Empty));
    let changes = plan(sources, dest, top, root, &options(), &tempfile::tempfile).unwrap();
    let mut out = Vec::new();
    for change in changes {
        let Change::Put(entry, content) = change.unwrap() else {
            panic!("only additions")
        };
        let mut bytes = Vec::new();
        match content {
            Content::None => {}
            Content::Bytes(b) => bytes.extend_from_slice(&b),
            Content::Read(open) => {
                open().unwrap().read_to_end(&mut bytes).unwrap();
            }
            Content::Open(open) => {
                open().unwrap().read_to_end(&mut bytes).unwrap();
            }
        }
        let kind = match entry.kind {
            Kind::File { size } => {
                assert_eq!(size, bytes.len() as u64);
                format!(":{size}")
            }
            Kind::Dir => "/".into(),
            Kind::Hardlink { target } => format!("={}", target.display()),
            Kind::Symlink { target } => format!("->{}", target.display()),
            other => format!("{other:?}"),
        };
        out.push(format!("{}{kind}", entry.path.display()));
    }
    out.join(" ")
}

#[test]
fn archives_become_entries() {
    let dir = context();
    let expected =
        "n/ n/again:5 n/d/ n/d/small=n/again n/large:200000 n/link->/etc/passwd n/sparse:3000000";
    for name in ["a.tar", "b.txt", "c", "d.bz2"] {
        if !dir.path().join(name).exists() {
            continue;
        }
        let sources = unpack(sources(dir.path(), name), 1 << 30).unwrap();
        assert!(matches!(sources[..], [Source::Archive(_)]), "{name}");
        // Without a slash at its end too, the destination is a directory.
        assert_eq!(show(sources, "/n"), expected, "{name}");
    }
    let other = unpack(sources(dir.path(), "e.tar.gz"), 1 << 30).unwrap();
    assert_eq!(show(other, "/n"), "n:14");
    let all = unpack(sources(dir.path(), "[ae]*"), 1 << 30).unwrap();
    assert_eq!(
        show(all, "/n/"),
        expected.replacen("n/large", "n/e.tar.gz:14 n/large", 1)
    );
}

#[test]
fn matches_are_parted_by_archives() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["0", "2", "4", "6"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    for (name, inside) in [("1", "2"), ("3", "0"), ("5", "x")] {
        std::fs::write(dir.path().join(inside), "new").unwrap();
        let tar = ["-cf", name, inside];
        let done = Command::new("tar")
            .current_dir(dir.path())
            .args(tar)
            .status();
        assert!(done.unwrap().success());
        std::fs::write(dir.path().join(inside), inside).unwrap();
    }
    std::fs::remove_file(dir.path().join("x")).unwrap();
    let sources = unpack(sources(dir.path(), "*"), 1 << 30).unwrap();
    let kinds: String = (sources.iter())
        .map(|s| {
            if matches!(s, Source::Archive(_)) {
                'a'
            } else {
                'f'
            }
        })
        .collect();
    assert_eq!(kinds, "fafafaf");
    // Later ones go on top: 2 is the file, 0 the archive's.
    assert_eq!(show(sources, "/n/"), "n/ n/0:3 n/2:1 n/4:1 n/6:1 n/x:3");
}

#[test]
fn archives_beside_directories() {
    for (files, expected) in [
        (&["1.tar", "2/f"][..], "n/ n/f:1 n/x:3"),
        (&["1/", "2.tar"], "n/ n/x:3"),
        (&["1/", "2", "3.tar"], "n/ n/2:1 n/x:3"),
        (&["1.tar", "2", "3/f", "4/"], "n/ n/2:1 n/f:1 n/x:3"),
        // The later one goes on top.
        (&["1/x", "2.tar", "3/f"], "n/ n/f:1 n/x:3"),
        (&["1/f", "2.tar", "3/x"], "n/ n/f:1 n/x:1"),
        (&["1/", "2/"], "n/"),
        (&["1/a", "1/b = 1/a", "2.tar"], "n/ n/a:1 n/b=n/a n/x:3"),
        (&["1.tar", "2/a", "2/b = 2/a"], "n/ n/a:1 n/b=n/a n/x:3"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let (name, other) = file.split_once(" = ").unwrap_or((file, ""));
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if name.ends_with(".tar") {
                let mut tar = tar::Builder::new(Vec::new());
                let mut header = tar::Header::new_ustar();
                header.set_size(3);
                header.set_mode(0o644);
                tar.append_data(&mut header, "x", &b"new"[..]).unwrap();
                std::fs::write(path, tar.into_inner().unwrap()).unwrap();
            } else if name.ends_with('/') {
                std::fs::create_dir(path).unwrap();
            } else if other.is_empty() {
                std::fs::write(path, "1").unwrap();
            } else {
                std::fs::hard_link(dir.path().join(other), path).unwrap();
            }
        }
        let sources = unpack(sources(dir.path(), "*"), 1 << 30).unwrap();
        assert_eq!(show(sources, "/n"), expected, "{files:?}");
    }
}

#[test]
fn downloads_can_be_unpacked() {
    let dir = context();
    let bytes = std::fs::read(dir.path().join("a.tar")).unwrap();
    let single = Source::File(Single {
        name: "x".into(),
        size: bytes.len() as u64,
        body: Body::Bytes(bytes.into()),
        mode: 0o600,
        mtime: Mtime::default(),
    });
    let out = unpack(vec![single], 1 << 30).unwrap();
    assert!(matches!(out[..], [Source::Archive(_)]));
}

#[test]
fn limits_and_damage() {
    let dir = context();
    let error = unpack(sources(dir.path(), "a.tar"), 1_000).unwrap_err();
    assert!(matches!(error, AddError::TooLarge { .. }), "{error}");
    let mut bytes = std::fs::read(dir.path().join("a.tar")).unwrap();
    bytes.truncate(100_000);
    std::fs::write(dir.path().join("a.tar"), bytes).unwrap();
    let error = unpack(sources(dir.path(), "a.tar"), 1 << 30).unwrap_err();
    assert!(matches!(error, AddError::Archive { .. }), "{error}");
}
