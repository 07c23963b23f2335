//! What steps can do where there are no namespaces, and what they leave.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;

use crate::sandbox::{Ran, Sandbox, eventually};

const CHROOT: &[&str] = &["--isolation=chroot"];

fn build(s: &Sandbox, dockerfile: &str, more: &[&str]) -> Ran {
    let context = s.context("ctx", &[("Dockerfile", dockerfile)]);
    let mut args = vec!["build", "--progress", "plain", "--no-cache"];
    args.extend(CHROOT);
    args.extend(more);
    args.push(&context);
    s.run(&args)
}

/// Whether a process has `marker` on its command line.
fn running(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap();
    processes.flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
    })
}

#[test]
fn what_leads_out_is_refused() {
    let Some(s) = Sandbox::with_base("chroot::what_leads_out_is_refused") else {
        return;
    };
    let outside = s.path("outside");
    std::fs::write(&outside, "canary").unwrap();
    let file = format!(
        r#"FROM base
RUN for c in "chroot / true" "mknod /d b 8 0" "mount -t tmpfs x /tmp" "unshare -m true" \
      "umount /" "cat {0}" "ls /proc/1" "cat /../../../..{0}"; do $c 2>/dev/null && echo O''UT $c; done; true
RUN mkdir -p /x/y && cd /x/y && ls -d ../../../../../../work /home 2>/dev/null && echo O''UT; true
RUN kill -9 $PPID; kill -9 1; true
RUN env | sort; test -c /dev/null && echo > /dev/null && test -s /proc/cpuinfo
"#,
        outside.display()
    );
    let ran = build(&s, &file, &[]);
    // Before Linux 6.12 a step may end its own keeper, and fails.
    if ran.stderr.contains("keeper was killed") {
        return crate::sandbox::skip("what_leads_out_is_refused", "Landlock has no signals");
    }
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!ran.stderr.contains("OUT"), "{}", ran.stderr);
    for line in ran.stderr.lines().filter(|l| l.contains('=')) {
        assert!(
            !line.contains("SHIPLAP") && !line.contains("DOCKER_CONFIG"),
            "{line}"
        );
    }
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "canary");
}

#[test]
fn daemons_end_with_their_step() {
    let Some(s) = Sandbox::with_base("chroot::daemons_end_with_their_step") else {
        return;
    };
    let marker = format!("98{}", std::process::id());
    let file = format!(
        "FROM base\nRUN (setsid sleep {marker} > /dev/null 2>&1 &) & \
         sh -c 'trap \"\" TERM; sleep {marker} & (sleep {marker} &)' > /dev/null 2>&1 & sleep 0.2\nRUN true\n"
    );
    let ran = build(&s, &file, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!running(&marker));
}

#[test]
fn what_was_put_into_the_tree_comes_out_again() {
    let Some(s) = Sandbox::with_base("chroot::what_was_put_into_the_tree_comes_out_again") else {
        return;
    };
    let secret = format!("secret {}", std::process::id());
    std::fs::write(s.path("secret"), &secret).unwrap();
    let option = format!("id=s,src={}", s.path("secret").display());
    let mount = "RUN --mount=type=secret,id=s --mount=type=cache,target=/cache";
    for (command, message) in [
        ("mv /run/secrets/s /kept", "moved or replaced"),
        ("ln /run/secrets/s /kept", "another name"),
        ("mv /cache /kept", "moved or replaced"),
        (
            "ln -s /outside /tmp/l && rm -r /cache && ln -s /outside /cache",
            "moved or replaced",
        ),
    ] {
        let ran = build(
            &s,
            &format!("FROM base\n{mount} {command}\n"),
            &["--secret", &option],
        );
        assert_eq!(ran.code, Some(1), "{command}\n{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{command}\n{}", ran.stderr);
    }
    // A link of the image leads a mount to nowhere but into the image.
    let file = "FROM base\nRUN ln -s /../../../../tmp/x /etc/link && ln -s / /up\n\
                RUN --mount=type=cache,target=/etc/link/deep touch /etc/link/deep/a && test -e /tmp/x/deep/a\n\
                RUN --mount=type=tmpfs,target=/up/up/t touch /t/a\nRUN test ! -e /t && test ! -e /tmp/x/deep\n";
    let ran = build(
        &s,
        &file
            .replace("/tmp/x /etc", "/tmp /etc")
            .replace("/tmp/x", "/tmp"),
        &[],
    );
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // An image with a link in the place of what is ours.
    for name in ["proc", "dev", "sys"] {
        let links = s.path("ctx").join(name);
        std::fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink("/etc", links.join(name)).unwrap();
        let ran = build(&s, &format!("FROM base\nCOPY {name} /\nRUN true\n"), &[]);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("symbolic link"), "{}", ran.stderr);
    }
}

