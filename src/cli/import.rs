//! `shiplap import`: a base image from the tar of a root filesystem.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use shiplap::build::import::{ImportOptions, import};
use shiplap::digest::Digest;
use shiplap::dockerfile::{self, ast::Dockerfile};
use shiplap::event::Outcome;
use shiplap::graph::{self, Graph, Op, PlanOptions, Planned, Resolved};
use shiplap::image::media_type::Compression;
use shiplap::image::{ContainerConfig, History, ImageConfig};
use shiplap::layer::compress::Settings;
use shiplap::layer::workers::Workers;
use shiplap::platform::Platform;

use super::error::{Located, Usage};
use super::reshape::MessageArgs;
use super::{ProgressArgs, Session, images, open_input, output_spec, values};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  A base image of Debian, where there is no registry to pull from
    mmdebstrap --variant=minbase bookworm debian.tar
    shiplap import debian.tar debian:bookworm --change 'CMD [\"bash\"]'

  From a pipe
    tar -C rootfs -c . | shiplap import - base";

/// Make an image of one layer from the tar of a root filesystem
///
/// The tar may be compressed with gzip, bzip2, xz or zstd. Prints the image's
/// digest.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// The tar, or - for standard input
    file: PathBuf,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
    /// Instruction for the image's config: CMD, ENTRYPOINT, ENV, EXPOSE,
    /// HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME or WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    #[command(flatten)]
    message: MessageArgs,
    /// What the files are made to run on [default: this machine's platform]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Compression of the layer: gzip, gzip-single, zstd or
    /// uncompressed
    #[arg(long, value_name = "NAME", default_value = "gzip", value_parser = output_spec::compression)]
    compression: Compression,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl ImportArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let name = images::new_name(&self.name)?;
        let config = self.config()?;
        let store = session.store()?;
        let archive = open_input(&self.file)?;
        let ui = session.ui(&self.progress)?;
        let task = ui.events().start(format!("[import] {}", name.familiar()));
        let options = ImportOptions {
            config,
            created_by: format!("IMPORT {}", file_name(&self.file)),
            comment: self.message.message.clone(),
            compression: Settings {
                compression: self.compression,
                level: None,
                workers: Workers::default(),
            },
        };
        let imported = import(
            &store,
            archive,
            options,
            &task,
            &session.interrupts.cancel(),
        );
        task.finish(match &imported {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        });
        let descriptor =
            imported.with_context(|| format!("can't import {}", self.file.display()))?;
        store.set_refs(&[(name, descriptor.clone())])?;
        drop(ui);
        output::result(&format!("{}\n", descriptor.digest))
    }

    /// The config that the changes make.
    fn config(&self) -> anyhow::Result<ImageConfig> {
        let epoch = values::source_date_epoch(std::env::var_os("SOURCE_DATE_EPOCH"))?;
        let created = match epoch {
            Some(seconds) => jiff::Timestamp::from_second(seconds)
                .map_err(|e| Usage::error(format!("SOURCE_DATE_EPOCH: {e}")))?,
            None => jiff::Timestamp::now(),
        }
        .to_string();
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        let mut config = changed(&self.change, platform)?;
        config.created = Some(created.clone());
        for entry in &mut config.history {
            entry.created = Some(created.clone());
        }
        Ok(config)
    }
}

/// The name of a file in the history: without its directories, which say
/// nothing about the image.
fn file_name(file: &Path) -> String {
    match file.file_name() {
        Some(name) if file.as_os_str() != "-" => name.to_string_lossy().into_owned(),
        _ => "standard input".into(),
    }
}

/// What an image is called in the text that changes it.
const BASE: &str = "image";

/// The config of an empty image with `changes`, each one instruction.
pub(super) fn changed(changes: &[String], platform: Platform) -> anyhow::Result<ImageConfig> {
    let (graph, file) = planned(None, changes, &platform)?;
    let mut config = graph.config;
    // What an empty image is given is not said of a root filesystem.
    if !file.stages[0]
        .instructions
        .iter()
        .any(|i| i.kind.name() == "WORKDIR")
    {
        config.config.working_dir.clear();
    }
    config.config.args_escaped = false;
    config.os = platform.os;
    config.architecture = platform.architecture;
    config.variant = platform.variant.unwrap_or_default();
    config.history = graph
        .history
        .into_iter()
        .map(|item| History {
            // A WORKDIR names a directory and makes none.
            empty_layer: true,
            ..item.entry
        })
        .collect();
    Ok(config)
}

