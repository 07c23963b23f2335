use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::archive::OciArchive;
use super::docker_save::DockerArchive;
use super::layout::LayoutDestination;
use super::*;
use crate::digest::{DiffId, VerifyingReader};
use crate::event::{Cancel, Events};
use crate::image::media_type::{Compression, Format};
use crate::image::{Document, ImageConfig, Index, Manifest, RootFs};

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
        let bytes = self.0.get(&d.digest).ok_or(io::ErrorKind::NotFound)?;
        let reader = io::Cursor::new(bytes.clone());
        Ok(Box::new(VerifyingReader::new(
            reader,
            d.digest.clone(),
            Some(d.size),
        )?))
    }
}

fn in_format(format: Format) -> Rewrite {
    Rewrite {
        format: Some(format),
        ..Rewrite::default()
    }
}

/// A small tar with one file.
fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    add(&mut builder, name, content);
    builder.into_inner().unwrap()
}

fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    builder.append_data(&mut header, name, content).unwrap();
}

fn link(builder: &mut tar::Builder<Vec<u8>>, name: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    builder.append_link(&mut header, name, target).unwrap();
}

fn pack(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::Uncompressed => bytes.to_vec(),
        Compression::Gzip | Compression::GzipSingle => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            io::Write::write_all(&mut encoder, bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 3).unwrap(),
    }
}

fn config_of(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids = layers.iter().map(|l| DiffId::new(Digest::of(l))).collect();
    ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        rootfs: RootFs {
            diff_ids,
            ..RootFs::default()
        },
        ..ImageConfig::default()
    }
    .to_bytes()
}

fn image(layers: &[Vec<u8>], compressions: &[Compression]) -> Source {
    let mut memory = Memory::default();
    let config = memory.put(media_type::OCI_CONFIG, &config_of(layers));
    let layers = layers
        .iter()
        .zip(compressions)
        .map(|(l, c)| memory.put(media_type::layer(Format::Oci, *c), &pack(l, *c)))
        .collect();
    let manifest = Manifest::new(Format::Oci, config, layers).to_bytes();
    let descriptor = memory.put(media_type::OCI_MANIFEST, &manifest);
    Source::new("the image", descriptor, manifest, Arc::new(memory))
}

fn run(source: &Source, destination: &dyn Destination) -> Result<Descriptor, TransportError> {
    let options = CopyOptions::default();
    copy(
        source,
        destination,
        &options,
        &Events::none(),
        &Cancel::new(),
    )
}

fn layers(source: &Source) -> Vec<Vec<u8>> {
    let Document::Manifest(manifest) = Document::parse(&source.bytes).unwrap() else {
        panic!("an index");
    };
    manifest
        .layers
        .iter()
        .map(|d| {
            let compression = media_type::layer_compression(&d.media_type).unwrap();
            let reader = source.blobs.open(d).unwrap();
            let mut plain = crate::layer::compress::decompress(reader, compression).unwrap();
            let mut bytes = Vec::new();
            plain.read_to_end(&mut bytes).unwrap();
            bytes
        })
        .collect()
}

