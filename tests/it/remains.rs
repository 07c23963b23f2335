//! Nothing remains of a build: no process, mount, control group, network or
//! secret, however it ends, and the next one works.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::processes::{Process, family, living, processes};
use crate::sandbox::{Sandbox, eventually, skip};
use crate::ways::{self, Way};

/// What tells this process's builds from those of others on the machine: steps
/// sleep for this many seconds.
fn marker(serial: u32) -> String {
    format!("{}{serial:03}", 40_000 + std::process::id() % 10_000)
}

/// Mounts, named network namespaces and control groups that are ours.
fn left_on_the_machine(s: &Sandbox, group: &str) -> Vec<String> {
    let here = s.path("").display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut left: Vec<String> = mounts
        .lines()
        .filter(|l| l.contains(&*here))
        .map(Into::into)
        .collect();
    let names = |dir: &str| std::fs::read_dir(dir).into_iter().flatten().flatten();
    left.extend(names("/run/netns").map(|e| e.path().display().to_string()));
    for hierarchy in names("/sys/fs/cgroup") {
        for at in [
            hierarchy.path().join(group),
            Path::new("/sys/fs/cgroup").join(group),
        ] {
            let groups = std::fs::read_dir(at).into_iter().flatten().flatten();
            let groups = groups.filter(|g| g.path().is_dir());
            left.extend(groups.map(|g| g.path().display().to_string()));
        }
    }
    left
}

/// Random enough to end builds at all their moments.
fn random(below: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let state = std::collections::hash_map::RandomState::new();
    state.build_hasher().finish() % below
}

/// How often each way is killed: `$SHIPLAP_KILLS`, few when it is not set.
fn kills() -> u32 {
    let given = std::env::var("SHIPLAP_KILLS")
        .ok()
        .and_then(|n| n.parse().ok());
    given.unwrap_or(4)
}

fn signal(pid: u32, name: &str) {
    let kill = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(kill.unwrap().success());
}

/// Whether groups can be made here, so that a way of root's has limits.
fn has_groups() -> bool {
    let at = if Path::new("/sys/fs/cgroup/pids").is_dir() {
        "/sys/fs/cgroup/pids"
    } else {
        "/sys/fs/cgroup"
    };
    let probe = Path::new(at).join(format!("shiplap-probe-{}", std::process::id()));
    std::fs::create_dir(&probe).is_ok() && std::fs::remove_dir(&probe).is_ok()
}

/// Builds that can be ended, on all that steps can hold.
struct Builds<'a> {
    s: &'a Sandbox,
    way: &'a Way,
    /// Options: limits and networks, where there are some.
    more: Vec<String>,
    marker: String,
}

impl<'a> Builds<'a> {
    fn new(s: &'a Sandbox, way: &'a Way, serial: u32, group: &str, secret: &str) -> Self {
        let mut more = vec!["--secret".to_owned(), format!("id=s,src={secret}")];
        if way.uid == 0 && has_groups() {
            more.extend([
                format!("--cgroup-parent=/{group}"),
                "--pids-limit=200".into(),
            ]);
        }
        // A plain user may not open /dev/net/tun everywhere.
        let own_network = way.uid == 0 && !way.shares_processes();
        if own_network && Path::new("/usr/bin/pasta").exists() {
            more.push("--network=private".into());
        }
        let marker = marker(serial);
        let file = format!(
            "FROM base\n\
             RUN --mount=type=secret,id=s --mount=type=cache,target=/c --mount=type=tmpfs,target=/t \
             (setsid sh -c 'trap \"\" TERM INT; sleep {marker}' > /dev/null 2>&1 &); echo x > /c/x; \
             cat /run/secrets/s > /t/s; sleep 0.1\n\
             COPY Dockerfile /d\n\
             RUN --mount=type=bind,target=/ctx,rw (sleep {marker} &); head -c 2000000 /dev/urandom > /big; \
             echo y > /ctx/y; sleep 0.1\n\
             RUN rm -r /bin/busybox /big; sleep 0.1 2> /dev/null; true\n"
        );
        s.context("kill", &[("Dockerfile", &file)]);
        Self {
            s,
            way,
            more,
            marker,
        }
    }

