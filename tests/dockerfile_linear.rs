//! Large and hostile files take time in proportion to their length.
#![allow(clippy::print_stderr, reason = "times are for people")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use shiplap::digest::Digest;
use shiplap::dockerfile::ast::Dockerfile;
use shiplap::dockerfile::lint::{LintOptions, lint};
use shiplap::dockerfile::{dump, parse, print};
use shiplap::graph::{Bases, Graph, PlanError, PlanOptions, Planned, Resolved, plan};
use shiplap::image::ImageConfig;
use shiplap::platform::Platform;

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

/// As [`numbered`], but half as long.
fn half(start: &str, part: impl Fn(usize) -> String) -> String {
    let mut text = start.to_owned();
    let mut i = 0;
    while text.len() < SIZE / 2 {
        text.push_str(&part(i));
        i += 1;
    }
    text
}

/// Plans the file with the same base for every name.
fn planned(file: &Dockerfile) -> Result<Graph, PlanError> {
    let platform = Platform::new("linux", "amd64");
    let options = PlanOptions {
        build_args: Vec::new(),
        target: None,
        platform: platform.clone(),
        build_platform: platform,
        labels: Vec::new(),
        contexts: BTreeMap::new(),
    };
    let mut bases = Bases::new();
    loop {
        match plan(file, &options, &bases)? {
            Planned::Graph(graph) => return Ok(*graph),
            Planned::Need(needed) => bases.extend(needed.into_iter().map(|(request, _)| {
                let found = Resolved {
                    digest: Digest::of(b""),
                    config: ImageConfig::default(),
                };
                (request, found)
            })),
        }
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
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
        (
            "copies over many stages",
            half("", |i| format!("FROM scratch AS s{i}\n"))
                + &half("FROM a\n", |_| "COPY --from=s0 a b\n".to_owned()),
        ),
        (
            "copies from many images",
            numbered("FROM scratch\n", |i| format!("COPY --from=i{i} a b\n")),
        ),
        (
            "copies from many stages",
            half("", |i| format!("FROM scratch AS s{i}\n"))
                + &half("FROM a\n", |i| format!("COPY --from=s{i} a b\n")),
        ),
        (
            "mounts from many stages",
            half("", |i| format!("FROM scratch AS s{i}\n"))
                + &half("FROM a\n", |i| {
                    format!("RUN --mount=from=s{i},target=/a b\n")
                }),
        ),
        (
            "stages on the first one",
            numbered("FROM a AS s0\n", |i| format!("FROM s0 AS t{i}\n")),
        ),
        (
            "arguments in every step",
            half("FROM a\n", |i| format!("ARG v{i}=1\n")) + &half("", |_| "RUN x\n".to_owned()),
        ),
        (
            "variables in every step",
            half("FROM a\n", |i| format!("ENV v{i}=1\n")) + &half("", |_| "RUN x\n".to_owned()),
        ),
        (
            "a variable that doubles",
            repeated("FROM a\nENV a=xx\n", "ENV a=$a$a\n"),
        ),
        (
            "a variable that many have",
            format!("FROM a\nENV a={}\n", "x".repeat(60_000))
                + &numbered("", |i| format!("ENV b{i}=$a\n")),
        ),
        (
            "a long value that is looked at",
            format!("FROM a\nENV a={}\n", "x".repeat(60_000))
                + &repeated("", "ENV b=${a:+c} c=${a##*}\n"),
        ),
        (
            "patterns over a long value",
            format!("FROM a\nENV a={}\n", "a".repeat(60_000))
                + &repeated("", &format!("ENV b=${{a//{}b/c}}\n", "*a".repeat(20))),
        ),
        (
            "labels of a large value",
            format!("FROM a\nENV a={}\n", "x".repeat(60_000))
                + &numbered("", |i| format!("LABEL b{i}=$a$a$a$a\n")),
        ),
        (
            "a history that every stage repeats",
            numbered("FROM a AS s0\nENV a=b\n", |i| {
                format!("FROM s{i} AS s{}\nRUN x\n", i + 1)
            }),
        ),
        (
            "flags of every kind",
            repeated(
                "FROM a\n",
                "RUN --network=none --mount=type=tmpfs,target=/t x\n",
            ),
        ),
        (
            "nested braces",
            repeated("FROM a\nENV a=", &line("${b:-${c:-")),
        ),
        (
            "broken continuations",
            repeated("FROM a\nRUN a\\\n", "# c\n\n"),
        ),
        (
            "openers of many heredocs",
            numbered("FROM a\nRUN ", |i| format!("<<E{i} \\\n")),
        ),
        ("heredocs that are closed", {
            let names: Vec<usize> = (0..SIZE / 20).collect();
            let opens: String = names.iter().map(|i| format!("<<E{i} \\\n")).collect();
            let bodies: String = names.iter().map(|i| format!("x\nE{i}\n")).collect();
            format!("FROM a\nRUN {opens}\n{bodies}")
        }),
        (
            "platforms",
            format!("FROM --platform=linux{}/amd64 a\n", "(1)".repeat(20_000)),
        ),
        ("shells", repeated("FROM a\n", "SHELL [\"a\", \"b\"]\n")),
        (
            "healthchecks",
            repeated("FROM a\n", "HEALTHCHECK --interval=1h1m1s CMD x\n"),
        ),
        ("workdirs", repeated("FROM a\n", "WORKDIR a\n")),
        ("workdirs up", repeated("FROM a\n", "WORKDIR a/../b\n")),
        (
            "volumes",
            numbered("FROM a\n", |i| format!("VOLUME /v{i}\n")),
        ),
        ("unknown instruction", repeated("FROM a\n", "RUNX a\n")),
        (
            "unknown stage",
            half("", |i| format!("FROM scratch AS s{i}\n"))
                + &half("FROM a\n", |_| "COPY --from=zz a b\n".to_owned()),
        ),
    ];
    let mut report = String::new();
    for (name, text) in &cases {
        let start = Instant::now();
        let parsed = parse(text);
        let parsing = start.elapsed();
        let mut rest = Duration::ZERO;
        let mut planning = Duration::ZERO;
        let outcome = match parsed {
            Err(error) => error.message,
            Ok(file) => {
                let report = lint(&file, &LintOptions::default());
                let printed = print(&file);
                rest = start.elapsed() - parsing;
                assert!(!printed.is_empty());
                let start = Instant::now();
                let plan = planned(&file);
                planning = start.elapsed();
                match (report.error, plan) {
                    (Some(error), _) => error.message,
                    (None, Err(error)) => error.message,
                    (None, Ok(_)) => "fine".to_owned(),
                }
            }
        };
        let _ = dump(text);
        let outcome: String = outcome.chars().take(50).collect();
        writeln!(
            report,
            "{name:35} parse {parsing:9.1?} lint+print {rest:9.1?} plan {planning:9.1?} {outcome}"
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

#[test]
fn what_would_grow_without_end_is_refused() {
    let value = "x".repeat(60_000);
    let lines = |start: &str, part: &dyn Fn(usize) -> String, times: usize| {
        start.to_owned() + &(0..times).map(part).collect::<String>()
    };
    let cases = [
        (
            lines("FROM a\nENV a=xx\n", &|_| "ENV a=$a$a\n".into(), 30),
            "the result would be longer than",
        ),
        (
            lines(
                &format!("FROM a\nENV a={value}\n"),
                &|i| format!("ENV b{i}=$a\n"),
                200,
            ),
            "the image's config would be too large",
        ),
        (
            lines(
                "FROM a AS s0\n",
                &|i| format!("ENV a{i}={value}\nFROM s{i} AS s{}\n", i + 1),
                60,
            ) + &lines("", &|i| format!("FROM s60 AS t{i}\nRUN x\n"), 200)
                + &lines("FROM s60\n", &|i| format!("COPY --from=t{i} a b\n"), 200),
            "the plan is too large",
        ),
    ];
    for (text, message) in cases {
        let error = planned(&parse(&text).unwrap()).unwrap_err();
        assert!(error.message.contains(message), "{}", error.message);
        assert!(error.span.is_some());
    }
}
