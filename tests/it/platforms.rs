//! Images for several platforms.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::push_pull::registry;
use crate::sandbox::{Ran, Sandbox, Server, has, skip};

/// A base that says it is for both platforms, with a file that says which.
fn two_platforms(s: &Sandbox, name: &str) {
    let context = s.context(
        "base-ctx",
        &[
            (
                "Dockerfile",
                "ARG TARGETARCH\nFROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n",
            ),
            ("amd64", "amd64\n"),
            ("arm64", "arm64\n"),
        ],
    );
    s.build(
        &context,
        &["--platform", "linux/amd64,linux/arm64", "-t", name],
    );
}

fn manifests(s: &Sandbox, name: &str) -> Vec<serde_json::Value> {
    let shown = s.ok(&["index", "inspect", "--format", "json", name]);
    let index: serde_json::Value = serde_json::from_str(&shown).unwrap();
    index["manifests"].as_array().unwrap().clone()
}

fn architectures(s: &Sandbox, name: &str) -> Vec<String> {
    let entries = manifests(s, name);
    let of = |m: &serde_json::Value| m["platform"]["architecture"].as_str().unwrap().to_owned();
    entries.iter().map(of).collect()
}

#[test]
fn one_build_makes_one_index() {
    let Some(s) = Sandbox::with_base("one_build_makes_one_index") else {
        return;
    };
    two_platforms(&s, "two");
    assert_eq!(architectures(&s, "two"), ["amd64", "arm64"]);
    // Shared stages run once, others once for each platform; RUN on the
    // build's own platform only.
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM --platform=$BUILDPLATFORM base AS tool\nRUN echo shared > /tool\n\
             FROM --platform=$BUILDPLATFORM base AS cross\nARG TARGETPLATFORM TARGETARCH\n\
             RUN echo for $TARGETPLATFORM > /out\n\
             FROM two\nCOPY --from=tool /tool /tool\nCOPY --from=cross /out /out\n",
        )],
    );
    let oci = s.path("o").display().to_string();
    let built = s.build(
        &context,
        &[
            "--no-cache",
            "--platform",
            "linux/amd64",
            "--platform",
            "linux/arm64",
            "-t",
            "app",
            "-o",
            "type=image",
            "-o",
            &format!("type=oci,tar=false,dest={oci}"),
            "-o",
            "type=oci,dest=app.tar",
            "-o",
            "type=local,dest=files",
            "-o",
            "type=tar,dest=files.tar",
            "--annotation",
            "index:all=1",
            "--annotation",
            "manifest[linux/arm64],manifest-descriptor[linux/arm64]:only=arm",
            "--metadata-file",
            "meta",
            "--iidfile",
            "iid",
        ],
    );
    let digest = built.stdout.trim();
    let count = |part: &str| {
        let starts = built.stderr.lines().filter(|l| l.contains(part));
        starts.count()
    };
    assert_eq!(count("RUN echo shared"), 1, "{}", built.stderr);
    assert_eq!(count("RUN echo for"), 2, "{}", built.stderr);
    for arch in ["amd64", "arm64"] {
        let dir = s.path("files").join(format!("linux_{arch}"));
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read("arch"), format!("{arch}\n"));
        assert_eq!(read("out"), format!("for linux/{arch}\n"));
        assert_eq!(read("tool"), "shared\n");
    }
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(s.path("meta")).unwrap()).unwrap();
    assert_eq!(meta["containerimage.digest"], digest);
    assert!(meta.get("containerimage.config.digest").is_none());
    assert!(
        meta["containerimage.descriptor"]["mediaType"]
            .as_str()
            .unwrap()
            .contains("index")
    );
    assert_eq!(std::fs::read_to_string(s.path("iid")).unwrap(), digest);
    for place in ["app", "oci:o", "oci-archive:app.tar"] {
        let shown = s.ok(&["index", "inspect", "--format", "json", place]);
        let index: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(index["digest"], digest, "{place}");
        assert_eq!(index["annotations"]["all"], "1");
        assert_eq!(index["manifests"][1]["annotations"]["only"], "arm");
        assert!(index["manifests"][0].get("annotations").is_none());
    }
    s.ok(&["copy", "--platform", "linux/arm64", "app", "oci:arm"]);
    let config = s.ok(&["copy", "oci:arm", "arm"]);
    assert_ne!(config, format!("arm@{digest}"));
    assert!(s.ok(&["inspect", "--config", "arm"]).contains("\"arm64\""));
    // Without folders of their own, the platforms are in each other's way.
    let ran = s.run(&[
        "build",
        "--platform",
        "linux/amd64,linux/arm64",
        "-o",
        "type=local,dest=mixed,platform-split=false",
        &context,
    ]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("platform-split"), "{}", ran.stderr);
    assert!(!s.path("mixed").exists());
    // A second build runs nothing.
    let again = s.build(
        &context,
        &["--platform", "linux/arm64,linux/amd64", "-t", "again"],
    );
    assert!(!again.stderr.contains("RUN echo for") || again.stderr.contains("CACHED"));
    assert_eq!(architectures(&s, "again"), ["arm64", "amd64"]);
    if has("skopeo") {
        for place in [
            format!("oci:{oci}:app:latest"),
            "oci-archive:app.tar".into(),
        ] {
            let out = Command::new("skopeo")
                .args(["copy", "-q", "--all", &place, "dir:theirs"])
                .current_dir(s.dir.path())
                .output()
                .unwrap();
            assert!(
                out.status.success(),
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
            let back = s.ok(&["copy", "--all", "dir:theirs", "theirs"]);
            assert_eq!(back, format!("theirs@{digest}"));
        }
    }
}

