// Skipped tests say so.
#![allow(clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::digest::Digest;
use crate::layer::index::Spool;
use crate::layer::tar_write::TarWriter;
use crate::snapshot::Merged;
use crate::snapshot::copy::Table;
use crate::snapshot::overlay::changes;

/// Everything about a tree that a layer can say, by path.
type Model = BTreeMap<PathBuf, (Kind, Meta, Vec<u8>)>;

/// A plain recursive reading of a directory, sharing no code with the walkers
/// but the names of the types.
fn model(root: &Path) -> Model {
    let mut found = Model::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            let meta = entry.path().symlink_metadata().unwrap();
            let mut content = Vec::new();
            let mode = meta.mode() & 0o170_000;
            let (major, minor) = (
                rustix::fs::major(meta.rdev()),
                rustix::fs::minor(meta.rdev()),
            );
            let kind = match mode {
                0o040_000 => {
                    todo.push(path.clone());
                    Kind::Dir
                }
                0o100_000 => {
                    content = std::fs::read(entry.path()).unwrap();
                    Kind::File {
                        size: content.len() as u64,
                    }
                }
                0o120_000 => Kind::Symlink {
                    target: std::fs::read_link(entry.path()).unwrap(),
                },
                0o010_000 => Kind::Fifo,
                0o020_000 => Kind::Char { major, minor },
                0o060_000 => Kind::Block { major, minor },
                _ => continue,
            };
            let meta = Meta {
                mode: meta.mode() & 0o7777,
                uid: meta.uid(),
                gid: meta.gid(),
                mtime: crate::layer::Mtime {
                    secs: meta.mtime(),
                    nanos: u32::try_from(meta.mtime_nsec()).unwrap(),
                },
                xattrs: user_xattrs(&entry.path()),
            };
            found.insert(path, (kind, meta, content));
        }
    }
    found
}

/// Attributes that users may set.
fn user_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|b| *b == 0);
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(len);
        value
    };
    let own = names.filter(|name| name.starts_with(b"user."));
    own.map(|name| (name.to_vec(), value(name))).collect()
}

fn bytes(content: Content) -> Vec<u8> {
    match content {
        Content::None => Vec::new(),
        Content::Bytes(b) => b.to_vec(),
        Content::Read(_) => panic!("a walk finds files only"),
        Content::Open(open) => {
            let mut bytes = Vec::new();
            open().unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        }
    }
}

/// What a change is, contents read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Put(Entry, Vec<u8>),
    Whiteout(PathBuf),
    Opaque(PathBuf),
}

fn read(changes: impl IntoIterator<Item = io::Result<Change>>) -> Vec<Seen> {
    changes
        .into_iter()
        .map(|change| match change.unwrap() {
            Change::Put(entry, content) => Seen::Put(entry, bytes(content)),
            Change::Whiteout(path) => Seen::Whiteout(path),
            Change::Opaque(path) => Seen::Opaque(path),
        })
        .collect()
}

/// Applies changes as the layer document says.
fn apply(tree: &mut Model, changes: &[Seen]) {
    let remove_below = |tree: &mut Model, path: &Path| {
        tree.retain(|p, _| p == path || !p.starts_with(path));
    };
    for change in changes {
        match change {
            Seen::Whiteout(path) => {
                remove_below(tree, path);
                tree.remove(path)
                    .expect("a whiteout for something that is there");
            }
            Seen::Opaque(path) => remove_below(tree, path),
            Seen::Put(entry, content) => {
                if entry.path.as_os_str().is_empty() {
                    continue;
                }
                let parent = entry.path.parent().unwrap();
                assert!(parent.as_os_str().is_empty() || tree[parent].0 == Kind::Dir);
                let mut value = (entry.kind.clone(), entry.meta.clone(), content.clone());
                if let Kind::Hardlink { target } = &entry.kind {
                    value.0 = tree[target].0.clone();
                    value.2 = tree[target].2.clone();
                    assert_eq!(value.1, tree[target].1);
                }
                if entry.kind != Kind::Dir {
                    remove_below(tree, &entry.path);
                }
                tree.insert(entry.path.clone(), value);
            }
        }
    }
}

