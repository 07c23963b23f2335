//! Holds the Dockerfile frontend to recorded behaviour, where the recordings
//! are there: a `shared/corpus` beside the project or above it.
#![allow(clippy::print_stderr, reason = "counts are for people")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use shiplap::dockerfile::lint::{BaseImage, LintOptions, lint};
use shiplap::dockerfile::span::LineIndex;
use shiplap::dockerfile::{self, word};

fn corpus() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = ["../shared/corpus", "../../shared/corpus"]
        .iter()
        .map(|p| root.join(p))
        .find(|p| p.is_dir());
    if found.is_none() {
        eprintln!("skipped: there is no corpus beside the project");
    }
    found
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn pairs(list: &Value) -> Vec<(String, String)> {
    match list {
        Value::Array(list) => list
            .iter()
            .filter_map(Value::as_str)
            .map(|e| e.split_once('=').unwrap_or((e, "")))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
            .collect(),
        _ => Vec::new(),
    }
}

/// Counts, and fails at the end so that all differences show.
struct Tally {
    name: &'static str,
    passed: usize,
    failures: Vec<String>,
}

impl Tally {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            passed: 0,
            failures: Vec::new(),
        }
    }

    fn check(&mut self, ok: bool, failure: impl FnOnce() -> String) {
        if ok {
            self.passed += 1;
        } else {
            self.failures.push(failure());
        }
    }

    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, got: &T, expected: &T) {
        self.check(got == expected, || {
            format!("{what}\n  got      {got:?}\n  expected {expected:?}")
        });
    }

    fn finish(self) {
        let total = self.passed + self.failures.len();
        eprintln!("{}: {} of {total}", self.name, self.passed);
        for failure in self.failures.iter().take(20) {
            eprintln!("{failure}");
        }
        assert!(self.failures.is_empty(), "{} regressed", self.name);
        assert!(total > 0, "{} found no cases", self.name);
    }
}

fn lookup(env: &[(String, String)]) -> impl Fn(&str) -> Option<String> + '_ {
    |name| {
        env.iter()
            .rev()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.clone())
    }
}

#[test]
fn shell_single_words() {
    let Some(corpus) = corpus() else { return };
    let file = json(&corpus.join("shell/envVarTest.json"));
    let env = pairs(&file["env"]);
    let mut tally = Tally::new("shell/envVarTest");
    for case in file["cases"].as_array().unwrap() {
        if text(case, "platform") == Some("windows") {
            continue;
        }
        let word = text(case, "word").unwrap();
        let got = word::expand(word, '\\', &lookup(&env)).ok().map(|e| e.text);
        let expected = text(case, "expected").map(str::to_owned);
        tally.equal(word, &got, &expected);
    }
    tally.finish();
}

#[test]
fn shell_words() {
    let Some(corpus) = corpus() else { return };
    let file = json(&corpus.join("shell/wordsTest.json"));
    let cases = file
        .as_array()
        .or_else(|| file["cases"].as_array())
        .unwrap();
    let default = pairs(&file["env"]);
    let mut tally = Tally::new("shell/wordsTest");
    for case in cases {
        let env = case.get("env").map_or_else(|| default.clone(), pairs);
        let word = text(case, "word").or_else(|| text(case, "input")).unwrap();
        let got = word::expand_words(word, '\\', &lookup(&env)).ok();
        let expected = words(
            case.get("expected").unwrap_or(&Value::Null),
            case["error"] != false,
        );
        tally.equal(word, &got, &expected);
    }
    tally.finish();
}

fn words(list: &Value, failed: bool) -> Option<Vec<String>> {
    if failed && list.is_null() {
        return None;
    }
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    Some(
        list.iter()
            .filter_map(|w| w.as_str().map(str::to_owned))
            .collect(),
    )
}

#[test]
fn shell_matches() {
    let Some(corpus) = corpus() else { return };
    let file = json(&corpus.join("shell/process_with_matches.json"));
    let cases = file
        .as_array()
        .or_else(|| file["cases"].as_array())
        .unwrap();
    let names = |case: &Value, key: &str| {
        let mut names = words(&case[key], false).unwrap_or_default();
        names.sort();
        names
    };
    let mut tally = Tally::new("shell/process_with_matches");
    for case in cases {
        let env = pairs(&case["env"]);
        let word = text(case, "word").unwrap();
        match word::expand(word, '\\', &lookup(&env)) {
            Ok(mut got) => {
                got.used.sort();
                got.unset.sort();
                let expected = (
                    text(case, "expected").map(str::to_owned),
                    names(case, "matched"),
                    names(case, "unmatched"),
                );
                tally.equal(word, &(Some(got.text), got.used, got.unset), &expected);
            }
            Err(error) => {
                let expected = names(case, "unmatched");
                let ok = case["error"] == true && (expected.is_empty() || error.unset == expected);
                tally.check(ok, || format!("{word}: {error}"));
            }
        }
    }
    tally.finish();
}

