//! Files and repositories from the web: contexts, Dockerfiles, ADD, and the
//! time they give.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::sandbox::{Sandbox, has, skip};

/// A file that a [`Web`] serves.
#[derive(Clone, Default)]
struct Served {
    body: Vec<u8>,
    etag: Option<&'static str>,
    last_modified: Option<&'static str>,
    /// What the `Authorization` header must be.
    authorization: Option<&'static str>,
    redirect: Option<String>,
}

/// A server on the loopback device that notes what it is asked.
struct Web {
    address: SocketAddr,
    files: Arc<Mutex<BTreeMap<String, Served>>>,
    /// Status and path of each request.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Self {
            address: listener.local_addr().unwrap(),
            files: Arc::default(),
            seen: Arc::default(),
        };
        let (files, seen) = (Arc::clone(&web.files), Arc::clone(&web.seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, seen) = (Arc::clone(&files), Arc::clone(&seen));
                std::thread::spawn(move || answer(&stream, &files, &seen));
            }
        });
        web
    }

    fn put(&self, path: &str, file: Served) {
        self.files.lock().unwrap().insert(path.to_owned(), file);
    }

    fn text(&self, path: &str, body: impl Into<Vec<u8>>) {
        let body = body.into();
        self.put(
            path,
            Served {
                body,
                ..Served::default()
            },
        );
    }

    /// All files of a directory, below `prefix`.
    fn directory(&self, prefix: &str, dir: &std::path::Path) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}/{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                self.directory(&name, &path);
            } else {
                self.text(&name, std::fs::read(&path).unwrap());
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked since the last time.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn answer(stream: &TcpStream, files: &Mutex<BTreeMap<String, Served>>, seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let file = files.lock().unwrap().get(&path).cloned();
    let header = |name: &str| headers.get(name).map(String::as_str);
    let (status, file) = match file {
        None => ("404 Not Found", Served::default()),
        Some(f) if f.redirect.is_some() => ("302 Found", f),
        Some(f) if f.authorization.is_some() && f.authorization != header("authorization") => {
            ("401 Unauthorized", Served::default())
        }
        Some(f) if f.etag.is_some() && f.etag == header("if-none-match") => {
            let empty = Vec::new();
            ("304 Not Modified", Served { body: empty, ..f })
        }
        Some(f)
            if f.etag.is_none()
                && f.last_modified.is_some()
                && f.last_modified == header("if-modified-since") =>
        {
            let empty = Vec::new();
            ("304 Not Modified", Served { body: empty, ..f })
        }
        Some(f) => ("200 OK", f),
    };
    let shown = match header("authorization") {
        Some(_) => " with authorization",
        None => "",
    };
    seen.lock()
        .unwrap()
        .push(format!("{} {path}{shown}", &status[..3]));
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in [
        ("ETag", file.etag),
        ("Last-Modified", file.last_modified),
        ("Location", file.redirect.as_deref()),
    ] {
        if let Some(value) = value {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    let mut stream = stream;
    let length = file.body.len();
    let _ = stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes());
    let _ = stream.write_all(&file.body);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read(&mut [0; 1]);
}

/// A tar with regular files: name, content, time.
fn tar(files: &[(&str, &str, u64)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text, mtime) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(*mtime);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The config of the image in an exported layout.
fn config(s: &Sandbox, name: &str) -> serde_json::Value {
    serde_json::from_str(&s.ok(&["inspect", "--config", name])).unwrap()
}

#[test]
fn a_remote_file_is_asked_for_again_and_not_fetched_again() {
    let Some(s) = Sandbox::with_base("a_remote_file_is_asked_for_again_and_not_fetched_again")
    else {
        return;
    };
    let web = Web::new();
    let file = |body: &str, etag, last_modified| Served {
        body: body.into(),
        etag,
        last_modified,
        ..Served::default()
    };
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    web.put("/e", file("one", Some("\"1\""), None));
    web.put("/m", file("date", None, Some(date)));
    let text = format!(
        "FROM base\nADD {} {} /d/\nRUN cat /d/e; stat -c %Y-%a /d/m\n",
        web.url("/e"),
        web.url("/m")
    );
    let ctx = s.context("ctx", &[("Dockerfile", &text)]);
    let first = s.build(&ctx, &[]);
    assert!(
        first.stderr.contains("one") && first.stderr.contains("784111777-600"),
        "{}",
        first.stderr
    );
    assert_eq!(web.seen(), ["200 /e", "200 /m"]);
    let second = s.build(&ctx, &[]);
    assert_eq!(web.seen(), ["304 /e", "304 /m"]);
    assert_eq!(first.stdout.lines().count(), 1);
    assert!(!second.stderr.contains("784111777"), "{}", second.stderr);
    // Another content under the same URL is another file.
    web.put("/e", file("two", Some("\"2\""), None));
    let third = s.build(&ctx, &[]);
    assert_eq!(web.seen(), ["200 /e", "304 /m"]);
    assert!(third.stderr.contains("two"), "{}", third.stderr);
}

#[test]
fn servers_see_the_secrets_that_are_theirs() {
    let Some(s) = Sandbox::with_base("servers_see_the_secrets_that_are_theirs") else {
        return;
    };
    let (web, other) = (Web::new(), Web::new());
    web.put(
        "/private",
        Served {
            body: "hidden".into(),
            etag: Some("\"1\""),
            authorization: Some("Bearer s3cret"),
            ..Served::default()
        },
    );
    web.put(
        "/away",
        Served {
            redirect: Some(other.url("/elsewhere")),
            ..Served::default()
        },
    );
    other.text("/elsewhere", "elsewhere");
    let url = web.url("/private");
    let text = format!("FROM scratch\nADD {url} /f\nADD {} /g\n", web.url("/away"));
    let ctx = s.context("ctx", &[("Dockerfile", &text)]);
    s.context("", &[("token", "s3cret\n")]);
    let secret = format!("id=HTTP_AUTH_TOKEN_{},src=token", web.address);
    s.build(&ctx, &["--secret", &secret, "-t", "app"]);
    let mut seen = web.seen();
    seen.sort();
    assert_eq!(
        seen,
        [
            "200 /private with authorization",
            "302 /away with authorization"
        ]
    );
    // Another server is not shown it.
    assert_eq!(other.seen(), ["200 /elsewhere"]);
    assert!(!config(&s, "app").to_string().contains("s3cret"));
    // Who has no secret gets nothing, not even from what was fetched before.
    let ran = s.run(&["build", &ctx]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("401"), "{}", ran.stderr);
}

#[test]
fn what_add_does_with_what_it_fetches() {
    let Some(s) = Sandbox::with_base("what_add_does_with_what_it_fetches") else {
        return;
    };
    let web = Web::new();
    web.text("/x.tar", tar(&[("in/f", "text", 1_600_000_000)]));
    web.text("/dir/..%2f..%2fescape", "e");
    web.text("/q", "query");
    let sum = "sha256:5cd19aab8dd0dbab4c1d9d7dcd9d5d3aab64b1a5be6af9d3f0f4b6a4ee3ef8bb";
    let url = |path| web.url(path);
    let text = format!(
        "FROM base\nADD {x} /kept/\nADD --unpack {x} /open/\nADD {e} /esc/\nADD {q}?a=b /q/\n\
         RUN cd /; find kept open esc q -type f\n",
        x = url("/x.tar"),
        e = url("/dir/..%2f..%2fescape"),
        q = url("/q"),
    );
    let ctx = s.context("ctx", &[("Dockerfile", &text)]);
    let shown = s.build(&ctx, &[]).stderr;
    for path in ["kept/x.tar", "open/in/f", "esc/escape", "q/q"] {
        assert!(shown.contains(path), "{path}\n{shown}");
    }
    for (line, part) in [
        (format!("ADD --checksum={sum} {} /", url("/q")), "sha256:"),
        (
            format!("ADD --checksum=md5:00 {} /", url("/q")),
            "--checksum",
        ),
        (format!("ADD {} /", url("/none")), "404"),
        ("ADD http:// /x".to_owned(), "URL"),
        (format!("COPY {} /", url("/q")), "use ADD"),
    ] {
        let ctx = s.context("ctx", &[("Dockerfile", &format!("FROM scratch\n{line}\n"))]);
        let ran = s.run(&["build", &ctx]);
        assert_eq!(ran.code, Some(1), "{line}\n{}", ran.stderr);
        assert!(
            ran.stderr.contains(part) && ran.stderr.contains("Dockerfile:2"),
            "{line}\n{}",
            ran.stderr
        );
    }
}

#[test]
fn contexts_and_dockerfiles_from_the_web() {
    let Some(s) = Sandbox::with_base("contexts_and_dockerfiles_from_the_web") else {
        return;
    };
    let web = Web::new();
    web.text(
        "/ctx.tar",
        tar(&[
            ("Dockerfile", "FROM scratch\nCOPY a .dockerignore* /\n", 1),
            ("sub/Dockerfile", "FROM scratch\nCOPY a /from-sub\n", 1),
            ("sub/Dockerfile.dockerignore", "b\n", 1),
            ("a", "a", 1_700_000_302),
            ("b", "b", 1_700_000_000),
        ]),
    );
    web.text("/Dockerfile", "FROM scratch\nCOPY b /from-url\n");
    web.text("/plain", "just a file");
    let tree = web.url("/ctx.tar");
    assert_eq!(s.file_of(&tree, &[], "a"), "a");
    assert_eq!(s.file_of(&tree, &["-f", "sub/Dockerfile"], "from-sub"), "a");
    assert_eq!(
        s.file_of(&tree, &["-f", &web.url("/Dockerfile")], "from-url"),
        "b"
    );
    // A file of this machine is not taken for one of the context.
    s.context("", &[("Dockerfile.here", "FROM scratch\n")]);
    let ran = s.run(&["build", "-f", "Dockerfile.here", &tree]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("no Dockerfile Dockerfile.here"),
        "{}",
        ran.stderr
    );
    // Named contexts, also in place of an image and of a stage.
    let text = "FROM alpine:3 AS build\nRUN false\nFROM img AS x\nFROM scratch\n\
                COPY --from=build /a /build\nCOPY --from=x /bin/busybox /bb\nCOPY --from=p /plain /plain\n";
    let ctx = s.context("ctx", &[("Dockerfile", text)]);
    let named = format!("build={tree}");
    let plain = format!("p={}", web.url("/plain"));
    let more = [
        "--build-context",
        &named,
        "--build-context",
        "img=docker-image://base",
        "--build-context",
        &plain,
    ];
    assert_eq!(s.file_of(&ctx, &more, "build"), "a");
    assert_eq!(s.file_of(&ctx, &more, "plain"), "just a file");
}

#[test]
fn the_time_of_what_is_named() {
    let Some(s) = Sandbox::with_base("the_time_of_what_is_named") else {
        return;
    };
    let web = Web::new();
    let files = tar(&[
        (
            "Dockerfile",
            "FROM base\nARG SOURCE_DATE_EPOCH\nRUN echo time-$SOURCE_DATE_EPOCH\n",
            9,
        ),
        ("foo", "bar", 1_700_000_302),
    ]);
    web.text("/ctx.tar", files.clone());
    web.put(
        "/dated.tar",
        Served {
            body: files,
            last_modified: Some("Sun, 06 Nov 1994 08:49:37 GMT"),
            ..Served::default()
        },
    );
    let created = |more: &[&str], context: &str| {
        let mut args = vec!["-t", "timed"];
        args.extend(more);
        s.build(context, &args);
        let text = config(&s, "timed")["created"].as_str().unwrap().to_owned();
        text[..19].to_owned()
    };
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
    assert_eq!(created(&epoch, &web.url("/ctx.tar")), "2023-11-14T22:18:22");
    assert_eq!(
        created(&epoch, &web.url("/dated.tar")),
        "1994-11-06T08:49:37"
    );
    let stage = format!(
        "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD {} /\nFROM base\n\
         ARG SOURCE_DATE_EPOCH\nRUN echo time-$SOURCE_DATE_EPOCH\n",
        web.url("/ctx.tar")
    );
    let ctx = s.context("ctx", &[("Dockerfile", &stage)]);
    assert_eq!(created(&[], &ctx), "2023-11-14T22:18:22");
    let named = format!("src={}", web.url("/dated.tar"));
    assert_eq!(
        created(&["--build-context", &named], &ctx),
        "1994-11-06T08:49:37"
    );
    assert_eq!(
        created(&["--build-arg", "SOURCE_DATE_EPOCH=7"], &ctx),
        "1970-01-01T00:00:07"
    );
    // A directory has no time of its own.
    assert!(created(&epoch, &ctx).as_str() > "2024");
    for (text, part) in [
        (
            "ARG SOURCE_DATE_EPOCH=yesterday\nFROM scratch\n",
            "invalid SOURCE_DATE_EPOCH: yesterday",
        ),
        (
            "ARG SOURCE_DATE_EPOCH=s\nFROM scratch AS s\nCOPY a /\nFROM scratch\n",
            "unsupported COPY",
        ),
        (
            "ARG SOURCE_DATE_EPOCH=s\nFROM base AS s\nFROM scratch\n",
            "must use FROM scratch",
        ),
    ] {
        let ctx = s.context("ctx", &[("Dockerfile", text)]);
        let ran = s.run(&["build", &ctx]);
        assert!(
            ran.code == Some(1) && ran.stderr.contains(part),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn repositories_as_contexts_and_sources() {
    let name = "repositories_as_contexts_and_sources";
    let Some(s) = Sandbox::with_base(name) else {
        return;
    };
    if !has("git") {
        skip(name, "there is no git");
        return;
    }
    let repo = s.context(
        "repo",
        &[
            ("Dockerfile", "FROM scratch\nCOPY . /\n"),
            ("sub/Dockerfile", "FROM scratch\nCOPY in /in\n"),
            ("sub/in", "in"),
        ],
    );
    std::os::unix::fs::symlink("/etc", s.path("repo/evil")).unwrap();
    let script = "git init -q -b main . && git add -A && \
                  git -c user.name=n -c user.email=e@e commit -q -m m && git tag v1 && git update-server-info";
    let made = Command::new("sh")
        .args(["-c", script])
        .current_dir(&repo)
        .env("GIT_COMMITTER_DATE", "1700000101 +0000")
        .env("GIT_AUTHOR_DATE", "1700000101 +0000")
        .status()
        .unwrap();
    assert!(made.success());
    let id = Command::new("git")
        .args(["-C", &repo, "rev-parse", "HEAD"])
        .output()
        .unwrap()
        .stdout;
    let id = String::from_utf8(id).unwrap().trim().to_owned();
    let web = Web::new();
    web.directory("/x.git", &s.path("repo/.git"));
    let url = web.url("/x.git");
    for tail in [
        "#v1:sub",
        "#main:sub",
        "?tag=v1&subdir=sub",
        "?ref=main&subdir=sub",
    ] {
        assert_eq!(
            s.file_of(&format!("{url}{tail}"), &[], "in"),
            "in",
            "{tail}"
        );
    }
    assert_eq!(s.file_of(&format!("{url}#{id}"), &[], "sub/in"), "in");
    let text = format!(
        "FROM base\nADD {url}#v1:sub /a/\nADD --keep-git-dir=true {url}?checksum={short} /b/\n\
         ADD {url} /c/\nRUN test -f /a/in -a -d /b/.git -a ! -e /c/.git -a -L /c/evil\n",
        short = &id[..12],
    );
    let ctx = s.context("ctx", &[("Dockerfile", &text)]);
    s.build(&ctx, &["--build-arg", "SOURCE_DATE_EPOCH=1"]);
    s.build(
        &url,
        &["-t", "timed", "--build-arg", "SOURCE_DATE_EPOCH=context"],
    );
    let created = config(&s, "timed")["created"].clone();
    assert_eq!(created, "2023-11-14T22:15:01Z");
    // What is no ref, no directory, or an option, is refused.
    let ran = s.path("ran");
    for (tail, part) in [
        ("#nope", "no branch, tag or commit \"nope\""),
        ("#main:evil", "no directory \"evil\""),
        ("#main:../..", "\"http"),
        (&format!("#--upload-pack=touch {}", ran.display()), "blanks"),
        ("#--upload-pack=x", "malformed"),
        ("#:-c", ""),
        ("?checksum=1234567", "the checksum says 1234567"),
        ("?nope=1", "unknown query key \"nope\""),
    ] {
        let source = format!("{url}{tail}");
        for (args, place) in [
            (vec!["build", &source], ""),
            (vec!["build", "-f", "-", "."], "standard input:2"),
        ] {
            if tail.contains(' ') && !place.is_empty() {
                continue;
            }
            let mut command = s.command(&s.store());
            let mut child = command
                .args(args)
                .stdin(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let text = format!("FROM scratch\nADD {source} /x\n");
            let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
            let out = child.wait_with_output().unwrap();
            let shown = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(1), "{tail}\n{shown}");
            assert!(
                shown.contains(part) && shown.contains(place),
                "{tail}\n{shown}"
            );
        }
    }
    assert!(!ran.exists());
}
