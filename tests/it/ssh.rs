//! RUN's `--mount=type=ssh`: what a step can have of an agent, and what it
//! can't.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sandbox::{Ran, Sandbox, Server, eventually, has, skip};

const RUNGS: [&str; 2] = ["--isolation=namespaces", "--isolation=chroot"];

/// With an image `tools` that has OpenSSH's `ssh-add` and `ssh-keygen`, and a
/// key without a passphrase.
fn sandbox(test: &str) -> Option<Sandbox> {
    let test = format!("ssh::{test}");
    for program in ["ssh-agent", "ssh-add", "ssh-keygen"] {
        if !has(program) {
            skip(&test, &format!("there is no {program}"));
            return None;
        }
    }
    let s = Sandbox::with_base(&test)?;
    let root = s.path("tools/root");
    for program in ["/usr/bin/ssh-add", "/usr/bin/ssh-keygen"] {
        let listed = Command::new("ldd").arg(program).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let words = listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for file in words.chain([program]) {
            let to = root.join(file.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(file, to).unwrap();
        }
    }
    s.key("key", "");
    std::fs::copy(s.path("key.pub"), s.path("tools/key.pub")).unwrap();
    let context = s.context(
        "tools",
        &[(
            "Dockerfile",
            "FROM base\nCOPY root /\nCOPY key.pub /key.pub\nRUN chmod 1777 /tmp\n",
        )],
    );
    s.build(&context, &["-t", "tools"]);
    Some(s)
}

impl Sandbox {
    fn key(&self, name: &str, passphrase: &str) -> PathBuf {
        let path = self.path(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-C", name, "-N", passphrase, "-f"])
            .arg(&path)
            .stdin(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        path
    }

    fn with_ssh(&self, rung: &str, lines: &str, ssh: &str) -> Ran {
        let context = self.context("ctx", &[("Dockerfile", &format!("FROM tools\n{lines}\n"))]);
        let mut args = vec!["build", "--progress=plain", "--no-cache", rung];
        if !ssh.is_empty() {
            args.extend(["--ssh", ssh]);
        }
        args.push(&context);
        self.run(&args)
    }
}

/// Processes that work in `dir`.
fn at_work_in(dir: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let places = processes.filter_map(|p| std::fs::read_link(p.path().join("cwd")).ok());
    places.filter(|place| place.starts_with(dir)).count()
}

/// Lists, signs, and tries what it may not.
const USES: &str = "RUN --mount=type=ssh ssh-add -l && echo x > /tmp/x && \
    ssh-keygen -q -Y sign -n test -f /key.pub /tmp/x && test -s /tmp/x.sig && echo sig''ned; \
    ssh-add -D 2>/dev/null && echo remo''ved; \
    ssh-keygen -q -t ed25519 -N '' -f /tmp/other && ssh-add /tmp/other 2>/dev/null && echo add''ed; \
    ssh-add -l | wc -l; stat -c '%a %u %g' $SSH_AUTH_SOCK";

fn check_uses(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for expected in ["key (ED25519)", "signed", " 1\n", "600 0 0"] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
    for refused in ["removed", "added"] {
        assert!(!ran.stderr.contains(refused), "{refused}: {}", ran.stderr);
    }
}

#[test]
fn keys_in_files_can_be_used() {
    let Some(s) = sandbox("keys_in_files_can_be_used") else {
        return;
    };
    let key = s.path("key");
    for rung in RUNGS {
        let ssh = format!("default={}", key.display());
        check_uses(&s.with_ssh(rung, USES, &ssh));
        let more = s.path("more");
        if !more.exists() {
            s.key("more", "");
        }
        let lines = "RUN --mount=type=ssh,id=mine,target=/run/me.sock,mode=0620,uid=1000,gid=1001,required \
             stat -c 'is %a %u %g' /run/me.sock; echo at $SSH_AUTH_SOCK\n\
             USER ana\n\
             RUN --mount=type=ssh,id=mine,mode=0620,uid=1000,gid=1001 ssh-add -l | wc -l\n\
             USER root\nRUN test ! -e /run/me.sock && test -z \"$SSH_AUTH_SOCK\"\n\
             RUN --mount=type=ssh,id=other test -z \"$SSH_AUTH_SOCK\"";
        let ran = s.with_ssh(
            rung,
            lines,
            &format!("mine={},{}", key.display(), more.display()),
        );
        assert_eq!(ran.code, Some(0), "{rung}: {}", ran.stderr);
        for expected in ["is 620 1000 1001", "at /run/me.sock", " 2\n"] {
            assert!(
                ran.stderr.contains(expected),
                "{rung} {expected}: {}",
                ran.stderr
            );
        }
        let ran = s.with_ssh(rung, "RUN --mount=type=ssh,required true", "");
        assert!(
            ran.code == Some(1) && ran.stderr.contains("--ssh default"),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(at_work_in(&s.store()), 0);
}

#[test]
fn an_agent_of_the_user_is_only_asked() {
    let Some(s) = sandbox("an_agent_of_the_user_is_only_asked") else {
        return;
    };
    let socket = s.path("agent.sock");
    let mut agent = Command::new("ssh-agent");
    agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
    let _agent = Server(agent.spawn().unwrap());
    assert!(eventually(|| socket.exists()));
    let add = |args: &[&str]| {
        let mut command = Command::new("ssh-add");
        command.env("SSH_AUTH_SOCK", &socket).args(args);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let key = s.path("key");
    assert!(eventually(|| add(&["-q", key.to_str().unwrap()])
        .status
        .success()));
    for rung in RUNGS {
        check_uses(&s.with_ssh(rung, USES, &format!("default={}", socket.display())));
    }
    let left = String::from_utf8(add(&["-l"]).stdout).unwrap();
    assert!(
        left.contains("key (ED25519)") && left.lines().count() == 1,
        "{left}"
    );
}

#[test]
fn no_key_and_no_agent_is_left() {
    let Some(s) = sandbox("no_key_and_no_agent_is_left") else {
        return;
    };
    let key = s.path("key");
    let secret = std::fs::read_to_string(&key).unwrap();
    let secret = secret.lines().nth(3).unwrap();
    let marker = format!("93{}", std::process::id());
    let lines = format!("FROM tools\nRUN --mount=type=ssh ssh-add -l && sleep {marker}\n");
    let context = s.context("ctx", &[("Dockerfile", &lines)]);
    let mut child = s
        .command(&s.store())
        .args(["build", "-q", "--no-cache", "--ssh"])
        .arg(format!("default={}", key.display()))
        .arg(&context)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let sleeps = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
        let wanted = format!("sleep\0{marker}\0");
        lines.any(|line| line == wanted.as_bytes())
    };
    assert!(eventually(sleeps));
    assert_eq!(at_work_in(&s.store()), 1, "the agent");
    let found = Command::new("grep")
        .args(["-rlF", secret])
        .arg(s.store())
        .output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(eventually(|| !sleeps() && at_work_in(&s.store()) == 0));
}

#[test]
fn what_is_no_key_is_told_before_anything_runs() {
    let Some(s) = sandbox("what_is_no_key_is_told_before_anything_runs") else {
        return;
    };
    let locked = s.key("locked", "secret");
    let socket = s.path("s.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (key, public) = (s.path("key"), s.path("key.pub"));
    let at = |paths: &[&Path]| {
        let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        format!("default={}", paths.join(","))
    };
    for (ssh, message) in [
        (at(&[&locked]), "has a passphrase"),
        (at(&[&key, &public]), "is no private key"),
        (at(&[&s.path("none")]), "can't read the key"),
        (at(&[&key, &socket]), "is a socket"),
        ("default=".to_owned(), "ID=SOCKET or ID=KEY"),
    ] {
        let ran = s.with_ssh(RUNGS[0], "RUN echo r''an", &ssh);
        assert!(matches!(ran.code, Some(1 | 2)), "{ssh}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{ssh}: {}", ran.stderr);
        assert!(!ran.stderr.contains("ran"), "{ssh}: {}", ran.stderr);
    }
}
