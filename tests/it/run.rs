//! `shiplap run`: what the command is and sees, its streams and its terminal,
//! how it ends, and what stays.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::push_pull::registry;
use crate::sandbox::{Ran, Sandbox, eventually, has, skip};

/// A user with one id of its own only.
const NOBODY_ELSE: u32 = 64_124;

/// Ways to isolate that this machine has.
fn rungs() -> Vec<&'static str> {
    let mut rungs = vec!["namespaces", "chroot"];
    for (program, rung) in [("proot", "proot"), ("runc", "oci")] {
        match has(program) || std::path::Path::new("/usr/sbin").join(program).exists() {
            true => rungs.push(rung),
            false => skip(rung, &format!("there is no {program}")),
        }
    }
    rungs
}

fn sandbox(test: &str) -> Option<Sandbox> {
    Sandbox::with_base(&format!("run::{test}"))
}

impl Sandbox {
    fn inside(&self, more: &[&str], script: &str) -> Ran {
        let mut args = vec!["run", "-q"];
        args.extend(more);
        args.extend(["base", "sh", "-c", script]);
        self.run(&args)
    }

    fn started(&self, more: &[&str], command: &[&str]) -> Child {
        let mut child = self.command(&self.store());
        child
            .args(["run", "-q"])
            .args(more)
            .arg("base")
            .args(command);
        child.stdout(Stdio::piped()).stderr(Stdio::piped());
        child.spawn().unwrap()
    }
}

/// Whether a process has `marker` on its command line.
fn running(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap();
    processes.flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
    })
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Reads until `marker` was seen.
fn read_until(from: &mut impl Read, seen: &mut String, marker: &str) {
    let mut buffer = [0; 4096];
    let began = seen.len();
    while !seen[began..].contains(marker) {
        let n = from.read(&mut buffer).unwrap_or(0);
        assert!(n > 0, "no {marker:?} in {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
}

#[test]
fn the_config_says_how_and_flags_say_otherwise() {
    let Some(s) = sandbox("the_config_says_how_and_flags_say_otherwise") else {
        return;
    };
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            "FROM base\nENV A=image B=image\nUSER ana\nWORKDIR /work\n\
             ENTRYPOINT [\"sh\", \"-c\", \"echo $0 $A $B $HOME $(id -un) $(pwd)\"]\nCMD [\"cmd\"]\n",
        )],
    );
    s.build(&context, &["-t", "app"]);
    assert_eq!(s.ok(&["run", "app"]), "cmd image image /home/ana ana /work");
    std::fs::write(s.path("env"), "B=file\nHOME\n").unwrap();
    let told = s.ok(&[
        "run",
        "--rm",
        "-q",
        "--env-file",
        "env",
        "-e",
        "A=flag",
        "-u",
        "0:0",
        "-w",
        "/a/new",
        "app",
        "x",
    ]);
    let home = s.dir.path().display();
    assert_eq!(told, format!("x flag file {home} root /a/new"));
    assert_eq!(
        s.ok(&[
            "run",
            "-q",
            "--entrypoint",
            "hostname",
            "--hostname",
            "h",
            "app"
        ]),
        "h"
    );
    let none = s.run(&["run", "-q", "--entrypoint=", "app"]);
    assert!(
        none.code == Some(125) && none.stderr.contains("names no command"),
        "{none:?}"
    );
}

#[test]
fn exit_codes_are_those_of_the_command() {
    let Some(s) = sandbox("exit_codes_are_those_of_the_command") else {
        return;
    };
    for rung in rungs() {
        let rung = format!("--isolation={rung}");
        let code = |args: &[&str]| {
            let ran = s.run(&[&["run", "-q", &rung, "base"], args].concat());
            assert_eq!(ran.stdout, "", "{rung} {args:?}");
            ran.code
        };
        assert_eq!(code(&["true"]), Some(0), "{rung}");
        assert_eq!(code(&["sh", "-c", "exit 77"]), Some(77), "{rung}");
        assert_eq!(
            code(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]),
            Some(137),
            "{rung}"
        );
        assert_eq!(code(&["no-such-program"]), Some(127), "{rung}");
        assert_eq!(code(&["/bin/no-such-program"]), Some(127), "{rung}");
        if rung != "--isolation=proot" {
            assert_eq!(code(&["/etc/passwd"]), Some(126), "{rung}");
        }
    }
    for wrong in [
        &["run"][..],
        &["run", "--nonsense", "base"],
        &["run", "--pull=never", "other"],
    ] {
        assert_eq!(s.run(wrong).code, Some(125), "{wrong:?}");
    }
    assert_eq!(s.run(&["run", "--help"]).code, Some(0));
}

