//! Layers that mean harm, and layers that only look like it, by every way into
//! the program: nothing outside a root is ever touched, what must be refused is
//! refused everywhere, and what images legitimately have is the same tree
//! whichever way it took.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;
use shiplap::digest::Digest;

use crate::sandbox::{Ran, Sandbox};
use crate::takeout::listing;

/// An element of a layer, byte for byte as it is given.
#[derive(Debug, Clone)]
struct Element {
    kind: u8,
    name: String,
    mode: u32,
    /// Content of a file, or what a link leads to.
    text: String,
    device: (u32, u32),
    xattrs: Vec<(&'static str, &'static str)>,
}

fn element(kind: u8, name: &str, mode: u32, text: &str) -> Element {
    Element {
        kind,
        name: name.into(),
        mode,
        text: text.into(),
        device: (1, 3),
        xattrs: Vec::new(),
    }
}

fn file(name: &str, text: &str) -> Element {
    element(b'0', name, 0o644, text)
}

fn hard(name: &str, target: &str) -> Element {
    element(b'1', name, 0o644, target)
}

fn link(name: &str, target: &str) -> Element {
    element(b'2', name, 0o777, target)
}

fn device(name: &str) -> Element {
    element(b'3', name, 0o666, "")
}

fn dir(name: &str) -> Element {
    element(b'5', name, 0o755, "")
}

fn pipe(name: &str) -> Element {
    element(b'6', name, 0o644, "")
}

impl Element {
    fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    fn xattr(mut self, name: &'static str, value: &'static str) -> Self {
        self.xattrs.push((name, value));
        self
    }

    fn number(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        let is_link = matches!(self.kind, b'1' | b'2');
        let mut records = String::new();
        for (name, value) in &self.xattrs {
            record(&mut records, &format!("SCHILY.xattr.{name}"), value);
        }
        if self.name.len() > 100 {
            record(&mut records, "path", &self.name);
        }
        if is_link && self.text.len() > 100 {
            record(&mut records, "linkpath", &self.text);
        }
        if !records.is_empty() {
            block(out, b'x', "pax", 0o644, &records, "", (0, 0));
        }
        let (body, target) = match is_link {
            true => ("", self.text.as_str()),
            false => (self.text.as_str(), ""),
        };
        let cut = |text: &str| text.chars().take(100).collect::<String>();
        let (name, target) = (cut(&self.name), cut(target));
        block(out, self.kind, &name, self.mode, body, &target, self.device);
    }
}

fn record(out: &mut String, key: &str, value: &str) {
    let rest = format!(" {key}={value}\n");
    let mut len = rest.len();
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    let _ = write!(out, "{len}{rest}");
}

fn block(
    out: &mut Vec<u8>,
    kind: u8,
    name: &str,
    mode: u32,
    body: &str,
    target: &str,
    device: (u32, u32),
) {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", body.len()).as_bytes());
    put(136, b"13136450000");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", device.0).as_bytes());
    put(337, format!("{:07o}", device.1).as_bytes());
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.extend(block);
    out.extend(body.as_bytes());
    out.resize(out.len().next_multiple_of(512), 0);
}

fn tar(layer: &[Element]) -> Vec<u8> {
    let mut out = Vec::new();
    for element in layer {
        element.write(&mut out);
    }
    out.extend([0; 1024]);
    out
}

/// What becomes of an image.
#[derive(Debug, Clone)]
enum Fate {
    Refused,
    /// These paths are what is said: a text is a file's content, `-> x` a
    /// link, `/` a directory, `!` nothing.
    Made(Vec<(String, String)>),
}

fn made(paths: &[(&str, &str)]) -> Fate {
    let owned = |(path, what): &(&str, &str)| ((*path).to_owned(), (*what).to_owned());
    Fate::Made(paths.iter().map(owned).collect())
}

