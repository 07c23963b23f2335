//! Secrets are where they were asked for, while they were asked for, and
//! nowhere else: each channel has a value of its own that is looked for in
//! everything that a build leaves, says, or shows to other processes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::processes::{family, living};
use crate::registries::fake::{Auth, Registry};
use crate::sandbox::{Ran, Sandbox, eventually, has, skip};
use crate::ways::{self, Way};

/// A value that is nowhere else, for the channel `name`.
fn value(name: &str) -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new();
    format!("{name}{:016x}", random.build_hasher().finish())
}

/// How `value` may be written: as it is, and in base64 after any text.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![value.as_bytes().to_vec()];
    for shift in 0..3 {
        let text = format!("{}{value}", &"xxx"[..shift]);
        for engine in [&STANDARD, &URL_SAFE] {
            let coded = engine.encode(&text);
            // What depends on its neighbours at either end is left out.
            forms.push(coded.as_bytes()[4..coded.len() - 4].to_vec());
        }
    }
    let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    forms.push(hex.into_bytes());
    forms
}

fn holds(content: &[u8], forms: &[Vec<u8>]) -> bool {
    forms
        .iter()
        .any(|form| content.windows(form.len()).any(|w| w == form))
}

/// What `path` is when it is decompressed, if it is compressed.
fn inflated(path: &Path) -> Option<Vec<u8>> {
    let raw = std::fs::read(path).ok()?;
    if raw.starts_with(b"\x1f\x8b") {
        let mut plain = Vec::new();
        let read = flate2::read::MultiGzDecoder::new(&raw[..]).read_to_end(&mut plain);
        return read.ok().map(|_| plain);
    }
    zstd::decode_all(&raw[..]).ok()
}

/// Writes what is compressed below `dir` to `plain`, and the paths of all.
fn inflate(dir: &Path, plain: &Path, paths: &mut Vec<u8>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        paths.extend(path.as_os_str().as_encoded_bytes());
        paths.push(b'\n');
        if kind.is_dir() {
            inflate(&path, plain, paths);
        }
        // Devices of a root that is in use have no end.
        if !kind.is_file() {
            continue;
        }
        if let Some(content) = inflated(&path) {
            let name = path.display().to_string().replace('/', "_");
            std::fs::write(plain.join(name), content).unwrap();
        }
    }
}

/// Files below `dir` that hold one of `values` in their paths, their content
/// or what that is when it is decompressed.
fn search(dir: &Path, values: &[(String, Vec<Vec<u8>>)]) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let plain = scratch.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    let mut paths = Vec::new();
    inflate(dir, &plain, &mut paths);
    std::fs::write(plain.join("paths"), paths).unwrap();
    let patterns = scratch.path().join("patterns");
    let mut found = Vec::new();
    for (channel, forms) in values {
        std::fs::write(&patterns, forms.join(&b'\n')).unwrap();
        let mut grep = Command::new("grep");
        grep.args(["-rlaF", "-f"])
            .arg(&patterns)
            .arg(dir)
            .arg(&plain);
        let files = String::from_utf8(grep.output().unwrap().stdout).unwrap();
        found.extend(files.lines().map(|f| format!("{channel} in {f}")));
    }
    found
}

/// Serves `files`, by their paths, to whoever shows `authorization`. What
/// processes show of `hidden` during a request is noted.
fn serve(
    authorization: String,
    files: BTreeMap<String, Vec<u8>>,
    hidden: Vec<(String, Vec<Vec<u8>>)>,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let shown = Arc::clone(&noted);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|l| !l.is_empty()).collect();
            let allowed = head.iter().any(|l| {
                let (name, value) = l.split_once(": ").unwrap_or_default();
                name.eq_ignore_ascii_case("authorization") && value == authorization
            });
            if allowed {
                shown.lock().unwrap().extend(words_of_processes(&hidden));
            }
            let asked = head.first().and_then(|l| l.split([' ', '?']).nth(1));
            let (status, body) = match files.get(asked.unwrap_or_default()) {
                Some(body) if allowed => ("200 OK", &body[..]),
                None if allowed => ("404 Not Found", &b""[..]),
                _ => ("401 Unauthorized", &b""[..]),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    (address, noted)
}

/// A repository with the file `name`, as a web server has it below `/x.git`;
/// empty where there is no git.
fn repository(dir: &Path, name: &str) -> BTreeMap<String, Vec<u8>> {
    fn collect(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
            match entry.path().is_dir() {
                true => collect(&entry.path(), &path, files),
                false => drop(files.insert(path, std::fs::read(entry.path()).unwrap())),
            }
        }
    }
    let mut files = BTreeMap::new();
    if has("git") {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join(name), name).unwrap();
        let script = "git init -q -b main . && git add -A && git -c user.name=n -c user.email=e@e \
                      commit -q -m m && git update-server-info";
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(dir)
            .status();
        assert!(made.unwrap().success());
        collect(&dir.join(".git"), "/x.git", &mut files);
    }
    files
}

