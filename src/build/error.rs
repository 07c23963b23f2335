//! Why a build failed, one kind for each phase.

use std::path::PathBuf;
use std::sync::Arc;

use super::bases::BaseError;
use crate::container::IsolationError;
use crate::context::ignore::Fault;
use crate::context::source::OpenError;
use crate::dockerfile::ParseError;
use crate::dockerfile::span::Span;
use crate::graph::{BaseRequest, PlanError};
use crate::solve::{LayerError, SolveError, StepError};
use crate::store::StoreError;
use crate::transport::TransportError;

/// A place in a Dockerfile, with what is needed to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What the file is called.
    pub file: String,
    /// All of its text.
    pub text: Arc<str>,
    /// The bytes it is about.
    pub span: Span,
}

/// A build that failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The request can't be met as it is.
    #[error("{0}")]
    Input(String),
    /// There is a command to run, and [`Request::without_run`] says no.
    ///
    /// [`Request::without_run`]: super::Request::without_run
    #[error("the image takes a RUN step, and this process is not prepared for that")]
    WouldRun,
    /// The context can't be had.
    #[error(transparent)]
    Context(#[from] OpenError),
    /// A file of the request can't be read.
    #[error("can't read {what} {}", path.display())]
    Read {
        /// What it is.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no Dockerfile.
    #[error("there is no Dockerfile {}", path.display())]
    NoDockerfile {
        /// Where it should be.
        path: PathBuf,
        /// A file of the context that may have been meant.
        similar: Option<String>,
    },
    /// A pattern of the ignore file is wrong.
    #[error("{source}")]
    Ignore {
        /// Where.
        place: Place,
        /// What is wrong.
        source: Fault,
    },
    /// A named context can't be had.
    #[error("can't open the build context {name:?}")]
    Named {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<BuildError>,
    },
    /// An output can't be written.
    #[error("can't write {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The Dockerfile is wrong.
    #[error("{message}")]
    Dockerfile {
        /// What is wrong.
        message: String,
        /// Where.
        place: Option<Place>,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A base image could not be had.
    #[error("can't get the image {name}")]
    Base {
        /// What was asked for.
        name: String,
        /// Where.
        place: Option<Place>,
        /// What may have been meant.
        hint: Option<String>,
        /// Why.
        #[source]
        source: Box<BaseError>,
    },
    /// A step failed.
    #[error("{name} failed")]
    Step {
        /// The step.
        name: String,
        /// Its instruction.
        place: Option<Place>,
        /// Why.
        #[source]
        source: Box<StepError>,
    },
    /// There is no isolation of the kind that was asked for.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer could not be fetched or written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The result could not be brought to where it should go.
    #[error("can't export the image")]
    Export(#[from] TransportError),
    /// Files of the result could not be written.
    #[error("can't export the files")]
    Files(#[from] StepError),
    /// The build was asked to stop.
    #[error("the build was cancelled")]
    Cancelled,
}

/// The Dockerfile that errors are about.
#[derive(Debug, Clone)]
pub struct SourceText {
    /// What the file is called.
    pub file: String,
    /// All of its text.
    pub text: Arc<str>,
}

impl SourceText {
    fn place(&self, span: Option<Span>) -> Option<Place> {
        span.map(|span| Place {
            file: self.file.clone(),
            text: Arc::clone(&self.text),
            span,
        })
    }

    pub(super) fn parse(&self, e: ParseError) -> BuildError {
        BuildError::Dockerfile {
            message: e.message,
            place: self.place(Some(e.span)),
            hint: e.hint,
        }
    }

    pub(super) fn plan(&self, e: PlanError) -> BuildError {
        BuildError::Dockerfile {
            message: e.message,
            place: self.place(e.span),
            hint: e.hint,
        }
    }

    pub(super) fn base(
        &self,
        request: &BaseRequest,
        span: Option<Span>,
        hint: Option<String>,
        e: BaseError,
    ) -> BuildError {
        BuildError::Base {
            name: request.name.clone(),
            place: self.place(span),
            hint,
            source: Box::new(e),
        }
    }

    pub(super) fn step(&self, e: SolveError) -> BuildError {
        if matches!(*e.source, StepError::Cancelled) {
            return BuildError::Cancelled;
        }
        BuildError::Step {
            name: e.name,
            place: self.place(e.span),
            source: e.source,
        }
    }
}
