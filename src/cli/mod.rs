//! The command line: one file per command, each a struct of what was typed
//! and a `run` that calls the library and prints what it returns.
//!
//! The only place where the environment is read.

mod access;
mod annotations;
mod append;
mod archives;
mod attach;
mod blob;
mod build;
mod cache;
mod cache_spec;
mod call;
mod check;
mod convert;
mod copy;
mod debug;
mod delete;
mod df;
mod diff;
mod digest;
mod doctor;
mod environment;
mod error;
mod explore;
mod export;
mod files;
mod flatten;
mod graph;
mod history;
mod image;
mod images;
mod import;
mod index;
mod inspect;
mod layers;
mod login;
mod logout;
mod ls;
mod manifest;
mod mount;
mod mutate;
mod output_spec;
mod prune;
mod pull;
mod push;
mod rebase;
mod referrers;
mod repack;
mod reshape;
mod results;
mod run;
mod shell;
pub(crate) mod signals;
mod source;
mod start;
mod steps;
mod strip;
mod tags;
mod timestamp;
mod transfer;
mod tree;
mod unpack;
mod values;
mod verify;
mod version;
mod wasted;

use std::cell::Cell;
use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::ui::{self, Progress, Ui};
use signals::Interrupts;
pub(crate) use start::{Started, start};

/// Builds container images from Dockerfiles, takes images apart, and ships
/// them to any registry, without a daemon.
#[derive(Debug, Parser)]
#[command(
    name = "shiplap",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(arg_required_else_help = true, disable_help_subcommand = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
struct Global {
    /// Directory of the store [default: /var/lib/shiplap for root,
    /// $XDG_DATA_HOME/shiplap or ~/.local/share/shiplap for others]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SHIPLAP_ROOT",
        hide_env = true
    )]
    #[arg(help_heading = "Global options")]
    root: Option<PathBuf>,
    /// Log to standard error what the program does
    #[arg(long, global = true, value_enum, value_name = "LEVEL")]
    #[arg(help_heading = "Global options")]
    log_level: Option<LogLevel>,
    /// Log more: -v is info, -vv debug, -vvv trace; before the command
    #[arg(short, long, action = clap::ArgAction::Count)]
    #[arg(help_heading = "Global options")]
    verbose: u8,
    /// Said by a build to itself: there will be a RUN step
    #[arg(long, hide = true)]
    will_run: bool,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(Box<build::BuildArgs>),
    Run(Box<run::RunArgs>),
    Check(check::CheckArgs),
    Graph(graph::GraphArgs),
    Pull(pull::PullArgs),
    Push(push::PushArgs),
    Copy(Box<copy::CopyArgs>),
    Index(Box<index::IndexArgs>),
    Login(login::LoginArgs),
    Logout(logout::LogoutArgs),
    Tags(tags::TagsArgs),
    Digest(digest::DigestArgs),
    Manifest(manifest::ManifestArgs),
    Blob(blob::BlobArgs),
    Delete(delete::DeleteArgs),
    Referrers(referrers::ReferrersArgs),
    Attach(attach::AttachArgs),
    Images(images::ImagesArgs),
    Tag(images::TagArgs),
    Rmi(images::RmiArgs),
    Untag(images::UntagArgs),
    Prune(prune::PruneArgs),
    Cache(cache::CacheMountArgs),
    Doctor(doctor::DoctorArgs),
    Df(df::DfArgs),
    Verify(verify::VerifyArgs),
    Inspect(inspect::InspectArgs),
    History(history::HistoryArgs),
    Layers(layers::LayersArgs),
    Tree(tree::TreeArgs),
    Ls(ls::LsArgs),
    Cat(ls::CatArgs),
    Wasted(wasted::WastedArgs),
    Diff(diff::DiffArgs),
    Flatten(Box<flatten::FlattenArgs>),
    Squash(Box<flatten::SquashArgs>),
    Explore(explore::ExploreArgs),
    Append(Box<append::AppendArgs>),
    Rebase(Box<rebase::RebaseArgs>),
    Mutate(Box<mutate::MutateArgs>),
    Recompress(Box<convert::RecompressArgs>),
    Convert(Box<convert::ConvertArgs>),
    Timestamp(Box<timestamp::TimestampArgs>),
    Strip(Box<strip::StripArgs>),
    Import(import::ImportArgs),
    Load(archives::LoadArgs),
    Save(archives::SaveArgs),
    Export(Box<export::ExportArgs>),
    Mount(Box<mount::MountArgs>),
    Umount(mount::UmountArgs),
    Unpack(Box<unpack::UnpackArgs>),
    Repack(Box<repack::RepackArgs>),
    #[command(hide = true)]
    Debug(debug::DebugArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
    Version(version::VersionArgs),
}

