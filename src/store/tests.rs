// Skipped tests say so.
#![allow(clippy::print_stderr)]

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::digest::{DiffId, Digest};
use crate::image::media_type::{self, Format};
use crate::image::{BlobSink, BlobSource, Descriptor, Index, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

/// An image with one layer of the given bytes.
fn image(store: &Store, layer: &[u8], platform: &Platform) -> Descriptor {
    let layer_blob = store.put_bytes(media_type::OCI_LAYER, layer).unwrap();
    let config = serde_json::json!({
        "architecture": platform.architecture, "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": [layer_blob.digest]},
    });
    let config = store
        .put_bytes(media_type::OCI_CONFIG, config.to_string().as_bytes())
        .unwrap();
    let manifest = Manifest::new(Format::Oci, config, vec![layer_blob]);
    store
        .put_bytes(media_type::OCI_MANIFEST, &manifest.to_bytes())
        .unwrap()
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64")
}

fn read(store: &Store, d: &Descriptor) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    BlobSource::open(store, d)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn blobs_come_and_go_whole() {
    let (_dir, store) = store();
    let a = store.put_bytes("x", b"hello").unwrap();
    assert_eq!(store.put_bytes("x", b"hello").unwrap(), a);
    assert_eq!(read(&store, &a).unwrap(), b"hello");

    let mut writer = BlobSink::create(&store).unwrap();
    writer.write_all(b"streamed").unwrap();
    let digest = Digest::of(b"streamed");
    assert!(!store.has(&digest));
    writer.commit(&digest).unwrap();
    assert!(store.has(&digest));

    let mut dropped = BlobSink::create(&store).unwrap();
    dropped.write_all(b"nothing").unwrap();
    drop(dropped);
    let session = store.session().unwrap();
    let left: Vec<_> = std::fs::read_dir(&session.dir).unwrap().collect();
    assert_eq!(left.len(), 1, "only the lock: {left:?}");

    let promised = Descriptor::of("x", b"promised");
    let error = store.put_reader(&promised, &b"other!!!"[..]).unwrap_err();
    assert!(format!("{error:?}").contains("has the digest"), "{error:?}");
    assert!(!store.has(&promised.digest));
    store.put_reader(&promised, &b"promised"[..]).unwrap();
    assert!(store.has(&promised.digest));

    let sha512 = Digest::parse(&format!("sha512:{}", "ab".repeat(64))).unwrap();
    let mut other = store.new_blob().unwrap();
    other.write_all(b"first of its algorithm").unwrap();
    other.publish(&sha512).unwrap();
    assert!(store.has(&sha512));
}

#[test]
fn damaged_blobs_are_told() {
    let (dir, store) = store();
    let d = store.put_bytes("x", b"hello").unwrap();
    let path = store.blob_path(&d.digest);
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "hello").unwrap();

    std::fs::write(&path, "HELLO").unwrap();
    assert!(read(&store, &d).is_err());
    assert_eq!(store.check(false).unwrap().damages.len(), 1);
    std::fs::write(&path, "hell").unwrap();
    let error = BlobSource::open(&store, &d).map(drop).unwrap_err();
    assert!(error.to_string().contains("4 bytes, 5 were promised"));
    // Its size gives it away, so storing it again heals it.
    store.put_bytes("x", b"hello").unwrap();
    assert_eq!(read(&store, &d).unwrap(), b"hello");

    for make in [
        (|p: &Path, s: &Path| symlink(s, p).unwrap()) as fn(&Path, &Path),
        |p, _| std::fs::create_dir(p).unwrap(),
        |p, _| {
            let mode = Mode::RWXU;
            rustix::fs::mknodat(rustix::fs::CWD, p, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        },
    ] {
        std::fs::remove_file(&path).unwrap();
        make(&path, &secret);
        assert!(!store.has(&d.digest));
        let error = BlobSource::open(&store, &d).map(drop).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        assert!(store.check(false).unwrap().damages.len() == 1);
        if path.symlink_metadata().unwrap().is_dir() {
            std::fs::remove_dir(&path).unwrap();
            std::fs::write(&path, "").unwrap();
        }
    }
    let moved = store.check(true).unwrap().damages.remove(0).moved.unwrap();
    assert!(moved.starts_with(store.root().join("aside")) && moved.exists());
    assert_eq!(store.check(true).unwrap().damages, []);
}

