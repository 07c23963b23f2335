//! Plans recorded Dockerfiles and compares config and history with what was
//! recorded. Does nothing where the recordings are not at hand.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shiplap::digest::Digest;
use shiplap::graph::{Bases, Graph, MARKER, PlanOptions, Planned, Resolved, plan};
use shiplap::image::ImageConfig;
use shiplap::platform::Platform;

fn corpus() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/wild");
    dir.is_dir().then_some(dir)
}

/// Every base is the same small image.
fn base() -> ImageConfig {
    ImageConfig::parse(
        br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":[]}}"#,
    )
    .unwrap()
}

fn plan_text(text: &str) -> Result<Graph, String> {
    let file = shiplap::dockerfile::parse(text).map_err(|e| e.to_string())?;
    let platform = Platform::new("linux", "amd64");
    let options = PlanOptions {
        build_args: Vec::new(),
        target: None,
        platform: platform.clone(),
        build_platform: platform,
        labels: Vec::new(),
        contexts: std::collections::BTreeMap::new(),
    };
    let mut bases = Bases::new();
    loop {
        match plan(&file, &options, &bases).map_err(|e| e.to_string())? {
            Planned::Graph(graph) => return Ok(*graph),
            Planned::Need(requests) => {
                for (request, _) in requests {
                    let found = Resolved {
                        digest: Digest::of(b""),
                        config: base(),
                    };
                    bases.insert(request, found);
                }
            }
        }
    }
}

#[test]
fn recorded_configs() {
    let Some(corpus) = corpus() else {
        eprintln!("skipped: no recordings at ../shared/corpus/wild");
        return;
    };
    let mut names: Vec<_> = std::fs::read_dir(corpus.join("oracle-config"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut wrong = Vec::new();
    for name in &names {
        let text =
            std::fs::read(corpus.join("files").join(name.trim_end_matches(".json"))).unwrap();
        let text = String::from_utf8_lossy(&text);
        let want: Value = serde_json::from_slice(
            &std::fs::read(corpus.join("oracle-config").join(name)).unwrap(),
        )
        .unwrap();
        let got = plan_text(&text);
        let fault = match (&got, want.get("error")) {
            (Err(_), Some(_)) => None,
            (Err(e), None) => Some(format!("refused: {e}")),
            (Ok(_), Some(e)) => Some(format!("should be refused: {e}")),
            (Ok(graph), None) => compare(graph, &want),
        };
        if let Some(fault) = fault {
            wrong.push(format!("{name}: {fault}"));
        }
    }
    println!(
        "recorded plans: {} of {} agree",
        names.len() - wrong.len(),
        names.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compare(graph: &Graph, want: &Value) -> Option<String> {
    let got = json!(graph.config.config);
    if got != want["config"] {
        return Some(format!("config\n  got  {got}\n  want {}", want["config"]));
    }
    let got: Vec<(String, bool)> = graph
        .history
        .iter()
        .filter(|h| !h.inherited)
        .map(|h| {
            let text = h
                .entry
                .created_by
                .replace(&format!("# {MARKER}"), "# buildkit");
            (text, h.step.is_none())
        })
        .collect();
    let want: Vec<(String, bool)> = want["history"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|h| {
            let text = h["created_by"].as_str().unwrap_or("").to_owned();
            (text, h["empty_layer"].as_bool().unwrap_or(false))
        })
        .collect();
    if got.len() != want.len() {
        return Some(format!(
            "{} history entries, want {}",
            got.len(),
            want.len()
        ));
    }
    got.iter()
        .zip(&want)
        .find(|(g, w)| g != w)
        .map(|(g, w)| format!("history\n  got  {g:?}\n  want {w:?}"))
}
