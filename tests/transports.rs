//! Copies between the transports and the tools that others use: Debian's
//! docker-registry (plain, with passwords, with TLS), skopeo and umoci. What
//! is not installed is skipped with a message.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shiplap::digest::{DiffId, Digest, VerifyingReader};
use shiplap::event::{Cancel, Events};
use shiplap::image::media_type::{self, Compression, Format};
use shiplap::image::{BlobSource, Descriptor, ImageConfig, Index, Manifest, RootFs};
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::registry::credentials::Explicit;
use shiplap::registry::{Client, ClientOptions, Credential};
use shiplap::roots::Roots;
use shiplap::store::Store;
use shiplap::transport::endpoint::Endpoints;
use shiplap::transport::{CopyOptions, Location, Selection, Source, copy};

/// A program under test conditions: found, or a message and `None`.
fn tool(name: &str) -> Option<&str> {
    let found = std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(name).is_file()));
    if !found {
        #[allow(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: {name} is not installed");
        }
    }
    found.then_some(name)
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

/// Debian's docker-registry, stopped when dropped.
struct DockerRegistry {
    child: Child,
    host: String,
    _dir: tempfile::TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Password,
    Tls,
}

impl DockerRegistry {
    fn start(kind: Kind) -> Option<(Self, Vec<u8>)> {
        tool("docker-registry")?;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  delete: {{enabled: true}}\n  filesystem: {{rootdirectory: {path}/data}}\nhttp:\n  addr: 127.0.0.1:{port}\n"
        );
        let mut ca = Vec::new();
        match kind {
            Kind::Plain => {}
            Kind::Password => {
                tool("htpasswd")?;
                let passwords = run(Command::new("htpasswd").args(["-Bbn", "user", "secret"]));
                std::fs::write(dir.path().join("htpasswd"), passwords).unwrap();
                config.push_str(&format!(
                    "auth:\n  htpasswd: {{realm: test, path: {path}/htpasswd}}\n"
                ));
            }
            Kind::Tls => {
                tool("openssl")?;
                run(Command::new("openssl")
                    .current_dir(dir.path())
                    .args([
                        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    ])
                    .args([
                        "-keyout",
                        "key.pem",
                        "-out",
                        "cert.pem",
                        "-subj",
                        "/CN=localhost",
                    ])
                    .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
                    .args(["-addext", "basicConstraints=critical,CA:FALSE"]));
                config.push_str(&format!(
                    "  tls: {{certificate: {path}/cert.pem, key: {path}/key.pem}}\n"
                ));
                ca = std::fs::read(dir.path().join("cert.pem")).unwrap();
            }
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self {
            child,
            host: format!("127.0.0.1:{port}"),
            _dir: dir,
        };
        let began = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "docker-registry does not start"
            );
            std::thread::sleep(Duration::from_millis(30));
        }
        Some((registry, ca))
    }
}

#[derive(Default, Clone)]
struct Memory(HashMap<Digest, Vec<u8>>);

impl Memory {
    fn put(&mut self, kind: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, bytes);
        self.0.insert(descriptor.digest.clone(), bytes.to_vec());
        descriptor
    }

    /// A manifest for `arch` with two layers.
    fn image(&mut self, arch: &str) -> Descriptor {
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        for (name, size) in [("etc/shared", 2_000_000), (arch, 10)] {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(0o644);
            header.set_cksum();
            let content: Vec<u8> = (0..size).map(|i| (i * i % 251) as u8).collect();
            builder
                .append_data(&mut header, name, content.as_slice())
                .unwrap();
            let tar = builder.into_inner().unwrap();
            diff_ids.push(DiffId::new(Digest::of(&tar)));
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
            encoder.write_all(&tar).unwrap();
            let packed = encoder.finish().unwrap();
            layers.push(self.put(media_type::layer(Format::Oci, Compression::Gzip), &packed));
        }
        let config = ImageConfig {
            architecture: arch.into(),
            os: "linux".into(),
            rootfs: RootFs {
                diff_ids,
                ..RootFs::default()
            },
            ..ImageConfig::default()
        };
        let config = self.put(media_type::OCI_CONFIG, &config.to_bytes());
        let manifest = Manifest::new(Format::Oci, config, layers).to_bytes();
        let mut descriptor = self.put(media_type::OCI_MANIFEST, &manifest);
        descriptor.platform = Some(Platform::new("linux", arch));
        descriptor
    }
}

