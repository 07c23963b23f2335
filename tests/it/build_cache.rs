//! What is run again, and what is not.

use crate::sandbox::{Ran, Sandbox};

fn cached(ran: &Ran) -> usize {
    ran.stderr
        .lines()
        .filter(|l| l.ends_with(" CACHED"))
        .count()
}

#[test]
fn content_decides() {
    let Some(s) = Sandbox::with_base("content_decides") else {
        return;
    };
    let dockerfile =
        "FROM base AS a\nCOPY f /f\nRUN cat /f > /g\nFROM base\nCOPY --from=a /g /g\nRUN cat /g\n";
    let context = s.context("ctx", &[("Dockerfile", dockerfile), ("f", "one")]);
    assert_eq!(cached(&s.build(&context, &["-t", "x"])), 0);
    assert_eq!(cached(&s.build(&context, &["-t", "x"])), 4);
    // A fresh checkout has other times.
    let file = std::fs::File::options()
        .append(true)
        .open(s.path("ctx/f"))
        .unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(cached(&s.build(&context, &["-t", "x"])), 4);
    assert_eq!(cached(&s.build(&context, &["-t", "x", "--no-cache"])), 0);
    s.context("ctx", &[("f", "two")]);
    assert_eq!(cached(&s.build(&context, &["-t", "x"])), 0);
    // Another instruction that gives the same file: what is copied from it is
    // known by its content.
    s.context(
        "ctx",
        &[(
            "Dockerfile",
            &dockerfile.replace("cat /f > /g", "cat  /f  > /g; true"),
        )],
    );
    assert_eq!(cached(&s.build(&context, &["-t", "x"])), 3);
}

#[test]
fn only_what_the_target_needs() {
    let Some(s) = Sandbox::with_base("only_what_the_target_needs") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM base AS broken\nRUN false\nFROM base AS good\nRUN echo good > /r\nFROM broken\nRUN true\n",
        )],
    );
    assert_eq!(s.file_of(&context, &["--target", "GOOD"], "r"), "good\n");
    assert_eq!(s.run(&["build", &context]).code, Some(1));
}

#[test]
fn independent_stages_run_at_the_same_time() {
    let Some(s) = Sandbox::with_base("independent_stages_run_at_the_same_time") else {
        return;
    };
    let wait = |mine: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,id=meet,target=/m touch /m/{mine}; n=0; \
             until [ -e /m/{other} ]; do sleep 0.05; n=$((n+1)); [ $n -lt 400 ] || exit 1; done; echo {mine} > /{mine}\n"
        )
    };
    let dockerfile = format!(
        "FROM base AS a\n{}FROM base AS b\n{}FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
        wait("a", "b"),
        wait("b", "a")
    );
    let context = s.context("ctx", &[("Dockerfile", &dockerfile)]);
    assert_eq!(s.file_of(&context, &["--jobs", "2"], "b"), "b\n");
}

#[test]
fn the_same_input_gives_the_same_digest() {
    let Some(s) = Sandbox::with_base("the_same_input_gives_the_same_digest") else {
        return;
    };
    let files = [
        (
            "Dockerfile",
            "FROM base\nRUN mkdir /d && echo x > /d/x && ln /d/x /d/y\nCOPY . /c/\nWORKDIR /w\n",
        ),
        ("f", "f"),
        ("sub/g", "g"),
    ];
    let build = |store: &str, context: &str| {
        let store = s.path(store);
        s.import_at(&store);
        let out = s
            .command(&store)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .args(["build", "-q", "--rewrite-timestamp", "-t", "x", context])
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    };
    let first = build("one", &s.context("c1", &files));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = build("two", &s.context("c2", &files));
    assert_eq!(first, second);
    assert!(first.starts_with("sha256:"));
    let history: serde_json::Value = serde_json::from_str(
        &s.run_in(&s.path("one"), &["inspect", "--config", "x"])
            .stdout,
    )
    .unwrap();
    assert_eq!(history["created"], "2023-11-14T22:13:20Z");
}

#[test]
fn an_unchanged_build_is_the_same_image() {
    let Some(s) = Sandbox::with_base("an_unchanged_build_is_the_same_image") else {
        return;
    };
    let dockerfile = "FROM base\nENV A=1\nCOPY f /f\nRUN cat /f > /g\nLABEL b=2\n";
    let context = s.context("ctx", &[("Dockerfile", dockerfile), ("f", "one")]);
    let build = |more: &[&str]| {
        let mut args = vec!["build", "-q", "-t", "x", &context];
        args.extend(more);
        s.ok(&args)
    };
    let times = || {
        let text = s.ok(&["inspect", "--config", "x"]);
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let entries = config["history"].as_array().unwrap();
        let mut times: Vec<_> = entries.iter().map(|e| e["created"].clone()).collect();
        times.push(config["created"].clone());
        times
    };
    let first = build(&[]);
    let then = times();
    // The base's, and one time for all that was made then.
    assert!(then[1..].iter().all(|t| *t == then[1]), "{then:?}");
    assert!(then[0] != then[1], "{then:?}");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(build(&[]), first);
    // What is added on top of known layers has their time too.
    let label = build(&["--label", "c=3"]);
    assert_ne!(label, first);
    assert_eq!(times().last(), then.last());
    // A layer that is made anew has its own.
    s.context("ctx", &[("f", "two")]);
    build(&[]);
    assert_ne!(times().last(), then.last());
    assert_ne!(build(&["--no-cache"]), first);
}

#[test]
fn keys_are_known_before_anything_runs() {
    let Some(s) = Sandbox::with_base("keys_are_known_before_anything_runs") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[
            (
                "Dockerfile",
                "FROM base AS a\nRUN echo made > /made\nFROM base\nWORKDIR /w\n\
                 COPY given /given\nCOPY --from=a /made /made\nRUN true\n",
            ),
            ("given", "x"),
        ],
    );
    let steps = || {
        let text = s.ok(&["graph", "--format", "json", &context]);
        let graph: serde_json::Value = serde_json::from_str(&text).unwrap();
        graph["steps"].as_array().unwrap().clone()
    };
    let is = |step: &serde_json::Value, what: &str| step["name"].as_str().unwrap().contains(what);
    let before = steps();
    for step in &before {
        // What is copied from a step that did not run is not known yet.
        let unknown = is(step, "--from") || is(step, "RUN true");
        assert_eq!(step.get("key").is_none(), unknown, "{step}");
        let base = step["inputs"].as_array().unwrap().is_empty();
        assert!(unknown || step["cached"] == base, "{step}");
    }
    assert!(
        !s.store()
            .join("layers/by-diff-id")
            .read_dir()
            .unwrap()
            .any(|_| true)
    );
    s.build(&context, &[]);
    let after = steps();
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after["cached"], true, "{after}");
        if let Some(key) = before.get("key") {
            assert_eq!(*key, after["key"]);
        }
        if !after["inputs"].as_array().unwrap().is_empty() {
            let key = after["key"].as_str().unwrap().replace(':', "-");
            assert!(s.store().join("cache").join(key).is_file(), "{after}");
        }
    }
    let text = s.ok(&["graph", &context]);
    assert_eq!(text.matches("(cached)").count(), 5, "{text}");
    for form in ["dot", "mermaid"] {
        let key = after[1]["key"].as_str().unwrap();
        let picture = s.ok(&["graph", "--format", form, &context]);
        assert!(picture.contains(&key[7..19]), "{picture}");
    }
}
