//! The registry client and copies to and from registries, against a registry
//! that misbehaves on demand and, where it is installed, against Debian's
//! docker-registry.

#[path = "it/support/registry.rs"]
mod fake;

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::{Auth, Fault, Registry};
use shiplap::digest::{DiffId, Digest, VerifyingReader};
use shiplap::event::{Cancel, Events};
use shiplap::image::{BlobSource, Descriptor, ImageConfig, Index, Manifest, media_type};
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::registry::credentials::Explicit;
use shiplap::registry::{Client, ClientOptions, Credential, Failure, Registries, Timeouts};
use shiplap::transport::registry::{RegistryDestination, open};
use shiplap::transport::{CopyOptions, Selection, Source, TransportError, copy};

/// Blobs in memory.
#[derive(Default, Clone)]
struct Memory(HashMap<Digest, Vec<u8>>);

impl Memory {
    fn put(&mut self, kind: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, bytes);
        self.0.insert(descriptor.digest.clone(), bytes.to_vec());
        descriptor
    }
}

impl BlobSource for Memory {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self
            .0
            .get(&d.digest)
            .ok_or(io::ErrorKind::NotFound)?
            .clone();
        let reader = io::Cursor::new(bytes);
        Ok(Box::new(VerifyingReader::new(
            reader,
            d.digest.clone(),
            Some(d.size),
        )?))
    }
}

/// Bytes that are no repetition of each other.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut block = Digest::of(&[seed]);
    while bytes.len() < length {
        block = Digest::of(block.as_str().as_bytes());
        bytes.extend_from_slice(block.encoded().as_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An image whose layers are the given bytes.
fn image(layers: &[Vec<u8>]) -> Source {
    let mut memory = Memory::default();
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        rootfs: shiplap::image::RootFs {
            diff_ids: layers.iter().map(|l| DiffId::new(Digest::of(l))).collect(),
            ..Default::default()
        },
        ..Default::default()
    };
    let config = memory.put(media_type::OCI_CONFIG, &config.to_bytes());
    let layers = layers
        .iter()
        .map(|l| memory.put(media_type::OCI_LAYER, l))
        .collect();
    let manifest = Manifest::new(media_type::Format::Oci, config, layers).to_bytes();
    let descriptor = memory.put(media_type::OCI_MANIFEST, &manifest);
    Source::new("the image", descriptor, manifest, Arc::new(memory))
}

fn options() -> ClientOptions {
    ClientOptions {
        backoff: Duration::from_millis(2),
        retries: 4,
        timeouts: Timeouts {
            connect: Duration::from_secs(2),
            header: Duration::from_millis(700),
            idle: Duration::from_millis(500),
            commit: Duration::from_millis(1500),
        },
        ..ClientOptions::default()
    }
}

fn login(registry: &Registry, user: &str, password: &str) -> ClientOptions {
    ClientOptions {
        credentials: Arc::new(Explicit {
            registry: registry.host(),
            credential: Credential::Basic {
                username: user.into(),
                password: password.into(),
            },
        }),
        ..options()
    }
}

fn reference(registry: &Registry, name: &str) -> Reference {
    Reference::parse(&format!("{}/{name}", registry.host())).unwrap()
}

fn push(client: &Client, source: &Source, to: &Reference) -> Result<Descriptor, TransportError> {
    let destination = RegistryDestination::new(client, to);
    copy(
        source,
        &destination,
        &CopyOptions::default(),
        &Events::none(),
        &Cancel::new(),
    )
}

/// Reads everything an image consists of.
fn pull(client: &Client, from: &Reference) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
    let source = open(client, from)?;
    let manifest: Manifest = serde_json::from_slice(&source.bytes)?;
    let mut blobs = Vec::new();
    for d in std::iter::once(&manifest.config).chain(&manifest.layers) {
        let mut bytes = Vec::new();
        source.blobs.open(d)?.read_to_end(&mut bytes)?;
        blobs.push(bytes);
    }
    Ok(blobs)
}

#[test]
fn a_push_can_be_pulled_and_a_second_one_sends_nothing() {
    let registry = Registry::start();
    let client = Client::new(options());
    let layers = [noise(1, 3_000_000), noise(2, 10), Vec::new()];
    let source = image(&layers);
    let to = reference(&registry, "team/app:v1");
    let descriptor = push(&client, &source, &to).unwrap();
    assert_eq!(descriptor.digest, source.descriptor.digest);
    assert!(registry.is_consistent());
    assert_eq!(pull(&client, &to).unwrap()[1..], layers);
    let last = registry
        .log()
        .into_iter()
        .rfind(|l| l.method == "PUT")
        .unwrap();
    assert!(last.target.ends_with("/manifests/v1"), "{last:?}");

    registry.clear_log();
    push(&client, &source, &to).unwrap();
    let mut methods: Vec<String> = registry.log().into_iter().map(|l| l.method).collect();
    methods.sort();
    assert_eq!(methods, ["HEAD", "HEAD", "HEAD", "HEAD", "PUT"]);
    assert!(!registry.saw_secret());
}

#[test]
fn a_base_on_the_same_registry_is_mounted() {
    let registry = Registry::start();
    let client = Client::new(options());
    let base = image(&[noise(1, 50_000)]);
    let base_name = reference(&registry, "base:1");
    push(&client, &base, &base_name).unwrap();
    let derived = image(&[noise(1, 50_000), noise(2, 100)]);
    for (no_mount, name) in [(false, "app:1"), (true, "other:1")] {
        registry.state().no_mount = no_mount;
        registry.clear_log();
        let to = reference(&registry, name);
        let source = derived
            .clone()
            .with_repositories(vec![client.repository(&base_name)]);
        push(&client, &source, &to).unwrap();
        let sent: usize = registry
            .log()
            .iter()
            .filter(|l| !l.target.contains("manifests"))
            .map(|l| l.body)
            .sum();
        assert_eq!(sent < 50_000, !no_mount);
        // A refused mount is used as the upload's session.
        assert_eq!(registry.count("POST", "uploads"), 3);
        assert!(registry.is_consistent());
    }
}

