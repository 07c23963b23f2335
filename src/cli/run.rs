//! `shiplap run`: a container from an image, for a look inside.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use shiplap::build::Tools;
use shiplap::build::request::PullPolicy;
use shiplap::build::run::{Keep, RunRequest, run};
use shiplap::container::{Exit, Isolation, Mount, MountKind, RunError, Streams};
use shiplap::event::Events;
use shiplap::image::{Descriptor, Image};
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::solve::StepError;
use shiplap::store::{Store, StoreError};

use super::access::{RegistryArgs, Scope};
use super::environment::Variables;
use super::error::{Coded, Exited, Hinted, Usage};
use super::source::environment;
use super::steps::StepArgs;
use super::{ProgressArgs, Session, build, images, import, pull, values};
use crate::ui::raw::RawMode;
use crate::ui::{Ui, output};

const EXAMPLES: &str = "\
Examples:
  What the image runs
    shiplap run app:1

  A shell in it, with its user, its environment and its working directory
    shiplap run -it app:1 sh

  One program of it, on files of this machine
    shiplap run --rm -v ./data:/data:ro debian:bookworm sha256sum /data/file

  Standard input goes in, standard output comes out
    tar -c . | shiplap run -i alpine tar -tv > listing

  Keep what was changed as a new image
    shiplap run -it --commit app:debug --change 'CMD [\"bash\"]' app:1 bash";

/// The exit codes that are not the command's.
pub(super) const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Run a command in a container of an image
///
/// Without a command it is the image's own. What it changes is thrown away, or
/// becomes a new image with --commit. An image that the store does not have is
/// pulled. The exit code is the command's; 125 where there was no container, 126
/// where the command can't be executed, 127 where there is none of that name.
///
/// SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the
/// command; the third that asks for an end ends the container.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// Name, digest or id of the image, or another place as for pull
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Command and arguments, in place of the image's
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
    /// Program to run, in place of the image's; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Variable; NAME alone takes the value of this environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File with a variable on each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// User, in place of the image's
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory, in place of the image's
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Directory or file of this machine to have in the container
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]", value_parser = volume)]
    volume: Vec<Volume>,
    /// Directory in memory
    #[arg(long, value_name = "TARGET[:size=SIZE]", value_parser = tmpfs)]
    tmpfs: Vec<Mount>,
    /// Let the command read standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Let nothing be changed but what is mounted
    #[arg(long, conflicts_with = "commit")]
    read_only: bool,
    /// Platform to choose from an image of several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Look the image up in its registry: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing", value_parser = build::pull_policy)]
    pull: PullPolicy,

    /// Keep what the command changed as an image of this name, whatever its
    /// exit code
    #[arg(long, value_name = "NAME[:TAG]", help_heading = "Results")]
    commit: Option<String>,
    /// Instruction for the config of the new image: CMD, ENTRYPOINT, ENV,
    /// EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME or
    /// WORKDIR
    #[arg(
        long,
        value_name = "INSTRUCTION",
        requires = "commit",
        help_heading = "Results"
    )]
    change: Vec<String>,
    /// Remark for the history of the new image
    #[arg(
        long,
        value_name = "TEXT",
        requires = "commit",
        help_heading = "Results"
    )]
    message: Option<String>,
    /// Author of the new image
    #[arg(
        long,
        value_name = "NAME",
        requires = "commit",
        help_heading = "Results"
    )]
    author: Option<String>,

    /// Accepted as containers leave nothing to remove
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<bool>,
    /// Accepted as containers end with this program, and nobody else sees them
    #[arg(long, hide = true, value_name = "NAME")]
    name: Option<String>,
    /// Accepted as signals end a command that has no handler for them
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    init: Option<bool>,

    #[command(flatten)]
    steps: StepArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// `SOURCE:TARGET[:ro]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Volume {
    source: PathBuf,
    target: PathBuf,
    read_only: bool,
}

