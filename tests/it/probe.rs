//! What a step's process is, has and sees, and that none of it leads out.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};

use crate::sandbox::{Ran, Sandbox, Server, has, skip};
use crate::ways::{self, Way};

/// Limits that the builder is given, so that golden files can have them.
const EVENLY: [&str; 6] = [
    "prlimit",
    "--nofile=4096:4096",
    "--nproc=5000:5000",
    "--memlock=65536:65536",
    "--stack=8388608:8388608",
    "--core=unlimited",
];

/// What every step sees of the machine with this isolation, and no golden file
/// can have; `None` for what it sees too much of to be told.
fn normal(way: &Way, line: &str) -> Option<String> {
    let machine = |path: &str| std::fs::read_to_string(path).unwrap();
    // A step's is the builder's, whose own is this one's.
    let own = rustix::process::getpriority_process(None).unwrap();
    if line == format!("niceness {own}") {
        return Some("niceness 0".into());
    }
    if way.shares_processes() {
        let host = machine("/proc/sys/kernel/hostname");
        if line == format!("hostname {}", host.trim_end()) {
            return Some("hostname <the machine's>".into());
        }
    }
    if way.name == "proot" {
        if line.starts_with("mount ") {
            return None;
        }
        let status = machine("/proc/self/status");
        let bounding = status.lines().find_map(|l| l.strip_prefix("CapBnd:\t"));
        if line == format!("bounding {}", bounding.unwrap()) {
            return Some("bounding <the builder's, without effect>".into());
        }
    }
    Some(line.to_owned())
}

#[test]
fn a_process_is_and_sees_what_the_golden_file_says() {
    const NAME: &str = "a_process_is_and_sees_what_the_golden_file_says";
    let Some((s, ways)) = ways::all(NAME) else {
        return;
    };
    let file = "FROM base\nCOPY probe /\nENV OF_THE_IMAGE=1\nWORKDIR /etc\nRUN [\"/probe\", \"facts\"]\n\
                USER ana\nRUN [\"/probe\", \"facts\"]\n";
    s.context("probe", &[("Dockerfile", file)]);
    if !ways::put_probe(NAME, &s, "probe") {
        return;
    }
    for way in &ways {
        let mut command = way.command_by(&s, &EVENLY);
        command.env("OF_THE_BUILDER", "1");
        command.args(way.words(
            &s,
            "probe",
            &["--dns=192.0.2.1", "--build-arg=HTTP_PROXY=http://192.0.2.3"],
        ));
        let ran: Ran = command.output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{}: {}", way.name, ran.stderr);
        let lines = ways::printed(&ran);
        let facts: Vec<String> = lines.iter().filter_map(|l| normal(way, l)).collect();
        insta::assert_snapshot!(format!("facts_{}", way.name), facts.join("\n"));
    }
}

/// What is possible to steps that share the process tree where Landlock has no
/// scopes yet (before Linux 6.12). The host's abstract sockets are in reach of
/// all steps there that have the host's network.
const SIGNALS: [&str; 2] = ["kill ", "pidfd_send_signal "];

/// Whether Landlock keeps signals and abstract sockets apart here.
fn has_scopes() -> bool {
    shiplap::sys::landlock::version().is_some_and(|v| v >= 6)
}

/// A process of the user `uid`, to be looked into.
fn somebody(uid: u32) -> Server {
    use std::os::unix::process::CommandExt;
    let child = Command::new("sleep").arg("1000").uid(uid).gid(uid).spawn();
    Server(child.unwrap())
}

#[test]
fn no_way_leads_out() {
    const NAME: &str = "no_way_leads_out";
    let Some((s, ways)) = ways::all(NAME) else {
        return;
    };
    // A proot that cannot be told where its temporary files go has all of /tmp.
    let outside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    ways::open(outside.path(), 0o755);
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    ways::open(&canary, 0o666);
    let socket = format!("shiplap-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&socket).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    s.context("escapes", &[]);
    std::fs::create_dir_all(s.path("escapes")).unwrap();
    if !ways::put_probe(NAME, &s, "escapes") {
        return;
    }
    let marker = "MARKER=of-the-builder";
    let mut found = Vec::new();
    for way in &ways {
        let other = somebody(way.uid);
        let probe = format!(
            "[\"/probe\", \"escapes\", \"{}\", \"{marker}\", \"{}\", \"{socket}\"]",
            canary.display(),
            other.0.id()
        );
        let below = if way.name == "proot" {
            "ENV BELOW_PROOT=1\n"
        } else {
            ""
        };
        let file = format!("FROM base\nCOPY probe /\n{below}RUN {probe}\nUSER ana\nRUN {probe}\n");
        std::fs::write(s.path("escapes").join("Dockerfile"), file).unwrap();
        let words = way.words(&s, "escapes", &[]);
        let ran = with_terminal(&s, way, &words, marker);
        assert_eq!(ran.code, Some(0), "{}: {}", way.name, ran.stderr);
        let lines = ways::printed(&ran);
        let count = |word: &str| lines.iter().filter(|l| l.starts_with(word)).count();
        assert_eq!(count("tried all"), 2, "{}: {lines:#?}", way.name);
        assert!(count("refused ") > 200, "{}: {lines:#?}", way.name);
        let shares = way.shares_processes();
        let known = |what: &str| match has_scopes() {
            true => false,
            false => {
                what == "abstract socket" || shares && SIGNALS.iter().any(|s| what.starts_with(s))
            }
        };
        let out = lines
            .iter()
            .filter(|l| l.strip_prefix("OUT ").is_some_and(|w| !known(w)));
        found.extend(out.map(|l| format!("{}: {l}", way.name)));
    }
    drop(listener);
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(std::fs::read_to_string(canary).unwrap(), "untouched");
}

/// Runs the builder with a terminal of its own, where there is `script`: what
/// a step could type would be typed there.
fn with_terminal(s: &Sandbox, way: &Way, words: &[String], marker: &str) -> Ran {
    let (name, value) = marker.split_once('=').unwrap();
    let log = s.path("log");
    let _ = std::fs::remove_file(&log);
    if !has("script") {
        skip("no_way_leads_out", "a terminal (there is no script)");
        let mut command = way.command(s);
        return command
            .env(name, value)
            .args(words)
            .output()
            .unwrap()
            .into();
    }
    let mut inner = way.command(s);
    inner.args(words);
    let quoted = std::iter::once(inner.get_program()).chain(inner.get_args());
    let quoted: Vec<String> = quoted.map(|w| format!("'{}'", w.display())).collect();
    let line = format!("{} 2> '{}'", quoted.join(" "), log.display());
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env(name, value);
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(inner.get_current_dir().unwrap());
    let mut ran: Ran = command.stdin(Stdio::null()).output().unwrap().into();
    ran.stderr = std::fs::read_to_string(log).unwrap();
    ran
}
