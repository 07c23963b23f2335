//! The static program in containers that are as locked down as pods: Docker's
//! default capabilities with a filter that has the effect of Docker's, the
//! same without the filter, and a plain user without any privilege.
//!
//! The program comes from `$SHIPLAP_STATIC`; without it the tested one goes in
//! with its libraries.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::sandbox::{Ran, has, skip};

/// Docker's default set.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// What is refused with these capabilities.
const REFUSED: &[&str] = &[
    "acct",
    "add_key",
    "bpf",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "quotactl",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
];

const DOCKERFILE: &str = r#"FROM scratch AS base
COPY busybox /bin/busybox
COPY busybox /bin/sh
COPY --chown=7:42 Dockerfile /etc/shadow
ENV PATH=/bin
FROM base
WORKDIR /work
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/t \
    busybox mkdir -p a/b && echo hi > a/b/c && busybox ln a/b/c a/d && echo x > /cache/x && echo t > /t/t
RUN echo more >> a/d && busybox chmod 700 a/b && busybox mv a/d a/e && echo x >> /etc/shadow
RUN busybox rm -r a/b && busybox cat /etc/resolv.conf /etc/hosts > /dev/null && busybox id -u > id
RUN busybox test ! -e /cache && busybox test ! -e /t
"#;

const WITHOUT_RUN: &str = "FROM scratch\nCOPY --chown=3 busybox /x/y\nWORKDIR /z\n";

#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    root: bool,
    filter: bool,
    proot: bool,
    /// What doctor says is taken.
    isolation: Option<&'static str>,
}

struct Pod {
    dir: tempfile::TempDir,
    kind: Kind,
}

fn program() -> PathBuf {
    let given = std::env::var_os("SHIPLAP_STATIC").filter(|p| !p.is_empty());
    given.map_or_else(|| env!("CARGO_BIN_EXE_shiplap").into(), PathBuf::from)
}

impl Pod {
    fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pod = Self { dir, kind };
        for name in [
            "bin", "dev", "etc", "lib64", "proc", "sys", "tmp", "usr/bin", "work/ctx",
        ] {
            std::fs::create_dir_all(pod.path(name)).unwrap();
        }
        let open = |name: &str, mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(pod.path(name), mode).unwrap();
        };
        open("", 0o755);
        open("tmp", 0o1777);
        pod.install(&program(), "bin/shiplap");
        pod.install(Path::new("/bin/busybox"), "bin/busybox");
        symlink("busybox", pod.path("bin/sh")).unwrap();
        if kind.proot {
            pod.install(Path::new("/usr/bin/proot"), "usr/bin/proot");
        }
        let passwd = "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/work:/bin/sh\n";
        std::fs::write(pod.path("etc/passwd"), passwd).unwrap();
        std::fs::write(pod.path("etc/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        std::fs::copy("/bin/busybox", pod.path("work/ctx/busybox")).unwrap();
        std::fs::write(pod.path("work/ctx/Dockerfile"), DOCKERFILE).unwrap();
        std::fs::write(pod.path("work/ctx/plain"), WITHOUT_RUN).unwrap();
        let user = Some(pod.user());
        for name in ["work", "work/ctx"] {
            chown(pod.path(name), user, user).unwrap();
        }
        pod
    }

    fn user(&self) -> u32 {
        if self.kind.root { 0 } else { 1000 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("rootfs").join(name)
    }

    /// Copies a program with its libraries.
    fn install(&self, from: &Path, to: &str) {
        std::fs::copy(from, self.path(to)).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.path(to), mode).unwrap();
        // A static program is none that ldd knows.
        let listed = Command::new("ldd").arg(from).output().unwrap();
        for word in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            if let Some(relative) = word.strip_prefix('/') {
                let library = self.path(relative);
                std::fs::create_dir_all(library.parent().unwrap()).unwrap();
                std::fs::copy(word, library).unwrap();
            }
        }
    }

    fn config(&self, args: &[&str]) -> Value {
        let id = self.user();
        let capabilities: &[&str] = if self.kind.root { &CAPABILITIES } else { &[] };
        let mut devices = vec![json!({"allow": false, "access": "rwm"})];
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)] {
            devices.push(json!({
                "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"
            }));
        }
        devices.push(json!({"allow": true, "type": "c", "access": "m"}));
        let mount = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": id, "gid": id},
                "args": args,
                "env": ["PATH=/bin:/usr/bin", "HOME=/work", "SHIPLAP_ROOT=/work/store"],
                "cwd": "/work",
                "noNewPrivileges": !self.kind.root,
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities
                },
            },
            "root": {"path": "rootfs"},
            "hostname": "pod",
            "mounts": [
                mount("/proc", "proc", &[]),
                mount("/dev", "tmpfs", &["nosuid", "mode=755"]),
                mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777"]),
                mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            ],
            "linux": {
                "namespaces": (["pid", "ipc", "uts", "mount", "network"])
                    .map(|kind| json!({"type": kind})),
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                    "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                ],
                "readonlyPaths": [
                    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
                ],
                "resources": {"devices": devices},
            },
        });
        if self.kind.filter {
            config["linux"]["seccomp"] = filter();
        }
        config
    }

    fn run(&self, args: &[&str]) -> Ran {
        let config = self.config(args).to_string();
        std::fs::write(self.dir.path().join("config.json"), config).unwrap();
        let id = format!("shiplap-pod-{}-{}", self.kind.name, std::process::id());
        let output = Command::new("runc")
            .args(["run", "--bundle"])
            .arg(self.dir.path())
            .arg(id)
            .output()
            .unwrap();
        output.into()
    }

    fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(
            ran.code,
            Some(0),
            "{}: {args:?}\n{}{}",
            self.kind.name,
            ran.stdout,
            ran.stderr
        );
        ran.stdout.trim().to_owned()
    }

    fn build(&self, more: &[&str]) -> String {
        let mut args = vec!["/bin/shiplap", "build", "-q", "--rewrite-timestamp"];
        args.extend(["--source-date-epoch", "1700000000", "-t", "result:1"]);
        args.extend(more);
        args.push("/work/ctx");
        self.ok(&args)
    }
}

