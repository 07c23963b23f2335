//! Runs processes in containers without root's privileges. Each case is a
//! process of its own with one thread, so this test has no harness.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use shiplap::container::{
    Io, Isolation, Mapped, Network, Place, RootSpec, RunSpec, can_mount, child_main,
    enter_user_namespace, executor,
};
use shiplap::event::Cancel;

const BUSYBOX: &str = "/bin/busybox";

fn main() {
    child_main();
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("--inner") => inner(Path::new(&args[2])),
        _ => outer(),
    }
}

/// Gives the user 1234 subordinate ids, for this process and its children.
fn grant_subordinate_ids(dir: &Path) -> bool {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    if !Path::new("/usr/bin/newuidmap").exists() {
        return false;
    }
    shiplap::sys::process::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = "tester:x:1234:1234::/:/bin/sh\n";
    for (name, content) in [
        ("passwd", users + user),
        ("subuid", "tester:200000:65536\n".into()),
        ("subgid", "tester:200000:65536\n".into()),
    ] {
        std::fs::write(dir.join(name), content).unwrap();
        let target = Path::new("/etc").join(name);
        if !target.exists() || mount_bind(dir.join(name), target).is_err() {
            return false;
        }
    }
    true
}

fn outer() {
    if !rustix::process::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
        eprintln!("skipped: needs root, to become other users, and busybox-static");
        return;
    }
    let mut cases = vec![(0, "All"), (65_533, "Single")];
    let files = tempfile::tempdir().unwrap();
    match grant_subordinate_ids(files.path()) {
        true => cases.push((1234, "Ranges")),
        false => eprintln!("skipped: no newuidmap, or no /etc/subuid and /etc/subgid"),
    }
    for (uid, mapped) in cases {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        for name in ["base/bin", "base/etc", "base/tmp", "upper", "work"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::copy(BUSYBOX, base.join("bin/busybox")).unwrap();
        symlink("busybox", base.join("bin/sh")).unwrap();
        for name in [
            "", "base", "base/bin", "base/etc", "base/tmp", "upper", "work",
        ] {
            chown(dir.path().join(name), Some(uid), Some(uid)).unwrap();
        }
        let program = dir.path().join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let out = Command::new(&program)
            .args(["--inner", &dir.path().to_string_lossy()])
            .uid(uid)
            .gid(uid)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "user {uid}: {text}\n{errors}");
        assert!(text.contains(mapped), "user {uid}: {text}");
        println!("test user_{uid}_{mapped} ... ok");
    }
}

fn inner(dir: &Path) {
    let root = rustix::process::geteuid().is_root();
    assert_eq!(can_mount(), root);
    let mapped = enter_user_namespace().unwrap();
    println!("{mapped:?}");
    assert!(can_mount());
    let program = std::env::current_exe().unwrap();
    let place = Place {
        program: &program,
        scratch: dir,
        root: None,
        runtime: None,
    };
    let executor = executor(Isolation::Auto, &place).unwrap();
    let run = |script: &str, change: &dyn Fn(&mut RunSpec)| {
        let spec = RootSpec::Overlay {
            lower: vec![dir.join("base")],
            upper: dir.join("upper"),
            work: dir.join("work"),
        };
        let mut spec = RunSpec::new(spec, ["/bin/sh", "-c", script]);
        spec.env = vec!["PATH=/bin".into()];
        change(&mut spec);
        let out = std::sync::Mutex::new(String::new());
        let exit = executor.run(
            &spec,
            Io::Lines(&|_, line| {
                let mut out = out.lock().unwrap();
                out.push_str(&String::from_utf8_lossy(line));
                out.push('\n');
            }),
            &Cancel::new(),
        );
        let out = out.into_inner().unwrap();
        match exit {
            Ok(exit) => (exit.status(), out),
            Err(e) => panic!("{script}: {e} {:?}", std::error::Error::source(&e)),
        }
    };
    let left = || {
        let mut names: Vec<PathBuf> = std::fs::read_dir(dir.join("upper"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into())
            .collect();
        names.sort();
        names
    };
    let script =
        "echo $$; busybox id -u; busybox cat /etc/hostname; busybox ls /dev/null /proc/1/status
                  echo x > /dev/null; busybox head -c 3 /dev/zero | busybox wc -c";
    let (code, out) = run(script, &|_| {});
    assert_eq!(
        (code, &*out),
        (0, "1\n0\nshiplap\n/dev/null\n/proc/1/status\n3\n")
    );
    assert_eq!(left(), Vec::<PathBuf>::new());
    for refused in [
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /sys/kernel/uevent_helper",
        "busybox mount -t tmpfs none /tmp",
        "busybox umount /proc/kcore",
        "busybox chmod 666 /dev/null",
        "busybox test -w /sys/fs/cgroup/cgroup.procs",
    ] {
        assert_ne!(run(refused, &|_| {}).0, 0, "{refused}");
    }
    let (code, out) = run("busybox ip link; busybox ping -c1 -w1 127.0.0.1", &|spec| {
        spec.network = Network::None;
    });
    assert_eq!(code, 0, "{out}");
    let (code, out) = run(
        "busybox mkdir /new; busybox rm /bin/busybox || exit 3",
        &|_| {},
    );
    assert_eq!(code, 0, "{out}");
    assert_eq!(left(), [PathBuf::from("bin"), "new".into()]);
    let whiteout = dir.join("upper/bin/busybox").symlink_metadata().unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(
        &whiteout.file_type()
    ));
    assert_eq!(std::fs::read_dir(dir.join("work")).unwrap().count(), 0);
    if mapped != Mapped::Single {
        std::fs::remove_file(dir.join("upper/bin/busybox")).unwrap();
        let (code, out) = run(
            "busybox id -u; busybox id -G; echo > /dev/stdout",
            &|spec| {
                spec.user.uid = 1000;
                spec.user.gid = 1000;
                spec.user.groups = vec![1000, 5];
            },
        );
        assert_eq!((code, &*out), (0, "1000\n1000 5\n\n"));
        chown(dir.join("upper/new"), Some(1000), Some(1001)).unwrap();
    }
    std::fs::remove_dir_all(dir.join("upper")).unwrap();
}