/// A private key in a file of `dir`, and its text; `None` where none can be
/// made or used.
fn key(dir: &Path) -> Option<(PathBuf, Vec<Vec<u8>>)> {
    if !["ssh-agent", "ssh-add", "ssh-keygen"].into_iter().all(has) {
        return None;
    }
    let path = dir.join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-C", "", "-N", "", "-f"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    let text = std::fs::read_to_string(&path).unwrap();
    // The lines that are this key's alone: the first one is like any other's.
    let lines = text.lines().skip(2).take_while(|l| l.len() > 60);
    let lines: Vec<Vec<u8>> = lines.map(|l| l.as_bytes().to_vec()).collect();
    assert!(lines.len() > 1, "{text}");
    Some((path, lines))
}

/// Command lines of all processes that hold a value.
fn words_of_processes(values: &[(String, Vec<Vec<u8>>)]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let held = values.iter().filter(|(_, forms)| holds(&words, forms));
        found.extend(held.map(|(channel, _)| {
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            format!("{channel} in the words of {words}")
        }));
    }
    found
}

/// Command lines and environments of all processes that hold a value, but for
/// the environment of the builder itself and of the step that asked.
fn shown_by_processes(values: &[(String, Vec<Vec<u8>>)], step: &str) -> Vec<String> {
    let mut found = Vec::new();
    let me = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if name == me || !name.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let words = read("cmdline");
        let shown = String::from_utf8_lossy(&words).replace('\0', " ");
        let builder = shown.contains("/program ") || shown.starts_with("setpriv ");
        for (channel, forms) in values {
            // What its user wrote there is there.
            let written = builder && channel == "proxy";
            if !written && holds(&words, forms) {
                found.push(format!("{channel} in the words of {name} {shown}"));
            }
            let exempt = builder || shown.contains(step);
            if !exempt && holds(&read("environ"), forms) {
                found.push(format!("{channel} in the environment of {name} {shown}"));
            }
        }
    }
    found
}

/// A file and repositories of these servers, a step that has all and sleeps
/// for `step`, and one that has nothing.
fn dockerfile(
    server: SocketAddr,
    repositories: Option<[SocketAddr; 2]>,
    ssh: bool,
    token: usize,
    step: &str,
) -> String {
    let repositories = repositories.map(|[a, b]| {
        format!(
            "ADD --keep-git-dir=true http://{a}/x.git /a\n\
             ADD --keep-git-dir=true http://{b}/x.git /b\n\
             RUN test -f /a/sources && test -d /a/.git && test -f /b/sources\n"
        )
    });
    let ssh = match ssh {
        true => "--mount=type=ssh,id=key,required test -S \"$SSH_AUTH_SOCK\" && ",
        false => "",
    };
    format!(
        "FROM base\n\
         ADD http://{server}/file /fetched\n\
         {}\
         RUN --mount=type=secret,id=file --mount=type=secret,id=env,env=TOKEN \
         --mount=type=secret,id=both,target=/etc/both,env=BOTH --mount=type=tmpfs,target=/t \
         --mount=type=cache,target=/c {ssh}\
         test -s /run/secrets/file && test ${{#TOKEN}} = {token} && test -s /etc/both && \
         test -n \"$HTTPS_PROXY\" && cp /run/secrets/file /t/copy && echo done > /c/done && \
         sleep {step}\n\
         RUN test ! -e /run/secrets && test -z \"$TOKEN$BOTH$SSH_AUTH_SOCK\" && \
         env | grep -vi proxy > /environment\n",
        repositories.unwrap_or_default()
    )
}

/// One build with all channels.
struct Sweep<'a> {
    s: &'a Sandbox,
    way: &'a Way,
    values: Vec<(String, Vec<Vec<u8>>)>,
    words: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// What processes showed while the web servers were asked.
    noted: Vec<Arc<Mutex<Vec<String>>>>,
}

