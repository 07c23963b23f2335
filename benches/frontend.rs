//! Dockerfiles and ignore files: `cargo bench --bench frontend`.
//!
//! As a test (without `--bench`) everything runs once, on small input.
#![allow(missing_docs, reason = "criterion's macros")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use shiplap::context::ignore::Ignore;
use shiplap::digest::Digest;
use shiplap::dockerfile::ast::Dockerfile;
use shiplap::dockerfile::lint::{LintOptions, lint};
use shiplap::dockerfile::parse;
use shiplap::graph::{Bases, Graph, PlanOptions, Planned, Resolved, plan};
use shiplap::image::ImageConfig;
use shiplap::platform::Platform;

/// `full` where times are taken, else a hundredth.
fn size(full: usize) -> usize {
    if std::env::args().any(|a| a == "--bench") {
        full
    } else {
        full / 100
    }
}

/// A file of `count` instructions as people write them, in stages of fifty.
fn dockerfile(count: usize) -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nARG VERSION=1\n");
    for i in 0..count {
        // Writing to a string can't fail.
        let _ = match i % 50 {
            0 => writeln!(text, "FROM base:${{VERSION:-2}} AS stage{}", i / 50),
            1 => writeln!(text, "ARG VERSION\nENV NAME{i}=\"a b\" OTHER=$VERSION"),
            n if n % 7 == 2 => writeln!(text, "COPY --chown=1:2 src/{i} dest/"),
            n if n % 7 == 3 => writeln!(text, "WORKDIR /w{i}"),
            n if n % 7 == 4 => writeln!(text, "LABEL org.example.l{i}=\"$VERSION\""),
            n if n % 7 == 5 && i > 50 => {
                writeln!(text, "COPY --from=stage{} /x /y{i}", i / 50 - 1)
            }
            n if n % 7 == 6 => writeln!(text, "RUN <<EOF\nset -e\necho {i}\nEOF"),
            _ => writeln!(
                text,
                "# why\nRUN --mount=type=cache,target=/c{i} \\\n    make t{i} && \\\n    make install"
            ),
        };
    }
    text
}

fn planned(file: &Dockerfile) -> Graph {
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
        match plan(file, &options, &bases).expect("the file is good") {
            Planned::Graph(graph) => return *graph,
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

fn instructions(c: &mut Criterion) {
    let text = dockerfile(size(10_000));
    let file = parse(&text).expect("the file is good");
    c.bench_function("10,000 instructions: parse", |b| {
        b.iter(|| parse(black_box(&text)));
    });
    c.bench_function("10,000 instructions: lint", |b| {
        b.iter(|| lint(black_box(&file), &LintOptions::default()));
    });
    c.bench_function("10,000 instructions: plan", |b| {
        b.iter(|| planned(black_box(&file)));
    });
    c.bench_function("10,000 instructions: parse, lint, plan", |b| {
        b.iter(|| {
            let file = parse(black_box(&text)).expect("the file is good");
            (lint(&file, &LintOptions::default()), planned(&file))
        });
    });
}

/// Fifty patterns of the kinds that people write.
fn patterns() -> String {
    let mut text = String::new();
    for i in 0..10 {
        let _ = writeln!(
            text,
            "**/node_modules{i}\n*.o{i}\n!docs{i}/keep/*.md\nbuild{i}/**/tmp?\n/src{i}/gen-[a-c]*"
        );
    }
    text
}

fn paths(count: usize) -> Vec<String> {
    let names = [
        "src",
        "docs",
        "build",
        "lib",
        "node_modules",
        "gen-a",
        "tmp1",
        "keep",
    ];
    (0..count)
        .map(|i| {
            let part = |n: usize| names[n % names.len()];
            format!(
                "{}{}/{}/{}{}/file{i}.{}",
                part(i),
                i % 13,
                part(i / 8),
                part(i / 64),
                i % 11,
                ["c", "o3", "md", "js"][i % 4]
            )
        })
        .collect()
}

fn ignoring(c: &mut Criterion) {
    let file = patterns();
    let paths = paths(size(100_000));
    c.bench_function("100,000 paths against 50 patterns", |b| {
        b.iter(|| {
            let ignore = Ignore::parse(black_box(file.as_bytes())).expect("good patterns");
            let ignored = paths.iter().filter(|p| ignore.ignored_bytes(p.as_bytes()));
            ignored.count()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = instructions, ignoring
}
criterion_main!(benches);
