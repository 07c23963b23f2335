//! Where the result of a build goes, and what is written about it.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use shiplap::build::Built;
use shiplap::build::request::{Annotation, Destination, Output, OutputKind, Request};
use shiplap::image::media_type::Compression;
use shiplap::reference::Reference;
use shiplap::solve::Ran;

use super::annotations;
use super::error::Usage;
use super::output_spec::{self, OutputSpec};
use super::values::write_file;

/// Flags about results.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub(super) struct ResultArgs {
    /// Where the result goes: type=image|registry|oci|docker|tar|local|cacheonly
    /// with dest=FILE, dest=DIR or dest=-, or only DIR; may be given several
    /// times
    #[arg(short, long, value_name = "SPEC", value_parser = output_spec::parse)]
    output: Vec<OutputSpec>,
    /// Push the image under all its names when it is built
    #[arg(long)]
    push: bool,
    /// Keep the image in the store beside other outputs
    #[arg(long)]
    load: bool,
    /// Annotation of the image; KEY may have index:, manifest[OS/ARCH]:,
    /// manifest-descriptor: or index-descriptor: before it
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotations::flag)]
    annotation: Vec<annotations::Several>,
    /// Write the image's id (the digest of its config, or of the index) to a
    /// file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write digests and names as JSON to a file
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Compression of new layers: gzip, gzip-single (one member, for
    /// readers that stop after the first), zstd or uncompressed [default: gzip]
    #[arg(long, alias = "compression-format", value_name = "NAME")]
    #[arg(value_parser = output_spec::compression)]
    compression: Option<Compression>,
    /// Level of the compression
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    compression_level: Option<i32>,
    /// Compress layers of the base anew too
    #[arg(long)]
    force_compression: bool,
    /// Leave no mtime later than SOURCE_DATE_EPOCH in new layers
    #[arg(long)]
    rewrite_timestamp: bool,

    /// kaniko's: a name that is pushed to
    #[arg(short = 'd', long, hide = true, value_name = "NAME[:TAG]", value_parser = name)]
    destination: Vec<Reference>,
    /// kaniko's: nothing is pushed
    #[arg(long, hide = true, conflicts_with = "push")]
    no_push: bool,
    /// kaniko's: type=docker,dest=FILE
    #[arg(long, hide = true, alias = "tarPath", value_name = "FILE")]
    tar_path: Option<PathBuf>,
    /// kaniko's: type=oci,tar=false,dest=DIR
    #[arg(long, hide = true, value_name = "DIR")]
    oci_layout_path: Option<PathBuf>,
    /// kaniko's: file for the digest
    #[arg(long, hide = true, value_name = "FILE")]
    digest_file: Option<PathBuf>,
    /// kaniko's: file for NAME@DIGEST lines
    #[arg(long, hide = true, value_name = "FILE")]
    image_name_with_digest_file: Option<PathBuf>,
    /// kaniko's: file for NAME:TAG@DIGEST lines
    #[arg(long, hide = true, value_name = "FILE")]
    image_name_tag_with_digest_file: Option<PathBuf>,
}

/// A name that a new image can have.
pub(super) fn name(text: &str) -> Result<Reference, String> {
    let reference = Reference::parse(text).map_err(|e| e.to_string())?;
    if reference.digest().is_some() {
        return Err("a name for a new image can't have a digest".into());
    }
    Ok(reference)
}

impl ResultArgs {
    /// Puts what is asked for into `request`, which has its tags.
    ///
    /// # Errors
    /// [`Usage`] when flags don't go together.
    pub(super) fn fill(&self, request: &mut Request) -> anyhow::Result<()> {
        request.tags.extend(self.destination.iter().cloned());
        request.push = self.push || !self.destination.is_empty() && !self.no_push;
        request.outputs = self.outputs()?;
        // Layers are made as the first image is to have them, so that they
        // need not be compressed again.
        let first = self.output.iter().find(|o| o.output.kind.is_image());
        request.compression = self
            .compression
            .or(first.and_then(|o| o.output.compression))
            .unwrap_or(Compression::Gzip);
        request.compression_level = self
            .compression_level
            .or(first.and_then(|o| o.output.compression_level));
        request.force_compression = self.force_compression;
        request.rewrite_timestamp = self.rewrite_timestamp
            || self
                .output
                .iter()
                .any(|o| o.rewrite_timestamp == Some(true));
        let all = self.annotation.iter().flat_map(|several| &several.0);
        request.annotations = all.cloned().collect::<Vec<Annotation>>();
        match nameless_push(request) {
            Some(wrong) => Err(Usage::error(wrong)),
            None => Ok(()),
        }
    }

