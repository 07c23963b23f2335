//! Runs real processes in containers. Needs root and Debian's busybox-static;
//! says so and does nothing where either is missing.
#![allow(clippy::print_stderr)]

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shiplap::container::{
    Executor, Exit, Io, Isolation, Mount, MountKind, Network, Place, RootSpec, RunError, RunSpec,
    executor,
};
use shiplap::event::{Cancel, Stream};

const BUSYBOX: &str = "/bin/busybox";

struct Bed {
    dir: tempfile::TempDir,
    executor: Arc<dyn Executor>,
}

impl Bed {
    fn new() -> Option<Self> {
        let root = rustix::process::geteuid().is_root();
        if !root || !Path::new(BUSYBOX).exists() {
            eprintln!("skipped: needs root and busybox-static at {BUSYBOX}");
            return None;
        }
        let program = Path::new(env!("CARGO_BIN_EXE_shiplap"));
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            program,
            scratch: dir.path(),
            root: None,
            runtime: None,
        };
        let executor = match executor(Isolation::Namespaces, &place) {
            Ok(executor) => executor,
            Err(e) => {
                eprintln!("skipped: {e}");
                return None;
            }
        };
        let base = dir.path().join("base");
        for name in ["bin", "etc", "tmp", "root", "proc", "usr/bin"] {
            std::fs::create_dir_all(base.join(name)).unwrap();
        }
        std::fs::copy(BUSYBOX, base.join("bin/busybox")).unwrap();
        symlink("busybox", base.join("bin/sh")).unwrap();
        for name in ["upper", "work", "empty"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Some(Self { dir, executor })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn upper(&self) -> PathBuf {
        self.path("upper")
    }

    fn root(&self) -> RootSpec {
        RootSpec::Overlay {
            lower: vec![self.path("base")],
            upper: self.upper(),
            work: self.path("work"),
        }
    }

    fn spec(&self, script: &str) -> RunSpec {
        let mut spec = RunSpec::new(self.root(), ["/bin/sh", "-c", script]);
        spec.env = vec!["PATH=/bin".into(), "A=b c".into()];
        spec
    }

    fn run(&self, spec: &RunSpec) -> Result<(Exit, String), RunError> {
        let out = Mutex::new(String::new());
        let exit = self.executor.run(
            spec,
            Io::Lines(&|_, line| {
                let mut out = out.lock().unwrap();
                out.push_str(&String::from_utf8_lossy(line));
                out.push('\n');
            }),
            &Cancel::new(),
        )?;
        Ok((exit, out.into_inner().unwrap()))
    }

    /// Output of a script that must succeed. `busybox` commands are bare.
    fn sh(&self, script: &str) -> String {
        let (exit, out) = self.run(&self.spec(script)).unwrap();
        assert_eq!(exit.code, Some(0), "{script}: {out}");
        out
    }

    /// Everything in the upper directory, and the work directory's leftovers.
    fn left(&self) -> BTreeSet<String> {
        fn walk(dir: &Path, base: &Path, all: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                all.insert(path.strip_prefix(base).unwrap().display().to_string());
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path, base, all);
                }
            }
        }
        let mut all = BTreeSet::new();
        walk(&self.upper(), &self.upper(), &mut all);
        walk(&self.path("work"), self.dir.path(), &mut all);
        all
    }
}

/// A process whose command line holds `marker` is alive.
fn alive(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut found = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    found.any(|line| String::from_utf8_lossy(&line).contains(marker))
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is missing in {status}"))
        .trim()
}

#[test]
fn nothing_is_left_of_a_run_that_changes_nothing() {
    let Some(bed) = Bed::new() else { return };
    let before = bed.upper().metadata().unwrap();
    bed.sh("true");
    assert_eq!(bed.left(), BTreeSet::new());
    let after = bed.upper().metadata().unwrap();
    assert_eq!(
        (before.mtime(), before.mtime_nsec()),
        (after.mtime(), after.mtime_nsec())
    );
    bed.sh("echo x > /root/new; busybox rm -r /tmp; echo 1.2.3.4 more >> /etc/hosts");
    let left: Vec<String> = bed.left().into_iter().collect();
    assert_eq!(left, ["root", "root/new", "tmp"]);
    assert!(
        !std::fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(&*bed.dir.path().to_string_lossy())
    );
}