#[test]
fn shell_generated() {
    let Some(corpus) = corpus() else { return };
    let file = json(&corpus.join("shell/generated.json"));
    let mut tally = Tally::new("shell/generated");
    for case in file.as_array().unwrap() {
        let env = pairs(&case["env"]);
        let word = text(case, "word").unwrap();
        let escape = text(case, "escape").and_then(|e| e.chars().next()).unwrap();
        let got = word::expand(word, escape, &lookup(&env))
            .ok()
            .map(|e| e.text);
        let expected = text(case, "result").map(str::to_owned);
        let got_words = word::expand_words(word, escape, &lookup(&env)).ok();
        let expected_words = words(&case["words"], !case["words_error"].is_null());
        tally.equal(word, &(got, got_words), &(expected, expected_words));
    }
    tally.finish();
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    found.sort();
    found
}

#[test]
fn parser_dumps() {
    let Some(corpus) = corpus() else { return };
    let mut tally = Tally::new("parser/positive");
    for case in directories(&corpus.join("parser/positive")) {
        let text = std::fs::read_to_string(case.join("Dockerfile")).unwrap();
        let expected = std::fs::read_to_string(case.join("result")).unwrap();
        let got = dockerfile::dump(&text);
        tally.equal(&case.display().to_string(), &got, &Ok(expected));
    }
    tally.finish();
    let mut tally = Tally::new("parser/negative");
    for case in directories(&corpus.join("parser/negative")) {
        let text = std::fs::read_to_string(case.join("Dockerfile")).unwrap();
        let refused = dockerfile::dump(&text).is_err() && dockerfile::parse(&text).is_err();
        tally.check(refused, || case.display().to_string());
    }
    tally.finish();
}

/// First and last line, name and heredocs of each instruction.
type Shape = (u32, u32, String, Vec<(String, String, bool, bool)>);

