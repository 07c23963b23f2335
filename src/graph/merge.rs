//! Graphs for several platforms → one graph, in which what they have in common
//! stands once: stages that are built on the build's own platform, above all.

use super::{Graph, Step, StepId};

/// Several graphs as one.
#[derive(Debug, Clone)]
pub struct Merged {
    /// The steps; each one's inputs stand before it.
    pub steps: Vec<Step>,
    /// For each graph the step whose file system is its result.
    pub results: Vec<StepId>,
    /// For each graph, where its steps went.
    pub places: Vec<Vec<StepId>>,
}

/// Merges `graphs`. Two steps are one when they do the same to the same; the
/// names of steps that only some platforms have say which.
pub fn merge(graphs: &[Graph]) -> Merged {
    let mut steps: Vec<Step> = Vec::new();
    let mut users: Vec<Vec<usize>> = Vec::new();
    let mut results = Vec::new();
    let mut places = Vec::new();
    for (n, graph) in graphs.iter().enumerate() {
        let mut place: Vec<StepId> = Vec::with_capacity(graph.steps.len());
        for step in &graph.steps {
            let mut step = step.clone();
            step.op
                .move_inputs(&|id| place.get(id.0).copied().unwrap_or(id));
            let id = match steps.iter().position(|known| known.op == step.op) {
                Some(known) => StepId(known),
                None => {
                    step.id = StepId(steps.len());
                    steps.push(step);
                    users.push(Vec::new());
                    StepId(steps.len() - 1)
                }
            };
            users[id.0].push(n);
            place.push(id);
        }
        results.push(place.get(graph.result.0).copied().unwrap_or(graph.result));
        places.push(place);
    }
    if graphs.len() > 1 {
        for (step, users) in steps.iter_mut().zip(&mut users) {
            users.dedup();
            if let [only] = users.as_slice() {
                step.name = named(&step.name, &graphs[*only].platform.to_string());
            }
        }
    }
    Merged {
        steps,
        results,
        places,
    }
}

/// `[build 2/5] RUN make` → `[linux/arm64 build 2/5] RUN make`.
fn named(name: &str, platform: &str) -> String {
    match name.strip_prefix('[') {
        Some(rest) => format!("[{platform} {rest}"),
        None => format!("[{platform}] {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile;
    use crate::graph::{Bases, PlanOptions, Planned, plan};
    use crate::platform::Platform;

    fn graph(text: &str, platform: &str) -> Graph {
        let options = PlanOptions {
            build_args: Vec::new(),
            target: None,
            platform: Platform::parse(platform).unwrap(),
            build_platform: Platform::parse("linux/amd64").unwrap(),
            labels: Vec::new(),
            contexts: std::collections::BTreeMap::new(),
        };
        let file = dockerfile::parse(text).unwrap();
        match plan(&file, &options, &Bases::new()).unwrap() {
            Planned::Graph(graph) => *graph,
            Planned::Need(need) => panic!("{need:?}"),
        }
    }

    #[test]
    fn what_is_the_same_stands_once() {
        let text = "FROM --platform=$BUILDPLATFORM scratch AS tool\nCOPY a /a\nRUN make\n\
                    FROM --platform=$BUILDPLATFORM scratch AS cross\nARG TARGETARCH\nRUN make $TARGETARCH\n\
                    FROM scratch\nCOPY --from=tool /a /a\nCOPY --from=cross /b /b\nRUN test\n";
        let graphs = [graph(text, "linux/amd64"), graph(text, "linux/arm64")];
        let merged = merge(&graphs);
        let names: Vec<&str> = merged.steps.iter().map(|s| s.name.as_str()).collect();
        let count = |part: &str| names.iter().filter(|n| n.contains(part)).count();
        assert_eq!(count("RUN make $TARGETARCH"), 2, "{names:?}");
        assert!(names.contains(&"[tool 3/3] RUN make"), "{names:?}");
        assert_eq!(count("[tool "), 2 + 1, "{names:?}");
        assert_eq!(count("RUN test"), 2);
        assert!(names.iter().any(|n| n.starts_with("[linux/arm64 cross ")));
        assert_ne!(merged.results[0], merged.results[1]);
        for (n, step) in merged.steps.iter().enumerate() {
            assert_eq!(step.id.0, n);
            assert!(step.inputs().iter().all(|i| i.0 < n));
        }
    }

    #[test]
    fn one_graph_stays_as_it_is() {
        let one = graph("FROM scratch\nCOPY a /\nCOPY b /\n", "linux/arm64");
        let merged = merge(std::slice::from_ref(&one));
        assert_eq!(merged.steps, one.steps);
        assert_eq!(merged.results, [one.result]);
    }
}
