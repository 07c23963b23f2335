#![allow(clippy::print_stderr)]
use super::*;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

fn parsed(text: &str) -> Result<Option<GitUrl>, GitError> {
    GitUrl::parse(text)
}

#[test]
fn urls() {
    for (text, remote, reference, subdir) in [
        ("https://h/x.git", "https://h/x.git", None, None),
        (
            "https://u:p@h/x.git#main",
            "https://h/x.git",
            Some("main"),
            None,
        ),
        (
            "https://h/x.git#:dir/a",
            "https://h/x.git",
            None,
            Some("dir/a"),
        ),
        (
            "https://h/x.git#v1:dir",
            "https://h/x.git",
            Some("v1"),
            Some("dir"),
        ),
        (
            "https://h/x.git?branch=b&subdir=d",
            "https://h/x.git",
            Some("refs/heads/b"),
            Some("d"),
        ),
        (
            "https://h/x.git?tag=v1#:d",
            "https://h/x.git",
            Some("refs/tags/v1"),
            Some("d"),
        ),
        ("git://h/x", "git://h/x", None, None),
        ("ssh://git@h:22/x", "ssh://git@h:22/x", None, None),
        ("ssh://git:pw@h/x", "ssh://git@h/x", None, None),
        (
            "git@github.com:a/b.git#main",
            "git@github.com:a/b.git",
            Some("main"),
            None,
        ),
        ("github.com/a/b", "https://github.com/a/b", None, None),
    ] {
        let url = parsed(text).unwrap().unwrap();
        assert_eq!(
            (url.remote(), url.reference(), url.subdir()),
            (remote, reference, subdir),
            "{text}"
        );
        assert!(!format!("{url:?} {url}").contains("p@"), "{text}");
    }
    for text in [
        "https://h/x",
        "https://h/x.tar",
        ".",
        "a/b",
        "dir@x/y:z",
        "-",
        "file:///x.git",
        "ext::sh -c x",
        "--upload-pack=x",
    ] {
        assert_eq!(parsed(text).unwrap(), None, "{text}");
    }
    let url = parsed("https://h/x.git?keep-git-dir=1&submodules=false&checksum=abcdef1")
        .unwrap()
        .unwrap();
    assert_eq!(url.keep_git_dir(), Some(true));
    assert_eq!((url.submodules(), url.checksum()), (false, Some("abcdef1")));
}

#[test]
fn refused_urls() {
    for text in [
        "https://h/x.git#--output=x",
        "https://h/x.git#-c",
        "https://h/x.git#+x",
        "https://h/x.git#a..b",
        "https://h/x.git#a b",
        "https://h/x.git#a\nb",
        "https://h/x.git#main:../../..",
        "https://h/x.git#main:a/../../b",
        "https://h/x.git?ref=a#b",
        "https://h/x.git?ref=a&tag=b",
        "https://h/x.git?ref=",
        "https://h/x.git?what=a",
        "https://h/x.git?submodules=maybe",
        "https://h/x.git?checksum=xyz",
        "https://h/x.git?ref=%0a--x",
        "git@h:-x",
        "git@-oProxyCommand=x:y",
        "ssh://-oProxyCommand=touch/x",
        "ssh://git@-oProxyCommand=touch/x",
        "git://h",
        "git:///x",
        "ssh://ext::sh/x",
        "git://h/x\r\n",
    ] {
        let refused = !matches!(parsed(text), Ok(Some(_)));
        assert!(refused, "{text:?} was accepted");
    }
}

fn git_program() -> Option<PathBuf> {
    ["/usr/bin/git", "/usr/local/bin/git"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
}

fn options(program: PathBuf) -> GitOptions {
    GitOptions {
        program,
        path: "/usr/local/bin:/usr/bin:/bin".into(),
        ..GitOptions::absent()
    }
}

/// A repository behind git's own daemon; the process ends with it.
struct Served {
    dir: tempfile::TempDir,
    daemon: Child,
    url: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        // The daemon has a child that serves.
        if let Some(pid) = rustix::process::Pid::from_raw(self.daemon.id() as i32) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = self.daemon.wait();
    }
}

