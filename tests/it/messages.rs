//! What is said of contexts that are wrong, as a table.

use std::fmt::Write as _;

use crate::sandbox::Sandbox;

/// A Dockerfile, an ignore file, and what else is on the command line.
type Wrong = (&'static str, &'static str, &'static [&'static str]);

const WRONG: &[Wrong] = &[
    // sources
    ("FROM scratch\nCOPY nothing /\n", "", &[]),
    ("FROM scratch\nCOPY file fiel /d/\n", "", &[]),
    ("FROM scratch\nCOPY dir/z /\n", "", &[]),
    ("FROM scratch\nCOPY out /\n", "out\n", &[]),
    ("FROM scratch\nCOPY gone /\n", "", &[]),
    ("FROM scratch\nCOPY away /\n", "", &[]),
    ("FROM scratch\nCOPY ../outside /\n", "", &[]),
    ("FROM scratch\nCOPY [a-c file /\n", "", &[]),
    ("FROM scratch\nCOPY --exclude=[ . /\n", "", &[]),
    ("FROM scratch\nCOPY <<../x /d/\n../x\n", "", &[]),
    (
        "FROM base\nRUN --mount=target=/x,source=nothing true\n",
        "",
        &[],
    ),
    (
        "FROM scratch AS a\nFROM scratch\nCOPY --from=a /x /\n",
        "",
        &[],
    ),
    // destinations
    ("FROM scratch\nCOPY file /x\nCOPY dir /x\n", "", &[]),
    ("FROM scratch\nCOPY file /x\nCOPY file /x/y/z\n", "", &[]),
    (
        "FROM scratch\nCOPY dir /x\nCOPY link /x/y\nCOPY file dir /x/y\n",
        "",
        &[],
    ),
    ("FROM scratch\nARG D\nCOPY file $D\n", "", &[]),
    // owners and modes
    ("FROM base\nCOPY --chown=nemo file /\n", "", &[]),
    ("FROM base\nCOPY --chown=ana:nogroup file /\n", "", &[]),
    ("FROM base\nCOPY --chown=../../x file /\n", "", &[]),
    ("FROM base\nCOPY --chown=99999999999 file /\n", "", &[]),
    ("FROM base\nCOPY --chmod=9999 file /\n", "", &[]),
    ("FROM base\nCOPY --chmod=99999999999 file /\n", "", &[]),
    ("FROM base\nCOPY --chmod=u+q file /\n", "", &[]),
    ("FROM base\nUSER nemo\nRUN true\n", "", &[]),
    // checksums
    ("FROM scratch\nADD --checksum=sha256:00 file /\n", "", &[]),
    (
        "FROM scratch\nADD --checksum=sum http://127.0.0.1:1/x /\n",
        "",
        &[],
    ),
    (
        "FROM scratch\nADD https://u:secret@127.0.0.1:1/x.git#-x /\n",
        "",
        &[],
    ),
    // ignore files
    ("FROM scratch\nCOPY file /\n", "ok\n[a\n", &[]),
    ("FROM scratch\nCOPY file /\n", "# all\n!\n", &[]),
    (
        "FROM scratch\nCOPY file /\n",
        "",
        &["--ignorefile", "nothing"],
    ),
    // Dockerfiles
    ("FROM scratch\n", "", &["-f", "nothing"]),
    ("FROM scratch\n", "", &["-f", "ctx/Dockerfil"]),
    ("FROM scratch\n", "", &["-f", "ctx/dir"]),
    (
        "FROM scratch\n",
        "",
        &["-f", "http://127.0.0.1:1/Dockerfile"],
    ),
    ("# check=skp=all\nFROM scratch\n", "", &[]),
    ("# check=error=true\nFROM scratch as a\n", "", &[]),
    // contexts
    ("FROM scratch\n", "", &["--build-context", "x"]),
    ("FROM scratch\n", "", &["--build-context", "x=nothing"]),
    ("FROM scratch\n", "", &["--build-context", "x=ctx/file"]),
    (
        "FROM scratch\n",
        "",
        &["--build-context", "x=https://127.0.0.1:1/x.git#:../y"],
    ),
    ("FROM x\n", "", &["--build-context", "x=docker-image://BAD"]),
    (
        "FROM x\n",
        "",
        &["--build-context", "x=oci-layout://nothing"],
    ),
    (
        "FROM x\n",
        "",
        &["--build-context", "x=oci-layout://ctx@sha256:12"],
    ),
    // stages and images
    ("FROM scratch AS build\n", "", &["--target", "biuld"]),
    ("FROM scratch AS build\n", "", &["--target", "other"]),
    ("FROM scratch\n", "", &["--target", "3"]),
    (
        "FROM scratch AS a\nCOPY --from=b /x /\nFROM scratch AS b\nCOPY --from=a /x /\n",
        "",
        &["--target", "a"],
    ),
    ("FROM scratch AS a\nCOPY --from=a /x /\n", "", &[]),
    ("FROM base AS build\nFROM biuld\n", "", &["--pull=never"]),
    ("FROM base AS build\nFROM Build\n", "", &[]),
    ("FROM Scratch\n", "", &[]),
    ("ARG V\nFROM ${V}\n", "", &[]),
    ("FROM ${V}\n", "", &[]),
    (
        "FROM base AS build\nFROM base\nCOPY --from=biuld /x /\n",
        "",
        &["--pull=never"],
    ),
    (
        "FROM later\nFROM base AS later\nFROM scratch\nCOPY --from=0 / /\n",
        "",
        &["--pull=never"],
    ),
    (
        "FROM base AS a\nONBUILD RUN --mount=tpye=cache true\nFROM a\n",
        "",
        &[],
    ),
    (
        "FROM base AS a\nONBUILD COPY --from=nothing /x /\nFROM a\n",
        "",
        &["--pull=never"],
    ),
    // what isn't given
    (
        "FROM base\nRUN --mount=type=secret,id=k,required true\n",
        "",
        &[],
    ),
    ("FROM base\nRUN --mount=type=ssh,required true\n", "", &[]),
    ("FROM base\nRUN --security=insecure true\n", "", &[]),
    ("FROM base\nRUN --network=hots true\n", "", &[]),
    ("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n", "", &[]),
];