#[test]
fn indexes_are_copied_whole_or_by_platform() {
    let registry = Registry::start();
    let client = Client::new(options());
    let mut memory = Memory::default();
    let mut entries = Vec::new();
    for (seed, arch) in [(1, "amd64"), (2, "arm64")] {
        let one = image(&[noise(seed, 100), noise(9, 100)]);
        memory.put(media_type::OCI_MANIFEST, &one.bytes);
        let manifest: Manifest = serde_json::from_slice(&one.bytes).unwrap();
        for d in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let mut bytes = Vec::new();
            one.blobs.open(d).unwrap().read_to_end(&mut bytes).unwrap();
            memory.put(&d.media_type, &bytes);
        }
        let mut entry = one.descriptor.clone();
        entry.platform = Some(Platform::new("linux", arch));
        entries.push(entry);
    }
    let arm = entries[1].digest.clone();
    let bytes = Index::new(entries).to_bytes();
    let descriptor = memory.put(media_type::OCI_INDEX, &bytes);
    let source = Source::new("both", descriptor.clone(), bytes, Arc::new(memory));
    let to = reference(&registry, "multi:1");
    assert_eq!(
        push(&client, &source, &to).unwrap().digest,
        descriptor.digest
    );
    assert!(registry.is_consistent());
    // The layer that both share went once.
    assert_eq!(registry.count("PUT", "blobs/uploads"), 5);

    let from = open(&client, &to).unwrap();
    let one = reference(&registry, "one:1");
    let destination = RegistryDestination::new(&client, &one);
    let select = |platform: &str| CopyOptions {
        selection: Selection::One(Platform::parse(platform).unwrap()),
        ..CopyOptions::default()
    };
    let copied = copy(
        &from,
        &destination,
        &select("linux/arm64"),
        &Events::none(),
        &Cancel::new(),
    );
    assert_eq!(copied.unwrap().digest, arm);
    let error = copy(
        &from,
        &destination,
        &select("linux/s390x"),
        &Events::none(),
        &Cancel::new(),
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("linux/s390x") && error.contains("linux/arm64"),
        "{error}"
    );

    // As Docker documents, children converted before the index.
    let docker = CopyOptions {
        format: Some(media_type::Format::Docker),
        ..CopyOptions::default()
    };
    let destination = RegistryDestination::new(&client, &reference(&registry, "docker:1"));
    let copied = copy(
        &from,
        &destination,
        &docker,
        &Events::none(),
        &Cancel::new(),
    )
    .unwrap();
    assert_eq!(copied.media_type, media_type::DOCKER_INDEX);
    assert!(registry.is_consistent());
}

#[test]
fn pulls_survive_faults() {
    let big = noise(1, 300_000);
    let bad = |status| Fault::Answer(status, Vec::new(), b"<html>sorry</html>".to_vec());
    let later =
        |value: &str| Fault::Answer(429, vec![("retry-after".into(), value.into())], Vec::new());
    let blobs = "/blobs/";
    for (fault, method, part, times) in [
        (Fault::Close, "GET", blobs, 2),
        (Fault::Close, "GET", "/manifests/", 2),
        (Fault::Cut(0), "GET", blobs, 1),
        (Fault::Cut(1), "GET", blobs, 1),
        (Fault::Cut(150_000), "GET", blobs, 3),
        (Fault::Cut(299_999), "GET", blobs, 1),
        (Fault::Cut(10), "GET", "/manifests/", 1),
        (Fault::Stall(100), "GET", blobs, 1),
        (Fault::Slow(Duration::from_millis(900)), "GET", blobs, 1),
        (bad(500), "GET", blobs, 2),
        (bad(502), "GET", "/manifests/", 2),
        (bad(503), "GET", blobs, 4),
        (bad(504), "GET", "/manifests/", 1),
        (later("0"), "GET", blobs, 2),
        (
            later("Sun, 06 Nov 1994 08:49:37 GMT"),
            "GET",
            "/manifests/",
            2,
        ),
        (
            Fault::Header("docker-content-digest", None),
            "GET",
            "/manifests/",
            9,
        ),
        (Fault::Header("content-type", None), "GET", "/manifests/", 9),
        (Fault::Length(7), "GET", blobs, 1),
        (Fault::Length(-7), "GET", blobs, 1),
    ] {
        let registry = Registry::start();
        let source = image(std::slice::from_ref(&big));
        let from = reference(&registry, "app:1");
        let client = Client::new(options());
        push(&client, &source, &from).unwrap();
        registry.clear_log();
        registry.fault(method, part, 0, times, fault.clone());
        let began = Instant::now();
        let blobs = pull(&client, &from).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(blobs[1], big, "{fault:?}");
        assert!(
            registry.log().len() <= 12,
            "{fault:?}: {}",
            registry.log().len()
        );
        assert!(began.elapsed() < Duration::from_secs(5), "{fault:?}");
    }
}

#[test]
fn downloads_go_on_where_they_broke_and_see_through_lies() {
    let big = noise(1, 300_000);
    for lie in [
        None,
        Some(Fault::IgnoreRange),
        Some(Fault::OtherRange),
        Some(Fault::Answer(416, Vec::new(), Vec::new())),
    ] {
        let registry = Registry::start();
        let digest = registry.put_blob("app", &big);
        let client = Client::new(options());
        let repository = client.repository(&reference(&registry, "app"));
        registry.fault("GET", "/blobs/", 0, 1, Fault::Cut(200_000));
        if let Some(lie) = &lie {
            registry.fault("GET", "/blobs/", 0, 1, lie.clone());
        }
        let descriptor = Descriptor::new(media_type::OCI_LAYER, digest, big.len() as u64);
        let mut bytes = Vec::new();
        repository
            .open_blob(&descriptor)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(bytes, big, "{lie:?}");
        let ranges: Vec<_> = registry
            .log()
            .iter()
            .filter_map(|l| l.headers.get("range").cloned())
            .collect();
        assert_eq!(ranges, ["bytes=200000-"], "{lie:?}");
    }
}