impl BlobSource for Memory {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.0.get(&d.digest).ok_or(io::ErrorKind::NotFound)?;
        let reader = io::Cursor::new(bytes.clone());
        Ok(Box::new(VerifyingReader::new(
            reader,
            d.digest.clone(),
            Some(d.size),
        )?))
    }
}

fn index() -> Source {
    let mut memory = Memory::default();
    let entries = vec![memory.image("amd64"), memory.image("arm64")];
    let bytes = Index::new(entries).to_bytes();
    let descriptor = memory.put(media_type::OCI_INDEX, &bytes);
    Source::new("the index", descriptor, bytes, Arc::new(memory))
}

fn single() -> Source {
    let mut memory = Memory::default();
    let mut descriptor = memory.image("amd64");
    descriptor.platform = None;
    let bytes = memory.0[&descriptor.digest].clone();
    Source::new("the image", descriptor, bytes, Arc::new(memory))
}

fn put(source: &Source, to: &str, ends: &Endpoints<'_>) -> Descriptor {
    let location = Location::parse(to).unwrap();
    let destination = ends.create(&location, || Box::new(io::stdout())).unwrap();
    let options = CopyOptions::default();
    copy(
        source,
        &*destination,
        &options,
        &Events::none(),
        &Cancel::new(),
    )
    .unwrap()
}

fn get(from: &str, ends: &Endpoints<'_>) -> Source {
    ends.open(&Location::parse(from).unwrap()).unwrap()
}

/// Reads all that a source has, by copying it into a fresh layout.
fn check(source: &Source, scratch: &Path, ends: &Endpoints<'_>) {
    let dir = tempfile::tempdir_in(scratch).unwrap();
    put(source, &format!("oci:{}/l", dir.path().display()), ends);
}

fn client() -> Client {
    Client::new(ClientOptions::default())
}

#[test]
fn docker_registry_and_skopeo_agree_with_us() {
    let Some((registry, _)) = DockerRegistry::start(Kind::Plain) else {
        return;
    };
    let client = client();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let ends = Endpoints {
        client: &client,
        store: Some(&store),
    };
    let (one, many) = (single(), index());
    let host = &registry.host;
    let at = |name: &str| dir.path().join(name).display().to_string();
    assert_eq!(
        put(&one, &format!("docker://{host}/a/one:1"), &ends).digest,
        one.descriptor.digest
    );
    assert_eq!(
        put(&many, &format!("docker://{host}/a/many:1"), &ends).digest,
        many.descriptor.digest
    );
    let pulled = get(&format!("docker://{host}/a/many:1"), &ends);
    assert_eq!(pulled.bytes, many.bytes);
    check(&pulled, dir.path(), &ends);
    // The store takes it and gives it back.
    let name = format!("{host}/a/many:1");
    put(&pulled, &name, &ends);
    let stored = get(&name, &ends);
    assert_eq!(stored.descriptor.digest, many.descriptor.digest);
    check(&stored, dir.path(), &ends);
    // Lists, lookups, deletion.
    let reference = Reference::parse(&format!("{host}/a/one:1")).unwrap();
    let repository = client.repository(&reference);
    assert_eq!(repository.tags().unwrap(), ["1"]);
    let found = repository.head("1").unwrap().unwrap();
    assert_eq!(found.digest, one.descriptor.digest);
    assert!(repository.head("2").unwrap().is_none());
    repository.delete_manifest(found.digest.as_str()).unwrap();
    assert!(repository.head("1").unwrap().is_none());

    let Some(skopeo) = tool("skopeo") else { return };
    let inspect = run(Command::new(skopeo).args([
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{host}/a/many:1"),
    ]));
    assert_eq!(inspect.as_bytes(), many.bytes);
    // What skopeo pushes, in Docker's form, comes back to us.
    let layout = at("sk");
    put(&one, &format!("oci:{layout}:x"), &ends);
    let to = format!("docker://{host}/a/two:1");
    run(Command::new(skopeo).args([
        "copy",
        "-q",
        "--format",
        "v2s2",
        "--dest-tls-verify=false",
        &format!("oci:{layout}:x"),
        &to,
    ]));
    let two = get(&to, &ends);
    assert_eq!(two.descriptor.media_type, media_type::DOCKER_MANIFEST);
    check(&two, dir.path(), &ends);
}

