//! COPY that writes layers straight from files: what is known from before,
//! and images that are never unpacked.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::sandbox::{Ran, Sandbox};

fn cached(ran: &Ran) -> usize {
    let is_cached = |l: &&str| l.ends_with(" CACHED");
    ran.stderr.lines().filter(is_cached).count()
}

/// Makes a tar with `dir/`, `link -> target`, `a = b` (a hard link) and `file`,
/// all of root's, and imports it as `name` into the sandbox's store.
fn import(s: &Sandbox, name: &str, entries: &[(&str, &str)]) {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        if let Some((link, target)) = path.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, link, target).unwrap();
        } else if let Some((link, target)) = path.split_once(" = ") {
            header.set_entry_type(tar::EntryType::Link);
            tar.append_link(&mut header, link, target).unwrap();
        } else if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, path, std::io::empty())
                .unwrap();
        } else {
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
    }
    let file = s.path("import.tar");
    std::fs::write(&file, tar.into_inner().unwrap()).unwrap();
    s.ok(&["import", file.to_str().unwrap(), name]);
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What is in the image's layers above its first, one line for each entry:
/// name, mode, owner, what it links to or has in it, what it is where it is
/// neither file nor directory, and its attributes.
pub(crate) fn layers(s: &Sandbox, context: &str, more: &[&str]) -> Vec<Vec<String>> {
    let out = s.path("layout");
    let _ = std::fs::remove_dir_all(&out);
    let dest = format!("type=oci,tar=false,dest={}", out.display());
    let mut args = vec!["-o", &dest];
    args.extend(more);
    s.build(context, &args);
    let blob = |d: &serde_json::Value| {
        let digest = d["digest"].as_str().unwrap().replace(':', "/");
        out.join("blobs").join(digest)
    };
    let index = json(&out.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]));
    let list = |layer: &serde_json::Value| {
        let packed = std::fs::File::open(blob(layer)).unwrap();
        let mut tar = tar::Archive::new(flate2::read::MultiGzDecoder::new(packed));
        let mut lines = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            let mut text = entry.path().unwrap().display().to_string();
            let (mode, uid, gid) = (
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
            );
            text += &format!(" {mode:o} {uid}:{gid}");
            if let Some(target) = entry.link_name().unwrap() {
                text += &format!(" -> {}", target.display());
            } else {
                let mut content = String::new();
                entry.read_to_string(&mut content).unwrap();
                if !content.is_empty() {
                    text += &format!(" {content:?}");
                }
            }
            match header.entry_type() {
                tar::EntryType::Fifo => text += " fifo",
                tar::EntryType::Char => text += " device",
                _ => {}
            }
            for record in entry.pax_extensions().unwrap().into_iter().flatten() {
                let record = record.unwrap();
                if let Some(name) = record.key().unwrap().strip_prefix("SCHILY.xattr.") {
                    text += &format!(
                        " {name}={:?}",
                        String::from_utf8_lossy(record.value_bytes())
                    );
                }
            }
            lines.push(text);
        }
        lines
    };
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().skip(1).map(list).collect()
}

/// How many layers of the store are unpacked.
fn unpacked(s: &Sandbox) -> usize {
    let links = s.store().join("layers/by-diff-id");
    std::fs::read_dir(links).unwrap().count()
}

const LINKS: &[(&str, &str)] = &[
    ("etc/", ""),
    (
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nana:x:1000:1001::/:\n",
    ),
    ("etc/group", "root:x:0:\nstaff:x:1001:\n"),
    ("usr/", ""),
    ("usr/lib/", ""),
    ("lib -> usr/lib", ""),
    ("data -> /srv/data", ""),
    ("file", "file"),
];

