//! `shiplap build`: what was typed, and the [`Request`] it means.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use shiplap::build::request::{
    Allow, Destination, Output, OutputKind, PullPolicy, Request, Secret,
};
use shiplap::build::{self, Built};
use shiplap::container::Isolation;
use shiplap::graph::SOURCE_DATE_EPOCH;
use shiplap::image::media_type::Compression;
use shiplap::reference::Reference;
use shiplap::solve::Ran;

use super::access::{RegistryArgs, Scope};
use super::cache_spec::CacheArgs;
use super::call::{self, Call, What};
use super::error::{Usage, located};
use super::output_spec::{self, OutputSpec};
use super::source::{SourceArgs, environment};
use super::steps::StepArgs;
use super::{Format, ProgressArgs, Session, check, values};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  Build ./Dockerfile with the context . and name the image
    shiplap build -t app:1 .

  Build one stage of another file, with an argument
    shiplap build -f docker/Dockerfile --target test --build-arg GO=1.23 .

  Build and push under two names
    shiplap build -t reg.example/app:1 -t reg.example/app:latest --push .

  Write an archive that docker load reads, and an OCI layout beside it
    shiplap build -o type=docker,dest=app.tar -o type=oci,tar=false,dest=app-oci .

  A cache that outlives the machine, with its cache mounts
    shiplap build --cache-from reg.example/app:cache \\
        --cache-to type=registry,ref=reg.example/app:cache,mode=max,mounts=true .

  The same bytes on every machine
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) shiplap build --rewrite-timestamp -t app .";

/// Build an image from a Dockerfile
///
/// Prints the image's digest on standard output and everything else on
/// standard error. Without --output the image goes to the store.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// Name of the image; may be given several times
    #[arg(short, long, alias = "destination", value_name = "NAME[:TAG]", value_parser = tag)]
    tag: Vec<Reference>,
    /// Label of the image
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = values::key_or_value)]
    label: Vec<(String, String)>,
    /// Run every step, whatever is cached
    #[arg(long)]
    no_cache: bool,
    /// Look base images up in their registry: always, missing or never
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "missing", default_missing_value = "always", value_parser = pull_policy)]
    pull: PullPolicy,
    /// How many steps run at once [default: one per core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    jobs: usize,

    #[command(flatten)]
    steps: StepArgs,
    /// What RUN steps may ask for: security.insecure or network.host
    #[arg(
        long,
        value_name = "ENTITLEMENT",
        value_delimiter = ',',
        help_heading = "Privileges"
    )]
    allow: Vec<Entitlement>,
    /// Secret for RUN --mount=type=secret: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long, value_name = "SPEC", help_heading = "Steps")]
    secret: Vec<String>,
    /// Agent for RUN --mount=type=ssh: default, or ID=SOCKET
    #[arg(long, value_name = "ID[=SOCKET]", help_heading = "Steps")]
    ssh: Vec<String>,

    /// Where the result goes: type=image|registry|oci|docker|tar|local with
    /// dest=FILE, dest=DIR or dest=-, or only DIR; may be given several times
    #[arg(short, long, value_name = "SPEC", value_parser = output_spec::parse, help_heading = "Results")]
    output: Vec<OutputSpec>,
    /// Push the image under all its names when it is built
    #[arg(long, help_heading = "Results")]
    push: bool,
    /// Keep the image in the store beside other outputs
    #[arg(long, help_heading = "Results")]
    load: bool,
    /// Write the image's id (the digest of its config) to a file
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) iidfile: Option<PathBuf>,
    /// Write digests and names as JSON to a file
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(super) metadata_file: Option<PathBuf>,
    /// Compression of new layers: gzip, zstd or uncompressed [default: gzip]
    #[arg(
        long,
        alias = "compression-format",
        value_name = "NAME",
        help_heading = "Results"
    )]
    #[arg(value_parser = output_spec::compression)]
    compression: Option<Compression>,
    /// Level of the compression
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Results"
    )]
    compression_level: Option<i32>,
    /// Compress layers of the base anew too
    #[arg(long, help_heading = "Results")]
    force_compression: bool,
    /// Leave no mtime later than SOURCE_DATE_EPOCH in new layers
    #[arg(long, help_heading = "Results")]
    rewrite_timestamp: bool,
    /// Seconds since 1970 for all times that are recorded [default: the
    /// variable SOURCE_DATE_EPOCH, else now]
    #[arg(
        long,
        alias = "timestamp",
        value_name = "SECONDS",
        help_heading = "Results"
    )]
    source_date_epoch: Option<i64>,

    /// Only check the Dockerfile, as shiplap check does
    #[arg(long, conflicts_with = "call", help_heading = "Inspection")]
    check: bool,
    /// Do something else than build: check, outline (what the target takes) or
    /// targets (the stages); with ,format=json for programs
    #[arg(long, default_value = "build", value_name = "WHAT[,format=FORM]")]
    #[arg(value_parser = Call::parse, hide_default_value = true, help_heading = "Inspection")]
    call: Call,
    /// Form of what --check and --call print
    #[arg(long, value_enum, help_heading = "Inspection")]
    format: Option<Format>,

    /// Accepted as steps leave nothing to remove
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<bool>,
    /// Accepted as steps leave nothing to remove
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_rm: Option<bool>,
    /// Only false: no attestations are made
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_parser = no_attestation)]
    provenance: Option<()>,
    /// Only false: no attestations are made
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_parser = no_attestation)]
    sbom: Option<()>,

    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    pub(super) registry: RegistryArgs,
    #[command(flatten)]
    pub(super) progress: ProgressArgs,
}