/// What `changes`, each one instruction, make of an image's config, and what
/// its history says of them.
pub(super) fn changed_from(
    config: &ImageConfig,
    changes: &[String],
) -> anyhow::Result<(ContainerConfig, Vec<History>)> {
    let mut base = config.clone();
    // Nothing is built on it now.
    let triggers = std::mem::take(&mut base.config.on_build);
    let (graph, _) = planned(Some(base), changes, &config.platform())?;
    let mut changed = graph.config.config;
    changed.on_build.splice(..0, triggers);
    let history = graph.history.into_iter().filter(|item| !item.inherited);
    Ok((changed, history.map(|item| item.entry).collect()))
}

/// The plan for `changes` of an image, or of an empty one.
fn planned(
    base: Option<ImageConfig>,
    changes: &[String],
    platform: &Platform,
) -> anyhow::Result<(Graph, Dockerfile)> {
    let place = Path::new("--change");
    let from = if base.is_some() { BASE } else { "scratch" };
    let text = format!("FROM {from}\n{}\n", changes.join("\n"));
    let file = dockerfile::parse(&text).map_err(|e| Located::parse(e, place, &text))?;
    let allowed = "only instructions that change nothing but the config can be used here";
    let refused = || Usage::error(allowed);
    if file.stages.len() != 1 {
        return Err(refused());
    }
    let options = PlanOptions {
        build_args: Vec::new(),
        target: None,
        platform: platform.clone(),
        build_platform: platform.clone(),
        labels: Vec::new(),
        contexts: BTreeMap::new(),
    };
    let plan = |bases: &graph::Bases| {
        graph::plan(&file, &options, bases).map_err(|e| Located::plan(e, place, &text))
    };
    let mut bases = graph::Bases::new();
    let mut planned = plan(&bases)?;
    if let (Planned::Need(needed), Some(config)) = (&planned, base) {
        let digest = Digest::of(&config.to_bytes());
        let resolved = Resolved { digest, config };
        for (request, _) in needed.iter().filter(|(request, _)| request.name == BASE) {
            bases.insert(request.clone(), resolved.clone());
        }
        planned = plan(&bases)?;
    }
    let Planned::Graph(graph) = planned else {
        return Err(refused());
    };
    let harmless = |op: &Op| matches!(op, Op::Scratch | Op::Image(_) | Op::Workdir(_));
    if !graph.steps.iter().all(|step| harmless(&step.op)) {
        return Err(refused());
    }
    Ok((*graph, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_config_can_be_changed() {
        let mut config = ImageConfig {
            os: "linux".into(),
            architecture: "arm64".into(),
            ..ImageConfig::default()
        };
        config.config.env = vec!["PATH=/bin".into(), "A=1".into()];
        config.config.cmd = Some(vec!["sh".into()]);
        config.config.on_build = vec!["RUN x".into()];
        config.config.working_dir = "/w".into();
        let changes = ["ENV B=${A}2", "LABEL l=m", "WORKDIR in", "ONBUILD USER y"];
        let (changed, history) = changed_from(&config, &changes.map(str::to_owned)).unwrap();
        assert_eq!(changed.env, ["PATH=/bin", "A=1", "B=12"]);
        assert_eq!(changed.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(changed.on_build, ["RUN x", "USER y"]);
        assert_eq!(changed.working_dir, "/w/in");
        // A trigger leaves no entry.
        assert_eq!(history.len(), changes.len() - 1);
        for bad in ["RUN x", "FROM image", "COPY --from=other a b"] {
            assert!(changed_from(&config, &[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn changes_are_instructions() {
        let platform = || Platform::new("linux", "arm64");
        let changes = [
            "ENV A=b C=$A",
            "CMD [\"sh\"]",
            "WORKDIR /x",
            "LABEL l=m",
            "EXPOSE 80",
        ];
        let config = changed(&changes.map(str::to_owned), platform()).unwrap();
        assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(config.config.working_dir, "/x");
        assert_eq!(config.architecture, "arm64");
        assert_eq!(config.history.len(), changes.len());
        assert!(config.history.iter().all(|h| h.empty_layer));
        for bad in [
            "RUN x",
            "COPY a b",
            "FROM x",
            "FROM scratch AS b",
            "CMDD x",
            "ADD a b",
        ] {
            assert!(changed(&[bad.to_owned()], platform()).is_err(), "{bad}");
        }
        assert!(changed(&[], platform()).unwrap().history.is_empty());
    }
}
