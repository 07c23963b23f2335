//! Images made of images: read, unpacked and run by other tools.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use shiplap::digest::Digest;

use crate::sandbox::{Sandbox, has, skip};

/// A layer, by hand.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn put(mut self, kind: tar::EntryType, name: &str, mode: u32, more: Put<'_>) -> Self {
        if !more.xattrs.is_empty() {
            let names: Vec<String> = (more.xattrs.iter())
                .map(|(name, _)| format!("SCHILY.xattr.{name}"))
                .collect();
            let records = names
                .iter()
                .zip(more.xattrs)
                .map(|(n, (_, v))| (&n[..], *v));
            self.0.append_pax_extensions(records).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(more.owner.0);
        header.set_gid(more.owner.1);
        header.set_mtime(more.mtime);
        header.set_size(more.data.len() as u64);
        if let Some((major, minor)) = more.device {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
        if more.link.is_empty() {
            self.0.append_data(&mut header, name, more.data).unwrap();
        } else {
            self.0.append_link(&mut header, name, more.link).unwrap();
        }
        self
    }

    fn dir(self, name: &str, mode: u32) -> Self {
        self.put(tar::EntryType::Directory, name, mode, Put::default())
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        let more = Put {
            data,
            ..Put::default()
        };
        self.put(tar::EntryType::Regular, name, 0o644, more)
    }

    fn link(self, kind: tar::EntryType, name: &str, link: &str) -> Self {
        let more = Put {
            link,
            ..Put::default()
        };
        self.put(kind, name, 0o777, more)
    }

    fn sym(self, name: &str, link: &str) -> Self {
        self.link(tar::EntryType::Symlink, name, link)
    }

    fn hard(self, name: &str, link: &str) -> Self {
        self.link(tar::EntryType::Link, name, link)
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// What an entry has beside name, kind and mode.
struct Put<'a> {
    data: &'a [u8],
    link: &'a str,
    owner: (u64, u64),
    mtime: u64,
    device: Option<(u32, u32)>,
    xattrs: &'a [(&'a str, &'a [u8])],
}

impl Default for Put<'_> {
    fn default() -> Self {
        Self {
            data: b"",
            link: "",
            owner: (0, 0),
            mtime: 1_500_000_000,
            device: None,
            xattrs: &[],
        }
    }
}

/// Writes an OCI layout with one image, `DIR:x`, without shiplap.
fn layout(s: &Sandbox, dir: &str, layers: &[Vec<u8>], platform: &str) -> String {
    let manifest = image(s, dir, layers, platform);
    let mut entry = manifest;
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "x"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(s.path(dir).join("index.json"), index.to_string()).unwrap();
    format!("oci:{}:x", s.path(dir).display())
}

