//! Documents that the image-spec calls valid or not. The data lies beside the
//! project; without it there is nothing to compare and the test says so.
#![allow(clippy::print_stderr)]

use std::path::PathBuf;

use serde_json::Value;
use shiplap::image::validate::{DocumentKind, validate};

#[test]
fn documents_are_judged_as_the_specification_does() {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = here
        .ancestors()
        .map(|dir| dir.join("shared/corpus/schemas/cases.json"))
        .find(|path| path.exists());
    let Some(path) = found else {
        eprintln!("skipped: no shared/corpus/schemas beside the project");
        return;
    };
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    for case in &cases {
        let document = case["document"].as_str().unwrap();
        let kind = match case["kind"].as_str().unwrap() {
            "descriptor" => DocumentKind::Descriptor,
            "manifest" => DocumentKind::Manifest,
            "index" => DocumentKind::Index,
            "config" => DocumentKind::Config,
            "layout" => DocumentKind::Layout,
            _ if document.contains("\"manifests\"") => DocumentKind::Index,
            _ if document.contains("\"layers\": [") => DocumentKind::Manifest,
            _ => DocumentKind::Config,
        };
        let problems = validate(kind, document.as_bytes());
        assert_eq!(
            problems.is_empty(),
            case["valid"] == true,
            "{case}\n{problems:?}"
        );
    }
    eprintln!("{} documents", cases.len());
}
