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
    cut.truncate(512);
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

/// Paths in an image's layers, lowest first.
fn listed(s: &Sandbox, dir: &str, manifest: &Value) -> Vec<Vec<String>> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    let paths = |layer: &Value| {
        let hex = layer["digest"].as_str().unwrap().replace("sha256:", "");
        let blob = s.path(dir).join("blobs/sha256").join(hex);
        let bytes = std::fs::read(blob).unwrap();
        let entries = match layer["mediaType"].as_str().unwrap().ends_with("gzip") {
            true => {
                use std::io::Read;
                let mut tar = Vec::new();
                let mut gzip = flate2::read::MultiGzDecoder::new(&bytes[..]);
                gzip.read_to_end(&mut tar).unwrap();
                tar
            }
            false => bytes,
        };
        let mut archive = tar::Archive::new(&entries[..]);
        let path = |e: std::io::Result<tar::Entry<'_, &[u8]>>| {
            e.unwrap().path().unwrap().display().to_string()
        };
        archive.entries().unwrap().map(path).collect()
    };
    layers.map(paths).collect()
}

/// A sandbox with an image of three plain layers at `oci:in:x`.
fn plain(s: &Sandbox) -> String {
    let layers = [
        Layer::new()
            .dir("etc/", 0o755)
            .file("etc/hello", b"hello\n")
            .file("etc/secret", b"secret")
            .end(),
        Layer::new().hard("etc/copy", "etc/secret").end(),
        Layer::new().file("last", b"last").end(),
    ];
    layout(s, "in", &layers, "amd64")
}