#[test]
fn locations() {
    let some = |n: &str| Some(n.to_owned());
    let path = PathBuf::from;
    for (text, expected) in [
        (
            "oci:/a/b",
            Location::Oci {
                path: path("/a/b"),
                name: None,
            },
        ),
        (
            "oci:a:x:1",
            Location::Oci {
                path: path("a"),
                name: some("x:1"),
            },
        ),
        (
            "oci-archive:-",
            Location::OciArchive {
                path: path("-"),
                name: None,
            },
        ),
        (
            "docker-archive:f.tar:a:1",
            Location::DockerArchive {
                path: path("f.tar"),
                name: some("a:1"),
            },
        ),
        (
            "docker-archive:f.tar:@1",
            Location::DockerArchive {
                path: path("f.tar"),
                name: some("@1"),
            },
        ),
        ("dir:/x:y", Location::Dir(path("/x:y"))),
        ("debian:12", Location::Name("debian:12".into())),
        (
            "localhost:5000/x",
            Location::Name("localhost:5000/x".into()),
        ),
        (
            "docker://debian",
            Location::Registry(Reference::parse("debian").unwrap()),
        ),
    ] {
        let got = Location::parse(text).unwrap();
        assert_eq!(got, expected, "{text}");
        if !text.starts_with("docker://") {
            assert_eq!(got.to_string(), text);
        }
    }
    for bad in [
        "",
        "oci:",
        "dir:",
        "docker://",
        "docker://A",
        "http://x/y",
        "oci:d:a b",
        "oci:d:a\nb",
        "docker-archive:f:A",
        "containers-storage:x",
        "docker-daemon:x",
    ] {
        assert!(Location::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn every_place_gives_back_what_it_got() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let contents = [
        tar_of("a", b"first"),
        tar_of("b", &[7; 100_000]),
        tar_of("c", b"third"),
        tar_of("a", b"first"),
    ];
    let all = [
        Compression::Gzip,
        Compression::Zstd,
        Compression::Uncompressed,
        Compression::Gzip,
    ];
    let source = image(&contents, &all);
    let names = ["x:1".to_owned()];
    let references = [Reference::parse("x:1").unwrap()];
    let layout = LayoutDestination::new(&at("layout"), Some("x:1"));
    let archive = OciArchive::create(Output::File(at("oci.tar")), &names).unwrap();
    let plain = dir::DirDestination::new(&at("dir"));
    for destination in [&layout as &dyn Destination, &archive, &plain] {
        assert_eq!(
            run(&source, destination).unwrap().digest,
            source.descriptor.digest
        );
    }
    let docker = DockerArchive::create(Output::File(at("docker.tar")), &references).unwrap();
    let converted = run(&source, &docker).unwrap();

    let again = |s: Result<Source, TransportError>| {
        let s = s.unwrap();
        assert_eq!(s.descriptor.digest, source.descriptor.digest);
        assert_eq!(layers(&s), contents);
    };
    again(layout::open(&at("layout"), None));
    again(layout::open(&at("layout"), Some("x:1")));
    again(layout::open(
        &at("layout"),
        Some(source.descriptor.digest.as_str()),
    ));
    again(layout::open_archive(&at("oci.tar"), Some("x:1")));
    again(dir::open(&at("dir")));
    for name in [None, Some("x:1"), Some("docker.io/library/x:1"), Some("@0")] {
        let s = docker_archive::open(&at("docker.tar"), name).unwrap();
        assert_eq!(layers(&s), contents);
        assert_eq!(s.references, references);
        assert_eq!(s.descriptor.digest, converted.digest);
    }
    // It is a layout as well.
    let as_layout = layout::open_archive(&at("docker.tar"), None).unwrap();
    assert_eq!(layers(&as_layout), contents);
    for wrong in [Some("y:1"), Some("@1"), Some("sha256:zz")] {
        assert!(docker_archive::open(&at("docker.tar"), wrong).is_err());
        let error = layout::open(&at("layout"), wrong).unwrap_err().to_string();
        assert!(error.contains("x:1"), "{error}");
    }
    // Compressed archives are read too.
    for compression in [Compression::Gzip, Compression::Zstd] {
        let packed = pack(&std::fs::read(at("docker.tar")).unwrap(), compression);
        std::fs::write(at("packed"), packed).unwrap();
        assert_eq!(docker_archive::open_any(&at("packed")).unwrap().len(), 1);
    }
    // The same image gives the same archive.
    let second = DockerArchive::create(Output::File(at("docker2.tar")), &references).unwrap();
    run(&source, &second).unwrap();
    assert_eq!(
        std::fs::read(at("docker.tar")).unwrap(),
        std::fs::read(at("docker2.tar")).unwrap()
    );
    // A layout keeps its other images.
    let other = image(&[tar_of("z", b"z")], &[Compression::Gzip]);
    run(&other, &LayoutDestination::new(&at("layout"), Some("y:2"))).unwrap();
    assert!(layout::open(&at("layout"), Some("x:1")).is_ok());
    assert!(layout::open(&at("layout"), Some("y:2")).is_ok());
    assert!(layout::open(&at("layout"), None).is_err());
    let left: Vec<_> = walk(dir.path())
        .into_iter()
        .filter(|p| p.to_string_lossy().contains(".shiplap-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn several_images_share_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let shared = tar_of("base", &[1; 50_000]);
    let mut one = image(std::slice::from_ref(&shared), &[Compression::Gzip]);
    let mut two = image(
        &[shared, tar_of("app", b"app")],
        &[Compression::Gzip, Compression::Zstd],
    );
    one.references = vec![Reference::parse("one:1").unwrap()];
    two.references = vec![
        Reference::parse("two:1").unwrap(),
        Reference::parse("two:2").unwrap(),
    ];
    let sources = [one, two];
    let options = CopyOptions::default();
    for (name, docker) in [("docker.tar", true), ("oci.tar", false)] {
        let path = dir.path().join(name);
        let output = Output::File(path.clone());
        let destination: Box<dyn Destination> = if docker {
            Box::new(DockerArchive::create(output, &[]).unwrap())
        } else {
            Box::new(OciArchive::create(output, &[]).unwrap())
        };
        copy_all(
            &sources,
            &*destination,
            &options,
            &Events::none(),
            &Cancel::new(),
        )
        .unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * 50_000 + 20_000);
        let read = docker_archive::open_any(&path).unwrap();
        assert_eq!(read.len(), 2);
        for (read, source) in read.iter().zip(&sources) {
            assert_eq!(read.references, source.references);
            assert_eq!(layers(read), layers(source));
        }
        assert!(
            run(&sources[0], &*destination).is_err(),
            "a complete archive takes no more"
        );
    }
}

#[test]
fn old_docker_archives_and_their_traps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let layer = tar_of("f", b"content");
    let config = config_of(&[layer.clone(), layer.clone()]);
    let manifest = |config: &str, layers: &[&str]| {
        serde_json::json!([{"Config": config, "RepoTags": ["old:1"], "Layers": layers}]).to_string()
    };
    let build = |fill: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
        docker_archive::open(&path, None)
    };
    // Two layers of which the second links to the first.
    let good = build(&|b| {
        add(b, "./aa/layer.tar", &layer);
        link(b, "bb/layer.tar", "../aa/layer.tar");
        add(b, "c.json", &config);
        add(
            b,
            "manifest.json",
            manifest("c.json", &["aa/layer.tar", "bb/layer.tar"]).as_bytes(),
        );
    })
    .unwrap();
    assert_eq!(layers(&good), [layer.clone(), layer.clone()]);

    let secret = dir.path().join("secret");
    std::fs::write(&secret, &layer).unwrap();
    let secret = secret.to_str().unwrap();
    let two = ["aa/layer.tar", "bb/layer.tar"];
    type Fill<'a> = &'a dyn Fn(&mut tar::Builder<Vec<u8>>);
    let base = |b: &mut tar::Builder<Vec<u8>>| {
        add(b, "aa/layer.tar", &layer);
        add(b, "c.json", &config);
    };
    let cases: [(&str, Fill<'_>); 8] = [
        ("a link out of the archive", &|b| {
            base(b);
            link(b, "bb/layer.tar", secret);
            add(b, "manifest.json", manifest("c.json", &two).as_bytes());
        }),
        ("a relative link out", &|b| {
            base(b);
            link(b, "bb/layer.tar", "../../../../../../etc/passwd");
            add(b, "manifest.json", manifest("c.json", &two).as_bytes());
        }),
        ("a link to itself", &|b| {
            base(b);
            link(b, "bb/layer.tar", "layer.tar");
            add(b, "manifest.json", manifest("c.json", &two).as_bytes());
        }),
        ("a path out", &|b| {
            base(b);
            add(
                b,
                "manifest.json",
                manifest(&format!("../../../..{secret}"), &two).as_bytes(),
            );
        }),
        ("two manifests", &|b| {
            base(b);
            add(b, "bb/layer.tar", &layer);
            add(b, "manifest.json", manifest("c.json", &two).as_bytes());
            add(b, "manifest.json", manifest("c.json", &two).as_bytes());
        }),
        ("too few layers", &|b| {
            base(b);
            add(
                b,
                "manifest.json",
                manifest("c.json", &["aa/layer.tar"]).as_bytes(),
            );
        }),
        ("no manifest", &|b| base(b)),
        ("nonsense", &|b| add(b, "manifest.json", b"{\"a\": 1}")),
    ];
    for (what, fill) in cases {
        assert!(build(fill).is_err(), "{what}");
    }
    // A layer that is not the one the config names.
    let wrong = build(&|b| {
        base(b);
        add(b, "bb/layer.tar", &tar_of("f", b"CONTENT"));
        add(b, "manifest.json", manifest("c.json", &two).as_bytes());
    })
    .unwrap();
    let layout = LayoutDestination::new(&dir.path().join("layout"), None);
    let error = run(&wrong, &layout).unwrap_err().to_string();
    assert!(error.contains("has the digest"), "{error}");
    assert!(!dir.path().join("layout/index.json").exists());
    // Cut anywhere, it is refused or fails when it is read; it never panics.
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(97) {
        std::fs::write(&path, &whole[..length]).unwrap();
        if let Ok(source) = docker_archive::open(&path, None) {
            assert_eq!(source.references.len(), 1);
        }
    }
}

#[test]
fn layouts_do_not_lead_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let content = tar_of("a", b"first");
    let source = image(std::slice::from_ref(&content), &[Compression::Gzip]);
    let destination = LayoutDestination::new(&at("l"), Some("x"));
    run(&source, &destination).unwrap();
    let Document::Manifest(manifest) = Document::parse(&source.bytes).unwrap() else {
        panic!()
    };
    let blob = at("l").join(layout::blob_name(&manifest.layers[0].digest));
    let saved = at("outside");
    std::fs::rename(&blob, &saved).unwrap();
    let open_layer = || {
        let source = layout::open(&at("l"), Some("x")).unwrap();
        let mut bytes = Vec::new();
        source
            .blobs
            .open(&manifest.layers[0])?
            .read_to_end(&mut bytes)
    };
    // A link to the right bytes elsewhere, a FIFO, a directory.
    std::os::unix::fs::symlink(&saved, &blob).unwrap();
    assert!(open_layer().is_err());
    std::fs::remove_file(&blob).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &blob, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(open_layer().is_err());
    std::fs::remove_file(&blob).unwrap();
    std::fs::create_dir(&blob).unwrap();
    assert!(open_layer().is_err());
    std::fs::remove_dir(&blob).unwrap();
    // Damage of each byte is found.
    let bytes = std::fs::read(&saved).unwrap();
    for i in (0..bytes.len()).step_by(13) {
        let mut bad = bytes.clone();
        bad[i] ^= 0x40;
        std::fs::write(&blob, &bad).unwrap();
        assert!(open_layer().is_err(), "byte {i}");
    }
    std::fs::write(&blob, &bytes).unwrap();
    assert!(open_layer().is_ok());
    // What is no layout is not written over.
    std::fs::create_dir(at("home")).unwrap();
    std::fs::write(at("home/precious"), b"x").unwrap();
    let plan = Plan::make(&source, &Selection::All, &Rewrite::default()).unwrap();
    assert!(
        LayoutDestination::new(&at("home"), None)
            .check(&plan)
            .is_err()
    );
    assert!(dir::DirDestination::new(&at("home")).check(&plan).is_err());
    assert!(layout::open(&at("home"), None).is_err());
}

#[test]
fn indexes_are_bounded_and_converted() {
    let mut memory = Memory::default();
    let mut inner = memory.put(media_type::OCI_INDEX, &Index::new(Vec::new()).to_bytes());
    let mut depth = 0;
    let result = loop {
        let bytes = Index::new(vec![inner.clone()]).to_bytes();
        inner = memory.put(media_type::OCI_INDEX, &bytes);
        depth += 1;
        let source = Source::new("deep", inner.clone(), bytes, Arc::new(memory.clone()));
        if let Err(e) = Plan::make(&source, &Selection::All, &Rewrite::default()) {
            break e;
        }
        assert!(depth < 20);
    };
    assert!(result.to_string().contains("nested"), "{result}");
    // A manifest that is said to be an index.
    let one = image(&[tar_of("a", b"a")], &[Compression::Gzip]);
    let mut lie = one.descriptor.clone();
    lie.media_type = media_type::OCI_INDEX.into();
    let source = Source::new("lie", lie, one.bytes.clone(), Arc::clone(&one.blobs));
    assert!(Plan::make(&source, &Selection::All, &Rewrite::default()).is_err());
    // There and back again is the same.
    let docker = Plan::make(&one, &Selection::All, &in_format(Format::Docker)).unwrap();
    assert_eq!(docker.root.media_type, media_type::DOCKER_MANIFEST);
    let bytes = docker.root_bytes().to_vec();
    let source = Source::new("docker", docker.root, bytes, Arc::clone(&one.blobs));
    let back = Plan::make(&source, &Selection::All, &in_format(Format::Oci)).unwrap();
    assert_eq!(back.root.digest, one.descriptor.digest);
}

#[test]
fn archives_go_to_streams_too() {
    #[derive(Clone, Default)]
    struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);
    impl io::Write for Shared {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let out = Shared::default();
    let source = image(&[tar_of("a", b"a")], &[Compression::Zstd]);
    let output = Output::Stream(Box::new(out.clone()));
    run(&source, &DockerArchive::create(output, &[]).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    std::fs::write(&path, &*out.0.lock().unwrap()).unwrap();
    assert_eq!(
        layers(&docker_archive::open(&path, None).unwrap()),
        layers(&source)
    );
}