    /// Whether an output asks for registries without certificates.
    pub(super) fn is_insecure(&self) -> bool {
        self.output.iter().any(|o| o.insecure)
    }

    fn outputs(&self) -> anyhow::Result<Vec<Output>> {
        let mut outputs: Vec<Output> = self.output.iter().map(|o| o.output.clone()).collect();
        let to = |path: &PathBuf| Some(Destination::Path(path.clone()));
        if let Some(path) = &self.tar_path {
            outputs.push(Output::new(OutputKind::Docker, to(path)));
        }
        if let Some(path) = &self.oci_layout_path {
            outputs.push(Output {
                tar: false,
                ..Output::new(OutputKind::Oci, to(path))
            });
        }
        let to_stdout = |o: &&Output| o.dest == Some(Destination::Stdout);
        if outputs.iter().filter(to_stdout).count() > 1 {
            return Err(Usage::error("only one output can go to standard output"));
        }
        if outputs.iter().any(|o| to_stdout(&o)) && std::io::stdout().is_terminal() {
            return Err(Usage::error(
                "the output is an archive and standard output is a terminal; give dest=FILE",
            ));
        }
        let stored = |o: &Output| o.kind == OutputKind::Image && !o.push;
        if self.load && !outputs.iter().any(stored) {
            outputs.push(Output::new(OutputKind::Image, None));
        }
        Ok(outputs)
    }

    /// Writes the files that are asked for.
    pub(super) fn report(&self, built: &Built) -> anyhow::Result<()> {
        let digest = &built.descriptor.digest;
        if let Some(file) = &self.iidfile {
            write_file(file, built.config.as_ref().unwrap_or(digest).as_str())?;
        }
        if let Some(file) = &self.metadata_file {
            write_file(file, &format!("{:#}\n", metadata(built)))?;
        }
        if let Some(file) = &self.digest_file {
            write_file(file, digest.as_str())?;
        }
        let lines = |show: fn(&Reference) -> String| -> String {
            let names = built.names.iter().filter(|n| n.digest().is_none());
            names.map(|n| format!("{}@{digest}\n", show(n))).collect()
        };
        if let Some(file) = &self.image_name_with_digest_file {
            write_file(file, &lines(Reference::familiar_name))?;
        }
        if let Some(file) = &self.image_name_tag_with_digest_file {
            write_file(file, &lines(Reference::familiar))?;
        }
        Ok(())
    }
}

/// The keys that `docker buildx build` writes too.
fn metadata(built: &Built) -> Value {
    let names: Vec<String> = built.names.iter().map(ToString::to_string).collect();
    let mut keys = json!({
        "containerimage.digest": built.descriptor.digest,
        "containerimage.descriptor": built.descriptor,
        "image.name": names.join(","),
        "shiplap.steps": built.ran.iter().map(step).collect::<Vec<_>>(),
    });
    // An index has no config.
    if let Some(config) = &built.config {
        keys["containerimage.config.digest"] = json!(config);
    }
    keys
}

/// What a step took.
fn step(ran: &Ran) -> Value {
    json!({
        "name": ran.name,
        "seconds": ran.seconds,
        "cpuSeconds": ran.usage.map(|u| u.cpu_seconds),
        "peakMemoryBytes": ran.usage.map(|u| u.peak_memory_bytes),
    })
}

/// What is wrong when something is to be pushed that has no name.
fn nameless_push(request: &Request) -> Option<&'static str> {
    let named = |o: &Output| !o.names.is_empty() || !request.tags.is_empty();
    let pushes = request.push && request.tags.is_empty() && !request.outputs.iter().any(named);
    (pushes || request.outputs.iter().any(|o| o.push && !named(o)))
        .then_some("a name to push to is missing; give --tag NAME")
}
