//! A store, a base image and contexts of a test's own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a command left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code(),
            stdout: String::from_utf8_lossy(&o.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

/// A directory of the test's own with a store in it.
pub(crate) struct Sandbox {
    pub(crate) dir: tempfile::TempDir,
}

/// Whether `program` is on the PATH.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|d| d.join(program).is_file())
}

/// Says that a test is skipped and why.
#[allow(clippy::print_stderr, reason = "for whoever reads the run")]
pub(crate) fn skip(test: &str, why: &str) {
    eprintln!("skipped {test}: {why}");
}

/// The tar of a small root filesystem, made of Debian's busybox once.
fn base_tar() -> Option<&'static [u8]> {
    static TAR: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    TAR.get_or_init(|| {
        let busybox = std::fs::read("/bin/busybox").ok()?;
        let list = Command::new("/bin/busybox").arg("--list").output().ok()?;
        let mut tar = tar::Builder::new(Vec::new());
        let mut put = |name: &str, kind: tar::EntryType, mode: u32, data: &[u8], link: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(data.len() as u64);
            header.set_mtime(1_600_000_000);
            if link.is_empty() {
                tar.append_data(&mut header, name, data).unwrap();
            } else {
                tar.append_link(&mut header, name, link).unwrap();
            }
        };
        for (dir, mode) in [
            ("bin", 0o755),
            ("etc", 0o755),
            ("tmp", 0o1777),
            ("root", 0o700),
        ] {
            put(dir, tar::EntryType::Directory, mode, b"", "");
        }
        put("bin/busybox", tar::EntryType::Regular, 0o755, &busybox, "");
        for applet in String::from_utf8_lossy(&list.stdout).lines() {
            if applet != "busybox" {
                let name = format!("bin/{applet}");
                put(&name, tar::EntryType::Symlink, 0o777, b"", "busybox");
            }
        }
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nana:x:1000:1001::/home/ana:/bin/sh\n";
        put("etc/passwd", tar::EntryType::Regular, 0o644, passwd, "");
        let group = b"root:x:0:\nstaff:x:1001:\nwheel:x:10:ana\n";
        put("etc/group", tar::EntryType::Regular, 0o644, group, "");
        tar.into_inner().ok()
    })
    .as_deref()
}

impl Sandbox {
    /// With an image `base` in its store; `None`, with a word about it, where
    /// steps can't be run.
    pub(crate) fn with_base(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip(test, "running steps takes root here");
            return None;
        }
        let Some(tar) = base_tar() else {
            skip(test, "there is no /bin/busybox (busybox-static)");
            return None;
        };
        let sandbox = Self::new();
        let path = sandbox.path("base.tar");
        std::fs::write(&path, tar).unwrap();
        sandbox.import_at(&sandbox.store());
        Some(sandbox)
    }

    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Imports the base into another store.
    pub(crate) fn import_at(&self, store: &Path) {
        // The base is the same whenever it is imported.
        let ran: Ran = self
            .command(store)
            .env("SOURCE_DATE_EPOCH", "1600000000")
            .arg("import")
            .arg(self.path("base.tar"))
            .arg("base")
            .output()
            .unwrap()
            .into();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The program on this sandbox's store.
    pub(crate) fn command(&self, store: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shiplap"));
        command
            .arg("--root")
            .arg(store)
            .current_dir(self.dir.path())
            .env_remove("SHIPLAP_ROOT")
            .env_remove("SOURCE_DATE_EPOCH")
            .env("DOCKER_CONFIG", self.path("no-config"))
            .env("HOME", self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run_in(&self, store: &Path, args: &[&str]) -> Ran {
        self.command(store).args(args).output().unwrap().into()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_in(&self.store(), args)
    }

    /// Runs and expects success; what it printed on standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{args:?}\n{}", ran.stderr);
        ran.stdout.trim_end().to_owned()
    }

    /// Writes a context and hands out its directory.
    pub(crate) fn context(&self, name: &str, files: &[(&str, &str)]) -> String {
        let dir = self.path(name);
        for (file, text) in files {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::File::create(&path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }
        dir.to_str().unwrap().to_owned()
    }

    /// Builds and expects success; what was shown.
    pub(crate) fn build(&self, context: &str, more: &[&str]) -> Ran {
        let mut args = vec!["build", "--progress", "plain"];
        args.extend(more);
        args.push(context);
        let ran = self.run(&args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran
    }

    /// What a stage's file has, by way of an exported directory.
    pub(crate) fn file_of(&self, context: &str, more: &[&str], file: &str) -> String {
        let out = self.path("out");
        let _ = std::fs::remove_dir_all(&out);
        let dest = format!("type=local,dest={}", out.display());
        let mut args = vec!["-o", &dest];
        args.extend(more);
        self.build(context, &args);
        std::fs::read_to_string(out.join(file)).unwrap()
    }
}

/// A process that ends with the test.
pub(crate) struct Server(pub(crate) Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `done`, half a minute at most: the machine may be busy.
pub(crate) fn eventually(done: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    done()
}
