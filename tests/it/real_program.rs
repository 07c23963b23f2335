//! A real base, a real compiler, a real program.

use std::process::Command;

use crate::sandbox::{Sandbox, has, skip};

#[test]
fn a_c_program_is_compiled_and_runs() {
    const NAME: &str = "a_c_program_is_compiled_and_runs";
    let missing: Vec<&str> = ["mmdebstrap", "skopeo", "umoci", "runc"]
        .into_iter()
        .filter(|p| !has(p))
        .collect();
    if !missing.is_empty() {
        return skip(NAME, &format!("{} missing", missing.join(", ")));
    }
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let tar = s.path("debian.tar").display().to_string();
    let made = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "bookworm", &tar])
        .output()
        .unwrap();
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr)
            .lines()
            .last()
            .unwrap_or("")
            .to_owned();
        return skip(NAME, &format!("no Debian mirror can be reached: {why}"));
    }
    s.ok(&["import", &tar, "debian:bookworm"]);
    let context = s.context(
        "ctx",
        &[
            (
                "Dockerfile",
                "FROM debian:bookworm AS build\n\
                 RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev\n\
                 WORKDIR /src\nCOPY hello.c .\nRUN gcc -static -O2 -o /hello hello.c\n\
                 FROM scratch\nCOPY --from=build /hello /hello\nENTRYPOINT [\"/hello\"]\nCMD [\"world\"]\n",
            ),
            (
                "hello.c",
                "#include <stdio.h>\nint main(int c, char **v) { return printf(\"hello, %s\\n\", c > 1 ? v[1] : \"?\") < 0; }\n",
            ),
        ],
    );
    s.build(&context, &["--network", "host", "-t", "hello:1"]);
    let bundle = s.path("bundle").display().to_string();
    let image = format!("{}:hello:1", s.store().display());
    let unpacked = Command::new("umoci")
        .args(["unpack", "--image", &image, &bundle])
        .output()
        .unwrap();
    assert!(
        unpacked.status.success(),
        "{}",
        String::from_utf8_lossy(&unpacked.stderr)
    );
    let config = s.path("bundle/config.json");
    let mut spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    std::fs::write(&config, spec.to_string()).unwrap();
    let id = format!("shiplap-hello-{}", std::process::id());
    let ran = Command::new("runc")
        .args(["run", "--bundle", &bundle, &id])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "hello, world\n",
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}
