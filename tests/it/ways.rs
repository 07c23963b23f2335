//! The ways to isolate a step that this machine has, each as its users have
//! it, and a probe to be run in a step.

use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::sandbox::{Ran, Sandbox, has, skip};

/// A user with one id of its own only.
const SINGLE: u32 = 64_123;
/// A user with subordinate ids, where there is a way to have them.
const RANGES: u32 = 64_124;

/// One way to isolate a step.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    /// Options of `build`.
    pub(crate) args: &'static [&'static str],
    pub(crate) uid: u32,
}

impl Way {
    const fn new(name: &'static str, args: &'static [&'static str], uid: u32) -> Self {
        Self { name, args, uid }
    }

    /// Whether the step shares the process tree with the builder.
    pub(crate) fn shares_processes(&self) -> bool {
        self.name == "chroot" || self.name == "proot"
    }

    /// Whether files of any owner can be made.
    pub(crate) fn keeps_owners(&self) -> bool {
        self.uid != SINGLE
    }

    pub(crate) fn store(&self, s: &Sandbox) -> PathBuf {
        s.path(self.name).join("store")
    }

    /// The program on a store of this way's own, as the way's user.
    pub(crate) fn command(&self, s: &Sandbox) -> Command {
        self.command_by(s, &[])
    }

    /// As [`command`](Self::command), executed by way of `prefix`.
    pub(crate) fn command_by(&self, s: &Sandbox, prefix: &[&str]) -> Command {
        let mut words: Vec<OsString> = prefix.iter().map(Into::into).collect();
        if self.uid == RANGES {
            // In files of a mount namespace of its own.
            let script = "for f in passwd subuid subgid; do \
                 mount --bind $0/$f /etc/$f || exit 99; done; exec \"$@\"";
            let unshare = ["unshare", "-m", "--propagation=private", "sh", "-c", script];
            words.extend(unshare.map(Into::into));
            words.push(s.path("ids").into());
        }
        if self.uid != 0 {
            let (uid, gid) = (
                format!("--reuid={}", self.uid),
                format!("--regid={}", self.uid),
            );
            words.extend(["setpriv", &uid, &gid, "--clear-groups"].map(Into::into));
        }
        words.push(s.path("program").into());
        let dir = s.path(self.name);
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .arg("--root")
            .arg(dir.join("store"))
            .current_dir(&dir)
            .env("HOME", &dir)
            .env("DOCKER_CONFIG", dir.join("no-config"))
            .env_remove("SHIPLAP_ROOT")
            .env_remove("SOURCE_DATE_EPOCH")
            .stdin(std::process::Stdio::null());
        command
    }

    /// The words that build the context `name` of the sandbox without any
    /// cache.
    pub(crate) fn words(&self, s: &Sandbox, name: &str, more: &[&str]) -> Vec<String> {
        let mut words = vec!["build", "--progress", "plain", "--no-cache"];
        words.extend(self.args);
        words.extend(more);
        let mut words: Vec<String> = words.into_iter().map(Into::into).collect();
        words.push(s.path(name).display().to_string());
        words
    }

    /// Builds that.
    pub(crate) fn build(&self, s: &Sandbox, name: &str, more: &[&str]) -> Ran {
        let mut command = self.command(s);
        command
            .args(self.words(s, name, more))
            .output()
            .unwrap()
            .into()
    }

    /// Makes the way's directory, with the base in its store.
    pub(crate) fn prepare(&self, s: &Sandbox) {
        let dir = s.path(self.name);
        std::fs::create_dir(&dir).unwrap();
        chown(&dir, Some(self.uid), Some(self.uid)).unwrap();
        let base = s.path("base.tar");
        let mut import = self.command(s);
        import.env("SOURCE_DATE_EPOCH", "1600000000");
        let ran: Ran = import
            .arg("import")
            .arg(base)
            .arg("base")
            .output()
            .unwrap()
            .into();
        assert_eq!(ran.code, Some(0), "{}: {}", self.name, ran.stderr);
    }
}

/// A sandbox whose ways everybody may enter, and the ways, prepared.
pub(crate) fn all(test: &str) -> Option<(Sandbox, Vec<Way>)> {
    let s = Sandbox::with_base(test)?;
    open(&s.path(""), 0o755);
    open(&s.path("base.tar"), 0o644);
    std::fs::copy(env!("CARGO_BIN_EXE_shiplap"), s.path("program")).unwrap();
    let mut ways = vec![
        Way::new("namespaces", &["--isolation=namespaces"], 0),
        Way::new("chroot", &["--isolation=chroot"], 0),
        Way::new("single", &["--isolation=namespaces"], SINGLE),
    ];
    if grant(&s) {
        ways.push(Way::new("ranges", &["--isolation=namespaces"], RANGES));
    } else {
        skip(test, "subordinate ids (no newuidmap, or no /etc/subuid)");
    }
    match has("proot") {
        true => ways.push(Way::new("proot", &["--isolation=proot"], SINGLE)),
        false => skip(test, "there is no proot"),
    }
    match has("runc") || Path::new("/usr/sbin/runc").exists() {
        true => ways.push(Way::new("runc", &["--isolation=oci", "--runtime=runc"], 0)),
        false => skip(test, "there is no runc"),
    }
    // crun refuses a hierarchy of both kinds.
    let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    match has("crun") && !hybrid {
        true => ways.push(Way::new("crun", &["--isolation=oci", "--runtime=crun"], 0)),
        false => skip(test, "there is no crun, or it does not take these cgroups"),
    }
    for way in &ways {
        way.prepare(&s);
    }
    Some((s, ways))
}

pub(crate) fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Writes the files that give a user subordinate ids.
fn grant(s: &Sandbox) -> bool {
    if !Path::new("/usr/bin/newuidmap").exists() {
        return false;
    }
    let ids = s.path("ids");
    std::fs::create_dir(&ids).unwrap();
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = format!("shiplaptest:x:{RANGES}:{RANGES}::/:/bin/sh\n");
    let ranges = format!("shiplaptest:{}:65536\n", 700_000);
    for (name, text) in [
        ("passwd", format!("{users}{user}")),
        ("subuid", ranges.clone()),
        ("subgid", ranges),
    ] {
        std::fs::write(ids.join(name), text).unwrap();
        if !Path::new("/etc").join(name).exists() {
            return false;
        }
    }
    true
}

/// Puts the probe into the context `name`; `false`, with a word about it, where
/// none can be made.
pub(crate) fn put_probe(test: &str, s: &Sandbox, name: &str) -> bool {
    static PROBE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let compile = || {
        let dir = tempfile::tempdir().ok()?;
        let program = dir.path().join("probe");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/probe/probe.c");
        let mut cc = Command::new("cc");
        cc.args(["-static", "-no-pie", "-O1", "-o"]).arg(&program);
        cc.arg(source)
            .status()
            .ok()
            .filter(std::process::ExitStatus::success)?;
        std::fs::read(program).ok()
    };
    let Some(probe) = PROBE.get_or_init(compile) else {
        skip(test, "there is no C compiler with a static library");
        return false;
    };
    let path = s.path(name).join("probe");
    std::fs::write(&path, probe).unwrap();
    open(&path, 0o755);
    true
}

/// What a step printed, without what stands before it.
pub(crate) fn printed(ran: &Ran) -> Vec<String> {
    let lines = ran.stderr.lines().filter_map(|l| {
        let (time, line) = l.strip_prefix('#')?.split_once(' ')?.1.split_once(' ')?;
        time.parse::<f64>().ok().map(|_| line.to_owned())
    });
    lines.collect()
}