#[test]
fn exits_are_reported() {
    let Some(bed) = Bed::new() else { return };
    for (script, code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 1", Some(1), None),
        ("exit 127", Some(127), None),
        ("exit 255", Some(255), None),
        ("busybox sh -c 'kill -SEGV $$'; exit $?", Some(139), None),
        ("exec busybox sleep 0", Some(0), None),
    ] {
        let (exit, _) = bed.run(&bed.spec(script)).unwrap();
        assert_eq!((exit.code, exit.signal), (code, signal), "{script}");
        assert!(exit.peak_memory_bytes > 0);
    }
    let out = bed.sh("echo one; echo two >&2; busybox printf 'a\\n\\nlast'");
    let lines: BTreeSet<&str> = out.lines().collect();
    assert_eq!(lines, ["one", "two", "a", "", "last"].into());
    let busy = bed.spec("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    assert!(bed.run(&busy).unwrap().0.cpu_seconds > 0.01);
}

#[test]
fn commands_that_cannot_start_say_why() {
    let Some(bed) = Bed::new() else { return };
    let base = bed.path("base");
    let script = |name: &str, content: &str, mode| {
        std::fs::write(base.join("bin").join(name), content).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(base.join("bin").join(name), mode).unwrap();
    };
    script("plain", "#!/bin/sh\n", 0o644);
    script("lost", "#!/no/such/shell\n", 0o755);
    script("foreign", "\x7fELF-of-another-kind", 0o755);
    for (name, start) in [
        (
            "nothing",
            "command not found: nothing: it is in no directory of PATH (/bin)",
        ),
        ("/nothing", "command not found: /nothing: no such file"),
        (
            "plain",
            "cannot execute plain: permission denied: /bin/plain",
        ),
        (
            "lost",
            "command not found: lost: /bin/lost exists, but the interpreter",
        ),
        ("foreign", "cannot execute foreign: exec format error"),
        ("/tmp", "cannot execute /tmp: permission denied"),
    ] {
        let mut spec = bed.spec("");
        spec.args = vec![name.into()];
        let error = bed.run(&spec).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
    assert_eq!(bed.left(), BTreeSet::new());
}

#[test]
fn a_probe_inside_finds_what_it_may_have_and_no_more() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.spec("");
    spec.args = ["busybox", "cat", "/proc/1/status"].map(Into::into).into();
    let (_, status) = bed.run(&spec).unwrap();
    for (name, value) in [
        ("CapInh:", "0000000000000000"),
        ("CapPrm:", "00000000a80425fb"),
        ("CapEff:", "00000000a80425fb"),
        ("CapBnd:", "00000000a80425fb"),
        ("CapAmb:", "0000000000000000"),
        ("Groups:", ""),
        ("NoNewPrivs:", "0"),
        ("Seccomp:", "2"),
        ("Seccomp_filters:", "1"),
        ("SigBlk:", "0000000000000000"),
        ("SigIgn:", "0000000000000000"),
        ("Uid:", "0\t0\t0\t0"),
        ("Name:", "busybox"),
    ] {
        let got = field(&status, name);
        assert_eq!(got, value, "{name}");
    }
    let mut spec = bed.spec("busybox cat /proc/1/status; echo x > /dev/stdout; cd /tmp");
    spec.user.uid = 1000;
    spec.user.gid = 1001;
    spec.user.groups = vec![1001, 7];
    spec.no_new_privileges = true;
    let (exit, status) = bed.run(&spec).unwrap();
    assert_eq!(exit.code, Some(0), "{status}");
    for (name, value) in [
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("CapBnd:", "00000000a80425fb"),
        ("Groups:", "7 1001"),
        ("NoNewPrivs:", "1"),
        ("Uid:", "1000\t1000\t1000\t1000"),
        ("Gid:", "1001\t1001\t1001\t1001"),
    ] {
        assert_eq!(field(&status, name), value, "{name}");
    }
    // What the caller left open is not seen either.
    let slash = std::fs::File::open("/").unwrap();
    let leaked: Vec<_> = (0..50).map(|_| rustix::io::dup(&slash).unwrap()).collect();
    let fds = bed.sh("exec busybox ls /proc/self/fd");
    assert_eq!(fds.lines().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    drop(leaked);
    assert_eq!(bed.sh("busybox readlink /proc/1/fd/0"), "/dev/null\n");
    assert_eq!(
        bed.sh("busybox tr '\\0' '\\n' < /proc/1/environ; :"),
        "PATH=/bin\nA=b c\n"
    );
    let dev = bed.sh("busybox ls /dev");
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(
        dev.split_whitespace().collect::<Vec<_>>().join(" "),
        expected
    );
    assert_eq!(
        bed.sh("busybox hostname; busybox cat /etc/hostname"),
        "shiplap\nshiplap\n"
    );
    assert_eq!(
        bed.sh("echo $$; ulimit -c; ulimit -n; umask"),
        "1\n0\n1024\n0022\n"
    );
    let (_, tty) = bed.run(&bed.spec("busybox tty; : < /dev/tty")).unwrap();
    assert!(tty.starts_with("not a tty\n") && tty.contains("can't open /dev/tty"));
}

#[test]
fn the_host_is_out_of_reach() {
    let Some(bed) = Bed::new() else { return };
    for script in [
        // Read-only and masked parts.
        "echo x > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "echo x > /sys/kernel/uevent_helper",
        "busybox grep -q . /proc/kcore",
        "busybox grep -q . /proc/timer_list",
        "busybox umount /proc/kcore",
        "busybox mount -t proc proc /tmp",
        "busybox mount -t tmpfs tmpfs /tmp",
        "busybox mkdir /tmp/cg && busybox mount -t cgroup -o memory cgroup /tmp/cg",
        // A device node of one's own.
        "busybox mknod /tmp/disk b 254 0 && busybox head -c 1 /tmp/disk",
        "busybox mknod /dev/disk b 254 0 && busybox head -c 1 /dev/disk",
        "busybox mknod /dev/shm/disk b 254 0 && busybox head -c 1 /dev/shm/disk",
        "busybox hwclock -w",
        "busybox hostname x",
        "busybox unshare -r true",
        "busybox unshare -m true",
        "busybox dmesg",
        "echo x > /proc/self/exe",
    ] {
        let (exit, out) = bed.run(&bed.spec(script)).unwrap();
        assert_ne!(exit.code, Some(0), "{script}: {out}");
    }
    let null = Path::new("/dev/null").metadata().unwrap().mode();
    bed.sh("busybox chmod 600 /dev/null /proc/self/fd/0; busybox kill -9 -1 || :");
    assert_eq!(Path::new("/dev/null").metadata().unwrap().mode(), null);
    let processes = bed.sh("busybox ls /proc | busybox grep '^[0-9]'");
    assert!(processes.lines().count() <= 3, "{processes}");
    let mounts = bed.sh("busybox cat /proc/self/mountinfo");
    assert!(
        !mounts.contains(&*bed.dir.path().to_string_lossy()),
        "{mounts}"
    );
    let mut spec = bed.spec("busybox ip link; busybox ping -c1 -w1 127.0.0.1");
    spec.network = Network::None;
    let (exit, out) = bed.run(&spec).unwrap();
    assert_eq!(exit.code, Some(0), "{out}");
    assert_eq!(
        out.lines().filter(|l| l.contains("mtu")).count(),
        1,
        "{out}"
    );
}

#[test]
fn executing_our_own_program_inside_changes_nothing() {
    let Some(bed) = Bed::new() else { return };
    let program = Path::new(env!("CARGO_BIN_EXE_shiplap"));
    let before = std::fs::metadata(program).unwrap();
    let script = "#!/proc/self/exe\n";
    std::fs::write(bed.path("base/bin/self"), script).unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bed.path("base/bin/self"), mode).unwrap();
    let mut spec = bed.spec("");
    for command in ["/bin/self", "/proc/self/exe"] {
        spec.args = vec![command.into()];
        let _ = bed.run(&spec);
    }
    let after = std::fs::metadata(program).unwrap();
    assert_eq!(
        (before.len(), before.mtime(), before.ino()),
        (after.len(), after.mtime(), after.ino())
    );
}

#[test]
fn working_directories_are_inside() {
    let Some(bed) = Bed::new() else { return };
    let at = |cwd: &str| {
        let mut spec = bed.spec("busybox pwd");
        spec.cwd = cwd.into();
        bed.run(&spec).map(|(_, out)| out)
    };
    symlink("/usr", bed.path("base/link")).unwrap();
    assert_eq!(at("/usr/bin").unwrap(), "/usr/bin\n");
    assert_eq!(at("/link/bin").unwrap(), "/usr/bin\n");
    assert_eq!(at("/../../usr").unwrap(), "/usr\n");
    for n in 0..64 {
        assert!(at(&format!("/proc/self/fd/{n}")).is_err());
    }
    for missing in ["/nowhere", "/bin/busybox", "/proc/self/cwd"] {
        assert!(
            matches!(at(missing), Err(RunError::Root { .. })),
            "{missing}"
        );
    }
}

#[test]
fn daemons_end_with_the_command() {
    let Some(bed) = Bed::new() else { return };
    let began = Instant::now();
    let script = "busybox setsid busybox sleep 98765 & busybox sleep 98765 & echo done";
    let (exit, out) = bed.run(&bed.spec(script)).unwrap();
    assert_eq!((exit.code, &*out), (Some(0), "done\n"));
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(!alive("98765"));
}

#[test]
fn signals_to_everyone_stay_inside() {
    let Some(bed) = Bed::new() else { return };
    for script in [
        "trap 'kill 0' EXIT; busybox sleep 60 & exit 3",
        "busybox kill -9 -1; busybox kill -9 0; exit 3",
        "busybox setsid busybox kill -9 0; exit 3",
    ] {
        let (exit, out) = bed.run(&bed.spec(script)).unwrap();
        assert_eq!(exit.status(), 3, "{script}: {out}");
    }
}

#[test]
fn cancelling_kills_everything() {
    let Some(bed) = Bed::new() else { return };
    let cancel = Cancel::new();
    let script = "trap '' TERM INT; busybox setsid busybox sleep 87654 & busybox sleep 87654";
    let began = std::thread::scope(|s| {
        let run = s.spawn(|| {
            bed.executor
                .run(&bed.spec(script), Io::Lines(&|_, _| {}), &cancel)
        });
        while !alive("87654") && !run.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let began = Instant::now();
        cancel.cancel();
        assert!(matches!(run.join().unwrap(), Err(RunError::Cancelled)));
        began
    });
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert!(!alive("87654"));
}

#[test]
fn output_without_a_line_end_comes_in_parts() {
    let Some(bed) = Bed::new() else { return };
    let most = Mutex::new((0, 0));
    let spec = bed.spec("busybox head -c 104857600 /dev/zero; echo; echo x >&2");
    let counted = |stream, line: &[u8]| {
        let mut most = most.lock().unwrap();
        if stream == Stream::Stdout {
            *most = (most.0 + line.len(), line.len().max(most.1));
        }
    };
    let exit = bed
        .executor
        .run(&spec, Io::Lines(&counted), &Cancel::new())
        .unwrap();
    assert_eq!(exit.code, Some(0));
    assert_eq!(*most.lock().unwrap(), (100 << 20, 64 << 10));
}

#[test]
fn mounts_are_seen_and_leave_nothing() {
    let Some(bed) = Bed::new() else { return };
    let source = bed.path("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/file"), "bound").unwrap();
    symlink("/", source.join("all")).unwrap();
    symlink("/tmp", bed.path("base/usr/link")).unwrap();
    let bind = |subpath: Option<&str>, read_only| MountKind::Bind {
        source: source.clone(),
        subpath: subpath.map(Into::into),
        read_only,
    };
    let mount = |target: &str, kind| Mount {
        target: target.into(),
        kind,
    };
    let secret = MountKind::File {
        content: b"s3cret".into(),
        mode: 0o400,
        uid: 5,
        gid: 6,
    };
    let changes = bed.path("changes");
    std::fs::create_dir(&changes).unwrap();
    std::fs::create_dir(bed.path("changes-work")).unwrap();
    let overlay = MountKind::Overlay {
        lower: vec![source.clone()],
        upper: changes.clone(),
        work: bed.path("changes-work"),
        subpath: Some("sub".into()),
        directory: true,
        read_only: false,
    };
    let mut spec = bed.spec(
        "set -e; busybox cat /made/here/sub/file /new/file; echo; busybox stat -c %a:%u:%g /run/secrets/s
         busybox cat /run/secrets/s; echo; busybox touch /new/here; busybox ls /all
         ! busybox touch /made/here/x 2>/dev/null; busybox touch /usr/link/cache/t; busybox touch /tmp/f
         echo changed > /over/file; busybox df -m /mem | busybox tail -1 | busybox awk '{print $2}'
         busybox touch /made/mine; busybox touch /dev/shm/cache/y",
    );
    spec.mounts = vec![
        mount("/made/here", bind(None, true)),
        mount("/new", bind(Some("sub"), false)),
        mount("/all", bind(Some("all/../../.."), true)),
        mount("/run/secrets/s", secret),
        mount("/usr/link/cache", MountKind::Tmpfs { size: None }),
        mount(
            "/mem",
            MountKind::Tmpfs {
                size: Some(8 << 20),
            },
        ),
        mount("/over", overlay),
        mount("/dev/shm/cache", MountKind::Tmpfs { size: None }),
    ];
    let (exit, out) = bed.run(&spec).unwrap();
    assert_eq!(exit.code, Some(0), "{out}");
    assert_eq!(out, "boundbound\n400:5:6\ns3cret\nall\nsub\n8\n");
    assert_eq!(std::fs::read(source.join("sub/file")).unwrap(), b"bound");
    assert_eq!(
        std::fs::read(changes.join("sub/file")).unwrap(),
        b"changed\n"
    );
    assert!(source.join("sub/here").exists());
    let left: Vec<String> = bed.left().into_iter().collect();
    assert_eq!(left, ["made", "made/mine", "tmp", "tmp/f"]);
}

