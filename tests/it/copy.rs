//! Images between places.

use std::path::Path;
use std::process::Command;

use crate::push_pull::{passwords, registry};
use crate::sandbox::{Sandbox, has, skip};

fn raw(s: &Sandbox, place: &str) -> serde_json::Value {
    let out = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false", place])
        .current_dir(s.dir.path())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{place}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The media types of an image's manifest and layers.
fn kinds(manifest: &serde_json::Value) -> (String, Vec<String>) {
    let text = |v: &serde_json::Value| v["mediaType"].as_str().unwrap_or_default().to_owned();
    let layers = manifest["layers"].as_array().unwrap();
    (text(manifest), layers.iter().map(text).collect())
}

#[test]
fn a_copy_keeps_its_digest_through_every_place() {
    let Some(s) = Sandbox::with_base("a_copy_keeps_its_digest_through_every_place") else {
        return;
    };
    let digest = s.ok(&["copy", "base", "oci:a:x"]);
    s.ok(&["copy", "oci:a:x", "dir:b"]);
    s.ok(&["copy", "dir:b", "oci-archive:c.tar:x"]);
    let back = s.ok(&["copy", "oci-archive:c.tar", "back:1"]);
    assert_eq!(back, format!("back@{digest}"));
    // A docker archive has a manifest of its own; the config stays.
    s.ok(&[
        "copy",
        "--additional-tag",
        "e:2",
        "back:1",
        "docker-archive:d.tar:d:1",
    ]);
    let loaded = s.ok(&["load", "-i", "d.tar"]);
    assert_eq!(loaded, "d:1\ne:2");
    let config = |name| s.ok(&["inspect", "--config", name]);
    assert_eq!(config("d:1"), config("base"));
    // Through a pipe.
    let archive = s
        .command(&s.store())
        .args(["copy", "base", "oci-archive:-"])
        .output()
        .unwrap();
    assert!(archive.status.success());
    std::fs::write(s.path("p.tar"), &archive.stdout).unwrap();
    let file = std::fs::File::open(s.path("p.tar")).unwrap();
    let other = s
        .command(&s.path("other"))
        .args(["copy", "oci-archive:-", "piped"])
        .stdin(file)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&other.stdout);
    assert_eq!(
        shown.trim(),
        format!("piped@{digest}"),
        "{}",
        String::from_utf8_lossy(&other.stderr)
    );
}