#[test]
fn names_move_last_and_foreign_entries_stay() {
    let (_dir, store) = store();
    let a = image(&store, b"a", &amd64());
    let b = image(&store, b"b", &amd64());
    let index = store.root().join("index.json");
    let foreign = format!(
        r#"{{"schemaVersion":2,"zz":[1],"manifests":[
            {{"mediaType":"{}","digest":"{}","size":{},"yy":true}},
            {{"mediaType":"{}","digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"not a reference"}}}}]}}"#,
        a.media_type, a.digest, a.size, a.media_type, a.digest, a.size
    );
    std::fs::write(&index, foreign).unwrap();
    let (app, other) = (
        reference("localhost:5000/app:1"),
        reference("debian:bookworm"),
    );
    store
        .set_refs(&[(app.clone(), a.clone()), (other.clone(), a.clone())])
        .unwrap();
    store.set_refs(&[(app.clone(), b.clone())]).unwrap();
    let names: Vec<_> = store.refs().unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(
        names,
        ["debian:bookworm", "localhost:5000/app:1", "not a reference"]
    );
    assert_eq!(store.get_ref(&app).unwrap().unwrap().digest, b.digest);
    let text = std::fs::read_to_string(&index).unwrap();
    assert!(
        text.contains(r#""zz":[1]"#) && text.contains(r#""yy":true"#),
        "{text}"
    );

    let missing = Descriptor::of(media_type::OCI_MANIFEST, b"missing");
    let two = [(other.clone(), b.clone()), (app.clone(), missing)];
    assert!(matches!(
        store.set_refs(&two),
        Err(StoreError::NoBlob { .. })
    ));
    assert_eq!(store.get_ref(&other).unwrap().unwrap().digest, a.digest);

    assert!(store.remove_ref(&other).unwrap());
    assert!(!store.remove_ref(&other).unwrap());
    assert!(store.remove_name("not a reference").unwrap());
    assert_eq!(store.refs().unwrap().len(), 1);
}

#[test]
fn a_damaged_list_of_names_is_never_an_empty_one() {
    let (_dir, store) = store();
    let a = image(&store, b"a", &amd64());
    store.set_refs(&[(reference("a"), a.clone())]).unwrap();
    let index = store.root().join("index.json");
    let good = std::fs::read(&index).unwrap();
    for bad in [&b""[..], b"{}", b"[]", &good[..good.len() / 2], b"\0\0\0\0"] {
        std::fs::write(&index, bad).unwrap();
        assert!(matches!(store.refs(), Err(StoreError::Damaged { .. })));
        assert!(store.set_refs(&[(reference("b"), a.clone())]).is_err());
        assert!(store.prune(&PruneOptions::default()).is_err());
    }
    std::fs::remove_file(&index).unwrap();
    assert!(store.prune(&PruneOptions::default()).is_err());
    assert!(Store::open(store.root()).unwrap().refs().is_err());
    assert!(store.has(&a.digest));
}

#[test]
fn finds_by_name_digest_and_id() {
    let (_dir, store) = store();
    let a = image(&store, b"a", &amd64());
    let b = image(&store, b"b", &Platform::new("linux", "arm64"));
    let entry = |d: &Descriptor, arch: &str| Descriptor {
        platform: Some(Platform::new("linux", arch)),
        ..d.clone()
    };
    let index = Index::new(vec![entry(&a, "amd64"), entry(&b, "arm64")]);
    let index = store
        .put_bytes(media_type::OCI_INDEX, &index.to_bytes())
        .unwrap();
    store
        .set_refs(&[
            (reference("one"), a.clone()),
            (reference("h.io/many:2"), index.clone()),
        ])
        .unwrap();
    let found = |text: &str| store.find(text).map(|d| d.digest);
    let config = store.load_image(&a, None).unwrap().manifest.config.digest;
    for (text, digest) in [
        ("one", &a.digest),
        ("docker.io/library/one:latest", &a.digest),
        ("h.io/many:2", &index.digest),
        (&format!("one@{}", a.digest), &a.digest),
        (&format!("new-name@{}", b.digest), &b.digest),
        (b.digest.as_str(), &b.digest),
        (config.as_str(), &a.digest),
        (config.short(), &a.digest),
        (&b.digest.encoded()[..20], &b.digest),
    ] {
        assert_eq!(found(text).unwrap(), *digest, "{text}");
    }
    for text in [
        "two",
        "abc",
        "h.io/many",
        "../x",
        "",
        "zzzz",
        &"f".repeat(64),
    ] {
        assert!(
            matches!(found(text), Err(StoreError::NoImage { .. })),
            "{text}"
        );
    }
    let arm = store.load_image(&index, Some(&Platform::new("linux", "arm64")));
    assert_eq!(arm.unwrap().descriptor.digest, b.digest);
    let error = store
        .load_image(&index, Some(&Platform::new("linux", "s390x")))
        .unwrap_err();
    assert!(
        error.to_string().contains("linux/amd64, linux/arm64"),
        "{error}"
    );
}

#[test]
fn layers_are_found_when_complete() {
    let (_dir, store) = store();
    let id = DiffId::new(Digest::of(b"layer"));
    let layer = store.new_layer().unwrap();
    let (fs, work) = (layer.fs().to_owned(), layer.work().to_owned());
    assert_eq!(fs.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    std::fs::write(fs.join("file"), "x").unwrap();
    assert_eq!(store.layer_dir(&id), None);
    assert_eq!(layer.publish(&id).unwrap(), fs);
    assert_eq!(store.layer_dir(&id), Some(fs.clone()));
    assert!(fs.join("file").exists() && !work.exists());

    let second = store.new_layer().unwrap();
    let second_fs = second.fs().to_owned();
    assert_eq!(second.publish(&id).unwrap(), fs);
    assert!(second_fs.exists(), "it may be in use");

    let dropped = store.new_layer().unwrap();
    let dropped_dir = dropped.fs().parent().unwrap().to_owned();
    drop(dropped);
    assert!(!dropped_dir.exists());

    // A link that leads out is none.
    let link = store.layer_link(&DiffId::new(Digest::of(b"evil")));
    symlink("../../..", &link).unwrap();
    assert_eq!(store.layer_dir(&DiffId::new(Digest::of(b"evil"))), None);
    let third = store.new_layer().unwrap();
    third.publish(&DiffId::new(Digest::of(b"evil"))).unwrap();
}

#[test]
fn records_are_whole_or_not_there() {
    let (_dir, store) = store();
    let key = Digest::of(b"key");
    assert_eq!(store.cache_get(&key), None);
    store.cache_put(&key, b"one").unwrap();
    store.cache_put(&key, b"two\nlines").unwrap();
    assert_eq!(store.cache_get(&key).unwrap(), b"two\nlines");
    let path = list_dir(&store.path("cache")).remove(0);
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(store.cache_get(&key), None, "cut at {cut}");
    }
    store.cache_remove(&key).unwrap();
    store.cache_remove(&key).unwrap();
}

fn list_dir(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    found.sort();
    found
}

#[test]
fn the_root_is_ours_alone() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| Store::open(&dir.path().join(name));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;

    let made = open("a/b/store").unwrap();
    assert_eq!(mode(made.root()), 0o700);
    drop(made);

    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let made = open("empty").unwrap();
    assert_eq!(mode(made.root()), 0o700);
    let root = made.root().to_owned();
    drop(made);
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(open("empty"), Err(StoreError::Unsafe { .. })));
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();

    std::fs::write(root.join("version"), "2\n").unwrap();
    let error = open("empty").unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");
    for bad in ["", "x", "-1", "99999999999999999999"] {
        std::fs::write(root.join("version"), bad).unwrap();
        assert!(open("empty").is_err(), "{bad:?}");
    }

    std::fs::create_dir(dir.path().join("home")).unwrap();
    let home = dir.path().join("home");
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(home.join("letters"), "").unwrap();
    assert!(matches!(open("home"), Err(StoreError::Foreign { .. })));
    assert_eq!(list_dir(&home).len(), 1);

    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(open("file").is_err());

    if rustix::process::geteuid().is_root() {
        let theirs = dir.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(12345), None).unwrap();
        assert!(matches!(open("theirs"), Err(StoreError::Unsafe { .. })));
        // A link that someone else left does not help either.
        symlink("theirs", dir.path().join("link")).unwrap();
        assert!(open("link").is_err());
    }
}

