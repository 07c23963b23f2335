//! A graph for people and for other programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Graph, Op, Step, StepId};
use crate::graph::From;

/// One line for each step: its number, name and inputs.
pub fn text(graph: &Graph) -> String {
    let mut out = String::new();
    for step in &graph.steps {
        let _ = write!(out, "{:>3}  {}", step.id.0, step.name);
        let inputs: Vec<String> = step.inputs().iter().map(|i| i.0.to_string()).collect();
        if !inputs.is_empty() {
            let _ = write!(out, "  <- {}", inputs.join(", "));
        }
        if step.id == graph.result {
            out.push_str("  (result)");
        }
        out.push('\n');
    }
    out
}

/// The whole plan: `platform`, `steps`, `result`, `config`, `history`.
///
/// Each step has `id`, `stage`, `name`, `op`, `inputs` and what its kind of
/// operation needs.
pub fn json(graph: &Graph) -> Value {
    let history: Vec<Value> = graph
        .history
        .iter()
        .filter(|h| !h.inherited)
        .map(|h| {
            let mut entry = json!({
                "created_by": h.entry.created_by,
                "empty_layer": h.step.is_none(),
            });
            if let Some(step) = h.step {
                entry["step"] = json!(step.0);
            }
            entry
        })
        .collect();
    json!({
        "platform": graph.platform.to_string(),
        "steps": graph.steps.iter().map(step_json).collect::<Vec<_>>(),
        "result": graph.result.0,
        "config": graph.config.config,
        "author": graph.config.author,
        "history": history,
    })
}

fn step_json(step: &Step) -> Value {
    let mut value = match &step.op {
        Op::Scratch => json!({"op": "scratch"}),
        Op::Image(image) => json!({
            "op": "image",
            "image": image.request.name,
            "platform": image.request.platform.to_string(),
            "digest": image.digest.to_string(),
        }),
        Op::Workdir(w) => json!({"op": "workdir", "path": w.path, "user": w.user}),
        Op::Copy(copy) => json!({
            "op": if copy.add { "add" } else { "copy" },
            "from": from_json(&copy.from),
            "sources": copy.sources.iter().map(|s| match s {
                super::CopySource::Path { path, .. } => json!(path),
                super::CopySource::Url { url, .. } => json!(url),
                super::CopySource::Inline { name, .. } => json!(format!("<<{name}")),
            }).collect::<Vec<_>>(),
            "dest": copy.dest,
        }),
        Op::Run(run) => json!({
            "op": "run",
            "args": run.args,
            "env": run.env.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>(),
            "cwd": run.cwd,
            "user": run.user,
        }),
    };
    value["id"] = json!(step.id.0);
    value["stage"] = json!(step.stage);
    value["name"] = json!(step.name);
    value["inputs"] = json!(step.inputs().iter().map(|i| i.0).collect::<Vec<_>>());
    value
}

fn from_json(from: &From) -> Value {
    match from {
        From::Context => json!("context"),
        From::Named(name) => json!(format!("context {name}")),
        From::Step(id) => json!(id.0),
    }
}

/// The graph in Graphviz' language.
pub fn dot(graph: &Graph) -> String {
    let mut out = String::from("digraph build {\n  rankdir=LR;\n  node [shape=box];\n");
    for step in &graph.steps {
        let label = step.name.replace('\\', "\\\\").replace('"', "\\\"");
        let style = if step.id == graph.result {
            " style=bold"
        } else {
            ""
        };
        let _ = writeln!(out, "  s{} [label=\"{label}\"{style}];", step.id.0);
    }
    for (from, to) in edges(graph) {
        let _ = writeln!(out, "  s{} -> s{};", from.0, to.0);
    }
    out.push_str("}\n");
    out
}

/// The graph in Mermaid's language.
pub fn mermaid(graph: &Graph) -> String {
    let mut out = String::from("flowchart LR\n");
    for step in &graph.steps {
        let label = step.name.replace('"', "#quot;");
        let _ = writeln!(out, "  s{}[\"{label}\"]", step.id.0);
    }
    for (from, to) in edges(graph) {
        let _ = writeln!(out, "  s{} --> s{}", from.0, to.0);
    }
    out
}

fn edges(graph: &Graph) -> impl Iterator<Item = (StepId, StepId)> + '_ {
    graph
        .steps
        .iter()
        .flat_map(|s| s.inputs().into_iter().map(move |i| (i, s.id)))
}
