//! Archives of `docker save` and OCI layouts in a tar: what can be opened can
//! be planned, every blob is what its digest says or an error, and little
//! memory is taken for it.
//!
//! Input: names and contents in turn, parted by NUL; a content that begins
//! with `->` is a link. When the first byte is 0xff, the rest is the tar
//! itself.
#![no_main]

use std::io::Read as _;

use libfuzzer_sys::fuzz_target;
use shiplap::digest::Digest;
use shiplap::image::Document;
use shiplap::transport::{Plan, Rewrite, Selection, Source, docker_archive};
use shiplap_fuzz::archive::{of_files, seal};

fn check(source: &Source) {
    assert_eq!(Digest::of(&source.bytes), source.descriptor.digest);
    assert_eq!(source.bytes.len() as u64, source.descriptor.size);
    let Ok(plan) = Plan::make(source, &Selection::All, &Rewrite::default()) else {
        return;
    };
    for (descriptor, bytes) in &plan.manifests {
        assert_eq!(Digest::of(bytes), descriptor.digest);
        assert!(Document::parse(bytes).is_ok());
    }
    for blob in &plan.blobs {
        let Ok(mut reader) = source.blobs.open(blob) else {
            continue;
        };
        let mut bytes = Vec::new();
        if reader.read_to_end(&mut bytes).is_ok() {
            assert_eq!(bytes.len() as u64, blob.size);
            if blob.digest.algorithm() == "sha256" {
                assert_eq!(Digest::of(&bytes), blob.digest);
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let tar = match input.strip_prefix(b"\xff") {
        Some(raw) => {
            let mut raw = raw.to_vec();
            seal(&mut raw);
            raw
        }
        None => {
            let mut parts = input.split(|b| *b == 0);
            of_files(std::iter::from_fn(|| Some((parts.next()?, parts.next()?))))
        }
    };
    let file = tempfile::NamedTempFile::new().expect("a scratch file");
    std::fs::write(file.path(), tar).expect("a scratch file");
    if let Ok(sources) = docker_archive::open_any(file.path()) {
        sources.iter().for_each(check);
    }
    for name in [None, Some("a"), Some("@1")] {
        if let Ok(source) = docker_archive::open(file.path(), name) {
            check(&source);
        }
    }
});