#[test]
fn interrupted_creation_is_completed_and_layouts_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let good = b"good";
    let bad = Digest::of(b"what it should be");
    std::fs::write(
        root.join("blobs/sha256").join(Digest::of(good).encoded()),
        good,
    )
    .unwrap();
    std::fs::write(root.join("blobs/sha256").join(bad.encoded()), "else").unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.has(&Digest::of(good)));
    assert!(!store.has(&bad), "a store of unknown past is checked");
    assert_eq!(store.refs().unwrap(), []);
}

#[test]
fn what_the_dead_left_is_swept_and_the_living_keep_theirs() {
    let (_dir, store) = store();
    let layer = store.new_layer().unwrap();
    let temp = store.temp_dir().unwrap();
    let root = store.root().to_owned();
    for name in [
        "tmp/aaaaaaaa",
        "layers/aaaaaaaa-1",
        "layers/aaaaaaaa-1/fs",
        "layers/foreign",
    ] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::write(root.join("tmp/aaaaaaaa/b1"), "half a blob").unwrap();
    let published = store.new_layer().unwrap();
    let id = DiffId::new(Digest::of(b"layer"));
    let fs = published.publish(&id).unwrap();

    let second = Store::open(&root).unwrap();
    assert!(layer.fs().exists() && temp.path().exists() && fs.exists());
    assert!(!root.join("tmp/aaaaaaaa").exists());
    assert!(!root.join("layers/aaaaaaaa-1").exists());
    assert!(root.join("layers/foreign").exists(), "not ours");
    assert!(second.empty_trash().unwrap().removed >= 2);
    assert_eq!(list_dir(&root.join("trash")), Vec::<PathBuf>::new());

    let scratch = temp.path().to_owned();
    drop((layer, temp));
    assert!(!scratch.exists());
    drop(store);
    drop(second);
    let third = Store::open(&root).unwrap();
    assert_eq!(list_dir(&root.join("tmp")), Vec::<PathBuf>::new());
    assert_eq!(third.layer_dir(&id), Some(fs));
    drop(third);
    assert_eq!(list_dir(&root.join("tmp")), Vec::<PathBuf>::new());
}

