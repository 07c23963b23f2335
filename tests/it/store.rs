//! The store under hands that are rough with it.

use crate::sandbox::Sandbox;

#[test]
fn names_are_given_and_taken() {
    let Some(s) = Sandbox::with_base("names_are_given_and_taken") else {
        return;
    };
    s.ok(&["tag", "base", "reg.example/team/base:2"]);
    let images = s.ok(&["images"]);
    assert!(
        images.contains("reg.example/team/base") && images.contains("latest"),
        "{images}"
    );
    let config: serde_json::Value =
        serde_json::from_str(&s.ok(&["inspect", "--config", "base:latest"])).unwrap();
    assert_eq!(
        config["architecture"],
        std::env::consts::ARCH
            .replace("x86_64", "amd64")
            .replace("aarch64", "arm64")
    );
    let manifest: serde_json::Value =
        serde_json::from_str(&s.ok(&["inspect", "--manifest", "base"])).unwrap();
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    assert!(s.ok(&["history", "base"]).contains("base.tar"));
    s.ok(&["rmi", "base"]);
    assert_eq!(s.run(&["inspect", "base"]).code, Some(1));
    s.ok(&["inspect", "reg.example/team/base:2"]);
}

#[test]
fn several_builds_share_a_store() {
    let Some(s) = Sandbox::with_base("several_builds_share_a_store") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM base\nRUN echo a > /a\nCOPY Dockerfile /\nRUN echo b > /b\n",
        )],
    );
    std::thread::scope(|scope| {
        let builds: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| s.run(&["build", "-t", "same", &context])))
            .collect();
        for build in builds {
            let ran = build.join().unwrap();
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        }
    });
    assert!(s.ok(&["history", "same"]).contains("RUN"));
}

#[test]
fn a_corrupt_blob_is_found() {
    let Some(s) = Sandbox::with_base("a_corrupt_blob_is_found") else {
        return;
    };
    let manifest: serde_json::Value =
        serde_json::from_str(&s.ok(&["inspect", "--manifest", "base"])).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let blob = s
        .store()
        .join("blobs/sha256")
        .join(digest.strip_prefix("sha256:").unwrap());
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&blob, mode).unwrap();
    std::fs::write(&blob, bytes).unwrap();
    let context = s.context("ctx", &[("Dockerfile", "FROM base\nRUN true\n")]);
    let ran = s.run(&["build", "-t", "never", &context]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains(&digest), "{}", ran.stderr);
    assert!(!s.ok(&["images"]).contains("never"));
}
