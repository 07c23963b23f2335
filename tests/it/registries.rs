//! Logins, certificates, tokens and the tools of a registry, with Debian's
//! registry and with one that misbehaves.

#[path = "support/registry.rs"]
pub(crate) mod fake;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use fake::{Fault, Registry};
use shiplap::digest::Digest;

use crate::push_pull::{Setup, passwords, start};
use crate::sandbox::{Ran, Sandbox, has, skip};

/// A store with an image `app` of one small layer; `None`, with a word about
/// it, where a program is missing.
fn sandbox(test: &str, programs: &[&str]) -> Option<Sandbox> {
    if let Some(missing) = programs.iter().find(|p| !has(p)) {
        skip(test, &format!("{missing} is missing"));
        return None;
    }
    let s = Sandbox::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    tar.append_data(&mut header, "hello", &b"world"[..])
        .unwrap();
    std::fs::write(s.path("app.tar"), tar.into_inner().unwrap()).unwrap();
    s.ok(&["import", s.path("app.tar").to_str().unwrap(), "app"]);
    Some(s)
}

/// Runs with variables of its own.
fn with(s: &Sandbox, variables: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = s.command(&s.store());
    command.args(args).envs(variables.iter().copied());
    command.output().unwrap().into()
}

/// Runs with a text on standard input.
fn fed(s: &Sandbox, variables: &[(&str, &str)], args: &[&str], input: &str) -> Ran {
    let mut command = s.command(&s.store());
    let mut child = command
        .args(args)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap().into()
}

#[track_caller]
fn good(ran: &Ran) -> &str {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.stdout.trim_end()
}

#[track_caller]
fn bad<'a>(ran: &'a Ran, expected: &str) -> &'a str {
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    &ran.stderr
}

fn openssl(s: &Sandbox, line: &str) -> Vec<u8> {
    let out = Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(s.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "openssl {line}: {said}");
    out.stdout
}

/// `ca.crt`, and certificates that it signed: `server` for 127.0.0.1, `other`
/// for another host, `client`.
fn certificates(s: &Sandbox) {
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        s,
        &format!("req -x509 {new} -keyout ca.key -out ca.crt -subj /CN=ca -days 2"),
    );
    openssl(
        s,
        &format!("req -x509 {new} -keyout no.key -out no.crt -subj /CN=no -days 2"),
    );
    for (name, alt) in [
        ("server", "subjectAltName=IP:127.0.0.1"),
        ("other", "subjectAltName=DNS:other.example"),
        ("client", "extendedKeyUsage=clientAuth"),
    ] {
        std::fs::write(s.path("alt"), alt).unwrap();
        openssl(
            s,
            &format!("req {new} -keyout {name}.key -out {name}.csr -subj /CN={name}"),
        );
        openssl(
            s,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -extfile alt"
            ),
        );
    }
}

fn tls(s: &Sandbox, certificate: &str, more: &str) -> Setup<'static> {
    let at = |name: String| s.path(&name).display().to_string();
    Setup {
        http: format!(
            "  tls: {{certificate: {}, key: {}{more}}}\n",
            at(format!("{certificate}.crt")),
            at(format!("{certificate}.key"))
        ),
        ..Setup::default()
    }
}

