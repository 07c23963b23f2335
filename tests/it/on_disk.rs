//! What COPY and ADD make, as directories: there when a later step needs them,
//! and the same as their layers unpacked.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::sandbox::{Ran, Sandbox, eventually};
use crate::ways::{self, Way};

/// Everything about one entry of a directory.
type Facts = (u32, u32, u32, (i64, i64), u64, u64, String, Vec<u8>);

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names) else {
        return String::new();
    };
    let mut all = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = std::str::from_utf8(name).unwrap();
        let mut value = vec![0; 4096];
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        all.push(format!("{name}={:?}", &value[..len]));
    }
    all.sort();
    all.join(",")
}

/// What is in `dir`, by names.
fn entries(dir: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut all = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(name) = todo.pop() {
        let path = dir.join(&name);
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let content = match meta.file_type() {
            kind if kind.is_dir() => {
                let below = std::fs::read_dir(&path).unwrap();
                let mut names: Vec<_> = below.map(|e| name.join(e.unwrap().file_name())).collect();
                names.sort();
                todo.extend(names);
                Vec::new()
            }
            kind if kind.is_symlink() => {
                let target = std::fs::read_link(&path).unwrap();
                target.as_os_str().as_bytes().to_vec()
            }
            kind if kind.is_file() => match inodes.get(&meta.ino()) {
                Some(first) => format!("also {}", first.display()).into_bytes(),
                None => {
                    inodes.insert(meta.ino(), name.clone());
                    std::fs::read(&path).unwrap()
                }
            },
            _ => Vec::new(),
        };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let facts = (
            meta.mode(),
            meta.uid(),
            meta.gid(),
            (meta.mtime(), meta.mtime_nsec()),
            size,
            meta.rdev(),
            attributes(&path),
            content,
        );
        all.insert(name, facts);
    }
    all
}

/// The unpacked layers of a store, by the names of their links.
fn unpacked(store: &Path) -> BTreeMap<String, PathBuf> {
    let links = store.join("layers/by-diff-id");
    let link = |e: std::io::Result<std::fs::DirEntry>| {
        let e = e.unwrap();
        let dir = std::fs::canonicalize(e.path()).unwrap();
        (e.file_name().into_string().unwrap(), dir)
    };
    std::fs::read_dir(links).unwrap().map(link).collect()
}

/// Directories of layers that nothing leads to.
fn strays(store: &Path) -> usize {
    let all = std::fs::read_dir(store.join("layers")).unwrap().count();
    let kept: std::collections::BTreeSet<PathBuf> = unpacked(store).into_values().collect();
    all - 1 - kept.len()
}

/// How many layers were unpacked from their blobs.
fn count(ran: &Ran) -> usize {
    let begun = |l: &&str| l.contains("unpack layer") && !l.contains(" DONE");
    ran.stderr.lines().filter(begun).count()
}

const COPIES: &str = r#"FROM base AS other
RUN mkdir -p /o/d && echo 1 > /o/d/1 && ln /o/d/1 /o/2 && ln -s d /o/l && chmod 4755 /o/2
FROM base AS target
RUN mkdir -p /srv/data /kept && chmod 2750 /kept && echo old > /kept/file && \
    ln -s /srv/data /data && ln -s ../srv /kept/up && touch -d @1000000000 /kept
FROM target
COPY d /kept
COPY d/one d/sub data/
COPY --chown=ana:staff --chmod=640 d /by/ana
COPY --link d /linked/
COPY --link --chown=7:8 d /kept/
COPY --from=other /o /o
COPY --parents d/./sub/two d/link /parents/
ADD --chown=ana all.tar /kept/up/add/
ADD all.tar /
COPY <<one <<two /here/
1
one
2
two
WORKDIR /w/deep
COPY large empty ./
"#;

