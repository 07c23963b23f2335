//! A layer of any bytes: read, interpreted and applied below a root, in both
//! forms and both ways of resolving paths. Nothing may panic, and nothing
//! beside the root may change.
#![no_main]

use std::io::Read;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use shiplap::layer::tar_read::{Item, Names, TarReader};
use shiplap::layer::tar_write::TarWriter;
use shiplap::layer::unpack::{Devices, Form, UnpackOptions, unpack};
use shiplap::layer::whiteout;
use shiplap::sys::fs::Root;
use shiplap_fuzz::archive::seal;

fn read(bytes: &[u8], names: Names) {
    let mut reader = TarReader::new(bytes, names);
    let mut again = TarWriter::new(std::io::sink(), None);
    while let Ok(Some(item)) = reader.next_entry() {
        match item {
            Item::Put(entry) => {
                assert!(!entry.path.is_absolute());
                let size = match entry.kind {
                    shiplap::layer::Kind::File { size } => size,
                    _ => 0,
                };
                if size < 1 << 20 {
                    let _ = again.put(&entry, &mut reader.body().take(size + 1));
                }
            }
            Item::Whiteout(path) => {
                let name = whiteout::whiteout_name(&path).expect("a whiteout has a name");
                let meaning = whiteout::classify(&name);
                assert_eq!(meaning, Ok(whiteout::Meaning::Whiteout(path)));
            }
            Item::Opaque(path) => {
                let meaning = whiteout::classify(&whiteout::opaque_name(&path));
                assert_eq!(meaning, Ok(whiteout::Meaning::Opaque(path)));
            }
        }
    }
}

fn apply(bytes: &[u8], base: &Path, form: Form, walking: bool) {
    let outside = base.join("outside");
    let inside = base.join("root");
    for dir in [&outside, &inside] {
        std::fs::create_dir(dir).expect("a fresh directory");
    }
    std::fs::write(outside.join("canary"), "alive").expect("a fresh file");
    std::os::unix::fs::symlink("../outside", inside.join("a")).expect("a fresh link");
    let root = Root::open(&inside).expect("the root exists");
    let root = if walking { root.walking() } else { root };
    let options = UnpackOptions {
        max_bytes: 4 << 20,
        max_entries: 200,
        owners: false,
        devices: Devices::Placeholder,
        ..UnpackOptions::new(form)
    };
    let _ = unpack(bytes, &root, &options);
    let names: Vec<_> = std::fs::read_dir(&outside)
        .expect("it is still there")
        .collect();
    assert_eq!(names.len(), 1);
    let canary = std::fs::read(outside.join("canary")).expect("it is still there");
    assert_eq!(canary, b"alive");
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if choice & 1 == 0 {
        seal(&mut bytes);
    }
    read(&bytes, Names::Plain);
    read(&bytes, Names::Layer);
    let form = match choice & 2 {
        0 => Form::Flat,
        _ => Form::Overlay { user_xattr: true },
    };
    let dir = tempfile::tempdir().expect("a scratch directory");
    apply(&bytes, dir.path(), form, choice & 4 != 0);
});
