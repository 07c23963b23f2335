//! What is in an image, from every place, without unpacking it.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use shiplap::digest::Digest;

use crate::registries::fake::Registry;
use crate::sandbox::{Sandbox, has, skip};

/// An image of three layers, built here.
fn built(test: &str) -> Option<Sandbox> {
    let s = Sandbox::with_base(test)?;
    let context = s.context(
        "ctx",
        &[
            ("Dockerfile", "FROM base\nCOPY tree /srv/\nRUN printf longer > /srv/a && rm /srv/b && ln -s /srv/a /etc/link && chmod 4750 /srv/d/c\nLABEL org.example.name=x\n"),
            ("tree/a", "one"),
            ("tree/b", "gone soon"),
            ("tree/d/c", "see"),
        ],
    );
    s.build(&context, &["-t", "app:1"]);
    Some(s)
}

fn json(s: &Sandbox, args: &[&str]) -> Value {
    serde_json::from_str(&s.ok(args)).unwrap()
}

/// The entry of `path` in a list of files.
fn entry<'a>(files: &'a Value, path: &str) -> &'a Value {
    let files = files["files"].as_array().unwrap();
    files
        .iter()
        .find(|f| f["path"] == path)
        .unwrap_or(&Value::Null)
}

#[test]
fn what_is_in_an_image() {
    let Some(s) = built("what_is_in_an_image") else {
        return;
    };
    let layers = json(&s, &["layers", "--format", "json", "app:1"]);
    let layers = layers["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    let numbers = |n: usize| {
        let of = |field: &str| layers[n][field].as_u64().unwrap();
        (of("added"), of("changed"), of("removed"))
    };
    // srv, a, b, d, c; then a, c and etc/link.
    assert_eq!(numbers(1), (5, 0, 0));
    assert_eq!(numbers(2), (1, 2, 1));
    assert_eq!(layers[2]["removed_bytes"], 9);
    assert!(
        layers[2]["instruction"]
            .as_str()
            .unwrap()
            .starts_with("RUN ")
    );
    let config = json(&s, &["inspect", "--config", "app:1"]);
    for (n, layer) in layers.iter().enumerate() {
        assert_eq!(layer["diff_id"], config["rootfs"]["diff_ids"][n]);
    }

    let tree = json(&s, &["tree", "--format", "json", "app:1"]);
    let c = entry(&tree, "/srv/d/c");
    assert_eq!(
        (c["mode"].as_str(), c["size"].as_u64()),
        (Some("4750"), Some(3))
    );
    assert_eq!(c["digest"], Digest::of(b"see").as_str());
    assert_eq!(c["layer"], 3);
    assert_eq!(entry(&tree, "/etc/link")["target"], "/srv/a");
    assert_eq!(entry(&tree, "/srv")["total"], 9);
    assert_eq!(entry(&tree, "/srv/b"), &Value::Null);

    let top = s.ok(&["tree", "--layer", "3", "app:1"]);
    for line in [
        "~ -rw-r--r--",
        "- -rw-r--r--",
        "+ lrwxrwxrwx",
        "~ -rwsr-x---",
    ] {
        assert!(top.lines().any(|l| l.starts_with(line)), "{line}\n{top}");
    }
    assert!(!top.contains("busybox"), "{top}");
    let by_digest = layers[2]["diff_id"].as_str().unwrap();
    assert_eq!(s.ok(&["tree", "--layer", &by_digest[..20], "app:1"]), top);
    assert_eq!(s.run(&["tree", "--layer", "4", "app:1"]).code, Some(2));

    let deep = s.ok(&["tree", "app:1", "-L", "1"]);
    assert!(deep.contains("srv") && !deep.contains("busybox"), "{deep}");
    let filtered = s.ok(&["tree", "app:1", "bu*box", "/srv/d"]);
    assert!(filtered.contains("busybox") && filtered.contains("c\n") || filtered.ends_with('c'));
    assert!(!filtered.contains("passwd"), "{filtered}");
    let sorted = s.ok(&["tree", "app:1", "-L", "1", "--sort", "size"]);
    let names: Vec<&str> = sorted
        .lines()
        .filter_map(|l| l.split("── ").nth(1))
        .collect();
    assert_eq!((names[0], names[1]), ("bin", "etc"));

    assert_eq!(s.ok(&["ls", "app:1", "/srv"]), "a\nd");
    let long = s.ok(&["ls", "-lR", "app:1", "srv/"]);
    assert!(long.contains("/srv/d:\n-rwsr-x---  0:0  3B"), "{long}");
    assert!(
        s.ok(&["ls", "-ld", "app:1", "/srv"])
            .starts_with("drwxr-xr-x")
    );
    let list = json(&s, &["ls", "--format", "json", "app:1", "/srv"]);
    assert_eq!(list["files"].as_array().unwrap().len(), 2);

    assert_eq!(
        s.ok(&["cat", "app:1", "/etc/link", "srv/d/../d/c"]),
        "longersee"
    );
    for (path, says) in [
        ("/srv/b", "/srv/b was removed by layer 3: RUN"),
        ("/srv/none", "the image has no /srv/none"),
        ("/srv", "is a directory"),
    ] {
        let ran = s.run(&["cat", "app:1", path]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
}

#[test]
fn what_is_wasted() {
    let Some(s) = built("what_is_wasted") else {
        return;
    };
    let found = json(&s, &["wasted", "--format", "json", "app:1"]);
    // a (3) was overwritten, b (9) removed, c (3) written again for its mode.
    assert_eq!(found["wasted_bytes"], 15);
    assert_eq!(found["paths"][0]["path"], "/srv/b");
    assert_eq!(found["paths"][0]["removed"], true);
    assert_eq!(found["paths"][0]["layers"], serde_json::json!([2, 3]));
    assert_eq!(found["user_written_bytes"], 3 + 9 + 3 + 6 + 3);
    assert!(found["efficiency"].as_f64().unwrap() > 0.99);
    for (args, code) in [
        (&["--fail-above", "15"][..], 0),
        (&["--fail-above", "14"], 1),
        (&["--fail-above", "0.0001%"], 1),
        (&["--fail-above", "50%"], 0),
        (&["--highestWastedBytes", "14"], 1),
        (&["--lowestEfficiency", "0.9"], 0),
        (&["--lowest-efficiency", "1"], 1),
        (&["--highest-user-wasted-percent", "0.1"], 1),
        (&["--fail-above", "much"], 2),
    ] {
        let ran = s.run(&[&["wasted", "app:1"], args].concat());
        assert_eq!(
            ran.code,
            Some(code),
            "{args:?}\n{}{}",
            ran.stdout,
            ran.stderr
        );
        assert_eq!(ran.stdout.contains("failed: "), code == 1, "{args:?}");
    }
}

#[test]
fn an_image_is_described() {
    let Some(s) = built("an_image_is_described") else {
        return;
    };
    let all = json(&s, &["inspect", "--format", "json", "app:1"]);
    assert_eq!(all["names"][0], "app:1");
    assert_eq!(all["layers"].as_array().unwrap().len(), 3);
    let text = s.ok(&["inspect", "app:1"]);
    let digest = all["digest"].as_str().unwrap();
    assert!(
        text.contains(digest) && text.contains("org.example.name=x"),
        "{text}"
    );
    let raw = s.ok(&["inspect", "--raw", "app:1"]);
    assert_eq!(Digest::of(raw.as_bytes()).as_str(), digest);
    let config = s.ok(&["inspect", "--raw", "--config", "app:1"]);
    assert_eq!(Digest::of(config.as_bytes()).as_str(), all["id"]);
    for (form, is) in [
        (".digest", digest),
        ("{config.labels.org.example.name}!", "x!"),
        ("{history.1.empty_layer}{Author}", ""),
    ] {
        let shown = s.run(&["inspect", "--format", form, "app:1"]);
        match is {
            "" => assert_eq!(shown.code, Some(1), "{form}"),
            _ => assert_eq!(shown.stdout.trim_end(), is, "{form}"),
        }
    }
    assert_eq!(s.run(&["inspect", "-f", "{{.Id}}", "app:1"]).code, Some(2));
    let history = json(&s, &["history", "--format", "json", "app:1"]);
    assert_eq!(history[0]["layer_number"], Value::Null);
    assert_eq!(history[1]["layer_number"], 3);
    assert_eq!(history[1]["layer"], all["layers"][2]["digest"]);
}

/// Every place gives the same answers.
#[test]
fn every_place_is_looked_into() {
    let Some(s) = built("every_place_is_looked_into") else {
        return;
    };
    let registry = Registry::start();
    let remote = format!("docker://{}/app:1", registry.host());
    let places = [
        "oci:layout:app".to_owned(),
        "oci-archive:oci.tar".into(),
        "docker-archive:docker.tar".into(),
        "dir:plain".into(),
        remote.clone(),
    ];
    let tree = s.ok(&["tree", "app:1"]);
    let history = json(&s, &["history", "--format", "json", "app:1"]);
    for place in &places {
        s.ok(&["copy", "-q", "app:1", place]);
        // Each with a store that knows nothing.
        let other = s.path(&format!("other{}", place.len()));
        let run = |args: &[&str]| {
            let ran = s.run_in(&other, args);
            assert_eq!(ran.code, Some(0), "{args:?}\n{}", ran.stderr);
            ran.stdout.trim_end().to_owned()
        };
        assert_eq!(run(&["tree", place]), tree, "{place}");
        assert_eq!(run(&["cat", place, "/srv/a"]), "longer", "{place}");
        let told: Value =
            serde_json::from_str(&run(&["history", "--format", "json", place])).unwrap();
        assert_eq!(told[1]["created_by"], history[1]["created_by"], "{place}");
        std::fs::remove_dir_all(other).unwrap();
    }

    // Only what is needed is read: no layer for its documents, and with an
    // index only the end of one.
    let count = |registry: &Registry| registry.count("GET", "/blobs/");
    let other = s.path("other");
    registry.clear_log();
    s.run_in(&other, &["inspect", &remote]);
    s.run_in(&other, &["history", &remote]);
    assert_eq!(count(&registry), 2);
    registry.clear_log();
    s.run_in(&other, &["layers", &remote]);
    assert_eq!(count(&registry), 4);
    registry.clear_log();
    let again = s.run_in(&other, &["tree", &remote]);
    assert_eq!(again.stdout.trim_end(), tree);
    assert_eq!(count(&registry), 1);
}

#[test]
fn a_part_of_a_layer_is_read() {
    let s = Sandbox::new();
    // Noise, so that the layer has several members.
    let mut noise = vec![0_u8; 6 << 20];
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    let context = s.context(
        "ctx",
        &[
            ("Dockerfile", "FROM scratch\nCOPY t /\n"),
            ("t/z", "the end"),
        ],
    );
    std::fs::write(s.path("ctx/t/noise"), &noise).unwrap();
    for compression in ["gzip", "zstd", "uncompressed"] {
        let registry = Registry::start();
        let remote = format!("docker://{}/app:1", registry.host());
        s.build(&context, &["--compression", compression, "-t", "big"]);
        s.ok(&["copy", "-q", "big", &remote]);
        let other = s.path(compression);
        assert_eq!(s.run_in(&other, &["ls", &remote]).stdout, "noise\nz\n");
        registry.clear_log();
        assert_eq!(s.run_in(&other, &["cat", &remote, "z"]).stdout, "the end");
        let begin = |range: &String| {
            let begin = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            begin.parse::<u64>().ok()
        };
        let log = registry.log();
        let ranges = log.iter().filter_map(|l| l.headers.get("range"));
        let ranges: Vec<u64> = ranges.filter_map(begin).collect();
        assert_eq!(ranges.len(), 1, "{compression}");
        assert!(ranges[0] > 4 << 20, "{compression}: {ranges:?}");
        let whole = s.run_in(&other, &["cat", &remote, "noise"]);
        assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    }
}

#[test]
fn a_damaged_index_is_made_anew_and_a_damaged_layer_is_no_file() {
    let s = Sandbox::new();
    let context = s.context(
        "ctx",
        &[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "whole")],
    );
    s.build(&context, &["--compression", "uncompressed", "-t", "app"]);
    let tree = s.ok(&["tree", "app"]);
    let dir = s.store().join("indexes");
    let index = std::fs::read_dir(&dir)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = std::fs::read(&index).unwrap();
    for damage in [&good[..good.len() / 2], b"", b"sha256:00\nnothing"] {
        std::fs::write(&index, damage).unwrap();
        assert_eq!(s.ok(&["tree", "app"]), tree);
        assert!(std::fs::read(&index).unwrap() == good);
    }
    let layer = json(&s, &["inspect", "--format", "json", "app"])["layers"][0]["digest"].clone();
    let hex = layer
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap()
        .to_owned();
    let blob = s.store().join("blobs/sha256").join(hex);
    let mut bytes = std::fs::read(&blob).unwrap();
    let at = bytes.windows(5).position(|w| w == b"whole").unwrap();
    bytes[at] = b'W';
    std::fs::set_permissions(&blob, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&blob, bytes).unwrap();
    let ran = s.run(&["cat", "app", "a"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("is not what"), "{}", ran.stderr);
    std::fs::remove_file(&index).unwrap();
    assert_eq!(s.run(&["tree", "app"]).code, Some(1));
    assert!(!index.exists());
    // Nothing leads to the layer: its index goes with it.
    std::fs::write(&index, &good).unwrap();
    s.ok(&["rmi", "app"]);
    s.ok(&["prune", "--all"]);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

/// A layer whose tar is `bytes`, as an image in a layout.
fn image_of(s: &Sandbox, name: &str, bytes: &[u8]) -> String {
    let path = s.path(name);
    let blobs = path.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.encoded()), bytes).unwrap();
        digest
    };
    let layer = put(bytes);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created_by": "evil\x1b[31m\nline"}],
    })
    .to_string();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": put(config.as_bytes()), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer, "size": bytes.len()}],
    })
    .to_string();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": put(manifest.as_bytes()), "size": manifest.len()}]});
    std::fs::write(path.join("index.json"), index.to_string()).unwrap();
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    format!("oci:{}", path.display())
}