#[test]
fn bytes_go_in_and_come_out() {
    let Some(s) = sandbox("bytes_go_in_and_come_out") else {
        return;
    };
    // More than pipes hold, and no text.
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    std::fs::write(s.path("in"), &bytes).unwrap();
    for rung in rungs() {
        let output = s
            .command(&s.store())
            .args([
                "run",
                "-qi",
                "--isolation",
                rung,
                "base",
                "sh",
                "-c",
                "cat; echo err >&2",
            ])
            .stdin(File::open(s.path("in")).unwrap())
            .output()
            .unwrap();
        assert!(
            output.stdout == bytes,
            "{rung}: {} bytes",
            output.stdout.len()
        );
        assert_eq!(output.stderr, b"err\n", "{rung}");
        // Without -i there is nothing to read.
        let output = s
            .command(&s.store())
            .args(["run", "-q", "--isolation", rung, "base", "wc", "-c"])
            .stdin(File::open(s.path("in")).unwrap())
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"0\n", "{rung}");
    }
    // Who reads no more ends who writes on.
    let mut endless = s.started(&[], &["yes"]);
    let mut some = [0; 10];
    endless
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut some)
        .unwrap();
    let code = endless.wait().unwrap().code();
    assert!(matches!(code, Some(1 | 141)), "{code:?}");
}

#[test]
fn files_of_the_machine_are_seen_where_something_can_be_mounted() {
    let Some(s) = sandbox("files_of_the_machine_are_seen_where_something_can_be_mounted") else {
        return;
    };
    std::fs::create_dir(s.path("data")).unwrap();
    for rung in rungs() {
        std::fs::write(s.path("data/f"), "f\n").unwrap();
        let rung = format!("--isolation={rung}");
        let script = "cat /d/f; echo x > /d/new; echo x > /ro/new; echo t > /t/t; ls /t";
        let ran = s.inside(
            &[
                &rung,
                "-v",
                "./data:/d",
                "-v",
                "./data:/ro:ro",
                "--tmpfs=/t:size=1m",
            ],
            script,
        );
        if matches!(rung.as_str(), "--isolation=chroot" | "--isolation=proot") {
            assert!(
                ran.code == Some(125) && ran.stderr.contains("mounted"),
                "{ran:?}"
            );
            assert!(!s.path("data/new").exists());
            continue;
        }
        assert_eq!(ran.stdout, "f\nt\n", "{rung}");
        assert!(
            ran.stderr.contains("/ro/new: Read-only"),
            "{rung}: {}",
            ran.stderr
        );
        std::fs::remove_file(s.path("data/new")).unwrap();
        let ran = s.inside(
            &[&rung, "--read-only", "-v", "./data/f:/e/f"],
            "echo y >> /e/f; echo z > /z",
        );
        assert!(
            ran.code == Some(1) && ran.stderr.contains("Read-only"),
            "{ran:?}"
        );
        assert_eq!(std::fs::read_to_string(s.path("data/f")).unwrap(), "f\ny\n");
    }
    // What is mounted below comes along, and is as read-only.
    std::fs::create_dir(s.path("data/sub")).unwrap();
    let script = "mount -t tmpfs x data/sub && echo deep > data/sub/f && exec \"$@\"";
    let inside = "cat /d/sub/f; echo x > /d/sub/new; echo x > /ro/sub/new";
    let program = s.command(&s.store()).get_program().to_owned();
    let ran: Ran = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(program)
        .args([
            "--root",
            "store",
            "run",
            "-q",
            "-v",
            "./data:/d",
            "-v",
            "./data:/ro:ro",
        ])
        .args(["base", "sh", "-c", inside])
        .current_dir(s.dir.path())
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.stdout, "deep\n", "{}", ran.stderr);
    assert!(
        ran.stderr.contains("/ro/sub/new: Read-only"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("/d/sub/new"), "{}", ran.stderr);
    let ran = s.inside(&["-v", "./none:/d"], "true");
    assert!(
        ran.code == Some(125) && ran.stderr.contains("no such file"),
        "{ran:?}"
    );
}