#[test]
fn damaged_and_dishonest_content_is_refused() {
    let big = noise(1, 100_000);
    let header = |name, value: &str| Fault::Header(name, Some(value.to_owned()));
    let other = Digest::of(b"other").to_string();
    for (fault, part) in [
        (Fault::Corrupt, "/blobs/"),
        (Fault::Endless, "/blobs/"),
        (header("content-encoding", "gzip"), "/blobs/"),
        (Fault::Corrupt, "/manifests/"),
        (Fault::Endless, "/manifests/"),
        (header("docker-content-digest", &other), "/manifests/"),
        (
            header("docker-content-digest", "sha256:../../etc"),
            "/manifests/",
        ),
        (header("content-type", media_type::OCI_INDEX), "/manifests/"),
        (
            header("content-type", media_type::DOCKER_MANIFEST),
            "/manifests/",
        ),
        (
            Fault::Answer(200, Vec::new(), vec![b' '; (4 << 20) + 1]),
            "/manifests/",
        ),
        (
            Fault::Answer(200, Vec::new(), vec![b'['; 200_000]),
            "/manifests/",
        ),
        (
            Fault::Answer(200, Vec::new(), b"<html>".to_vec()),
            "/manifests/",
        ),
    ] {
        let registry = Registry::start();
        let from = reference(&registry, "app:1");
        let client = Client::new(options());
        push(&client, &image(std::slice::from_ref(&big)), &from).unwrap();
        registry.clear_log();
        registry.fault("GET", part, 0, usize::MAX, fault.clone());
        let error = pull(&client, &from);
        assert!(error.is_err(), "{fault:?} on {part}");
        assert!(
            registry.log().len() < 10,
            "{fault:?}: {}",
            registry.log().len()
        );
    }
}

#[test]
fn what_is_refused_is_told_clearly() {
    let html = b"\x1b[31mevil\x1b[0m".to_vec();
    let huge = vec![b'x'; 4 << 20];
    let json = br#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#.to_vec();
    for (status, body, expected) in [
        (403, json, "requested access is denied (DENIED)"),
        (500, html, r"\u{1b}[31mevil"),
        (500, huge, "xxxx"),
        (404, Vec::new(), "404"),
    ] {
        let registry = Registry::start();
        registry.fault(
            "GET",
            "/manifests/",
            0,
            usize::MAX,
            Fault::Answer(status, Vec::new(), body),
        );
        let client = Client::new(options());
        let error = client.resolve(&reference(&registry, "app:1")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains(&format!("{}/app:1", registry.host())),
            "{text}"
        );
        assert!(text.len() < 1000 && !text.contains('\x1b'), "{text}");
        assert_eq!(error.status(), Some(status));
        assert!(registry.log().len() <= 5);
    }
    // Nobody there.
    let client = Client::new(options());
    let nobody = Reference::parse("127.0.0.1:1/app").unwrap();
    let text = client.resolve(&nobody).unwrap_err().to_string();
    assert!(text.contains("refuses the connection"), "{text}");
    // Too long a wait is not waited for.
    let registry = Registry::start();
    let wait = vec![("retry-after".to_owned(), "1000000000".to_owned())];
    registry.fault(
        "GET",
        "/manifests/",
        0,
        9,
        Fault::Answer(429, wait, Vec::new()),
    );
    let began = Instant::now();
    let error = client.resolve(&reference(&registry, "app:1")).unwrap_err();
    assert!(error.status() == Some(429) && error.hint().is_some());
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn pushes_survive_faults() {
    let bad = |status| Fault::Answer(status, Vec::new(), b"sorry".to_vec());
    let uploads = "/blobs/uploads/";
    for (fault, method, part, times) in [
        (Fault::Close, "HEAD", "/blobs/", 2),
        (Fault::Close, "POST", uploads, 2),
        (Fault::Close, "PUT", uploads, 2),
        (Fault::ResetEarly, "PUT", uploads, 2),
        (Fault::WorkThenClose, "PUT", uploads, 1),
        (Fault::WorkThen(500), "PUT", uploads, 1),
        (Fault::WorkThen(404), "PUT", uploads, 1),
        (Fault::LoseSessions, "PUT", uploads, 2),
        (bad(416), "PUT", uploads, 1),
        (bad(429), "PUT", uploads, 2),
        (bad(500), "POST", uploads, 2),
        (bad(503), "PUT", uploads, 3),
        (bad(504), "PUT", "/manifests/", 2),
        (Fault::Close, "PUT", "/manifests/", 2),
        (Fault::WorkThenClose, "PUT", "/manifests/", 1),
        (Fault::Slow(Duration::from_millis(1000)), "PUT", uploads, 1),
        (Fault::Header("docker-content-digest", None), "PUT", "/", 9),
    ] {
        let registry = Registry::start();
        let to = reference(&registry, "app:1");
        let client = Client::new(options());
        let layers = [noise(1, 2_000_000), noise(2, 1000)];
        registry.fault(method, part, 0, times, fault.clone());
        push(&client, &image(&layers), &to).unwrap_or_else(|e| panic!("{fault:?} {method}: {e}"));
        let log = registry.log();
        assert!(
            log.len() <= 24,
            "{fault:?} {method}: {} requests",
            log.len()
        );
        assert!(registry.is_consistent());
        assert_eq!(pull(&client, &to).unwrap()[1..], layers, "{fault:?}");
    }
}

#[test]
fn pushes_that_cannot_work_end_soon_and_leave_no_tag() {
    let bad = |status| Fault::Answer(status, Vec::new(), Vec::new());
    let uploads = "/blobs/uploads/";
    let wrong = Fault::Header(
        "docker-content-digest",
        Some(Digest::of(b"wrong").to_string()),
    );
    let nowhere = Fault::Header("location", None);
    let inside = Fault::Header("location", Some("ftp://127.0.0.1/x".into()));
    for (fault, method, part) in [
        (Fault::LoseSessions, "PUT", uploads),
        (Fault::Close, "PUT", uploads),
        (bad(403), "PUT", uploads),
        (bad(413), "PUT", uploads),
        (bad(202), "PUT", uploads),
        (bad(201), "POST", uploads),
        (bad(405), "POST", uploads),
        (bad(500), "HEAD", "/blobs/"),
        (bad(202), "PUT", "/manifests/"),
        (bad(400), "PUT", "/manifests/"),
        (wrong.clone(), "PUT", uploads),
        (wrong, "PUT", "/manifests/"),
        (nowhere, "POST", uploads),
        (inside, "POST", uploads),
    ] {
        let registry = Registry::start();
        let to = reference(&registry, "app:1");
        registry.fault(method, part, 0, usize::MAX, fault.clone());
        let client = Client::new(options());
        let result = push(&client, &image(&[noise(1, 2_000_000), noise(2, 1000)]), &to);
        let text = result
            .expect_err(&format!("{fault:?} {method}"))
            .to_string();
        assert!(text.contains(&registry.host()), "{text}");
        assert!(
            registry.log().len() <= 70,
            "{fault:?}: {}",
            registry.log().len()
        );
        assert!(registry.is_consistent(), "{fault:?}");
    }
}

#[test]
fn a_refusal_does_not_cost_the_transfer() {
    let registry = Registry::start();
    let refusal = Fault::Answer(413, Vec::new(), Vec::new());
    registry.fault("PUT", "/blobs/uploads/", 0, usize::MAX, refusal);
    let client = Client::new(options());
    let to = reference(&registry, "app:1");
    let error = push(&client, &image(&[noise(1, 5_000_000)]), &to).unwrap_err();
    assert!(error.to_string().contains("413"), "{error}");
    let sent: usize = registry.log().iter().map(|l| l.body).sum();
    assert!(sent < 10_000, "{sent} bytes were sent in vain");
}

#[test]
fn a_damaged_source_is_never_pushed() {
    let registry = Registry::start();
    let mut source = image(&[noise(1, 100_000)]);
    let manifest: Manifest = serde_json::from_slice(&source.bytes).unwrap();
    let mut memory = Memory::default();
    let mut damaged = noise(1, 100_000);
    damaged[99_999] ^= 1;
    memory.0.insert(manifest.layers[0].digest.clone(), damaged);
    let mut config = Vec::new();
    source
        .blobs
        .open(&manifest.config)
        .unwrap()
        .read_to_end(&mut config)
        .unwrap();
    memory.put(media_type::OCI_CONFIG, &config);
    source.blobs = Arc::new(memory);
    let client = Client::new(options());
    let error = push(&client, &source, &reference(&registry, "app:1")).unwrap_err();
    assert!(error.to_string().contains("has the digest"), "{error}");
    assert!(registry.state().manifests.is_empty());
}

#[test]
fn basic_and_token_logins() {
    let source = image(&[noise(1, 2_000_000), noise(2, 100)]);
    // Basic.
    let registry = Registry::start();
    registry.state().auth = Auth::Basic("user".into(), "secret".into());
    let to = reference(&registry, "app:1");
    push(
        &Client::new(login(&registry, "user", "secret")),
        &source,
        &to,
    )
    .unwrap();
    for bad in [options(), login(&registry, "user", "wrong")] {
        registry.clear_log();
        let error = Client::new(bad).resolve(&to).unwrap_err();
        assert_eq!(error.status(), Some(401));
        assert!(error.hint().unwrap().contains(&registry.host()));
        assert!(registry.log().len() <= 2);
    }

    // Tokens; each is good for three requests, so they end in mid-push.
    for credential in [
        Credential::Basic {
            username: "user".into(),
            password: "secret".into(),
        },
        Credential::IdentityToken("secret".into()),
    ] {
        let registry = Registry::start();
        let tokens = Registry::start();
        registry.state().auth = Auth::Bearer(tokens.url("/token"));
        {
            let mut state = tokens.state();
            state.token_login = Some(("user".into(), "secret".into()));
            state.issue_to = Some(registry.share());
            state.token_uses = 3;
        }
        let to = reference(&registry, "app:1");
        let with = |credential| ClientOptions {
            credentials: Arc::new(Explicit {
                registry: registry.host(),
                credential,
            }),
            ..options()
        };
        let client = Client::new(with(credential.clone()));
        // One at a time, so that nobody else uses the tokens up.
        let single = CopyOptions {
            jobs: 1,
            ..CopyOptions::default()
        };
        let destination = RegistryDestination::new(&client, &to);
        copy(
            &source,
            &destination,
            &single,
            &Events::none(),
            &Cancel::new(),
        )
        .unwrap();
        pull(&client, &to).unwrap();
        // What the registry suggests as scope is not asked for.
        for l in tokens.log() {
            assert!(!l.target.contains("other"), "{l:?}");
        }
        assert!(tokens.log().len() < 12, "{}", tokens.log().len());
        // The credentials never went to the registry.
        for l in registry.log() {
            let sent = l.headers.get("authorization").cloned().unwrap_or_default();
            assert!(
                sent.is_empty() || sent.starts_with("Bearer token-"),
                "{sent}"
            );
        }
        let wrong = Credential::Basic {
            username: "user".into(),
            password: "wrong-password".into(),
        };
        let error = Client::new(with(wrong)).resolve(&to).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("incorrect username or password"), "{text}");
        assert!(!text.contains("wrong-password"), "{text}");
    }
}