#[test]
fn after_a_new_boot_only_what_was_flushed_is_trusted() {
    let (_dir, store) = store();
    let root = store.root().to_owned();
    let old = DiffId::new(Digest::of(b"old"));
    store.new_layer().unwrap().publish(&old).unwrap();
    let named = image(&store, b"named", &amd64());
    store
        .set_refs(&[(reference("named"), named.clone())])
        .unwrap();
    store.settle().unwrap();
    // Make what came before clearly older than the flush.
    let past = std::time::SystemTime::now() - Duration::from_secs(3600);
    let boot = root.join("locks/boot");
    std::fs::File::open(&boot)
        .unwrap()
        .set_modified(past + Duration::from_secs(60))
        .unwrap();
    let link = store.layer_link(&old);
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
    };
    let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, &link, &times, nofollow).unwrap();

    let new = DiffId::new(Digest::of(b"new"));
    store.new_layer().unwrap().publish(&new).unwrap();
    let torn = store.put_bytes("x", b"torn").unwrap();
    std::fs::write(store.blob_path(&torn.digest), "").unwrap();
    let whole = store.put_bytes("x", b"whole").unwrap();
    let time = boot.metadata().unwrap().modified().unwrap();
    std::fs::write(&boot, "another boot\n").unwrap();
    std::fs::File::open(&boot)
        .unwrap()
        .set_modified(time)
        .unwrap();

    // While someone uses the store nothing is taken away.
    drop(Store::open(&root).unwrap());
    assert!(store.has(&torn.digest));
    drop(store);
    let store = Store::open(&root).unwrap();
    assert!(!store.has(&torn.digest) && store.has(&whole.digest));
    assert!(store.layer_dir(&old).is_some() && store.layer_dir(&new).is_none());
    assert!(store.load_image(&named, None).is_ok());
    assert_eq!(store.check(false).unwrap().damages, []);
}

