//! A graph for people and for other programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Graph, Op, Step, StepId};
use crate::digest::Digest;
use crate::graph::From;

/// The key of a step's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    /// The key.
    pub key: Digest,
    /// There is a result for it: the step need not be run.
    pub cached: bool,
}

/// Keys by step, as far as they are known; a step without one may be left out
/// at the end.
pub type Keys<'a> = &'a [Option<KnownKey>];

fn key_of(keys: Keys<'_>, step: &Step) -> Option<KnownKey> {
    keys.get(step.id.0).cloned().flatten()
}

/// Under a step's name in pictures.
fn short_key(keys: Keys<'_>, step: &Step) -> String {
    let known = key_of(keys, step);
    known.map_or(String::new(), |k| k.key.short().to_owned())
}

/// One line for each step: its number, name, inputs and key.
pub fn text(graph: &Graph, keys: Keys<'_>) -> String {
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
        if let Some(known) = key_of(keys, step) {
            let _ = write!(out, "  key {}", known.key.short());
            if known.cached && step.parent().is_some() {
                out.push_str(" (cached)");
            }
        }
        out.push('\n');
    }
    out
}

/// The whole plan: `platform`, `steps`, `result`, `config`, `history`.
///
/// Each step has `id`, `stage`, `name`, `op`, `inputs` and what its kind of
/// operation needs; `key` and `cached` where the key is known.
pub fn json(graph: &Graph, keys: Keys<'_>) -> Value {
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
        "steps": graph.steps.iter().map(|s| step_json(s, keys)).collect::<Vec<_>>(),
        "result": graph.result.0,
        "config": graph.config.config,
        "author": graph.config.author,
        "history": history,
    })
}

fn step_json(step: &Step, keys: Keys<'_>) -> Value {
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
    if let Some(known) = key_of(keys, step) {
        value["key"] = json!(known.key);
        value["cached"] = json!(known.cached);
    }
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
pub fn dot(graph: &Graph, keys: Keys<'_>) -> String {
    let mut out = String::from("digraph build {\n  rankdir=LR;\n  node [shape=box];\n");
    for step in &graph.steps {
        let mut label = step.name.replace('\\', "\\\\").replace('"', "\\\"");
        let key = short_key(keys, step);
        if !key.is_empty() {
            let _ = write!(label, "\\n{key}");
        }
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
pub fn mermaid(graph: &Graph, keys: Keys<'_>) -> String {
    let mut out = String::from("flowchart LR\n");
    for step in &graph.steps {
        let mut label = step.name.replace('"', "#quot;");
        let key = short_key(keys, step);
        if !key.is_empty() {
            let _ = write!(label, "<br/>{key}");
        }
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
