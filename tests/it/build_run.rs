//! RUN and what the other instructions do to it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use crate::sandbox::{Ran, Sandbox, eventually};

#[test]
fn instructions_reach_the_command() {
    let Some(s) = Sandbox::with_base("instructions_reach_the_command") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[
            (
                "Dockerfile",
                r#"ARG TAG=latest
FROM base:${TAG} AS parent
ARG WHO=world
ENV GREETING="hello $WHO"
ONBUILD RUN echo "onbuild $GREETING" >> /log
SHELL ["/bin/sh", "-euc"]
FROM parent
ARG WHO
WORKDIR /work
WORKDIR deeper
RUN pwd >> /log; echo "$GREETING, $WHO" >> /log
RUN ["/bin/sh", "-c", "echo exec >> /log"]
RUN <<EOF
set -e
echo script >> /log
EOF
RUN cat <<A >> /log && cat <<-B >> /log
first
A
	second
	B
USER ana
RUN id -u > /tmp/id; id -g >> /tmp/id; echo $HOME >> /tmp/id
USER root
RUN cat /tmp/id >> /log
COPY --chown=ana:wheel --chmod=640 x sub/ /copied/
RUN stat -c '%n %u %g %a' /copied/x /copied/y >> /log
FROM scratch
COPY --from=1 /log /log
"#,
            ),
            ("x", "x"),
            ("sub/y", "y"),
        ],
    );
    let log = s.file_of(&context, &["--build-arg", "WHO=you"], "log");
    assert_eq!(
        log,
        "onbuild hello you\n/work/deeper\nhello you, you\nexec\nscript\nfirst\nsecond\n1000\n1001\n/home/ana\n\
         /copied/x 1000 10 640\n/copied/y 1000 10 640\n"
    );
}

#[test]
fn what_a_container_shows_and_hides() {
    let Some(s) = Sandbox::with_base("what_a_container_shows_and_hides") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM base\n\
             RUN echo $$ > /pid; hostname > /host; ls /proc/self/fd | wc -l > /fds; env | sort > /env; \
             grep CapEff /proc/self/status > /caps; grep -c . /etc/hosts > /hosts; \
             (mount -t tmpfs none /tmp 2>&1; echo $?) > /mount; echo x > /dev/shm/x; cat /proc/sys/kernel/hostname > /dev/null; \
             (echo b > /proc/sysrq-trigger) 2> /sysrq || true\n",
        )],
    );
    let out = s.path("out");
    let dest = format!("type=local,dest={}", out.display());
    s.build(&context, &["-o", &dest, "-o", "type=image", "-t", "probe"]);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("pid"), "1\n");
    assert_eq!(read("host"), "shiplap\n");
    // 0, 1, 2, and the listing's own.
    assert_eq!(read("fds").trim(), "4");
    assert_eq!(read("caps"), "CapEff:\t00000000a80425fb\n");
    assert!(read("mount").ends_with("1\n"), "{}", read("mount"));
    assert!(!read("sysrq").is_empty());
    let names: Vec<String> = read("env")
        .lines()
        .map(|l| l.split('=').next().unwrap().to_owned())
        .collect();
    let expected = ["HOME", "PATH", "PWD", "SHLVL"];
    assert!(
        names.iter().all(|n| expected.contains(&n.as_str())),
        "{names:?}"
    );
    // Mount points and provided files are in no layer.
    assert!(!out.join("proc").exists() && !out.join("sys").exists() && !out.join("dev").exists());
    assert!(!out.join("etc/hosts").exists() && !out.join("etc/resolv.conf").exists());
}

#[test]
fn mounts_come_and_go() {
    let Some(s) = Sandbox::with_base("mounts_come_and_go") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[
            (
                "Dockerfile",
                "FROM base AS other\nRUN echo from-other > /f\n\
                 FROM base\n\
                 RUN --mount=type=bind,target=/ctx,rw --mount=type=bind,from=other,target=/o \
                 --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=s \
                 set -e; cat /ctx/x /o/f > /seen; echo lost > /ctx/x; echo kept >> /c/n; echo lost > /t/t; \
                 cat /run/secrets/s | tr a-z A-Z >> /seen; [ ! -e /ctx/hidden ]\n\
                 RUN --mount=type=cache,target=/c cat /c/n >> /seen; [ ! -e /ctx ] && [ ! -e /o ] && [ ! -e /run/secrets ]\n",
            ),
            ("x", "context\n"),
            ("hidden", ""),
            (".dockerignore", "hidden\n"),
        ],
    );
    std::fs::write(s.path("secret"), "topsecretmarker").unwrap();
    let secret = format!("id=s,src={}", s.path("secret").display());
    let seen = s.file_of(
        &context,
        &["--secret", &secret, "-o", "type=image", "-t", "m"],
        "seen",
    );
    assert_eq!(seen, "context\nfrom-other\nTOPSECRETMARKERkept\n");
    assert_eq!(
        std::fs::read_to_string(s.path("ctx/x")).unwrap(),
        "context\n"
    );
    for left in ["c", "ctx", "o", "t", "run"] {
        assert!(!s.path("out").join(left).exists(), "{left} is left");
    }
    // Nothing of the secret is anywhere in the store.
    let found = std::process::Command::new("grep")
        .args(["-rl", "topsecretmarker"])
        .arg(s.store())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

