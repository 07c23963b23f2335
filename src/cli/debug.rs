//! `shiplap debug`: single parts of the program, for scripts and tests.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use shiplap::context::ignore::Ignore;
use shiplap::dockerfile::{self, word};
use shiplap::graph::{self, PlanOptions, Planned, Resolved};
use shiplap::image::ImageConfig;
use shiplap::platform::Platform;

use super::error::{Located, Usage};
use super::{Session, values};
use crate::ui::output;

/// Look at single parts of the program
#[derive(Debug, Args)]
pub(super) struct DebugArgs {
    #[command(subcommand)]
    command: DebugCommand,
}

#[derive(Debug, Subcommand)]
enum DebugCommand {
    /// Print a Dockerfile as it was parsed
    Parse {
        /// The Dockerfile, or - for standard input
        file: PathBuf,
    },
    /// Print the expansion of a word
    Word {
        /// Split it into words, and print each on a line
        #[arg(long)]
        words: bool,
        /// The escape character
        #[arg(long, value_name = "CHARACTER", default_value = "\\")]
        escape: char,
        /// The word
        #[arg(allow_hyphen_values = true)]
        word: String,
        /// Variables
        #[arg(value_name = "NAME=VALUE", value_parser = values::key_value)]
        variables: Vec<(String, String)>,
    },
    /// Say for each path on standard input whether it is ignored
    Ignore {
        /// The ignore file
        file: PathBuf,
    },
    /// Print the plan of a build as JSON, without running anything
    Plan(PlanArgs),
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// The Dockerfile, or - for standard input
    #[arg(short, long)]
    file: PathBuf,
    /// Value of an ARG
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::key_value)]
    build_arg: Vec<(String, String)>,
    /// Stage to build
    #[arg(long)]
    target: Option<String>,
    /// Platform to build for
    #[arg(long, value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Image config that every image in FROM is taken to have; without it,
    /// images are looked up in the store
    #[arg(long, value_name = "FILE")]
    base_config: Option<PathBuf>,
}

impl DebugArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        match self.command {
            DebugCommand::Parse { file } => {
                let text = read_text(&file)?;
                let dump = dockerfile::dump(&text).map_err(|e| Located::parse(e, &file, &text))?;
                output::result(&format!("{}\n", dump.trim_end_matches('\n')))
            }
            DebugCommand::Word {
                words,
                escape,
                word,
                variables,
            } => expand(words, escape, &word, &variables),
            DebugCommand::Ignore { file } => ignore(&file),
            DebugCommand::Plan(args) => args.run(session),
        }
    }
}

fn expand(
    words: bool,
    escape: char,
    word: &str,
    variables: &[(String, String)],
) -> anyhow::Result<()> {
    let lookup = |name: &str| {
        let found = variables.iter().rev().find(|(n, _)| n == name);
        found.map(|(_, value)| value.clone())
    };
    let lines = if words {
        word::expand_words(word, escape, &lookup)?
    } else {
        vec![word::expand(word, escape, &lookup)?.text]
    };
    output::result(
        &lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
}

fn ignore(file: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
    let ignore = Ignore::parse(&bytes).with_context(|| file.display().to_string())?;
    let mut answer = Vec::new();
    for line in io::stdin().lock().split(b'\n') {
        let path = line.context("can't read standard input")?;
        let verdict: &[u8] = if ignore.ignored_bytes(&path) {
            b"ignored\t"
        } else {
            b"kept\t"
        };
        answer.extend(verdict);
        answer.extend(path);
        answer.push(b'\n');
    }
    output::result_bytes(&answer)
}

impl PlanArgs {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let text = read_text(&self.file)?;
        let parsed = dockerfile::parse(&text).map_err(|e| Located::parse(e, &self.file, &text))?;
        let host = Platform::host();
        let options = PlanOptions {
            build_args: self.build_arg.clone(),
            target: self.target.clone(),
            platform: self.platform.clone().unwrap_or_else(|| host.clone()),
            build_platform: host,
            labels: Vec::new(),
            contexts: BTreeMap::new(),
        };
        let fixed = self.base_config.as_deref().map(fixed_base).transpose()?;
        let mut bases = graph::Bases::new();
        loop {
            let planned = graph::plan(&parsed, &options, &bases)
                .map_err(|e| Located::plan(e, &self.file, &text))?;
            match planned {
                Planned::Graph(graph) => return output::json(&graph::print::json(&graph, &[])),
                Planned::Need(needed) => {
                    for (request, _) in needed {
                        let base = match &fixed {
                            Some(base) => base.clone(),
                            None => stored_base(session, &request)?,
                        };
                        bases.insert(request, base);
                    }
                }
            }
        }
    }
}

fn fixed_base(file: &Path) -> anyhow::Result<Resolved> {
    let bytes = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
    let config = ImageConfig::parse(&bytes)
        .with_context(|| format!("{} is no image config", file.display()))?;
    let digest = shiplap::digest::Digest::of(&bytes);
    Ok(Resolved { digest, config })
}

fn stored_base(session: &Session, request: &graph::BaseRequest) -> anyhow::Result<Resolved> {
    let store = session.store()?;
    let descriptor = store.find(&request.name)?;
    let image = store.load_image(&descriptor, Some(&request.platform))?;
    Ok(Resolved {
        digest: image.descriptor.digest.clone(),
        config: image.config,
    })
}

/// Reads a Dockerfile.
fn read_text(file: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    super::open_input(file)?
        .read_to_end(&mut bytes)
        .with_context(|| format!("can't read {}", file.display()))?;
    String::from_utf8(bytes)
        .map_err(|_| Usage::error(format!("{} is no UTF-8 text", file.display())))
}