impl RunArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        self.start(session).map_err(|error| {
            let code = exit_code(&error);
            Coded { code, error }.into()
        })
    }

    /// The isolation that was asked for.
    pub(super) fn isolation(&self) -> Isolation {
        self.steps.isolation()
    }

    fn start(&self, session: &Session) -> anyhow::Result<()> {
        if self.tty && self.interactive && !std::io::stdin().is_terminal() {
            return Err(Hinted {
                hint: "leave -t out where standard input is a pipe or a file".into(),
                error: anyhow::anyhow!("the input device is not a TTY"),
            }
            .into());
        }
        let name = self.commit.as_deref().map(images::new_name).transpose()?;
        let mut request = self.request(&environment)?;
        let host = Reference::parse(&self.image).ok();
        let host = host.as_ref().map(Reference::registry);
        let cancel = session.interrupts.cancel();
        let client = (self.registry).client(Scope::Registries(host.as_slice()), cancel)?;
        let mut tools = session.tools(client)?;
        tools.resolv_conf = self.steps.resolv_conf(&tools.resolv_conf);
        let image = self.find(session, &tools.store)?;
        if self.commit.is_some() {
            request.keep = Some(self.keep(&image)?);
        }
        let done = self.execute(session, &image, &request, &tools);
        // Scratch trees go when all is shown; what can't be removed now is
        // removed by the next command.
        let _ = tools.store.empty_trash();
        let (exit, kept) = done?;
        if let (Some(name), Some(kept)) = (name, kept) {
            let digest = kept.digest.clone();
            tools.store.set_refs(&[(name.clone(), kept)])?;
            output::message(&format!("committed {}@{digest}\n", name.familiar()));
        }
        if exit.out_of_memory {
            output::message("the command ran out of the memory that it is limited to\n");
        }
        match exit.status() {
            0 => Ok(()),
            status => Err(Exited(u8::try_from(status).unwrap_or(1)).into()),
        }
    }

    /// Runs the command; the terminal is its own meanwhile.
    fn execute(
        &self,
        session: &Session,
        image: &Image,
        request: &RunRequest,
        tools: &Tools,
    ) -> anyhow::Result<(Exit, Option<Descriptor>)> {
        let interrupts = &session.interrupts;
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let mut ui = Some(session.ui(&self.progress)?);
        let events = ui.as_ref().map_or_else(Events::none, Ui::events);
        let cancel = interrupts.cancel();
        let (pass_on, signals) = std::sync::mpsc::channel();
        let mut pass_on = Some(pass_on);
        let streams = Streams {
            input: self.interactive.then(|| stdin.as_fd()),
            output: stdout.as_fd(),
            error: stderr.as_fd(),
            terminal: self.tty,
            signals,
        };
        let mut raw = None;
        let mut ready = || {
            drop(ui.take());
            if let Some(pass_on) = pass_on.take() {
                interrupts.hand_over(pass_on);
            }
            if self.tty && self.interactive {
                raw = RawMode::enter().ok();
                let undo = raw.as_ref().map(RawMode::undo);
                interrupts.at_exit(undo.map(|undo| -> Box<dyn Fn() + Send> { Box::new(undo) }));
            }
        };
        let done = run(
            image,
            request,
            tools,
            (&events, &cancel),
            &streams,
            &mut ready,
        );
        drop(raw);
        interrupts.at_exit(None);
        Ok(done?)
    }

    /// The image, from the store or pulled into it.
    fn find(&self, session: &Session, store: &Store) -> anyhow::Result<Image> {
        let stored = || -> anyhow::Result<Image> {
            let descriptor = store.find(&self.image)?;
            Ok(store.load_image(&descriptor, self.platform.as_ref())?)
        };
        let known = match self.pull {
            PullPolicy::Always => None,
            PullPolicy::Missing | PullPolicy::Never => Some(stored()),
        };
        let wanted = |image: &Image| {
            let has = image.config.platform();
            let platform = self.platform.as_ref();
            platform.is_none_or(|p| has.architecture.is_empty() || has.serves(p).is_some())
        };
        match known {
            Some(Ok(image)) if wanted(&image) || self.pull == PullPolicy::Never => Ok(image),
            Some(Err(error)) if self.pull == PullPolicy::Never => Err(error),
            Some(Err(error)) if !is_missing(&error) => Err(error),
            _ => {
                let platform = self.platform.clone().unwrap_or_else(Platform::host);
                let what = pull::Pull {
                    name: &self.image,
                    registry: &self.registry,
                    progress: &self.progress,
                };
                let digest = what.one(session, store, platform)?;
                let descriptor = store.find(digest.as_str())?;
                Ok(store.load_image(&descriptor, self.platform.as_ref())?)
            }
        }
    }

    /// What is asked for. `variable` reads the environment.
    ///
    /// # Errors
    /// [`Usage`] when flags don't go together.
    fn request(&self, variable: Variables<'_>) -> anyhow::Result<RunRequest> {
        let mut mounts = self.tmpfs.clone();
        for volume in &self.volume {
            mounts.push(volume.mount()?);
        }
        Ok(RunRequest {
            command: self.command.clone(),
            entrypoint: self.entrypoint.clone().map(|program| vec![program]),
            env: self.variables(variable)?,
            user: self.user.clone(),
            cwd: self.workdir.clone(),
            mounts,
            read_only: self.read_only,
            terminal: self.tty,
            keep: None,
            network: self.steps.network(),
            hostname: self.steps.hostname.clone(),
            add_hosts: self.steps.hosts(),
            confinement: self.steps.confinement()?,
            isolation: self.steps.isolation(),
            root_kind: self.steps.root_kind(),
            runtime: self.steps.runtime(variable)?,
        })
    }

    /// Those of files first.
    fn variables(&self, variable: Variables<'_>) -> anyhow::Result<Vec<(String, Option<String>)>> {
        let mut all = Vec::new();
        for file in &self.env_file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("can't read {}", file.display()))?;
            let text = text.trim_start_matches('\u{feff}');
            for (number, line) in text.lines().enumerate() {
                let line = line.trim_start();
                if !line.is_empty() && !line.starts_with('#') {
                    let found = assignment(line, variable);
                    let place = || format!("{}:{}", file.display(), number + 1);
                    all.push(found.map_err(|e| Usage::error(format!("{}: {e}", place())))?);
                }
            }
        }
        for text in &self.env {
            let found = assignment(text, variable);
            all.push(found.map_err(|e| Usage::error(format!("--env {text}: {e}")))?);
        }
        Ok(all)
    }

    fn keep(&self, image: &Image) -> anyhow::Result<Keep> {
        let changed = match self.change.is_empty() {
            true => None,
            false => Some(import::changed_from(&image.config, &self.change)?),
        };
        Ok(Keep {
            changed,
            comment: self.message.clone().unwrap_or_default(),
            author: self.author.clone(),
            epoch: values::source_date_epoch(std::env::var_os("SOURCE_DATE_EPOCH"))?,
        })
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(StoreError::NoImage { .. } | StoreError::NoPlatform { .. })
    )
}

