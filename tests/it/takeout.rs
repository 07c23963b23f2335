//! Images as directories, and back: `unpack` and `repack`, also next to umoci
//! and under runc.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sandbox::{Ran, Sandbox, eventually, has, skip};

/// Everything about a tree that a layer says, a line for each entry. Names of
/// one file have the path of the first of them.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        let mut names: Vec<PathBuf> = std::fs::read_dir(root.join(&dir))
            .unwrap()
            .map(|e| dir.join(e.unwrap().file_name()))
            .collect();
        names.sort();
        for path in names {
            let full = root.join(&path);
            let meta = std::fs::symlink_metadata(&full).unwrap();
            let kind = meta.file_type();
            let content = if kind.is_symlink() {
                std::fs::read_link(&full).unwrap().into_os_string()
            } else if kind.is_file() {
                let mut hasher = shiplap::digest::Hasher::new();
                hasher.update(&std::fs::read(&full).unwrap());
                hasher.finish().as_str().into()
            } else {
                format!("{}", meta.rdev()).into()
            };
            let mut name = path.clone();
            if kind.is_dir() {
                todo.push(path.clone());
            } else {
                let inode = (meta.dev(), meta.ino());
                name = first.entry(inode).or_insert(path.clone()).clone();
            }
            lines.push(format!(
                "{} {:o} {}:{} {} {} {:?} {:?}",
                path.as_os_str().as_bytes().escape_ascii(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                name.display(),
                content,
                xattrs(&full)
            ));
        }
    }
    lines.sort();
    lines
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let dir = std::fs::File::open(path.parent().unwrap()).unwrap();
    let dir = std::os::fd::AsFd::as_fd(&dir);
    shiplap::sys::xattr::xattrs_at(dir, path.file_name().unwrap()).unwrap()
}

/// Fails with the lines that differ.
#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (listing(a), listing(b));
    let only = |x: &[String], y: &[String]| -> Vec<String> {
        x.iter().filter(|l| !y.contains(l)).cloned().collect()
    };
    let (left, right) = (only(&a, &b), only(&b, &a));
    assert!(left.is_empty() && right.is_empty(), "{left:#?}\n{right:#?}");
}

/// An image of several layers that has all there can be.
fn rich(s: &Sandbox) {
    let context = s.context(
        "rich",
        &[(
            "Dockerfile",
            "FROM base\n\
             RUN mkdir -p /a/b /gone /hidden && echo 1 > /a/b/one && ln /a/b/one /a/two \
                 && ln -s ../a /a/link && mkfifo /a/pipe && chmod 4711 /a/two && touch -d @1000000000 /a/b/old \
                 && echo x > /gone/x && echo y > /hidden/y && echo z > /hidden/z && echo f > /file-or-dir \
                 && mkdir /dir-or-file && echo q > /dir-or-file/q && chown -R ana:wheel /a/b && mkdir -m 1777 /sticky\n\
             RUN rm -r /gone /hidden && mkdir /hidden && echo new > /hidden/new && rm /file-or-dir \
                 && mkdir /file-or-dir && echo in > /file-or-dir/in && rm -r /dir-or-file && echo f > /dir-or-file \
                 && echo more >> /a/b/one && chmod 4711 /a/b/one\n\
             WORKDIR /a\nENTRYPOINT [\"cat\"]\nCMD [\"b/one\"]\n",
        )],
    );
    s.build(&context, &["-t", "rich"]);
}

fn digest(s: &Sandbox, name: &str) -> String {
    let shown: serde_json::Value =
        serde_json::from_str(&s.ok(&["inspect", "--format", "json", name])).unwrap();
    shown["digest"].as_str().unwrap().to_owned()
}

