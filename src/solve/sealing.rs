//! From changes to a layer's blob.

use std::path::PathBuf;
use std::sync::Arc;

use super::layers::{self, Layer, LayerBlob, LayerError};
use super::{Env, Solver};
use crate::event::chain;
use crate::image::BlobSink;
use crate::layer::pipeline::{self, SealError, SealOptions, Sealed};
use crate::layer::{Change, Changes};
use crate::snapshot::Merged;

impl<'s, 'e: 's> Solver<'s, 'e> {
    /// Where the layer of step `number` goes: what is not part of any result is
    /// nobody else's.
    pub(super) fn sink(&self, number: usize) -> &'s dyn BlobSink {
        match self.env.early {
            Some(early) if self.uses.is_kept(number) => early,
            _ => self.env.store,
        }
    }
}

/// Changes that are all known.
pub(super) fn changes(list: impl Iterator<Item = Change> + Send + 'static) -> Changes {
    Box::new(list.map(Ok))
}

/// Turns what a step left in its upper directory into a blob.
pub(super) fn seal_dir(
    env: &Env<'_>,
    sink: &dyn BlobSink,
    upper: PathBuf,
    lower: &[Arc<Layer>],
) -> Result<LayerBlob, LayerError> {
    let fail = |e: &dyn std::error::Error| LayerError::Seal(chain(e));
    let dirs = layers::dirs(lower, env.store, &env.events)?;
    let lower = Merged::new(dirs).map_err(|e| fail(&e))?;
    let changes = crate::snapshot::overlay::changes(&upper, Arc::new(lower));
    seal(env, sink, changes.map_err(|e| fail(&e))?)
}

pub(super) fn seal(
    env: &Env<'_>,
    sink: &dyn BlobSink,
    changes: Changes,
) -> Result<LayerBlob, LayerError> {
    seal_in(sink, changes, &env.options.seal)
}

pub(super) fn seal_in(
    sink: &dyn BlobSink,
    changes: Changes,
    options: &SealOptions,
) -> Result<LayerBlob, LayerError> {
    blob_of(pipeline::seal(changes, sink, options))
}

pub(super) fn blob_of(sealed: Result<Sealed, SealError>) -> Result<LayerBlob, LayerError> {
    let sealed = sealed.map_err(|e| LayerError::Seal(chain(&e)))?;
    Ok(LayerBlob {
        descriptor: sealed.descriptor,
        diff_id: sealed.diff_id,
    })
}