#[test]
fn passwords_and_certificates_of_a_real_registry() {
    let source = single();
    if let Some((registry, _)) = DockerRegistry::start(Kind::Password) {
        let to = format!("docker://{}/app:1", registry.host);
        let with = |password: &str| {
            Client::new(ClientOptions {
                credentials: Arc::new(Explicit {
                    registry: registry.host.clone(),
                    credential: Credential::Basic {
                        username: "user".into(),
                        password: password.into(),
                    },
                }),
                ..ClientOptions::default()
            })
        };
        put(
            &source,
            &to,
            &Endpoints {
                client: &with("secret"),
                store: None,
            },
        );
        for bad in [client(), with("wrong")] {
            let ends = Endpoints {
                client: &bad,
                store: None,
            };
            let error = ends.open(&Location::parse(&to).unwrap()).unwrap_err();
            assert!(error.to_string().contains("401"), "{error}");
        }
    }
    if let Some((registry, ca)) = DockerRegistry::start(Kind::Tls) {
        let to = format!("docker://{}/app:1", registry.host);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&ca).unwrap();
        let trusting = ClientOptions {
            roots: Roots::new(Some(file.path().to_owned()), Vec::new()),
            ..ClientOptions::default()
        };
        let careless = ClientOptions {
            insecure_all: true,
            ..ClientOptions::default()
        };
        for options in [trusting, careless] {
            let client = Client::new(options);
            put(
                &source,
                &to,
                &Endpoints {
                    client: &client,
                    store: None,
                },
            );
        }
        let began = Instant::now();
        let wary = client();
        let ends = Endpoints {
            client: &wary,
            store: None,
        };
        let error = ends.open(&Location::parse(&to).unwrap()).unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "a certificate does not get better by waiting"
        );
    }
}

#[test]
fn skopeo_and_umoci_read_what_we_write_and_we_what_they_write() {
    let Some(skopeo) = tool("skopeo") else { return };
    let client = client();
    let ends = Endpoints {
        client: &client,
        store: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let one = single();
    let reference = "docker.io/library/x:1";
    for (ours, theirs) in [
        (format!("oci:{}:x", at("a")), format!("oci:{}:x", at("b"))),
        (
            format!("oci-archive:{}:x", at("a.tar")),
            format!("oci-archive:{}:x", at("b.tar")),
        ),
        (
            format!("docker-archive:{}:{reference}", at("ad.tar")),
            format!("docker-archive:{}:{reference}", at("bd.tar")),
        ),
        (format!("dir:{}", at("ad")), format!("dir:{}", at("bd"))),
    ] {
        let written = put(&one, &ours, &ends);
        let raw = run(Command::new(skopeo).args(["inspect", "--raw", &ours]));
        if !ours.starts_with("docker-archive") {
            assert_eq!(Digest::of(raw.as_bytes()), written.digest, "{ours}");
        }
        run(Command::new(skopeo).args(["copy", "-q", &ours, &theirs]));
        let back = get(&theirs, &ends);
        check(&back, dir.path(), &ends);
        if !ours.starts_with("docker-archive") {
            assert_eq!(back.descriptor.digest, written.digest, "{ours}");
        } else {
            assert_eq!(back.references, [Reference::parse(reference).unwrap()]);
        }
    }
    // An index, whole.
    let many = index();
    for (ours, theirs) in [
        (format!("oci:{}:m", at("m")), format!("oci:{}:m", at("mb"))),
        (format!("dir:{}", at("md")), format!("dir:{}", at("mdb"))),
    ] {
        put(&many, &ours, &ends);
        run(Command::new(skopeo).args(["copy", "-q", "--all", &ours, &theirs]));
        let back = get(&theirs, &ends);
        assert_eq!(back.descriptor.digest, many.descriptor.digest);
        check(&back, dir.path(), &ends);
    }
    let select = CopyOptions {
        selection: Selection::One(Platform::parse("linux/arm64").unwrap()),
        ..CopyOptions::default()
    };
    let location = Location::parse(&format!("oci:{}:arm", at("m"))).unwrap();
    let destination = ends.create(&location, || Box::new(io::stdout())).unwrap();
    copy(
        &many,
        &*destination,
        &select,
        &Events::none(),
        &Cancel::new(),
    )
    .unwrap();
    if let Some(umoci) = tool("umoci") {
        let list = run(Command::new(umoci).args(["ls", "--layout", &at("m")]));
        assert_eq!(list.lines().collect::<Vec<_>>(), ["m", "arm"]);
        let bundle = at("bundle");
        run(Command::new(umoci).args([
            "unpack",
            "--rootless",
            "--image",
            &format!("{}:arm", at("m")),
            &bundle,
        ]));
        assert!(Path::new(&bundle).join("rootfs/arm64").exists());
    }
}