/// A filter with the effect of Docker's.
fn filter() -> Value {
    let mut rules = vec![
        json!({"names": REFUSED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
    ];
    for flag in [17, 25, 26, 27, 28, 29, 30].map(|bit| 1_u64 << bit) {
        rules.push(json!({
            "names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
            "args": [{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}],
        }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

#[test]
fn every_pod_builds_the_same_image() {
    const NAME: &str = "every_pod_builds_the_same_image";
    let root = rustix::process::geteuid().is_root();
    if !root || !has("runc") || !has("umoci") || !Path::new("/bin/busybox").exists() {
        return skip(NAME, "it takes root, runc, umoci and busybox-static");
    }
    if cfg!(not(target_arch = "x86_64")) {
        return skip(NAME, "its filter is for x86_64");
    }
    let kind = |name, root, filter, proot, isolation| Kind {
        name,
        root,
        filter,
        proot,
        isolation,
    };
    let namespaces = Some("namespaces");
    let mut kinds = vec![
        kind("docker", true, true, false, Some("chroot")),
        kind("unconfined", true, false, false, namespaces),
        kind("restricted", false, false, false, namespaces),
        kind("bare", false, true, false, None),
    ];
    if has("proot") {
        kinds.push(kind("proot", false, true, true, Some("proot")));
    } else {
        skip(NAME, "there is no proot for that kind of pod");
    }
    let mut results = Vec::new();
    for kind in kinds {
        let pod = Pod::new(kind);
        let doctor: Value =
            serde_json::from_str(&pod.ok(&["/bin/shiplap", "doctor", "--format", "json"])).unwrap();
        assert_eq!(doctor["auto"].as_str(), kind.isolation, "{doctor:#}");
        // Without RUN it works everywhere, and the same.
        let plain = pod.build(&["-f", "/work/ctx/plain"]);
        if kind.isolation.is_none() {
            let ran = pod.run(&["/bin/shiplap", "build", "-q", "/work/ctx"]);
            assert_eq!(ran.code, Some(1), "{}", ran.stderr);
            assert!(ran.stderr.contains("isolated"), "{}", ran.stderr);
            results.push((kind.name, plain, None));
            continue;
        }
        let digest = pod.build(&[]);
        let left = pod.ok(&["/bin/sh", "-c", "ls /work/store/tmp /work/store/trash"]);
        assert_eq!(
            left, "/work/store/tmp:\n\n/work/store/trash:",
            "{}",
            kind.name
        );
        let bundle = pod.dir.path().join("bundle");
        let store = pod.path("work/store").display().to_string();
        let unpacked = Command::new("umoci")
            .args(["unpack", "--image", &format!("{store}:result:1")])
            .arg(&bundle)
            .output()
            .unwrap();
        assert!(unpacked.status.success(), "{unpacked:?}");
        let text = |name| std::fs::read_to_string(bundle.join("rootfs").join(name)).unwrap();
        assert_eq!(
            (text("work/a/e"), text("work/id")),
            ("hi\nmore\n".into(), "0\n".into())
        );
        use std::os::unix::fs::MetadataExt;
        let shadow = bundle.join("rootfs/etc/shadow").metadata().unwrap();
        assert_eq!((shadow.uid(), shadow.gid()), (7, 42), "{}", kind.name);
        assert!(!bundle.join("rootfs/cache").exists() && !bundle.join("rootfs/dev").exists());
        results.push((kind.name, plain, Some(digest)));
    }
    let first = results.first().unwrap().clone();
    for (name, plain, digest) in &results {
        assert_eq!(plain, &first.1, "{name}");
        if digest.is_some() {
            assert_eq!(digest, &first.2, "{name}");
        }
    }
}