#[test]
fn changes_are_thrown_away_or_kept() {
    let Some(s) = sandbox("changes_are_thrown_away_or_kept") else {
        return;
    };
    let script = "echo new > /made; chown ana /made; rm -r /tmp; exit 3";
    let mut diff_ids = Vec::new();
    for rung in rungs() {
        let isolation = format!("--isolation={rung}");
        assert_eq!(s.inside(&[&isolation], script).code, Some(3), "{rung}");
        assert_eq!(
            s.inside(&[&isolation], "test -d /tmp && test ! -e /made")
                .code,
            Some(0)
        );
        let name = format!("kept:{rung}");
        let more = [
            &isolation,
            "--commit",
            &name,
            "--change",
            "ENV X=1",
            "--change",
            "CMD [\"cat\", \"/made\"]",
        ];
        let ran = s.inside(
            &[&more[..], &["--message", "a note", "--author", "ana"]].concat(),
            script,
        );
        assert!(
            ran.code == Some(3) && ran.stderr.contains(&format!("committed {name}@sha256:")),
            "{ran:?}"
        );
        assert_eq!(s.ok(&["run", "-q", &isolation, &name]), "new");
        let script = "echo $X; test ! -e /tmp && stat -c %U /made";
        let told = s.ok(&["run", "-q", &isolation, &name, "sh", "-c", script]);
        // What proot shows of owners is its own.
        assert!(told == "1\nana" || rung == "proot", "{rung}: {told}");
        let text = s.ok(&["inspect", "--format", "json", &name]);
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["author"], "ana");
        assert_eq!(told["layers"].as_array().unwrap().len(), 2);
        let history = s.ok(&["history", "--no-trunc", &name]);
        assert!(
            history.contains("sh -c echo new > /made") && history.contains("a note"),
            "{history}"
        );
        diff_ids.push(s.ok(&["verify", &name]));
    }
    assert!(
        diff_ids.iter().all(|d| d.contains("2 layers with")),
        "{diff_ids:?}"
    );
    let bad = s.inside(&["--commit", "x", "--change", "RUN x"], "true");
    assert!(
        bad.code == Some(125) && bad.stderr.contains("--change")
            || bad.stderr.contains("only instructions")
    );
    assert_eq!(s.run(&["inspect", "x"]).code, Some(1));
    let left = |dir: &str| std::fs::read_dir(s.store().join(dir)).unwrap().count();
    assert_eq!((left("tmp"), left("trash")), (0, 0));
}