/// The context that `COPIES` reads.
fn context(s: &Sandbox) {
    let files = [("d/one", "1"), ("d/sub/two", "2"), ("d/sub/deep/x", "x")];
    s.context("straight", &files);
    let at = |name: &str| s.path("straight").join(name);
    symlink("one", at("d/link")).unwrap();
    symlink("/nowhere", at("d/sub/lost")).unwrap();
    std::fs::hard_link(at("d/one"), at("d/sub/same")).unwrap();
    std::fs::create_dir(at("d/hollow")).unwrap();
    std::fs::set_permissions(at("d/sub"), std::fs::Permissions::from_mode(0o1775)).unwrap();
    std::fs::set_permissions(at("d/sub/two"), std::fs::Permissions::from_mode(0o6755)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let _ = rustix::fs::setxattr(at("d/sub/two"), "user.mark", b"here", flags);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("d/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    // Larger than what is read at a time, with a hole in it.
    let noise = (0..1_500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
    std::fs::write(at("large"), noise.collect::<Vec<u8>>()).unwrap();
    let large = std::fs::File::options().write(true).open(at("large"));
    large.unwrap().set_len(3_000_000).unwrap();
    std::fs::write(at("empty"), "").unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, mode, link) in [
        ("a", tar::EntryType::Directory, 0o700, ""),
        ("a/f", tar::EntryType::Regular, 0o4644, ""),
        ("a/g", tar::EntryType::Link, 0o644, "a/f"),
        ("a/h", tar::EntryType::Symlink, 0o777, "../a/f"),
        ("a/p", tar::EntryType::Fifo, 0o600, ""),
        ("bin/vi", tar::EntryType::Regular, 0o755, ""),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(5);
        header.set_gid(6);
        header.set_mtime(1_234_567_890);
        let size = if kind.is_file() { 4 } else { 0 };
        header.set_size(size);
        match link {
            "" => tar.append_data(&mut header, name, &b"tar\n"[..size as usize]),
            link => tar.append_link(&mut header, name, link),
        }
        .unwrap();
    }
    std::fs::write(at("all.tar"), tar.into_inner().unwrap()).unwrap();
    let all = walk(&s.path("straight"));
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::new(1_500_000_000, 123_456_789);
    for path in all {
        // As somebody else has it who may read it all.
        if path.is_file() && !path.is_symlink() {
            let file = std::fs::File::options().append(true).open(path).unwrap();
            file.set_modified(long_ago).unwrap();
        }
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    entries(dir)
        .into_keys()
        .map(|name| dir.join(name))
        .collect()
}

/// Builds the context `straight` with a Dockerfile that ends in `more`.
fn build(s: &Sandbox, way: &Way, more: &str) -> Ran {
    std::fs::write(s.path("straight/Dockerfile"), format!("{COPIES}{more}")).unwrap();
    let mut command = way.command(s);
    command.env("SOURCE_DATE_EPOCH", "1600000000");
    // What the commands make has the same times every time.
    command.args(["build", "--progress", "plain", "--rewrite-timestamp"]);
    command.args(way.args);
    let ran: Ran = command.arg(s.path("straight")).output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{}\n{}", way.name, ran.stderr);
    ran
}

#[test]
fn a_copy_on_disk_is_its_layer_unpacked() {
    const NAME: &str = "a_copy_on_disk_is_its_layer_unpacked";
    let Some((s, ways)) = ways::all(NAME) else {
        return;
    };
    context(&s);
    for way in ways {
        let beside = match way.name {
            "namespaces" => "namespaces-beside",
            "single" => "single-beside",
            "ranges" => "ranges-beside",
            "chroot" => "chroot-beside",
            // Nothing that these have a part in.
            _ => continue,
        };
        let beside = Way {
            name: beside,
            ..way.clone()
        };
        beside.prepare(&s);
        // The layers first, which are unpacked then…
        build(&s, &way, "");
        let before = unpacked(&way.store(&s));
        let ran = build(&s, &way, "RUN true\n");
        let (one, two) = (unpacked(&way.store(&s)), build(&s, &beside, "RUN true\n"));
        assert!(count(&ran) >= 11, "{}", ran.stderr);
        // …and at once, when there is only the base to unpack, and where root
        // filesystems are directories what two commands made.
        let most = if way.name == "chroot" { 3 } else { 1 };
        assert!(count(&two) <= most, "{}", two.stderr);
        let two = unpacked(&beside.store(&s));
        let names = |of: &BTreeMap<String, PathBuf>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&one), names(&two), "{}", way.name);
        // Commands leave times that are brought back in layers only.
        for (name, dir) in one.iter().filter(|(name, _)| !before.contains_key(*name)) {
            let notes = |dir: &Path| std::fs::read(dir.join("notes")).ok();
            assert_eq!(notes(dir), notes(&two[name]), "{} {name}", way.name);
            let (one, two) = (entries(&dir.join("fs")), entries(&two[name].join("fs")));
            // That of the command that changes nothing has marks on its root.
            if one.len() == 1 {
                continue;
            }
            for (path, facts) in &one {
                let other = two.get(path);
                assert_eq!(other, Some(facts), "{} {name} {}", way.name, path.display());
            }
            assert_eq!(one.len(), two.len(), "{} {name}", way.name);
        }
    }
}

#[test]
fn a_copy_that_fails_or_is_stopped_leaves_nothing() {
    const NAME: &str = "a_copy_that_fails_or_is_stopped_leaves_nothing";
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let dockerfile = "FROM base\nCOPY d /d\nRUN true\n";
    // The name can't be in a layer, but that is seen late.
    let context = s.context("ctx", &[("Dockerfile", dockerfile), ("d/z/.wh.x", "")]);
    let noise = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
    std::fs::write(s.path("ctx/d/a"), noise.collect::<Vec<u8>>()).unwrap();
    let ran = s.run(&["build", &context]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains(".wh."), "{}", ran.stderr);
    // The base is there.
    assert_eq!((unpacked(&s.store()).len(), strays(&s.store())), (1, 0));
    std::fs::remove_file(s.path("ctx/d/z/.wh.x")).unwrap();
    // Stopped while it is at it.
    for n in 0..3_000 {
        std::fs::write(s.path("ctx/d/z").join(n.to_string()), [7; 20_000]).unwrap();
    }
    let mut command = s.command(&s.store());
    command.args(["build", "--progress", "plain", &context]);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    assert!(eventually(|| {
        let layers = std::fs::read_dir(s.store().join("layers")).unwrap();
        let begun = |e: std::fs::DirEntry| e.path().join("fs/d/z/1").exists();
        layers.flatten().any(begun)
    }));
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    // Unless it was done before.
    if !child.wait().unwrap().success() {
        assert!(unpacked(&s.store()).len() <= 2);
        assert_eq!(strays(&s.store()), 0);
    }
    s.build(&context, &[]);
    assert_eq!(unpacked(&s.store()).len(), 3);
    assert_eq!(strays(&s.store()), 0);
}

#[test]
fn nothing_is_put_on_disk_that_no_step_sees() {
    let Some(s) = Sandbox::with_base("nothing_is_put_on_disk_that_no_step_sees") else {
        return;
    };
    // A RUN elsewhere has no need of what is copied here.
    let dockerfile = "FROM base AS a\nCOPY f /seen\nRUN cp /seen /made\n\
        FROM base\nCOPY f /f\nCOPY --from=a /made /made\nCOPY f /made/../g\n";
    let context = s.context("ctx", &[("Dockerfile", dockerfile), ("f", "F")]);
    s.build(&context, &[]);
    // The base, and what stage a has.
    assert_eq!(unpacked(&s.store()).len(), 3);
    assert_eq!(strays(&s.store()), 0);
}