/// A directory of certificates with copies of `files`.
fn cert_dir(s: &Sandbox, dir: &str, files: &[(&str, &str)]) -> String {
    let dir = s.path(dir);
    std::fs::create_dir_all(&dir).unwrap();
    for (from, to) in files {
        std::fs::copy(s.path(from), dir.join(to)).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

#[test]
fn a_certificate_authority_of_ones_own() {
    const NAME: &str = "a_certificate_authority_of_ones_own";
    let Some(s) = sandbox(NAME, &["docker-registry", "openssl"]) else {
        return;
    };
    certificates(&s);
    let (_server, at) = start(&s, "tls", &tls(&s, "server", ""));
    let name = format!("{at}/app:1");
    let quick = "--retry=0";
    // Nobody knows it: no byte goes there, and not by plain http either.
    let said = s.run(&["push", quick, "app", &name]);
    bad(&said, "no trusted connection");
    assert!(said.stderr.contains("--cert-dir"), "{}", said.stderr);
    let ca = cert_dir(&s, "ca", &[("ca.crt", "ca.crt")]);
    let wrong = cert_dir(&s, "wrong", &[("no.crt", "ca.crt")]);
    bad(
        &s.run(&["push", quick, "--cert-dir", &wrong, "app", &name]),
        "no trusted",
    );
    s.ok(&["push", "--cert-dir", &ca, "app", &name]);
    s.ok(&["digest", "--cert-dir", &ca, "--tls-verify", &name]);
    s.ok(&["digest", "--insecure", &name]);
    s.ok(&["digest", "--tls-verify=false", &name]);
    let bundle = s.path("ca.crt");
    good(&with(
        &s,
        &[("SSL_CERT_FILE", bundle.to_str().unwrap())],
        &["digest", &name],
    ));
    // Of this registry and of no other one.
    let own = format!("settings/containers/certs.d/{at}");
    cert_dir(&s, &own, &[("ca.crt", "my.crt")]);
    let settings = s.path("settings");
    let variables = [("XDG_CONFIG_HOME", settings.to_str().unwrap())];
    good(&with(&s, &variables, &["digest", &name]));
    let (_second, there) = start(&s, "second", &tls(&s, "server", ""));
    bad(
        &with(
            &s,
            &variables,
            &["digest", quick, &format!("{there}/app:1")],
        ),
        "no trusted",
    );
    // For another host.
    let (_third, third) = start(&s, "third", &tls(&s, "other", ""));
    let third = format!("{third}/app:1");
    bad(
        &s.run(&["digest", quick, "--cert-dir", &ca, &third]),
        "no trusted",
    );
    // A directory that makes no sense is told.
    let broken = cert_dir(&s, "broken", &[("client.key", "client.key")]);
    bad(
        &s.run(&["digest", quick, "--cert-dir", &broken, &name]),
        "client.key",
    );
    bad(
        &s.run(&["digest", "--cert-dir", "/nowhere", &name]),
        "/nowhere",
    );
    // Plain http is not good enough for --tls-verify.
    let (_plain, plain) = start(&s, "plain", &Setup::default());
    let plain = format!("{plain}/app:1");
    s.ok(&["push", "app", &plain]);
    bad(&s.run(&["digest", quick, "--tls-verify", &plain]), "TLS");
}

/// Registries, files of the web and repositories: whoever vouches for one may
/// vouch for the others.
#[test]
fn certificate_authorities_are_the_same_for_all() {
    const NAME: &str = "certificate_authorities_are_the_same_for_all";
    let Some(s) = sandbox(NAME, &["docker-registry", "openssl"]) else {
        return;
    };
    certificates(&s);
    let (_server, at) = start(&s, "tls", &tls(&s, "server", ""));
    s.ok(&["push", "--insecure", "app", &format!("{at}/app:1")]);
    let file = format!("FROM scratch\nADD https://{at}/v2/ /answer\n");
    let file = s.context("file", &[("Dockerfile", &file)]);
    let git = format!("FROM scratch\nADD https://{at}/none.git /tree\n");
    let git = s.context("git", &[("Dockerfile", &git)]);
    let image = format!("FROM {at}/app:1\n");
    let image = s.context("image", &[("Dockerfile", &image)]);
    let dir = cert_dir(&s, "roots", &[("ca.crt", "0123abcd.0")]);
    let dirs = format!("/nowhere:{dir}");
    let bundle = s.path("ca.crt").display().to_string();
    let wrong = s.path("no.crt").display().to_string();
    for (variables, trusted) in [
        (vec![], false),
        (vec![("SSL_CERT_FILE", wrong.as_str())], false),
        (vec![("SSL_CERT_FILE", bundle.as_str())], true),
        (vec![("SSL_CERT_DIR", dirs.as_str())], true),
        (
            vec![
                ("SSL_CERT_DIR", dirs.as_str()),
                ("SSL_CERT_FILE", wrong.as_str()),
            ],
            true,
        ),
    ] {
        let build = |context: &str| with(&s, &variables, &["build", "--no-cache", context]);
        for (context, refused) in [(&file, "invalid peer certificate"), (&image, "no trusted")] {
            match trusted {
                true => drop(good(&build(context)).to_owned()),
                false => drop(bad(&build(context), refused).to_owned()),
            }
        }
        if !has("git") {
            skip(NAME, "git is missing");
            continue;
        }
        // It is not there, but that has to be heard.
        let said = build(&git);
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        let refused = said.stderr.contains("certificate");
        assert_eq!(refused, !trusted, "{variables:?}: {}", said.stderr);
        assert_eq!(
            said.stderr.contains("not found"),
            trusted,
            "{}",
            said.stderr
        );
    }
    let variables = [("SSL_CERT_FILE", "/nowhere/ca.pem")];
    let missing = "can't read the certificates in /nowhere/ca.pem";
    for context in [&file, &git, &image] {
        bad(
            &with(
                &s,
                &variables,
                &["build", "--no-cache", "--retry=0", context],
            ),
            missing,
        );
    }
    // Nobody asks for certificates here.
    let plain = s.context(
        "plain",
        &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")],
    );
    good(&with(&s, &variables, &["build", &plain]));
}

#[test]
fn a_client_shows_its_certificate() {
    const NAME: &str = "a_client_shows_its_certificate";
    let Some(s) = sandbox(NAME, &["docker-registry", "openssl"]) else {
        return;
    };
    certificates(&s);
    let more = format!(", clientcas: [{}]", s.path("ca.crt").display());
    let (_server, at) = start(&s, "tls", &tls(&s, "server", &more));
    let name = format!("{at}/app:1");
    let ca = cert_dir(&s, "ca", &[("ca.crt", "ca.crt")]);
    let without = s.run(&["push", "--retry=0", "--cert-dir", &ca, "app", &name]);
    assert_eq!(without.code, Some(1), "{}", without.stderr);
    let files = [
        ("ca.crt", "ca.crt"),
        ("client.crt", "me.cert"),
        ("client.key", "me.key"),
    ];
    let me = cert_dir(&s, "me", &files);
    s.ok(&["push", "--cert-dir", &me, "app", &name]);
    cert_dir(&s, &format!("settings/containers/certs.d/{at}"), &files);
    let settings = s.path("settings");
    let variables = [("XDG_CONFIG_HOME", settings.to_str().unwrap())];
    good(&with(&s, &variables, &["digest", &name]));
}

#[test]
fn logins_are_kept_and_forgotten() {
    const NAME: &str = "logins_are_kept_and_forgotten";
    let Some(s) = sandbox(NAME, &["docker-registry", "htpasswd"]) else {
        return;
    };
    let file = passwords(&s, "right-word");
    let setup = Setup {
        htpasswd: Some(&file),
        ..Setup::default()
    };
    let (_server, at) = start(&s, "registry", &setup);
    let name = format!("{at}/app:1");
    let docker = s.path("docker");
    let config = docker.join("config.json");
    let here = [("DOCKER_CONFIG", docker.to_str().unwrap())];
    let login = |variables: &[(&str, &str)], more: &[&str], password: &str| {
        let mut args = vec!["login", "-u", "ana", "--password-stdin"];
        args.extend(more);
        args.push(&at);
        fed(&s, variables, &args, password)
    };
    bad(&with(&s, &here, &["push", "app", &name]), "shiplap login");
    let said = login(&here, &[], "wrong-word\n");
    let said = bad(&said, "401");
    assert!(!said.contains("wrong-word") && !config.exists(), "{said}");
    let kept = login(&here, &[], "right-word\n");
    assert!(good(&kept).contains("config.json"), "{}", kept.stdout);
    let mode = std::fs::metadata(&config).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    good(&with(&s, &here, &["push", "app", &name]));

    // The same content by every road that there is.
    let text = std::fs::read_to_string(&config).unwrap();
    let secret = s.path("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join(".dockerconfigjson"), &text).unwrap();
    let secret = secret.to_str().unwrap();
    let auth = config.to_str().unwrap();
    let runtime = s.path("runtime");
    std::fs::create_dir_all(runtime.join("containers")).unwrap();
    std::fs::write(runtime.join("containers/auth.json"), &text).unwrap();
    for variable in [
        ("REGISTRY_AUTH_FILE", auth),
        ("DOCKER_AUTH_CONFIG", text.as_str()),
        ("DOCKER_AUTH_CONFIG", auth),
        ("DOCKER_CONFIG", secret),
        ("XDG_RUNTIME_DIR", runtime.to_str().unwrap()),
    ] {
        good(&with(&s, &[variable], &["digest", &name]));
    }
    for args in [
        &["--authfile", auth][..],
        &["--authfile", secret],
        &["--authfile", &format!("{secret}/.dockerconfigjson")],
        &["--creds", "ana:right-word"],
    ] {
        good(&with(&s, &[], &[&["digest", &name][..], args].concat()));
    }
    assert_eq!(s.run(&["digest", &name]).code, Some(1));
    if has("skopeo") {
        let out = Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--authfile", auth])
            .arg(format!("docker://{name}"))
            .output()
            .unwrap();
        assert!(out.status.success(), "skopeo finds it too");
    }

    // Helpers keep it instead, and are given a limited time.
    let bin = s.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0}/kept;;\nget) cat > /dev/null; cat {0}/kept;;\nerase) rm {0}/kept;;\nesac\n",
        bin.display()
    );
    let helper = bin.join("docker-credential-box");
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let boxed = s.path("boxed.json");
    std::fs::write(&boxed, r#"{"credsStore":"box","keep":1}"#).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let there = [
        ("PATH", path.as_str()),
        ("REGISTRY_AUTH_FILE", boxed.to_str().unwrap()),
    ];
    assert!(good(&login(&there, &[], "right-word")).contains("docker-credential-box"));
    let text = std::fs::read_to_string(&boxed).unwrap();
    assert!(!text.contains("auth\"") && text.contains("keep"), "{text}");
    good(&with(&s, &there, &["digest", &name]));
    assert_eq!(
        good(&with(&s, &there, &["logout", &at])),
        format!("logged out of {at}")
    );
    assert_eq!(with(&s, &there, &["digest", &name]).code, Some(1));
    // A helper that is not there is told when it would have been needed.
    std::fs::write(&boxed, r#"{"credsStore":"desktop"}"#).unwrap();
    bad(
        &with(&s, &there[1..], &["digest", &name]),
        "docker-credential-desktop",
    );

    assert!(good(&with(&s, &here, &["logout", "--all"])).contains(&at));
    assert_eq!(with(&s, &here, &["digest", &name]).code, Some(1));
    assert_eq!(with(&s, &here, &["logout", &at]).code, Some(1));
    let usage = with(&s, &here, &["login", "-u", "ana", &at]);
    assert_eq!(
        usage.code,
        Some(2),
        "no terminal, no password: {}",
        usage.stderr
    );
}