/// `--allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Entitlement {
    /// RUN --security=insecure
    #[value(name = "security.insecure")]
    Insecure,
    /// RUN --network=host
    #[value(name = "network.host")]
    HostNetwork,
}

impl BuildArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let call = self.call()?;
        match call.what {
            What::Build => self.build(session),
            What::Check => check::check(session, &self.source, call.format),
            What::Outline => call::outline(session, &self.source, call.format),
            What::Targets => call::targets(session, &self.source, call.format),
        }
    }

    fn build(&self, session: &Session) -> anyhow::Result<()> {
        let request = self.request(&environment)?;
        let names = request.outputs.iter().flat_map(|o| &o.names);
        let registries: Vec<&str> = names
            .chain(&request.tags)
            .map(Reference::registry)
            .chain(self.cache.registries())
            .collect();
        let cancel = session.interrupts.cancel();
        let client = self
            .registry
            .client(Scope::Build(&registries), cancel.clone())?;
        let mut tools = session.tools(client)?;
        tools.resolv_conf = self.steps.resolv_conf(&tools.resolv_conf);
        let ui = session.ui(&self.progress)?;
        let built = build::build(&request, &tools, &ui.events(), &cancel).map_err(located);
        drop(ui);
        // Scratch trees go when all is shown; what can't be removed now is
        // removed by the next build.
        let _ = tools.store.empty_trash();
        let built = built?;
        if let Some(file) = &self.iidfile {
            values::write_file(file, built.config.as_str())?;
        }
        if let Some(file) = &self.metadata_file {
            values::write_file(file, &format!("{:#}\n", metadata(&built)))?;
        }
        let to_stdout = |o: &Output| o.dest == Some(Destination::Stdout);
        if request.outputs.iter().any(to_stdout) {
            // An archive went there; the digest would spoil it.
            return Ok(());
        }
        output::result(&format!("{}\n", built.descriptor.digest))
    }

    /// The isolation that was asked for.
    pub(super) fn isolation(&self) -> Isolation {
        self.steps.isolation()
    }

    /// What to do.
    ///
    /// # Errors
    /// [`Usage`] when there is nothing to print in the form asked for.
    fn call(&self) -> anyhow::Result<Call> {
        let mut call = self.call;
        if self.check {
            call.what = What::Check;
        }
        if let Some(format) = self.format {
            if call.what == What::Build {
                return Err(Usage::error(
                    "--format is the form of what --check and --call print; a build prints only a digest",
                ));
            }
            call.format = format;
        }
        Ok(call)
    }

    /// What is asked for. `variable` reads the environment.
    ///
    /// # Errors
    /// [`Usage`] when flags don't go together.
    pub(super) fn request(
        &self,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Request> {
        let mut base = self.source.request(variable)?;
        if let Some(seconds) = self.source_date_epoch {
            let value = seconds.to_string();
            base.build_args.push((SOURCE_DATE_EPOCH.to_owned(), value));
        }
        let secrets = self.secrets(variable)?;
        let agent = variable("SSH_AUTH_SOCK").filter(|a| !a.is_empty());
        let ssh = self
            .ssh
            .iter()
            .map(|text| {
                values::ssh(text, agent.clone().map(PathBuf::from))
                    .map_err(|e| Usage::error(format!("--ssh {text}: {e}")))
            })
            .collect::<anyhow::Result<_>>()?;
        let request = Request {
            tags: self.tag.clone(),
            labels: self.label.clone(),
            no_cache: self.no_cache,
            cache_from: self.cache.from(),
            cache_to: self.cache.to(inline_cache(&base.build_args)),
            pull: self.pull,
            network: self.steps.network(),
            hostname: self.steps.hostname.clone(),
            add_hosts: self.steps.hosts(),
            confinement: self.steps.confinement()?,
            allow: Allow {
                insecure: self.allow.contains(&Entitlement::Insecure),
                host_network: self.allow.contains(&Entitlement::HostNetwork),
            },
            jobs: self.jobs,
            outputs: self.outputs()?,
            push: self.push,
            compression: self
                .agreed(self.compression, "compression", |o| o.compression)?
                .unwrap_or(Compression::Gzip),
            compression_level: self.agreed(self.compression_level, "compression-level", |o| {
                o.compression_level
            })?,
            force_compression: self.switch(self.force_compression, |o| o.force_compression),
            rewrite_timestamp: self.switch(self.rewrite_timestamp, |o| o.rewrite_timestamp),
            isolation: self.steps.isolation(),
            root_kind: self.steps.root_kind(),
            runtime: self.steps.runtime(variable)?,
            secrets,
            ssh,
            ..base
        };
        if let Some(tag) = nameless_push(&request) {
            return Err(Usage::error(tag));
        }
        Ok(request)
    }

    fn secrets(&self, variable: &dyn Fn(&str) -> Option<OsString>) -> anyhow::Result<Vec<Secret>> {
        let bytes = |name: &str| variable(name).map(OsStringExt::into_vec);
        self.secret
            .iter()
            .map(|text| {
                values::secret(text, &bytes)
                    .map_err(|e| Usage::error(format!("--secret {text}: {e}")))
            })
            .collect()
    }

    fn outputs(&self) -> anyhow::Result<Vec<Output>> {
        let mut outputs: Vec<Output> = self.output.iter().map(|o| o.output.clone()).collect();
        let to_stdout = |o: &&Output| o.dest == Some(Destination::Stdout);
        if outputs.iter().filter(to_stdout).count() > 1 {
            return Err(Usage::error("only one output can go to standard output"));
        }
        if outputs.iter().any(|o| to_stdout(&o)) && std::io::stdout().is_terminal() {
            return Err(Usage::error(
                "the output is an archive and standard output is a terminal; give dest=FILE",
            ));
        }
        let stored = outputs.iter().any(|o| o.kind == OutputKind::Image);
        if self.load && !outputs.is_empty() && !stored {
            outputs.push(Output {
                kind: OutputKind::Image,
                dest: None,
                names: Vec::new(),
                tar: true,
                push: false,
            });
        }
        Ok(outputs)
    }

    /// The one value that the flag and all outputs ask for.
    fn agreed<T: Copy + PartialEq>(
        &self,
        flag: Option<T>,
        name: &str,
        of: impl Fn(&OutputSpec) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let mut asked = flag.into_iter().chain(self.output.iter().filter_map(of));
        let first = asked.next();
        match first {
            Some(value) if asked.any(|other| other != value) => Err(Usage::error(format!(
                "the outputs ask for different values of {name}; build twice"
            ))),
            _ => Ok(first),
        }
    }

    fn switch(&self, flag: bool, of: impl Fn(&OutputSpec) -> Option<bool>) -> bool {
        flag || self.output.iter().any(|o| of(o) == Some(true))
    }
}