fn git(dir: &Path, args: &[&str]) -> String {
    let program = git_program().unwrap();
    let out = Command::new(program)
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn serve() -> Option<Served> {
    use std::os::unix::process::CommandExt;
    let Some(program) = git_program() else {
        eprintln!("skipped: no git program");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("r");
    std::fs::create_dir_all(repo.join("sub/deep")).unwrap();
    std::fs::write(repo.join("a"), "one").unwrap();
    std::fs::write(repo.join("sub/deep/b"), "two").unwrap();
    std::fs::write(repo.join("run.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(repo.join("run.sh"), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink("/", repo.join("out")).unwrap();
    std::fs::write(repo.join(".gitattributes"), "* filter=evil\n").unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "one"]);
    git(&repo, &["tag", "-am", "v1", "v1"]);
    std::fs::write(repo.join("a"), "later").unwrap();
    git(&repo, &["commit", "-qam", "two"]);
    git(&repo, &["branch", "side", "v1"]);
    std::fs::write(repo.join(".git/git-daemon-export-ok"), "").unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let daemon = Command::new(program)
        .args([
            "daemon",
            "--listen=127.0.0.1",
            "--reuseaddr",
            "--export-all",
        ])
        .arg(format!("--port={port}"))
        .arg(format!("--base-path={}", dir.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut served = Served {
        dir,
        daemon,
        url: format!("git://127.0.0.1:{port}/r"),
    };
    for _ in 0..200 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(served);
        }
        if matches!(served.daemon.try_wait(), Ok(Some(_))) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    eprintln!("skipped: git has no daemon here");
    None
}

#[test]
fn checkouts() {
    let Some(served) = serve() else { return };
    let repo = served.dir.path().join("r");
    let first = git(&repo, &["rev-parse", "v1^{commit}"]);
    let last = git(&repo, &["rev-parse", "main"]);
    let options = options(git_program().unwrap());
    let get = |suffix: &str, options: &GitOptions| {
        let work = tempfile::tempdir().unwrap();
        let url = GitUrl::parse(&format!("{}{suffix}", served.url))
            .unwrap()
            .unwrap();
        checkout(&url, options, work.path(), &Cancel::new()).map(|c| (work, c))
    };
    for (suffix, commit, text) in [
        ("", &last, "later"),
        ("#main", &last, "later"),
        ("#side", &first, "one"),
        ("#v1", &first, "one"),
        ("?tag=v1", &first, "one"),
        ("?branch=main", &last, "later"),
        (&format!("#{first}"), &first, "one"),
        (&format!("#{}", &first[..10]), &first, "one"),
        ("#refs/heads/main", &last, "later"),
    ] {
        let (_work, out) = get(suffix, &options).unwrap_or_else(|e| panic!("{suffix}: {e}"));
        assert_eq!(&out.commit, commit, "{suffix}");
        assert_eq!(
            std::fs::read_to_string(out.tree.join("a")).unwrap(),
            text,
            "{suffix}"
        );
        assert!(!out.tree.join(".git").exists());
        let mode = |n: &str| out.tree.join(n).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("a"), mode("run.sh"), mode("sub")),
            (0o644, 0o755, 0o755)
        );
    }
    let (_work, out) = get("#main:sub/deep", &options).unwrap();
    assert!(out.tree.join("b").is_file());
    let (_work, out) = get("?keep-git-dir=true", &options).unwrap();
    assert!(out.tree.join(".git/HEAD").is_file() && !out.tree.join(".git/FETCH_HEAD").exists());
    for suffix in [
        "#main:out",
        "#main:out/etc",
        "#main:none",
        "#main:a",
        "?subdir=.git",
    ] {
        let error = get(suffix, &options).unwrap_err();
        assert!(
            matches!(error, GitError::Subdir { .. }),
            "{suffix}: {error}"
        );
    }
    for suffix in ["#nope", "#0123456", "?tag=main"] {
        let error = get(suffix, &options).unwrap_err();
        assert!(matches!(error, GitError::NoRef { .. }), "{suffix}: {error}");
    }
    let mut pinned = options.clone();
    pinned.checksum = Some(first[..12].to_owned());
    assert!(get("#v1", &pinned).is_ok());
    assert!(matches!(
        get("#main", &pinned),
        Err(GitError::Checksum { .. })
    ));
    let url = GitUrl::parse(&served.url).unwrap().unwrap();
    let work = tempfile::tempdir().unwrap();
    let now = resolve(&url, &options, work.path(), &Cancel::new()).unwrap();
    assert_eq!(now, Some(last));
}

/// A program in place of git tells what it was given.
#[test]
fn environment_and_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("git");
    let log = dir.path().join("log");
    let script = format!(
        "#!/bin/sh\n{{ echo \"ARGS $*\"; env; }} >> {}\nexit 1\n",
        log.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let url = GitUrl::parse("https://me:hush@h/x.git#main")
        .unwrap()
        .unwrap();
    let error = resolve(&url, &options(program), dir.path(), &Cancel::new()).unwrap_err();
    assert!(!error.to_string().contains("hush"));
    let seen = std::fs::read_to_string(&log).unwrap();
    assert!(
        seen.contains("ARGS ls-remote -- https://h/x.git main\n"),
        "{seen}"
    );
    assert!(!seen.contains("hush"));
    assert!(seen.contains("Authorization: Basic bWU6aHVzaA=="));
    for line in [
        "GIT_CONFIG_NOSYSTEM=1",
        "GIT_TERMINAL_PROMPT=0",
        "GIT_ALLOW_PROTOCOL=https:http:ssh:git",
    ] {
        assert!(seen.contains(line), "{line}");
    }
    assert!(!seen.contains("CARGO"), "the environment is our own");
}

#[test]
fn cancelled_git_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("git");
    std::fs::write(&program, "#!/bin/sh\nsleep 60\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let url = GitUrl::parse("https://h/x.git").unwrap().unwrap();
    let cancel = Cancel::new();
    let began = std::time::Instant::now();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            cancel.cancel();
        });
        resolve(&url, &options(program), dir.path(), &cancel).unwrap_err()
    });
    assert!(matches!(error, GitError::Cancelled), "{error}");
    assert!(began.elapsed().as_secs() < 10);
    let missing = options("/nonexistent/git".into());
    let error = resolve(&url, &missing, dir.path(), &Cancel::new()).unwrap_err();
    assert!(matches!(error, GitError::Program { .. }));
}