#[test]
fn many_uploads_ask_for_one_token() {
    let registry = Registry::start();
    registry.state().auth = Auth::Bearer(registry.url("/token"));
    let client = Client::new(options());
    let layers: Vec<Vec<u8>> = (0..12).map(|i| noise(i, 1000)).collect();
    let to = reference(&registry, "app:1");
    let destination = RegistryDestination::new(&client, &to);
    let many = CopyOptions {
        jobs: 8,
        ..CopyOptions::default()
    };
    copy(
        &image(&layers),
        &destination,
        &many,
        &Events::none(),
        &Cancel::new(),
    )
    .unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
}

#[test]
fn credentials_stay_at_their_origin() {
    let body = noise(7, 5000);
    // R-01: redirects, to another port and to another address; and back.
    for other in ["127.0.0.1:0", "127.0.0.2:0"] {
        for status in [301, 302, 303, 307, 308] {
            let a = Registry::start();
            let b = Registry::start_on(other);
            a.state().auth = Auth::Basic("user".into(), "secret".into());
            let digest = a.put_blob("app", &body);
            b.put_blob("app", &body);
            let to = b.url(&format!("/v2/app/blobs/{digest}"));
            a.fault("GET", "/blobs/", 1, 1, Fault::Redirect(status, to));
            let client = Client::new(login(&a, "user", "secret"));
            let repository = client.repository(&reference(&a, "app"));
            assert!(repository.has_blob(&digest).unwrap());
            let descriptor = Descriptor::new("", digest.clone(), 5000);
            for _ in 0..2 {
                let mut bytes = Vec::new();
                repository
                    .open_blob(&descriptor)
                    .unwrap()
                    .read_to_end(&mut bytes)
                    .unwrap();
                assert_eq!(bytes, body);
            }
            assert_eq!(b.count("GET", "/blobs/"), 1, "{status}");
            assert!(!b.saw_secret(), "{status} to {other}");

            // A, B, A: what comes back to A has lost its credentials.
            let home = a.url(&format!("/v2/app/blobs/{digest}"));
            b.fault("GET", "/blobs/", 0, 1, Fault::Redirect(status, home));
            a.fault(
                "GET",
                "/blobs/",
                0,
                1,
                Fault::Redirect(status, b.url("/v2/x/blobs/y")),
            );
            a.clear_log();
            assert!(repository.open_blob(&descriptor).is_err());
            let last = a.log().pop().unwrap();
            assert!(!last.headers.contains_key("authorization"));
            assert!(!b.saw_secret());
        }
    }
}

