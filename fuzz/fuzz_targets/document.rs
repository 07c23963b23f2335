//! Manifests, indexes, configs: what is read can be written and is then read
//! as the same, and only documents that mean one thing are read at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shiplap::build::cache::format::CacheIndex;
use shiplap::image::{Descriptor, Document, ImageConfig, media_type};
use shiplap::platform::Platform;

fn check_descriptor(descriptor: &Descriptor) {
    // Ends up as a file name.
    let digest = descriptor.digest.as_str();
    assert!(!digest.contains(['/', '\0']) && !digest.contains(".."));
    let algorithm = descriptor.digest.algorithm();
    assert!(algorithm != "sha256" || descriptor.digest.encoded().len() == 64);
}

/// Whether `key` stands twice at the top, by the parser's own view of it.
fn one_meaning(bytes: &[u8]) -> bool {
    let Ok(serde_json::Value::Object(map)) = serde_json::from_slice(bytes) else {
        return false;
    };
    let keys: std::collections::HashSet<String> =
        map.keys().map(|k| k.to_ascii_lowercase()).collect();
    let present = |k: &str| map.get(k).is_some_and(|v| !v.is_null());
    keys.len() == map.len()
        && map.get("schemaVersion") == Some(&2.into())
        && !(present("manifests") && (present("layers") || present("config")))
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = CacheIndex::parse(bytes, 4) {
        let layers = index.steps.iter().map(|s| s.layer);
        assert!(
            layers
                .chain(index.mounts.iter().map(|m| m.layer))
                .all(|n| n < 4)
        );
        assert_eq!(CacheIndex::parse(&index.to_bytes(), 4), Ok(index));
    }
    if let Ok(document) = Document::parse(bytes) {
        assert!(one_meaning(bytes));
        let (again, written) = match &document {
            Document::Manifest(manifest) => {
                assert!(!media_type::is_index(&manifest.media_type));
                check_descriptor(&manifest.config);
                manifest.layers.iter().for_each(check_descriptor);
                let written = manifest.to_bytes();
                let Ok(Document::Manifest(again)) = Document::parse(&written) else {
                    panic!("a manifest that was written is none");
                };
                assert_eq!(again, *manifest);
                (again.to_bytes(), written)
            }
            Document::Index(index) => {
                assert!(!media_type::is_manifest(&index.media_type));
                index.manifests.iter().for_each(check_descriptor);
                for wanted in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
                    let wanted = Platform::parse(wanted).expect("a platform");
                    if let Some(chosen) = index.select(&wanted) {
                        assert!(index.manifests.contains(chosen));
                    }
                }
                let written = index.to_bytes();
                let Ok(Document::Index(again)) = Document::parse(&written) else {
                    panic!("an index that was written is none");
                };
                assert_eq!(again, *index);
                (again.to_bytes(), written)
            }
        };
        assert_eq!(again, written);
    }
    if let Ok(config) = ImageConfig::parse(bytes) {
        let written = config.to_bytes();
        let again = ImageConfig::parse(&written).expect("a config that was written");
        assert_eq!(again, config);
        assert_eq!(again.to_bytes(), written);
        let _ = config.platform();
    }
});
