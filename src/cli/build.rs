//! `shiplap build`: what was typed, and the [`Request`] it means.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use shiplap::build::request::{Allow, Destination, Output, PullPolicy, Request, Secret};
use shiplap::build::{self, BuildError};
use shiplap::container::Isolation;
use shiplap::graph::SOURCE_DATE_EPOCH;
use shiplap::reference::Reference;
use shiplap::solve::agent::Programs;

use super::access::{RegistryArgs, Scope, Side};
use super::cache_spec::CacheArgs;
use super::call::{self, Call, What};
use super::error::{Hinted, Usage, located};
use super::results::{self, ResultArgs};
use super::source::{SourceArgs, environment};
use super::steps::{StepArgs, find_program};
use super::{Format, ProgressArgs, Session, check, start, values};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  Build ./Dockerfile with the context . and name the image
    shiplap build -t app:1 .

  Build one stage of another file, with an argument
    shiplap build -f docker/Dockerfile --target test --build-arg GO=1.23 .

  Build and push under two names
    shiplap build -t reg.example/app:1 -t reg.example/app:latest --push .

  For two platforms, under one name
    shiplap build --platform linux/amd64,linux/arm64 -t reg.example/app:1 --push .

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
    #[arg(short, long, value_name = "NAME[:TAG]", value_parser = results::name)]
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
    /// Agent for RUN --mount=type=ssh: default for the one that runs, or
    /// ID=SOCKET, or ID=KEY[,KEY...] for one with the private keys in these
    /// files
    #[arg(long, value_name = "ID[=SOCKET|=KEY,...]", help_heading = "Steps")]
    ssh: Vec<String>,

    #[command(flatten)]
    results: ResultArgs,
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
        let mut request = self.request(&environment)?;
        request.without_run = !session.started.may_run;
        let names = request.outputs.iter().flat_map(|o| &o.names);
        let registries: Vec<&str> = names
            .chain(&request.tags)
            .map(Reference::registry)
            .chain(self.cache.registries())
            .collect();
        let cancel = session.interrupts.cancel();
        let mut registry = self.registry.clone();
        if self.results.is_insecure() {
            registry = registry.side(&Side {
                tls_verify: Some(false),
                ..Side::default()
            });
        }
        let client = registry.client(Scope::Build(&registries), cancel.clone())?;
        let mut tools = session.tools(client)?;
        tools.resolv_conf = self.steps.resolv_conf(&tools.resolv_conf);
        let ui = session.ui(&self.progress)?;
        let built = build::build(&request, &tools, &ui.events(), &cancel);
        drop(ui);
        if matches!(built, Err(BuildError::WouldRun)) {
            // The store is closed first: nobody else will.
            drop(tools);
            return Err(start::again().into());
        }
        let built = built.map_err(located);
        // Scratch trees go when all is shown; what can't be removed now is
        // removed by the next build.
        let _ = tools.store.empty_trash();
        let built = built?;
        self.results.report(&built)?;
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
                let agent = agent.clone().map(PathBuf::from);
                values::ssh(text, agent, || openssh(variable))
                    .with_context(|| format!("--ssh {text}"))
            })
            .collect::<anyhow::Result<_>>()?;
        let mut request = Request {
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
            isolation: self.steps.isolation(),
            root_kind: self.steps.root_kind(),
            runtime: self.steps.runtime(variable)?,
            secrets,
            ssh,
            ..base
        };
        self.results.fill(&mut request)?;
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
}

/// The programs that keys in files take.
fn openssh(variable: &dyn Fn(&str) -> Option<OsString>) -> anyhow::Result<Programs> {
    let find = |name: &str| {
        let hint = "install OpenSSH's client (Debian, Ubuntu: openssh-client), or give the socket \
                    of an agent that runs elsewhere";
        find_program(name, variable).ok_or_else(|| Hinted {
            hint: hint.into(),
            error: anyhow::anyhow!("keys in files take the program {name}, which is not installed"),
        })
    };
    Ok(Programs {
        agent: find("ssh-agent")?,
        add: find("ssh-add")?,
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

pub(super) fn pull_policy(text: &str) -> Result<PullPolicy, String> {
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
    use shiplap::build::request::{OutputKind, SecretSource};
    use shiplap::container::Network;
    use shiplap::image::media_type::Compression;
    use shiplap::solve::Agent;
    use std::path::Path;

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
        assert!(
            matches!(&r.ssh[..], [(id, Agent::Socket(path))] if id == "default" && path == Path::new("/agent"))
        );
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
            &["--annotation", "k"],
            &["--push", "--no-push"],
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

    #[test]
    fn flags_of_kaniko() {
        let r = request(&["--destination", "r.example/a:1", "-d", "r.example/b"]).unwrap();
        assert!(r.push && r.tags.len() == 2 && r.outputs.is_empty());
        let r = request(&[
            "--destination=a",
            "--no-push",
            "--tar-path=t.tar",
            "--oci-layout-path=o",
            "--digest-file=d",
        ])
        .unwrap();
        assert!(!r.push);
        let kinds: Vec<_> = r.outputs.iter().map(|o| (o.kind, o.tar)).collect();
        assert_eq!(
            kinds,
            [(OutputKind::Docker, true), (OutputKind::Oci, false)]
        );
    }
}
