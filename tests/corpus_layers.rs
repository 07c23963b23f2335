//! How layers apply, against recorded cases: `../shared/corpus/layers`, or the
//! directory that `SHIPLAP_TEST_CORPUS` names. Skipped where neither is there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use shiplap::layer::unpack::{Devices, Form, UnpackOptions, unpack};
use shiplap::sys::fs::Root;

fn cases() -> Option<Vec<Value>> {
    let corpus = std::env::var_os("SHIPLAP_TEST_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"),
        PathBuf::from,
    );
    let file = corpus.join("layers/unpack_cases.json");
    let Ok(bytes) = std::fs::read(&file) else {
        let mut err = std::io::stderr();
        let _ = std::io::Write::write_fmt(
            &mut err,
            format_args!("skipped: there is no {}\n", file.display()),
        );
        return None;
    };
    Some(serde_json::from_slice(&bytes).unwrap())
}

/// A header as the case has it, legal or not.
fn header(entry: &Value) -> [u8; 512] {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let id = |key: &str| entry[key].as_u64().unwrap_or(0);
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let (kind, mode) = match text("type") {
        "file" => (b'0', 0o644),
        "dir" => (b'5', 0o755),
        "symlink" => (b'2', 0o777),
        "hardlink" => (b'1', 0o644),
        "fifo" => (b'6', 0o644),
        other => panic!("{other}"),
    };
    put(0, text("path").as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, format!("{:07o}", id("uid")).as_bytes());
    put(116, format!("{:07o}", id("gid")).as_bytes());
    put(124, b"00000000000");
    put(136, b"13136450000");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, text("link").as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn list<'a>(case: &'a Value, key: &str) -> Vec<&'a str> {
    let list = case[key].as_array();
    list.into_iter()
        .flatten()
        .map(|v| v.as_str().unwrap())
        .collect()
}

fn inodes(root: &Path, names: &Value) -> Vec<u64> {
    let inode = |n: &Value| {
        let path = root.join(n.as_str().unwrap());
        std::fs::symlink_metadata(path).unwrap().ino()
    };
    names.as_array().unwrap().iter().map(inode).collect()
}

#[test]
fn layers_apply_as_recorded() {
    let Some(cases) = cases() else { return };
    for (case, walking) in cases.iter().flat_map(|case| [(case, false), (case, true)]) {
        let name = case["name"].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let root = Root::open(&path).unwrap();
        let root = if walking { root.walking() } else { root };
        let options = UnpackOptions {
            owners: false,
            devices: Devices::Placeholder,
            ..UnpackOptions::new(Form::Flat)
        };
        let mut result = Ok(());
        for layer in case["layers"].as_array().unwrap() {
            let entries = layer.as_array().unwrap();
            let mut tar: Vec<u8> = entries.iter().flat_map(header).collect();
            tar.extend([0; 1024]);
            result = result.and_then(|()| unpack(&tar[..], &root, &options).map(drop));
        }
        let outside = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(outside, 1, "{name}");
        // Names with `..` are refused here, where others take them as if the
        // root had no way up.
        if name == "scoping-dotdot" || case["error"] == true {
            result.expect_err(name);
            continue;
        }
        result.expect(name);
        for (key, there) in [("present", true), ("absent", false)] {
            for entry in list(case, key) {
                let found = path.join(entry).symlink_metadata().is_ok();
                assert_eq!(found, there, "{name}: {entry}");
            }
        }
        for same in case["same_inode"].as_array().into_iter().flatten() {
            let inodes = inodes(&path, same);
            assert!(inodes.windows(2).all(|w| w[0] == w[1]), "{name}: {same}");
        }
        for other in case["different_inode"].as_array().into_iter().flatten() {
            let inodes = inodes(&path, other);
            assert!(inodes.windows(2).all(|w| w[0] != w[1]), "{name}: {other}");
        }
    }
}