impl<'a> Sweep<'a> {
    fn new(s: &'a Sandbox, way: &'a Way, registry: &Registry, step: &str) -> Self {
        let names = [
            "file", "env", "both", "proxy", "http", "registry", "git", "header",
        ];
        let all = names.map(value);
        let [file, env, both, proxy, http, password, git, header] = &all;
        let mut values: Vec<_> = names
            .map(Into::into)
            .into_iter()
            .zip(all.iter().map(|v| forms(v)))
            .collect();
        let dir = s.path(&format!("{}-secrets", way.name));
        std::fs::create_dir(&dir).unwrap();
        ways::open(&dir, 0o755);
        let put = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).unwrap();
            ways::open(&dir.join(name), 0o644);
            dir.join(name).display().to_string()
        };
        let files = BTreeMap::from([("/file".to_owned(), b"hello".to_vec())]);
        let (server, _) = serve(format!("Bearer {http}"), files, Vec::new());
        let repository = repository(&dir.join("repository"), "sources");
        let fetched = !repository.is_empty();
        let login = STANDARD.encode(format!("x-access-token:{git}"));
        // What its user wrote among the builder's words is there.
        let hidden = values.iter().filter(|(name, _)| name != "proxy");
        let hidden: Vec<_> = hidden.cloned().collect();
        let (by_token, noted_by_token) =
            serve(format!("Basic {login}"), repository.clone(), hidden.clone());
        let (by_header, noted_by_header) = serve(format!("Scheme {header}"), repository, hidden);
        let key = key(&dir);
        registry.state().auth = Auth::Basic("user".into(), password.clone());
        let login = STANDARD.encode(format!("user:{password}"));
        let config = format!(
            "{{\"auths\":{{\"{}\":{{\"auth\":\"{login}\"}}}}}}",
            registry.host()
        );
        std::fs::create_dir(dir.join("docker")).unwrap();
        put("docker/config.json", &config);
        let repositories = fetched.then_some([by_token, by_header]);
        let text = dockerfile(server, repositories, key.is_some(), env.len(), step);
        let name = format!("{}-ctx", way.name);
        s.context(&name, &[("Dockerfile", &text)]);
        let target = format!("{}/app/{}:1", registry.host(), way.name);
        let mut words: Vec<String> = vec!["-vvv".into()];
        let more = [
            format!("--secret=id=file,src={}", put("file", file)),
            "--secret=id=env,env=SECRET_OF_THE_BUILDER".into(),
            format!("--secret=id=both,src={}", put("both", both)),
            format!(
                "--secret=id=HTTP_AUTH_TOKEN_{server},src={}",
                put("http", http)
            ),
            format!(
                "--metadata-file={}",
                s.path(way.name).join("meta.json").display()
            ),
            format!(
                "--cache-to=type=local,dest={},mode=max",
                s.path(way.name).join("cache").display()
            ),
            format!(
                "--secret=id=GIT_AUTH_TOKEN.{by_token},src={}",
                put("git", git)
            ),
            format!(
                "--secret=id=GIT_AUTH_HEADER.{by_header},src={}",
                put("header", &format!("Scheme {header}"))
            ),
            format!("--build-arg=HTTPS_PROXY=http://user:{proxy}@192.0.2.1:3128"),
            "-t".into(),
            target,
            "--push".into(),
        ];
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        words.extend(way.words(s, &name, &more));
        if let Some((path, lines)) = key {
            std::os::unix::fs::chown(&path, Some(way.uid), Some(way.uid)).unwrap();
            words.insert(words.len() - 1, format!("--ssh=key={}", path.display()));
            values.push(("ssh".into(), lines));
        }
        let environment = vec![
            ("SECRET_OF_THE_BUILDER", env.clone()),
            ("DOCKER_CONFIG", dir.join("docker").display().to_string()),
            ("TMPDIR", s.path(way.name).join("tmp").display().to_string()),
        ];
        // The search finds what is there.
        let found = search(&dir, &values);
        for (channel, _) in values.iter().filter(|(n, _)| n != "env" && n != "proxy") {
            assert!(found.iter().any(|f| f.starts_with(channel)), "{found:?}");
        }
        Self {
            s,
            way,
            values,
            words,
            environment,
            noted: vec![noted_by_token, noted_by_header],
        }
    }

    fn command(&self) -> Command {
        let mut command = self.way.command(self.s);
        command
            .args(&self.words)
            .envs(self.environment.iter().cloned());
        command
    }

    /// Everything that is the way's: store, log, metadata, cache, temporary
    /// files.
    fn assert_clean(&self, when: &str) {
        let found = search(&self.s.path(self.way.name), &self.values);
        assert!(found.is_empty(), "{} {when}: {found:#?}", self.way.name);
        for noted in &self.noted {
            let noted = noted.lock().unwrap();
            assert!(noted.is_empty(), "{}: {noted:#?}", self.way.name);
        }
    }
}