/// A token server whose tokens Debian's registry takes: RS256, with the
/// certificate in the head. It knows `ana` with `right`.
struct Tokens {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tokens {
    fn start(s: &Sandbox) -> Self {
        let line = "req -x509 -newkey rsa:2048 -nodes -keyout t.key -out t.crt -subj /CN=t -days 2";
        openssl(s, line);
        let der = STANDARD.encode(openssl(s, "x509 -in t.crt -outform DER"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, dir) = (Arc::clone(&asked), s.dir.path().to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer_token(&mut stream.unwrap(), &dir, &der, &log);
            }
        });
        Self { url, asked }
    }
}

fn answer_token(stream: &mut TcpStream, dir: &Path, der: &str, log: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split_whitespace().nth(1).unwrap_or_default();
    let url = url::Url::parse(&format!("http://x{target}")).unwrap();
    let scopes: Vec<String> = url
        .query_pairs()
        .filter(|(k, _)| k == "scope")
        .map(|(_, v)| v.into_owned())
        .collect();
    log.lock().unwrap().push(scopes.join(" "));
    let basic = format!("basic {}", STANDARD.encode("ana:right"));
    let known = head
        .to_ascii_lowercase()
        .contains(&basic.to_ascii_lowercase());
    let (status, body) = if known {
        let access: Vec<serde_json::Value> = scopes
            .iter()
            .map(|scope| {
                let mut parts = scope.split(':');
                let (kind, name) = (parts.next(), parts.next());
                let actions: Vec<&str> = parts.next().unwrap_or_default().split(',').collect();
                serde_json::json!({"type": kind, "name": name, "actions": actions})
            })
            .collect();
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let header = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
        let claims = serde_json::json!({
            "iss": "issuer", "sub": "ana", "aud": "service", "exp": now + 600, "nbf": now - 60,
            "iat": now - 60, "jti": now.to_string(), "access": access,
        });
        let part = |v: &serde_json::Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let mut child = Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(dir.join("t.key"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let signature = child.wait_with_output().unwrap().stdout;
        let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature));
        let body = serde_json::json!({"token": token, "expires_in": 600});
        ("200 OK", body.to_string())
    } else {
        (
            "401 Unauthorized",
            r#"{"details":"who are you?"}"#.to_owned(),
        )
    };
    let length = body.len();
    // A client that goes away is none of our affair.
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
}

