//! Verifying, listing, taking away, and what takes the room.

use serde_json::Value;

use crate::sandbox::Sandbox;

fn json(s: &Sandbox, args: &[&str]) -> Value {
    serde_json::from_str(&s.ok(args)).unwrap()
}

/// A store with a base and a build on it.
fn built(test: &str) -> Option<Sandbox> {
    let s = Sandbox::with_base(test)?;
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM base\nLABEL stage=test\nRUN echo 1 > /a\n",
        )],
    );
    s.build(&context, &["-t", "app:1"]);
    Some(s)
}

#[test]
fn what_is_broken_is_found_and_moved_away() {
    let Some(s) = built("what_is_broken_is_found_and_moved_away") else {
        return;
    };
    let text = s.ok(&["verify", "--all"]);
    assert!(
        text.contains("ok: app:1") && text.contains("ok: base:latest"),
        "{text}"
    );
    let one = json(&s, &["verify", "--format", "json", "app:1"]);
    assert_eq!(
        (&one["images"][0]["ok"], &one["images"][0]["layers"]),
        (&true.into(), &2.into())
    );
    s.ok(&["save", "-o", "app.tar", "app:1"]);
    s.ok(&["verify", "docker-archive:app.tar"]);

    let manifest = json(&s, &["inspect", "--manifest", "app:1"]);
    let digest = manifest["layers"][1]["digest"].as_str().unwrap();
    let blob = s.store().join("blobs").join(digest.replace(':', "/"));
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
    let ran = s.run(&["verify", "app:1"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("BROKEN") && ran.stdout.contains(digest),
        "{}",
        ran.stdout
    );
    let ran = s.run(&["verify", "--all", "--repair", "--format", "json"]);
    assert_eq!(ran.code, Some(1));
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let moved = found["store"][0]["moved"].as_str().unwrap();
    assert!(moved.contains("/aside/") && std::path::Path::new(moved).exists());
    assert!(!blob.exists());
    // The base is as it was, and the layer can be made again.
    s.ok(&["verify", "base"]);
    s.build(
        &s.path("ctx").display().to_string(),
        &["-t", "app:1", "--no-cache"],
    );
    s.ok(&["verify", "--all"]);
}

#[test]
fn images_are_filtered_and_counted() {
    let Some(s) = built("images_are_filtered_and_counted") else {
        return;
    };
    let names = |filter: &str| -> Vec<String> {
        let found = json(&s, &["images", "--format", "json", "--filter", filter]);
        let rows = found.as_array().unwrap().iter();
        rows.map(|r| r["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("label=stage=test"), ["app:1"]);
    assert_eq!(names("label=stage"), ["app:1"]);
    assert_eq!(names("label=stage=other"), [""; 0]);
    assert_eq!(names("reference=b*"), ["base:latest"]);
    assert_eq!(names("until=2021-01-01T00:00:00Z"), ["base:latest"]);
    assert_eq!(names("since=base"), ["app:1"]);
    assert_eq!(names("before=app:1"), ["base:latest"]);
    assert_eq!(s.run(&["images", "--filter", "color=red"]).code, Some(2));
    assert!(s.ok(&["images", "--digests"]).contains("sha256:"));

    let all = json(&s, &["images", "--format", "json"]);
    let size = |i: usize, key: &str| all[i][key].as_u64().unwrap();
    assert_eq!(
        size(0, "size"),
        size(0, "shared_size") + size(0, "unique_size")
    );
    assert_eq!(size(0, "shared_size"), size(1, "size"));
    let df = json(&s, &["df", "--format", "json"]);
    assert_eq!(df["images"]["count"], 2);
    assert!(df["images"]["bytes"].as_u64().unwrap() >= size(0, "size"));
    assert!(df["cache_records"]["count"].as_u64().unwrap() >= 1);
    assert!(s.ok(&["df", "--per-image"]).contains("app:1"));
}

#[test]
fn names_go_and_prune_takes_what_is_left() {
    let Some(s) = built("names_go_and_prune_takes_what_is_left") else {
        return;
    };
    assert_eq!(s.run(&["untag", "app:1", "none:1"]).code, Some(1));
    assert!(s.ok(&["images"]).contains("app"));
    let gone = json(&s, &["untag", "--format", "json", "app:1"]);
    assert_eq!(gone["untagged"][0], "app:1");
    let prune = |args: &[&str]| {
        let args = [&["prune", "--format", "json"], args].concat();
        json(&s, &args)
    };
    // The cache still needs the layer.
    let dry = prune(&["--dry-run", "--filter", "until=240h"]);
    assert_eq!(dry["records"], 0);
    let dry = prune(&["--dry-run", "--keep-storage", "10g"]);
    assert_eq!(dry["records"], 0);
    let dry = prune(&["--dry-run", "--keep-storage", "1"]);
    assert!(dry["records"].as_u64().unwrap() >= 1 && dry["blobs"].as_u64().unwrap() >= 1);
    let real = prune(&["--keep-storage", "1"]);
    assert_eq!(
        (&real["records"], &real["blobs"]),
        (&dry["records"], &dry["blobs"])
    );
    assert_eq!(prune(&["--all"])["records"], 0);
    s.ok(&["verify", "--all"]);
    assert_eq!(s.run(&["prune", "--filter", "label=a"]).code, Some(2));
}

#[test]
fn prune_waits_for_no_build() {
    let Some(s) = Sandbox::with_base("prune_waits_for_no_build") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[("Dockerfile", "FROM base\nRUN sleep 3; echo 1 > /a\n")],
    );
    std::thread::scope(|scope| {
        let build = scope.spawn(|| s.run(&["build", "-t", "slow", &context]));
        // Whatever the moment, the build must not miss anything.
        for _ in 0..10 {
            let _ = s.run(&["prune", "--all"]);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let ran = build.join().unwrap();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    });
    s.ok(&["verify", "--all"]);
}

#[test]
fn shells_and_manuals_are_served() {
    let s = Sandbox::new();
    for (shell, sign) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef shiplap"),
        ("fish", "complete -c shiplap"),
    ] {
        let script = s.ok(&["completions", shell]);
        assert!(
            script.contains(sign) && script.contains("verify"),
            "{shell}"
        );
        assert!(script.contains("per-image"), "{shell}");
    }
    assert_eq!(s.run(&["completions", "tcsh"]).code, Some(2));
    let page = s.ok(&["man", "build"]);
    assert!(
        page.starts_with(".ie") && page.contains("shiplap\\-build"),
        "{page:.300}"
    );
    assert_eq!(s.run(&["man", "nothing"]).code, Some(2));
    s.ok(&["man", "--dir", "pages"]);
    for file in ["shiplap.1", "shiplap-verify.1", "shiplap-man.1"] {
        assert!(s.path("pages").join(file).exists(), "{file}");
    }
    assert!(!s.path("pages/shiplap-debug.1").exists());
    let version = json(&s, &["version", "--format", "json"]);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}