#[test]
fn a_layer_is_appended() {
    const NAME: &str = "a_layer_is_appended";
    if !has("skopeo") || !has("umoci") || !rustix::process::geteuid().is_root() {
        return skip(NAME, "it takes root, skopeo and umoci");
    }
    let s = Sandbox::new();
    let from = plain(&s);
    let files = s.path("files");
    std::fs::create_dir_all(files.join("sub")).unwrap();
    std::fs::write(files.join("sub/a"), "a").unwrap();
    std::fs::hard_link(files.join("sub/a"), files.join("b")).unwrap();
    std::os::unix::fs::symlink("sub/a", files.join("c")).unwrap();
    let to = |name: &str| format!("oci:{}:x", s.path(name).display());
    let args = [
        "append",
        &from,
        "files",
        "-t",
        &to("dir"),
        "--prefix",
        "/srv/www",
    ];
    s.ok(&[
        &args[..],
        &["--chown", "7:8", "--chmod", "0750", "-m", "mine"],
    ]
    .concat());
    let (manifest, config) = documents(&s, &to("dir"));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 4);
    let last = config["history"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(last["comment"], "mine");
    let tree = unpacked(&s, &to("dir"), "dir-bundle");
    let is = |path: &str, begin: &str| {
        let seen = &tree[Path::new(path)];
        assert!(seen.starts_with(begin), "{path}: {seen}");
    };
    is("srv/www/sub/a", "100750 7:8");
    is("srv/www/sub", "40750 7:8");
    is("srv/www/c", "120777 7:8");
    is("etc/hello", "100644 0:0");
    assert!(
        tree[Path::new("srv/www/sub/a")].contains("=srv/www/b"),
        "a hard link"
    );
    // A tar in any compression, whiteouts in it, from a pipe too.
    let tar = Layer::new()
        .file("new", b"n")
        .file("etc/.wh.hello", b"")
        .end();
    std::fs::write(s.path("t.tar.zst"), zstd::encode_all(&tar[..], 3).unwrap()).unwrap();
    std::fs::write(s.path("t.tar"), &tar).unwrap();
    let one = s.ok(&[
        "append",
        &from,
        "t.tar.zst",
        "-t",
        &to("tar"),
        "--created-by",
        "x",
    ]);
    let piped = s
        .command(&s.store())
        .env("SOURCE_DATE_EPOCH", "1600000000")
        .args(["append", &from, "-", "-t", "piped"])
        .stdin(std::fs::File::open(s.path("t.tar")).unwrap())
        .output()
        .unwrap();
    assert!(piped.status.success() && one.starts_with("sha256:"));
    let history = s.ok(&["history", "piped", "--format", "json"]);
    assert!(history.contains("2020-09-13T12:26:40Z"), "{history}");
    let tree = unpacked(&s, &to("tar"), "tar-bundle");
    assert!(tree.contains_key(Path::new("new")) && !tree.contains_key(Path::new("etc/hello")));
    // Nothing that leads out, nothing that is no tar.
    for (content, why) in [("in", "oci-layout"), ("in/oci-layout", "no tar")] {
        let ran = s.run(&["append", &from, content, "-t", "y", "--prefix", "/"]);
        assert_eq!(
            ran.code == Some(0),
            content == "in",
            "{why}: {}",
            ran.stderr
        );
    }
    assert_eq!(
        s.run(&["append", &from, "files", "-t", "y", "--prefix", "/../x"])
            .code,
        Some(2)
    );
    std::fs::write(files.join(".wh.x"), "").unwrap();
    let ran = s.run(&["append", &from, "files", "-t", "z"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains(".wh."), "{}", ran.stderr);
    assert_ne!(s.run(&["inspect", "z"]).code, Some(0));
}

#[test]
fn an_image_comes_to_stand_on_another_base() {
    const NAME: &str = "an_image_comes_to_stand_on_another_base";
    if !has("skopeo") || !has("umoci") {
        return skip(NAME, "skopeo or umoci is missing");
    }
    let s = Sandbox::new();
    let base = |text: &str| {
        vec![
            Layer::new()
                .dir("etc/", 0o755)
                .file("etc/base", text.as_bytes())
                .end(),
            Layer::new().file("etc/second", text.as_bytes()).end(),
        ]
    };
    let old = layout(&s, "old", &base("old"), "amd64");
    let mut new_layers = base("new");
    new_layers.push(Layer::new().file("etc/third", b"third").end());
    let new = layout(&s, "new", &new_layers, "amd64");
    let mut own = base("old");
    own.push(Layer::new().file("app", b"app").end());
    let app = layout(&s, "app", &own, "amd64");
    s.ok(&["copy", &old, "base:1"]);
    let at = |name: &str| format!("oci:{}:x", s.path(name).display());
    let args = ["--old-base", "base:1", "--new-base", &new, "-t", &at("out")];
    s.ok(&[&["rebase", &app][..], &args].concat());
    let (manifest, config) = documents(&s, &at("out"));
    let (new_manifest, _) = documents(&s, &new);
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 4);
    assert_eq!(
        manifest["layers"][2], new_manifest["layers"][2],
        "layers keep their digests"
    );
    let by: Vec<&str> = (config["history"].as_array().unwrap().iter())
        .map(|e| e["created_by"].as_str().unwrap())
        .collect();
    let wanted = [
        "layer 1", "after 1", "layer 2", "after 2", "layer 3", "after 3",
    ];
    assert_eq!(by, [&wanted[..], &["layer 3", "after 3"]].concat());
    // Without names, as the annotations say: what the base's name stands for
    // now, and what it was then.
    s.ok(&[
        "rebase",
        &app,
        "--old-base",
        "base:1",
        "--new-base",
        "base:1",
        "-t",
        "app:1",
    ]);
    let noted = s.ok(&["inspect", "--manifest", "app:1"]);
    assert!(
        noted.contains("image.base.name\": \"docker.io/library/base:1\""),
        "{noted}"
    );
    s.ok(&["tag", "base:1", "kept"]);
    s.ok(&["copy", &new, "base:1"]);
    s.ok(&["rebase", "app:1", "-t", "app:2"]);
    s.ok(&["copy", "app:2", &at("two")]);
    let tree = |name: &str| {
        let bundle = format!("{name}-bundle");
        unpacked(&s, &at(name), &bundle)
            .into_keys()
            .collect::<Vec<_>>()
    };
    assert_eq!(tree("two"), tree("out"));
    // An image that stands on something else is refused.
    let ran = s.run(&[
        "rebase",
        &app,
        "--old-base",
        &new,
        "--new-base",
        &old,
        "-t",
        "x",
    ]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("does not stand on"), "{}", ran.stderr);
    let ran = s.run(&["rebase", &app, "-t", "x"]);
    assert!(
        ran.stderr.contains("--new-base") || ran.stderr.contains("--old-base"),
        "{}",
        ran.stderr
    );
    assert_ne!(s.run(&["inspect", "x"]).code, Some(0));
}