#[test]
fn tokens_are_asked_for_once_and_allow_mounts() {
    const NAME: &str = "tokens_are_asked_for_once_and_allow_mounts";
    let Some(s) = sandbox(NAME, &["docker-registry", "openssl"]) else {
        return;
    };
    let tokens = Tokens::start(&s);
    let setup = Setup {
        more: format!(
            "auth: {{token: {{realm: \"{}\", service: service, issuer: issuer, rootcertbundle: {}}}}}\n",
            tokens.url,
            s.path("t.crt").display()
        ),
        ..Setup::default()
    };
    let (_server, at) = start(&s, "registry", &setup);
    let asked = || std::mem::take(&mut *tokens.asked.lock().unwrap());
    let creds = ["--creds", "ana:right"];
    let run = |args: &[&str]| good(&s.run(&[args, &creds[..]].concat())).to_owned();
    let base = format!("{at}/team/base:1");
    run(&["push", "app", &base]);
    assert_eq!(asked(), ["repository:team/base:pull,push"]);
    run(&["tags", &base[..base.len() - 2]]);
    assert_eq!(asked(), ["repository:team/base:pull"]);
    // From one repository to another: the blobs are not sent, and the token
    // for that allows reading there.
    let log = || std::fs::read_to_string(s.path("registry.log")).unwrap();
    let before = log().matches("\"PUT /v2/team/copy/blobs/uploads").count();
    let copy = format!("{at}/team/copy:1");
    run(&[
        "copy",
        &format!("docker://{base}"),
        &format!("docker://{copy}"),
    ]);
    assert_eq!(
        log().matches("\"PUT /v2/team/copy/blobs/uploads").count(),
        before
    );
    let all = asked();
    assert!(
        all.iter()
            .any(|scopes| scopes == "repository:team/copy:pull,push repository:team/base:pull"),
        "{all:?}"
    );
    assert!(all.len() <= 3, "{all:?}");
    run(&["delete", "--manifest", &copy]);
    assert!(asked().iter().any(|scopes| scopes.contains("delete")));

    bad(&s.run(&["pull", &base]), "who are you?");
    bad(
        &s.run(&["pull", &base, "--creds", "ana:wrong-word"]),
        "who are you?",
    );
    asked();
    let args = [
        "login",
        "-u",
        "ana",
        "--password-stdin",
        "--authfile",
        "a.json",
        &at,
    ];
    bad(&fed(&s, &[], &args, "wrong"), "who are you?");
    good(&fed(&s, &[], &args, "right"));
    assert_eq!(asked(), ["", ""], "a login asks for no scope");
    good(&s.run(&["pull", "--authfile", "a.json", &base]));
}

