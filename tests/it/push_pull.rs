//! Debian's registry on loopback.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::sandbox::{Sandbox, Server, eventually, has, skip};

/// What is special about a registry.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// Passwords, as htpasswd writes them.
    pub(crate) htpasswd: Option<&'a str>,
    /// Lines for the section `http`, from the second level on.
    pub(crate) http: String,
    /// Whole sections.
    pub(crate) more: String,
}

/// A registry of the test's own; with `htpasswd` it wants the password.
pub(crate) fn registry(s: &Sandbox, htpasswd: Option<&str>) -> (Server, String) {
    let setup = Setup {
        htpasswd,
        ..Setup::default()
    };
    start(s, "registry", &setup)
}

/// A file with the password of `ana`, for a registry.
pub(crate) fn passwords(s: &Sandbox, password: &str) -> String {
    let file = s.path("htpasswd").to_str().unwrap().to_owned();
    let made = Command::new("htpasswd")
        .args(["-Bbc", "-C", "4", &file, "ana", password])
        .output()
        .unwrap();
    assert!(made.status.success());
    file
}

/// Starts Debian's registry; its log is `NAME.log`.
pub(crate) fn start(s: &Sandbox, name: &str, setup: &Setup<'_>) -> (Server, String) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("127.0.0.1:{port}");
    let auth = setup.htpasswd.map_or(String::new(), |file| {
        format!("auth: {{htpasswd: {{realm: r, path: {file}}}}}\n")
    });
    let config = s.path(&format!("{name}.yml"));
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: {}}}}}\nhttp:\n  addr: {address}\n{}{auth}{}",
        s.path(name).display(),
        !setup.more.contains("# no deletion"),
        setup.http,
        setup.more,
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(s.path(&format!("{name}.log"))).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    assert!(
        eventually(|| TcpStream::connect(&address).is_ok()),
        "the registry does not start"
    );
    (Server(child), address)
}

#[test]
fn an_image_goes_there_and_back() {
    const NAME: &str = "an_image_goes_there_and_back";
    if !has("docker-registry") {
        return skip(NAME, "docker-registry is missing");
    }
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let (_server, at) = registry(&s, None);
    let name = format!("{at}/team/base:1");
    s.ok(&["push", "base", &name]);
    // A build from it and to it, on an empty store.
    let store = s.path("other");
    let context = s.context(
        "ctx",
        &[(
            "Dockerfile",
            &format!("FROM {name}\nRUN echo built > /built\nCOPY Dockerfile /\n"),
        )],
    );
    let app = format!("{at}/team/app:1");
    let built = s.run_in(&store, &["build", "-t", &app, "--push", &context]);
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    let digest = built.stdout.trim();
    let pulled = s.run(&["pull", &app]);
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    assert!(pulled.stdout.contains(digest), "{}", pulled.stdout);
    if has("skopeo") {
        let args = [
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            &format!("docker://{app}"),
        ];
        let out = Command::new("skopeo").args(args).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), digest);
    }
    // All blobs are there: a second push sends none.
    s.ok(&["push", &app]);
    let log = std::fs::read_to_string(s.path("registry.log")).unwrap();
    let uploads = |log: &str| log.matches("\"PUT /v2/team/app/blobs/uploads").count();
    let before = uploads(&log);
    s.ok(&["push", &app]);
    let log = std::fs::read_to_string(s.path("registry.log")).unwrap();
    assert_eq!(uploads(&log), before);
    // Nor does one to a repository that has none of them: they are mounted.
    s.ok(&["push", &app, &format!("{at}/team/again:1")]);
    let log = std::fs::read_to_string(s.path("registry.log")).unwrap();
    assert!(!log.contains("\"PUT /v2/team/again/blobs/uploads"), "{log}");
    assert!(log.contains("from=team%2Fapp"), "{log}");
    let missing = s.run(&["pull", &format!("{at}/team/nothing:1")]);
    assert_eq!(missing.code, Some(1));
    assert!(!s.ok(&["images"]).contains("nothing"));
}

#[test]
fn a_registry_that_asks_who_it_is() {
    const NAME: &str = "a_registry_that_asks_who_it_is";
    if !has("docker-registry") || !has("htpasswd") {
        return skip(NAME, "docker-registry or htpasswd is missing");
    }
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let file = passwords(&s, "right");
    let (_server, at) = registry(&s, Some(&file));
    let name = format!("{at}/x:1");
    let with = |password: &str| {
        let dir = s.path("docker");
        std::fs::create_dir_all(&dir).unwrap();
        let auth = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            format!("ana:{password}"),
        );
        let text = format!("{{\"auths\":{{\"{at}\":{{\"auth\":\"{auth}\"}}}}}}");
        std::fs::write(dir.join("config.json"), text).unwrap();
        let out = s
            .command(&s.store())
            .env("DOCKER_CONFIG", dir)
            .args(["push", "base", &name])
            .output()
            .unwrap();
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let (code, said) = with("wrong");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&at) && !said.contains("wrong") && !said.contains("panicked"),
        "{said}"
    );
    let (code, said) = with("right");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(s.run(&["pull", &name]).code, Some(1), "without credentials");
}
