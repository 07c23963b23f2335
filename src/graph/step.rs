//! Steps: the nodes of the graph.
//!
//! Every step but [`Op::Scratch`] and [`Op::Image`] adds exactly one layer,
//! which may be empty, to its input's layers.

use crate::digest::Digest;
use crate::dockerfile::mount::MountSpec;
use crate::dockerfile::span::Span;
use crate::platform::Platform;

/// The number of a step in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub usize);

/// One node of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its number.
    pub id: StepId,
    /// What it does.
    pub op: Op,
    /// What people see, `[build 2/5] RUN make`.
    pub name: String,
    /// The stage it belongs to, `build` or `stage-1`.
    pub stage: String,
    /// Where its instruction stands in the Dockerfile.
    pub span: Option<Span>,
}

impl Step {
    /// The steps whose results it needs, its own file system's first.
    pub fn inputs(&self) -> Vec<StepId> {
        let mut inputs = Vec::new();
        match &self.op {
            Op::Scratch | Op::Image(_) => {}
            Op::Workdir(op) => inputs.push(op.input),
            Op::Copy(op) => {
                inputs.push(op.input);
                if let From::Step(id) = op.from {
                    inputs.push(id);
                }
            }
            Op::Run(op) => {
                inputs.push(op.input);
                for mount in &op.mounts {
                    if let Some(From::Step(id)) = mount.from {
                        inputs.push(id);
                    }
                }
            }
        }
        inputs
    }

    /// Where the source `text` of a COPY or ADD stands.
    pub fn source_span(&self, text: &str) -> Option<Span> {
        let Op::Copy(op) = &self.op else {
            return None;
        };
        op.sources.iter().find_map(|source| match source {
            CopySource::Path { path: own, span } | CopySource::Url { url: own, span } => {
                (own == text).then_some(*span)
            }
            CopySource::Inline { .. } => None,
        })
    }

    /// The step whose file system this one changes.
    pub fn parent(&self) -> Option<StepId> {
        match &self.op {
            Op::Scratch | Op::Image(_) => None,
            Op::Workdir(op) => Some(op.input),
            Op::Copy(op) => Some(op.input),
            Op::Run(op) => Some(op.input),
        }
    }
}

impl Op {
    /// Gives every step that it names another number.
    pub(super) fn move_inputs(&mut self, to: &dyn Fn(StepId) -> StepId) {
        let from = |from: &mut From| {
            if let From::Step(id) = from {
                *id = to(*id);
            }
        };
        match self {
            Self::Scratch | Self::Image(_) => {}
            Self::Workdir(op) => op.input = to(op.input),
            Self::Copy(op) => {
                op.input = to(op.input);
                from(&mut op.from);
            }
            Self::Run(op) => {
                op.input = to(op.input);
                for mount in &mut op.mounts {
                    mount.from.as_mut().map(from);
                }
            }
        }
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// An empty file system.
    Scratch,
    /// The file system of an image.
    Image(ImageOp),
    /// Runs a command.
    Run(Box<RunOp>),
    /// Copies files.
    Copy(Box<CopyOp>),
    /// Makes a directory.
    Workdir(WorkdirOp),
}

/// Asks for an image: what FROM or `--from` says, and for which platform.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseRequest {
    /// The reference as the Dockerfile has it, variables expanded, or the
    /// value of a named context that is an image.
    pub name: String,
    /// The platform that is wanted.
    pub platform: Platform,
}

/// A pinned image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageOp {
    /// What was asked for.
    pub request: BaseRequest,
    /// Digest of the manifest that was found.
    pub digest: Digest,
}

/// Where COPY and mounts read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The build context.
    Context,
    /// A named context that is no image.
    Named(String),
    /// The file system of another step.
    Step(StepId),
}

/// One source of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path or a pattern.
    Path {
        /// The text, expanded.
        path: String,
        /// Where it stands.
        span: Span,
    },
    /// A remote file or a git repository.
    Url {
        /// The text, expanded.
        url: String,
        /// Where it stands.
        span: Span,
    },
    /// A file whose content is in the Dockerfile.
    Inline {
        /// Its name.
        name: String,
        /// Its content.
        content: String,
    },
}

/// COPY and ADD. Texts are expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyOp {
    /// What it is added to.
    pub input: StepId,
    /// Where the sources are.
    pub from: From,
    /// The sources, in order.
    pub sources: Vec<CopySource>,
    /// Where to; relative to `workdir`.
    pub dest: String,
    /// Where that stands.
    pub dest_span: Option<Span>,
    /// The working directory, absolute.
    pub workdir: String,
    /// `--chown=`.
    pub chown: Option<String>,
    /// Where that stands.
    pub chown_span: Option<Span>,
    /// `--chmod=`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude=`.
    pub exclude: Vec<String>,
    /// Where each of them stands.
    pub exclude_spans: Vec<Span>,
    /// It is ADD: archives are unpacked.
    pub add: bool,
    /// ADD's `--checksum=`.
    pub checksum: Option<String>,
    /// ADD's `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// ADD's `--unpack`.
    pub unpack: Option<bool>,
}

/// WORKDIR.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkdirOp {
    /// What it is added to.
    pub input: StepId,
    /// The directory, absolute.
    pub path: String,
    /// The current user, who owns the directory.
    pub user: String,
}

/// RUN.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOp {
    /// What it changes.
    pub input: StepId,
    /// The command and its arguments.
    pub args: Vec<String>,
    /// The environment, `ENV` before `ARG`.
    pub env: Vec<(String, String)>,
    /// More environment that is in no key: proxy settings.
    pub hidden_env: Vec<(String, String)>,
    /// Where it starts, absolute.
    pub cwd: String,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// `--mount=`.
    pub mounts: Vec<RunMount>,
    /// `--network=`.
    pub network: Option<RunNetwork>,
    /// Another host name than the usual one.
    pub hostname: Option<String>,
    /// `--security=insecure`.
    pub insecure: bool,
    /// A script that stands in `/dev/pipes/` under its name.
    pub script: Option<(String, String)>,
    /// `--device=`.
    pub devices: Vec<String>,
    /// What its programs are for.
    pub platform: Platform,
}

/// A mount of a RUN, and where it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct RunMount {
    /// What the instruction says, expanded.
    pub spec: MountSpec,
    /// For bind and cache mounts.
    pub from: Option<From>,
}

/// RUN's `--network=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunNetwork {
    /// Whatever the build says.
    Default,
    /// Only a loopback device.
    None,
    /// The host's.
    Host,
}