#[test]
fn secrets_are_found_nowhere() {
    let Some((s, ways)) = ways::all("secrets_are_found_nowhere") else {
        return;
    };
    for program in ["git", "ssh-agent", "ssh-add", "ssh-keygen"] {
        if !has(program) {
            skip(
                "secrets_are_found_nowhere",
                &format!("there is no {program}"),
            );
        }
    }
    for (serial, way) in (0_u32..).zip(&ways) {
        let registry = Registry::start();
        let step = format!("{}.{serial}", 1_000_000 + std::process::id());
        let sweep = Sweep::new(&s, way, &registry, &step);
        let dir = s.path(way.name);
        std::fs::create_dir(dir.join("tmp")).unwrap();
        std::os::unix::fs::chown(dir.join("tmp"), Some(way.uid), Some(way.uid)).unwrap();
        // Killed while the step has them all.
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut child = sweep
            .command()
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let asleep = format!("sleep {step}");
        let shown = || {
            Command::new("ps")
                .args(["-eo", "args"])
                .output()
                .unwrap()
                .stdout
        };
        let there = || {
            String::from_utf8_lossy(&shown())
                .lines()
                .any(|l| l.trim() == asleep)
        };
        let began = eventually(there);
        let text = || std::fs::read_to_string(dir.join("log")).unwrap();
        assert!(began, "{}: {}", way.name, text());
        let found = shown_by_processes(&sweep.values, &step);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.is_empty(), "{}: {found:#?}", way.name);
        assert!(eventually(|| !there()), "{}", way.name);
        let clean = || search(&dir, &sweep.values).is_empty();
        // The keeper takes away what it placed.
        eventually(clean);
        sweep.assert_clean("after a kill");
        // And to the end, with a shorter sleep.
        let file = s.path(&format!("{}-ctx", way.name)).join("Dockerfile");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(&asleep, "sleep 0.1")).unwrap();
        let ran: Ran = sweep.command().output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{}: {}", way.name, ran.stderr);
        std::fs::write(dir.join("log"), format!("{}{}", ran.stdout, ran.stderr)).unwrap();
        sweep.assert_clean("after a build");
        for arguments in [&["inspect", "base"][..], &["images"]] {
            assert!(
                way.command(&s)
                    .args(arguments)
                    .output()
                    .unwrap()
                    .status
                    .success()
            );
        }
        let pushed = s.path(&format!("{}-pushed", way.name));
        std::fs::create_dir(&pushed).unwrap();
        let state = registry.state();
        let blobs = state.blobs.values().flat_map(|b| b.values());
        let manifests = state.manifests.values().flat_map(|m| m.values());
        let all = blobs.chain(manifests.map(|(_, m)| m));
        let count = all.zip(0..).map(|(content, n)| {
            std::fs::write(pushed.join(n.to_string()), content).unwrap();
        });
        assert!(count.count() > 2, "{}: nothing was pushed", way.name);
        let found = search(&pushed, &sweep.values);
        assert!(found.is_empty(), "{}: {found:#?}", way.name);
    }
}

/// Where no mount can be made secrets are files of the tree, and nobody is
/// left to take them away.
#[test]
fn secrets_go_with_the_next_start_when_all_was_killed() {
    let test = "secrets_go_with_the_next_start_when_all_was_killed";
    let Some((s, ways)) = ways::all(test) else {
        return;
    };
    for way in ways.iter().filter(|w| w.shares_processes()) {
        let secret = value("killed");
        let values = [("killed".to_owned(), forms(&secret))];
        let file = s.path("secret");
        std::fs::write(&file, &secret).unwrap();
        ways::open(&file, 0o644);
        let text = "FROM base\n\
            RUN --mount=type=secret,id=s,target=/etc/deep/s --mount=type=tmpfs,target=/t \
            cp /etc/deep/s /t/copy && cp /etc/deep/s /copy && echo rea''dy && sleep 300\n";
        s.context("killed", &[("Dockerfile", text)]);
        let log = s.path("log");
        let secret = format!("--secret=id=s,src={}", file.display());
        let mut child = way
            .command(&s)
            .args(way.words(&s, "killed", &[&secret]))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let shown = || std::fs::read_to_string(&log).unwrap();
        let began = eventually(|| shown().contains("ready"));
        let family = family(child.id());
        let signal = |signal: &str| {
            let all = family.iter().map(|(pid, _)| pid.to_string());
            let sent = Command::new("kill").arg(signal).args(all).status();
            sent.unwrap().success()
        };
        // Nobody does anything about another's end.
        assert!(signal("-STOP") && signal("-KILL"), "{}", way.name);
        child.wait().unwrap();
        assert!(began && family.len() > 2, "{}: {}", way.name, shown());
        let gone = eventually(|| living(&family, None).is_empty());
        assert!(gone, "{}: {:#?}", way.name, living(&family, None));
        let store = way.store(&s);
        let left = search(&store, &values);
        assert_eq!(left.len(), 3, "{}: {left:#?}", way.name);
        // Any start at all; what it was is still there for a build to remove.
        let ran = way.command(&s).arg("images").output().unwrap();
        assert!(ran.status.success());
        let left = search(&store, &values);
        assert!(left.is_empty(), "{}: {left:#?}", way.name);
    }
}
