//! Running the git program so that nothing but the request decides what it does.

use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::{GitError, GitOptions, GitUrl};
use crate::event::Cancel;

/// Protocols that a repository or its submodules may be fetched by.
const PROTOCOLS: &str = "https:http:ssh:git";

/// What is read of git's output at most, in bytes.
const MAX_OUTPUT: u64 = 16 << 20;

/// Configuration for every run, stronger than what the repository says.
const CONFIG: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.askPass", ""),
    ("credential.helper", ""),
    ("protocol.file.allow", "never"),
    ("protocol.ext.allow", "never"),
    ("transfer.bundleURI", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.fetchJobs", "1"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("safe.directory", "*"),
];

/// git in one repository.
pub(super) struct Git<'a> {
    url: &'a GitUrl,
    options: &'a GitOptions,
    cancel: &'a Cancel,
    home: PathBuf,
    tree: PathBuf,
    authorization: Option<String>,
    /// CA certificates, where git's own are not all.
    roots: Option<PathBuf>,
}

impl<'a> Git<'a> {
    pub(super) fn new(
        url: &'a GitUrl,
        options: &'a GitOptions,
        work: &Path,
        cancel: &'a Cancel,
    ) -> Result<Self, GitError> {
        let home = work.join("home");
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(&home).map_err(|source| GitError::Io {
            path: home.clone(),
            source,
        })?;
        let roots = match options.roots.bundle()? {
            Some(bundle) => {
                let path = work.join("roots.pem");
                std::fs::write(&path, bundle).map_err(|source| GitError::Io {
                    path: path.clone(),
                    source,
                })?;
                Some(path)
            }
            None => None,
        };
        let authorization = options.authorization.clone().or_else(|| {
            use base64::Engine as _;
            let (user, password) = url.credentials()?;
            let plain = format!("{user}:{password}");
            let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
            Some(format!("Basic {encoded}"))
        });
        Ok(Self {
            url,
            options,
            cancel,
            home,
            tree: work.join("tree"),
            authorization,
            roots,
        })
    }

    /// Runs git for what it does.
    pub(super) fn run(&self, what: &'static str, args: &[&str]) -> Result<(), GitError> {
        self.output(what, args).map(drop)
    }

    /// Runs git for what it says.
    pub(super) fn output(&self, what: &'static str, args: &[&str]) -> Result<String, GitError> {
        let mut child = self
            .command(args)
            .spawn()
            .map_err(|source| GitError::Program {
                program: self.options.program.clone(),
                source,
            })?;
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let mut pause = Duration::from_millis(2);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if self.cancel.is_cancelled() => {
                    // Its helpers are in its group.
                    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                        let _ = kill_process_group(pid, Signal::KILL);
                    }
                    let _ = child.wait();
                    return Err(GitError::Cancelled);
                }
                Ok(None) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                Err(source) => {
                    return Err(GitError::Program {
                        program: self.options.program.clone(),
                        source,
                    });
                }
            }
        };
        let text = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
        let (stdout, stderr) = (text(stdout), text(stderr));
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&stderr);
        let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
        let end = lines
            .get(lines.len().saturating_sub(5)..)
            .unwrap_or_default();
        let mut message: String = end.join("; ").chars().filter(|c| !c.is_control()).collect();
        if message.is_empty() {
            message = status.to_string();
        }
        Err(GitError::Failed {
            what,
            url: self.url.remote().to_owned(),
            message,
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.options.program);
        command.env_clear();
        command.envs(self.options.env.iter().map(|(k, v)| (k, v)));
        command
            .env("PATH", &self.options.path)
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", &self.home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "true")
            .env("SSH_ASKPASS", "true")
            .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_TEMPLATE_DIR", "")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env(
                "GIT_SSH_COMMAND",
                "ssh -o BatchMode=yes -o ConnectTimeout=30",
            )
            .env(
                "GIT_CEILING_DIRECTORIES",
                self.tree.parent().unwrap_or(&self.tree),
            );
        if let Some(roots) = &self.roots {
            command.env("GIT_SSL_CAINFO", roots);
        }
        // Through the environment: arguments are for all to see.
        let header = self.authorization.as_ref().map(|value| {
            let origin = origin(self.url.remote());
            (
                format!("http.{origin}.extraHeader"),
                format!("Authorization: {value}"),
            )
        });
        let fixed = CONFIG
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut count = 0;
        for (key, value) in fixed.chain(header) {
            command.env(format!("GIT_CONFIG_KEY_{count}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        let dir = if self.tree.is_dir() {
            &self.tree
        } else {
            &self.home
        };
        command
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }
}

/// Scheme and host of a URL, with a slash.
fn origin(remote: &str) -> String {
    match remote.split_once("://") {
        Some((scheme, rest)) => {
            format!("{scheme}://{}/", rest.split('/').next().unwrap_or_default())
        }
        None => remote.to_owned(),
    }
}

/// Reads a pipe to its end, keeping what is not too much.
fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut out = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut out);
            let _ = io::copy(&mut pipe, &mut io::sink());
        }
        out
    })
}
