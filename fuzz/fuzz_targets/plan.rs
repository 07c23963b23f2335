//! Plans: each step's inputs come before it, spans lie in the file, and the
//! same question gets the same answer.
//!
//! Input: the Dockerfile, then a target, a build argument and the base's
//! triggers, parted by NUL.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use shiplap::digest::Digest;
use shiplap::dockerfile::ast::Dockerfile;
use shiplap::dockerfile::parse;
use shiplap::graph::{
    Bases, Graph, NamedContext, Op, PlanError, PlanOptions, Planned, Resolved, plan, print,
};
use shiplap::image::ImageConfig;
use shiplap::platform::Platform;
use shiplap_fuzz::check_span;

/// Most rounds of looking bases up; each must ask for something new.
const ROUNDS: usize = 1000;

fn finish(
    file: &Dockerfile,
    options: &PlanOptions,
    base: &ImageConfig,
) -> Result<Graph, PlanError> {
    let mut bases = Bases::new();
    for _ in 0..ROUNDS {
        match plan(file, options, &bases)? {
            Planned::Graph(graph) => return Ok(*graph),
            Planned::Need(needed) => {
                assert!(!needed.is_empty());
                for (request, _) in needed {
                    let found = Resolved {
                        digest: Digest::of(request.name.as_bytes()),
                        config: base.clone(),
                    };
                    assert!(bases.insert(request, found).is_none(), "asked twice");
                }
            }
        }
    }
    panic!("no end of bases")
}

fn check(graph: &Graph, text: &str) {
    assert!(graph.step(graph.result).is_some());
    for (number, step) in graph.steps.iter().enumerate() {
        assert_eq!(step.id.0, number);
        assert!(step.inputs().iter().all(|input| input.0 < number));
        assert!(!step.name.is_empty());
        if let Some(span) = step.span {
            check_span(span, text);
        }
        match &step.op {
            Op::Run(run) => assert!(!run.args.is_empty()),
            Op::Copy(copy) => assert!(!copy.dest.is_empty() && copy.workdir.starts_with('/')),
            Op::Workdir(workdir) => assert!(workdir.path.starts_with('/')),
            Op::Scratch | Op::Image(_) => {}
        }
    }
    // The layers of the result are those that the history tells of.
    let mut chain = Vec::new();
    let mut next = Some(graph.result);
    while let Some(step) = next.and_then(|id| graph.step(id)) {
        next = step.parent();
        if next.is_some() {
            chain.push(step.id);
        }
    }
    chain.reverse();
    let told: Vec<_> = graph.history.iter().filter_map(|h| h.step).collect();
    assert_eq!(chain, told);
    for item in &graph.history {
        assert!(item.inherited || item.entry.empty_layer != item.step.is_some());
    }
    let _ = print::text(graph, &[]);
    let _ = print::dot(graph, &[]);
    let _ = print::mermaid(graph, &[]);
    assert!(print::json(graph, &[]).is_object());
}

fuzz_target!(|input: &str| {
    let mut parts = shiplap_fuzz::parts(input);
    let text = parts.next().unwrap_or_default();
    let target = parts.next().filter(|t| !t.is_empty()).map(str::to_owned);
    let argument = parts.next().and_then(|a| a.split_once('='));
    let mut base = ImageConfig {
        os: "linux".into(),
        architecture: "amd64".into(),
        ..ImageConfig::default()
    };
    base.config.env.push("PATH=/bin".into());
    base.config.on_build = parts.map(str::to_owned).collect();
    let Ok(file) = parse(text) else { return };
    let options = PlanOptions {
        build_args: argument
            .into_iter()
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect(),
        target,
        platform: Platform::new("linux", "arm64"),
        build_platform: Platform::new("linux", "amd64"),
        labels: vec![("l".into(), "v".into())],
        contexts: BTreeMap::from([
            ("tree".to_owned(), NamedContext::Tree),
            ("image".to_owned(), NamedContext::Image("other".into())),
        ]),
    };
    let graph = finish(&file, &options, &base);
    match &graph {
        Ok(graph) => check(graph, text),
        Err(error) => {
            assert!(!error.message.is_empty());
            if let Some(span) = error.span {
                check_span(span, text);
            }
        }
    }
    let again = finish(&parse(text).expect("it parsed before"), &options, &base);
    assert_eq!(graph, again);
});