/// Parents come before their entries, and the order is that of the names.
fn check_order(changes: &[Seen]) {
    let mut seen = BTreeSet::new();
    let mut last: Option<&Path> = None;
    for change in changes {
        let (path, put) = match change {
            Seen::Put(entry, _) => (entry.path.as_path(), true),
            Seen::Whiteout(path) => (path.as_path(), false),
            Seen::Opaque(path) => {
                assert_eq!(last, Some(path.as_path()));
                continue;
            }
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        assert!(
            parent.as_os_str().is_empty() || seen.contains(parent),
            "{path:?}"
        );
        assert!(last.is_none_or(|l| l < path), "{last:?} {path:?}");
        if put {
            seen.insert(path.to_owned());
        }
        last = Some(path);
    }
}

/// A change that a program makes: which, where, where else, how.
type Work = (usize, String, String, u32);

/// Paths that meet each other often, with names that are easily got wrong.
fn path() -> impl Strategy<Value = String> {
    const NAMES: [&str; 10] = [
        "a",
        "b",
        "c",
        "dd",
        "e f",
        "ü",
        "a.b",
        "-n",
        "line\nbreak",
        "back\\slash",
    ];
    let name = prop::sample::select(&NAMES[..]);
    let usual = prop::collection::vec(name.clone(), 1..4);
    let deep = prop::collection::vec(name, 8..14);
    prop_oneof![9 => usual, 1 => deep].prop_map(|names| format!("./{}", names.join("/")))
}

fn works(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Work>> {
    prop::collection::vec((0..19_usize, path(), path(), any::<u32>()), count)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Family {
    Links,
    Renames,
    Base,
}

/// Shell commands that do `works` in the current directory.
fn script(works: &[Work], family: Family) -> String {
    let mut text = String::from("umask 022\n");
    for (serial, (what, p, q, n)) in works.iter().enumerate() {
        let line = match what {
            0..=2 => format!(
                "mkdir -p \"$(dirname '{p}')\"; {{ [ ! -e '{p}' ] || [ -f '{p}' ]; }} && echo {serial} > '{p}'"
            ),
            3 => format!("mkdir -p '{p}'"),
            4 => format!("rm -rf '{p}'"),
            5 => format!("rm -rf '{p}'; mkdir '{p}' && echo {serial} > '{p}/new'"),
            6 => format!("rm -rf '{p}'; mkdir '{p}'"),
            7 => format!(
                "chmod {} '{p}'",
                ["755", "700", "4711", "1777"][*n as usize % 4]
            ),
            8 => format!("chown -h {}:7 '{p}'", n % 3),
            9 => format!("ln -sfn '{q}' '{p}'"),
            10 => format!("rm -rf '{p}'; mkfifo '{p}'"),
            11 => format!("rm -rf '{p}'; mknod '{p}' b 240 {}", n % 3),
            12 => format!("[ -f '{p}' ] && echo more >> '{p}'"),
            13 => format!("[ -f '{p}' ] && truncate -s {} '{p}'", n % 9000),
            14 => format!("[ -f '{p}' ] && cp -a '{p}' '{p}~' && mv '{p}~' '{p}'"),
            15 => format!(
                "[ -L '{p}' ] || python3 -c 'import os, sys; os.setxattr(sys.argv[1], \"user.k{}\", b\"{serial}\")' '{p}'",
                n % 2
            ),
            16 => format!(
                "[ -f '{p}' ] && echo end | dd of='{p}' bs=1 seek={}",
                n % 200_000
            ),
            17 => format!("[ -d '{p}' ] && rm -rf '{p}'/*"),
            _ => match family {
                Family::Links => format!("[ -f '{p}' ] && ln -f '{p}' '{q}'"),
                Family::Renames => format!("mv -T '{p}' '{q}'"),
                Family::Base => continue,
            },
        };
        text.push_str(&line);
        text.push('\n');
    }
    // Times of the two runs can't be the same by themselves.
    text.push_str("find . -mindepth 1 -newermt @1500000000 -exec touch -h -d @1600000000.5 {} +\n");
    text
}

fn sh(script: &str, dir: &Path) -> bool {
    let status = Command::new("sh")
        .args(["-c", script])
        .current_dir(dir)
        .stderr(std::process::Stdio::null())
        .status();
    status.is_ok_and(|s| s.success())
}

/// Runs `script` on an overlay in a mount namespace of its own.
fn in_overlay(dir: &Path, lower: &[&str], upper: &str, script: &str) -> bool {
    for name in [upper, "work", "merged"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    let lower = lower.join(":");
    let options = format!(
        "lowerdir={lower},upperdir={upper},workdir=work,redirect_dir=off,metacopy=off,index=off"
    );
    std::fs::write(dir.join("script"), script).unwrap();
    let run =
        format!("mount -t overlay overlay -o {options} merged && cd merged && sh ../script; true");
    let probe = format!("mount -t overlay overlay -o {options} merged");
    let unshare = |what: &str| {
        Command::new("unshare")
            .args(["-m", "sh", "-c", what])
            .current_dir(dir)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    unshare(&probe) && unshare(&run)
}

fn can_mount(dir: &Path) -> bool {
    let works = rustix::process::geteuid().is_root() && {
        for name in ["p-lower", "p-upper", "work", "merged"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        in_overlay(dir, &["p-lower"], "p-upper", "true")
    };
    if !works {
        eprintln!("skipped: needs root and overlay mounts");
    }
    works
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_sides_find_what_a_plain_comparison_finds(
        one in works(40..70),
        two in works(20..40),
        work in works(20..50),
        family in prop::sample::select(&[Family::Links, Family::Renames][..]),
    ) {
        let tmp = tempfile::tempdir().unwrap();
        if can_mount(tmp.path()) {
            compare_all(tmp.path(), &one, &two, &script(&work, family));
        }
    }
}

/// Makes a tree of two layers, does `work` on it on an overlay and in a plain
/// directory, and compares what is found with the trees themselves, and with
/// what another program makes of the layer.
fn compare_all(dir: &Path, one: &[Work], two: &[Work], work: &str) {
    let old = "find . -exec touch -h -d @1000000000 {} +";
    std::fs::create_dir(dir.join("one")).unwrap();
    sh(&script(one, Family::Base), &dir.join("one"));
    sh(old, &dir.join("one"));
    let second = format!("{}\n{old}", script(two, Family::Base));
    assert!(in_overlay(dir, &["one"], "two", &second));
    let copy = "cp -a . ../plain && cp -a . ../before";
    assert!(in_overlay(dir, &["two", "one"], "none", copy));
    let lower = || Arc::new(Merged::new(vec![dir.join("one"), dir.join("two")]).unwrap());
    let plain = dir.join("plain");
    let before = model(&plain);
    let table = Table::read(&plain, Spool::memory()).unwrap();
    let mut nothing = table
        .changes(&plain, lower(), None, Spool::memory())
        .unwrap();
    assert_eq!(read(&mut nothing), []);
    let table = nothing.finish().unwrap();

    assert!(in_overlay(dir, &["two", "one"], "three", work));
    sh(work, &plain);

    let a = read(changes(&dir.join("three"), lower()).unwrap());
    let b = read(
        table
            .changes(&plain, lower(), None, Spool::memory())
            .unwrap(),
    );
    check_order(&a);
    let mut applied = before;
    apply(&mut applied, &a);
    let now = model(&plain);
    for (path, value) in &now {
        assert_eq!(applied.get(path), Some(value), "{path:?}");
    }
    assert_eq!(applied.len(), now.len());
    for (x, y) in a.iter().zip(&b) {
        assert_eq!(x, y);
    }
    assert_eq!(a.len(), b.len());
    umoci_agrees(dir, lower(), now);
}

/// Lets umoci unpack the layers that `before` and the difference to it make.
fn umoci_agrees(dir: &Path, lower: Arc<Merged>, mut now: Model) {
    if Command::new("umoci").arg("--version").output().is_err() {
        eprintln!("not compared with umoci, which is not installed");
        return;
    }
    let layout = dir.join("layout");
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.encoded()), bytes).unwrap();
        (digest, bytes.len())
    };
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    let empty: Arc<dyn Tree> = Arc::new(crate::context::Empty);
    for (tree, below) in [("before", empty), ("three", lower as Arc<dyn Tree>)] {
        let mut tar = TarWriter::new(Vec::new(), None);
        for change in changes(&dir.join(tree), below).unwrap() {
            tar.change(change.unwrap()).unwrap();
        }
        let (digest, size) = put(&tar.finish().unwrap());
        let kind = "application/vnd.oci.image.layer.v1.tar";
        layers.push(json!({"mediaType": kind, "digest": digest.as_str(), "size": size}));
        diff_ids.push(digest.as_str().to_owned());
    }
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let (config, size) = put(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.as_str(), "size": size,
        },
        "layers": layers,
    });
    let (manifest, size) = put(manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": manifest.as_str(), "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "x"},
    }]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let version = r#"{"imageLayoutVersion": "1.0.0"}"#;
    std::fs::write(layout.join("oci-layout"), version).unwrap();
    let unpacked = Command::new("umoci")
        .args(["unpack", "--image", "layout:x", "bundle"])
        .current_dir(dir)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&unpacked.stderr);
    assert!(unpacked.status.success(), "{errors}");
    let mut theirs = model(&dir.join("bundle/rootfs"));
    for (kind, meta, _) in now.values_mut().chain(theirs.values_mut()) {
        meta.mtime.nanos = 0;
        // It sets the times of directories before it fills them.
        if *kind == Kind::Dir {
            meta.mtime.secs = 0;
        }
        // And it keeps its own account of owners there.
        meta.xattrs.remove(&b"user.rootlesscontainers"[..]);
    }
    for (path, value) in &now {
        assert_eq!(theirs.get(path), Some(value), "{path:?}");
    }
    assert_eq!(theirs.len(), now.len());
}