#[test]
fn wrong_contexts_are_explained() {
    let Some(s) = Sandbox::with_base("wrong_contexts_are_explained") else {
        return;
    };
    let mut out = String::new();
    for (dockerfile, ignore, more) in WRONG {
        let _ = std::fs::remove_dir_all(s.path("ctx"));
        s.context(
            "ctx",
            &[
                ("Dockerfile", dockerfile),
                (".dockerignore", ignore),
                ("file", ""),
                ("out", ""),
                ("dir/y", ""),
            ],
        );
        for (link, target) in [
            ("gone", "nowhere"),
            ("away", "/etc/hostname"),
            ("link", "file"),
        ] {
            std::os::unix::fs::symlink(target, s.path("ctx").join(link)).unwrap();
        }
        let mut args = vec!["build", "--progress", "quiet", "-t", "wrong"];
        args.extend(*more);
        args.push("ctx");
        let ran = s.run(&args);
        assert!(
            matches!(ran.code, Some(1 | 2)),
            "{dockerfile:?} {:?}\n{}",
            ran.code,
            ran.stderr
        );
        // The file's own line is shown as it is.
        let shown = ran.stderr.lines().filter(|l| !l.contains(" | "));
        for line in shown {
            for never in ["panicked", "secret"] {
                let named = dockerfile.contains("type=secret");
                assert!(named || !line.contains(never), "{}", ran.stderr);
            }
        }
        writeln!(out, "{dockerfile:?} {ignore:?} {more:?}").unwrap();
        for line in ran.stderr.trim_end().lines() {
            writeln!(out, "  {line}").unwrap();
        }
        out.push('\n');
    }
    assert!(!s.ok(&["images"]).contains("wrong"));
    insta::assert_snapshot!(out);
}