#[test]
fn conversions_are_what_was_asked_for() {
    const NAME: &str = "conversions_are_what_was_asked_for";
    if !has("skopeo") {
        return skip(NAME, "skopeo is missing");
    }
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    s.ok(&["copy", "--compression", "zstd", "base", "oci:z"]);
    let (_, layers) = kinds(&raw(&s, "oci:z"));
    assert!(layers.iter().all(|l| l.ends_with("tar+zstd")), "{layers:?}");
    // Docker's manifests know no zstd.
    s.ok(&["copy", "--format", "docker", "oci:z", "dir:g"]);
    let (manifest, layers) = kinds(&raw(&s, "dir:g"));
    assert!(
        manifest.contains("docker.distribution.manifest.v2"),
        "{manifest}"
    );
    assert!(layers.iter().all(|l| l.ends_with("tar.gzip")), "{layers:?}");
    // The content is the same, and others can read it.
    s.ok(&["copy", "dir:g", "again"]);
    assert_eq!(
        s.ok(&["inspect", "--config", "again"]),
        s.ok(&["inspect", "--config", "base"])
    );
    for place in ["oci:z", "dir:g"] {
        let to = format!("oci:{}", s.path("read").display());
        let out = Command::new("skopeo")
            .args(["copy", "-q", place, &to])
            .current_dir(s.dir.path())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{place}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    // A level makes another blob only when it is forced to.
    let plain = s.ok(&["copy", "--compression", "gzip", "base", "oci:same"]);
    let id = s.ok(&["copy", "base", "oci:id"]);
    assert_eq!(plain, id);
    let level = ["--compression", "gzip", "--compression-level", "1"];
    let forced: Vec<&str> = ["copy", "--force-compression"]
        .into_iter()
        .chain(level)
        .chain(["base", "oci:level"])
        .collect();
    assert_ne!(s.ok(&forced), id);
    let refused = s.run(&[
        "copy",
        "--preserve-digests",
        "--compression",
        "zstd",
        "base",
        "oci:never",
    ]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("digest would change"),
        "{}",
        refused.stderr
    );
    assert!(!s.path("never").exists());
    let refused = s.run(&[
        "copy",
        "--format",
        "docker",
        "--compression",
        "zstd",
        "base",
        "oci:never",
    ]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

/// Requests of the registry's log that have `part` in them.
fn requests(s: &Sandbox, part: &str) -> usize {
    let log = std::fs::read_to_string(s.path("registry.log")).unwrap();
    log.matches(part).count()
}

#[test]
fn each_registry_gets_a_blob_once() {
    const NAME: &str = "each_registry_gets_a_blob_once";
    if !has("docker-registry") {
        return skip(NAME, "docker-registry is missing");
    }
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let (_server, at) = registry(&s, None);
    let preview = s.ok(&["push", "--dry-run", "base", &format!("{at}/a:1")]);
    assert!(preview.contains("blobs: 2 to send ("), "{preview}");
    assert_eq!(requests(&s, "\"POST /v2/"), 0, "nothing was sent");
    let names = [
        format!("{at}/a:1"),
        format!("{at}/a:2"),
        format!("{at}/b:1"),
        format!("{at}/c/d:1"),
    ];
    let mut args = vec!["push", "--digestfile", "digest", "base"];
    args.extend(names.iter().map(String::as_str));
    let pushed = s.ok(&args);
    let digest = std::fs::read_to_string(s.path("digest")).unwrap();
    for (line, name) in pushed.lines().zip(&names) {
        let (repository, _) = name.rsplit_once(':').unwrap();
        assert_eq!(line, format!("{repository}@{digest}"));
    }
    // Two blobs: sent to one repository, mounted in two.
    assert_eq!(requests(&s, "\"PUT /v2/a/blobs/uploads/"), 2);
    assert_eq!(requests(&s, "\"PUT /v2/b/blobs/uploads/"), 0);
    assert_eq!(requests(&s, "\"PUT /v2/c/d/blobs/uploads/"), 0);
    let to = format!("docker://{at}/e:1");
    let from = format!("docker://{at}/a:2");
    let preview = s.ok(&["copy", "--dry-run", &from, &to]);
    assert!(preview.contains("2 mounted"), "{preview}");
    assert!(preview.contains("blobs: 0 to send (0 bytes)"), "{preview}");
    assert!(preview.contains("  from "), "{preview}");
    assert_eq!(s.run(&["pull", &format!("{at}/e:1")]).code, Some(1));
    s.ok(&["copy", &from, &to]);
    let there = s.ok(&["pull", &format!("{at}/e:1")]);
    assert!(there.ends_with(&digest), "{there}");
    let preview = s.ok(&["push", "--dry-run", "base", &format!("{at}/e:2")]);
    assert!(preview.contains("2 present"), "{preview}");
}

#[test]
fn each_end_has_its_own_credentials() {
    const NAME: &str = "each_end_has_its_own_credentials";
    if !has("docker-registry") || !has("htpasswd") {
        return skip(NAME, "docker-registry or htpasswd is missing");
    }
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let file = passwords(&s, "right");
    let (_server, at) = registry(&s, Some(&file));
    let there = format!("docker://{at}/x:1");
    s.ok(&["copy", "--dest-creds", "ana:right", "base", &there]);
    let other = format!("docker://{at}/y:1");
    let ends = [
        "--src-creds",
        "ana:right",
        "--dest-creds",
        "ana:wrong",
        "--dest-tls-verify=false",
    ];
    let args = |ends: &[&str]| -> Vec<String> {
        let words = ["copy"].into_iter().chain(ends.iter().copied());
        let words = words.chain([there.as_str(), other.as_str()]);
        words.map(str::to_owned).collect()
    };
    let run = |ends: &[&str]| {
        let args = args(ends);
        s.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let refused = run(&ends);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("401") && !refused.stderr.contains("wrong"),
        "{}",
        refused.stderr
    );
    let done = run(&["--creds", "ana:wrong", "--src-creds", "ana:right"]);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let done = run(&["--creds", "ana:wrong", ends[0], ends[1], ends[2], ends[1]]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

#[test]
fn podman_and_buildah_read_what_is_written() {
    const NAME: &str = "podman_and_buildah_read_what_is_written";
    let Some(tool) = ["podman", "buildah"].into_iter().find(|t| has(t)) else {
        return skip(NAME, "neither podman nor buildah is there");
    };
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    s.ok(&["copy", "base", "oci:o:base"]);
    s.ok(&["copy", "base", "oci-archive:o.tar:base"]);
    s.ok(&["copy", "base", "docker-archive:d.tar:localhost/base:1"]);
    s.ok(&["copy", "base", "dir:plain"]);
    let config: serde_json::Value =
        serde_json::from_str(&s.ok(&["inspect", "--config", "base"])).unwrap();
    for tool in ["podman", "buildah"].into_iter().filter(|t| has(t)) {
        for place in [
            "oci:o:base",
            "oci-archive:o.tar",
            "docker-archive:d.tar",
            "dir:plain",
        ] {
            let id = pulled(&s, tool, place);
            assert_eq!(
                diff_ids(&s, tool, &id),
                config["rootfs"]["diff_ids"],
                "{place}"
            );
        }
    }
    // And back: what they write is read here.
    let id = pulled(&s, tool, "oci:o:base");
    for (n, place) in [
        "oci:t:x",
        "oci-archive:t.tar",
        "docker-archive:td.tar",
        "dir:td",
    ]
    .into_iter()
    .enumerate()
    {
        let out = engine(&s, tool)
            .args(["push", "-q", &id, place])
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{place}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let name = format!("theirs:{n}");
        s.ok(&["copy", place, &name]);
        let theirs: serde_json::Value =
            serde_json::from_str(&s.ok(&["inspect", "--config", &name])).unwrap();
        assert_eq!(theirs["rootfs"], config["rootfs"], "{place}");
    }
}

/// podman or buildah with a storage of the test's own.
fn engine(s: &Sandbox, tool: &str) -> Command {
    let mut command = Command::new(tool);
    let dir = |name: &str| s.path(name).display().to_string();
    command
        .current_dir(s.dir.path())
        .args(["--root", &dir("engine"), "--runroot", &dir("engine-run")])
        .args(["--storage-driver", "vfs"]);
    command
}

fn pulled(s: &Sandbox, tool: &str, place: &str) -> String {
    let out = engine(s, tool)
        .args(["pull", "-q", place])
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{tool} {place}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn diff_ids(s: &Sandbox, tool: &str, id: &str) -> serde_json::Value {
    let args: &[&str] = if tool == "podman" {
        &["image", "inspect", id]
    } else {
        &["inspect", "--type", "image", id]
    };
    let out = engine(s, tool).args(args).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    if tool == "podman" {
        value[0]["RootFS"]["Layers"].clone()
    } else {
        value["OCIv1"]["rootfs"]["diff_ids"].clone()
    }
}

#[test]
fn what_is_wrong_is_said_before_anything_is_written() {
    let Some(s) = Sandbox::with_base("what_is_wrong_is_said_before_anything_is_written") else {
        return;
    };
    for (args, code) in [
        (&["copy", "base", "containers-storage:x"][..], 2),
        (&["copy", "base"], 2),
        (
            &[
                "copy",
                "--all",
                "--platform",
                "linux/amd64",
                "base",
                "oci:x",
            ],
            2,
        ),
        (&["copy", "nothing/../x", "oci:x"], 1),
        (&["copy", "dir:absent", "oci:x"], 1),
        (&["copy", "--compression-level", "3", "base", "oci:x"], 2),
        (&["copy", "--additional-tag", "a", "base", "oci:x"], 1),
    ] {
        let ran = s.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
    }
    assert!(!s.path("x").exists());
    // A dry run makes no directory.
    let shown = s.ok(&["copy", "--dry-run", "base", "oci:x"]);
    assert!(shown.contains("2 to send"), "{shown}");
    assert!(!Path::new(&s.path("x")).exists());
}