fn runs(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
        .any(|c| c.split(|b| *b == 0).any(|word| word == marker.as_bytes()))
}

#[test]
fn nothing_is_left_however_a_build_ends() {
    let Some(s) = Sandbox::with_base("nothing_is_left_however_a_build_ends") else {
        return;
    };
    for (signal, marker, code) in [
        (rustix::process::Signal::INT, "98761", Some(130)),
        (rustix::process::Signal::TERM, "98762", Some(143)),
        (rustix::process::Signal::KILL, "98763", None),
    ] {
        let context = s.context(
            "ctx",
            &[(
                "Dockerfile",
                &format!("FROM base\nRUN setsid sleep {marker} & sleep {marker}\n"),
            )],
        );
        // A shell may have had this process ignore interrupts, and then the
        // program would as well.
        let build = s.command(&s.store());
        let mut child = std::process::Command::new("env")
            .arg("--default-signal=INT,TERM")
            .arg(build.get_program())
            .args(build.get_args())
            .args(["build", "-t", "never", &context])
            .envs(build.get_envs().filter_map(|(n, v)| Some((n, v?))))
            .current_dir(s.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        assert!(eventually(|| runs(marker)), "the step never began");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), code, "{signal:?}");
        assert!(
            eventually(|| !runs(marker)),
            "a process is left after {signal:?}"
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(s.dir.path().to_str().unwrap()), "{mounts}");
        assert!(!s.ok(&["images"]).contains("never"));
    }
    // A daemon ends with its step, and the store is as good as new.
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM base\nRUN setsid sleep 98764 & echo done\n",
        )],
    );
    s.build(&context, &["-t", "fine"]);
    assert!(!runs("98764"));
}

#[test]
fn more_layers_than_an_overlay_takes() {
    let Some(s) = Sandbox::with_base("more_layers_than_an_overlay_takes") else {
        return;
    };
    let mut text = String::from("FROM base\nCOPY low /low\nCOPY low /gone\n");
    for n in 0..500 {
        text.push_str(&format!("WORKDIR /d{}/{n}\n", n % 7));
    }
    text.push_str(
        "RUN cat /low > /seen; rm /gone; ls -d /d[0-9]*/* | wc -l >> /seen\n\
         RUN ls / | grep -c gone >> /seen; chmod 600 /low; stat -c %a /low >> /seen\n",
    );
    let context = s.context("ctx", &[("Dockerfile", &text), ("low", "from below\n")]);
    let seen = s.file_of(&context, &[], "seen");
    assert_eq!(seen, "from below\n500\n0\n600\n");
}

#[test]
fn a_run_of_the_bases_is_isolated_as_any_other() {
    const NOBODY_ELSE: u32 = 64_125;
    let Some(s) = Sandbox::with_base("a_run_of_the_bases_is_isolated_as_any_other") else {
        return;
    };
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(s.dir.path(), 0o755);
    open(&s.path("base.tar"), 0o644);
    let program = s.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_shiplap"), &program).unwrap();
    let trigger = "FROM base\nONBUILD RUN echo pid $$ uid $(id -u)\n";
    let parent = s.context("parent", &[("Dockerfile", trigger)]);
    // The file beside the context is read, and has no RUN.
    let child = s.context("child", &[("Dockerfile", "FROM parent\nENV A=1\n")]);
    let base = s.path("base.tar");
    for uid in [0, NOBODY_ELSE] {
        let home = s.path(&format!("home{uid}"));
        std::fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(uid), Some(uid)).unwrap();
        let run = |args: &[&str], stdin: Stdio| -> Ran {
            let mut command = std::process::Command::new(&program);
            command
                .uid(uid)
                .gid(uid)
                .current_dir(&home)
                .env("HOME", &home);
            command.arg("--root").arg(home.join("store")).args(args);
            let ran: Ran = command.stdin(stdin).output().unwrap().into();
            assert_eq!(ran.code, Some(0), "{uid} {args:?}: {}", ran.stderr);
            ran
        };
        run(&["import", base.to_str().unwrap(), "base"], Stdio::null());
        run(&["build", "-t", "parent", &parent], Stdio::null());
        let ran = run(
            &["build", "--progress=plain", "-t", "child", &child],
            Stdio::null(),
        );
        assert!(ran.stderr.contains("pid 1 uid 0"), "{uid}: {}", ran.stderr);
        // What is read once only is not read twice.
        let mut tar = tar::Builder::new(std::fs::File::create(s.path("context.tar")).unwrap());
        tar.append_dir_all(".", &child).unwrap();
        drop(tar.into_inner().unwrap());
        let file = format!("{child}/Dockerfile");
        let stdin = std::fs::File::open(s.path("context.tar")).unwrap().into();
        let args = ["build", "--progress=plain", "--no-cache", "-f", &file, "-"];
        assert!(run(&args, stdin).stderr.contains("pid 1 uid 0"));
        let left = std::fs::read_dir(home.join("store/tmp")).unwrap().count();
        assert_eq!(left, 0, "{uid}");
    }
}
