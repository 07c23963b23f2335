//! Where a result can go, and who can read it there.

use std::process::Command;

use crate::sandbox::{Sandbox, has, skip};
use crate::takeout::in_namespace;

fn said(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// `/dev/null` is the usual one; nobody wants a file in its place.
#[test]
fn pipes_and_devices_are_written_to() {
    let s = Sandbox::new();
    let context = s.context(
        "ctx",
        &[("Dockerfile", "FROM scratch\nCOPY x /x\n"), ("x", "1")],
    );
    s.ok(&["build", "-q", "-t", "app:1", &context]);
    let pipe = s.path("pipe");
    said(Command::new("mkfifo").arg(&pipe));
    let name = pipe.display().to_string();
    let commands: [&[&str]; 4] = [
        &["save", "-o", &name, "app:1"],
        &["export", "-o", &name, "app:1"],
        &[
            "build",
            "-q",
            "-o",
            &format!("type=tar,dest={name}"),
            &context,
        ],
        &[
            "build",
            "-q",
            "-o",
            &format!("type=oci,dest={name}"),
            &context,
        ],
    ];
    for command in commands {
        let read = pipe.clone();
        let reader = std::thread::spawn(move || std::fs::read(read).unwrap());
        s.ok(command);
        let kind = std::fs::symlink_metadata(&pipe).unwrap().file_type();
        assert!(
            std::os::unix::fs::FileTypeExt::is_fifo(&kind),
            "{command:?}"
        );
        let tar = reader.join().unwrap();
        let mut tar = tar::Archive::new(&tar[..]);
        assert!(tar.entries().unwrap().count() > 0, "{command:?}");
    }
}

/// `/dev/stdout` leads to a file where that is what standard output is: the
/// file gets it, and the link stays. Here the link is one of the test's own.
#[test]
fn descriptors_are_written_to() {
    let s = Sandbox::new();
    let context = s.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    s.ok(&["build", "-q", "-t", "app:1", &context]);
    std::os::unix::fs::symlink("/proc/self/fd", s.path("fd")).unwrap();
    std::os::unix::fs::symlink("fd/1", s.path("stdout")).unwrap();
    let run = |args: &[&str]| {
        let file = s.path("out");
        let mut command = s.command(&s.store());
        command.args(args).current_dir(s.dir.path());
        let out = command
            .stdout(std::fs::File::create(&file).unwrap())
            .output();
        let link = s.path("stdout").symlink_metadata().unwrap();
        assert!(link.is_symlink(), "{args:?}");
        (out.unwrap(), std::fs::read(file).unwrap())
    };
    for to in ["stdout", "fd/1", "/proc/self/fd/1"] {
        for command in ["save", "export"] {
            let (out, tar) = run(&[command, "-q", "app:1", "-o", to]);
            assert!(out.status.success(), "{command} {to}: {out:?}");
            let mut tar = tar::Archive::new(&tar[..]);
            assert!(tar.entries().unwrap().count() > 0, "{command} {to}");
        }
    }
    // Standard output has the digest too; neither is written over the other.
    let (out, text) = run(&["build", "-q", "--iidfile", "stdout", &context]);
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("sha256:").count(), 2, "{text}");
    assert_eq!(text.trim_end().len(), 2 * 71, "{text}");
    let (out, _) = run(&["export", "-q", "app:1", "-o", "fd/900"]);
    assert_eq!(out.status.code(), Some(1), "it is closed: {out:?}");
}

/// Kubernetes mounts the file that takes a message at the end; others mount one
/// for the digest or the archive. Nothing can take the place of such a file.
#[test]
fn a_mounted_file_gets_the_content() {
    const NAME: &str = "a_mounted_file_gets_the_content";
    let s = Sandbox::new();
    let probe = in_namespace(&s, &[], &s.store(), "mount -t tmpfs none /mnt");
    if probe.code != Some(0) {
        return skip(NAME, "nothing can be mounted here");
    }
    let context = s.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    s.ok(&["build", "-q", "-t", "app:1", &context]);
    let ran = in_namespace(
        &s,
        &[],
        &s.store(),
        "echo a long text that was there before > real
         touch log && mount --bind real log
         s build -q --digest-file log ctx > digest
         test \"$(cat real)\" = \"$(cat digest)\"
         s save -q -o log app:1 && tar -tf real > /dev/null
         s export -q -o log app:1 && tar -tf real > /dev/null
         s build -q -o type=tar,dest=log ctx && tar -tf real > /dev/null
         # What fails leaves it as it was.
         cp real kept
         if s export -q -o log oci:none; then exit 1; fi
         cmp real kept
         ls -A",
    );
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert!(!ran.stdout.contains(".shiplap-"), "{}", ran.stdout);
}