/// Writes an image's blobs into a layout; the manifest's descriptor.
fn image(s: &Sandbox, dir: &str, layers: &[Vec<u8>], platform: &str) -> Value {
    let blobs = s.path(dir).join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    std::fs::write(s.path(dir).join("oci-layout"), version).unwrap();
    let put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.encoded()), bytes).unwrap();
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    };
    let ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
    let mut history: Vec<Value> = Vec::new();
    for number in 1..=layers.len() {
        let by = format!("layer {number}");
        history.push(json!({"created": "2020-01-01T00:00:00Z", "created_by": by}));
        let by = format!("after {number}");
        history.push(json!({"created_by": by, "empty_layer": true}));
    }
    let config = json!({
        "created": "2020-01-01T00:00:00Z",
        "os": "linux",
        "architecture": platform,
        "config": {"Cmd": ["/bin/busybox", "cat", "/etc/hello"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
        "history": history,
    });
    let config = put(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let layers: Vec<Value> = layers
        .iter()
        .map(|tar| put("application/vnd.oci.image.layer.v1.tar", tar))
        .collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
    let mut entry = put(kind, manifest.to_string().as_bytes());
    entry["platform"] = json!({"os": "linux", "architecture": platform});
    entry
}

/// Everything that can be seen of a tree.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let meta = std::fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        let mut text = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        if !path.as_os_str().is_empty() {
            text += &format!(" {}.{}", meta.mtime(), meta.mtime_nsec());
        }
        if kind.is_dir() {
            let mut names: Vec<_> = (std::fs::read_dir(&full).unwrap())
                .map(|e| e.unwrap().file_name())
                .collect();
            names.sort_by(|a, b| b.cmp(a));
            todo.extend(names.into_iter().map(|name| path.join(name)));
        } else {
            let first = links.entry(meta.ino()).or_insert_with(|| path.clone());
            text += &format!(" ={}", first.display());
        }
        if kind.is_file() {
            text += &format!(" {}", Digest::of(&std::fs::read(&full).unwrap()));
        } else if kind.is_symlink() {
            text += &format!(" -> {}", std::fs::read_link(&full).unwrap().display());
        } else if kind.is_char_device() || kind.is_block_device() {
            text += &format!(" {:x}", meta.rdev());
        }
        if !kind.is_symlink() {
            let mut names = vec![0; 4096];
            let n = rustix::fs::llistxattr(&full, &mut names[..]).unwrap();
            let names = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
            for name in names.collect::<std::collections::BTreeSet<_>>() {
                let mut value = vec![0; 4096];
                let name = std::ffi::OsStr::from_bytes(name);
                let n = rustix::fs::lgetxattr(&full, name, &mut value[..]).unwrap();
                text += &format!(" {name:?}={}", value[..n].escape_ascii());
            }
        }
        seen.insert(path, text);
    }
    seen
}

