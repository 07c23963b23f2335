//! What is said when something is wrong, and with which exit code.

use crate::sandbox::Sandbox;

#[test]
fn one_clear_message() {
    let Some(s) = Sandbox::with_base("one_clear_message") else {
        return;
    };
    let before = s.ok(&["images"]);
    for (dockerfile, more, code, parts) in [
        (
            "FROM base\nRNU true\n",
            &[][..],
            1,
            &["Dockerfile:2:1", "RNU true", "did you mean `RUN`"][..],
        ),
        (
            "FROM base\nCOPY nothere /x\n",
            &[],
            1,
            &["Dockerfile:2:6", "\"nothere\" not found"],
        ),
        (
            "FROM base\nCOPY fil /x\n",
            &[],
            1,
            &["did you mean \"file\""],
        ),
        (
            "FROM base\nCOPY secret /x\n",
            &[],
            1,
            &["the ignore file excludes it"],
        ),
        (
            "FROM base\nCOPY --from=nostage /x /y\n",
            &[],
            1,
            &["nostage", "Dockerfile:2"],
        ),
        (
            "FROM localhost:1/x\n",
            &[],
            1,
            &["Dockerfile:1:6", "localhost:1 refuses the connection"],
        ),
        (
            "FROM base\nRUN echo out; exit 42\n",
            &[],
            1,
            &[
                "Dockerfile:2:1",
                "RUN echo out; exit 42",
                "exit code 42",
                "out",
            ],
        ),
        ("FROM base\nRUN [\"/nothing\"]\n", &[], 1, &["/nothing"]),
        (
            "FROM base\nUSER nobody-here\nRUN true\n",
            &[],
            1,
            &["nobody-here"],
        ),
        (
            "FROM base\nRUN --mount=type=secret,id=k,required true\n",
            &[],
            1,
            &["\"k\" is required", "--secret id=k"],
        ),
        (
            "FROM base\nRUN --security=insecure true\n",
            &[],
            1,
            &["not allowed"],
        ),
        (
            "FROM base AS a\nRUN true\n",
            &["--target", "b"],
            1,
            &["\"b\" could not be found"],
        ),
        ("FROM base\n", &["--no-such-flag"], 2, &["--no-such-flag"]),
        ("FROM base\n", &["-o", "type=nothing"], 2, &["nothing"]),
        ("FROM base\n", &["-t", "UPPER"], 2, &["lower case"]),
        ("", &[], 1, &["no instruction"]),
    ] {
        let context = s.context(
            "ctx",
            &[
                ("Dockerfile", dockerfile),
                ("file", ""),
                ("secret", ""),
                (".dockerignore", "secret\n"),
            ],
        );
        let mut args = vec!["build", "-t", "bad"];
        args.extend(more);
        args.push(&context);
        let ran = s.run(&args);
        assert_eq!(ran.code, Some(code), "{dockerfile:?}\n{}", ran.stderr);
        for part in parts {
            assert!(
                ran.stderr.contains(part),
                "{dockerfile:?} lacks {part:?}:\n{}",
                ran.stderr
            );
        }
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        assert_eq!(ran.stdout, "", "{dockerfile:?}");
    }
    // No failed build has left a name.
    assert_eq!(s.ok(&["images"]).lines().count(), before.lines().count());
}

#[test]
fn a_context_cannot_reach_outside() {
    let Some(s) = Sandbox::with_base("a_context_cannot_reach_outside") else {
        return;
    };
    std::fs::write(s.path("outside"), "hostmarker").unwrap();
    let context = s.context(
        "ctx",
        &[("Dockerfile", "FROM base\nCOPY leak /leak\n"), ("x", "")],
    );
    std::os::unix::fs::symlink(s.path("outside"), s.path("ctx/leak")).unwrap();
    std::os::unix::fs::symlink("/", s.path("ctx/root")).unwrap();
    for source in [
        "leak",
        "root/etc/passwd",
        "../outside",
        "root/../../../etc/passwd",
    ] {
        s.context(
            "ctx",
            &[("Dockerfile", &format!("FROM base\nCOPY {source} /leak\n"))],
        );
        let ran = s.run(&["build", "-t", "leak", &context]);
        assert_eq!(ran.code, Some(1), "{source}: {}", ran.stderr);
    }
}

#[test]
fn a_full_disk_and_one_that_can_only_be_read() {
    let Some(s) = Sandbox::with_base("a_full_disk_and_one_that_can_only_be_read") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM base\nRUN dd if=/dev/urandom of=/big bs=1M count=30\n",
        )],
    );
    let program = env!("CARGO_BIN_EXE_shiplap");
    let in_namespace = |script: String| {
        // The mounts go with the namespace.
        let out = std::process::Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .output()
            .unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        )
    };
    let small = s.path("small");
    std::fs::create_dir(&small).unwrap();
    let (small, tar) = (small.display(), s.path("base.tar"));
    let said = in_namespace(format!(
        "mount -t tmpfs -o size=24m none {small} && {program} --root {small}/s import {} base && \
         {program} --root {small}/s build -t big {context}; echo code $?; {program} --root {small}/s images; \
         {program} --root {small}/s prune --all",
        tar.display()
    ));
    assert!(
        said.contains("code 1") && said.contains("No space left"),
        "{said}"
    );
    assert!(
        !said.contains("big  ") && said.contains("base") && said.contains("freed"),
        "{said}"
    );
    let store = s.store();
    let store = store.display();
    let said = in_namespace(format!(
        "mount --bind {store} {store} && mount -o remount,ro,bind {store} && {program} --root {store} images && \
         {program} --root {store} build -t no {context}; echo code $?"
    ));
    assert!(
        said.contains("code 1") && said.contains("read-only") && said.contains("base"),
        "{said}"
    );
}
