// Skipped tests say so.
#![allow(clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use super::*;
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
                xattrs: BTreeMap::new(),
            };
            found.insert(path, (kind, meta, content));
        }
    }
    found
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
                value.1.xattrs.clear();
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

/// A random number for each call.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides).unwrap()
    }

    fn path(&mut self) -> String {
        const NAMES: [&str; 7] = ["a", "b", "c", "dd", "e f", "ü", "a.b"];
        let depth = 1 + self.roll(3);
        let parts: Vec<_> = (0..depth).map(|_| NAMES[self.roll(7)]).collect();
        parts.join("/")
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Links,
    Renames,
    Base,
}

/// Shell commands that change the current directory at random.
fn script(dice: &mut Dice, count: usize, family: Family) -> String {
    let mut text = String::from("umask 022\n");
    for serial in 0..count {
        let (p, q) = (dice.path(), dice.path());
        let line = match dice.roll(16) {
            0..=2 => format!(
                "mkdir -p \"$(dirname '{p}')\"; {{ [ ! -e '{p}' ] || [ -f '{p}' ]; }} && echo {serial} > '{p}'"
            ),
            3 => format!("mkdir -p '{p}'"),
            4 => format!("rm -rf '{p}'"),
            5 => format!("rm -rf '{p}'; mkdir '{p}' && echo {serial} > '{p}/new'"),
            6 => format!("rm -rf '{p}'; mkdir '{p}'"),
            7 => format!(
                "chmod {} '{p}'",
                ["755", "700", "4711", "1777"][dice.roll(4)]
            ),
            8 => format!("chown -h {}:7 '{p}'", dice.roll(3)),
            9 => format!("ln -sfn '{q}' '{p}'"),
            10 => format!("rm -rf '{p}'; mkfifo '{p}'"),
            11 => format!("rm -rf '{p}'; mknod '{p}' b 240 {}", dice.roll(3)),
            12 => format!("[ -f '{p}' ] && echo more >> '{p}'"),
            13 => format!("[ -f '{p}' ] && truncate -s {} '{p}'", dice.roll(9000)),
            14 => format!("[ -f '{p}' ] && cp -a '{p}' '{p}~' && mv '{p}~' '{p}'"),
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

#[test]
fn both_walkers_find_what_a_plain_comparison_finds() {
    let probe = tempfile::tempdir().unwrap();
    if !can_mount(probe.path()) {
        return;
    }
    for seed in 1..=8_u64 {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        let dice = &mut Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let family = if seed % 2 == 0 {
            Family::Links
        } else {
            Family::Renames
        };
        let old = "find . -exec touch -h -d @1000000000 {} +";

        std::fs::create_dir(dir.join("one")).unwrap();
        let base = script(dice, 60, Family::Base);
        sh(&base, &dir.join("one"));
        sh(old, &dir.join("one"));
        let second = script(dice, 30, Family::Base);
        assert!(in_overlay(
            dir,
            &["one"],
            "two",
            &format!("{second}\n{old}")
        ));
        let copy = "cp -a . ../plain && cp -a . ../before";
        assert!(in_overlay(dir, &["two", "one"], "none", copy));
        let lower = || Arc::new(Merged::new(vec![dir.join("one"), dir.join("two")]).unwrap());
        let plain = dir.join("plain");
        let before = model(&plain);
        let table = Table::read(&plain).unwrap();
        let mut nothing = table.changes(&plain, lower(), None).unwrap();
        assert_eq!(read(&mut nothing), [], "seed {seed}");
        let table = nothing.finish().unwrap();

        let work = script(dice, 40, family);
        assert!(in_overlay(dir, &["two", "one"], "three", &work));
        sh(&work, &plain);

        let a = read(changes(&dir.join("three"), lower()).unwrap());
        let b = read(table.changes(&plain, lower(), None).unwrap());
        assert!(a.len() > 5, "seed {seed}: the script did something");
        check_order(&a);
        let mut applied = before;
        apply(&mut applied, &a);
        let now = model(&plain);
        for (path, value) in &now {
            assert_eq!(applied.get(path), Some(value), "seed {seed} {path:?}");
        }
        assert_eq!(applied.len(), now.len(), "seed {seed}");
        for (x, y) in a.iter().zip(&b) {
            assert_eq!(x, y, "seed {seed}");
        }
        assert_eq!(a.len(), b.len(), "seed {seed}");
    }
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
    let table = Table::read(&t.path("lower")).unwrap();
    let mut found = table
        .changes(&t.path("upper"), Arc::new(lower), None)
        .unwrap();
    let count = found.by_ref().map(Result::unwrap).count();
    assert_eq!((count, found.finish().unwrap().len()), (4051, 4051));
    // The temporary directory's own removal can't go that deep.
    let status = Command::new("rm").arg("-rf").arg(t.path("upper")).status();
    assert!(status.unwrap().success());
}