#[test]
fn bad_redirects_are_refused() {
    let a = Registry::start();
    let b = Registry::start();
    let digest = a.put_blob("app", b"x");
    let descriptor = Descriptor::new("", digest.clone(), 1);
    let client = Client::new(options());
    let repository = client.repository(&reference(&a, "app"));
    for target in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://u:p@127.0.0.1/x",
    ] {
        a.fault("GET", "/blobs/", 0, 1, Fault::Redirect(302, target.into()));
        let Err(error) = repository.open_blob(&descriptor) else {
            panic!("{target}")
        };
        assert!(
            matches!(*error.failure, Failure::RedirectRefused { .. }),
            "{error}"
        );
    }
    // Round and round.
    a.clear_log();
    a.fault(
        "GET",
        "/blobs/",
        0,
        100,
        Fault::Redirect(302, a.url("/v2/app/blobs/again")),
    );
    assert!(repository.open_blob(&descriptor).is_err());
    assert!(a.log().len() <= 11, "{}", a.log().len());
    a.state().rules.clear();
    // R-02: a challenge of another server is not answered.
    let c = Registry::start();
    let login = login(&a, "user", "secret");
    b.state().auth = Auth::Bearer(c.url("/token"));
    a.state().auth = Auth::Basic("user".into(), "secret".into());
    a.fault(
        "GET",
        "/blobs/",
        0,
        100,
        Fault::Redirect(307, b.url("/v2/app/blobs/x")),
    );
    let client = Client::new(login);
    assert!(
        client
            .repository(&reference(&a, "app"))
            .open_blob(&descriptor)
            .is_err()
    );
    assert!(!b.saw_secret() && c.log().is_empty());
    // Nothing that changes a registry follows to another one.
    a.state().rules.clear();
    a.fault(
        "PUT",
        "/manifests/",
        0,
        1,
        Fault::Redirect(307, b.url("/v2/app/manifests/x")),
    );
    let put = client
        .repository(&reference(&a, "app"))
        .put_manifest("x", "t", b"{}");
    assert!(put.is_err() && b.count("PUT", "") == 0);
}

#[test]
fn token_servers_are_not_trusted_blindly() {
    let evil = Registry::start_on("127.0.0.2:0");
    let port = evil.address.port();
    for realm in [
        format!("http://127.0.0.2:{port}/token"),
        format!("http://localhost:{port}/token"),
        format!("http://user@127.0.0.1:{port}/token"),
        format!("http://2130706434:{port}/token"),
        "http://169.254.169.254/".into(),
        "http://[::]/token".into(),
        "file:///etc/passwd".into(),
        "no url".into(),
    ] {
        let registry = Registry::start();
        registry.state().auth = Auth::Bearer(realm.clone());
        let client = Client::new(login(&registry, "user", "secret"));
        let error = client.resolve(&reference(&registry, "app:1")).unwrap_err();
        assert!(error.status().is_none(), "{realm}: {error}");
        assert!(evil.log().is_empty(), "{realm}");
        assert!(registry.log().len() <= 2);
    }
    // A token server that passes its client on to another one.
    let registry = Registry::start();
    let tokens = Registry::start();
    registry.state().auth = Auth::Bearer(tokens.url("/token"));
    let onward = format!("http://127.0.0.2:{port}/token");
    tokens.fault("GET", "/token", 0, 9, Fault::Redirect(302, onward));
    let client = Client::new(login(&registry, "user", "secret"));
    assert!(client.resolve(&reference(&registry, "app:1")).is_err());
    assert!(evil.log().is_empty());
    // Tokens that would do harm.
    for body in [
        r#"{"token":"a\r\nx: y"}"#.to_owned(),
        "<html>".into(),
        "x".repeat(2 << 20),
    ] {
        tokens.state().rules.clear();
        tokens.fault(
            "GET",
            "/token",
            0,
            9,
            Fault::Answer(200, Vec::new(), body.into_bytes()),
        );
        let error = client.resolve(&reference(&registry, "app:1")).unwrap_err();
        assert!(matches!(*error.failure, Failure::Protocol(_)), "{error}");
    }
}

#[test]
fn upload_locations_elsewhere_get_no_credentials() {
    let a = Registry::start();
    let b = Registry::start();
    a.state().auth = Auth::Basic("user".into(), "secret".into());
    b.state().uploads.insert("session-9".into());
    let away = b.url("/v2/app/blobs/uploads/session-9?k=v");
    a.fault(
        "POST",
        "/uploads/",
        0,
        9,
        Fault::Header("location", Some(away)),
    );
    let client = Client::new(login(&a, "user", "secret"));
    let mut memory = Memory::default();
    let blob = memory.put("", &noise(1, 3000));
    let repository = client.repository(&reference(&a, "app"));
    repository.has_blob(&blob.digest).unwrap();
    // The registry may take its blobs at another server, which sees nothing.
    repository.upload(&blob, &memory, None, &|_| ()).unwrap();
    assert!(!b.saw_secret());
    let put = b.log().pop().unwrap();
    assert!(put.target.contains("k=v&digest=sha256%3A"), "{put:?}");
}