    fn start(&self) -> Child {
        let more: Vec<&str> = self.more.iter().map(String::as_str).collect();
        let mut command = self.way.command(self.s);
        command.args(self.way.words(self.s, "kill", &more));
        let log = std::fs::File::create(self.s.path("kill-log")).unwrap();
        command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// How long one takes, undisturbed.
    fn whole(&self) -> Duration {
        let began = Instant::now();
        let ended = self.start().wait().unwrap();
        let log = std::fs::read_to_string(self.s.path("kill-log")).unwrap();
        assert!(ended.success(), "{}: {log}", self.way.name);
        began.elapsed()
    }

    /// Nothing of these processes is there any more, after at most a while.
    fn nothing_left(&self, family: &BTreeSet<Process>, group: &str, how: &str) {
        let gone = eventually(|| living(family, Some(&self.marker)).is_empty());
        let left = living(family, Some(&self.marker));
        assert!(gone, "{}, {how}: {left:#?}", self.way.name);
        let gone = eventually(|| left_on_the_machine(self.s, group).is_empty());
        let left = left_on_the_machine(self.s, group);
        assert!(gone, "{}, {how}: {left:#?}", self.way.name);
    }
}

/// Files below `dir` that hold `text`.
fn holding(dir: &Path, text: &str) -> String {
    let found = Command::new("grep")
        .args(["-rlF", text])
        .arg(dir)
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap()
}

#[test]
fn nothing_remains_of_builds_that_are_killed() {
    const NAME: &str = "nothing_remains_of_builds_that_are_killed";
    let Some((s, ways)) = ways::all(NAME) else {
        return;
    };
    let group = format!("shiplap-remains-{}", std::process::id());
    if !has_groups() {
        skip(NAME, "control groups, which can't be made here");
    }
    let value = format!("hidden-{}-{}", std::process::id(), random(u64::MAX));
    let secret = s.path("secret");
    std::fs::write(&secret, &value).unwrap();
    ways::open(&secret, 0o644);
    for (serial, way) in (0..).zip(&ways) {
        let builds = Builds::new(&s, way, serial, &group, secret.to_str().unwrap());
        let whole = builds.whole();
        builds.nothing_left(&BTreeSet::new(), &group, "undisturbed");
        for n in 0..kills() {
            let mut child = builds.start();
            let moment = random(whole.as_micros() as u64);
            std::thread::sleep(Duration::from_micros(moment));
            let how = ["KILL", "TERM", "INT", "KILL"][n as usize % 4];
            if how == "KILL" {
                // Nothing new begins while we look.
                signal(child.id(), "-STOP");
            }
            let family = family(child.id());
            signal(child.id(), &format!("-{how}"));
            child.wait().unwrap();
            let what = format!("{how} after {moment} of {} us", whole.as_micros());
            builds.nothing_left(&family, &group, &what);
            let found = holding(&way.store(&s), &value);
            assert_eq!(found, "", "{}, {what}: the secret is left", way.name);
        }
        // Everything at once, as when a pod is ended: what was placed in the
        // tree stays, until the next start.
        let mut child = builds.start();
        let asleep = format!("sleep {}", builds.marker);
        assert!(
            eventually(|| processes().iter().any(|p| p.3.trim() == asleep)),
            "{}",
            way.name
        );
        signal(child.id(), "-STOP");
        let family = family(child.id());
        let all: Vec<String> = family.iter().map(|(pid, _)| pid.to_string()).collect();
        let killed = Command::new("kill")
            .arg("-KILL")
            .args(&all)
            .stderr(Stdio::null())
            .status();
        killed.unwrap();
        child.wait().unwrap();
        // The keeper's groups and daemons of a shared process tree are nobody's.
        for (pid, ..) in processes().iter().filter(|p| p.3.contains(&builds.marker)) {
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status();
        }
        // Those that are still on their way out hold the locks of the dead.
        let gone = eventually(|| living(&family, Some(&builds.marker)).is_empty());
        let left = living(&family, Some(&builds.marker));
        assert!(gone, "{}: {left:#?}", way.name);
        builds.whole();
        builds.nothing_left(&BTreeSet::new(), &group, "afterwards");
        let found = holding(&way.store(&s), &value);
        assert_eq!(found, "", "{}: the secret is left", way.name);
        let tmp = std::fs::read_dir(way.store(&s).join("tmp")).unwrap();
        let tmp: Vec<_> = tmp.flatten().map(|e| e.path()).collect();
        assert!(tmp.is_empty(), "{}: {tmp:#?}", way.name);
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let _ = std::fs::remove_dir(hierarchy.path().join(&group));
    }
    let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(&group));
}