fn shapes(file: &dockerfile::ast::Dockerfile, text: &str) -> Vec<Shape> {
    use dockerfile::ast::{Heredoc, InstructionKind, Source};
    let index = LineIndex::new(text);
    let lines = |span: dockerfile::span::Span| {
        (
            index.line_column(span.start).0,
            index.line_column(span.end).0,
        )
    };
    let doc = |h: &Heredoc| (h.name.clone(), h.raw.clone(), h.expand, h.strip_tabs);
    let shape = |i: &dockerfile::ast::Instruction| {
        let (start, end) = lines(i.span);
        let docs = match &i.kind {
            InstructionKind::Run(run) => run.heredocs.iter().map(doc).collect(),
            InstructionKind::Copy(copy) | InstructionKind::Add(copy) => copy
                .sources
                .iter()
                .filter_map(|s| match s {
                    Source::Heredoc(h) => Some(doc(h)),
                    Source::Path(_) => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        (start, end, i.keyword.value.clone(), docs)
    };
    let mut found: Vec<Shape> = file.global_args.iter().map(shape).collect();
    for stage in &file.stages {
        let (start, end) = lines(stage.span);
        found.push((start, end, stage.keyword.value.clone(), Vec::new()));
        found.extend(stage.instructions.iter().map(shape));
    }
    found
}

fn expected_shapes(nodes: &Value) -> Vec<Shape> {
    let number =
        |n: &Value, key: &str| n[key].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap();
    let doc = |h: &Value| {
        (
            text(h, "Name").unwrap().to_owned(),
            text(h, "Content").unwrap().to_owned(),
            h["Expand"] == true,
            h["Chomp"] == true,
        )
    };
    nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|n| {
            let docs = n.get("heredocs").and_then(Value::as_array);
            (
                number(n, "start"),
                number(n, "end"),
                text(n, "instruction").unwrap().to_owned(),
                docs.map(|d| d.iter().map(doc).collect())
                    .unwrap_or_default(),
            )
        })
        .collect()
}

#[test]
fn wild_files_parse() {
    let Some(corpus) = corpus() else { return };
    let mut tally = Tally::new("wild/parse");
    for path in directories(&corpus.join("wild/files")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text_ = std::fs::read_to_string(&path).unwrap();
        let oracle = json(
            &corpus
                .join("wild/oracle-parse")
                .join(format!("{name}.json")),
        );
        let got = dockerfile::parse(&text_);
        let dumped = dockerfile::dump(&text_);
        if oracle.get("error").is_some() {
            tally.check(got.is_err() && dumped.is_err(), || name.clone());
            continue;
        }
        let expected = text(&oracle, "dump").unwrap();
        if dumped.as_deref() != Ok(expected) {
            tally.check(false, || format!("{name}\n  {dumped:?}\n  {expected:?}"));
            continue;
        }
        if oracle.get("instructions_error").is_some() {
            tally.check(got.is_err(), || format!("{name} should be refused"));
            continue;
        }
        match got {
            Ok(file) => tally.equal(
                &name,
                &shapes(&file, &text_),
                &expected_shapes(&oracle["nodes"]),
            ),
            // Without a stage the instructions are read, and there is nothing to build.
            Err(error) => {
                let stageless = !expected_shapes(&oracle["nodes"])
                    .iter()
                    .any(|(_, _, name, _)| name.eq_ignore_ascii_case("FROM"));
                let early = error.message.contains("before the first FROM");
                tally.check(stageless || early, || format!("{name}: {error}"));
            }
        }
    }
    tally.finish();
}

/// Rule, line and detail, sorted.
type Warnings = Vec<(String, u32, String)>;

fn expected_warnings(list: &Value) -> Warnings {
    let mut found: Warnings = list
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(|w| {
            let line = w["line"]
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .unwrap();
            (
                text(w, "rule").unwrap().to_owned(),
                line,
                text(w, "detail").unwrap().to_owned(),
            )
        })
        .collect();
    found.sort();
    found
}

/// The warnings, and the line of the error where there is one.
fn lint_text(source: &str, options: &LintOptions<'_>) -> (Warnings, Option<u32>) {
    let index = LineIndex::new(source);
    let line = |offset| index.line_column(offset).0;
    match dockerfile::parse(source) {
        Err(error) => (Vec::new(), Some(line(error.span.start))),
        Ok(file) => {
            let report = lint(&file, options);
            let mut found: Warnings = report
                .warnings
                .iter()
                .map(|w| {
                    let name = w.rule.info().name.to_owned();
                    (name, line(w.span.start), w.detail.clone())
                })
                .collect();
            found.sort();
            (found, report.error.map(|e| line(e.span.start)))
        }
    }
}

fn base(_: &str) -> Option<BaseImage> {
    Some(BaseImage {
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        ..BaseImage::default()
    })
}

#[test]
fn lint_cases() {
    let Some(corpus) = corpus() else { return };
    let mut tally = Tally::new("lint");
    for case in json(&corpus.join("lint/cases.json")).as_array().unwrap() {
        let id = text(case, "id").unwrap();
        let attributes = pairs(&case["frontend_attrs"]);
        let attribute = |name: &str| {
            attributes
                .iter()
                .find(|(k, _)| k == name)
                .map(|(_, v)| v.as_str())
        };
        let build_args: Vec<(String, String)> = attributes
            .iter()
            .filter_map(|(k, v)| Some((k.strip_prefix("build-arg:")?.to_owned(), v.clone())))
            .collect();
        // As much of the ignore file's language as the cases have.
        let patterns = text(case, "dockerignore").unwrap_or_default();
        let ignored = |path: &str| {
            patterns
                .lines()
                .any(|p| p == path || (p == "*" && !path.contains('/')))
        };
        let has_exceptions = patterns.lines().any(|l| l.starts_with('!'));
        let check_mode = case.get("oracle_check_mode");
        let options = LintOptions {
            build_args: &build_args,
            target: attribute("target"),
            only_needed: check_mode.is_none(),
            base: Some(&base),
            ignored: (!patterns.is_empty() && !has_exceptions).then_some(&ignored),
            check: attribute("build-arg:BUILDKIT_DOCKERFILE_CHECK"),
            ..LintOptions::default()
        };
        let list = check_mode.map_or(&case["warnings"], |o| &o["warnings"]);
        let source = text(case, "dockerfile").unwrap();
        tally.equal(id, &lint_text(source, &options).0, &expected_warnings(list));
        // A build lists what the stages it needs have.
        let options = LintOptions {
            only_needed: true,
            ..options
        };
        let built = lint_text(source, &options).0;
        tally.equal(id, &built, &expected_warnings(&case["warnings"]));
    }
    tally.finish();
}

#[test]
fn wild_files_lint() {
    let Some(corpus) = corpus() else { return };
    let mut tally = Tally::new("wild/lint");
    for path in directories(&corpus.join("wild/files")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&path).unwrap();
        let oracle = json(&corpus.join("wild/oracle-lint").join(format!("{name}.json")));
        let options = LintOptions {
            base: Some(&base),
            ..LintOptions::default()
        };
        let (found, error) = lint_text(&source, &options);
        let failed = oracle.get("build_error").is_some();
        tally.equal(
            &name,
            &(found, error.is_some()),
            &(expected_warnings(&oracle["warnings"]), failed),
        );
    }
    tally.finish();
}