/// An upper directory made by hand, over a lower one.
struct Two {
    dir: tempfile::TempDir,
}

impl Two {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lower")).unwrap();
        std::fs::create_dir(dir.path().join("upper")).unwrap();
        Self { dir }
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(&self, path: &str, content: &str) {
        std::fs::write(self.path(path), content).unwrap();
    }

    fn whiteout(&self, path: &str) {
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, self.path(path), kind, Mode::empty(), 0).unwrap();
    }

    fn attribute(&self, path: &str, name: &str, value: &str) {
        let path = self.path(path);
        if !path.exists() {
            std::fs::create_dir(&path).unwrap();
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(path, name, value.as_bytes(), flags).unwrap();
    }

    fn diff(&self) -> io::Result<Vec<Change>> {
        let lower = Merged::new(vec![self.path("lower")])?;
        changes(&self.path("upper"), Arc::new(lower))?.collect()
    }

    fn summary(&self) -> Vec<String> {
        let text = |change: &Change| match change {
            Change::Put(e, _) => match &e.kind {
                Kind::Dir => format!("{}/", e.path.display()),
                Kind::Hardlink { target } => format!("{} = {}", e.path.display(), target.display()),
                _ => e.path.display().to_string(),
            },
            Change::Whiteout(p) => format!("-{}", p.display()),
            Change::Opaque(p) => format!("!{}", p.display()),
        };
        self.diff().unwrap().iter().map(text).collect()
    }
}

