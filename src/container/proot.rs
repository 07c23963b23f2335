//! Runs with the `proot` program, for users without any privilege.
//!
//! It traces the processes of the run and translates the paths they name, so
//! that the tree looks like the root, and root like the user. Other owners can
//! be seen by nobody, and what the command sets of them is lost.
//!
//! A process that is traced can evade that, so Landlock draws the border: the
//! tree, `/proc`, the devices, and what `proot` itself is made of. Calls that
//! `proot` may be too old to translate do not exist.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};

use super::devices::DEVICES;
use super::enter;
use super::isolation::Refusal;
use super::protocol::{Failure, Tried};
use super::spec::{RootSpec, RunSpec};
use crate::sys::landlock::Ruleset;

/// Where the program may be; a `PATH` is the user's to change, these are not.
const DIRS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
/// Where its libraries may be.
const LIBRARIES: [&str; 5] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
];

/// The variable that says where temporary files go, where it is known.
const DIRECTORY: &str = "PROOT_TMP_DIR";
/// Where they go otherwise.
const TEMPORARY: &str = "/tmp";

/// Calls with paths that are younger than the `proot` of some distributions.
pub(super) const UNTRANSLATED: [libc::c_long; 6] = [
    libc::SYS_renameat2,
    libc::SYS_execveat,
    libc::SYS_statx,
    libc::SYS_openat2,
    libc::SYS_faccessat2,
    452, // fchmodat2
];

/// Finds the program and tries it.
pub(super) fn find() -> Result<PathBuf, Refusal> {
    let refused = |reason: String| Refusal {
        reason,
        remedy: "install proot (Debian: proot), and allow ptrace".into(),
    };
    let program = DIRS
        .iter()
        .map(|dir| Path::new(dir).join("proot"))
        .find(|path| path.is_file())
        .ok_or_else(|| refused(format!("there is no proot in {}", DIRS.join(", "))))?;
    let output = Command::new(&program)
        .args(["-r", "/", "-w", "/"])
        .arg(&program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|e| refused(format!("{} can't be started: {e}", program.display())))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().next().unwrap_or("it says nothing");
        return Err(refused(format!("proot fails here: {}", line.trim())));
    }
    Ok(program)
}

/// Whether it can be told where its own temporary files go.
fn takes_directory(program: &Path) -> bool {
    let name = DIRECTORY.as_bytes();
    fs::read(program).is_ok_and(|code| code.windows(name.len()).any(|part| part == name))
}

/// Allows what `proot` needs beside the tree.
pub(super) fn allow(rules: &Ruleset, program: &Path, spec: &RunSpec) -> Result<(), Failure> {
    let what = "confining the process (landlock)";
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let temporary = match &spec.root {
        RootSpec::Dir { work, .. } if takes_directory(program) => work.as_path(),
        _ => Path::new(TEMPORARY),
    };
    let temporary = open(temporary).tried("opening a directory for temporary files")?;
    rules.allow(temporary.as_fd(), true).tried(what)?;
    let program = fs::canonicalize(program).tried(what)?;
    let readable = LIBRARIES.iter().map(Path::new);
    for path in readable.chain([program.as_path(), Path::new("/proc")]) {
        if let Ok(fd) = open(path) {
            let is_dir = path.is_dir();
            let allowed = match is_dir {
                true => rules.allow(fd.as_fd(), false),
                false => rules.allow_reading(fd.as_fd()),
            };
            allowed.tried(what)?;
        }
    }
    for (name, ..) in DEVICES {
        if let Ok(fd) = open(&Path::new("/dev").join(name)) {
            rules.allow_file(fd.as_fd()).tried(what)?;
        }
    }
    Ok(())
}

/// The command that has `proot` execute the command of `spec`.
pub(super) fn command(program: &Path, spec: &RunSpec) -> Result<enter::Command, Failure> {
    let RootSpec::Dir { dir, work } = &spec.root else {
        return Err(rustix::io::Errno::OPNOTSUPP).tried("mounting an overlay");
    };
    let mut args: Vec<Vec<u8>> = vec![b"proot".to_vec()];
    match (spec.user.uid, spec.user.gid) {
        (0, 0) => args.push(b"-0".to_vec()),
        (uid, gid) => args.extend([b"-i".to_vec(), format!("{uid}:{gid}").into_bytes()]),
    }
    args.extend([b"-r".to_vec(), dir.as_os_str().as_bytes().to_vec()]);
    args.extend([b"-w".to_vec(), spec.cwd.as_bytes().to_vec()]);
    let devices = DEVICES.iter().map(|(name, ..)| format!("/dev/{name}"));
    for path in std::iter::once("/proc".to_owned()).chain(devices) {
        if Path::new(&path).exists() {
            args.extend([b"-b".to_vec(), path.into_bytes()]);
        }
    }
    args.extend(spec.args.iter().map(|a| a.clone().into_bytes()));
    let mut env = spec.env.clone();
    if takes_directory(program) {
        env.push(format!("{DIRECTORY}={}", work.display()));
    }
    let strings = |all: Vec<Vec<u8>>| -> Result<Vec<CString>, Failure> {
        let strings = all.into_iter().map(CString::new);
        strings
            .collect::<Result<_, _>>()
            .map_err(std::io::Error::from)
            .tried("preparing the command")
    };
    Ok(enter::Command {
        candidates: strings(vec![program.as_os_str().as_bytes().to_vec()])?,
        args: strings(args)?,
        env: strings(env.into_iter().map(String::into_bytes).collect())?,
    })
}
