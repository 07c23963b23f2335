//! What differs between two images.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Builds one image of `files` without running anything.
fn build(s: &Sandbox, name: &str, dockerfile: &str, files: &[(&str, &str)]) {
    let all = [&[("Dockerfile", dockerfile)], files].concat();
    let context = s.context(name, &all);
    s.build(
        &context,
        &["--build-arg", "SOURCE_DATE_EPOCH=1000", "-t", name],
    );
}

fn diff(s: &Sandbox, args: &[&str]) -> (Option<i32>, Value) {
    let ran = s.run(&[&["diff", "--format", "json"], args].concat());
    let found = serde_json::from_str(&ran.stdout);
    (
        ran.code,
        found.unwrap_or_else(|e| panic!("{e}\n{}", ran.stderr)),
    )
}

#[test]
fn two_images_are_compared() {
    let s = Sandbox::new();
    build(
        &s,
        "a",
        "FROM scratch\nCOPY t /\nENV A=1\n",
        &[
            ("t/same", "s"),
            ("t/text", "one\ntwo\nthree\n"),
            ("t/gone", "g"),
            ("t/mode", "m"),
            ("t/bin", "\0\u{1}"),
        ],
    );
    build(
        &s,
        "b",
        "FROM scratch\nCOPY t /\nCOPY --chmod=600 t/mode /\nENV A=2\nUSER 5\n",
        &[
            ("t/same", "s"),
            ("t/text", "one\n2\nthree\n"),
            ("t/new", "n"),
            ("t/mode", "m"),
            ("t/bin", "\0\u{2}"),
        ],
    );
    let (code, found) = diff(&s, &["a", "b", "--ignore", "mtime"]);
    assert_eq!((code, &found["equal"]), (Some(1), &Value::Bool(false)));
    let files: Vec<String> = found["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| {
            let aspects: Vec<&str> = f["aspects"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_str)
                .collect();
            let text = |v: &Value| v.as_str().unwrap().to_owned();
            format!(
                "{} {} {}",
                text(&f["path"]),
                text(&f["status"]),
                aspects.join(",")
            )
        })
        .collect();
    assert_eq!(
        files,
        [
            "/bin changed content",
            "/gone removed ",
            "/mode changed mode",
            "/new added ",
            "/text changed content",
        ]
    );
    assert_eq!(
        found["counts"],
        serde_json::json!({"added": 1, "removed": 1, "changed": 3})
    );
    let text = found["files"][4]["text_diff"].as_str().unwrap();
    assert!(text.contains("-two\n+2\n"), "{text}");
    assert_eq!(found["files"][0].get("text_diff"), None);
    assert_eq!(found["files"][2]["before"]["mode"], "0644");
    assert_eq!(found["files"][2]["after"]["mode"], "0600");
    let fields: Vec<&str> = found["config"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["config.Env.1", "config.User"]);
    assert!(!found["history"].as_array().unwrap().is_empty());
    let layers = found["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(
        (&layers[0]["status"], &layers[2]["status"]),
        (&"removed".into(), &"added".into())
    );

    let text = s.run(&["diff", "a", "b", "--ignore", "mtime"]).stdout;
    for line in [
        "  ~ config.Env.1: \"A=1\" -> \"A=2\"\n",
        "  + config.User: \"5\"\n",
        "files: 1 added, 1 removed, 3 changed\n",
        "  - /gone  -rw-r--r-- 0:0 1B\n",
        "  ~ /mode: mode 0644 -> 0600\n",
        "  ~ /text: content (14B -> 12B)\n",
        "      +2\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    // Only some paths, and less.
    for (args, code) in [
        (&["a", "b", "/same", "--ignore", "mtime"][..], 0),
        (&["a", "b", "te*t"], 1),
        (&["a", "b", "/mode", "--ignore", "mtime,mode"], 0),
        (&["a", "b", "--ignore", "config,history,layers,files"], 0),
        (&["a", "a"], 0),
        (&["a", "b", "--ignore", "nothing"], 2),
    ] {
        let ran = s.run(&[&["diff"], args].concat());
        assert_eq!(
            ran.code,
            Some(code),
            "{args:?}\n{}{}",
            ran.stdout,
            ran.stderr
        );
    }
}

/// Files of images that only differ in compression are the same.
#[test]
fn the_same_files_under_another_digest() {
    let s = Sandbox::new();
    build(&s, "a", "FROM scratch\nCOPY t /\n", &[("t/f", "content")]);
    s.ok(&[
        "copy",
        "-q",
        "--compression",
        "zstd",
        "--force-compression",
        "a",
        "oci:other:z",
    ]);
    let (code, found) = diff(&s, &["a", "oci:other:z"]);
    assert_eq!(code, Some(1));
    for part in ["files", "config", "history"] {
        assert_eq!(found[part], serde_json::json!([]), "{part}");
    }
    let text = s.run(&["diff", "a", "oci:other:z"]).stdout;
    assert!(text.contains("compressed otherwise"), "{text}");
    let (code, found) = diff(&s, &["a", "oci:other:z", "--ignore", "layers"]);
    assert_eq!((code, &found["equal"]), (Some(0), &Value::Bool(true)));
}