#[test]
fn other_tools_read_and_run_what_is_written() {
    const NAME: &str = "other_tools_read_and_run_what_is_written";
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let context = s.context(
        "ctx",
        &[
            ("Dockerfile", "FROM base\nRUN mkdir /d && echo made > /d/f && rm /bin/vi\nCOPY x /x\nCMD [\"/bin/cat\", \"/d/f\", \"/x\"]\n"),
            ("x", "copied\n"),
        ],
    );
    let file = |name: &str| s.path(name).display().to_string();
    let digest = s
        .build(
            &context,
            &[
                "-t",
                "app:1",
                "-o",
                "type=image",
                "-o",
                &format!("type=oci,dest={}", file("o.tar")),
                "-o",
                &format!("type=oci,tar=false,dest={}", file("o")),
                "-o",
                &format!("type=docker,dest={}", file("d.tar")),
                "-o",
                &format!("type=tar,dest={}", file("r.tar")),
                "--iidfile",
                &file("iid"),
                "--metadata-file",
                &file("meta"),
            ],
        )
        .stdout;
    let digest = digest.trim();
    assert_eq!(
        digest.len(),
        71,
        "standard output has the digest and nothing else: {digest:?}"
    );
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(file("meta")).unwrap()).unwrap();
    assert_eq!(meta["containerimage.digest"], digest);
    assert_eq!(
        meta["containerimage.config.digest"],
        std::fs::read_to_string(file("iid")).unwrap().trim()
    );
    let entries = said(Command::new("tar").args(["-tf", &file("r.tar")]));
    assert!(
        entries.contains("d/f") && !entries.contains("bin/vi\n") && !entries.contains(".wh."),
        "{entries}"
    );

    if !has("skopeo") || !has("umoci") || !has("runc") {
        return skip(NAME, "skopeo, umoci or runc is missing");
    }
    let store = s.store().display().to_string();
    for place in [
        format!("oci:{store}:app:1"),
        format!("oci:{}:app:1", file("o")),
        format!("oci-archive:{}", file("o.tar")),
    ] {
        let found =
            said(Command::new("skopeo").args(["inspect", "--format", "{{.Digest}}", &place]));
        assert_eq!(found.trim(), digest, "{place}");
    }
    let found = said(Command::new("skopeo").args([
        "inspect",
        "--config",
        &format!("docker-archive:{}", file("d.tar")),
    ]));
    assert!(found.contains("/d/f"), "{found}");
    // Unpacked in place, and run.
    let bundle = file("bundle");
    said(Command::new("umoci").args(["unpack", "--image", &format!("{store}:app:1"), &bundle]));
    let config = s.path("bundle/config.json");
    let mut spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    std::fs::write(&config, spec.to_string()).unwrap();
    let id = format!("shiplap-it-{}", std::process::id());
    let ran = Command::new("runc")
        .args(["run", "--bundle", &bundle, &id])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "made\ncopied\n",
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
fn archives_come_back_as_they_were() {
    let Some(s) = Sandbox::with_base("archives_come_back_as_they_were") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[("Dockerfile", "FROM base\nLABEL a=b\nCOPY Dockerfile /\n")],
    );
    let digest = s.build(&context, &["-t", "one"]).stdout;
    let other = s.path("other");
    let archive = s.path("a.tar").display().to_string();
    s.ok(&["save", "--format", "oci-archive", "-o", &archive, "one"]);
    let loaded = s.run_in(&other, &["load", "-i", &archive]);
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
    let id = |store| s.run_in(store, &["inspect", "--config", "one"]).stdout;
    assert_eq!(id(&s.store()), id(&other));
    let listed = s.run_in(&other, &["images", "--format", "json"]).stdout;
    assert!(listed.contains(digest.trim()), "{listed}");
    s.ok(&["save", "--format", "docker-archive", "-o", &archive, "one"]);
    let third = s.path("third");
    let loaded = s.run_in(&third, &["load", "-i", &archive]);
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
    assert!(
        s.run_in(&third, &["inspect", "--config", "one"])
            .stdout
            .contains("\"a\": \"b\"")
    );
}

