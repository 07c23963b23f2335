//! Instructions and base configs → a graph of steps. Pure.
//!
//! [`plan`] is asked again and again: as long as it answers
//! [`Planned::Need`], the caller looks the named images up and asks once more
//! with what it found. Usually that is one round; a base with an ONBUILD
//! trigger that names another image makes a second one.
//!
//! The [`Graph`] that comes out is a value: it holds every step that the
//! target needs and no other, the image config and the history. Nothing
//! behind it looks at the Dockerfile again.
//!
//! # Specification
//! Dockerfile reference; image-spec `config.md`.

pub mod config;
mod merge;
mod plan;
pub mod print;
pub mod scope;
mod stage;
pub mod step;

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::dockerfile::span::Span;
use crate::image::{History, ImageConfig};
use crate::platform::Platform;

pub use merge::{Merged, merge};
pub use plan::{
    EpochSource, Outline, OutlineArg, OutlineMount, SOURCE_DATE_EPOCH, Target, epoch_source,
    outline, plan, targets,
};
pub use step::{
    BaseRequest, CopyOp, CopySource, From, ImageOp, Op, RunMount, RunNetwork, RunOp, Step, StepId,
    WorkdirOp,
};

/// The marker behind the history's RUN, COPY and ADD, and in its comments.
pub const MARKER: &str = "shiplap";

/// What planning depends on beside the Dockerfile and the bases.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// `--build-arg`.
    pub build_args: Vec<(String, String)>,
    /// `--target`.
    pub target: Option<String>,
    /// What the image is to run on.
    pub platform: Platform,
    /// What the build runs on.
    pub build_platform: Platform,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--build-context`.
    pub contexts: BTreeMap<String, NamedContext>,
}

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// An image, by the name that goes into a [`BaseRequest`].
    Image(String),
    /// Files.
    Tree,
}

/// A base image that was found.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its config.
    pub config: ImageConfig,
}

/// The base images found so far.
pub type Bases = BTreeMap<BaseRequest, Resolved>;

/// The answer of [`plan`].
#[derive(Debug)]
pub enum Planned {
    /// These images have to be looked up first, each with the place that
    /// asks for it.
    Need(Vec<(BaseRequest, Option<Span>)>),
    /// The plan.
    Graph(Box<Graph>),
}

/// All that has to be done for one platform.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// The steps; each one's inputs stand before it.
    pub steps: Vec<Step>,
    /// The step whose file system is the result.
    pub result: StepId,
    /// The platform of the result.
    pub platform: Platform,
    /// The image config but for `created`, `rootfs` and `history`.
    pub config: ImageConfig,
    /// What was done, oldest first, the base's entries included.
    pub history: Vec<HistoryItem>,
    /// The time to use for everything, where the Dockerfile or a build
    /// argument gives one, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
}

/// One entry of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryItem {
    /// The entry; for new ones without `created`.
    pub entry: History,
    /// Whether it came with the base image.
    pub inherited: bool,
    /// The step that makes its layer; `None` for inherited ones and for those
    /// without a layer.
    pub step: Option<StepId>,
}

/// A Dockerfile that can't be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Option<Span>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Graph {
    /// The step with this number.
    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.steps.get(id.0)
    }
}