#[test]
fn a_killed_build_leaves_no_process_and_no_secret() {
    let Some(s) = Sandbox::with_base("chroot::a_killed_build_leaves_no_process_and_no_secret")
    else {
        return;
    };
    let secret = format!("hidden-{}-marker", std::process::id());
    std::fs::write(s.path("secret"), &secret).unwrap();
    let option = format!("id=s,src={}", s.path("secret").display());
    let marker = format!("97{}", std::process::id());
    let file = format!(
        "FROM base\nRUN --mount=type=secret,id=s --mount=type=cache,target=/cache \
         echo kept > /cache/f; cat /run/secrets/s; sleep {marker}\n"
    );
    let context = s.context("ctx", &[("Dockerfile", &file)]);
    let mut child = s
        .command(&s.store())
        .args(["build", "-q", "--secret", &option])
        .args(CHROOT)
        .arg(&context)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert!(eventually(|| running(&format!("sleep\0{marker}"))));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(eventually(|| !running(&marker)));
    let found = || {
        let mut grep = std::process::Command::new("grep");
        let out = grep.args(["-rl", &secret]).arg(s.store()).output();
        String::from_utf8_lossy(&out.unwrap().stdout).into_owned()
    };
    // Who takes it away outlives the step by a moment.
    assert!(eventually(|| found().is_empty()), "{}", found());
    let again = file.replace(&format!("sleep {marker}"), "cat /cache/f");
    let ran = build(&s, &again, &["--secret", &option]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("kept"),
        "the cache is lost: {}",
        ran.stderr
    );
}

#[test]
fn an_agent_answers() {
    let Some(s) = Sandbox::with_base("chroot::an_agent_answers") else {
        return;
    };
    let socket = s.path("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut asked = [0; 5];
            client.read_exact(&mut asked).unwrap();
            assert_eq!(asked, [0, 0, 0, 1, 11]);
            client.write_all(&[0, 0, 0, 5, 12, 0, 0, 0, 0]).unwrap();
        }
    });
    let marker = format!("96{}", std::process::id());
    let file = format!(
        "FROM base\nRUN --mount=type=ssh,target=/a/sock test -S /a/sock && sleep {marker}\n"
    );
    let context = s.context("ctx", &[("Dockerfile", &file)]);
    let mut child = s
        .command(&s.store())
        .args(["build", "-q", "--ssh"])
        .arg(format!("default={}", socket.display()))
        .args(CHROOT)
        .arg(&context)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let path = || {
        let found = std::process::Command::new("find")
            .arg(s.store())
            .args(["-path", "*/tree/a/sock"])
            .output()
            .unwrap();
        String::from_utf8(found.stdout).unwrap().trim().to_owned()
    };
    assert!(eventually(
        || running(&format!("sleep\0{marker}")) && !path().is_empty()
    ));
    let mut client = UnixStream::connect(path()).unwrap();
    // What may not be asked for, and what may.
    for (kind, expected) in [
        (19, &[0, 0, 0, 1, 5][..]),
        (11, &[0, 0, 0, 5, 12, 0, 0, 0, 0]),
    ] {
        client.write_all(&[0, 0, 0, 1, kind]).unwrap();
        let mut answer = vec![0; expected.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, expected);
    }
    drop(client);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(eventually(|| !running(&marker)));
}