#[test]
fn traps_in_the_root_are_refused() {
    let Some(bed) = Bed::new() else { return };
    let canary = bed.path("canary");
    std::fs::create_dir(&canary).unwrap();
    type Trap = fn(&Path, &Path);
    let traps: [(&str, Trap); 7] = [
        ("proc", |base, out| {
            std::fs::remove_dir(base.join("proc")).unwrap();
            symlink(out, base.join("proc")).unwrap();
        }),
        ("sys", |base, _| {
            std::fs::write(base.join("sys"), "").unwrap()
        }),
        ("sys", |base, _| symlink("/etc", base.join("sys")).unwrap()),
        ("dev", |base, out| symlink(out, base.join("dev")).unwrap()),
        ("etc", |base, out| {
            std::fs::remove_dir(base.join("etc")).unwrap();
            symlink(out, base.join("etc")).unwrap();
        }),
        ("etc/hosts", |base, _| {
            std::fs::create_dir_all(base.join("etc/hosts")).unwrap()
        }),
        ("etc", |base, _| {
            std::fs::remove_dir(base.join("etc")).unwrap();
            std::fs::write(base.join("etc"), "").unwrap();
        }),
    ];
    for (name, set) in traps {
        let bed = Bed::new().unwrap();
        set(&bed.path("base"), &canary);
        let error = bed.run(&bed.spec("true")).unwrap_err();
        assert!(matches!(error, RunError::Root { .. }), "{name}: {error:?}");
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
        assert_eq!(bed.left(), BTreeSet::new(), "{name}");
    }
    // Links that lead out are covered, not followed.
    std::fs::write(canary.join("file"), "host").unwrap();
    for name in ["hosts", "resolv.conf", "hostname"] {
        symlink(canary.join("file"), bed.path("base/etc").join(name)).unwrap();
    }
    let out = bed.sh("echo x >> /etc/hosts; busybox cat /etc/hostname; busybox mkdir /tmp/x");
    assert_eq!(out, "shiplap\n");
    assert_eq!(std::fs::read(canary.join("file")).unwrap(), b"host");
    assert_eq!(bed.left(), ["tmp".to_string(), "tmp/x".into()].into());
}