#[test]
fn lists_end_and_stay_at_home() {
    let registry = Registry::start();
    for tag in ["a", "b", "c", "d", "e"] {
        registry.put_manifest("app", tag, media_type::OCI_MANIFEST, b"{}");
    }
    let client = Client::new(options());
    let repository = client.repository(&reference(&registry, "app"));
    assert_eq!(repository.tags().unwrap(), ["a", "b", "c", "d", "e"]);
    let elsewhere = Registry::start();
    for link in [
        "</v2/app/tags/list?n=1000>; rel=\"next\"".to_owned(),
        format!("<{}>; rel=\"next\"", elsewhere.url("/v2/app/tags/list")),
        "<//127.0.0.9/x>; rel=\"next\"".into(),
        "<file:///etc/passwd>; rel=\"next\"".into(),
    ] {
        registry.clear_log();
        registry.state().rules.clear();
        registry.fault(
            "GET",
            "/tags/",
            0,
            9999,
            Fault::Header("link", Some(link.clone())),
        );
        assert!(repository.tags().is_err(), "{link}");
        assert!(registry.log().len() <= 2);
    }
    assert!(elsewhere.log().is_empty());
}

#[test]
fn cancelling_ends_waits() {
    let registry = Registry::start();
    registry.fault(
        "GET",
        "/manifests/",
        0,
        99,
        Fault::Answer(503, Vec::new(), Vec::new()),
    );
    let slow = ClientOptions {
        backoff: Duration::from_secs(20),
        ..options()
    };
    let cancel = slow.cancel.clone();
    let began = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        cancel.cancel();
    });
    let error = Client::new(slow)
        .resolve(&reference(&registry, "a:1"))
        .unwrap_err();
    assert!(matches!(*error.failure, Failure::Cancelled));
    assert!(began.elapsed() < Duration::from_secs(3));
}

/// All requests of a push and of a pull, in their number.
fn clean_run(push_too: bool) -> usize {
    let registry = Registry::start();
    let to = reference(&registry, "app:1");
    let client = Client::new(options());
    let source = image(&[noise(1, 20_000), noise(2, 1000)]);
    push(&client, &source, &to).unwrap();
    if !push_too {
        registry.clear_log();
        pull(&client, &to).unwrap();
    }
    registry.log().len()
}

#[test]
fn each_request_in_turn_may_fail_once() {
    let bad = |status| Fault::Answer(status, Vec::new(), Vec::new());
    let mut faults: Vec<Fault> = [408, 429, 500, 502, 503, 504].map(bad).to_vec();
    faults.push(Fault::Answer(
        429,
        vec![("retry-after".into(), "0".into())],
        Vec::new(),
    ));
    faults.push(Fault::Close);
    faults.push(Fault::WorkThenClose);
    let source = image(&[noise(1, 20_000), noise(2, 1000)]);
    for push_too in [true, false] {
        let count = clean_run(push_too);
        for fault in &faults {
            for at in 0..count {
                let registry = Registry::start();
                let to = reference(&registry, "app:1");
                let client = Client::new(options());
                if push_too {
                    registry.fault("*", "/v2/", at, 1, fault.clone());
                    push(&client, &source, &to)
                        .unwrap_or_else(|e| panic!("push, {fault:?} at {at}: {e}"));
                } else {
                    push(&client, &source, &to).unwrap();
                    registry.clear_log();
                    registry.fault("*", "/v2/", at, 1, fault.clone());
                    let blobs = pull(&client, &to)
                        .unwrap_or_else(|e| panic!("pull, {fault:?} at {at}: {e}"));
                    assert_eq!(blobs[1], noise(1, 20_000));
                }
                // Again, looking, asking for the session, and a new one.
                let log = registry.log();
                assert!(log.len() <= count + 4, "{fault:?} at {at}: {log:#?}");
                assert!(registry.is_consistent(), "{fault:?} at {at}");
            }
        }
    }
}

#[test]
fn a_registry_that_stays_broken_never_has_half_an_image() {
    let bad = |status| Fault::Answer(status, Vec::new(), Vec::new());
    let source = image(&[noise(1, 20_000), noise(2, 1000)]);
    for fault in [
        bad(500),
        bad(403),
        bad(404),
        bad(401),
        Fault::Close,
        Fault::Forget,
    ] {
        for at in 0..clean_run(true) {
            let registry = Registry::start();
            let to = reference(&registry, "app:1");
            let client = Client::new(options());
            registry.fault("*", "/v2/", at, usize::MAX, fault.clone());
            let result = push(&client, &source, &to);
            assert!(registry.is_consistent(), "{fault:?} at {at}");
            let requests = registry.log().len();
            assert!(requests <= 80, "{fault:?} at {at}: {requests}");
            match fault {
                // It claims to have done all.
                Fault::Forget => {}
                _ => {
                    let error = result.expect_err(&format!("{fault:?} at {at}")).to_string();
                    assert!(error.contains(&registry.host()), "{error}");
                    let state = registry.state();
                    assert!(!state.manifests.values().any(|m| m.contains_key("1")));
                }
            }
        }
    }
}

#[test]
fn tokens_may_end_before_each_request() {
    let source = image(&[noise(1, 20_000), noise(2, 1000)]);
    for uses in 1..6 {
        let registry = Registry::start();
        registry.state().auth = Auth::Bearer(registry.url("/token"));
        registry.state().token_uses = uses;
        let client = Client::new(options());
        let to = reference(&registry, "app:1");
        let single = CopyOptions {
            jobs: 1,
            ..CopyOptions::default()
        };
        let destination = RegistryDestination::new(&client, &to);
        copy(
            &source,
            &destination,
            &single,
            &Events::none(),
            &Cancel::new(),
        )
        .unwrap();
        assert_eq!(pull(&client, &to).unwrap()[1], noise(1, 20_000));
        assert!(registry.is_consistent());
        let log = registry.log().len();
        assert!(log <= 60, "{uses}: {log}");
    }
}