#[test]
fn tools_look_into_a_registry_and_change_it() {
    const NAME: &str = "tools_look_into_a_registry_and_change_it";
    let Some(s) = sandbox(NAME, &["docker-registry"]) else {
        return;
    };
    let (_server, at) = start(&s, "registry", &Setup::default());
    let app = format!("{at}/team/app");
    for tag in ["1", "2", "old"] {
        s.ok(&["push", "app", &format!("{app}:{tag}")]);
    }
    let name = format!("{app}:1");
    // In the registry's order.
    let tags = s.ok(&["tags", &app]);
    let mut sorted: Vec<&str> = tags.lines().collect();
    sorted.sort_unstable();
    assert_eq!(sorted, ["1", "2", "old"]);
    let json: serde_json::Value =
        serde_json::from_str(&s.ok(&["tags", "--format", "json", &app])).unwrap();
    assert_eq!(json["tags"].as_array().unwrap().len(), 3);
    assert_eq!(s.run(&["tags", &name]).code, Some(2));
    let digest = s.ok(&["digest", &name]);
    let json: serde_json::Value =
        serde_json::from_str(&s.ok(&["digest", "--format", "json", &name])).unwrap();
    assert_eq!(json["digest"], digest.as_str());
    let raw = s
        .command(&s.store())
        .args(["manifest", "--raw", &name])
        .output()
        .unwrap()
        .stdout;
    assert_eq!(Digest::of(&raw).as_str(), digest);
    let manifest: serde_json::Value = serde_json::from_str(&s.ok(&["manifest", &name])).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let blob = format!("{app}@{layer}");
    let out = s.path("layer");
    s.ok(&["blob", &blob, "-o", out.to_str().unwrap()]);
    assert_eq!(Digest::of(&std::fs::read(&out).unwrap()).as_str(), layer);
    let piped = s
        .command(&s.store())
        .args(["blob", &blob])
        .output()
        .unwrap()
        .stdout;
    assert_eq!(Digest::of(&piped).as_str(), layer);
    let nothing = format!("{app}@{}", Digest::of(b"nothing"));
    bad(&s.run(&["blob", &nothing, "-o", "none"]), "404");
    assert!(!s.path("none").exists());

    // This registry has no referrers API; the list is under a tag.
    std::fs::write(s.path("sbom.json"), "{\"packages\":[]}").unwrap();
    let attach = |kind: &str| {
        let args = [
            "attach",
            "--artifact-type",
            kind,
            "sbom.json",
            &name,
            "--annotation",
            "k=v",
        ];
        s.ok(&args)
    };
    let first = attach("application/spdx+json");
    attach("application/vnd.example.other");
    assert_eq!(
        attach("application/spdx+json"),
        first,
        "the same again is the same"
    );
    let list = |more: &[&str]| -> serde_json::Value {
        let args = [&["referrers", "--format", "json", &name][..], more].concat();
        serde_json::from_str(&s.ok(&args)).unwrap()
    };
    assert_eq!(list(&[]).as_array().unwrap().len(), 2);
    let one = list(&["--artifact-type", "application/spdx+json"]);
    assert_eq!(
        format!("{app}@{}", one[0]["digest"].as_str().unwrap()),
        first
    );
    assert_eq!(one[0]["annotations"]["k"], "v");
    assert!(
        s.ok(&["referrers", &name])
            .contains("application/vnd.example.other")
    );
    assert_eq!(s.ok(&["digest", &name]), digest, "the image is as it was");
    let artifact: serde_json::Value = serde_json::from_str(&s.ok(&["manifest", &first])).unwrap();
    assert_eq!(artifact["subject"]["digest"], digest.as_str());
    let file = artifact["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(
        s.ok(&["blob", &format!("{app}@{file}")]),
        "{\"packages\":[]}"
    );
    assert_eq!(
        s.run(&["attach", "--artifact-type", "no type", "sbom.json", &name])
            .code,
        Some(2)
    );

    // It deletes no tags, only manifests.
    let said = s.run(&["delete", &format!("{app}:old")]);
    bad(&said, "--manifest");
    assert_eq!(s.run(&["delete", &app]).code, Some(2));
    s.ok(&["delete", "--manifest", &format!("{app}:old")]);
    bad(&s.run(&["digest", &name]), "404");
    let (_second, at) = start(
        &s,
        "fixed",
        &Setup {
            more: "# no deletion\n".into(),
            ..Setup::default()
        },
    );
    let name = format!("{at}/app:1");
    s.ok(&["push", "app", &name]);
    bad(&s.run(&["delete", "--manifest", &name]), "switched off");
}