#[test]
fn a_root_that_lacks_mount_points_gets_its_own_back() {
    let Some(bed) = Bed::new() else { return };
    // A whiteout and an opaque directory hide the layer of mount points.
    let top = bed.path("top");
    std::fs::create_dir_all(top.join("etc")).unwrap();
    let device = rustix::fs::makedev(0, 0);
    let kind = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::empty();
    rustix::fs::mknodat(rustix::fs::CWD, top.join("proc"), kind, mode, device).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(top.join("etc"), "trusted.overlay.opaque", b"y", flags).unwrap();
    let root = || RootSpec::Overlay {
        lower: vec![bed.path("base"), top.clone()],
        upper: bed.upper(),
        work: bed.path("work"),
    };
    let before = bed.upper().metadata().unwrap();
    let mut spec = bed.spec("busybox test -s /etc/hosts && busybox test -e /proc/1");
    spec.root = root();
    let (exit, out) = bed.run(&spec).unwrap();
    assert_eq!(exit.code, Some(0), "{out}");
    assert_eq!(bed.left(), BTreeSet::new());
    assert_eq!(
        bed.upper().metadata().unwrap().mtime_nsec(),
        before.mtime_nsec()
    );
    let mut spec = bed.spec("busybox chmod 700 /etc; busybox touch /etc/mine");
    spec.root = root();
    bed.run(&spec).unwrap();
    let left: Vec<String> = bed.left().into_iter().collect();
    assert_eq!(left, ["etc", "etc/mine"]);
    // A directory that is changed in place.
    let plain = bed.path("base");
    let listing = |dir: &Path| {
        let names = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name());
        (
            names.collect::<BTreeSet<_>>(),
            dir.metadata().unwrap().mtime_nsec(),
        )
    };
    let before = (listing(&plain), listing(&plain.join("etc")));
    let mut spec = bed.spec("busybox test -s /etc/hosts && busybox touch /root/x");
    spec.root = RootSpec::Dir {
        dir: plain.clone(),
        work: bed.path("work"),
    };
    let (exit, out) = bed.run(&spec).unwrap();
    assert_eq!(exit.code, Some(0), "{out}");
    assert_eq!((listing(&plain), listing(&plain.join("etc"))), before);
    assert!(plain.join("root/x").exists());
}

