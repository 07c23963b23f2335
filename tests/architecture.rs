//! Holds the order of modules: who may import whom, where `unsafe` and
//! printing may be, and how long a file may get.
//!
//! It reads the source as text. Comments, literals and tests don't count.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the library. Each imports only modules before it.
const ORDER: [&str; 22] = [
    "sys",
    "digest",
    "platform",
    "reference",
    "event",
    "roots",
    "dockerfile",
    "image",
    "layer",
    "mutate",
    "store",
    "context",
    "graph",
    "container",
    "snapshot",
    "registry",
    "transport",
    "verify",
    "look",
    "bundle",
    "solve",
    "build",
];

/// Modules of the binary; they see the library as `shiplap::`.
const BINARY: [&str; 3] = ["ui", "cli", "main"];

/// Modules that import only these, and why.
const ONLY: [(&str, &[&str], &str); 3] = [
    ("dockerfile", &[], "the parser is pure"),
    (
        "graph",
        &["dockerfile", "image", "platform", "reference", "digest"],
        "planning is pure: it touches no file and no network",
    ),
    (
        "mutate",
        &["image", "layer", "digest", "platform"],
        "images come from images: new blobs go to the caller's sink",
    ),
];

/// Imports that the order would allow, and why they are not wanted.
const DENIED: [(&str, &str, &str); 4] = [
    (
        "solve",
        "registry",
        "running a graph never asks a registry; `build` hands it what it needs",
    ),
    (
        "solve",
        "transport",
        "running a graph never asks a registry; `build` hands it what it needs",
    ),
    ("image", "sys", "documents are data"),
    (
        "registry",
        "store",
        "the client speaks to blob traits; `transport` joins it with the store",
    ),
];

/// Most lines that a file has without its tests.
const MOST_LINES: usize = 700;

/// Files that may be longer, how long, and why.
const LONGER: [(&str, usize, &str); 0] = [];

/// A source file without comments, literals and tests.
struct File {
    /// Relative to `src`.
    path: PathBuf,
    /// What remains; lines are where they were.
    code: String,
    /// Lines before the tests, comments included.
    lines: usize,
}

impl File {
    /// The first part of the path, without `.rs`.
    fn module(&self) -> &str {
        let first = self.path.iter().next().unwrap().to_str().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn place(&self, offset: usize) -> String {
        let line = self.code[..offset].matches('\n').count() + 1;
        format!("src/{}:{line}", self.path.display())
    }
}

fn files() -> Vec<File> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    paths.sort();
    let files: Vec<File> = paths
        .into_iter()
        .map(|path| (path.strip_prefix(&src).unwrap().to_path_buf(), path))
        .filter(|(relative, _)| !is_test(relative))
        .map(|(path, full)| {
            let code = without_tests(&blank(&fs::read_to_string(full).unwrap()));
            let lines = code.trim_end_matches('\0').lines().count();
            File { path, code, lines }
        })
        .collect();
    assert!(files.len() > 50, "the source was not found");
    files
}

/// Whether a file is a test module: `tests.rs`, `…_tests.rs`, or in `tests/`.
fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests")
        || path
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .ends_with("tests")
}

/// Overwrites comments and the content of string and character literals with
/// spaces, so that what remains is code. Newlines stay.
fn blank(source: &str) -> String {
    let s = source.as_bytes();
    let mut out = s.to_vec();
    let wipe = |out: &mut Vec<u8>, from: usize, to: usize| {
        for b in &mut out[from..to] {
            if *b != b'\n' {
                *b = b' ';
            }
        }
    };
    let mut i = 0;
    while i < s.len() {
        let end = match s[i] {
            b'/' if s[i..].starts_with(b"//") => {
                i + s[i..]
                    .iter()
                    .position(|b| *b == b'\n')
                    .unwrap_or(s.len() - i)
            }
            b'/' if s[i..].starts_with(b"/*") => comment_end(s, i),
            b'r' if i == 0 || !is_word(s[i - 1]) || s[i - 1] == b'b' => match raw_end(s, i) {
                Some(end) => end,
                None => {
                    i += 1;
                    continue;
                }
            },
            b'"' => quoted_end(s, i, b'"'),
            // a lifetime has no quote after its first character
            b'\'' if s.get(i + 1) == Some(&b'\\') => quoted_end(s, i, b'\''),
            b'\'' => {
                let width = source[i + 1..].chars().next().map_or(0, char::len_utf8);
                if s.get(i + 1 + width) != Some(&b'\'') {
                    i += 1;
                    continue;
                }
                i + width + 2
            }
            _ => {
                i += 1;
                continue;
            }
        };
        wipe(&mut out, i, end);
        i = end;
    }
    String::from_utf8(out).unwrap()
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

fn comment_end(s: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut i = start;
    while i < s.len() {
        if s[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if s[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    s.len()
}

/// The end of the raw string that begins with the `r` at `start`, if one does.
fn raw_end(s: &[u8], start: usize) -> Option<usize> {
    let hashes = s[start + 1..].iter().take_while(|b| **b == b'#').count();
    let open = start + 1 + hashes;
    if s.get(open) != Some(&b'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let at = s[open + 1..]
        .windows(close.len())
        .position(|w| w == close.as_bytes())?;
    Some(open + 1 + at + close.len())
}

fn quoted_end(s: &[u8], start: usize, quote: u8) -> usize {
    let mut i = start + 1;
    while i < s.len() {
        match s[i] {
            b'\\' => i += 2,
            b if b == quote => return i + 1,
            _ => i += 1,
        }
    }
    s.len()
}

/// Blanks each item under `#[cfg(test)]`, and cuts the file's end off when
/// only blanks remain there.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(at) = code[from..].find(MARK).map(|at| at + from) {
        let end = item_end(code.as_bytes(), at + MARK.len());
        for b in &mut out[at..end] {
            if *b != b'\n' {
                *b = 0;
            }
        }
        from = end;
    }
    let text = String::from_utf8(out).unwrap();
    text.trim_end_matches(|c: char| c == '\0' || c.is_whitespace())
        .to_owned()
}

/// The end of an item: its `;`, or the brace that closes its first one.
fn item_end(s: &[u8], start: usize) -> usize {
    let mut depth = 0usize;
    for (i, b) in s.iter().enumerate().skip(start) {
        match b {
            b';' if depth == 0 => return i + 1,
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
    }
    s.len()
}

/// Where `word` stands as a whole word.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let s = code.as_bytes();
            (*at == 0 || !is_word(s[at - 1]))
                && !s.get(at + word.len()).is_some_and(|b| is_word(*b))
        })
}

/// The modules that `code` names after `crate::`, with their places. A group
/// `crate::{a::…, b}` names each of its members.
fn imports(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        let Some(rest) = code[at + 5..].strip_prefix("::") else {
            continue;
        };
        if let Some(group) = rest.trim_start().strip_prefix('{') {
            let mut depth = 0usize;
            let mut begins = true;
            for (i, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => begins = true,
                    c if begins && !c.is_whitespace() => {
                        found.push((at, first_word(&group[i..])));
                        begins = false;
                    }
                    _ => {}
                }
            }
        } else {
            found.push((at, first_word(rest)));
        }
    }
    found
}