#[test]
fn what_was_not_changed_is_the_same_image() {
    let Some(s) = Sandbox::with_base("what_was_not_changed_is_the_same_image") else {
        return;
    };
    rich(&s);
    let printed = s.ok(&["unpack", "-q", "rich", "tree"]);
    assert_eq!(printed, digest(&s, "rich"));
    s.ok(&["repack", "-q", "tree", "again"]);
    assert_eq!(digest(&s, "again"), digest(&s, "rich"));
    // Nor is it a change to read files, or to change one forth and back.
    let before = std::fs::metadata(s.path("tree/a/b/one")).unwrap();
    std::fs::read(s.path("tree/a/b/one")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(s.path("tree/a/b"), mode).unwrap();
    std::fs::set_permissions(s.path("tree/a/b"), {
        let meta = std::fs::metadata(s.path("tree/a/b")).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600);
        std::fs::Permissions::from_mode(0o755)
    })
    .unwrap();
    assert_eq!(before.mode() & 0o7777, 0o4711);
    let shown = s.ok(&["repack", "-q", "tree", "again", "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["changed"], false, "{shown}");
    // Nor is it to move all of it: no entry has its status from before.
    let moved = Command::new("cp")
        .args(["-a", "tree", "copy"])
        .current_dir(s.dir.path())
        .status();
    assert!(moved.unwrap().success());
    std::fs::remove_dir_all(s.path("tree")).unwrap();
    std::fs::rename(s.path("copy"), s.path("tree")).unwrap();
    let shown = s.ok(&["repack", "-q", "tree", "again", "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["changed"], false, "{shown}");
    // To another place.
    s.ok(&["repack", "-q", "tree", "oci:out:x", "-t", "dir:flat"]);
    let there = s.ok(&["inspect", "--format", "json", "oci:out:x"]);
    assert!(there.contains(&digest(&s, "rich")), "{there}");
    assert!(s.path("flat/manifest.json").exists());
}

#[test]
fn changes_become_a_layer() {
    let Some(s) = Sandbox::with_base("changes_become_a_layer") else {
        return;
    };
    rich(&s);
    s.ok(&["unpack", "-q", "rich", "tree"]);
    let tree = s.path("tree");
    std::fs::write(tree.join("a/b/one"), "changed").unwrap();
    std::fs::remove_file(tree.join("a/pipe")).unwrap();
    std::fs::remove_dir_all(tree.join("hidden")).unwrap();
    std::fs::create_dir(tree.join("hidden")).unwrap();
    std::fs::write(tree.join("hidden/other"), "").unwrap();
    std::fs::hard_link(tree.join("hidden/other"), tree.join("linked")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    std::os::unix::fs::chown(tree.join("file-or-dir/in"), Some(5), Some(6)).unwrap();
    let mode = std::fs::Permissions::from_mode(0o2750);
    std::fs::set_permissions(tree.join("sticky"), mode).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd\n\xff");
    std::fs::write(tree.join(odd), "odd").unwrap();
    let shown = s.ok(&[
        "repack",
        "-q",
        "tree",
        "new",
        "--message",
        "by hand",
        "--author",
        "me",
        "--format",
        "json",
    ]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["changed"], true);
    let config: serde_json::Value =
        serde_json::from_str(&s.ok(&["inspect", "--config", "new"])).unwrap();
    let last = config["history"].as_array().unwrap().last().unwrap();
    assert_eq!(last["comment"], "by hand");
    assert_eq!(last["author"], "me");
    assert_eq!(last["created_by"], "shiplap repack");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 5);
    s.ok(&["verify", "new"]);
    s.ok(&["unpack", "-q", "new", "tree2"]);
    // A layer has whole seconds, which is what is compared here.
    assert_same(&tree, &s.path("tree2"));
    // The record is of what was unpacked; the new image has one of its own.
    s.ok(&["repack", "-q", "tree2", "newer"]);
    assert_eq!(digest(&s, "newer"), digest(&s, "new"));
}

#[test]
fn umoci_unpacks_the_same() {
    if !has("umoci") {
        skip("umoci_unpacks_the_same", "there is no umoci");
        return;
    }
    let Some(s) = Sandbox::with_base("umoci_unpacks_the_same") else {
        return;
    };
    rich(&s);
    s.ok(&["copy", "-q", "rich", "oci:layout:rich"]);
    s.ok(&["unpack", "-q", "--bundle", "oci:layout:rich", "ours"]);
    let umoci = |args: &[&str]| {
        let ran = Command::new("umoci")
            .args(args)
            .current_dir(s.dir.path())
            .output();
        let ran: Ran = ran.unwrap().into();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    };
    umoci(&["unpack", "--image", "layout:rich", "theirs"]);
    assert_same(&s.path("ours/rootfs"), &s.path("theirs/rootfs"));
    // What we repack, umoci unpacks as we do.
    std::fs::write(s.path("ours/rootfs/added"), "x").unwrap();
    std::fs::remove_dir_all(s.path("ours/rootfs/file-or-dir")).unwrap();
    s.ok(&["repack", "-q", "ours", "oci:layout:changed"]);
    umoci(&["unpack", "--image", "layout:changed", "changed"]);
    assert_same(&s.path("ours/rootfs"), &s.path("changed/rootfs"));
}

#[test]
fn runc_runs_a_bundle() {
    let Some(runc) = ["/usr/sbin/runc", "/usr/bin/runc"]
        .iter()
        .find(|p| Path::new(p).exists())
    else {
        skip("runc_runs_a_bundle", "there is no runc");
        return;
    };
    let Some(s) = Sandbox::with_base("runc_runs_a_bundle") else {
        return;
    };
    rich(&s);
    s.ok(&["unpack", "-q", "--bundle", "rich", "bundle"]);
    let mode = std::fs::metadata(s.path("bundle")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let run = |bundle: &str, user: Option<u32>| {
        let mut command = match user {
            None => Command::new(runc),
            Some(id) => {
                let mut command = Command::new("setpriv");
                let id = id.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", runc]);
                command
            }
        };
        let name = format!("shiplap-it-{}", std::process::id());
        let ran = command
            .arg("--root")
            .arg(s.path(bundle).join("state"))
            .args(["run", "--bundle"])
            .arg(s.path(bundle))
            .arg(name)
            .output();
        Ran::from(ran.unwrap())
    };
    let ran = run("bundle", None);
    assert_eq!(ran.stdout, "1\nmore\n", "{}", ran.stderr);

    // A plain user's.
    if !has("setpriv") {
        skip(
            "runc_runs_a_bundle",
            "there is no setpriv for a plain user's",
        );
        return;
    }
    let user = 12_345;
    s.ok(&["copy", "-q", "rich", "oci:mine/layout:rich"]);
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(s.dir.path(), open).unwrap();
    let chown = Command::new("chown")
        .args(["-R", &user.to_string()])
        .arg(s.path("mine"))
        .status();
    assert!(chown.unwrap().success());
    let id = user.to_string();
    let program = s.path("mine/shiplap");
    std::fs::copy(env!("CARGO_BIN_EXE_shiplap"), &program).unwrap();
    let plain = |args: &[&str]| {
        let ran = Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(&program)
            .args(args)
            .current_dir(s.path("mine"))
            .env("HOME", s.path("mine"))
            .env_remove("SHIPLAP_ROOT")
            .env_remove("XDG_DATA_HOME")
            .output();
        let ran = Ran::from(ran.unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stdout
    };
    let script = "cat b/one && id -u && echo from within > /a/b/new && chmod 600 /a/b/old";
    plain(&[
        "unpack",
        "-q",
        "--bundle",
        "oci:layout:rich",
        "bundle",
        "--",
        "-c",
        script,
    ]);
    // The image's entrypoint is cat; a shell does as much.
    let path = s.path("mine/bundle/config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replacen("\"cat\"", "\"sh\"", 1)).unwrap();
    let ran = run("mine/bundle", Some(user));
    if ran.stderr.contains("operation not permitted") && ran.stdout.is_empty() {
        skip(
            "runc_runs_a_bundle",
            "plain users have no user namespaces here",
        );
        return;
    }
    assert_eq!(ran.stdout, "1\nmore\n0\n", "{}", ran.stderr);
    plain(&["repack", "-q", "bundle", "oci:layout:changed"]);
    // Root sees whose the files are.
    s.ok(&["unpack", "-q", "oci:mine/layout:changed", "changed"]);
    let owner = |path: &str| {
        let meta = std::fs::metadata(s.path("changed").join(path)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(owner("a/b/one"), (1000, 10, 0o4711));
    assert_eq!(owner("a/b/old"), (1000, 10, 0o600));
    assert_eq!(owner("a/b/new"), (0, 0, 0o644));
    let manifest = s.ok(&["inspect", "--manifest", "oci:mine/layout:changed"]);
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 5);
    assert!(layers[4]["size"].as_u64().unwrap() < 1000, "{manifest}");
}

#[test]
fn ids_are_mapped_both_ways() {
    let Some(s) = Sandbox::with_base("ids_are_mapped_both_ways") else {
        return;
    };
    rich(&s);
    let maps = ["--uid-map", "0:100000:65536", "--gid-map", "0:200000:65536"];
    let mut args = vec!["unpack", "-q", "--bundle", "rich", "mapped"];
    args.extend(maps);
    s.ok(&args);
    let owner = |path: &str| {
        let meta = std::fs::metadata(s.path("mapped/rootfs").join(path)).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!(owner("a/b/one"), (101_000, 200_010));
    assert_eq!(owner("bin/busybox"), (100_000, 200_000));
    s.ok(&["repack", "-q", "mapped", "same"]);
    assert_eq!(digest(&s, "same"), digest(&s, "rich"));
    let file = s.path("mapped/rootfs/mine");
    std::fs::write(&file, "").unwrap();
    let refused = s.run(&["repack", "-q", "mapped", "never"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("maps of ids"), "{}", refused.stderr);
    std::os::unix::fs::chown(&file, Some(100_007), Some(200_008)).unwrap();
    s.ok(&["repack", "-q", "mapped", "new"]);
    s.ok(&["unpack", "-q", "new", "plain"]);
    let meta = std::fs::metadata(s.path("plain/mine")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (7, 8));
    // An id without a map is no other id.
    let few = s.run(&["unpack", "-q", "rich", "few", "--uid-map", "0:100000:10"]);
    assert_eq!(few.code, Some(1));
    assert!(few.stderr.contains("1000:10"), "{}", few.stderr);
    assert!(!s.path("few").exists());
    for bad in ["0:1:0", "x", "0:4294967295:2"] {
        let ran = s.run(&["unpack", "rich", "few", "--uid-map", bad]);
        assert_eq!(ran.code, Some(2), "{bad}");
    }
}

#[test]
fn nothing_half_made_is_left() {
    let Some(s) = Sandbox::with_base("nothing_half_made_is_left") else {
        return;
    };
    // What is there stays as it is.
    std::fs::create_dir(s.path("full")).unwrap();
    std::fs::write(s.path("full/precious"), "x").unwrap();
    std::fs::write(s.path("file"), "x").unwrap();
    for taken in ["full", "file", "/"] {
        let ran = s.run(&["unpack", "base", taken]);
        assert_eq!(ran.code, Some(1), "{taken}");
        assert!(ran.stderr.contains("is there already"), "{}", ran.stderr);
    }
    assert!(s.path("full/precious").exists());
    // An empty directory is taken, a file of state without one replaced.
    std::fs::create_dir(s.path("empty")).unwrap();
    s.ok(&["unpack", "-q", "base", "empty"]);
    std::fs::remove_dir_all(s.path("empty")).unwrap();
    s.ok(&["unpack", "-q", "base", "empty"]);
    let ran = s.run(&["repack", "full", "never"]);
    assert!(ran.stderr.contains("was not unpacked"), "{}", ran.stderr);
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(s.dir.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    // A layer that is damaged.
    let layer = {
        let shown = s.ok(&["inspect", "--manifest", "base"]);
        let manifest: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
        s.store().join("blobs").join(digest.replace(':', "/"))
    };
    let before = names();
    let whole = std::fs::read(&layer).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let writable = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&layer, writable).unwrap();
    std::fs::write(&layer, bytes).unwrap();
    let ran = s.run(&["unpack", "-q", "base", "never"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(names(), before);
    std::fs::write(&layer, whole).unwrap();
}

#[test]
fn an_interrupt_leaves_nothing() {
    let Some(s) = Sandbox::with_base("an_interrupt_leaves_nothing") else {
        return;
    };
    // Enough files to be interrupted among.
    let context = s.context(
        "many",
        &[(
            "Dockerfile",
            "FROM base\nRUN mkdir /many && cd /many && seq 1 20000 | xargs touch\n",
        )],
    );
    s.build(&context, &["-t", "many"]);
    let mut child = s
        .command(&s.store())
        .args(["unpack", "-q", "many", "never"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = || {
        let mut entries = std::fs::read_dir(s.dir.path()).unwrap();
        entries.any(|e| {
            let path = e.unwrap().path();
            path.to_string_lossy().contains("/.never") && path.join("rootfs/many").exists()
        })
    };
    assert!(eventually(begun), "it did not begin");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let left: Vec<String> = std::fs::read_dir(s.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("never"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_exported_tar_is_the_unpacked_image() {
    let Some(s) = Sandbox::with_base("an_exported_tar_is_the_unpacked_image") else {
        return;
    };
    rich(&s);
    s.ok(&["unpack", "-q", "rich", "tree"]);
    s.ok(&["export", "-q", "rich", "-o", "rich.tar"]);
    let untar = |tar: &str, to: &str| {
        std::fs::create_dir(s.path(to)).unwrap();
        let status = Command::new("tar")
            .args([
                "-x",
                "-p",
                "--xattrs",
                "--numeric-owner",
                "-f",
                tar,
                "-C",
                to,
            ])
            .current_dir(s.dir.path())
            .status();
        assert!(status.unwrap().success());
    };
    untar("rich.tar", "untarred");
    assert_same(&s.path("tree"), &s.path("untarred"));
    // From elsewhere and to a pipe, the same bytes.
    s.ok(&[
        "copy",
        "-q",
        "rich",
        "oci:layout:rich",
        "--compression",
        "zstd",
    ]);
    let piped = s
        .command(&s.store())
        .args(["export", "-q", "oci:layout:rich"])
        .output()
        .unwrap();
    assert!(piped.stdout == std::fs::read(s.path("rich.tar")).unwrap());
    // And an image again.
    s.ok(&["import", "-q", "rich.tar", "flat"]);
    s.ok(&["unpack", "-q", "flat", "flattened"]);
    assert_same(&s.path("tree"), &s.path("flattened"));
    // What can't be written is not there.
    let ran = s.run(&["export", "-q", "rich", "-o", "no/such.tar"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let full = s.run(&["export", "-q", "rich", "-o", "/dev/full"]);
    assert_eq!(full.code, Some(1), "{}", full.stderr);
    let names = std::fs::read_dir(s.dir.path()).unwrap();
    let hidden = names.filter(|e| e.as_ref().unwrap().file_name().as_bytes().starts_with(b"."));
    assert_eq!(hidden.count(), 0);
}

/// Runs a script in a mount namespace of its own; `s` is the program.
pub(crate) fn in_namespace(s: &Sandbox, unshare: &[&str], store: &Path, script: &str) -> Ran {
    let define = format!(
        "set -e; s() {{ {} --root {} \"$@\"; }}\n",
        env!("CARGO_BIN_EXE_shiplap"),
        store.display()
    );
    let ran = Command::new("unshare")
        .args(unshare)
        .args(["--mount", "sh", "-c", &(define + script)])
        .current_dir(s.dir.path())
        .env("HOME", s.dir.path())
        .env_remove("SHIPLAP_ROOT")
        .output();
    ran.unwrap().into()
}

#[test]
fn images_are_mounted_and_stay_whole() {
    let Some(s) = Sandbox::with_base("images_are_mounted_and_stay_whole") else {
        return;
    };
    let probe = in_namespace(&s, &[], &s.store(), "mount -t tmpfs none /mnt");
    if probe.code != Some(0) {
        skip(
            "images_are_mounted_and_stay_whole",
            "nothing can be mounted here",
        );
        return;
    }
    rich(&s);
    s.ok(&["unpack", "-q", "rich", "tree"]);
    std::fs::create_dir(s.path("at")).unwrap();
    let ran = in_namespace(
        &s,
        &[],
        &s.store(),
        "s mount -q rich at
         cp -a at copied
         if touch at/x; then exit 3; fi
         s mount
         s rmi rich base > out; s prune --all > out
         cat at/hidden/new at/bin/busybox > out
         if s umount tree; then exit 4; fi
         exec 3< at/bin/busybox
         if s umount at 2> busy; then exit 5; fi
         exec 3<&-
         s umount at; ls at",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_same(&s.path("tree"), &s.path("copied"));
    assert!(
        ran.stdout.contains("rich") && ran.stdout.contains("/at\n"),
        "{}",
        ran.stdout
    );
    let busy = std::fs::read_to_string(s.path("busy")).unwrap();
    assert!(busy.contains("--lazy"), "{busy}");
    // What nothing is mounted of goes.
    s.ok(&["prune", "--all"]);
    let layers = std::fs::read_dir(s.store().join("layers")).unwrap();
    let left: Vec<_> = layers.map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["by-diff-id"]);
    assert_eq!(
        std::fs::read_dir(s.store().join("attached"))
            .unwrap()
            .count(),
        0
    );

    // To write to, at a place of the store's; nothing of it stays.
    s.import_at(&s.store());
    let ran = in_namespace(
        &s,
        &[],
        &s.store(),
        "d=$(s mount -q --writable base); echo new > $d/new; rm -r $d/etc; cat $d/new
         s umount base; e=$(s mount -q base); ls $e; s umount --all; s mount --format json",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, "new\nbin\netc\nroot\ntmp\n[]\n");
    // The namespace is gone, and with it the mount; its record goes too.
    let ran = in_namespace(
        &s,
        &[],
        &s.store(),
        "s mount -q base at; s mount --format json",
    );
    assert!(ran.stdout.contains("\"image\": \"base\""), "{}", ran.stdout);
    assert_eq!(s.ok(&["mount", "--format", "json"]), "[]");

    // A plain user is told how; in a namespace of its own it works.
    let user = |store: &str, script: &str| {
        let define = format!("set -e; s() {{ mine/shiplap --root {store} \"$@\"; }}\n");
        let ran = Command::new("setpriv")
            .args(["--reuid", "12345", "--regid", "12345", "--clear-groups"])
            .args(["sh", "-c", &(define + script)])
            .current_dir(s.dir.path())
            .env("HOME", s.path("mine"))
            .output();
        Ran::from(ran.unwrap())
    };
    std::fs::create_dir(s.path("mine")).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_shiplap"), s.path("mine/shiplap")).unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(s.dir.path(), open).unwrap();
    s.ok(&["copy", "-q", "base", "oci:mine/layout"]);
    let chown = Command::new("chown")
        .args(["-R", "12345"])
        .arg(s.path("mine"))
        .status();
    assert!(chown.unwrap().success());
    let ran = user("mine/one", "s mount oci:mine/layout at");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("unshare"), "{}", ran.stderr);
    let ran = user(
        "mine/two",
        "unshare --user --map-root-user --mount sh -c \
         'mine/shiplap --root mine/two mount -q oci:mine/layout /mnt && ls /mnt && mine/shiplap --root mine/two umount /mnt'",
    );
    if ran.stderr.contains("unshare failed") {
        skip(
            "images_are_mounted_and_stay_whole",
            "plain users have no user namespaces here",
        );
        return;
    }
    assert_eq!(ran.stdout, "/mnt\nbin\netc\nroot\ntmp\n", "{}", ran.stderr);
}

#[test]
fn archives_of_another_library_are_unpacked() {
    let corpus = std::env::var_os("SHIPLAP_TEST_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"),
        PathBuf::from,
    );
    let archives = corpus.join("layers/go-containerregistry");
    if !archives.exists() {
        let test = "archives_of_another_library_are_unpacked";
        skip(test, &format!("there is no {}", archives.display()));
        return;
    }
    let s = Sandbox::new();
    for (n, (archive, files)) in [
        (
            "mutate/overwritten_file.tar",
            Some(&["bar.txt", "foo.txt"][..]),
        ),
        ("mutate/source_image.tar", Some(&["bar", "foo"])),
        (
            "mutate/source_image_with_empty_layer_history.tar",
            Some(&["bar", "foo"]),
        ),
        (
            "mutate/whiteout_dir.tar",
            Some(&["a", "a/baz", "b", "b/bar"]),
        ),
        ("mutate/whiteout_image.tar", Some(&["bar.txt"])),
        ("tarball/hello-world-v25.tar", Some(&["hello"])),
        ("tarball/test_image_1.tar", Some(&["bar", "foo"])),
        ("tarball/test_image_2.tar", Some(&["bat", "baz"])),
        (
            "tarball/test_bundle.tar:test_image_2",
            Some(&["bat", "baz"]),
        ),
        (
            "tarball/test_link.tar:bazel/v1/tarball:test_image_3",
            Some(&["bar", "foo", "test"]),
        ),
        ("tarball/test_load_manifest.tar", Some(&["bar", "foo"])),
        ("tarball/content.tar", None),
        ("tarball/no_manifest.tar", None),
        ("tarball/null_manifest.tar", None),
    ]
    .into_iter()
    .enumerate()
    {
        let place = format!("docker-archive:{}", archives.join(archive).display());
        let (tree, tar) = (format!("tree{n}"), format!("{n}.tar"));
        let ran = s.run(&["unpack", "-q", &place, &tree]);
        let Some(files) = files else {
            assert_eq!(ran.code, Some(1), "{archive}");
            continue;
        };
        assert_eq!(ran.code, Some(0), "{archive}\n{}", ran.stderr);
        let names: Vec<String> = listing(&s.path(&tree))
            .iter()
            .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
            .collect();
        assert_eq!(names, files, "{archive}");
        s.ok(&["export", "-q", &place, "-o", &tar]);
        s.ok(&["import", "-q", &tar, "exported"]);
        let again = format!("again{n}");
        s.ok(&["unpack", "-q", "exported", &again]);
        assert_same(&s.path(&tree), &s.path(&again));
    }
}