fn json(path: std::path::PathBuf) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
}

/// The document that the only entry of a layout's index names, and the entry.
fn root_of(layout: &std::path::Path) -> (serde_json::Value, serde_json::Value) {
    let index = json(layout.join("index.json"));
    let entry = index["manifests"][0].clone();
    let hex = entry["digest"].as_str().unwrap().replace("sha256:", "");
    (json(layout.join("blobs/sha256").join(hex)), entry)
}

#[test]
fn each_output_has_the_form_it_asks_for() {
    let Some(s) = Sandbox::with_base("each_output_has_the_form_it_asks_for") else {
        return;
    };
    let context = s.context("ctx", &[("Dockerfile", "FROM base\nCOPY Dockerfile /\n")]);
    let to = |name: &str, more: &str| {
        let dest = s.path(name).display().to_string();
        format!("type=oci,tar=false,dest={dest}{more}")
    };
    let plain = to("plain", "");
    let zstd = to("zstd", ",compression=zstd");
    let all = to("all", ",compression=zstd,force-compression=true");
    let docker = to("docker", ",oci-mediatypes=false");
    let noted = to(
        "noted",
        ",annotation.Own.key=1,annotation-manifest-descriptor.k=2",
    );
    let digest = s.build(
        &context,
        &[
            "-o", &plain, "-o", &zstd, "-o", &all, "-o", &docker, "-o", &noted,
        ],
    );
    let kinds = |name: &str| -> Vec<String> {
        let (manifest, _) = root_of(&s.path(name));
        let layers = manifest["layers"].as_array().unwrap().iter();
        let kind = |v: &serde_json::Value| {
            let kind = v["mediaType"].as_str().unwrap();
            kind.rsplit('.').next().unwrap().to_owned()
        };
        layers.map(kind).collect()
    };
    assert_eq!(kinds("plain"), ["tar+gzip", "tar+gzip"]);
    assert_eq!(kinds("zstd"), ["tar+gzip", "tar+zstd"]);
    assert_eq!(kinds("all"), ["tar+zstd", "tar+zstd"]);
    assert_eq!(kinds("docker"), ["gzip", "gzip"]);
    let (_, entry) = root_of(&s.path("plain"));
    assert_eq!(entry["digest"], digest.stdout.trim());
    let (manifest, entry) = root_of(&s.path("noted"));
    assert_eq!(manifest["annotations"]["Own.key"], "1");
    assert_eq!(entry["annotations"]["k"], "2");
    let (manifest, _) = root_of(&s.path("docker"));
    assert!(manifest["mediaType"].as_str().unwrap().contains("docker"));
    // What can't be is said before anything is built.
    for (args, why) in [
        (
            vec![
                "-o",
                "type=oci,dest=x.tar,oci-mediatypes=false,compression=zstd",
            ],
            "zstd",
        ),
        (
            vec![
                "--annotation",
                "k=v",
                "-o",
                "type=oci,dest=x.tar,oci-mediatypes=false",
            ],
            "annotations",
        ),
        (vec!["--annotation", "index:k=v"], "index"),
        (
            vec!["--annotation", "manifest[linux/s390x]:k=v"],
            "linux/s390x",
        ),
        (
            vec![
                "--platform",
                "linux/amd64,linux/arm64",
                "-o",
                "type=docker,dest=x.tar",
            ],
            "one platform",
        ),
    ] {
        let mut all = vec!["build"];
        all.extend(&args);
        all.push(&context);
        let ran = s.run(&all);
        assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
    }
    assert!(!s.path("x.tar").exists());
}

#[test]
fn nothing_is_kept_where_only_the_cache_is_wanted() {
    let Some(s) = Sandbox::with_base("nothing_is_kept_where_only_the_cache_is_wanted") else {
        return;
    };
    let context = s.context("ctx", &[("Dockerfile", "FROM base\nRUN echo once\n")]);
    s.build(&context, &["-t", "app", "-o", "type=cacheonly"]);
    assert!(!s.ok(&["images"]).contains("app"));
    let again = s.build(&context, &["-t", "app"]);
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
    assert!(s.ok(&["images"]).contains("app"));
}

