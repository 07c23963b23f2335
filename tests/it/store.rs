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
    assert_eq!(s.run(&["inspect", "--retry=0", "base"]).code, Some(1));
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

/// A docker-archive of an image with these layers, lowest first.
fn docker_archive(layers: &[Vec<u8>]) -> Vec<u8> {
    use shiplap::digest::Digest;
    let diff_ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}.tar")).collect();
    let manifest =
        serde_json::json!([{"Config": "c.json", "RepoTags": ["odd:1"], "Layers": names}]);
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, data).unwrap();
    };
    put("c.json", config.to_string().as_bytes());
    for (name, layer) in names.iter().zip(layers) {
        put(name, layer);
    }
    put("manifest.json", manifest.to_string().as_bytes());
    tar.into_inner().unwrap()
}

#[test]
fn layers_that_lean_on_those_below() {
    let Some(s) = Sandbox::with_base("layers_that_lean_on_those_below") else {
        return;
    };
    // No entry for /tmp, which is 1777 below; and a link to a file below.
    let mut upper = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    upper.append_data(&mut header, "tmp/x", &b"x"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    upper
        .append_link(&mut header, "linked", "bin/busybox")
        .unwrap();
    let base = std::fs::read(s.path("base.tar")).unwrap();
    let archive = s.path("odd.tar");
    std::fs::write(
        &archive,
        docker_archive(&[base, upper.into_inner().unwrap()]),
    )
    .unwrap();
    s.ok(&["load", "-i", archive.to_str().unwrap()]);
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM odd:1\nRUN stat -c %a /tmp > /r; cat /tmp/x >> /r; cmp /linked /bin/busybox && echo linked >> /r\n",
        )],
    );
    assert_eq!(s.file_of(&context, &[], "r"), "1777\nxlinked\n");
}