#[test]
fn indexes_are_made_and_changed() {
    let Some(s) = Sandbox::with_base("indexes_are_made_and_changed") else {
        return;
    };
    two_platforms(&s, "two");
    s.ok(&["copy", "--platform", "linux/amd64", "two", "oci:amd"]);
    s.ok(&["copy", "--platform", "linux/arm64", "two", "oci:arm"]);
    s.ok(&[
        "index",
        "create",
        "made",
        "oci:amd",
        "--annotation",
        "who=me",
    ]);
    s.ok(&["index", "add", "made", "oci:arm"]);
    assert_eq!(architectures(&s, "made"), ["amd64", "arm64"]);
    assert_eq!(manifests(&s, "made"), manifests(&s, "two"));
    // The same platform again takes the place of the first.
    s.ok(&["index", "add", "made", "base"]);
    let host = shiplap::platform::Platform::host().architecture;
    assert_eq!(manifests(&s, "made").len(), 2);
    let base = s.ok(&["copy", "base", "oci:base"]);
    let digests: Vec<_> = manifests(&s, "made");
    assert!(
        digests
            .iter()
            .any(|m| m["digest"] == *base && m["platform"]["architecture"] == host)
    );
    s.ok(&["index", "annotate", "made", "--annotation", "more=2"]);
    s.ok(&[
        "index",
        "annotate",
        "made",
        "linux/arm64",
        "--annotation",
        "k=v",
        "--platform",
        "linux/arm64/v8",
        "--os-feature",
        "x",
    ]);
    let shown = s.ok(&["index", "inspect", "made"]);
    for part in ["who=me", "more=2", "k=v", "linux/arm64"] {
        assert!(shown.contains(part), "{shown}");
    }
    let digest = manifests(&s, "made")[0]["digest"].as_str().unwrap()[7..19].to_owned();
    s.ok(&["index", "rm", "made", &digest]);
    assert_eq!(manifests(&s, "made").len(), 1);
    for (args, code) in [
        (&["index", "rm", "made", "linux/s390x"][..], 1),
        (&["index", "rm", "made", "what"], 2),
        (&["index", "add", "base", "oci:arm"], 1),
        (&["index", "add", "absent", "oci:arm"], 1),
        (&["index", "annotate", "made", "--platform", "linux/arm"], 2),
        (&["index", "inspect", "base"], 1),
        (
            &[
                "index",
                "create",
                "x",
                "--annotation",
                "manifest[linux/arm64]:k=v",
            ],
            2,
        ),
    ] {
        let ran = s.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
    }
    assert!(!s.ok(&["images"]).contains("absent"));
}

