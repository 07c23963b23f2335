//! Ignore files: the compiled matcher says what a slow one says, a path's
//! verdict does not depend on what was asked before, and a directory that is
//! skipped holds nothing that is kept.
//!
//! Input: the ignore file, then paths, parted by NUL.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use shiplap::context::ignore::{Ignore, read_patterns};
use shiplap_fuzz::ignore::ignored;

fn is_relative(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fuzz_target!(|input: &str| {
    let mut parts = shiplap_fuzz::parts(input);
    let file = parts.next().unwrap_or_default();
    let paths: Vec<&str> = parts
        .filter(|p| is_relative(p) && p.len() < 200)
        .take(20)
        .collect();
    let Ok(ignore) = Ignore::parse(file.as_bytes()) else {
        return;
    };
    let patterns: Vec<String> = read_patterns(file.as_bytes())
        .expect("a file that was parsed can be read")
        .into_iter()
        .map(|(_, p)| String::from_utf8(p).expect("pieces of a text are texts"))
        .collect();
    let plain = |p: &String| is_relative(p.trim_start_matches('!')) && p.trim() == p;
    let verdicts: Vec<bool> = paths.iter().map(|p| ignore.ignored(Path::new(p))).collect();

    if patterns.iter().all(plain) {
        let again = Ignore::from_patterns(&patterns).expect("they were good before");
        for (path, verdict) in paths.iter().zip(&verdicts).rev() {
            assert_eq!(again.ignored(Path::new(path)), *verdict, "{path:?}");
            if let Some(expected) = ignored(&patterns, path) {
                assert_eq!(*verdict, expected, "{patterns:?} {path:?}");
            }
        }
    }
    for (path, verdict) in paths.iter().zip(&verdicts) {
        for (at, _) in path.match_indices('/') {
            let dir = Path::new(&path[..at]);
            if ignore.ignored(dir) && !ignore.may_reinclude_below(dir) {
                assert!(verdict, "{dir:?} is skipped, {path:?} is kept");
            }
            if !ignore.has_exceptions() && !ignore.may_match_below(dir) {
                assert!(!verdict, "{dir:?} is passed over, {path:?} is meant");
            }
        }
    }
});