#[test]
fn every_field_of_a_config_can_be_changed() {
    const NAME: &str = "every_field_of_a_config_can_be_changed";
    if !has("skopeo") {
        return skip(NAME, "skopeo is missing");
    }
    let s = Sandbox::new();
    let from = plain(&s);
    let to = format!("oci:{}:x", s.path("out").display());
    let set = [
        "mutate",
        &from,
        "-t",
        &to,
        "--env",
        "PATH=/sbin",
        "--env",
        "A=b=c",
        "--label",
        "l=1",
        "--user",
        "7:8",
        "--workdir",
        "/w",
        "--entrypoint",
        r#"["e","f"]"#,
        "--cmd",
        "echo $HOME",
        "--shell",
        r#"["/bin/x"]"#,
        "--expose",
        "80",
        "--expose",
        "53/udp",
        "--volume",
        "/v",
        "--stop-signal",
        "SIGINT",
        "--healthcheck",
        "--interval=5s CMD true",
        "--author",
        "me",
        "--annotation",
        "n=o",
        "--set-platform",
        "linux/arm/v7",
        "--created",
        "2021-01-01T00:00:00Z",
    ];
    s.ok(&set);
    let (manifest, config) = documents(&s, &to);
    assert_eq!(manifest["annotations"], json!({"n": "o"}));
    assert_eq!(config["author"], "me");
    assert_eq!(config["created"], "2021-01-01T00:00:00Z");
    assert_eq!(
        [&config["os"], &config["architecture"], &config["variant"]],
        ["linux", "arm", "v7"]
    );
    assert_eq!(
        config["config"],
        json!({
            "User": "7:8", "WorkingDir": "/w", "Env": ["PATH=/sbin", "A=b=c"],
            "Entrypoint": ["e", "f"], "Cmd": ["/bin/x", "echo $HOME"], "Shell": ["/bin/x"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/v": {}},
            "Labels": {"l": "1"}, "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_i64},
        })
    );
    let told = config["history"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .to_string();
    assert!(
        told.contains("ENV A=b=c") && told.contains("empty_layer\":true"),
        "{told}"
    );
    // And taken away again.
    let undo = [
        "mutate",
        &to,
        "--in-place",
        "--no-history",
        "--unset-env",
        "A",
        "--unset-label",
        "l",
        "--user",
        "",
        "--workdir",
        "",
        "--unset-entrypoint",
        "--unset-cmd",
        "--unset-expose",
        "80",
        "--unset-volume",
        "/v",
        "--unset-stop-signal",
        "--unset-healthcheck",
        "--author",
        "",
        "--unset-annotation",
        "n",
    ];
    s.ok(&undo);
    let (manifest, after) = documents(&s, &to);
    assert_eq!(manifest["annotations"], Value::Null);
    assert_eq!(
        after["config"],
        json!({"Env": ["PATH=/sbin"], "ExposedPorts": {"53/udp": {}}, "Shell": ["/bin/x"]})
    );
    assert_eq!(after["history"], config["history"]);
}

#[test]
fn changes_of_a_config_that_make_no_sense_are_refused() {
    let s = Sandbox::new();
    let from = plain(&s);
    for (args, code, why) in [
        (&["--unset-env", "NONE"][..], 1, "no variable NONE"),
        (&["--unset-volume", "/none"], 1, "no volume /none"),
        (&[], 2, "nothing is to be changed"),
        (&["--expose", "many"], 1, "many"),
        (&["--created", "yesterday"], 2, "RFC 3339"),
        (&["--cmd", "x\nRUN y"], 2, "line end"),
    ] {
        let ran = s.run(&[&["mutate", &from, "-t", "x"][..], args].concat());
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn layers_in_another_form_have_the_same_content() {
    const NAME: &str = "layers_in_another_form_have_the_same_content";
    if !has("skopeo") {
        return skip(NAME, "skopeo is missing");
    }
    let s = Sandbox::new();
    let from = plain(&s);
    let at = |name: &str| format!("oci:{}:x", s.path(name).display());
    let (_, config) = documents(&s, &from);
    let kinds = |manifest: &Value| {
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers
            .map(|l| l["mediaType"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    s.ok(&[
        "recompress",
        &from,
        "--compression",
        "zstd",
        "-t",
        &at("zstd"),
    ]);
    let (zstd, same) = documents(&s, &at("zstd"));
    assert_eq!(same, config);
    assert!(kinds(&zstd).iter().all(|k| k.ends_with("+zstd")));
    let args = [
        "recompress",
        &at("zstd"),
        "--compression",
        "gzip",
        "--compression-level",
        "9",
    ];
    let made = s.ok(&[&args[..], &["-t", "g", "--format", "json"]].concat());
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["images"][0]["layers"].as_array().unwrap().len(), 3);
    assert_eq!(made["name"], "g");
    s.ok(&["convert", &at("zstd"), "--format", "docker", "-t", "dir:d"]);
    let (docker, same) = documents(&s, "dir:d");
    assert!(docker["mediaType"].as_str().unwrap().contains("docker"));
    assert!(
        kinds(&docker).iter().all(|k| k.ends_with("tar.gzip")),
        "{docker}"
    );
    assert_eq!(same["rootfs"], config["rootfs"]);
    // New layers have the family of their image.
    std::fs::write(s.path("t.tar"), Layer::new().file("n", b"").end()).unwrap();
    s.ok(&["append", "dir:d", "t.tar", "-t", "dir:e"]);
    let (docker, _) = documents(&s, "dir:e");
    assert!(
        kinds(&docker).iter().all(|k| k.ends_with("tar.gzip")),
        "{docker}"
    );
    let ran = s.run(&[
        "append",
        "dir:d",
        "t.tar",
        "-t",
        "dir:f",
        "--compression",
        "zstd",
    ]);
    assert!(
        ran.code != Some(0) && ran.stderr.contains("zstd"),
        "{}",
        ran.stderr
    );
    s.ok(&["convert", "dir:e", "--format", "oci", "-t", &at("back")]);
    assert!(
        documents(&s, &at("back")).0["mediaType"]
            .as_str()
            .unwrap()
            .contains("oci")
    );
}

#[test]
fn nothing_is_later_than_the_instant() {
    const NAME: &str = "nothing_is_later_than_the_instant";
    if !has("skopeo") || !has("umoci") {
        return skip(NAME, "skopeo or umoci is missing");
    }
    let s = Sandbox::new();
    let late = |mtime| Put {
        mtime,
        ..Put::default()
    };
    let layers = [
        Layer::new().file("old", b"old").end(),
        Layer::new()
            .put(tar::EntryType::Regular, "late", 0o644, late(1_700_000_000))
            .put(tar::EntryType::Regular, "early", 0o644, late(1_000_000_000))
            .end(),
    ];
    let from = layout(&s, "in", &layers, "amd64");
    let to = format!("oci:{}:x", s.path("out").display());
    let epoch = "1550000000";
    let digest = s.ok(&["timestamp", &from, "-t", &to, "--epoch", epoch]);
    let (before, _) = documents(&s, &from);
    let (manifest, config) = documents(&s, &to);
    assert_eq!(manifest["layers"][0], before["layers"][0]);
    assert_ne!(manifest["layers"][1], before["layers"][1]);
    assert_eq!(config["created"], "2019-02-12T19:33:20Z");
    assert!(!config.to_string().contains("2020-"), "{config}");
    let tree = unpacked(&s, &to, "bundle");
    for (path, time) in [
        ("old", " 1500000000."),
        ("late", " 1550000000."),
        ("early", " 1000000000."),
    ] {
        assert!(tree[Path::new(path)].contains(time), "{path}");
    }
    // The same from the environment; and again, nothing.
    let again = s
        .command(&s.store())
        .env("SOURCE_DATE_EPOCH", epoch)
        .args(["timestamp", &from, "-t", "env"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim(), digest);
    let time = "2019-02-12T19:33:20Z";
    assert_eq!(
        s.ok(&["timestamp", "env", "-t", "twice", "--epoch", time]),
        digest
    );
    assert_eq!(s.run(&["timestamp", &from, "-t", "x"]).code, Some(2));
}

#[test]
fn files_are_stripped_and_their_links_stay() {
    const NAME: &str = "files_are_stripped_and_their_links_stay";
    if !has("skopeo") || !has("umoci") || !rustix::process::geteuid().is_root() {
        return skip(NAME, "it takes root, skopeo and umoci");
    }
    let s = Sandbox::new();
    let layers = [
        Layer::new()
            .dir("etc/", 0o755)
            .file("etc/secret", b"secret")
            .hard("etc/within", "etc/secret")
            .hard("etc/more", "etc/within")
            .dir("doc/", 0o755)
            .file("doc/a", b"a")
            .dir("usr/", 0o755)
            .dir("usr/lib/", 0o755)
            .sym("lib", "usr/lib")
            .end(),
        // Of the layer below, by a name that goes and through one that goes.
        Layer::new()
            .hard("other", "etc/secret")
            .file("lib/x", b"x")
            .end(),
        Layer::new()
            .file("last", b"last")
            .file("doc/.wh.a", b"")
            .end(),
    ];
    let from = layout(&s, "in", &layers, "amd64");
    let before = unpacked(&s, &from, "in-bundle");
    let at = |name: &str| format!("oci:{}:x", s.path(name).display());
    let gone = |path: &Path| {
        path.starts_with("doc") || path == Path::new("etc/secret") || path == Path::new("lib")
    };
    let mut wanted: BTreeMap<PathBuf, String> = before;
    wanted.retain(|path, _| !gone(path));
    for (name, more) in [("soft", &[][..]), ("hard", &["--hard"])] {
        let patterns = ["/etc/sec*", "doc", "lib"];
        let to = at(name);
        let args = [&["strip", &from, "-t", &to][..], more, &patterns].concat();
        s.ok(&args);
        let (manifest, _) = documents(&s, &at(name));
        let mut tree = unpacked(&s, &at(name), &format!("{name}-bundle"));
        // Directories in which something is gone have another time.
        for dir in ["etc", "", "usr/lib"] {
            tree.remove(Path::new(dir));
            wanted.remove(Path::new(dir));
        }
        assert_eq!(tree, wanted, "{name}");
        let paths = listed(&s, name, &manifest);
        if name == "soft" {
            assert_eq!(paths.len(), 4);
            assert_eq!(paths[3], [".wh.doc", "etc/.wh.secret", ".wh.lib"]);
            continue;
        }
        assert_eq!(paths.len(), 3);
        let all = paths.concat().join(" ");
        assert!(
            !all.contains("secret") && !all.contains("doc") && !all.contains(".wh."),
            "{all}"
        );
    }
    // Only in one layer: the others keep their digest. Nothing: the same image.
    let (old, _) = documents(&s, &from);
    s.ok(&["strip", "--hard", &from, "last", "-t", &at("one")]);
    let (new, _) = documents(&s, &at("one"));
    assert_eq!(new["layers"][0], old["layers"][0]);
    assert_eq!(new["layers"][1], old["layers"][1]);
    let same = s.ok(&["strip", &from, "nowhere/*", "-t", "none"]);
    assert_eq!(s.ok(&["copy", &from, "copied"]), format!("copied@{same}"));
    for bad in ["!x", "[", ""] {
        assert_eq!(
            s.run(&["strip", &from, bad, "-t", "x"]).code,
            Some(2),
            "{bad}"
        );
    }
}

#[test]
fn all_images_of_an_index_are_changed() {
    const NAME: &str = "all_images_of_an_index_are_changed";
    if !has("skopeo") || !has("docker-registry") {
        return skip(NAME, "skopeo or docker-registry is missing");
    }
    let s = Sandbox::new();
    let entries: Vec<Value> = ["amd64", "arm64"]
        .iter()
        .map(|arch| {
            let layers = [
                Layer::new().file("arch", arch.as_bytes()).end(),
                Layer::new().file("b", b"b").end(),
            ];
            image(&s, "in", &layers, arch)
        })
        .collect();
    let mut attestation = image(&s, "in", &[Layer::new().file("att", b"").end()], "amd64");
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.digest": entries[0]["digest"]});
    let kind = "application/vnd.oci.image.index.v1+json";
    let list = [&entries[..], &[attestation]].concat();
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": list, "annotations": {"k": "v"}});
    let bytes = index.to_string();
    let digest = Digest::of(bytes.as_bytes());
    std::fs::write(s.path("in/blobs/sha256").join(digest.encoded()), &bytes).unwrap();
    let entry = json!({"mediaType": kind, "digest": digest, "size": bytes.len(), "annotations": {"org.opencontainers.image.ref.name": "x"}});
    let top = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(s.path("in/index.json"), top.to_string()).unwrap();
    let from = format!("oci:{}:x", s.path("in").display());
    let (_server, registry) = crate::push_pull::registry(&s, None);
    let name = format!("docker://{registry}/app:1");
    s.ok(&["copy", "--all", &from, &name]);
    // From the registry to the registry.
    let to = format!("docker://{registry}/app:2");
    let made = s.ok(&["flatten", &name, "-t", &to, "--format", "json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["images"].as_array().unwrap().len(), 2);
    let raw = said(Command::new("skopeo").args(["inspect", "--tls-verify=false", "--raw", &to]));
    let index: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(Digest::of(raw.as_bytes()).as_str(), made["digest"]);
    assert_eq!(index["annotations"], json!({"k": "v"}));
    let platforms: Vec<&Value> = (index["manifests"].as_array().unwrap().iter())
        .map(|e| &e["platform"]["architecture"])
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    // One of them, in place: the name stands for one image then.
    s.ok(&[
        "mutate",
        &to,
        "--in-place",
        "--platform",
        "linux/arm64",
        "--label",
        "a=b",
    ]);
    let (manifest, config) = documents(&s, &to);
    assert_eq!(config["architecture"], "arm64");
    assert_eq!(config["config"]["Labels"], json!({"a": "b"}));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let ran = s.run(&["flatten", &name, "-t", "x", "--platform", "linux/s390x"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("linux/s390x"), "{}", ran.stderr);
}