#[test]
fn uploads_go_on_where_they_broke() {
    let size = 400_000;
    let big = noise(1, size);
    for (fault, more, lie) in [
        (Fault::Keep(1000), 0, None),
        (Fault::Keep(size - 1), 0, None),
        (Fault::Keep(size), 0, None),
        (Fault::Accept(300_000), 0, None),
        // Not worth going on for.
        (Fault::Keep(0), size, None),
        // The registry forgot it, or tells nonsense.
        (Fault::Keep(1000), size, Some(Fault::LoseSessions)),
        (
            Fault::Keep(1000),
            size,
            Some(Fault::Header("range", Some("0-99999999".into()))),
        ),
        (Fault::Keep(1000), size, Some(Fault::Header("range", None))),
        (
            Fault::Keep(1000),
            size,
            Some(Fault::Header("range", Some("0-4999".into()))),
        ),
    ] {
        let registry = Registry::start();
        let client = Client::new(options());
        let mut memory = Memory::default();
        let blob = memory.put("", &big);
        registry.fault("PUT", "/uploads/", 0, 1, fault.clone());
        if let Some(lie) = &lie {
            registry.fault("GET", "/uploads/", 0, 1, lie.clone());
        }
        let repository = client.repository(&reference(&registry, "app"));
        repository
            .upload(&blob, &memory, None, &|_| ())
            .unwrap_or_else(|e| panic!("{fault:?} {lie:?}: {e}"));
        let stored = registry.state().blobs["app"][blob.digest.as_str()].clone();
        assert!(stored == big, "{fault:?} {lie:?}");
        let log = registry.log();
        let sent: usize = log.iter().map(|l| l.body).sum();
        assert!(sent <= 2 * size, "{fault:?} {lie:?}: {sent}");
        if more == 0 {
            assert_eq!(sent, size, "{fault:?}: all bytes went once");
        }
        assert!(log.len() <= 10, "{fault:?} {lie:?}: {log:#?}");
    }
}

#[test]
fn token_servers_that_only_know_post_and_refresh_tokens_that_change() {
    let source = image(&[noise(1, 1000)]);
    let with = |registry: &Registry, credential| ClientOptions {
        credentials: Arc::new(Explicit {
            registry: registry.host(),
            credential,
        }),
        ..options()
    };
    let registry = Registry::start();
    {
        let mut state = registry.state();
        state.auth = Auth::Bearer(registry.url("/token"));
        state.token_login = Some(("user".into(), "secret".into()));
        state.post_only = true;
    }
    let client = Client::new(login(&registry, "user", "secret"));
    let to = reference(&registry, "app:1");
    push(&client, &source, &to).unwrap();
    assert!(registry.log().iter().all(|l| !l.target.contains("secret")));

    let registry = Registry::start();
    {
        let mut state = registry.state();
        state.auth = Auth::Bearer(registry.url("/token"));
        state.token_login = Some(("user".into(), "unused".into()));
        state.refresh = Some("refresh-0".into());
        state.token_uses = 2;
    }
    let token = Credential::IdentityToken("refresh-0".into());
    let client = Client::new(with(&registry, token));
    let to = reference(&registry, "app:1");
    push(&client, &source, &to).unwrap();
    assert!(registry.count("POST", "/token") > 1);

    // A login asks for a token without any scope.
    let asked = Client::new(login(&registry, "user", "unused"));
    registry.clear_log();
    assert!(asked.check_login(&registry.host()).unwrap());
    let log = registry.log();
    assert!(log.iter().all(|l| !l.target.contains("scope")), "{log:?}");
    let wrong = Client::new(login(&registry, "user", "wrong"));
    let error = wrong.check_login(&registry.host()).unwrap_err();
    assert_eq!(error.status(), Some(401), "{error}");
    registry.state().auth = Auth::None;
    let open = Client::new(login(&registry, "user", "wrong"));
    assert!(!open.check_login(&registry.host()).unwrap());
}

/// With these lines of `registries.conf`.
fn configured(conf: &str, base: ClientOptions) -> Client {
    let mut registries = Registries::default();
    registries.add("test.conf", conf).unwrap();
    Client::new(ClientOptions { registries, ..base })
}

#[test]
fn mirrors_are_asked_first_and_the_registry_last() {
    let layers = [noise(1, 50_000), noise(2, 10)];
    let source = image(&layers);
    let plain = Client::new(options());
    let (mirror, home) = (Registry::start(), Registry::start());
    push(&plain, &source, &reference(&mirror, "copy/app:1")).unwrap();
    push(&plain, &source, &reference(&home, "app:1")).unwrap();
    let conf = |pull: &str| {
        format!(
            "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}/copy\"\npull-from-mirror = \"{pull}\"",
            home.host(),
            mirror.host()
        )
    };
    let clear = || {
        for registry in [&mirror, &home] {
            registry.clear_log();
            registry.state().rules.clear();
        }
    };
    let by_tag = reference(&home, "app:1");
    let by_digest = by_tag.with_digest(source.descriptor.digest.clone());
    let blob = |client: &Client| pull(client, &by_tag).unwrap()[1..].to_vec();

    // All from the mirror; the home's password stays at home.
    clear();
    home.state().auth = Auth::Basic("user".into(), "secret".into());
    assert_eq!(
        blob(&configured(&conf("all"), login(&home, "user", "secret"))),
        layers
    );
    assert!(home.log().is_empty() && !mirror.saw_secret());
    home.state().auth = Auth::None;

    // By digest only: the tag is asked for at home, and so is the rest.
    clear();
    let client = configured(&conf("digest-only"), options());
    assert_eq!(blob(&client), layers);
    assert!(mirror.log().is_empty());
    client.resolve(&by_digest).unwrap();
    assert_eq!(
        (mirror.log().len(), home.count("GET", "manifests/sha256")),
        (1, 0)
    );

    // The mirror lacks things, lies, breaks off, is not there.
    let everything = usize::MAX;
    for (part, fault) in [
        ("/manifests/", Fault::Answer(404, Vec::new(), Vec::new())),
        ("/manifests/", Fault::Corrupt),
        ("/manifests/", Fault::Answer(503, Vec::new(), Vec::new())),
        ("/blobs/", Fault::Answer(404, Vec::new(), Vec::new())),
        ("/blobs/", Fault::Answer(401, Vec::new(), Vec::new())),
        ("/blobs/", Fault::Cut(5)),
        ("/blobs/", Fault::Close),
    ] {
        clear();
        mirror.fault("GET", part, 0, everything, fault.clone());
        assert_eq!(
            blob(&configured(&conf("all"), options())),
            layers,
            "{fault:?}"
        );
        assert!(
            mirror.log().len() <= 16 && home.log().len() <= 4,
            "{fault:?}"
        );
    }
    clear();
    let nobody = conf("all").replace(&format!("{}/copy", mirror.host()), "127.0.0.1:1/copy");
    assert_eq!(blob(&configured(&nobody, options())), layers);

    // Both fail: one message has both.
    home.fault(
        "GET",
        "/manifests/",
        0,
        1,
        Fault::Answer(404, Vec::new(), Vec::new()),
    );
    let client = configured(&nobody, options());
    let error = client.resolve(&by_tag).unwrap_err();
    let text = error.to_string();
    assert!(
        error.is_not_found() && text.contains("127.0.0.1:1/copy"),
        "{text}"
    );

    // Pushes go home.
    clear();
    let client = configured(&conf("all"), options());
    push(&client, &image(&[noise(3, 10)]), &reference(&home, "new:1")).unwrap();
    assert!(mirror.log().is_empty() && home.count("PUT", "/manifests/1") == 1);
}

