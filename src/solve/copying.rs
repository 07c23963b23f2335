//! Steps that write a layer without running anything: COPY, ADD, WORKDIR.
//!
//! Their layer is written straight from the files. Nothing is unpacked for it:
//! where things go is looked up in directories that are there already, or in
//! listings of layers. Where a later step has to see the files, they are put on
//! disk while the layer is written.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::known::{form, noted};
use super::layers::{self, Layer, LayerBlob, LayerError};
use super::{Done, Solver, StepError, cache, op, seal, unpacking};
use crate::context::Tree;
use crate::graph::{CopyOp, Op, Step, StepId};
use crate::layer::Changes;
use crate::layer::listing::Listening;
use crate::snapshot::users::UserError;

/// What later steps do with the results of steps.
pub(super) struct Uses {
    /// Some step runs a command, and needs directories.
    pub(super) runs: bool,
    /// Steps, by their numbers, on whose result others only look things up.
    looked_at: BTreeSet<usize>,
    /// Steps, by their numbers, whose layers are part of a result.
    kept: BTreeSet<usize>,
    /// Steps, by their numbers, whose layers have to be directories for others.
    seen: BTreeSet<usize>,
}

impl Uses {
    pub(super) fn of(steps: &[Step], wanted: &[StepId]) -> Self {
        let looks = |step: &&Step| matches!(step.op, Op::Copy(_) | Op::Workdir(_));
        let parents = steps.iter().filter(looks).filter_map(Step::parent);
        let mut kept = BTreeSet::new();
        for result in wanted {
            add_line(&mut kept, steps, *result);
        }
        let mut seen = BTreeSet::new();
        for step in steps {
            // What it lies on comes first; COPY only looks at that.
            let inputs = step.inputs().into_iter();
            for input in inputs.skip(usize::from(looks(&step))) {
                add_line(&mut seen, steps, input);
            }
        }
        Self {
            runs: steps.iter().any(|s| matches!(s.op, Op::Run(_))),
            looked_at: parents.map(|p| p.0).collect(),
            kept,
            seen,
        }
    }

    /// Whether the step's layer is part of a result.
    pub(super) fn is_kept(&self, number: usize) -> bool {
        self.kept.contains(&number)
    }
}

/// Adds `last` and all that it lies on.
fn add_line(to: &mut BTreeSet<usize>, steps: &[Step], last: StepId) {
    let mut next = Some(last);
    while let Some(step) = next.filter(|step| to.insert(step.0)) {
        next = steps.get(step.0).and_then(Step::parent);
    }
}

impl<'s, 'e: 's> Solver<'s, 'e> {
    /// COPY and ADD. Files are read once: for the key, where there is a record
    /// that it could lead to, else on their way into the layer.
    pub(super) fn copy(
        &self,
        number: usize,
        step: &Step,
        copy: &CopyOp,
        parent: &'s Done,
    ) -> Result<(Done, bool), StepError> {
        let (env, store) = (self.env, self.env.store);
        // By the key of what is copied from, if that is a step: nothing has
        // to be looked at then.
        let quick = op::files::quick_key(self, copy)?.map(|mut key| {
            key.add("parent", parent.key.as_str());
            self.add_common(&mut key);
            key.finish()
        });
        if let Some(done) = quick.as_ref().and_then(|q| self.known(q, parent)) {
            return Ok((done, true));
        }
        // By content: known even if what is copied from was made anew.
        let (sources, key) = op::files::find(self, copy, parent)?.into_parts();
        let place = key.place();
        let _flight = self.shared.flights.enter(&place);
        if !env.options.no_cache {
            // Other machines may know keys that were never noted here.
            let key = match cache::is_noted(store, &place) || !env.imports.is_empty() {
                true => Some(key.read(self)?),
                false => key.get()?,
            };
            if let Some(key) = key
                && let Some(mut done) = self.known(&key, parent)
            {
                if let Some(quick) = quick {
                    let _ = cache::alias(store, &quick, &key);
                    done.also.push(quick);
                }
                return Ok((done, true));
            }
        }
        if env.cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        let began = Instant::now();
        let changes = op::files::plan(self, copy, parent, sources)?;
        let fault = changes.fault();
        let cancel = env.cancel.clone();
        let changes = changes.map(move |change| match cancel.is_cancelled() {
            true => Err(ErrorKind::Interrupted.into()),
            false => change,
        });
        let sealed = self.seal_listed(number, Box::new(changes));
        let (blob, layer) = sealed.map_err(|e| match fault.take() {
            Some(fault) => StepError::Copy(fault),
            None if env.cancel.is_cancelled() => StepError::Cancelled,
            None => e,
        })?;
        let key = key.read(self)?;
        self.took(step, began, None);
        let mut written = cache::put(store, &key, &key, &form(env), &blob, layer.made_at())
            .and_then(|()| cache::note(store, &place));
        if let (Ok(()), Some(quick)) = (&written, &quick) {
            written = cache::alias(store, quick, &key);
        }
        noted(env, written);
        let done = Done {
            also: quick.into_iter().collect(),
            ran: true,
            ..parent.with(key, Arc::new(layer))
        };
        Ok((done, false))
    }

    /// Looks users up with `find`, in `tree` if that has their files, else in
    /// the directories of `layers`, which it is of.
    pub(super) fn users<T>(
        &self,
        layers: &[Arc<Layer>],
        tree: &dyn Tree,
        find: impl Fn(&dyn Tree) -> Result<T, UserError>,
    ) -> Result<T, StepError> {
        match find(tree) {
            // The listing does not hold that file's content.
            Err(UserError::Read { source, .. }) if source.kind() == ErrorKind::Unsupported => {
                Ok(find(&self.tree(layers)?)?)
            }
            found => Ok(found?),
        }
    }

    /// Makes the layer of step `number`; where others look things up in it, they
    /// need not read it for that.
    pub(super) fn seal_listed(
        &self,
        number: usize,
        changes: Changes,
    ) -> Result<(LayerBlob, Layer), StepError> {
        let env = self.env;
        let now = Some(env.options.now);
        if !self.uses.looked_at.contains(&number) {
            let blob = self.seal_seen(number, changes)?;
            return Ok((blob.clone(), Layer::stored(blob).at(now)));
        }
        let (changes, heard) = Listening::new(changes, env.store.spools());
        let blob = self.seal_seen(number, Box::new(changes))?;
        let listing = heard.lock().unwrap_or_else(PoisonError::into_inner).take();
        let layer = match listing {
            Some(listing) => {
                layers::keep_listing(env.store, &blob.diff_id, Some(&listing));
                Layer::stored(blob.clone()).listed(Some(listing))
            }
            // Perhaps the layer itself tells more.
            None => Layer::stored(blob.clone()),
        };
        Ok((blob, layer.at(now)))
    }

    /// Makes the layer of step `number`, as a directory too where others need
    /// that.
    fn seal_seen(&self, number: usize, changes: Changes) -> Result<LayerBlob, LayerError> {
        let sink = self.sink(number);
        match self.uses.seen.contains(&number) {
            true => unpacking::seal_unpacked(self.env, sink, changes),
            false => seal(self.env, sink, changes),
        }
    }
}