#[test]
fn a_base_is_not_unpacked_for_copy() {
    let s = Sandbox::new();
    import(&s, "links", LINKS);
    let dockerfile = "FROM links\n\
        COPY a /lib/\n\
        COPY a data/\n\
        COPY --chown=ana:staff a /opt/x/\n\
        COPY --link --chown=ana a /lib/y\n\
        WORKDIR /lib/w\n\
        COPY b ./\n";
    let context = s.context("ctx", &[("Dockerfile", dockerfile), ("a", "A"), ("b", "B")]);
    let expected = [
        vec![
            "usr/ 755 0:0",
            "usr/lib/ 755 0:0",
            "usr/lib/a 644 0:0 \"A\"",
        ],
        vec![
            "srv/ 755 0:0",
            "srv/data/ 755 0:0",
            "srv/data/a 644 0:0 \"A\"",
        ],
        vec![
            "opt/ 755 1000:1001",
            "opt/x/ 755 1000:1001",
            "opt/x/a 644 1000:1001 \"A\"",
        ],
        // With --link the base's tree counts as empty, but for the names.
        vec!["lib/ 755 1000:1001", "lib/y 644 1000:1001 \"A\""],
        vec!["lib/ 755 1000:1001", "lib/w/ 755 0:0"],
        vec![
            "lib/ 755 1000:1001",
            "lib/w/ 755 0:0",
            "lib/w/b 644 0:0 \"B\"",
        ],
    ];
    assert_eq!(layers(&s, &context, &[]), expected);
    assert_eq!(unpacked(&s), 0);
    // The layers found by looking into directories are the same.
    let by_listing = s.ok(&["build", "-q", "-t", "x", &context]);
    let config = |name: &str| -> serde_json::Value {
        serde_json::from_str(&s.ok(&["inspect", "--config", name])).unwrap()
    };
    let layers = config("x")["rootfs"]["diff_ids"].clone();
    s.ok(&["build", "-q", "-o", "type=tar,dest=all.tar", &context]);
    assert!(unpacked(&s) > 0);
    std::fs::remove_file(s.path("all.tar")).unwrap();
    s.ok(&["build", "-q", "--no-cache", "-t", "y", &context]);
    assert_eq!(config("y")["rootfs"]["diff_ids"][1], layers[1]);
    assert!(!by_listing.is_empty());
    // What is no directory, or no name, is refused all the same.
    for (line, message) in [
        ("COPY a /file/x", "\"/file\" is not a directory"),
        (
            "COPY --chown=eve a /",
            "\"eve\" is not in the image's /etc/passwd",
        ),
    ] {
        let text = format!("FROM links\n{line}\n");
        let context = s.context("bad", &[("Dockerfile", &text), ("a", "A")]);
        let ran = s.run(&["build", &context]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
}

#[test]
fn a_layer_that_leans_on_others_is_unpacked() {
    let s = Sandbox::new();
    let mut entries = LINKS.to_vec();
    // Through a link of the same layer.
    entries.push(("lib/deep/f", "deep"));
    import(&s, "leaning", &entries);
    let context = s.context(
        "ctx",
        &[
            ("Dockerfile", "FROM leaning\nCOPY a /lib/deep/\n"),
            ("a", "A"),
        ],
    );
    let layers = layers(&s, &context, &[]);
    assert_eq!(layers[0].last().unwrap(), "usr/lib/deep/a 644 0:0 \"A\"");
}

#[test]
fn users_behind_a_link_are_found() {
    let s = Sandbox::new();
    import(
        &s,
        "linked",
        &[
            ("etc/", ""),
            ("etc/passwd -> ../share/passwd", ""),
            ("share/", ""),
            ("share/passwd", "ana:x:1000:1001::/:\n"),
        ],
    );
    let dockerfile = "FROM linked\nCOPY --chown=ana a /\nUSER ana\nWORKDIR /w\n";
    let context = s.context("ctx", &[("Dockerfile", dockerfile), ("a", "A")]);
    let layers = layers(&s, &context, &[]);
    assert_eq!(layers[0], ["a 644 1000:1001 \"A\""]);
    assert_eq!(layers[1], ["w/ 755 1000:1001"]);
}

#[test]
fn a_later_step_sees_what_was_copied() {
    let Some(s) = Sandbox::with_base("a_later_step_sees_what_was_copied") else {
        return;
    };
    let straight = "FROM base\nCOPY d /d\n";
    let context = s.context(
        "ctx",
        &[("Dockerfile", straight), ("d/one", "1"), ("d/sub/two", "2")],
    );
    symlink("one", s.path("ctx/d/link")).unwrap();
    std::fs::hard_link(s.path("ctx/d/one"), s.path("ctx/d/sub/one")).unwrap();
    let one = s.ok(&["build", "-q", "-t", "x", &context]);
    s.context("ctx", &[(
        "Dockerfile",
        "FROM base\nCOPY d /d\nRUN cat /d/link /d/sub/two > /sum && test /d/one -ef /d/sub/one\n",
    )]);
    assert_eq!(s.file_of(&context, &[], "sum"), "12");
    // And it was the same layer: both were known after the first build.
    let ran = s.build(&context, &[]);
    assert_eq!(cached(&ran), 2, "{}", ran.stderr);
    s.context("ctx", &[("Dockerfile", straight)]);
    let ran = s.build(&context, &["-t", "y"]);
    assert_eq!(cached(&ran), 1, "{}", ran.stderr);
    assert!(!one.is_empty());
}

#[test]
fn what_a_stage_has_is_copied_as_it_is() {
    let Some(s) = Sandbox::with_base("what_a_stage_has_is_copied_as_it_is") else {
        return;
    };
    let dockerfile = "FROM base AS a\n\
        COPY x /o/x\n\
        RUN cd /o && echo x > f && ln f g && mknod null c 1 3 && ln -s f l && mkfifo p && chown 7:8 f\n\
        FROM scratch\nCOPY --from=a /o /t\n";
    let context = s.context("ctx", &[("Dockerfile", dockerfile), ("x", "X")]);
    let flags = rustix::fs::XattrFlags::empty();
    let marked = rustix::fs::setxattr(s.path("ctx/x"), "user.mark", b"here", flags).is_ok();
    let out = s.path("layout");
    let dest = format!("type=oci,tar=false,dest={}", out.display());
    s.build(&context, &["-o", &dest]);
    let (mut names, mut attributes) = (Vec::new(), 0);
    for blob in std::fs::read_dir(out.join("blobs/sha256")).unwrap() {
        let file = std::fs::File::open(blob.unwrap().path()).unwrap();
        let mut tar = tar::Archive::new(flate2::read::MultiGzDecoder::new(file));
        let Ok(entries) = tar.entries() else { continue };
        for mut entry in entries.flatten() {
            if let Ok(Some(more)) = entry.pax_extensions() {
                attributes += more
                    .flatten()
                    .filter(|e| e.value_bytes() == b"here")
                    .count();
            }
            let header = entry.header();
            names.push(format!(
                "{} {:?} {}",
                entry.path().unwrap().display(),
                header.entry_type(),
                header.uid().unwrap()
            ));
        }
    }
    assert_eq!(
        names,
        [
            "t/ Directory 0",
            "t/f Regular 7",
            "t/g Link 7",
            "t/l Symlink 0",
            "t/null Char 0",
            "t/p Fifo 0",
            "t/x Regular 0",
        ]
    );
    assert_eq!(attributes, usize::from(marked));
}

#[test]
fn a_pattern_finds_what_each_layer_of_a_stage_has() {
    let s = Sandbox::new();
    let dockerfile = "FROM scratch AS a\n\
        COPY one /o/\nCOPY two /o/\nCOPY one /o/three/\n\
        FROM scratch\nCOPY --from=a /o/* /t/\nCOPY --from=a /*/[ot]* /u/\n";
    let files = [("Dockerfile", dockerfile), ("one", "1"), ("two", "2")];
    let context = s.context("ctx", &files);
    s.build(&context, &["-t", "x"]);
    for dir in ["/t", "/u"] {
        assert_eq!(s.ok(&["ls", "x", dir]), "one\ntwo");
    }
}

/// Sets the file's times back to what they were.
fn restore_mtime(path: &Path, to: std::time::SystemTime) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    file.set_modified(to).unwrap();
}

#[test]
fn an_edit_that_hides_is_noticed() {
    let s = Sandbox::new();
    let context = s.context(
        "ctx",
        &[("Dockerfile", "FROM scratch\nCOPY . /\n"), ("f", "one")],
    );
    let file = s.path("ctx/f");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(10_000);
    restore_mtime(&file, long_ago);
    // Long enough ago for its digest to be kept.
    std::thread::sleep(std::time::Duration::from_millis(200));
    s.build(&context, &["-t", "x"]);
    let kept = || std::fs::read_dir(s.store().join("stats")).unwrap().count();
    assert_eq!(kept(), 1);
    assert_eq!(cached(&s.build(&context, &["-t", "x"])), 1);
    // The same size and the same mtime, but another ctime.
    std::fs::write(&file, "two").unwrap();
    restore_mtime(&file, long_ago);
    assert_eq!(std::fs::metadata(&file).unwrap().size(), 3);
    assert_eq!(s.file_of(&context, &[], "f"), "two");
    // Mode, and attributes beside it.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(cached(&s.build(&context, &["-t", "x"])), 0);
    // Replaced by another file that looks the same.
    std::fs::write(s.path("ctx-other"), "six").unwrap();
    std::fs::set_permissions(s.path("ctx-other"), std::fs::Permissions::from_mode(0o600)).unwrap();
    restore_mtime(&s.path("ctx-other"), long_ago);
    std::fs::rename(s.path("ctx-other"), &file).unwrap();
    assert_eq!(s.file_of(&context, &[], "f"), "six");
    // Damaged, it is as if nothing were known.
    for entry in std::fs::read_dir(s.store().join("stats")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(s.file_of(&context, &[], "f"), "six");
}

#[test]
fn an_edit_right_after_a_build_is_noticed() {
    let s = Sandbox::new();
    let context = s.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY f /\n")]);
    let file = s.path("ctx/f");
    for round in 0..8 {
        let text = format!("{round}");
        std::fs::write(&file, &text).unwrap();
        assert_eq!(s.file_of(&context, &[], "f"), text);
    }
}

#[test]
fn a_base_in_a_registry_is_read_once_and_never_sent() {
    use crate::sandbox::has;
    const NAME: &str = "a_base_in_a_registry_is_read_once_and_never_sent";
    if !has("docker-registry") {
        return crate::sandbox::skip(NAME, "docker-registry is missing");
    }
    let s = Sandbox::new();
    import(&s, "links", LINKS);
    let (_server, at) = crate::push_pull::registry(&s, None);
    let base = format!("{at}/team/base:1");
    s.ok(&["push", "links", &base]);
    let store = s.path("other");
    let layer = json(&s.path("store/index.json"));
    assert!(layer["manifests"].is_array());
    let build = |dockerfile: &str, name: &str| {
        let context = s.context("ctx", &[("Dockerfile", dockerfile), ("a", name)]);
        let before = std::fs::read_to_string(s.path("registry.log")).unwrap();
        let to = format!("{at}/team/{name}:1");
        let ran = s.run_in(&store, &["build", "--push", "-t", &to, &context]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let log = std::fs::read_to_string(s.path("registry.log")).unwrap();
        log[before.len()..].to_owned()
    };
    let fetched = |log: &str| log.matches("\"GET /v2/team/base/blobs/").count();
    let sent = |log: &str, name: &str| {
        let put = format!("\"PUT /v2/team/{name}/blobs/uploads");
        (log.matches(&put).count(), log.matches("mount=").count())
    };
    // --link needs nothing of the base but its config.
    let log = build(&format!("FROM {base}\nCOPY --link a /lib/\n"), "linked");
    assert_eq!(fetched(&log), 1, "{log}");
    // The new layer and the config go up; the base's layer is mounted.
    assert_eq!(sent(&log, "linked"), (2, 1), "{log}");
    // The base is read once to see where things go, and not kept.
    let log = build(&format!("FROM {base}\nCOPY a /lib/\n"), "first");
    assert_eq!(fetched(&log), 2, "{log}");
    assert_eq!(sent(&log, "first"), (2, 1), "{log}");
    let log = build(&format!("FROM {base}\nCOPY a /lib/\n"), "second");
    assert_eq!(fetched(&log), 1, "{log}");
    assert_eq!(sent(&log, "second"), (2, 1), "{log}");
    assert_eq!(
        std::fs::read_dir(store.join("layers/by-diff-id"))
            .unwrap()
            .count(),
        0
    );
}