#[test]
fn registries_are_remapped_and_blocked() {
    let home = Registry::start();
    let source = image(&[noise(1, 10)]);
    let conf = format!(
        "[[registry]]\nprefix = \"r.example/team\"\nlocation = \"{}/t\"\n\
         [[registry]]\nprefix = \"bad.example\"\nlocation = \"bad.example\"\nblocked = true",
        home.host()
    );
    let client = configured(&conf, options());
    let name = Reference::parse("r.example/team/app:1").unwrap();
    push(&client, &source, &name).unwrap();
    assert_eq!(home.count("PUT", "/v2/t/app/manifests/1"), 1);
    assert!(pull(&client, &name).is_ok());
    let blocked = Reference::parse("bad.example/x:1").unwrap();
    let pushed = push(&client, &source, &blocked).unwrap_err().to_string();
    let pulled = client.resolve(&blocked).unwrap_err().to_string();
    for text in [pushed, pulled] {
        assert!(text.contains("blocked by registries.conf"), "{text}");
    }
}

#[test]
fn artifacts_are_listed_with_and_without_the_api() {
    for api in [true, false] {
        let registry = Registry::start();
        registry.state().referrers = api;
        let client = Client::new(options());
        let to = reference(&registry, "app:1");
        let subject = push(&client, &image(&[noise(1, 10)]), &to).unwrap();
        let repository = client.repository(&to);
        assert!(
            repository
                .referrers(&subject.digest, None)
                .unwrap()
                .is_empty()
        );
        let mut memory = Memory::default();
        memory.put(media_type::EMPTY, media_type::EMPTY_JSON);
        let mut attached = Vec::new();
        for (kind, text) in [("a/one", "1"), ("a/two", "2"), ("a/two", "3")] {
            let file = memory.put("text/plain", text.as_bytes());
            let notes = [("k".to_owned(), text.to_owned())].into();
            let manifest = Manifest::artifact(kind, file, subject.clone(), notes);
            // Somebody else's writing loses ours, once.
            registry.fault("PUT", "/manifests/sha256-", 0, 1, Fault::Forget);
            attached.push(repository.attach(&manifest, &memory).unwrap().digest);
        }
        assert!(registry.is_consistent());
        let list = |kind: Option<&str>| {
            let mut found: Vec<(Digest, String)> = repository
                .referrers(&subject.digest, kind)
                .unwrap()
                .into_iter()
                .map(|d| (d.digest, d.annotations["k"].clone()))
                .collect();
            found.sort_by_key(|(_, k)| k.clone());
            found
        };
        let of = |at: usize| (attached[at].clone(), (at + 1).to_string());
        assert_eq!(list(None), [of(0), of(1), of(2)], "{api}");
        assert_eq!(list(Some("a/two")), [of(1), of(2)], "{api}");
        let lists = registry.count("PUT", "/manifests/sha256-");
        assert_eq!(lists, if api { 0 } else { 6 });
        // Once more is no change.
        let again = registry.log().len();
        assert_eq!(list(None).len(), 3);
        assert!(registry.log().len() <= again + 2);
    }
}

#[test]
fn urls_in_manifests_are_not_followed() {
    let (registry, other) = (Registry::start(), Registry::start());
    let client = Client::new(options());
    let to = reference(&registry, "app:1");
    let layer = Descriptor {
        other: [(
            "urls".to_owned(),
            serde_json::json!([other.url("/layer"), "file:///etc/passwd"]),
        )]
        .into(),
        ..Descriptor::of(media_type::OCI_LAYER, b"layer")
    };
    let config = registry.put_blob("app", b"{}");
    let config = Descriptor::new(media_type::OCI_CONFIG, config, 2);
    let manifest = Manifest::new(media_type::Format::Oci, config, vec![layer]).to_bytes();
    registry.put_manifest("app", "1", media_type::OCI_MANIFEST, &manifest);
    let error = pull(&client, &to).unwrap_err().to_string();
    assert!(error.contains("404"), "{error}");
    assert!(other.log().is_empty());
}

#[test]
fn requests_go_through_the_proxy_that_is_set() {
    use std::net::{TcpListener, TcpStream};
    let registry = Registry::start();
    let address = registry.address;
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = proxy.local_addr().unwrap();
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in proxy.incoming() {
            let mut client = client.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if client.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            seen.lock().unwrap().push(String::from_utf8(head).unwrap());
            let mut server = TcpStream::connect(address).unwrap();
            io::Write::write_all(&mut client, b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let mut there = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut there.0, &mut there.1));
            std::thread::spawn(move || io::copy(&mut server, &mut client));
        }
    });
    let through = |exceptions: &[&str]| {
        Client::new(ClientOptions {
            insecure: ["registry.test:80".to_owned()].into(),
            retries: 0,
            proxies: shiplap::registry::Proxies {
                http: Some(format!("http://me:secret@{at}")),
                https: Some(format!("http://me:secret@{at}")),
                exceptions: exceptions.iter().map(|e| (*e).to_owned()).collect(),
            },
            ..options()
        })
    };
    let to = Reference::parse("registry.test:80/app:1").unwrap();
    push(&through(&[]), &image(&[noise(1, 10)]), &to).unwrap();
    let heads = asked.lock().unwrap().clone();
    assert!(
        heads
            .iter()
            .any(|h| h.starts_with("CONNECT registry.test:80 ")),
        "{heads:?}"
    );
    assert!(
        heads[0]
            .to_ascii_lowercase()
            .contains("proxy-authorization: basic ")
    );
    assert!(!registry.saw_secret());
    // Not through it, and so to a host that is nowhere.
    let error = through(&[".test"]).resolve(&to).unwrap_err().to_string();
    assert!(!error.contains("secret"), "{error}");
    assert_eq!(asked.lock().unwrap().len(), heads.len());
}