fn said(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What umoci makes of `oci:DIR:NAME`.
fn unpacked(s: &Sandbox, place: &str, to: &str) -> BTreeMap<PathBuf, String> {
    let bundle = s.path(to);
    let image = place.strip_prefix("oci:").unwrap();
    said(
        Command::new("umoci")
            .args(["unpack", "--image", image])
            .arg(&bundle),
    );
    tree(&bundle.join("rootfs"))
}

/// Manifest and config, as skopeo reads them.
fn documents(s: &Sandbox, place: &str) -> (Value, Value) {
    let read = |what: &str| {
        let mut command = Command::new("skopeo");
        command.args(["inspect", "--tls-verify=false", what]);
        if what == "--config" {
            command.arg("--raw");
        }
        let text = said(command.arg(place).current_dir(s.dir.path()));
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let (manifest, config) = (read("--raw"), read("--config"));
    // As many entries that made a layer as layers, however it was made.
    let history = config["history"].as_array().unwrap().iter();
    let made = history.filter(|e| e["empty_layer"] != true).count();
    assert_eq!(
        made,
        manifest["layers"].as_array().unwrap().len(),
        "{config}"
    );
    (manifest, config)
}

/// Runs the image in a bundle that umoci made.
fn ran(s: &Sandbox, bundle: &str) -> String {
    let config = s.path(bundle).join("config.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    std::fs::write(&config, spec.to_string()).unwrap();
    let id = format!("shiplap-it-{bundle}-{}", std::process::id());
    let bundle = s.path(bundle);
    said(
        Command::new("runc")
            .args(["run", "--bundle"])
            .arg(bundle)
            .arg(id),
    )
}

/// Everything that layers can do to each other.
fn layers() -> Option<Vec<Vec<u8>>> {
    let busybox = std::fs::read("/bin/busybox").ok()?;
    let owned = |owner, mtime| Put {
        owner,
        mtime,
        data: b"owned",
        ..Put::default()
    };
    let device = |major, minor| Put {
        device: Some((major, minor)),
        ..Put::default()
    };
    let noted = Put {
        data: b"noted",
        xattrs: &[
            ("user.note", b"a\nb"),
            (
                "security.capability",
                b"\x01\0\0\x02\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
        ],
        ..Put::default()
    };
    let first = Layer::new()
        .dir("./", 0o755)
        .dir("bin/", 0o755)
        .put(
            tar::EntryType::Regular,
            "bin/busybox",
            0o755,
            Put {
                data: &busybox,
                ..Put::default()
            },
        )
        .dir("etc/", 0o755)
        .file("etc/hello", b"hello\n")
        .file("etc/linked", b"linked")
        .hard("etc/again", "etc/linked")
        .dir("usr/", 0o755)
        .dir("usr/lib/", 0o751)
        .file("usr/lib/a", b"a")
        .sym("lib", "usr/lib")
        .dir("opaque/", 0o700)
        .file("opaque/old", b"old")
        .dir("opaque/kept/", 0o711)
        .file("opaque/kept/old", b"old")
        .dir("turn/", 0o755)
        .file("turn/f", b"was a directory")
        .dir("data/", 0o755)
        .file("data/gone", b"gone")
        .put(
            tar::EntryType::Regular,
            "data/owned",
            0o4755,
            owned((1000, 1001), 1_400_000_000),
        )
        .put(tar::EntryType::Regular, "data/noted", 0o640, noted)
        .put(tar::EntryType::Char, "data/tty", 0o620, device(5, 0))
        .put(tar::EntryType::Block, "data/disk", 0o660, device(8, 0))
        .put(tar::EntryType::Fifo, "data/fifo", 0o600, Put::default())
        .end();
    let second = Layer::new()
        .file("turn", b"a file now")
        .file("data/.wh.gone", b"")
        .dir("opaque/", 0o755)
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"new")
        // Of the layer below, whose name then goes.
        .hard("etc/third", "etc/linked")
        .file("etc/.wh.again", b"")
        .file("lib/b", b"b")
        .put(
            tar::EntryType::Regular,
            "data/owned",
            0o2755,
            owned((7, 8), 1_450_000_000),
        )
        .end();
    let third = Layer::new()
        .dir("turn/", 0o1777)
        .file("turn/g", b"a directory again")
        .file("etc/linked", b"another file")
        .hard("usr/lib/c", "lib/b")
        .file("usr/lib/.wh.a", b"")
        .end();
    Some(vec![first, second, third])
}

#[test]
fn a_flattened_image_is_the_same_tree() {
    const NAME: &str = "a_flattened_image_is_the_same_tree";
    if !rustix::process::geteuid().is_root() {
        return skip(NAME, "owners and devices take root");
    }
    if !has("umoci") || !has("skopeo") || !has("runc") {
        return skip(NAME, "umoci, skopeo or runc is missing");
    }
    let Some(layers) = layers() else {
        return skip(NAME, "there is no /bin/busybox (busybox-static)");
    };
    let s = Sandbox::new();
    let from = layout(&s, "in", &layers, "amd64");
    let wanted = unpacked(&s, &from, "wanted");
    assert!(wanted[Path::new("etc/third")].contains("=etc/third"));
    for (name, args, layers) in [
        ("all", &["flatten"][..], 1),
        ("from", &["flatten", "--from", "2"], 2),
        ("squash", &["squash", "-n", "2"], 2),
        ("gzip", &["flatten", "--compression", "gzip"], 1),
    ] {
        let to = format!("oci:{}:x", s.path(name).display());
        let mut args = args.to_vec();
        args.extend([&from[..], "-t", &to]);
        let digest = s.ok(&args);
        let (manifest, config) = documents(&s, &to);
        assert_eq!(
            manifest["layers"].as_array().unwrap().len(),
            layers,
            "{name}"
        );
        let history = config["history"].to_string();
        assert!(
            history.contains("layer 3") && history.contains("after 1"),
            "{history}"
        );
        let tree = unpacked(&s, &to, &format!("{name}-bundle"));
        for (path, seen) in &wanted {
            assert_eq!(tree.get(path), Some(seen), "{name}: {}", path.display());
        }
        assert_eq!(tree.len(), wanted.len(), "{name}");
        assert_eq!(ran(&s, &format!("{name}-bundle")), "hello\n");
        // The same bytes again, in the store this time.
        *args.last_mut().unwrap() = "again:1";
        assert_eq!(s.ok(&args), digest, "{name}");
    }
    // Into a registry's kind of archive, and of an archive.
    s.ok(&["copy", &from, "oci-archive:a.tar:x"]);
    s.ok(&[
        "flatten",
        "oci-archive:a.tar",
        "-t",
        "docker-archive:d.tar:d:1",
    ]);
    s.ok(&["copy", "docker-archive:d.tar", "oci:back:x"]);
    let back = format!("oci:{}:x", s.path("back").display());
    assert_eq!(unpacked(&s, &back, "back-bundle"), wanted);
}

#[test]
fn names_are_kept_unless_it_is_said() {
    let s = Sandbox::new();
    let layers = [
        Layer::new().file("a", b"a").end(),
        Layer::new().file("b", b"b").end(),
    ];
    let from = layout(&s, "in", &layers, "amd64");
    let before = s.ok(&["copy", &from, "app:1"]);
    let before = before.split_once('@').unwrap().1.to_owned();
    for (args, why) in [
        (&["flatten", "app:1"][..], "--tag"),
        (&["flatten", "app:1", "-t", "app:1"], "--in-place"),
        (
            &["flatten", "app:1", "-t", "x", "--in-place"],
            "cannot be used",
        ),
        (&["flatten", &before, "--in-place"], "no name in the store"),
        (&["squash", "app:1", "-t", "x"], "--last"),
    ] {
        let ran = s.run(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
    }
    for (args, why) in [
        (
            &["squash", "-n", "3", "app:1", "-t", "x"][..],
            "has 2 layers",
        ),
        (
            &["flatten", "--from", "4", "app:1", "-t", "x"],
            "has 2 layers",
        ),
        (
            &["flatten", "nowhere.invalid/x", "-t", "x"],
            "nowhere.invalid",
        ),
    ] {
        let ran = s.run(args);
        assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
    }
    let digest = |name: &str| s.ok(&["inspect", "--raw", name]);
    assert_eq!(Digest::of(digest("app:1").as_bytes()).as_str(), before);
    assert_ne!(s.run(&["inspect", "x"]).code, Some(0));
    let new = s.ok(&["flatten", "--in-place", "app:1"]);
    assert_ne!(new, before);
    assert_eq!(Digest::of(digest("app:1").as_bytes()).as_str(), new);
    // Nothing to fold: nothing new.
    assert_eq!(s.ok(&["flatten", "app:1", "-t", "app:2"]), new);
}

#[test]
fn layers_that_no_unpacker_takes_are_refused() {
    let s = Sandbox::new();
    let good = || Layer::new().file("a", b"a").end();
    let mut cut = good();
    cut.truncate(700);
    for (name, bad) in [
        ("link to nowhere", Layer::new().hard("b", "nowhere").end()),
        ("loop", Layer::new().sym("l", "l").file("l/x", b"x").end()),
        ("whiteout of nothing", Layer::new().file(".wh.", b"").end()),
        ("cut", cut),
    ] {
        let from = layout(&s, "bad", &[good(), bad], "amd64");
        let ran = s.run(&["flatten", &from, "-t", "x"]);
        assert_eq!(ran.code, Some(1), "{name}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        std::fs::remove_dir_all(s.path("bad")).unwrap();
    }
    // The tar crate writes no `..`; a name is made one by hand.
    let mut escapes = Layer::new().file("aa/escape", b"x").end();
    escapes[..2].copy_from_slice(b"..");
    let sum: u32 = escapes[..148]
        .iter()
        .chain(&escapes[156..512])
        .map(|b| u32::from(*b))
        .sum();
    let sum = sum + 8 * u32::from(b' ');
    escapes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let from = layout(&s, "bad", &[good(), escapes], "amd64");
    let ran = s.run(&["flatten", &from, "-t", "x"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("`..`"), "{}", ran.stderr);
}
