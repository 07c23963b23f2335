//! Credential helpers: `docker-credential-NAME get`, `store` and `erase`.
//!
//! Names and secrets go in by standard input, never as arguments. The program is looked up in
//! the given directories only, its answer is limited, and it is stopped with
//! its whole process group when its time is up.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::credentials::{Credential, CredentialError};
use super::error::clean;

/// The longest answer of a helper that is read, in bytes.
const MAX_ANSWER: u64 = 256 << 10;
/// User names that say that the secret is a refresh token.
const TOKEN_USER: &str = "<token>";

/// What helpers are asked by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Helpers<'a> {
    /// Directories that they are looked for in, in the form of `PATH`.
    pub(super) search_path: Option<&'a OsStr>,
    /// How long one may take.
    pub(super) limit: Duration,
}

impl Helpers<'_> {
    /// Asks the helper `name` for the credentials of `server`.
    pub(super) fn get(
        self,
        name: &str,
        server: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let (output, success) = self.run(name, "get", server)?;
        if !success {
            if is_unknown(&output) {
                return Ok(None);
            }
            return Err(failed(name, clean(&String::from_utf8_lossy(&output))));
        }
        read_answer(&output).map_err(|reason| failed(name, reason.into()))
    }

    /// Gives the helper `name` something to keep.
    pub(super) fn store(
        self,
        name: &str,
        server: &str,
        username: &str,
        secret: &str,
    ) -> Result<(), CredentialError> {
        let input = serde_json::json!({
            "ServerURL": server, "Username": username, "Secret": secret,
        });
        match self.run(name, "store", &input.to_string())? {
            (_, true) => Ok(()),
            // Its words could be an echo of the secret.
            (_, false) => Err(failed(name, "it does not keep the credentials".into())),
        }
    }

    /// Makes the helper `name` forget `server`; whether it knew it.
    pub(super) fn erase(self, name: &str, server: &str) -> Result<bool, CredentialError> {
        match self.run(name, "erase", server)? {
            (_, true) => Ok(true),
            (output, false) if is_unknown(&output) => Ok(false),
            (output, false) => Err(failed(name, clean(&String::from_utf8_lossy(&output)))),
        }
    }

    /// Runs `docker-credential-NAME action`: its output and whether it was
    /// content.
    fn run(
        self,
        name: &str,
        action: &str,
        input: &str,
    ) -> Result<(Vec<u8>, bool), CredentialError> {
        let fail = |reason: String| failed(name, reason);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(fail(
                "its name may only have letters, digits, '-', '_' and '.'".into(),
            ));
        }
        let program = find(&format!("docker-credential-{name}"), self.search_path)
            .ok_or_else(|| fail("there is no such program on the search path".into()))?;
        let mut child = Command::new(&program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|e| fail(format!("it can't be started: {e}")))?;
        let result = converse(&mut child, input, self.limit);
        if result.is_err() {
            stop(&mut child);
        }
        result.map_err(fail)
    }
}

fn failed(name: &str, reason: String) -> CredentialError {
    CredentialError::Helper {
        name: clean(name),
        reason,
    }
}

/// Whether a helper says that it knows no such server.
fn is_unknown(output: &[u8]) -> bool {
    let text = String::from_utf8_lossy(output).to_ascii_lowercase();
    text.contains("credentials not found") || text.contains("no credentials")
}

fn read_answer(output: &[u8]) -> Result<Option<Credential>, &'static str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    let answer: Answer =
        serde_json::from_slice(output).map_err(|_| "its answer is not the JSON it should be")?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if answer.username == TOKEN_USER {
        Credential::IdentityToken(answer.secret)
    } else {
        Credential::Basic {
            username: answer.username,
            password: answer.secret,
        }
    }))
}

/// Hands `input` over and collects the answer and whether the helper was
/// content.
fn converse(child: &mut Child, input: &str, limit: Duration) -> Result<(Vec<u8>, bool), String> {
    let end = Instant::now() + limit;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("its pipes are missing".into());
    };
    // A helper that does not read is none of our problem: it may answer anyway.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let result = stdout.take(MAX_ANSWER + 1).read_to_end(&mut output);
        // The receiver is gone when the time is up.
        let _ = sender.send(result.map(|_| output));
    });
    let late = || format!("it gave no answer within {} seconds", limit.as_secs_f32());
    let output = receiver
        .recv_timeout(limit)
        .map_err(|_| late())?
        .map_err(|e| format!("its answer can't be read: {e}"))?;
    if output.len() as u64 > MAX_ANSWER {
        return Err("its answer is too long".into());
    }
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok((output, status.success())),
            Ok(None) if Instant::now() >= end => return Err(late()),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(e) => return Err(format!("its end can't be awaited: {e}")),
        }
    }
}

fn stop(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        // The group may be gone already.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

fn find(program: &str, search_path: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(search_path?)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(dir: &Path, name: &str, script: &str) {
        let path = dir.join(format!("docker-credential-{name}"));
        // Written by a child, so that no other test's fork holds the file
        // open for writing while it is executed.
        let status = Command::new("sh")
            .arg("-c")
            .arg("printf '%s' \"$2\" > \"$1\" && chmod 755 \"$1\"")
            .arg("sh")
            .arg(&path)
            .arg(format!("#!/bin/sh\n{script}\n"))
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    fn helpers_are_asked_and_kept_in_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        helper(
            d,
            "good",
            r#"read s; echo "{\"ServerURL\":\"x\",\"Username\":\"$s\",\"Secret\":\"p\"}""#,
        );
        helper(d, "token", r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        helper(
            d,
            "none",
            "echo 'credentials not found in native keychain'; exit 1",
        );
        helper(d, "broken", "echo 'no keyring'; exit 1");
        helper(d, "hangs", "sleep 60");
        helper(d, "floods", "cat /dev/zero");
        helper(d, "html", "echo '<html>'");
        let helpers = Helpers {
            search_path: Some(d.as_os_str()),
            limit: Duration::from_millis(1500),
        };
        let ask = |name: &str| helpers.get(name, "r.io");
        assert_eq!(
            ask("good").unwrap(),
            Some(Credential::Basic {
                username: "r.io".into(),
                password: "p".into()
            })
        );
        assert_eq!(
            ask("token").unwrap(),
            Some(Credential::IdentityToken("t".into()))
        );
        assert_eq!(ask("none").unwrap(), None);
        let began = Instant::now();
        for (name, message) in [
            ("broken", "no keyring"),
            ("hangs", "within"),
            ("floods", "too long"),
            ("html", "JSON"),
            ("missing", "search path"),
            ("../../evil", "letters"),
            ("a;b", "letters"),
            ("a b", "letters"),
            ("", "letters"),
        ] {
            let error = ask(name).unwrap_err().to_string();
            assert!(error.contains(message), "{name}: {error}");
        }
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