#[test]
fn indexes_in_a_registry() {
    const NAME: &str = "indexes_in_a_registry";
    if !has("docker-registry") {
        return skip(NAME, "docker-registry is missing");
    }
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    two_platforms(&s, "two");
    for (arch, platform) in [("amd", "linux/amd64"), ("arm", "linux/arm64")] {
        let to = format!("oci:{arch}");
        s.ok(&["copy", "--platform", platform, "two", &to]);
    }
    let (_server, at) = registry(&s, None);
    // In the registry itself, out of its own images.
    for arch in ["amd", "arm"] {
        s.ok(&[
            "copy",
            &format!("oci:{arch}"),
            &format!("docker://{at}/{arch}:1"),
        ]);
    }
    let name = format!("docker://{at}/both:1");
    let sources = [
        format!("docker://{at}/amd:1"),
        format!("docker://{at}/arm:1"),
    ];
    s.ok(&["index", "create", &name, &sources[0], &sources[1]]);
    let log = std::fs::read_to_string(s.path("registry.log")).unwrap();
    assert!(
        !log.contains("\"PUT /v2/both/blobs/uploads"),
        "blobs are mounted"
    );
    assert_eq!(manifests(&s, &name), manifests(&s, "two"));
    s.ok(&["index", "rm", &name, "linux/arm64"]);
    assert_eq!(architectures(&s, &name), ["amd64"]);
    s.ok(&["index", "push", "two", &format!("{at}/two:1")]);
    let pulled = s.ok(&[
        "pull",
        "--all-platforms",
        &format!("{at}/two:1"),
        "--tag",
        "back",
    ]);
    assert_eq!(manifests(&s, "back"), manifests(&s, "two"), "{pulled}");
    // A build for two platforms from there, and to there without a tag.
    let context = s.context(
        "from",
        &[(
            "Dockerfile",
            &format!("FROM {at}/two:1\nCOPY Dockerfile /\n"),
        )],
    );
    let spec =
        format!("type=image,name={at}/digest,push=true,push-by-digest=true,name-canonical=true");
    let built = s.run_in(
        &s.path("empty"),
        &[
            "build",
            "--platform",
            "linux/amd64,linux/arm64",
            "-o",
            &spec,
            "--metadata-file",
            "meta",
            &context,
        ],
    );
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    let digest = built.stdout.trim();
    let meta = std::fs::read_to_string(s.path("meta")).unwrap();
    assert!(
        meta.contains(&format!("{at}/digest:latest@{digest}"))
            || meta.contains(&format!("{at}/digest@{digest}")),
        "{meta}"
    );
    s.ok(&[
        "index",
        "inspect",
        &format!("docker://{at}/digest@{digest}"),
    ]);
    assert_eq!(
        s.run(&["index", "inspect", &format!("docker://{at}/digest:latest")])
            .code,
        Some(1)
    );
    for tool in ["podman", "buildah"].into_iter().filter(|t| has(t)) {
        for arch in ["amd64", "arm64"] {
            let out = Command::new(tool)
                .args(["--root", "engine", "--runroot", "run"])
                .args([
                    "--storage-driver",
                    "vfs",
                    "pull",
                    "-q",
                    "--tls-verify=false",
                ])
                .args(["--arch", arch, &format!("docker://{at}/two:1")])
                .current_dir(s.dir.path())
                .output()
                .unwrap();
            let why = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{tool} {arch}: {why}");
        }
    }
}

/// Debian's busybox for arm64, fetched once; `None` where that can't be.
fn arm64_busybox() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("arm64");
    let program = dir.join("x/bin/busybox");
    if program.is_file() {
        return Some(program);
    }
    for tool in ["apt-get", "dpkg-deb"] {
        has(tool).then_some(())?;
    }
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).ok()?;
    for part in ["state/lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(work.path().join(part)).ok()?;
    }
    std::fs::write(work.path().join("status"), "").ok()?;
    let at = |name: &str| work.path().join(name).display().to_string();
    let apt = |args: &[&str]| {
        let out = Command::new("apt-get")
            .current_dir(work.path())
            .args([
                "-qq",
                "-o",
                "APT::Architecture=arm64",
                "-o",
                "APT::Architectures=arm64",
            ])
            .args([
                "-o",
                "APT::Sandbox::User=root",
                "-o",
                "Acquire::Languages=none",
            ])
            .args([
                "-o",
                "Acquire::http::Timeout=20",
                "-o",
                "Acquire::Retries=0",
            ])
            .args(["-o", &format!("Dir::State={}", at("state"))])
            .args(["-o", &format!("Dir::State::status={}", at("status"))])
            .args(["-o", &format!("Dir::Cache={}", at("cache"))])
            .args(args)
            .stdin(Stdio::null())
            .output();
        out.is_ok_and(|o| o.status.success())
    };
    // Some source may be out of reach; the download tells.
    apt(&["update"]);
    apt(&["download", "busybox-static"]).then_some(())?;
    let package = std::fs::read_dir(work.path()).ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        path.extension().is_some_and(|e| e == "deb").then_some(path)
    })?;
    let unpacked = Command::new("dpkg-deb")
        .arg("-x")
        .arg(&package)
        .arg(at("x"))
        .status();
    unpacked.is_ok_and(|s| s.success()).then_some(())?;
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).ok()?;
    std::fs::rename(work.path().join("x"), dir.join("x")).ok()?;
    Some(program)
}

/// Imports a base with this busybox.
fn import_busybox(s: &Sandbox, busybox: &Path, platform: &str, name: &str) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    let bytes = std::fs::read(busybox).unwrap();
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, "bin/busybox", bytes.as_slice())
        .unwrap();
    for applet in ["sh", "uname", "cat"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    std::fs::write(s.path("bb.tar"), tar.into_inner().unwrap()).unwrap();
    s.ok(&["import", "--platform", platform, "bb.tar", name]);
}