#[test]
fn a_failed_pull_names_nothing() {
    let Some(s) = sandbox("a_failed_pull_names_nothing", &[]) else {
        return;
    };
    let registry = Registry::start();
    let name = format!("{}/app:1", registry.host());
    s.ok(&["push", "app", &name]);
    let empty = s.path("empty");
    let quick = ["--retry=1", "--retry-delay=1ms"];
    let pull = || s.run_in(&empty, &[&["pull", &name][..], &quick].concat());
    let gone = Fault::Answer(404, Vec::new(), Vec::new());
    let down = Fault::Answer(503, Vec::new(), Vec::new());
    for (part, fault, expected) in [
        ("/blobs/", gone.clone(), "404"),
        ("/manifests/", gone, "404"),
        ("/blobs/", down, "503"),
        ("/blobs/", Fault::Corrupt, "digest"),
        ("/blobs/", Fault::Endless, "bytes"),
        ("/blobs/", Fault::Cut(1), "broke off"),
        ("/manifests/", Fault::Corrupt, "digest"),
    ] {
        registry.state().rules.clear();
        registry.clear_log();
        registry.fault("GET", part, 0, usize::MAX, fault.clone());
        let ran = pull();
        let said = bad(&ran, expected);
        assert_eq!(said.matches("error:").count(), 1, "{said}");
        assert_eq!(s.run_in(&empty, &["images", "-q"]).stdout, "", "{fault:?}");
        assert!(
            registry.log().len() <= 12,
            "{fault:?}: {:#?}",
            registry.log()
        );
    }
    registry.state().rules.clear();
    good(&pull());
}