fn first_word(text: &str) -> &str {
    let end = text.bytes().position(|b| !is_word(b)).unwrap_or(text.len());
    &text[..end]
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let known: BTreeSet<&str> = ORDER.into_iter().chain(BINARY).chain(["lib"]).collect();
    let there: BTreeSet<String> = files().iter().map(|f| f.module().to_owned()).collect();
    let there: BTreeSet<&str> = there.iter().map(String::as_str).collect();
    assert_eq!(there, known);
}

#[test]
fn modules_import_only_what_comes_before_them() {
    let rank = |module: &str| ORDER.iter().position(|m| *m == module);
    let mut wrong = Vec::new();
    for file in files() {
        let module = file.module();
        let Some(own) = rank(module) else { continue };
        for (at, target) in imports(&file.code) {
            if target == module {
                continue;
            }
            let place = file.place(at);
            match rank(target) {
                None => wrong.push(format!(
                    "{place}: crate::{target} is no module of the library"
                )),
                Some(other) if other > own => {
                    wrong.push(format!(
                        "{place}: {module} imports {target}, which comes after it"
                    ));
                }
                Some(_) => {}
            }
            for (from, to, why) in DENIED {
                if (from, to) == (module, target) {
                    wrong.push(format!("{place}: {from} imports {to}: {why}"));
                }
            }
            for (from, allowed, why) in ONLY {
                if from == module && !allowed.contains(&target) {
                    wrong.push(format!("{place}: {from} imports {target}: {why}"));
                }
            }
        }
    }
    none(&wrong);
}

#[test]
fn unsafe_code_is_in_sys() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|f| f.module() != "sys") {
        wrong.extend(words(&file.code, "unsafe").map(|at| format!("{}: unsafe", file.place(at))));
    }
    none(&wrong);
}

#[test]
fn only_ui_prints() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|f| f.module() != "ui") {
        for name in ["print", "println", "eprint", "eprintln", "dbg"] {
            for at in words(&file.code, name) {
                if file.code[at + name.len()..].starts_with('!') {
                    wrong.push(format!("{}: {name}!", file.place(at)));
                }
            }
        }
    }
    none(&wrong);
}

#[test]
fn files_have_a_size_that_can_be_read() {
    let mut wrong = Vec::new();
    for file in files() {
        let most = LONGER
            .iter()
            .find(|(path, ..)| Path::new(path) == file.path)
            .map_or(MOST_LINES, |(_, most, _)| *most);
        if file.lines > most {
            wrong.push(format!(
                "src/{}: {} lines, at most {most}",
                file.path.display(),
                file.lines
            ));
        }
    }
    for (path, ..) in LONGER {
        if !files()
            .iter()
            .any(|f| f.path == Path::new(path) && f.lines > MOST_LINES)
        {
            wrong.push(format!("src/{path} needs no exception any more"));
        }
    }
    none(&wrong);
}

#[test]
fn the_reader_of_source_sees_what_it_should() {
    let code = "use crate::{a::{B, c}, d};\n// crate::no\nlet x = \"crate::no\"; crate::e::f('\"');\n\
                #[cfg(test)]\nmod tests { use crate::no; }\nlet y: &'a str = r#\"crate::no\"#; crate::g;";
    let seen = without_tests(&blank(code));
    let names: Vec<&str> = imports(&seen).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "d", "e", "g"]);
}
