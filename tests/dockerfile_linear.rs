//! Large and hostile files take time in proportion to their length.
#![allow(clippy::print_stderr, reason = "times are for people")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use shiplap::dockerfile::lint::{LintOptions, lint};
use shiplap::dockerfile::{dump, parse, print};

const SIZE: usize = if cfg!(debug_assertions) {
    1 << 19
} else {
    5 << 20
};

/// Far above what a build without optimisation on a busy machine needs, far
/// below what a quadratic pass would.
const LIMIT: Duration = Duration::from_secs(20);

fn repeated(start: &str, part: &str) -> String {
    let mut text = start.to_owned();
    text.push_str(&part.repeat(SIZE / part.len()));
    text
}

fn numbered(start: &str, part: impl Fn(usize) -> String) -> String {
    let mut text = start.to_owned();
    let mut i = 0;
    while text.len() < SIZE {
        text.push_str(&part(i));
        i += 1;
    }
    text
}

#[test]
fn hostile_files_take_linear_time() {
    let line = |part: &str| format!("{} \\\n", part.repeat(60_000 / part.len()));
    let cases: Vec<(&str, String)> = vec![
        ("one long line", repeated("FROM a\nRUN ", "x")),
        ("newlines", repeated("", "\n")),
        ("continuations", repeated("FROM a\nRUN a", "\\\n")),
        (
            "words over continuations",
            repeated("FROM a\nENV ", &line("a=b ")),
        ),
        ("quotes", repeated("FROM a\nENV a=", &line("\"'"))),
        ("escapes", repeated("FROM a\nENV a=", &line("\\a"))),
        ("dollars", repeated("FROM a\nENV a=", &line("$b"))),
        ("braces", repeated("FROM a\nENV a=", &line("${b:-"))),
        ("patterns", repeated("FROM a\nENV a=", &line("${b//*a/c}"))),
        ("brackets", repeated("FROM a\nCMD ", &line("["))),
        ("strings", repeated("FROM a\nCMD [\"a\"", &line(",\"a\""))),
        ("flags", repeated("FROM a\nCOPY ", &line("--exclude=a "))),
        (
            "flags given once",
            repeated("FROM a\nCOPY ", &line("--link ")),
        ),
        (
            "mounts",
            repeated("FROM a\nRUN ", &line("--mount=type=cache,target=/a ")),
        ),
        (
            "keys of a mount",
            repeated("FROM a\nRUN --mount=", &line("ro,")),
        ),
        ("heredoc words", repeated("FROM a\nRUN ", &line("<<E "))),
        ("a heredoc", repeated("FROM a\nRUN <<-E\n", "\t\tx\n")),
        ("heredocs", repeated("FROM a\n", "COPY <<E /a\n$b\nE\n")),
        ("comments", repeated("", "# a\n")),
        ("comments above", repeated("", "# a\n") + "FROM a\n"),
        ("onbuild", repeated("FROM a\n", "ONBUILD RUN x\n")),
        ("rows of onbuild", repeated("FROM a\n", &line("ONBUILD "))),
        (
            "triggers",
            repeated("FROM a AS b\n", "ONBUILD RUN x\n") + &"FROM b\n".repeat(1000),
        ),
        (
            "stages",
            numbered("FROM a AS s0\n", |i| {
                format!("FROM s{i} AS s{}\nENV v{i}=1\n", i + 1)
            }),
        ),
        ("stages of one name", repeated("", "FROM a AS b\n")),
        (
            "copies",
            numbered("FROM a AS b\nFROM a\n", |_| {
                "COPY --from=b a b\n".to_owned()
            }),
        ),
        (
            "variables",
            numbered("FROM a\n", |i| format!("ENV v{i}=$v{i}\n")),
        ),
        (
            "arguments",
            numbered("", |i| format!("ARG v{i}=$v{i}\n")) + "FROM a\n",
        ),
        ("undeclared", numbered("", |i| format!("FROM a$v{i}\n"))),
        ("ports", repeated("FROM a\n", "EXPOSE 1-65535\n")),
    ];
    let mut report = String::new();
    for (name, text) in &cases {
        let start = Instant::now();
        let parsed = parse(text);
        let parsing = start.elapsed();
        let mut rest = Duration::ZERO;
        let outcome = match parsed {
            Err(error) => error.message,
            Ok(file) => {
                let report = lint(&file, &LintOptions::default());
                let printed = print(&file);
                rest = start.elapsed() - parsing;
                assert!(!printed.is_empty());
                report
                    .error
                    .map_or_else(|| "fine".to_owned(), |e| e.message)
            }
        };
        let _ = dump(text);
        let outcome: String = outcome.chars().take(50).collect();
        writeln!(
            report,
            "{name:25} parse {parsing:9.1?} lint+print {rest:9.1?} {outcome}"
        )
        .unwrap();
        assert!(
            start.elapsed() < LIMIT,
            "{name} takes {:?}",
            start.elapsed()
        );
    }
    eprintln!("{report}");
}

#[test]
fn ten_thousand_instructions_are_quick() {
    let text = numbered("FROM a\n", |i| {
        format!(
            "RUN --mount=type=cache,target=/c make \\\n  t{i}\nENV A{i}=\"$PATH b\" C=d\nCOPY --chown=1:2 a{i} /b/\n"
        )
    });
    let lines: Vec<&str> = text.lines().take(40_000 / 3).collect();
    let text = lines.join("\n");
    let start = Instant::now();
    let file = parse(&text).unwrap();
    let parsing = start.elapsed();
    let report = lint(&file, &LintOptions::default());
    eprintln!(
        "{} instructions: parse {parsing:?}, lint {:?}, {} warnings",
        file.stages[0].instructions.len(),
        start.elapsed() - parsing,
        report.warnings.len()
    );
}