type Case = (&'static str, Vec<Vec<Element>>, Fate);

/// `out` is a directory that nothing may touch, as an absolute path, and
/// `inside` the same below a root.
fn names(out: &str, inside: &str) -> Vec<Case> {
    let refused = |name, layer| (name, vec![layer], Fate::Refused);
    let deep = "x/../../../../../../../../../../../../outside/pwn";
    let up = |make: fn(&str) -> Element| vec![make("../outside/pwn")];
    vec![
        refused("L-01 file", up(|n| file(n, "x"))),
        refused("L-01 directory", up(dir)),
        refused("L-01 link", up(|n| link(n, "/etc"))),
        refused(
            "L-01 hard link",
            vec![file("a", ""), hard("../outside/pwn", "a")],
        ),
        refused("L-01 device", up(device)),
        refused("L-01 pipe", up(pipe)),
        refused(
            "L-01 middle",
            vec![dir("a"), file("a/../../outside/pwn", "x")],
        ),
        refused("L-01 deep", vec![dir("x"), file(deep, "x")]),
        refused("L-01 itself", vec![file("..", "x")]),
        refused("L-01 at the end", vec![dir("a"), dir("a/..")]),
        refused("L-01 after a dot", vec![file("./../pwn", "x")]),
        (
            "L-01 four dots",
            vec![vec![file("....//x", "legal")]],
            made(&[("..../x", "legal")]),
        ),
        (
            "L-02 absolute",
            vec![vec![
                file(&format!("{out}/pwn"), "in"),
                file("//etc/x", "y"),
            ]],
            made(&[(&format!("{inside}/pwn"), "in"), ("etc/x", "y")]),
        ),
        refused("L-02 absolute and up", vec![file("/../../pwn", "x")]),
        refused(
            "L-03 link for the root",
            vec![link(".", out), file("pwn", "x")],
        ),
        refused(
            "L-03 link for a slash",
            vec![link("/", out), file("pwn", "x")],
        ),
        refused("L-03 file for the root", vec![file(".", "x")]),
        refused("L-03 empty name", vec![file("", "x")]),
        refused(
            "L-03 hard link for the root",
            vec![dir("etc"), hard(".", "etc")],
        ),
        (
            "L-03 locked root",
            vec![vec![dir(".").mode(0), file("in", "x")]],
            made(&[("in", "x")]),
        ),
    ]
}

fn links(out: &str, inside: &str) -> Vec<Case> {
    let pwn = format!("{inside}/pwn");
    let one = |name, layer, fate| (name, vec![layer], fate);
    vec![
        one(
            "L-04 absolute parent",
            vec![link("d", out), file("d/pwn", "in")],
            made(&[("d", &format!("-> {out}")), (&pwn, "in")]),
        ),
        one(
            "L-04 relative parent",
            vec![link("d", "../../../outside"), file("d/pwn", "in")],
            made(&[("outside/pwn", "in")]),
        ),
        one(
            "L-04 chain",
            vec![link("a", out), link("b", "a"), file("b/pwn", "in")],
            made(&[(&pwn, "in")]),
        ),
        one(
            "L-04 directory through a link",
            vec![link("d", out), dir("d/pwn")],
            made(&[(&pwn, "/")]),
        ),
        one(
            "L-04 loop",
            vec![link("a", "a"), file("a/x", "x")],
            Fate::Refused,
        ),
        (
            "L-05 parent of an earlier layer",
            vec![vec![link("d", out)], vec![file("d/pwn", "in")]],
            made(&[(&pwn, "in")]),
        ),
        (
            "L-05 with a whiteout between",
            vec![
                vec![link("d", out)],
                vec![file(".wh.d", "")],
                vec![file("d/pwn", "in")],
            ],
            made(&[("d", "/"), ("d/pwn", "in"), (inside, "!")]),
        ),
        (
            "L-07 through a lower link",
            vec![
                vec![dir("real"), link("d", "real")],
                vec![file("d/x", "in")],
            ],
            made(&[("d", "-> real"), ("real/x", "in")]),
        ),
        one(
            "L-08 relative",
            vec![hard("h", "../outside/canary")],
            Fate::Refused,
        ),
        one(
            "L-08 absolute",
            vec![hard("h", &format!("{out}/canary"))],
            Fate::Refused,
        ),
        one(
            "L-09 of the current directory",
            vec![hard("h", "victim")],
            Fate::Refused,
        ),
        one(
            "L-10 through a link",
            vec![link("d", out), hard("h", "d/canary")],
            Fate::Refused,
        ),
        one(
            "L-10 to a link",
            vec![
                link("s", &format!("{out}/canary")),
                hard("h", "s"),
                file("h", "PWN").mode(0o4777),
            ],
            made(&[("h", "PWN"), ("s", &format!("-> {out}/canary"))]),
        ),
        (
            "L-11 of a lower layer",
            vec![
                vec![file("a", "1")],
                vec![hard("b", "a")],
                vec![file("a", "2")],
            ],
            made(&[("a", "2"), ("b", "1")]),
        ),
        (
            "L-11 of what is removed",
            vec![
                vec![file("a", "1")],
                vec![file(".wh.a", ""), hard("b", "a")],
            ],
            Fate::Refused,
        ),
        one(
            "L-12 to a directory",
            vec![dir("d"), hard("h", "d")],
            Fate::Refused,
        ),
        one("L-12 to itself", vec![hard("h", "h")], Fate::Refused),
        one(
            "L-12 forward",
            vec![hard("h", "later"), file("later", "")],
            Fate::Refused,
        ),
    ]
}

fn replaced(out: &str) -> Vec<Case> {
    let to_out = format!("-> {out}");
    vec![
        (
            "L-13 directory over a link",
            vec![vec![link("d", out)], vec![dir("d").mode(0o777)]],
            made(&[("d", "/")]),
        ),
        (
            "L-13 in one layer",
            vec![vec![
                link("d", out),
                dir("d").mode(0o777),
                file("d/pwn", "in"),
            ]],
            made(&[("d", "/"), ("d/pwn", "in")]),
        ),
        (
            "L-13 link over a locked directory",
            vec![vec![dir("d").mode(0o500), file("d/x", ""), link("d", out)]],
            made(&[("d", &to_out)]),
        ),
        (
            "L-14 file over a link",
            vec![
                vec![link("f", &format!("{out}/canary"))],
                vec![file("f", "mine")],
            ],
            made(&[("f", "mine")]),
        ),
        (
            "L-14 in one layer",
            vec![vec![link("f", &format!("{out}/canary")), file("f", "mine")]],
            made(&[("f", "mine")]),
        ),
        (
            "L-15 file, directory, link",
            vec![
                vec![file("x", "1")],
                vec![dir("x"), file("x/y", "")],
                vec![link("x", out)],
            ],
            made(&[("x", &to_out)]),
        ),
        (
            "L-15 link, file, directory",
            vec![vec![
                link("x", out),
                file("x", "1"),
                dir("x"),
                file("x/y", "in"),
            ]],
            made(&[("x/y", "in")]),
        ),
        (
            "L-15 file under a file",
            vec![vec![file("x", "1")], vec![file("x/y", "in")]],
            made(&[("x/y", "in")]),
        ),
        (
            "L-16 twice",
            vec![vec![file("x", "1"), file("x", "2")]],
            made(&[("x", "2")]),
        ),
    ]
}

fn whiteouts(out: &str) -> Vec<Case> {
    let lower = || vec![dir("d"), file("d/lower", "1"), file("x", "1")];
    let refused = |name, layer| (name, vec![lower(), layer], Fate::Refused);
    vec![
        refused("L-17 no name", vec![file(".wh.", "")]),
        refused("L-17 the directory itself", vec![file("d/.wh..", "")]),
        refused("L-17 the one above", vec![file("d/.wh...", "")]),
        refused("L-17 outside", vec![file("../.wh.outside", "")]),
        (
            "L-17 through a link",
            vec![vec![link("d", out)], vec![file("d/.wh.canary", "")]],
            made(&[("d", &format!("-> {out}"))]),
        ),
        (
            "L-17 opaque through a link",
            vec![vec![link("d", out)], vec![file("d/.wh..wh..opq", "")]],
            made(&[("d", &format!("-> {out}"))]),
        ),
        (
            "L-18 of the layer's own",
            vec![lower(), vec![file("x", "2"), file(".wh.x", "")]],
            made(&[("x", "2"), ("d/lower", "1")]),
        ),
        (
            "L-18 all that is below",
            vec![lower(), vec![file("own", "2"), file(".wh..wh..opq", "")]],
            made(&[("own", "2"), ("x", "!"), ("d", "!")]),
        ),
        (
            "L-19 opaque after the entries",
            vec![
                lower(),
                vec![dir("d"), file("d/own", "2"), file("d/.wh..wh..opq", "")],
            ],
            made(&[("d/own", "2"), ("d/lower", "!")]),
        ),
        (
            "L-19 nested",
            vec![
                vec![dir("a"), dir("a/b"), file("a/b/1", ""), file("a/2", "")],
                vec![
                    file("a/.wh..wh..opq", ""),
                    file("a/b/.wh.1", ""),
                    file("a/b/3", "in"),
                ],
            ],
            made(&[("a/2", "!"), ("a/b/1", "!"), ("a/b/3", "in")]),
        ),
        (
            "L-20 a device",
            vec![lower(), vec![device("x").number(0, 0)]],
            Fate::Refused,
        ),
        (
            "L-20 attributes",
            vec![
                lower(),
                vec![
                    dir("d")
                        .xattr("trusted.overlay.opaque", "y")
                        .xattr("user.overlay.opaque", "y"),
                    file("f", "").xattr("user.overlay.whiteout", "y"),
                    file("x", "").xattr("trusted.overlay.whiteout", "y"),
                ],
            ],
            made(&[("d/lower", "1"), ("f", ""), ("x", "")]),
        ),
        (
            "L-20 redirects",
            vec![
                lower(),
                vec![
                    dir("r").xattr("trusted.overlay.redirect", "/../../etc"),
                    file("r/in", "1").xattr("trusted.overlay.metacopy", ""),
                ],
            ],
            made(&[("r/in", "1"), ("d/lower", "1")]),
        ),
    ]
}

/// What images have, and what was refused by one program or another.
fn legitimate() -> Vec<Case> {
    let over = "../../../../../../../../../../etc/x";
    vec![
        (
            "L-06 more dots than directories",
            vec![vec![
                dir("etc"),
                link("etc/pki", over),
                link("etc/none", "/no/such"),
            ]],
            made(&[
                ("etc/pki", &format!("-> {over}")),
                ("etc/none", "-> /no/such"),
            ]),
        ),
        (
            "L-06 merged usr",
            vec![
                vec![dir("usr"), dir("usr/bin"), link("bin", "usr/bin")],
                vec![file("bin/sh", "s")],
            ],
            made(&[("bin", "-> usr/bin"), ("usr/bin/sh", "s")]),
        ),
        (
            "L-06 var/run",
            vec![
                vec![dir("run"), dir("var"), link("var/run", "/run")],
                vec![file("var/run/x", "in")],
            ],
            made(&[("var/run", "-> /run"), ("run/x", "in")]),
        ),
        (
            "L-06 pnpm",
            vec![vec![
                dir("store"),
                dir("store/pkg"),
                dir("node_modules"),
                link("node_modules/pkg", "../store/pkg"),
                file("node_modules/pkg/index.js", "js"),
            ]],
            made(&[("store/pkg/index.js", "js")]),
        ),
        (
            "L-06 written again",
            vec![
                vec![
                    dir("etc"),
                    file("etc/passwd", "1"),
                    dir("bin"),
                    link("bin/sh", "dash"),
                    file("bin/dash", "d"),
                ],
                vec![file("etc/passwd", "2"), link("bin/sh", "bash")],
            ],
            made(&[
                ("etc/passwd", "2"),
                ("bin/sh", "-> bash"),
                ("bin/dash", "d"),
            ]),
        ),
        (
            "L-06 set-user-id, attributes, pipes and devices",
            vec![vec![
                file("su", "s").mode(0o4755),
                file("noted", "n").xattr("user.note", "1"),
                pipe("pipe"),
                device("null"),
                dir("tmp").mode(0o1777),
            ]],
            made(&[("su", "s"), ("noted", "n"), ("tmp", "/")]),
        ),
    ]
}

/// The place of one case.
struct Place {
    sandbox: Sandbox,
    name: String,
}

/// All that says whether somebody was at the canary.
fn canary(s: &Sandbox) -> Vec<String> {
    let mut lines = listing(&s.path("outside"));
    for path in ["outside", "outside/canary", "victim"] {
        let meta = std::fs::metadata(s.path(path)).unwrap();
        lines.push(format!(
            "{path} {:o} {} {}.{}",
            meta.mode(),
            meta.nlink(),
            meta.ctime(),
            meta.ctime_nsec()
        ));
    }
    lines
}

fn blob(layout: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let path = layout.join("blobs").join(digest.as_str().replace(':', "/"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    digest
}

fn config(layers: &[Vec<u8>]) -> serde_json::Value {
    let diff_ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
    json!({
        "architecture": shiplap::platform::Platform::host().architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

/// Writes the layers as an OCI layout at `layout`.
fn write_layout(layout: &Path, layers: &[Vec<u8>]) {
    let of = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": blob(layout, bytes), "size": bytes.len()});
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let layer_list: Vec<_> = layers.iter().map(|l| of(kind, l)).collect();
    let config = config(layers).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": of("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": layer_list,
    })
    .to_string();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let index = json!({"schemaVersion": 2, "manifests": [of(kind, manifest.as_bytes())]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let marker = json!({"imageLayoutVersion": "1.0.0"});
    std::fs::write(layout.join("oci-layout"), marker.to_string()).unwrap();
}

/// What `docker save` would have written of them.
fn write_archive(path: &Path, layers: &[Vec<u8>]) {
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    let names: Vec<String> = (0..layers.len())
        .map(|n| format!("{n}/layer.tar"))
        .collect();
    for (name, layer) in names.iter().zip(layers) {
        put(name, layer);
    }
    put("config.json", config(layers).to_string().as_bytes());
    let manifest = json!([{"Config": "config.json", "RepoTags": ["loaded:1"], "Layers": names}]);
    put("manifest.json", manifest.to_string().as_bytes());
    archive.finish().unwrap();
}

impl Place {
    fn run(&self, args: &[&str]) -> Ran {
        self.sandbox.run(args)
    }

    /// Runs it, and expects what the fate is.
    #[track_caller]
    fn expect(&self, fate: &Fate, args: &[&str]) {
        let ran = self.run(args);
        let code = match fate {
            Fate::Refused => Some(1),
            Fate::Made(_) => Some(0),
        };
        assert_eq!(ran.code, code, "{}: {args:?}\n{}", self.name, ran.stderr);
    }

    #[track_caller]
    fn same(&self, tree: &str, other: &str) {
        let (a, b) = (self.list(tree), self.list(other));
        assert_eq!(a, b, "{}: {tree} and {other}", self.name);
    }

    fn list(&self, tree: &str) -> Vec<String> {
        // The times of implied directories are nobody's.
        let lines = listing(&self.sandbox.path(tree)).into_iter();
        lines.filter(|line| !line.contains(" 40755 0:0 ")).collect()
    }
}

/// Checks a path of a tree without following a link.
fn check(name: &str, tree: &Path, path: &str, what: &str) {
    let full = tree.join(path);
    let found = std::fs::symlink_metadata(&full);
    let actual = match &found {
        Err(_) => "!".to_owned(),
        Ok(meta) if meta.is_dir() => "/".to_owned(),
        Ok(meta) if meta.is_symlink() => {
            format!("-> {}", std::fs::read_link(&full).unwrap().display())
        }
        Ok(_) => std::fs::read_to_string(&full).unwrap(),
    };
    assert_eq!(actual, what, "{name}: {path}");
}

/// Runs one case by all ways.
fn try_case(sandbox: Sandbox, (name, layers, fate): &Case) {
    let place = Place {
        sandbox,
        name: (*name).to_owned(),
    };
    let s = &place.sandbox;
    let tars: Vec<Vec<u8>> = layers.iter().map(|l| tar(l)).collect();
    std::fs::create_dir(s.path("image")).unwrap();
    write_layout(&s.path("image"), &tars);
    write_archive(&s.path("saved.tar"), &tars);
    let before = canary(s);

    place.expect(fate, &["unpack", "-q", "oci:image", "tree"]);
    place.expect(fate, &["export", "-q", "oci:image", "-o", "export.tar"]);
    // Copying looks at no entries; what comes after does.
    let copied = place.run(&["copy", "-q", "oci:image", "copied"]);
    assert_eq!(copied.code, Some(0), "{name}\n{}", copied.stderr);
    let context = s.context(
        "from",
        &[(
            "Dockerfile",
            "FROM copied\nRUN --mount=type=bind,from=base,target=/.b [\"/.b/bin/busybox\", \"true\"]\n",
        )],
    );
    place.expect(
        fate,
        &["build", "-q", "-o", "type=local,dest=built", &context],
    );
    let loaded = place.run(&["load", "-q", "-i", "saved.tar"]);
    if loaded.code == Some(0) {
        place.expect(fate, &["unpack", "-q", "loaded:1", "loaded"]);
    } else {
        assert!(matches!(fate, Fate::Refused), "{name}\n{}", loaded.stderr);
    }
    // An archive that is added or imported is no layer: its whiteouts are
    // nothing special. It harms as little.
    let mut dockerfile = "FROM scratch\n".to_owned();
    for (n, tar) in tars.iter().enumerate() {
        let file = s.path("add").join(format!("{n}.tar"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let mut file = std::fs::File::create(file).unwrap();
        file.write_all(tar).unwrap();
        let _ = writeln!(dockerfile, "ADD {n}.tar /");
    }
    let context = s.context("add", &[("Dockerfile", &dockerfile)]);
    let added = place.run(&["build", "-q", "-o", "type=local,dest=added", &context]);
    assert!(
        added.code.is_some_and(|c| c < 2),
        "{name}\n{}",
        added.stderr
    );
    let imported = place.run(&["import", "-q", "add/0.tar", "imported"]);
    if imported.code == Some(0) {
        let ran = place.run(&["unpack", "-q", "imported", "imported"]);
        assert!(ran.code.is_some_and(|c| c < 2), "{name}\n{}", ran.stderr);
    }

    if let Fate::Made(paths) = fate {
        for (path, what) in paths {
            check(name, &s.path("tree"), path, what);
        }
        place.same("tree", "built");
        place.same("tree", "loaded");
        place.expect(fate, &["import", "-q", "export.tar", "exported"]);
        place.expect(fate, &["unpack", "-q", "exported", "exported"]);
        place.same("tree", "exported");
        std::fs::write(s.path("tree/added"), "x").unwrap();
        place.expect(fate, &["repack", "-q", "tree", "repacked"]);
        place.expect(fate, &["unpack", "-q", "repacked", "repacked"]);
        place.same("tree", "repacked");
    }
    assert_eq!(canary(s), before, "{name}: something outside was touched");
    assert_eq!(stray(s.dir.path()), Vec::<PathBuf>::new(), "{name}");
}

/// What attacks would have made and is in no root.
fn stray(dir: &Path) -> Vec<PathBuf> {
    let roots = [
        "tree", "built", "loaded", "added", "imported", "exported", "repacked",
    ];
    let mut found = Vec::new();
    let mut todo = vec![(dir.to_owned(), true)];
    while let Some((dir, top)) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            if name.as_bytes().starts_with(b"pwn") {
                found.push(path.clone());
            }
            let is_root = (top && roots.iter().any(|r| name == *r)) || name == "fs";
            if !is_root && std::fs::symlink_metadata(&path).unwrap().is_dir() {
                todo.push((path, false));
            }
        }
    }
    found
}

/// A sandbox with something in it that nobody may touch.
fn guarded(test: &str) -> Option<Sandbox> {
    let s = Sandbox::with_base(test)?;
    std::fs::create_dir(s.path("outside")).unwrap();
    std::fs::write(s.path("outside/canary"), "alive").unwrap();
    std::fs::write(s.path("victim"), "alive").unwrap();
    let mode = |path: &str, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(s.path(path), mode).unwrap();
    };
    mode("outside/canary", 0o600);
    mode("outside", 0o700);
    Some(s)
}

fn try_all(test: &str, cases: impl Fn(&str, &str) -> Vec<Case>) {
    let count = cases("/x", "x").len();
    for n in 0..count {
        let Some(s) = guarded(test) else { return };
        let out = s.path("outside").display().to_string();
        let inside = out.trim_start_matches('/').to_owned();
        try_case(s, &cases(&out, &inside)[n]);
    }
}

#[test]
fn names_stay_inside() {
    try_all("names_stay_inside", names);
}

#[test]
fn links_stay_inside() {
    try_all("links_stay_inside", links);
}

#[test]
fn what_is_replaced_is_not_followed() {
    try_all("what_is_replaced_is_not_followed", |out, _| replaced(out));
}

#[test]
fn whiteouts_concern_lower_layers_only() {
    try_all("whiteouts_concern_lower_layers_only", |out, _| {
        whiteouts(out)
    });
}

#[test]
fn what_images_have_is_kept() {
    try_all("what_images_have_is_kept", |_, _| legitimate());
}