/// `NAME=VALUE`, or `NAME` for what the environment has, if anything.
fn assignment(text: &str, variable: Variables<'_>) -> Result<(String, Option<String>), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => {
            let value: Option<OsString> = variable(text);
            (text, value.map(|v| v.to_string_lossy().into_owned()))
        }
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("{name:?} is no name of a variable"));
    }
    Ok((name.to_owned(), value))
}

fn volume(text: &str) -> Result<Volume, String> {
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err("it must be SOURCE:TARGET[:ro]".into());
    };
    if !source.starts_with(['/', '.']) {
        return Err(format!(
            "there are no volumes with names here; for the directory write ./{source}"
        ));
    }
    if !target.starts_with('/') {
        return Err(format!("the target {target:?} is not an absolute path"));
    }
    let mut read_only = false;
    for option in parts.flat_map(|options| options.split(',')) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            _ => return Err(format!("{option:?} is no option; there are ro and rw")),
        }
    }
    Ok(Volume {
        source: source.into(),
        target: target.into(),
        read_only,
    })
}

fn tmpfs(text: &str) -> Result<Mount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        return Err(format!("{target:?} is not an absolute path"));
    }
    let mut size = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", bytes)) => size = Some(values::bytes(bytes)?),
            _ => return Err(format!("{option:?} is no option; there is size=SIZE")),
        }
    }
    Ok(Mount {
        target: target.into(),
        kind: MountKind::Tmpfs { size },
    })
}