#[test]
fn prune_keeps_what_is_needed() {
    let (_dir, store) = store();
    let kept = image(&store, b"kept", &amd64());
    let lost = image(&store, b"lost", &amd64());
    let cached = store.put_bytes("x", b"cached").unwrap();
    store
        .set_refs(&[(reference("kept"), kept.clone())])
        .unwrap();
    let diff = |bytes: &[u8]| DiffId::new(Digest::of(bytes));
    for bytes in [&b"kept"[..], b"lost", b"cached layer"] {
        let layer = store.new_layer().unwrap();
        std::fs::write(layer.fs().join("f"), bytes).unwrap();
        layer.publish(&diff(bytes)).unwrap();
    }
    let record = format!(
        "{{\"blob\":\"{}\",\"diff\":\"{}\"}}",
        cached.digest,
        diff(b"cached layer")
    );
    let key = Digest::of(b"key");
    store.cache_put(&key, record.as_bytes()).unwrap();

    let dry = PruneOptions {
        dry_run: true,
        ..PruneOptions::default()
    };
    let said = store.prune(&dry).unwrap();
    assert!(store.has(&lost.digest));
    assert_eq!(store.usage().unwrap().reclaimable_bytes, said.bytes);

    let other = Store::open(store.root()).unwrap();
    assert!(matches!(
        store.prune(&PruneOptions::default()),
        Err(StoreError::InUse { .. })
    ));
    // A failed attempt leaves the lock that it had.
    assert!(matches!(
        other.prune(&PruneOptions::default()),
        Err(StoreError::InUse { .. })
    ));
    drop(other);

    let pruned = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!((pruned.blobs, pruned.layers, pruned.records), (3, 1, 0));
    assert_eq!(pruned, said);
    assert!(!store.has(&lost.digest) && store.has(&cached.digest));
    assert!(store.layer_dir(&diff(b"lost")).is_none());
    assert!(store.layer_dir(&diff(b"kept")).is_some());
    assert!(store.layer_dir(&diff(b"cached layer")).is_some());
    assert!(store.load_image(&kept, None).is_ok());
    assert_eq!(
        store.prune(&PruneOptions::default()).unwrap(),
        Pruned::default()
    );

    let all = PruneOptions {
        unused_for: Some(Duration::ZERO),
        ..PruneOptions::default()
    };
    let pruned = store.prune(&all).unwrap();
    assert_eq!((pruned.blobs, pruned.layers, pruned.records), (1, 1, 1));
    assert_eq!(store.usage().unwrap().reclaimable_bytes, 0);
    assert_eq!(store.check(false).unwrap().damages, []);
}

#[test]
fn what_held_secrets_is_not_left_for_later() {
    let (_dir, store) = store();
    let root = store.root().to_owned();
    let temp = store.temp_dir().unwrap();
    let held = temp.hold_secrets().unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_owned();
    let session = temp.path().parent().unwrap();
    assert_eq!(std::fs::read_dir(session).unwrap().count(), 3);
    // Another session's, which died: the same names, and no lock.
    let dead = root.join("tmp/aaaaaaaa");
    std::fs::create_dir_all(dead.join(name(temp.path())).join("tree")).unwrap();
    std::fs::write(dead.join(name(temp.path())).join("tree/secret"), "s").unwrap();
    std::fs::write(dead.join(name(&held.0)), "").unwrap();
    std::fs::create_dir(dead.join("other")).unwrap();
    // A mark with no name before it marks nothing.
    std::fs::write(dead.join(".secrets"), "").unwrap();
    drop(Store::open(&root).unwrap());
    assert!(temp.path().exists() && !dead.exists());
    let swept = std::fs::read_dir(root.join("trash")).unwrap();
    let swept: Vec<_> = swept.map(|e| e.unwrap().path()).collect();
    assert_eq!(swept.len(), 1);
    assert!(!swept[0].join(name(temp.path())).exists());
    assert!(swept[0].join("other").exists(), "that can wait");
    drop(held);
    assert_eq!(std::fs::read_dir(session).unwrap().count(), 2);
}

