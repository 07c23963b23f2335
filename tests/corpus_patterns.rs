//! Ignore patterns and wildcards against recorded results. The data lies
//! beside the project; without it there is nothing to compare and each test
//! says so.
#![allow(clippy::print_stderr)]

use std::path::PathBuf;

use serde_json::Value;
use shiplap::context::glob::Glob;
use shiplap::context::ignore::{Ignore, read_patterns};
use shiplap::context::pattern::{Form, translate};

fn cases(name: &str) -> Vec<Value> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = here
        .ancestors()
        .map(|dir| dir.join("shared/corpus/patterns").join(name))
        .find(|path| path.exists());
    let Some(path) = found else {
        eprintln!("skipped: no shared/corpus/patterns/{name} beside the project");
        return Vec::new();
    };
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().unwrap();
    list.iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn matches() {
    for case in cases("matches.json") {
        let ignore = Ignore::from_patterns(strings(&case["patterns"])).unwrap();
        let path = case["path"].as_str().unwrap();
        assert_eq!(ignore.ignored(path.as_ref()), case["match"], "{case}");
    }
}

#[test]
fn errors() {
    for case in cases("errors.json") {
        let result = Ignore::from_patterns(strings(&case["patterns"]));
        assert_eq!(result.is_err(), case["error"], "{case}");
    }
}

#[test]
fn forms() {
    for case in cases("compile_regexp.json") {
        let expected = match case["match_type"].as_str().unwrap() {
            "exactMatch" => Form::Exact,
            "prefixMatch" => Form::Prefix,
            "suffixMatch" => Form::Suffix,
            _ => Form::Regexp(case["regexp"].as_str().unwrap().into()),
        };
        assert_eq!(
            translate(case["pattern"].as_str().unwrap().as_bytes()),
            expected,
            "{case}"
        );
    }
}

#[test]
fn filepath_match() {
    for case in cases("filepath_match_table.json") {
        let pattern = case["pattern"].as_str().unwrap();
        let path = case["path"].as_str().unwrap();
        match Glob::parse(pattern.as_bytes()) {
            Ok(glob) => {
                assert!(case["error"].is_null(), "{case}");
                // One recorded value is that of a matcher that looks at the
                // parents too.
                let parent = path.rsplit_once('/').map_or(path, |(parent, _)| parent);
                let matched = glob.matches(path.as_bytes()) || glob.matches(parent.as_bytes());
                assert_eq!(matched, case["match"], "{case}");
            }
            Err(_) => assert!(!case["error"].is_null(), "{case}"),
        }
        match Ignore::from_patterns([pattern]) {
            Ok(ignore) => assert_eq!(ignore.ignored(path.as_ref()), case["oracle"], "{case}"),
            Err(_) => assert_eq!(case["oracle"], "error", "{case}"),
        }
    }
}

#[test]
fn ignore_files() {
    for case in cases("ignorefile.json") {
        let content = case["content"].as_str().unwrap().as_bytes();
        let patterns: Vec<_> = read_patterns(content)
            .unwrap()
            .into_iter()
            .map(|(_, p)| p)
            .collect();
        let expected = strings(&case["patterns"]);
        let expected: Vec<_> = expected.iter().map(|p| p.as_bytes()).collect();
        assert_eq!(patterns, expected, "{case}");
        if let Some(error) = case.get("error") {
            assert_eq!(Ignore::parse(content).is_err(), !error.is_null(), "{case}");
        }
    }
}

#[test]
fn generated() {
    for case in cases("generated.json") {
        let content = case["dockerignore"].as_str().unwrap();
        let ignore = match Ignore::parse(content.as_bytes()) {
            Ok(ignore) => ignore,
            Err(_) => {
                assert!(!case["error"].is_null(), "{case}");
                continue;
            }
        };
        assert!(case["error"].is_null(), "{case}");
        for (path, expected) in case["matches"].as_object().unwrap() {
            assert_eq!(
                ignore.ignored(path.as_ref()),
                *expected,
                "{content:?} {path}"
            );
        }
    }
}
