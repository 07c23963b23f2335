//! `shiplap graph`: what a build would do.

use clap::{Args, ValueEnum};
use shiplap::graph::{Graph, print};

use super::Session;
use super::access::{RegistryArgs, Scope};
use super::error::located;
use super::source::{SourceArgs, environment};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  The steps and what each needs
    shiplap graph .

  A picture
    shiplap graph --format dot . | dot -Tsvg > build.svg";

/// Show the steps that a build would run, without running anything
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GraphArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: GraphFormat,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Forms of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GraphFormat {
    /// A line for each step.
    Text,
    /// Everything that is known of it.
    Json,
    /// The language of Graphviz.
    Dot,
    /// The language of Mermaid.
    Mermaid,
}

impl GraphArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let request = self.source.request(&environment)?;
        let cancel = session.interrupts.cancel();
        let client = self.registry.client(Scope::Build(&[]), cancel.clone())?;
        let tools = session.tools(client)?;
        let graphs = shiplap::build::plans(&request, &tools, &session.interrupts.cancel())
            .map_err(located)?;
        let joined = |text: fn(&Graph) -> String| {
            let texts: Vec<String> = graphs.iter().map(text).collect();
            output::result(&texts.join("\n"))
        };
        match self.format {
            GraphFormat::Text => joined(print::text),
            GraphFormat::Dot => joined(print::dot),
            GraphFormat::Mermaid => joined(print::mermaid),
            GraphFormat::Json => match graphs.as_slice() {
                [one] => output::json(&print::json(one)),
                several => output::json(&several.iter().map(print::json).collect::<Vec<_>>()),
            },
        }
    }
}