impl Volume {
    fn mount(&self) -> anyhow::Result<Mount> {
        let source = std::path::absolute(&self.source)
            .with_context(|| format!("can't find {}", self.source.display()))?;
        if !Path::new(&source).exists() {
            return Err(Usage::error(format!(
                "--volume {}: there is no such file or directory",
                source.display()
            )));
        }
        Ok(Mount {
            target: self.target.clone(),
            kind: MountKind::Bind {
                source,
                subpath: None,
                read_only: self.read_only,
            },
        })
    }
}

/// The exit code of a failure, as docker has it.
fn exit_code(error: &anyhow::Error) -> u8 {
    let step = error.chain().find_map(|cause| cause.downcast_ref());
    let Some(StepError::Container(error)) = step else {
        return FAILED;
    };
    match error {
        RunError::NotFound { .. } => NOT_FOUND,
        RunError::NotExecutable { .. } => NOT_EXECUTABLE,
        // Runtimes have no codes of their own for it.
        RunError::Runtime { message, .. } if message.contains("exec") => {
            let says = |text: &str| message.to_ascii_lowercase().contains(text);
            match says("permission denied") || says("format error") {
                true => NOT_EXECUTABLE,
                false if says("not found") || says("no such file") => NOT_FOUND,
                false => FAILED,
            }
        }
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn args(args: &[&str]) -> Result<RunArgs, String> {
        let line = Line::try_parse_from(["run"].iter().chain(args)).map_err(|e| e.to_string())?;
        Ok(line.run)
    }

    fn variable(name: &str) -> Option<OsString> {
        (name == "HERE").then(|| "yes".into())
    }

    #[test]
    fn flags_end_at_the_image() {
        let run = args(&[
            "-it", "--rm", "-e", "A=b", "-e", "HERE", "-e", "GONE", "img", "ls", "-la", "-t",
        ]);
        let run = run.unwrap();
        assert!(run.interactive && run.tty);
        assert_eq!(run.image, "img");
        assert_eq!(run.command, ["ls", "-la", "-t"]);
        let request = run.request(&variable).unwrap();
        assert_eq!(
            request.env,
            [
                ("A".into(), Some("b".into())),
                ("HERE".into(), Some("yes".into())),
                ("GONE".into(), None)
            ]
        );
        let run = args(&["--entrypoint=", "img", "-x"]).unwrap();
        assert_eq!(
            (run.entrypoint.as_deref(), run.command),
            (Some(""), vec!["-x".to_owned()])
        );
    }

    #[test]
    fn files_of_variables() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "\u{feff}# note\n\nA=1 # no note\n HERE\nB==\n").unwrap();
        let file = file.to_str().unwrap();
        let run = args(&["--env-file", file, "-e", "A=2", "i"]).unwrap();
        let all = run.variables(&variable).unwrap();
        let all: Vec<String> = all.iter().map(|(n, v)| format!("{n} {v:?}")).collect();
        assert_eq!(
            all,
            [
                "A Some(\"1 # no note\")",
                "HERE Some(\"yes\")",
                "B Some(\"=\")",
                "A Some(\"2\")"
            ]
        );
        std::fs::write(file, "two words=1\n").unwrap();
        let bad = args(&["--env-file", file, "i"])
            .unwrap()
            .variables(&variable);
        assert!(bad.unwrap_err().to_string().contains("env:1: "));
    }

    #[test]
    fn volumes_are_paths() {
        let read = |text: &str| volume(text).map(|v| (v.source, v.target, v.read_only));
        assert_eq!(read("/a:/b"), Ok(("/a".into(), "/b".into(), false)));
        assert_eq!(read("./a:/b:ro"), Ok(("./a".into(), "/b".into(), true)));
        for bad in ["/a", "a:/b", "/a:b", "/a:/b:x", ""] {
            assert!(volume(bad).is_err(), "{bad}");
        }
        let mount = tmpfs("/t:size=1m").unwrap();
        assert_eq!(
            mount.kind,
            MountKind::Tmpfs {
                size: Some(1 << 20)
            }
        );
        assert!(tmpfs("t").is_err() && tmpfs("/t:mode=1").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            &[][..],
            &["--change", "CMD x", "i"],
            &["--read-only", "--commit", "x", "i"],
        ] {
            assert!(args(bad).is_err(), "{bad:?}");
        }
    }
}