#[test]
fn removal_stays_in_the_trash() {
    let (dir, store) = store();
    let canary = dir.path().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), "").unwrap();
    let temp = store.temp_dir().unwrap();
    symlink(&canary, temp.path().join("link")).unwrap();
    symlink("/", temp.path().join("root")).unwrap();
    let closed = temp.path().join("closed");
    std::fs::create_dir_all(closed.join("below")).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o0)).unwrap();
    // Deeper than descriptors or a path's length allow.
    let mut at = rustix::fs::open(temp.path(), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, c"deep", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, c"deep", OFlags::PATH, Mode::empty()).unwrap();
    }
    // More names than are listed at a time.
    for n in 0..5000 {
        let path = temp.path().join(format!("{n:0250}"));
        if n % 1000 == 0 {
            std::fs::create_dir_all(path.join("below")).unwrap();
        } else {
            std::fs::write(path, "").unwrap();
        }
    }
    drop(temp);
    let emptied = store.empty_trash().unwrap();
    assert_eq!((emptied.removed, emptied.left), (1, Vec::new()));
    assert!(canary.join("file").exists());
}

#[test]
fn many_writers_of_one_blob() {
    let (_dir, first) = store();
    let bytes = vec![7; 300_000];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::open(first.root()).unwrap();
                for _ in 0..5 {
                    let d = Descriptor::of("x", &bytes);
                    store.put_reader(&d, &bytes[..]).unwrap();
                    assert_eq!(read(&store, &d).unwrap(), bytes);
                    let name = reference(&format!("a:{}", store.session().unwrap().id));
                    store.set_refs(&[(name, d)]).unwrap();
                }
            });
        }
    });
    assert_eq!(first.refs().unwrap().len(), 8);
    assert_eq!(first.check(false).unwrap().blobs, 1);
}

/// Says in the child process which file system to fill.
const FULL_DISK: &str = "STORE_TEST_FULL_DISK";

