//! `shiplap graph`: what a build would do.

use clap::{Args, ValueEnum};
use shiplap::graph::print::Keys;
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
///
/// With the key of each step where it is known beforehand, and whether the
/// step's result is there.
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
        let plans = shiplap::build::plans(&request, &tools, &cancel).map_err(located)?;
        let joined = |text: fn(&Graph, Keys<'_>) -> String| {
            let texts: Vec<String> = plans.iter().map(|(g, keys)| text(g, keys)).collect();
            output::result(&texts.join("\n"))
        };
        match self.format {
            GraphFormat::Text => joined(print::text),
            GraphFormat::Dot => joined(print::dot),
            GraphFormat::Mermaid => joined(print::mermaid),
            GraphFormat::Json => {
                let mut all: Vec<_> = plans.iter().map(|(g, k)| print::json(g, k)).collect();
                match all.len() {
                    1 => output::json(&all.remove(0)),
                    _ => output::json(&all),
                }
            }
        }
    }
}