/// The keys that `docker buildx build` writes too.
fn metadata(built: &Built) -> Value {
    let names: Vec<String> = built.names.iter().map(ToString::to_string).collect();
    json!({
        "containerimage.digest": built.descriptor.digest,
        "containerimage.config.digest": built.config,
        "containerimage.descriptor": built.descriptor,
        "image.name": names.join(","),
        "shiplap.steps": built.ran.iter().map(step).collect::<Vec<_>>(),
    })
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

/// Whether BuildKit's argument asks for a cache in the image.
fn inline_cache(build_args: &[(String, String)]) -> bool {
    let argument = build_args.iter().rev();
    let mut argument = argument.filter(|(name, _)| name == "BUILDKIT_INLINE_CACHE");
    argument
        .next()
        .is_some_and(|(_, value)| value == "1" || value == "true")
}

/// What is wrong when something is to be pushed that has no name.
fn nameless_push(request: &Request) -> Option<&'static str> {
    let named = |o: &Output| !o.names.is_empty() || !request.tags.is_empty();
    let pushes = request.push && request.tags.is_empty() && !request.outputs.iter().any(named);
    (pushes || request.outputs.iter().any(|o| o.push && !named(o)))
        .then_some("a name to push to is missing; give --tag NAME")
}

fn tag(text: &str) -> Result<Reference, String> {
    let reference = Reference::parse(text).map_err(|e| e.to_string())?;
    if reference.digest().is_some() {
        return Err("a name for a new image can't have a digest".into());
    }
    Ok(reference)
}

fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    match text {
        // The digest decides whether anything is fetched: newer is always.
        "always" | "true" | "newer" => Ok(PullPolicy::Always),
        "missing" | "false" => Ok(PullPolicy::Missing),
        "never" => Ok(PullPolicy::Never),
        _ => Err("it must be always, missing or never".into()),
    }
}

fn no_attestation(text: &str) -> Result<(), String> {
    match text {
        "false" | "0" => Ok(()),
        _ => Err("no attestations are made; leave the flag out, or say false".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use shiplap::build::request::SecretSource;
    use shiplap::container::Network;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        build: BuildArgs,
    }

    fn request(args: &[&str]) -> Result<Request, String> {
        let line = Line::try_parse_from(["build"].iter().chain(args)).map_err(|e| e.to_string())?;
        let variable = |name: &str| match name {
            "FROM_ENV" => Some("1".into()),
            "SOURCE_DATE_EPOCH" => Some("100".into()),
            "SSH_AUTH_SOCK" => Some("/agent".into()),
            _ => None,
        };
        line.build.request(&variable).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let r = request(&[]).unwrap();
        assert_eq!((r.context.as_str(), r.file, r.jobs), (".", None, 0));
        assert_eq!((r.pull, r.network), (PullPolicy::Missing, Network::Host));
        assert_eq!(r.compression, Compression::Gzip);
        assert_eq!(r.build_args, [("SOURCE_DATE_EPOCH".into(), "100".into())]);
        assert_eq!(r.isolation, Isolation::Auto);
        assert!(!r.rewrite_timestamp && !r.push && r.outputs.is_empty());
    }

    #[test]
    fn flags_become_the_request() {
        let r = request(&[
            "--build-arg",
            "A=b=c",
            "--build-arg",
            "FROM_ENV",
            "--build-arg",
            "UNSET",
            "--build-arg",
            "SOURCE_DATE_EPOCH=7",
            "-t",
            "a",
            "-t",
            "r.example/b:2",
            "--push",
            "--label",
            "k",
            "--label",
            "k2=v",
            "--pull",
            "--network",
            "none",
            "--jobs=3",
            "-o",
            "type=oci,dest=x.tar,compression=zstd,rewrite-timestamp=true",
            "--load",
            "--compression-level",
            "-5",
            "--platform",
            "linux/amd64,arm64",
            "--platform",
            "arm",
            "--add-host",
            "h:1.2.3.4",
            "--shm-size",
            "1m",
            "--ulimit",
            "nofile=5",
            "--ssh",
            "default",
            "--secret",
            "id=s,src=/f",
            "--provenance=false",
            "--rm",
            "ctx",
        ])
        .unwrap();
        assert_eq!(r.context, "ctx");
        let args: Vec<_> = r
            .build_args
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(args, ["A=b=c", "FROM_ENV=1", "SOURCE_DATE_EPOCH=7"]);
        assert_eq!(r.tags.len(), 2);
        assert_eq!(r.labels[0], ("k".into(), String::new()));
        assert_eq!(
            (r.pull, r.network, r.jobs),
            (PullPolicy::Always, Network::None, 3)
        );
        assert_eq!(r.outputs.len(), 2);
        assert_eq!(
            (r.compression, r.compression_level),
            (Compression::Zstd, Some(-5))
        );
        assert!(r.rewrite_timestamp && r.push);
        assert_eq!(r.platforms.len(), 3);
        assert_eq!(r.ssh, [("default".into(), PathBuf::from("/agent"))]);
        assert_eq!(r.secrets[0].source, SecretSource::File("/f".into()));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for args in [
            &["-f", "-", "-"][..],
            &["-t", "A"],
            &["-t", &format!("a@sha256:{}", "0".repeat(64))],
            &["--push"],
            &["-o", "type=registry"],
            &["-o", "type=oci,dest=-", "-o", "type=tar,dest=-"],
            &[
                "-o",
                "type=oci,dest=a,compression=zstd",
                "--compression",
                "gzip",
            ],
            &["--build-arg", "=x"],
            &["--platform", "a/b/c/d"],
            &["--network", "bridge"],
            &["--isolation", "vm"],
            &["--provenance"],
            &["--sbom=true"],
            &["--secret", "id=x,env=NONE"],
            &["--pull=often"],
            &["--check", "--call=check"],
        ] {
            assert!(request(args).is_err(), "{args:?}");
        }
        assert!(request(&["-o", "type=image,name=a,push=true"]).is_ok());
    }
}