#[test]
fn names_lead_where_registries_conf_says() {
    let Some(s) = sandbox("names_lead_where_registries_conf_says", &[]) else {
        return;
    };
    let registry = Registry::start();
    let at = registry.host();
    s.ok(&["push", "app", &format!("{at}/mirror/library/tiny:1")]);
    s.ok(&["push", "app", &format!("{at}/own/tool:1")]);
    let conf = s.path("registries.conf");
    std::fs::write(
        &conf,
        format!(
            "unqualified-search-registries = [\"{at}\", \"{at}/own\"]\n\
             [aliases]\n\"gadget\" = \"{at}/own/tool\"\n\
             [[registry]]\nprefix = \"up.example\"\nlocation = \"{at}/own\"\n\
             [[registry]]\nlocation = \"bad.example\"\nblocked = true\n"
        ),
    )
    .unwrap();
    let variables = [("CONTAINERS_REGISTRIES_CONF", conf.to_str().unwrap())];
    let run = |args: &[&str]| with(&s, &variables, args);
    let pulled = run(&["pull", "tool:1"]);
    assert!(
        good(&pulled).starts_with(&format!("{at}/own/tool@")),
        "{}",
        pulled.stdout
    );
    good(&run(&["digest", "gadget:1"]));
    good(&run(&["digest", "up.example/tool:1"]));
    bad(&run(&["digest", "bad.example/tool:1"]), "blocked");
    let context = s.context("ctx", &[("Dockerfile", "FROM gadget:1\nLABEL a=b\n")]);
    let built = run(&["build", "-t", "built", &context]);
    good(&built);
    // Docker Hub is reached by its mirror only.
    let mirror = format!("--registry-mirror=http://{at}/mirror");
    let found = s.run(&["digest", "--retry=0", &mirror, "tiny:1"]);
    good(&found);
    let mirror = format!("--registry-mirror=r.example={at}/own");
    good(&s.run(&["digest", "--retry=0", &mirror, "r.example/tool:1"]));
    assert_eq!(
        s.run(&["digest", "--registry-mirror=x y", "tiny"]).code,
        Some(2)
    );
    std::fs::write(&conf, "[[registry]]\nprefix = 3\n").unwrap();
    bad(&run(&["digest", "gadget:1"]), "registries.conf");
}

#[test]
fn what_a_registry_has_is_not_sent_again() {
    let Some(s) = sandbox("what_a_registry_has_is_not_sent_again", &[]) else {
        return;
    };
    let registry = Registry::start();
    let at = registry.host();
    let base = format!("{at}/base:1");
    s.ok(&["push", "app", &base]);
    // On a machine that has never seen the base.
    let store = s.path("other");
    let text = format!("FROM {base}\nCOPY Dockerfile /\n");
    let context = s.context("ctx", &[("Dockerfile", &text)]);
    let name = format!("{at}/team/app:1");
    let run = |args: &[&str]| good(&s.run_in(&store, args)).to_owned();
    run(&["build", "-t", &name, &context]);
    registry.clear_log();
    run(&["push", &name]);
    let manifest: serde_json::Value = serde_json::from_str(&run(&["manifest", &base])).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let hex = layer.rsplit(':').next().unwrap();
    let log = registry.log();
    let sent = log
        .iter()
        .filter(|l| l.method == "PUT" && l.target.contains(hex));
    assert_eq!(sent.count(), 0, "the base's layer is mounted: {log:#?}");
    let puts = log
        .iter()
        .filter(|l| l.method == "PUT" && l.target.contains("/blobs/"));
    assert_eq!(puts.count(), 2, "the new layer and the config");
    assert!(registry.is_consistent());
    registry.clear_log();
    run(&["push", &name]);
    let mut methods: Vec<String> = registry.log().into_iter().map(|l| l.method).collect();
    methods.sort();
    assert_eq!(methods, ["HEAD", "HEAD", "HEAD", "PUT"]);
}