impl Command {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Build(args) => args.run(session),
            Self::Run(args) => args.run(session),
            Self::Check(args) => args.run(session),
            Self::Graph(args) => args.run(session),
            Self::Pull(args) => args.run(session),
            Self::Push(args) => args.run(session),
            Self::Copy(args) => args.run(session),
            Self::Index(args) => args.run(session),
            Self::Login(args) => args.run(session),
            Self::Logout(args) => args.run(),
            Self::Tags(args) => args.run(session),
            Self::Digest(args) => args.run(session),
            Self::Manifest(args) => args.run(session),
            Self::Blob(args) => args.run(session),
            Self::Delete(args) => args.run(session),
            Self::Referrers(args) => args.run(session),
            Self::Attach(args) => args.run(session),
            Self::Images(args) => args.run(session),
            Self::Tag(args) => args.run(session),
            Self::Rmi(args) => args.run(session),
            Self::Untag(args) => args.run(session),
            Self::Prune(args) => args.run(session),
            Self::Cache(args) => args.run(session),
            Self::Doctor(args) => args.run(session),
            Self::Df(args) => args.run(session),
            Self::Verify(args) => args.run(session),
            Self::Inspect(args) => args.run(session),
            Self::History(args) => args.run(session),
            Self::Layers(args) => args.run(session),
            Self::Tree(args) => args.run(session),
            Self::Ls(args) => args.run(session),
            Self::Cat(args) => args.run(session),
            Self::Wasted(args) => args.run(session),
            Self::Diff(args) => args.run(session),
            Self::Load(args) => args.run(session),
            Self::Save(args) => args.run(session),
            Self::Flatten(args) => args.run(session),
            Self::Squash(args) => args.run(session),
            Self::Explore(args) => args.run(session),
            Self::Append(args) => args.run(session),
            Self::Rebase(args) => args.run(session),
            Self::Mutate(args) => args.run(session),
            Self::Recompress(args) => args.run(session),
            Self::Convert(args) => args.run(session),
            Self::Timestamp(args) => args.run(session),
            Self::Strip(args) => args.run(session),
            Self::Import(args) => args.run(session),
            Self::Export(args) => args.run(session),
            Self::Mount(args) => args.run(session),
            Self::Umount(args) => args.run(session),
            Self::Unpack(args) => args.run(session),
            Self::Repack(args) => args.run(session),
            Self::Debug(args) => args.run(session),
            Self::Completions(args) => args.run(),
            Self::Man(args) => args.run(),
            Self::Version(args) => args.run(),
        }
    }
}

/// What every command gets.
#[derive(Debug)]
struct Session {
    root: Option<PathBuf>,
    started: Started,
    interrupts: Interrupts,
    logs: bool,
    /// Whether the message of a failure is to be a JSON object.
    json_messages: Cell<bool>,
}

impl Session {
    /// Directory of the store.
    fn root(&self) -> anyhow::Result<PathBuf> {
        if let Some(root) = self.root.clone().filter(|r| !r.as_os_str().is_empty()) {
            return Ok(root);
        }
        if self.started.by_root {
            return Ok("/var/lib/shiplap".into());
        }
        let directory = |name| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        directory("XDG_DATA_HOME")
            .or_else(|| directory("HOME").map(|home| home.join(".local/share")))
            .map(|data| data.join("shiplap"))
            .ok_or_else(|| {
                error::Usage::error(
                    "where is the store? HOME is not set; give --root DIR or SHIPLAP_ROOT",
                )
            })
    }

    /// Starts to show progress as `args` say.
    fn ui(&self, args: &ProgressArgs) -> anyhow::Result<Ui> {
        let progress = match args.progress {
            _ if args.quiet => Progress::Quiet,
            // Log lines between two pictures would tear them apart.
            Progress::Auto if self.logs => Progress::Plain,
            progress => progress,
        };
        self.json_messages.set(progress == Progress::Json);
        Ok(Ui::start(progress, ui::colors())?)
    }
}

/// Flags of commands that take a while.
#[derive(Debug, Clone, Args)]
struct ProgressArgs {
    /// How to show progress on standard error
    #[arg(long, value_enum, default_value = "auto", value_name = "FORM")]
    #[arg(env = "SHIPLAP_PROGRESS", hide_env = true)]
    progress: Progress,
    /// Show nothing but the result and errors
    #[arg(short, long)]
    quiet: bool,
}

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; fields are only ever added.
    Json,
}

/// Reads the command line; an exit code where it is wrong, or was answered.
pub(crate) fn parse() -> Result<Cli, u8> {
    Cli::try_parse().map_err(|error| {
        // Help goes to standard output; when nobody reads it, so be it.
        let _ = error.print();
        match u8::try_from(error.exit_code()).unwrap_or(2) {
            0 => 0,
            // Others are for what is run.
            _ if is_run() => run::FAILED,
            code => code,
        }
    })
}

/// Whether a command line that is wrong is one of `run`.
fn is_run() -> bool {
    let read = Cli::command().ignore_errors(true).try_get_matches();
    read.is_ok_and(|read| read.subcommand_name() == Some("run"))
}

/// Runs the command and returns the exit code.
pub(crate) fn run(cli: Cli, started: Started, interrupts: Interrupts) -> u8 {
    let logs = start_log(&cli.global);
    let session = Session {
        root: cli.global.root,
        started,
        interrupts,
        logs,
        json_messages: Cell::new(false),
    };
    match cli.command.run(&session) {
        Ok(()) => 0,
        Err(error) => error::report(&error, &session),
    }
}

/// Starts the log where one is asked for, and says whether.
fn start_log(global: &Global) -> bool {
    use tracing_subscriber::filter::LevelFilter;
    let level = match (global.log_level, global.verbose) {
        (Some(LogLevel::Off), _) | (None, 0) => return false,
        (Some(LogLevel::Error), _) => LevelFilter::ERROR,
        (Some(LogLevel::Warn), _) => LevelFilter::WARN,
        (Some(LogLevel::Info), _) | (None, 1) => LevelFilter::INFO,
        (Some(LogLevel::Debug), _) | (None, 2) => LevelFilter::DEBUG,
        (Some(LogLevel::Trace), _) | (None, _) => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(ui::colors())
        .with_writer(|| ui::output::Messages)
        .init();
    true
}

/// Opens a file to read, or standard input for `-`.
fn open_input(path: &std::path::Path) -> anyhow::Result<Box<dyn io::Read + Send>> {
    use anyhow::Context;
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let file =
        std::fs::File::open(path).with_context(|| format!("can't open {}", path.display()))?;
    Ok(Box::new(file))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
