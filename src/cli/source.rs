//! What is to be built: the arguments that build, check and graph share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use shiplap::build::request::{Allow, PullPolicy, Request};
use shiplap::container::{Confinement, Isolation, Network};
use shiplap::graph::SOURCE_DATE_EPOCH;
use shiplap::image::media_type::Compression;
use shiplap::platform::Platform;

use super::error::Usage;
use super::values;

/// Dockerfile, context, and what decides on what they mean.
#[derive(Debug, Clone, Args)]
pub(super) struct SourceArgs {
    /// Directory with the files that COPY and ADD read; - is a tar archive or
    /// a Dockerfile on standard input; a URL of a tar archive or a git
    /// repository
    #[arg(default_value = ".")]
    pub(super) context: String,
    /// Dockerfile, - for standard input, or a URL [default: Dockerfile in the
    /// context]
    #[arg(short, long, alias = "dockerfile", value_name = "FILE")]
    pub(super) file: Option<String>,
    /// Value of an ARG; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// Platforms to build for, separated by commas [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',', value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// Another context that FROM and --from may name: a directory,
    /// docker-image://REF, oci-layout://DIR, or a URL
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::key_value)]
    build_context: Vec<(String, String)>,
    /// Ignore file to use instead of the context's .dockerignore
    #[arg(long, value_name = "FILE")]
    pub(super) ignorefile: Option<PathBuf>,
}

impl SourceArgs {
    /// A request for it with everything else as it is by default. `variable`
    /// reads the environment.
    ///
    /// # Errors
    /// [`Usage`] when the arguments don't go together.
    pub(super) fn request(
        &self,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Request> {
        if self.context == "-" && self.file.as_deref() == Some("-") {
            return Err(Usage::error(
                "context and Dockerfile can't both come from standard input",
            ));
        }
        Ok(Request {
            context: self.context.clone(),
            file: self.file.clone(),
            ignore_file: self.ignorefile.clone(),
            build_contexts: self.build_context.clone(),
            tags: Vec::new(),
            build_args: self.build_args(variable)?,
            target: self.target.clone(),
            labels: Vec::new(),
            platforms: self.platform.clone(),
            no_cache: false,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            pull: PullPolicy::Missing,
            network: Network::Host,
            hostname: None,
            add_hosts: Vec::new(),
            confinement: Confinement::default(),
            allow: Allow::default(),
            jobs: 0,
            outputs: Vec::new(),
            push: false,
            compression: Compression::Gzip,
            compression_level: None,
            force_compression: false,
            format: shiplap::image::media_type::Format::Oci,
            annotations: Vec::new(),
            rewrite_timestamp: false,
            without_run: false,
            isolation: Isolation::Auto,
            root_kind: None,
            runtime: None,
            secrets: Vec::new(),
            ssh: Vec::new(),
        })
    }

    /// The arguments with values; one that the environment lacks is left out.
    fn build_args(
        &self,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let mut args = Vec::new();
        for text in &self.build_arg {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => {
                    let value = variable(text);
                    (
                        text.as_str(),
                        value.map(|v| v.to_string_lossy().into_owned()),
                    )
                }
            };
            if name.is_empty() {
                return Err(Usage::error(format!(
                    "--build-arg {text}: the name is missing"
                )));
            }
            args.extend(value.map(|value| (name.to_owned(), value)));
        }
        // It is handed on without being asked for.
        if !args.iter().any(|(name, _)| name == SOURCE_DATE_EPOCH)
            && let Some(value) = variable(SOURCE_DATE_EPOCH).filter(|v| !v.is_empty())
        {
            let value = value.to_string_lossy().into_owned();
            args.push((SOURCE_DATE_EPOCH.to_owned(), value));
        }
        Ok(args)
    }
}

/// The environment of this process.
pub(super) fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}
