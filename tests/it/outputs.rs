//! Where a result can go, and who can read it there.

use std::process::Command;

use crate::sandbox::{Sandbox, has, skip};

fn said(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
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
