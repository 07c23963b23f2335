//! What a Dockerfile says, typed, before any variable is expanded.
//!
//! Every value that came from the file carries its [`Span`].

use super::span::Span;

/// A parsed file.
#[derive(Debug, Clone, PartialEq)]
pub struct Dockerfile {
    /// The `# syntax=`, `# escape=` and `# check=` lines at the top.
    pub directives: Directives,
    /// The ARG instructions before the first FROM.
    pub global_args: Vec<Instruction>,
    /// The stages, in the file's order; at least one.
    pub stages: Vec<Stage>,
    /// The last lines of the instructions that have an empty line among their
    /// continuations, for the linter.
    pub empty_continuations: Vec<Span>,
}

/// Directives at the top of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Directives {
    /// `# syntax=` as written.
    pub syntax: Option<Text>,
    /// The escape character, `\` or `` ` ``.
    pub escape: char,
    /// `# check=` as written.
    pub check: Option<Text>,
}

/// A piece of text and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text: quotes and `$variables` as in the file, continuation lines
    /// joined.
    pub value: String,
    /// Its place; it covers at least the text's first line.
    pub span: Span,
}

/// FROM and the instructions up to the next FROM.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The FROM instruction's whole span.
    pub span: Span,
    /// `FROM` as it was written, for the linter.
    pub keyword: Text,
    /// `--platform=`.
    pub platform: Option<Text>,
    /// The image, an earlier stage or `scratch`, not expanded.
    pub base: Text,
    /// `AS` as it was written, for the linter.
    pub as_keyword: Option<Text>,
    /// The name behind `AS`, as written.
    pub name: Option<Text>,
    /// The comment above that starts with the stage's name, without that name.
    pub doc: Option<String>,
    /// The comment lines above it, without `#`.
    pub comments: Vec<String>,
    /// Whether no blank line parts it from them.
    pub comments_adjacent: bool,
    /// The text after the keyword, continuation lines joined.
    pub rest: String,
    /// What follows.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// All of it, heredoc bodies included.
    pub span: Span,
    /// The instruction's name as it was written.
    pub keyword: Text,
    /// The text after the keyword, flags included, continuation lines joined,
    /// heredoc bodies left out.
    pub rest: String,
    /// What it means.
    pub kind: InstructionKind,
    /// The comment lines above it, without `#`; an empty comment line ends what
    /// came before it.
    pub doc: Option<String>,
    /// Whether no blank line parts it from them.
    pub doc_adjacent: bool,
}

/// The instructions other than FROM.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "COPY is among the most frequent ones, and matching stays plain"
)]
#[allow(
    missing_docs,
    reason = "they are the instructions of the Dockerfile reference"
)]
pub enum InstructionKind {
    Add(Copy),
    Arg(Vec<ArgDecl>),
    Cmd(Command),
    Copy(Copy),
    Entrypoint(Command),
    Env(KeyValues),
    Expose(Vec<Text>),
    Healthcheck(Healthcheck),
    Label(KeyValues),
    Maintainer(Text),
    OnBuild(OnBuild),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(Text),
    User(Text),
    Volume(Vec<Text>),
    Workdir(Text),
}

impl InstructionKind {
    /// The instruction's name in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::OnBuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// One name of an ARG.
#[derive(Debug, Clone, PartialEq)]
pub struct ArgDecl {
    /// The name, expanded nowhere.
    pub name: Text,
    /// The default, not expanded.
    pub default: Option<Text>,
}

/// The pairs of ENV or LABEL.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyValues {
    /// Keys and values, not expanded, in order.
    pub pairs: Vec<(Text, Text)>,
    /// Whether it is the old form without `=`.
    pub legacy: bool,
}

/// Shell form or exec form.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// A line for the shell; empty where there is nothing.
    Shell(String),
    /// The words of a JSON list.
    Exec(Vec<String>),
}

/// A heredoc.
#[derive(Debug, Clone, PartialEq)]
pub struct Heredoc {
    /// The delimiter without quotes; the file's name in COPY.
    pub name: String,
    /// The body: tabs already stripped for `<<-`, variables as in the file.
    pub body: String,
    /// Whether variables in it are to be expanded (the delimiter had no quotes).
    pub expand: bool,
    /// Whether it was `<<-`.
    pub strip_tabs: bool,
    /// The number before `<<`, 0 where there was none.
    pub fd: u32,
    /// The body as in the file, tabs included.
    pub raw: String,
    /// The body's place.
    pub span: Span,
    /// The place of the delimiter that closes it.
    pub end: Span,
}

/// RUN.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What to run; with heredocs, the line that has the `<<`.
    pub command: Command,
    /// Its heredocs.
    pub heredocs: Vec<Heredoc>,
    /// The values of `--mount=`, not expanded; see [`super::mount`].
    pub mounts: Vec<Text>,
    /// `--network=`.
    pub network: Option<Text>,
    /// `--security=`.
    pub security: Option<Text>,
    /// The values of `--device=`.
    pub devices: Vec<Text>,
}

/// A source of COPY or ADD.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A path, pattern or URL, not expanded.
    Path(Text),
    /// An inline file.
    Heredoc(Heredoc),
}

/// COPY or ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// What to copy, in order.
    pub sources: Vec<Source>,
    /// Where to, not expanded.
    pub dest: Text,
    /// `--from=`.
    pub from: Option<Text>,
    /// `--chown=`.
    pub chown: Option<Text>,
    /// `--chmod=`.
    pub chmod: Option<Text>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// The values of `--exclude=`.
    pub exclude: Vec<Text>,
    /// ADD's `--checksum=`.
    pub checksum: Option<Text>,
    /// ADD's `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// ADD's `--unpack`.
    pub unpack: Option<bool>,
}

/// HEALTHCHECK. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Healthcheck {
    /// `None` for `HEALTHCHECK NONE`.
    pub command: Option<Command>,
    /// `--interval=`.
    pub interval: i64,
    /// `--timeout=`.
    pub timeout: i64,
    /// `--start-period=`.
    pub start_period: i64,
    /// `--start-interval=`.
    pub start_interval: i64,
    /// `--retries=`.
    pub retries: i64,
}

/// ONBUILD.
#[derive(Debug, Clone, PartialEq)]
pub struct OnBuild {
    /// The trigger as it is kept in the image config.
    pub trigger: String,
    /// The same, parsed.
    pub instruction: Box<Instruction>,
}
