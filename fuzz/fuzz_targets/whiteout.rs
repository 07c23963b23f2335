//! Whiteouts: names lead back to what they mean, and a stack of layers is the
//! same tree whether the layers change one directory or lie on each other as
//! overlayfs has them.
//!
//! Input: layers parted by NUL, of lines `KIND PATH`: `d`, `f` and `l` make
//! entries, `w` takes a path away, `o` what is below a directory.
#![no_main]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use shiplap::context::Tree;
use shiplap::context::local::LocalTree;
use shiplap::layer::unpack::{Devices, Form, Lower, UnpackError, UnpackOptions, unpack};
use shiplap::layer::whiteout::{self, Meaning};
use shiplap::layer::{Entry, Kind};
use shiplap::snapshot::Merged;
use shiplap::sys::fs::Root;
use shiplap_fuzz::archive::Builder;

fn names(text: &str) {
    let path = Path::new(text);
    if !path.components().all(|c| matches!(c, Component::Normal(_))) {
        return;
    }
    match whiteout::classify(path) {
        Ok(Meaning::Plain) => assert!(!whiteout::is_reserved(path)),
        Ok(Meaning::Whiteout(gone)) => {
            assert!(!whiteout::is_reserved(&gone));
            assert_eq!(whiteout::whiteout_name(&gone).as_deref(), Some(path));
        }
        Ok(Meaning::Opaque(dir)) => assert_eq!(whiteout::opaque_name(&dir), path),
        Ok(Meaning::Ignored) | Err(_) => assert!(whiteout::is_reserved(path)),
    }
    if !whiteout::is_reserved(path)
        && let Some(name) = whiteout::whiteout_name(path)
    {
        assert_eq!(
            whiteout::classify(&name),
            Ok(Meaning::Whiteout(path.into()))
        );
    }
}

/// The tar of one layer.
fn tar(layer: &str) -> Vec<u8> {
    let mut tar = Builder::default();
    for line in layer.lines().take(20) {
        let Some((kind, path)) = line.split_once(' ') else {
            continue;
        };
        if path.len() > 90 {
            continue;
        }
        let path = Path::new(path);
        let bytes = |p: &Path| p.as_os_str().as_bytes().to_vec();
        match kind {
            "d" => tar.add(b'5', &bytes(path), b"", b""),
            "f" => tar.add(b'0', &bytes(path), b"", &bytes(path)),
            "l" => tar.add(b'2', &bytes(path), b"a", b""),
            "w" => {
                if let Some(name) = whiteout::whiteout_name(path) {
                    tar.add(b'0', &bytes(&name), b"", b"");
                }
            }
            "o" => tar.add(b'0', &bytes(&whiteout::opaque_name(path)), b"", b""),
            _ => {}
        }
    }
    tar.finish()
}

struct Below(Merged);

impl Lower for Below {
    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        let Some(node) = self.0.lookup(path, false)? else {
            return Ok(None);
        };
        let mut meta = node.meta;
        meta.xattrs = self.0.xattrs(path)?;
        let (path, kind) = (path.to_path_buf(), node.kind);
        Ok(Some(Entry { path, kind, meta }))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.0.open(path)
    }
}

fn options(form: Form) -> UnpackOptions<'static> {
    UnpackOptions {
        devices: Devices::Placeholder,
        ..UnpackOptions::new(form)
    }
}

fn list(tree: &dyn Tree, dir: &Path, out: &mut BTreeMap<PathBuf, Kind>) {
    for (name, node) in tree.read_dir(dir).expect("the tree can be read") {
        let path = dir.join(name);
        let is_dir = node.kind == Kind::Dir;
        assert!(out.insert(path.clone(), node.kind).is_none());
        if is_dir {
            list(tree, &path, out);
        }
    }
}

fn flat(tars: &[Vec<u8>], dir: &Path) -> Result<BTreeMap<PathBuf, Kind>, UnpackError> {
    let root = Root::open(dir).expect("it was just made");
    for tar in tars {
        unpack(tar.as_slice(), &root, &options(Form::Flat))?;
    }
    let mut out = BTreeMap::new();
    let tree = LocalTree::open(dir, None).expect("it was just made");
    list(&tree, Path::new(""), &mut out);
    Ok(out)
}

fn stacked(tars: &[Vec<u8>], base: &Path) -> Result<BTreeMap<PathBuf, Kind>, UnpackError> {
    let mut layers = Vec::new();
    for (number, tar) in tars.iter().enumerate() {
        let dir = base.join(number.to_string());
        std::fs::create_dir(&dir).expect("a fresh directory");
        let below = Below(Merged::new(layers.clone()).expect("they were just made"));
        let options = UnpackOptions {
            lower: Some(&below),
            ..options(Form::Overlay { user_xattr: false })
        };
        let root = Root::open(&dir).expect("it was just made");
        let unpacked = unpack(tar.as_slice(), &root, &options)?;
        if unpacked.opaque_root {
            layers.clear();
        }
        layers.push(dir);
    }
    let mut out = BTreeMap::new();
    list(
        &Merged::new(layers).expect("they were just made"),
        Path::new(""),
        &mut out,
    );
    Ok(out)
}

fuzz_target!(|input: &str| {
    let layers: Vec<&str> = shiplap_fuzz::parts(input).take(4).collect();
    for line in layers.iter().flat_map(|l| l.lines()) {
        names(line);
        names(line.split_once(' ').map_or(line, |(_, path)| path));
    }
    // Overlayfs's marks are root's to make.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let tars: Vec<Vec<u8>> = layers.iter().map(|l| tar(l)).collect();
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let one = scratch.path().join("flat");
    std::fs::create_dir(&one).expect("a fresh directory");
    let flat = flat(&tars, &one);
    let stacked = stacked(&tars, scratch.path());
    match (&flat, &stacked) {
        (Ok(flat), Ok(stacked)) => assert_eq!(flat, stacked),
        (Err(_), Err(_)) => {}
        _ => panic!("one way goes, the other doesn't: {flat:?}, {stacked:?}"),
    }
});