#[test]
fn markers_are_translated() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root for device nodes and trusted attributes");
        return;
    }
    let t = Two::new();
    for path in [
        "d/1", "d/2", "one/1", "one/2", "some/1", "some/2", "sock", "swap/x", "e/sub/f",
    ] {
        t.file(&format!("lower/{path}"), path);
    }
    t.whiteout("upper/never-was");
    t.whiteout("upper/one/1");
    t.attribute("upper/d", "trusted.overlay.opaque", "y");
    t.file("upper/d/new", "");
    t.attribute("upper/e", "user.overlay.opaque", "y");
    t.file("upper/e/sub/g", "");
    t.attribute("upper/fresh", "trusted.overlay.opaque", "y");
    t.attribute("upper/some", "trusted.overlay.opaque", "x");
    t.file("upper/some/1", "");
    t.attribute("upper/some/1", "trusted.overlay.whiteout", "");
    t.file("upper/some/2", "real");
    t.attribute("upper/some/2", "user.keep", "me");
    let _socket = std::os::unix::net::UnixListener::bind(t.path("upper/sock")).unwrap();
    t.file("upper/swap", "now a file");
    assert_eq!(
        t.summary(),
        [
            "d/", "!d", "d/new", "e/", "e/sub/", "-e/sub/f", "e/sub/g", "fresh/", "one/", "-one/1",
            "-sock", "some/", "-some/1", "some/2", "swap"
        ]
    );
    for change in t.diff().unwrap() {
        if let Change::Put(entry, _) = change {
            let names: Vec<_> = entry.meta.xattrs.into_keys().collect();
            let kept = entry.path == Path::new("some/2");
            assert_eq!(
                names,
                if kept {
                    vec![b"user.keep".to_vec()]
                } else {
                    vec![]
                }
            );
        }
    }
    t.attribute("upper/swap", "trusted.overlay.metacopy", "");
    assert!(t.diff().unwrap_err().to_string().contains("metacopy"));
}