#[test]
fn signals_reach_the_command() {
    let Some(s) = sandbox("signals_reach_the_command") else {
        return;
    };
    for rung in rungs() {
        let rung = format!("--isolation={rung}");
        let handler = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let mut child = s.started(&[&rung], &["sh", "-c", handler]);
        let (mut out, mut seen) = (child.stdout.take().unwrap(), String::new());
        read_until(&mut out, &mut seen, "ready\n");
        signal(&child, Signal::TERM);
        read_until(&mut out, &mut seen, "got\n");
        assert_eq!(child.wait().unwrap().code(), Some(5), "{rung}");
    }
    // One that has no handler is ended by it all the same.
    for rung in ["namespaces", "chroot"] {
        let marker = format!("95{}", std::process::id());
        let rung = format!("--isolation={rung}");
        let mut child = s.started(&[&rung], &["sleep", &marker]);
        assert!(eventually(|| running(&format!("sleep\0{marker}"))));
        // Until the shiplap in between has become the command.
        std::thread::sleep(Duration::from_millis(200));
        signal(&child, Signal::TERM);
        assert_eq!(child.wait().unwrap().code(), Some(143), "{rung}");
        assert!(!running(&format!("sleep\0{marker}")));
    }
    // Also where nobody takes what it writes.
    let marker = format!("92{}", std::process::id());
    let mut child = s.started(
        &[],
        &["sh", "-c", &format!("echo ready; exec yes {marker}")],
    );
    let (mut out, mut seen) = (child.stdout.take().unwrap(), String::new());
    read_until(&mut out, &mut seen, "ready\n");
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::TERM);
    assert!(eventually(|| !running(&format!("yes\0{marker}"))));
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    // And one that does not listen, by the third.
    let mut child = s.started(
        &[],
        &[
            "sh",
            "-c",
            "trap '' TERM; echo ready; while :; do sleep 1; done",
        ],
    );
    let (mut out, mut seen) = (child.stdout.take().unwrap(), String::new());
    read_until(&mut out, &mut seen, "ready\n");
    for _ in 0..3 {
        signal(&child, Signal::TERM);
        std::thread::sleep(Duration::from_millis(150));
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn nothing_is_left_of_a_killed_run() {
    let Some(s) = sandbox("nothing_is_left_of_a_killed_run") else {
        return;
    };
    for rung in rungs() {
        let marker = format!("94{}", std::process::id());
        let rung = format!("--isolation={rung}");
        let script = format!("sleep {marker} & setsid sleep {marker} & sleep {marker}");
        let mut child = s.started(&[&rung, "--commit", "gone"], &["sh", "-c", &script]);
        assert!(
            eventually(|| running(&format!("sleep\0{marker}"))),
            "{rung}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(eventually(|| !running(&marker)), "{rung}");
    }
    // The next one sweeps.
    assert_eq!(s.inside(&[], "true").code, Some(0));
    let left = |dir: &str| std::fs::read_dir(s.store().join(dir)).unwrap().count();
    assert_eq!((left("tmp"), left("trash")), (0, 0));
    assert_eq!(s.run(&["inspect", "gone"]).code, Some(1));
}

/// A terminal with somebody in front of it.
struct Person {
    keys: File,
    screen: OwnedFd,
    seen: String,
    child: Child,
}

impl Person {
    fn types(s: &Sandbox, args: &[&str]) -> Self {
        let (master, slave) = shiplap::sys::pty::open().unwrap();
        let size = Winsize {
            ws_row: 33,
            ws_col: 111,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = s
            .command(&s.store())
            .args(["run", "-q"])
            .args(args)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self {
            keys: master.into(),
            screen: slave,
            seen: String::new(),
            child,
        }
    }

    fn sees(&mut self, marker: &str) {
        let mut keys = self.keys.try_clone().unwrap();
        read_until(&mut keys, &mut self.seen, marker);
    }

    fn enters(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(self.screen.as_fd()).unwrap().local_modes;
        !modes.contains(LocalModes::ICANON)
    }
}

#[test]
fn a_terminal_is_the_commands_own() {
    let Some(s) = sandbox("a_terminal_is_the_commands_own") else {
        return;
    };
    for rung in rungs() {
        let mut person = Person::types(&s, &["-it", "--isolation", rung, "base", "sh"]);
        person.sees("# ");
        assert!(person.is_raw(), "{rung}");
        person
            .enters("test -t 0 && test -t 1 && echo a-''tty; stty size; echo $TERM; echo o''ne\n");
        person.sees("one\r\n");
        assert!(
            person.seen.contains("a-tty\r\n33 111\r\nxterm\r\n"),
            "{rung}: {}",
            person.seen
        );
        // The interrupt key is for the command, and there is job control.
        person.enters("echo w''ait; sleep 60\n");
        person.sees("wait\r\n");
        std::thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        person.enters("\x03");
        person.sees("# ");
        person.enters("echo code $?; echo t''wo\n");
        person.sees("two\r\n");
        assert!(person.seen.contains("code 130") && began.elapsed() < Duration::from_secs(50));
        let size = Winsize {
            ws_row: 50,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&person.keys, size).unwrap();
        // A terminal that is nobody's controlling one tells nobody.
        signal(&person.child, Signal::WINCH);
        std::thread::sleep(Duration::from_millis(400));
        person.enters("stty size; echo th''ree; exit 9\n");
        person.sees("three\r\n");
        assert!(
            person.seen.contains("50 100\r\n"),
            "{rung}: {}",
            person.seen
        );
        assert_eq!(person.child.wait().unwrap().code(), Some(9), "{rung}");
        assert!(!person.is_raw(), "{rung}");
    }
}

#[test]
fn the_terminal_is_as_before_after_every_end() {
    let Some(s) = sandbox("the_terminal_is_as_before_after_every_end") else {
        return;
    };
    let mut person = Person::types(
        &s,
        &[
            "-it",
            "base",
            "sh",
            "-c",
            "trap '' TERM; echo on; sleep 60; sleep 60",
        ],
    );
    person.sees("on\r\n");
    assert!(person.is_raw());
    for _ in 0..3 {
        signal(&person.child, Signal::TERM);
        std::thread::sleep(Duration::from_millis(150));
    }
    assert_eq!(person.child.wait().unwrap().code(), Some(143));
    assert!(!person.is_raw());
    let mut person = Person::types(&s, &["-it", "base", "no-such-program"]);
    assert_eq!(person.child.wait().unwrap().code(), Some(127));
    assert!(!person.is_raw());
    // Without a terminal to begin with.
    let ran = s.run(&["run", "-it", "base", "true"]);
    assert!(
        ran.code == Some(125) && ran.stderr.contains("the input device is not a TTY"),
        "{ran:?}"
    );
    let ran = s.run(&["run", "-t", "base", "sh", "-c", "test -t 1 && echo yes"]);
    assert_eq!(ran.stdout, "yes\r\n");
}

#[test]
fn a_plain_user_looks_inside_too() {
    let Some(s) = sandbox("a_plain_user_looks_inside_too") else {
        return;
    };
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(s.dir.path(), 0o755);
    open(&s.path("base.tar"), 0o644);
    let program = s.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_shiplap"), &program).unwrap();
    let home = s.path("home");
    std::fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY_ELSE), Some(NOBODY_ELSE)).unwrap();
    let command = || {
        let mut command = Command::new(&program);
        command.uid(NOBODY_ELSE).gid(NOBODY_ELSE).current_dir(&home);
        command
            .env("HOME", &home)
            .arg("--root")
            .arg(home.join("store"));
        command.stdin(Stdio::null());
        command
    };
    let base = s.path("base.tar");
    let imported = command()
        .arg("import")
        .arg(&base)
        .arg("base")
        .status()
        .unwrap();
    assert!(imported.success());
    let run = |args: &[&str]| -> Ran {
        command()
            .args(["run", "-q"])
            .args(args)
            .output()
            .unwrap()
            .into()
    };
    let ran = run(&[
        "-v",
        "./:/h",
        "base",
        "sh",
        "-c",
        "id -u; echo x > /h/x; exit 4",
    ]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(4), "0\n"),
        "{}",
        ran.stderr
    );
    assert!(home.join("x").exists());
    let ran = run(&["--commit", "mine", "base", "sh", "-c", "echo y > /y"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(run(&["mine", "cat", "/y"]).stdout, "y\n");
    // The process that was started waits in front of the namespace.
    let mut child = command();
    child.args([
        "run",
        "-q",
        "base",
        "sh",
        "-c",
        "trap 'exit 6' USR1; echo ready; while :; do sleep 0.1; done",
    ]);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let (mut out, mut seen) = (child.stdout.take().unwrap(), String::new());
    read_until(&mut out, &mut seen, "ready\n");
    signal(&child, Signal::USR1);
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

#[test]
fn an_image_that_is_elsewhere_is_fetched() {
    let Some(s) = sandbox("an_image_that_is_elsewhere_is_fetched") else {
        return;
    };
    let layout = s.path("layout");
    let place = format!("oci:{}:app", layout.display());
    s.ok(&["copy", "base", &place]);
    let other = s.path("other");
    let ran = s.run_in(&other, &["run", "-q", &place, "echo", "here"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "here\n"),
        "{}",
        ran.stderr
    );
    let ran = s.run_in(&other, &["run", "-q", "--pull=never", "base", "true"]);
    assert_eq!(ran.code, Some(125), "{}", ran.stderr);
    if !has("docker-registry") {
        return skip(
            "an_image_that_is_elsewhere_is_fetched",
            "there is no docker-registry",
        );
    }
    let (_registry, address) = registry(&s, None);
    let name = format!("{address}/some/base:1");
    s.ok(&["push", "base", &name]);
    let ran = s.run_in(&other, &["run", "-q", &name, "echo", "pulled"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "pulled\n"),
        "{}",
        ran.stderr
    );
    let ran = s.run_in(&other, &["run", "-q", "--pull=never", &name, "true"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}