/// A user namespace in which root is root; kernels since 6.7 give each its own
/// handlers of foreign programs.
fn namespace() -> Option<Server> {
    let child: Child = Command::new("unshare")
        .args(["--user", "sleep", "300"])
        .stdin(Stdio::null())
        .spawn()
        .ok()?;
    let process = child.id();
    let server = Server(child);
    let own = std::fs::read_link("/proc/self/ns/user").ok()?;
    let entered =
        || std::fs::read_link(format!("/proc/{process}/ns/user")).is_ok_and(|ns| ns != own);
    crate::sandbox::eventually(entered).then_some(())?;
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{process}/{map}"), "0 0 65536\n").ok()?;
    }
    Some(server)
}

/// Runs the program in `namespace`, with a handler for arm64 that has `flags`.
fn build_there(s: &Sandbox, namespace: &Server, flags: &str, args: &[&str]) -> Option<Ran> {
    const MAGIC: &str =
        r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
    const MASK: &str =
        r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
    let register = format!(":arm64:M::{MAGIC}:{MASK}:/usr/bin/qemu-aarch64-static:{flags}");
    let script = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77\n\
                  [ -e /proc/sys/fs/binfmt_misc/arm64 ] && echo -1 > /proc/sys/fs/binfmt_misc/arm64\n\
                  [ -z \"$1\" ] || printf %s \"$1\" > /proc/sys/fs/binfmt_misc/register || exit 77\n\
                  shift; exec \"$@\"";
    let register = if flags == "none" {
        String::new()
    } else {
        register
    };
    let own = s.command(&s.store());
    let out = Command::new("nsenter")
        .args(["--user", "--target", &namespace.0.id().to_string()])
        .args(["unshare", "--mount", "sh", "-c", script, "sh", &register])
        .arg(own.get_program())
        .args(own.get_args())
        .args(args)
        .current_dir(s.dir.path())
        .env("HOME", s.dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let ran = Ran::from(out);
    (ran.code != Some(77)).then_some(ran)
}

#[test]
fn foreign_steps_run_where_the_kernel_has_a_handler() {
    const NAME: &str = "foreign_steps_run_where_the_kernel_has_a_handler";
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    if shiplap::platform::Platform::host().architecture != "amd64" {
        return skip(NAME, "it wants a machine for amd64");
    }
    let Some(busybox) = arm64_busybox() else {
        return skip(NAME, "Debian's busybox-static for arm64 can't be had");
    };
    import_busybox(&s, &busybox, "linux/arm64", "arm");
    import_busybox(&s, Path::new("/bin/busybox"), "linux/amd64", "amd");
    s.ok(&["index", "create", "both", "amd", "arm"]);
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM both\nARG TARGETARCH\nRUN echo $TARGETARCH $(uname -m) > /m\n",
        )],
    );
    let platforms = "linux/amd64,linux/arm64";
    let args = [
        "build",
        "--platform",
        platforms,
        "-o",
        "files",
        context.as_str(),
    ];
    let tools = ["unshare", "nsenter", "qemu-aarch64-static"];
    if !tools.iter().all(|t| has(t)) {
        return skip(NAME, "unshare, nsenter or qemu-user-static is missing");
    }
    let Some(inside) = namespace() else {
        return skip(NAME, "there is no user namespace to be had");
    };
    let Some(none) = build_there(&s, &inside, "none", &args) else {
        return skip(
            NAME,
            "the kernel's handlers can't be seen in a user namespace",
        );
    };
    assert_eq!(none.code, Some(1), "{}", none.stderr);
    for part in ["is for arm64", "qemu-user-static", "RUN echo"] {
        assert!(none.stderr.contains(part), "{}", none.stderr);
    }
    // A handler that would be looked for in the image.
    let Some(unfixed) = build_there(&s, &inside, "OP", &args) else {
        return skip(NAME, "no handler can be registered in a user namespace");
    };
    assert_eq!(unfixed.code, Some(1), "{}", unfixed.stderr);
    assert!(
        unfixed.stderr.contains("with the flag F"),
        "{}",
        unfixed.stderr
    );
    let Some(done) = build_there(&s, &inside, "OPF", &args) else {
        return skip(NAME, "no handler can be registered in a user namespace");
    };
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let said = |arch: &str| {
        std::fs::read_to_string(s.path("files").join(format!("linux_{arch}/m"))).unwrap()
    };
    assert_eq!(said("amd64"), "amd64 x86_64\n");
    assert_eq!(said("arm64"), "arm64 aarch64\n");
}