#[test]
fn a_directory_is_written_to_and_nowhere_else() {
    let Some(s) = Sandbox::with_base("a_directory_is_written_to_and_nowhere_else") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM base AS files\nRUN mkdir -p /out/etc /out/sub && echo new > /out/etc/f && echo new > /out/sub/g\n\
             FROM scratch\nCOPY --from=files /out /\n",
        )],
    );
    let dest = s.path("dest");
    let outside = s.path("outside");
    let make = || {
        std::fs::create_dir_all(&dest).unwrap();
        std::fs::create_dir_all(outside.join("sub")).unwrap();
        std::fs::write(outside.join("f"), "old").unwrap();
        std::fs::write(outside.join("sub/g"), "old").unwrap();
        // What an earlier export, or somebody else, left there.
        std::os::unix::fs::symlink(&outside, dest.join("etc")).unwrap();
        std::fs::create_dir_all(dest.join("sub")).unwrap();
        std::os::unix::fs::symlink(outside.join("sub/g"), dest.join("sub/g")).unwrap();
        std::fs::write(dest.join("stale"), "x").unwrap();
    };
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let untouched = || {
        assert_eq!(read(&outside.join("f")), "old");
        assert_eq!(read(&outside.join("sub/g")), "old");
    };
    make();
    let plain = format!("type=local,dest={}", dest.display());
    s.build(&context, &["-o", &plain]);
    untouched();
    assert_eq!(read(&dest.join("etc/f")), "new\n");
    assert_eq!(read(&dest.join("sub/g")), "new\n");
    assert!(dest.join("stale").exists(), "what else is there stays");
    std::os::unix::fs::symlink(&outside, dest.join("link")).unwrap();
    s.build(&context, &["-o", &format!("{plain},mode=delete")]);
    untouched();
    assert!(!dest.join("stale").exists());
    assert!(std::fs::symlink_metadata(dest.join("link")).is_err());
    assert_eq!(read(&dest.join("etc/f")), "new\n");
    // A directory that holds the context, the store or this one is not emptied.
    for dest in [s.dir.path().to_owned(), "/".into(), ".".into()] {
        let spec = format!("type=local,dest={},mode=delete", dest.display());
        let ran = s.run(&["build", "-o", &spec, &context]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("would empty"), "{}", ran.stderr);
    }
    untouched();
    assert!(s.store().exists());
    // A folder for the platform, on request.
    let split = s.path("split");
    let spec = format!("type=local,dest={},platform-split=true", split.display());
    s.build(&context, &["-o", &spec]);
    let host = format!("linux_{}", shiplap::platform::Platform::host().architecture);
    assert_eq!(read(&split.join(host).join("etc/f")), "new\n");
}

#[test]
fn files_about_the_result_are_written_safely() {
    let Some(s) = Sandbox::with_base("files_about_the_result_are_written_safely") else {
        return;
    };
    let context = s.context("ctx", &[("Dockerfile", "FROM base\nLABEL a=b\n")]);
    std::fs::write(s.path("precious"), "old").unwrap();
    std::os::unix::fs::symlink(s.path("precious"), s.path("iid")).unwrap();
    let built = s.build(
        &context,
        &[
            "--destination",
            "r.example/app:1",
            "--destination",
            "r.example/app:2",
            "--no-push",
            "--tar-path",
            "app.tar",
            "--oci-layout-path",
            "layout",
            "--iidfile",
            "iid",
            "--digest-file",
            "digest",
            "--image-name-with-digest-file",
            "names",
            "--image-name-tag-with-digest-file",
            "tags",
        ],
    );
    let read = |name: &str| std::fs::read_to_string(s.path(name)).unwrap();
    assert_eq!(read("precious"), "old");
    assert!(read("iid").starts_with("sha256:"));
    let digest = built.stdout.trim();
    assert_eq!(read("digest"), digest);
    assert_eq!(read("names"), format!("r.example/app@{digest}\n").repeat(2));
    assert_eq!(
        read("tags"),
        format!("r.example/app:1@{digest}\nr.example/app:2@{digest}\n")
    );
    let loaded = s.run_in(&s.path("other"), &["load", "-i", "app.tar"]);
    assert_eq!(loaded.stdout, "r.example/app:1\nr.example/app:2\n");
    let (_, entry) = root_of(&s.path("layout"));
    assert_eq!(entry["digest"], digest);
    // A pipe is written to, not replaced.
    let shown = s.build(&context, &["--iidfile", "/dev/stdout", "-q"]);
    assert!(shown.stdout.lines().count() >= 1);
    assert!(
        std::fs::symlink_metadata("/dev/stdout")
            .unwrap()
            .is_symlink()
    );
}