#[test]
fn links_and_unchanged_entries() {
    let t = Two::new();
    t.file("lower/same/f", "same");
    t.file("lower/linked", "l");
    symlink("x", t.path("lower/s")).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(t.path("lower").join("."))
        .arg(t.path("upper"))
        .status();
    assert!(copied.unwrap().success());
    assert_eq!(t.summary(), Vec::<String>::new());
    // A new name brings the old one along.
    std::fs::hard_link(t.path("upper/linked"), t.path("upper/a-name")).unwrap();
    assert_eq!(t.summary(), ["a-name", "linked = a-name"]);
    // Same status, other content.
    let time = t
        .path("lower/same/f")
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    t.file("upper/same/f", "else");
    File::open(t.path("upper/same/f"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    assert_eq!(
        t.summary(),
        ["a-name", "linked = a-name", "same/", "same/f"]
    );
    std::fs::remove_file(t.path("upper/s")).unwrap();
    symlink("y", t.path("upper/s")).unwrap();
    assert!(t.summary().contains(&"s".to_owned()));
    // The root counts by mode and owner only.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(t.path("upper"), std::fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(t.summary()[0], "/");
}

#[test]
fn content_that_changes_meanwhile_is_an_error() {
    let t = Two::new();
    t.file("upper/grows", "1");
    t.file("upper/replaced", "1");
    t.file("upper/gone", "1");
    t.file("upper/dir/f", "1");
    let changes = t.diff().unwrap();
    t.file("upper/grows", "12");
    t.file("upper/new", "1");
    std::fs::rename(t.path("upper/new"), t.path("upper/replaced")).unwrap();
    std::fs::remove_file(t.path("upper/gone")).unwrap();
    std::fs::rename(t.path("upper/dir"), t.path("upper/moved")).unwrap();
    symlink("moved", t.path("upper/dir")).unwrap();
    let mut failed = 0;
    for change in changes {
        if let Change::Put(_, Content::Open(open)) = change {
            open().unwrap_err();
            failed += 1;
        }
    }
    assert_eq!(failed, 4);
}

#[test]
fn deep_and_wide_trees() {
    let t = Two::new();
    for i in 0..3000 {
        t.file(&format!("upper/wide/{}/{i}", i % 50), "x");
    }
    let mut at = rustix::fs::open(t.path("upper"), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..1000 {
        rustix::fs::mkdirat(&at, c"deep", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, c"deep", OFlags::PATH, Mode::empty()).unwrap();
    }
    assert_eq!(t.diff().unwrap().len(), 3000 + 51 + 1000);
    let lower = Merged::new(vec![t.path("lower")]).unwrap();
    let table = Table::read(&t.path("lower"), Spool::memory()).unwrap();
    let mut found = table
        .changes(&t.path("upper"), Arc::new(lower), None, Spool::memory())
        .unwrap();
    let count = found.by_ref().map(Result::unwrap).count();
    assert_eq!((count, found.finish().unwrap().len()), (4051, 4051));
    // The temporary directory's own removal can't go that deep.
    let status = Command::new("rm").arg("-rf").arg(t.path("upper")).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_large_directory_is_compared_piece_by_piece() {
    let t = Two::new();
    let name = |n: usize| format!("{n:05}");
    let count = 2500;
    for n in 0..count {
        let path = t.path(&format!("upper/{}", name(n)));
        match n % 5 {
            0 => std::fs::create_dir(path).unwrap(),
            _ => std::fs::write(path, "").unwrap(),
        }
    }
    let lower = || Arc::new(Merged::new(vec![t.path("lower")]).unwrap());
    let root = t.path("upper");
    // What is young when a table is made is looked at again.
    let wait = || std::thread::sleep(std::time::Duration::from_millis(50));
    wait();
    let mut table = Table::read(&root, Spool::memory()).unwrap();
    for round in 0..3 {
        let file = |n: usize| root.join(name(n));
        // In the first block, in the last, and in between.
        let (changed, gone, inner) = (round + 1, count - 1 - round, 1000 + 5 * round);
        std::fs::write(file(changed), "y").unwrap();
        std::fs::remove_file(file(gone)).unwrap();
        std::fs::write(file(inner).join("new"), "").unwrap();
        wait();
        let mut found = table
            .changes(&root, lower(), None, Spool::memory())
            .unwrap();
        let of = |change: io::Result<Change>| match change.unwrap() {
            Change::Put(entry, _) => entry.path.display().to_string(),
            Change::Whiteout(path) => format!("-{}", path.display()),
            Change::Opaque(path) => format!("!{}", path.display()),
        };
        let paths: Vec<String> = found.by_ref().map(of).collect();
        let expected = [
            name(changed),
            name(inner),
            format!("{}/new", name(inner)),
            format!("-{}", name(gone)),
        ];
        assert_eq!(paths, expected);
        table = found.finish().unwrap();
        assert_eq!(table.len(), count);
    }
}