fn tar_of(entries: &[(&[u8], tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn hostile_layers_are_only_looked_at() {
    use tar::EntryType::{Link, Regular, Symlink};
    let s = Sandbox::new();
    let tar = tar_of(&[
        (b"a\x1b[31mred", Regular, "", b"x"),
        (b"new\nline", Regular, "", b"y"),
        (b"\xff\xfe", Regular, "", b"z"),
        (b"up", Symlink, "../../../etc/passwd", b""),
        (b"loop", Symlink, "loop", b""),
        (b"dangling", Link, "nothing", b""),
    ]);
    let image = image_of(&s, "names", &tar);
    for command in ["tree", "ls", "layers", "wasted", "history", "inspect"] {
        let ran = s.run(&[command, &image]);
        assert_eq!(ran.code, Some(0), "{command}\n{}", ran.stderr);
        assert!(
            !ran.stdout.contains('\x1b') && !ran.stderr.contains('\x1b'),
            "{command}"
        );
    }
    let shown = s.run(&["ls", &image]);
    assert_eq!(shown.stdout.lines().count(), 6, "{}", shown.stdout);
    assert!(
        shown
            .stderr
            .contains("dangling: its target nothing does not exist")
    );
    let files = json(&s, &["tree", "--format", "json", &image]);
    let odd = files["files"].as_array().unwrap();
    assert!(odd.iter().any(|f| f["path_base64"] == "L//+"), "{files}");
    assert!(odd.iter().any(|f| f["path"] == "/new\nline"));
    // Links lead nowhere but into the image.
    for path in ["up", "loop", "/../../etc/shadow"] {
        let ran = s.run(&["cat", &image, path]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{path}");
    }
    for (name, tar) in [
        ("slip", tar_of(&[(b"../x", Regular, "", b"x")])),
        ("cut", tar[..512].to_vec()),
        ("none", vec![7; 4096]),
    ] {
        let ran = s.run(&["tree", &image_of(&s, name, &tar)]);
        assert_eq!(ran.code, Some(1), "{name}");
        assert!(
            ran.stderr.contains("can't read the layer sha256:"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn images_of_other_tools_are_read() {
    const NAME: &str = "images_of_other_tools_are_read";
    if !has("umoci") {
        return skip(NAME, "umoci is missing");
    }
    let s = Sandbox::new();
    let umoci = |args: &[&str]| {
        let ran = Command::new("umoci")
            .args(args)
            .current_dir(s.path(""))
            .output();
        let ran = ran.unwrap();
        assert!(
            ran.status.success(),
            "{args:?} {}",
            String::from_utf8_lossy(&ran.stderr)
        );
    };
    std::fs::create_dir_all(s.path("one/d")).unwrap();
    std::fs::write(s.path("one/d/f"), "first").unwrap();
    std::fs::create_dir_all(s.path("two")).unwrap();
    std::fs::write(s.path("two/g"), "second").unwrap();
    umoci(&["init", "--layout", "lay"]);
    umoci(&["new", "--image", "lay:app"]);
    umoci(&["insert", "--rootless", "--image", "lay:app", "one", "/x"]);
    umoci(&[
        "insert",
        "--rootless",
        "--image",
        "lay:app",
        "--opaque",
        "two",
        "/x/d",
    ]);
    umoci(&[
        "insert",
        "--rootless",
        "--image",
        "lay:app",
        "--whiteout",
        "/x/d/g",
    ]);
    let place = "oci:lay:app";
    let layers = json(&s, &["layers", "--format", "json", place]);
    let removed: Vec<u64> = layers["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["removed"].as_u64().unwrap())
        .collect();
    assert_eq!(removed, [0, 1, 1]);
    assert_eq!(s.ok(&["ls", "-R", place, "/x"]), "/x:\nd\n\n/x/d:");
    let gone = s.run(&["cat", place, "/x/d/f"]);
    assert!(
        gone.stderr.contains("removed by layer 2"),
        "{}",
        gone.stderr
    );
    let wasted = json(&s, &["wasted", "--format", "json", place]);
    assert_eq!(wasted["wasted_bytes"], 11);
}