/// A script that leaves what is hard to end.
const STUBBORN: &str = "trap '' TERM INT HUP; (setsid sh -c 'trap \"\" TERM; sleep MARK' > /dev/null 2>&1 &); \
    (sh -c '(sleep MARK &) &' > /dev/null 2>&1 &); i=0; while [ $i -lt 20 ]; do sleep MARK & i=$((i+1)); done; \
    sleep 0.2; exit CODE";

#[test]
fn daemons_end_with_their_step_everywhere() {
    let Some((s, ways)) = ways::all("daemons_end_with_their_step_everywhere") else {
        return;
    };
    for (serial, way) in (100..).zip(&ways) {
        let marker = marker(serial);
        for code in [0, 3] {
            let script = STUBBORN
                .replace("MARK", &marker)
                .replace("CODE", &code.to_string());
            // The next step would see what the first one left.
            let file = format!("FROM base\nRUN {script}\nRUN true\n");
            s.context("daemons", &[("Dockerfile", &file)]);
            let ran = way.build(&s, "daemons", &[]);
            assert_eq!(
                ran.code,
                Some(i32::from(code != 0)),
                "{}: {}",
                way.name,
                ran.stderr
            );
            let left = living(&BTreeSet::new(), Some(&marker));
            assert!(left.is_empty(), "{}: {left:#?}", way.name);
        }
        // Ended from outside while it does not listen.
        let script = format!("trap '' TERM INT HUP; while :; do sleep {marker}; done");
        s.context(
            "daemons",
            &[("Dockerfile", &format!("FROM base\nRUN {script}\n"))],
        );
        let mut command = way.command(&s);
        command
            .args(way.words(&s, "daemons", &[]))
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let asleep = format!("sleep {marker}");
        assert!(
            eventually(|| processes().iter().any(|p| p.3.trim() == asleep)),
            "{}",
            way.name
        );
        signal(child.id(), "-INT");
        let code = child.wait().unwrap();
        assert!(!code.success());
        let left = living(&BTreeSet::new(), Some(&marker));
        assert!(left.is_empty(), "{}: {left:#?}", way.name);
    }
}

#[test]
fn output_without_an_end_is_taken_in_bounded_memory() {
    let Some((s, ways)) = ways::all("output_without_an_end_is_taken_in_bounded_memory") else {
        return;
    };
    s.context(
        "loud",
        &[(
            "Dockerfile",
            "FROM base\nRUN head -c 100000000 /dev/zero | tr '\\0' x\n",
        )],
    );
    let first = ways
        .iter()
        .filter(|w| w.name == "namespaces" || w.name == "chroot");
    for way in first {
        let mut command = way.command(&s);
        command.args(way.words(&s, "loud", &["--quiet"]));
        let mut child = command
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut most = 0;
        while child.try_wait().unwrap().is_none() {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
            let peak = status.ok().and_then(|s| {
                let line = s.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
                line.trim().trim_end_matches(" kB").parse::<u64>().ok()
            });
            most = most.max(peak.unwrap_or(0));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(child.wait().unwrap().success());
        assert!(most > 0 && most < 120_000, "{}: {most} kB", way.name);
    }
}

#[test]
fn a_fork_bomb_ends_with_its_step() {
    const NAME: &str = "a_fork_bomb_ends_with_its_step";
    let Some((s, ways)) = ways::all(NAME) else {
        return;
    };
    if !has_groups() {
        return skip(NAME, "no control group can be made here");
    }
    for (serial, way) in (200..).zip(&ways).filter(|(_, w)| w.uid == 0) {
        let marker = marker(serial);
        let file = format!(
            "FROM base\nRUN b() {{ sleep {marker} & b | b & }}; b 2> /dev/null; sleep 0.3; exit 7\n"
        );
        s.context("bomb", &[("Dockerfile", &file)]);
        let ran = way.build(&s, "bomb", &["--pids-limit=60"]);
        assert_eq!(ran.code, Some(1), "{}: {}", way.name, ran.stderr);
        let left = living(&BTreeSet::new(), Some(&marker));
        assert!(left.is_empty(), "{}: {left:#?}", way.name);
    }
}