#[test]
fn hundreds_of_layers_and_odd_names_work() {
    let Some(bed) = Bed::new() else { return };
    let odd = bed.path("a:b,c\\d\"e f");
    let mut lower = vec![bed.path("base")];
    for n in 0..498 {
        let layer = odd.join(format!("upperdir=/,lowerdir={n}"));
        std::fs::create_dir_all(layer.join("layers")).unwrap();
        std::fs::write(layer.join(format!("layers/{n}")), "").unwrap();
        lower.push(layer);
    }
    let (upper, work) = (odd.join("upper"), odd.join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    let mut spec = bed.spec("busybox ls /layers | busybox wc -l; echo x > /new");
    spec.root = RootSpec::Overlay {
        lower,
        upper: upper.clone(),
        work,
    };
    let (_, out) = bed.run(&spec).unwrap();
    assert_eq!(out, "498\n");
    assert!(upper.join("new").exists());
}

#[test]
fn many_run_at_once() {
    let Some(bed) = Bed::new() else { return };
    std::thread::scope(|s| {
        for n in 0..8 {
            let bed = &bed;
            s.spawn(move || {
                for round in 0..5 {
                    let dir = bed.path(&format!("{n}-{round}"));
                    std::fs::create_dir_all(dir.join("upper")).unwrap();
                    std::fs::create_dir_all(dir.join("work")).unwrap();
                    let mut spec = bed.spec("echo $$");
                    spec.root = RootSpec::Overlay {
                        lower: vec![bed.path("base")],
                        upper: dir.join("upper"),
                        work: dir.join("work"),
                    };
                    assert_eq!(bed.run(&spec).unwrap().1, "1\n");
                }
            });
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn what_a_run_costs() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.spec("");
    spec.args = vec!["/bin/busybox".into(), "true".into()];
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            let began = Instant::now();
            bed.run(&spec).unwrap();
            began.elapsed()
        })
        .collect();
    times.sort();
    let mut plain: Vec<Duration> = (0..50)
        .map(|_| {
            let began = Instant::now();
            std::process::Command::new(BUSYBOX)
                .arg("true")
                .status()
                .unwrap();
            began.elapsed()
        })
        .collect();
    plain.sort();
    eprintln!(
        "median {:?}, without a container {:?}",
        times[25], plain[25]
    );
}

/// Not a test by itself: the next one starts it in a process to be killed.
#[test]
#[ignore = "a part of another test"]
fn helper_sleeps_in_a_container() {
    let Some(bed) = Bed::new() else { return };
    bed.sh("busybox setsid busybox sleep 76543 & busybox sleep 76543");
}

#[test]
fn nothing_survives_the_builder() {
    let Some(_) = Bed::new() else { return };
    let temp = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let mut builder = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper_sleeps_in_a_container", "--ignored"])
            .env("TMPDIR", temp.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while !alive("76543") && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        builder.kill().unwrap();
        builder.wait().unwrap();
        let began = Instant::now();
        while alive("76543") {
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "something survived"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
