//! What a Dockerfile offers, the arguments that builders know, and what stands
//! for a base.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

const OFFERS: &str = "\
# VERSION of the tool
ARG VERSION=1.2
FROM base AS tools
RUN --mount=type=secret,id=token,required --mount=type=ssh true
# app is what is shipped
FROM tools AS app
ARG VERSION
# LEVEL how much it says
ARG LEVEL=${VERSION}-x
RUN --mount=type=cache,id=deps,target=/c --mount=type=secret,id=other true
FROM --platform=$BUILDPLATFORM scratch
COPY --from=app / /
";

/// Without the base64 of the file itself.
fn without_sources(text: &str) -> Value {
    let mut value: Value = serde_json::from_str(text).unwrap();
    let sources = value.as_object_mut().unwrap().remove("sources").unwrap();
    assert_eq!(sources.as_array().map(Vec::len), Some(1));
    value
}

fn lines(start: u32, end: u32) -> Value {
    json!({"ranges": [{"start": {"line": start}, "end": {"line": end}}]})
}

#[test]
fn what_a_target_takes() {
    let s = Sandbox::new();
    let context = s.context("ctx", &[("Dockerfile", OFFERS)]);
    let text = s.ok(&["build", "--call=outline", "--target", "app", &context]);
    insta::assert_snapshot!(text, @r"
    TARGET:      app
    DESCRIPTION: is what is shipped

    BUILD ARG   VALUE   DESCRIPTION
    VERSION     1.2     of the tool
    LEVEL       1.2-x   how much it says

    SECRET   REQUIRED
    token    true
    other

    SSH       REQUIRED
    default

    CACHE MOUNT
    deps
    ");
    let call = ["build", "--call=outline,format=json", "--target", "app"];
    let found =
        without_sources(&s.ok(&[&call[..], &["--build-arg", "LEVEL=2", &context]].concat()));
    let expected = json!({
        "name": "app",
        "description": "is what is shipped",
        "args": [
            {"name": "VERSION", "description": "of the tool", "value": "1.2", "location": lines(2, 2)},
            {"name": "LEVEL", "description": "how much it says", "value": "2", "location": lines(9, 9)},
        ],
        "secrets": [
            {"name": "token", "required": true, "location": lines(4, 4)},
            {"name": "other", "location": lines(10, 10)},
        ],
        "ssh": [{"name": "default", "location": lines(4, 4)}],
        "cache": [{"ID": "deps", "location": lines(10, 10)}],
    });
    assert_eq!(found, expected);
}

#[test]
fn which_targets_there_are() {
    let s = Sandbox::new();
    let context = s.context("ctx", &[("Dockerfile", OFFERS)]);
    let text = s.ok(&["build", "--call=targets", &context]);
    insta::assert_snapshot!(text, @r"
    TARGET      DESCRIPTION          BASE      PLATFORM
    tools                            base
    app         is what is shipped   tools
    (default)                        scratch   $BUILDPLATFORM
    ");
    let found = without_sources(&s.ok(&["build", "--call", "targets,format=json", &context]));
    let expected = json!({"targets": [
        {"name": "tools", "base": "base", "location": lines(3, 3)},
        {"name": "app", "description": "is what is shipped", "base": "tools", "location": lines(6, 6)},
        {"default": true, "base": "scratch", "platform": "$BUILDPLATFORM", "location": lines(11, 11)},
    ]});
    assert_eq!(found, expected);
    // Neither needs a store, and neither makes one.
    assert!(!s.store().exists());
}

#[test]
fn bases_that_are_here_are_looked_at() {
    let Some(s) = Sandbox::with_base("bases_that_are_here_are_looked_at") else {
        return;
    };
    let text =
        "FROM base\nENV GIVEN=1\nSHELL [\"/bin/sh\", \"-ec\"]\nONBUILD ARG TRIGGERED=$GIVEN\n";
    let context = s.context("ctx", &[("Dockerfile", text)]);
    s.build(&context, &["-t", "given"]);
    let text = "FROM given\nENV A=$GIVEN B=$TRIGGERED\nCMD x\n";
    let context = s.context("ctx", &[("Dockerfile", text)]);
    assert_eq!(s.ok(&["check", &context]), "no warnings");
    // In place of another name, and in a build.
    let text = "FROM other\nENV A=$GIVEN B=$TRIGGERED\nCMD x\n";
    let other = s.context("other", &[("Dockerfile", text)]);
    let named = ["--build-context", "other=docker-image://given"];
    assert_eq!(
        s.ok(&[&["check"][..], &named, &[&other]].concat()),
        "no warnings"
    );
    let built = s.build(&other, &[&named[..], &["-t", "x"]].concat());
    assert!(!built.stderr.contains("WARN"), "{}", built.stderr);
    // Nothing is fetched, and no store is made: then it is not known.
    let store = s.path("nowhere");
    let ran = s.run_in(&store, &["check", &context]);
    assert_eq!(ran.code, Some(1));
    for rule in ["UndefinedVar", "JSONArgsRecommended"] {
        assert!(ran.stdout.contains(rule), "{}", ran.stdout);
    }
    assert!(!store.exists());
    // A base for another platform is used, with a word about it.
    let text = "FROM base\nCOPY Dockerfile /\n";
    let context = s.context("ctx", &[("Dockerfile", text)]);
    let foreign = ["--platform", "linux/s390x"];
    let built = s.build(
        &context,
        &[&foreign[..], &["--pull=never", "-t", "x"]].concat(),
    );
    let checked = s.run(&[&["check"][..], &foreign, &[&context]].concat());
    assert_eq!(checked.code, Some(1));
    for text in [built.stderr, checked.stdout] {
        assert!(text.contains("InvalidBaseImagePlatform"), "{text}");
        assert!(text.contains("expected \"linux/s390x\""), "{text}");
    }
    let native = s.build(&context, &["-t", "x"]);
    assert!(!native.stderr.contains("WARN"), "{}", native.stderr);
}

#[test]
fn arguments_that_builders_know() {
    let Some(s) = Sandbox::with_base("arguments_that_builders_know") else {
        return;
    };
    let build = |text: &str, args: &[&str]| {
        let context = s.context("ctx", &[("Dockerfile", text)]);
        let mut more = vec!["-t", "x"];
        args.iter()
            .for_each(|arg| more.extend(["--build-arg", arg]));
        s.build(&context, &more).stderr
    };
    let out = build(
        "FROM base\nRUN echo host=$(hostname)\n",
        &["BUILDKIT_SANDBOX_HOSTNAME=elsewhere"],
    );
    assert!(out.contains("host=elsewhere"), "{out}");
    // Each space has cache mounts of its own.
    let note = |space: &str, word: &str| {
        let text = format!(
            "FROM base\nRUN --mount=type=cache,id=k,target=/c echo had=$(cat /c/f) && echo {word} > /c/f\n"
        );
        build(&text, &[&format!("BUILDKIT_CACHE_MOUNT_NS={space}")])
    };
    assert!(note("one", "first").contains("had=\n"));
    assert!(note("two", "second").contains("had=\n"));
    assert!(note("one", "third").contains("had=first\n"));
    assert!(note("", "fourth").contains("had=\n"));
    // In place of the file's own settings.
    let text = "# check=skip=all\nFROM base as A\n";
    assert!(!build(text, &[]).contains("Casing"));
    let out = build(text, &["BUILDKIT_DOCKERFILE_CHECK=skip=StageNameCasing"]);
    assert!(
        out.contains("FromAsCasing") && !out.contains("StageNameCasing"),
        "{out}"
    );
    // Only this program reads the file, whatever it names.
    build("FROM base\n", &["BUILDKIT_SYNTAX=docker/dockerfile:1"]);
    build("# syntax=example.org/other\nFROM base\n", &[]);
    // An index, also of one platform.
    build("FROM base\n", &["BUILDKIT_MULTI_PLATFORM=1"]);
    let raw: Value = serde_json::from_str(&s.ok(&["inspect", "--raw", "x"])).unwrap();
    assert_eq!(raw["manifests"].as_array().map(Vec::len), Some(1), "{raw}");
    // The cache goes with the image.
    build("FROM base\nRUN true\n", &["BUILDKIT_INLINE_CACHE=1"]);
    let config = s.ok(&["inspect", "--config", "x"]);
    assert!(config.contains("cache.v"), "{config}");
    // None of them is an argument of the image.
    build("FROM base\nRUN true\n", &["BUILDKIT_BUILD_NAME=me"]);
    let config = s.ok(&["inspect", "--config", "x"]);
    assert!(!config.contains("BUILDKIT_"), "{config}");
    // What they hold is there for an ARG that asks.
    let out = build(
        "FROM base\nARG BUILDKIT_BUILD_NAME\nRUN echo name=$BUILDKIT_BUILD_NAME\n",
        &["BUILDKIT_BUILD_NAME=me"],
    );
    assert!(out.contains("name=me"), "{out}");
}

#[test]
fn what_stands_for_a_base() {
    let Some(s) = Sandbox::with_base("what_stands_for_a_base") else {
        return;
    };
    let copied = s.ok(&["copy", "base", "oci:lay:v1"]);
    let digest = copied.rsplit('@').next().unwrap().trim().to_owned();
    s.ok(&["copy", "base", "oci:lay:v2"]);
    let text = "FROM alpine:3\nRUN echo built > /b\n";
    let context = s.context("ctx", &[("Dockerfile", text)]);
    for place in [
        "docker-image://base".to_owned(),
        format!("docker-image://base@{digest}"),
        "oci-layout://lay:v1".to_owned(),
        format!("oci-layout://lay@{digest}"),
        format!("oci-layout://lay:v2@{digest}"),
        format!("oci-layout://{}:v2", s.path("lay").display()),
    ] {
        for name in [
            "alpine:3",
            "docker.io/library/alpine:3",
            "alpine:3::linux/amd64",
        ] {
            if name.contains("::") && cfg!(not(target_arch = "x86_64")) {
                continue;
            }
            let named = format!("{name}={place}");
            s.build(
                &context,
                &["--pull=never", "--build-context", &named, "-t", "x"],
            );
        }
    }
    let refused = |named: &str, why: &str| {
        let ran = s.run(&["build", "--pull=never", "--build-context", named, &context]);
        assert_eq!(ran.code, Some(1), "{named}");
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    };
    refused(
        "alpine:3=oci-layout://lay:v3",
        "no image \"v3\"; it has v1, v2",
    );
    // One for another platform doesn't count.
    refused(
        "alpine:3::linux/s390x=docker-image://base",
        "alpine:3 is not in the store",
    );
    // Nothing at all.
    let text = "FROM alpine:3\nCOPY Dockerfile /\n";
    let context = s.context("ctx", &[("Dockerfile", text)]);
    let named = "alpine:3=docker-image://scratch";
    s.build(&context, &["--build-context", named, "-t", "x"]);
    let config: Value = serde_json::from_str(&s.ok(&["inspect", "--config", "x"])).unwrap();
    assert_eq!(
        config["rootfs"]["diff_ids"].as_array().map(Vec::len),
        Some(1)
    );
    // Files in place of an image.
    let text = "FROM files\nCOPY --from=files a /b\n";
    let context = s.context("ctx", &[("Dockerfile", text)]);
    s.context("files", &[("a", "A"), ("c", "C"), (".dockerignore", "c\n")]);
    let named = ["--build-context", "files=files"];
    assert_eq!(s.file_of(&context, &named, "a"), "A");
    assert_eq!(s.file_of(&context, &named, "b"), "A");
    assert!(!s.path("out/c").exists());
    // A base by its digest is what the store has under any name.
    for name in [format!("base@{digest}"), format!("base:other@{digest}")] {
        let text = format!("FROM {name}\nRUN true\n");
        let context = s.context("ctx", &[("Dockerfile", &text)]);
        s.build(&context, &["--pull=never", "-t", "x"]);
    }
    let text = format!("FROM base@{}\n", digest.replace(['0', '1', '2'], "3"));
    let context = s.context("ctx", &[("Dockerfile", &text)]);
    assert_eq!(s.run(&["build", "--pull=never", &context]).code, Some(1));
}

#[test]
fn triggers_reach_the_next_stage_only() {
    let Some(s) = Sandbox::with_base("triggers_reach_the_next_stage_only") else {
        return;
    };
    let trigger = "ONBUILD RUN <<EOF\necho fired >> /fired\nEOF\n";
    let context = s.context("ctx", &[("Dockerfile", &format!("FROM base\n{trigger}"))]);
    s.build(&context, &["-t", "parent"]);
    let count = |text: &str, more: &[&str]| {
        let context = s.context("ctx", &[("Dockerfile", text)]);
        s.file_of(&context, more, "fired").lines().count()
    };
    let child = s.context("child", &[("Dockerfile", "FROM parent\n")]);
    s.build(&child, &["-t", "child"]);
    assert_eq!(count("FROM parent\n", &[]), 1);
    // Built on that, as an image and as a stage.
    assert_eq!(count("FROM child\nRUN true\n", &[]), 1);
    assert_eq!(count("FROM parent AS a\nFROM a AS b\nFROM b\n", &[]), 1);
    // The same of a stage's own triggers: not in itself, once in the next.
    let own =
        format!("FROM base AS a\nRUN touch /fired\n{trigger}RUN [ ! -s /fired ]\nFROM a AS b\n");
    assert_eq!(count(&own, &["--target", "a"]), 0);
    assert_eq!(count(&own, &["--target", "b"]), 1);
    assert_eq!(count(&format!("{own}FROM b\nRUN true\n"), &[]), 1);
    let config = s.ok(&["inspect", "--config", "child"]);
    assert!(!config.contains("OnBuild"), "{config}");
}

#[test]
fn layers_that_are_the_same_are_stacked() {
    let Some(s) = Sandbox::with_base("layers_that_are_the_same_are_stacked") else {
        return;
    };
    // Steps that change nothing, and files that come, go and come again.
    let text = "FROM base\nRUN true\nRUN : two\nCOPY Dockerfile /f\nRUN rm /f\nCOPY Dockerfile /f\nRUN : three\n";
    let context = s.context("ctx", &[("Dockerfile", text)]);
    s.build(&context, &["-t", "twice"]);
    let text = "FROM twice\nRUN cat /f > /seen\nRUN : four\nRUN rm /f && : > /gone\n";
    let context = s.context("on", &[("Dockerfile", text)]);
    assert!(s.file_of(&context, &[], "seen").starts_with("FROM base"));
    assert!(!s.path("out/f").exists() && s.path("out/gone").exists());
}

#[test]
fn odd_values_stay_values() {
    let Some(s) = Sandbox::with_base("odd_values_stay_values") else {
        return;
    };
    let build = |text: &str| {
        let context = s.context("ctx", &[("Dockerfile", text)]);
        s.run(&["build", "-t", "x", &context])
    };
    let large = format!("FROM scratch\nLABEL a={}\n", "x".repeat(60_000));
    for text in [
        "FROM base\nWORKDIR /a b/'c'\nRUN true\n",
        "FROM base\nRUN ln -s /etc /l\nVOLUME /l/x /../../../v\n",
        "FROM scratch\nENV a.b-c=1 A=\"x=y\"\n",
        "FROM scratch\nSTOPSIGNAL 15\nHEALTHCHECK --retries=0 CMD true\n",
        &large,
    ] {
        let ran = build(text);
        assert_eq!(ran.code, Some(0), "{text:?}\n{}", ran.stderr);
    }
    for text in [
        "FROM base\nWORKDIR /etc/passwd/x\nRUN true\n",
        "FROM base\nWORKDIR /proc/self/fd/7/../../../../../w\nRUN pwd\n",
        "FROM base\nUSER ../../x\nRUN true\n",
        "FROM base\nUSER 99999999999\nRUN true\n",
        "FROM scratch\nENV =1\n",
        "FROM scratch\nEXPOSE 1-99999999999\n",
        "FROM scratch\nSTOPSIGNAL SIG$(kill)\n",
        "FROM scratch\nHEALTHCHECK --interval=99999999999h CMD x\n",
        "FROM scratch\nCOPY <<\"../../x\" /\nx\n../../x\n",
        "FROM scratch\nCOPY <</etc/x /\nx\n/etc/x\n",
    ] {
        let ran = build(text);
        assert_eq!(ran.code, Some(1), "{text:?}\n{}", ran.stderr);
        assert!(
            ran.stderr.starts_with("error:") || ran.stderr.contains("\nerror:"),
            "{}",
            ran.stderr
        );
    }
    // Of an inline file nothing is left in the context.
    let context = s.context(
        "inline",
        &[("Dockerfile", "FROM scratch\nCOPY <<x /\ny\nx\n")],
    );
    s.build(&context, &["-t", "x"]);
    assert_eq!(std::fs::read_dir(&context).unwrap().count(), 1);
}