/// Runs the test `name` again, alone, with a small tmpfs of its own.
fn on_small_disk(name: &str, options: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o {options} tmpfs \"$0\" && exec \"$1\" --exact {name}");
    let command = |script: &str| {
        std::process::Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .arg(dir.path())
            .arg(std::env::current_exe().unwrap())
            .env(FULL_DISK, dir.path())
            .output()
    };
    let probe = command("mount -t tmpfs tmpfs \"$0\"");
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: needs root and mounts");
        return;
    }
    let output = command(&script).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn a_full_disk_is_told_and_prune_helps() {
    let Some(dir) = std::env::var_os(FULL_DISK) else {
        return on_small_disk(
            "store::tests::a_full_disk_is_told_and_prune_helps",
            "size=1m",
        );
    };
    let store = Store::open(&Path::new(&dir).join("store")).unwrap();
    let kept = image(&store, b"kept", &amd64());
    store
        .set_refs(&[(reference("kept"), kept.clone())])
        .unwrap();
    let mut stored = 0;
    let error = loop {
        let bytes = vec![stored; 50_000];
        match store.put_bytes("x", &bytes) {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
    };
    assert!(error.to_string().contains("no space"), "{error}");
    // Until not one more byte fits.
    let rest = Path::new(&dir).join("rest");
    let mut file = std::fs::File::create(&rest).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    assert!(store.put_bytes("x", b"small").is_err());
    assert!(store.set_refs(&[(reference("b"), kept.clone())]).is_err());
    assert!(store.cache_put(&Digest::of(b""), b"x").is_err());
    assert_eq!(store.refs().unwrap().len(), 1);
    assert_eq!(store.check(false).unwrap().damages, []);

    let pruned = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!((pruned.blobs, pruned.left), (u64::from(stored), vec![]));
    store.set_refs(&[(reference("b"), kept.clone())]).unwrap();
    store.put_bytes("x", &[1; 50_000]).unwrap();
    assert!(store.load_image(&kept, None).is_ok());
}

#[test]
fn no_inode_left() {
    let Some(dir) = std::env::var_os(FULL_DISK) else {
        return on_small_disk("store::tests::no_inode_left", "size=8m,nr_inodes=60");
    };
    let store = Store::open(&Path::new(&dir).join("store")).unwrap();
    let layer = store.new_layer().unwrap();
    while std::fs::write(
        layer
            .fs()
            .join(store.session().unwrap().number().to_string()),
        "",
    )
    .is_ok()
    {}
    let error = store.put_bytes("x", b"one more").unwrap_err();
    assert!(error.to_string().contains("inode"), "{error}");
    assert!(store.new_layer().is_err());
    drop(layer);
    store.prune(&PruneOptions::default()).unwrap();
    store.put_bytes("x", b"one more").unwrap();
    assert_eq!(store.check(false).unwrap().damages, []);
}

#[test]
fn a_read_only_store_can_be_read() {
    let Some(dir) = std::env::var_os(FULL_DISK) else {
        return on_small_disk("store::tests::a_read_only_store_can_be_read", "size=8m");
    };
    let root = Path::new(&dir).join("store");
    let store = Store::open(&root).unwrap();
    let a = image(&store, b"a", &amd64());
    store.set_refs(&[(reference("a"), a.clone())]).unwrap();
    drop(store);
    let remount = std::process::Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(&dir)
        .status();
    assert!(remount.unwrap().success());
    let store = Store::open(&root).unwrap();
    assert_eq!(store.find("a").unwrap().digest, a.digest);
    assert!(store.load_image(&a, None).is_ok());
    let error = store.put_bytes("x", b"new").unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    assert!(store.set_refs(&[(reference("b"), a)]).is_err());
    assert!(
        store
            .prune(&PruneOptions {
                dry_run: true,
                ..PruneOptions::default()
            })
            .is_ok()
    );
}

#[test]
fn indexes_are_kept_as_long_as_their_layers() {
    use crate::layer::compress::Compression;
    use crate::layer::index::LayerIndex;
    let (_dir, store) = store();
    let mut header = tar::Header::new_ustar();
    header.set_path("file").unwrap();
    header.set_size(1);
    header.set_cksum();
    let tar = [header.as_bytes(), &[1; 1][..], &[0; 511], &[0; 1024]].concat();
    let index = LayerIndex::make(io::Cursor::new(tar.clone()), Compression::Uncompressed).unwrap();
    let named = image(&store, &tar, &amd64());
    store.set_refs(&[(reference("a"), named)]).unwrap();
    let blob = Digest::of(&tar);
    let elsewhere = Digest::of(b"a layer in a registry");
    assert_eq!(store.index_get(&blob), None);
    for digest in [&blob, &elsewhere] {
        store.index_put(digest, &index).unwrap();
        assert_eq!(store.index_get(digest).as_ref(), Some(&index));
    }
    assert_eq!(store.usage().unwrap().indexes, 2);
    store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(store.index_get(&blob).as_ref(), Some(&index));
    assert_eq!(store.index_get(&elsewhere), None);
    // A damaged one is none, and is written anew.
    let path = store.index_path(&blob);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(store.index_get(&blob), None);
    store.index_put(&blob, &index).unwrap();
    assert_eq!(store.index_get(&blob), Some(index));
}

#[test]
fn blobs_are_read_from_the_middle() {
    let (_dir, store) = store();
    let blob = store.put_bytes("x", b"0123456789").unwrap();
    let mut rest = String::new();
    let mut reader = store.open_from(&blob, 7).unwrap().unwrap();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "789");
    let missing = Descriptor::of("x", b"none");
    assert!(store.open_from(&missing, 1).is_err());
}

#[test]
fn ext4_is_asked_to_keep_layers_apart() {
    const EXT4: i64 = 0xef53;
    let (dir, store) = store();
    if rustix::fs::statfs(dir.path()).unwrap().f_type != EXT4 {
        eprintln!("skipped: {} is not on ext4", dir.path().display());
        return;
    }
    for name in ["layers", "tmp"] {
        let dir = std::fs::File::open(store.root().join(name)).unwrap();
        let flags = rustix::fs::ioctl_getflags(&dir).unwrap();
        assert!(flags.contains(IFlags::TOPDIR), "{name}");
    }
}
