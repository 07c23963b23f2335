//! Keys of steps without running any.

use std::sync::OnceLock;

use super::copying::Uses;
use super::key::KeyBuilder;
use super::{Done, Env, Shared, Solver, StepError, op};
use crate::graph::print::KnownKey;
use crate::graph::{CopyOp, CopySource, From, Op, Step};

/// The key of each step, as far as it is known before anything runs: what a
/// RUN will leave is not, so neither is the key of what is copied from there,
/// unless an earlier build has noted it. Nothing is fetched.
pub fn keys(steps: &[Step], env: &Env<'_>) -> Vec<Option<KnownKey>> {
    let results: Vec<OnceLock<Done>> = steps.iter().map(|_| OnceLock::new()).collect();
    let (shared, uses) = (Shared::default(), Uses::of(steps, &[]));
    std::thread::scope(|scope| {
        let solver = Solver {
            env,
            results: &results,
            shared: &shared,
            scope,
            uses: &uses,
        };
        let known = steps.iter().enumerate().map(|(n, step)| {
            // What can't be read now is told by the build.
            let (done, cached) = solver.preview(step).ok()??;
            let key = done.key.clone();
            let _ = results.get(n)?.set(done);
            Some(KnownKey { key, cached })
        });
        known.collect()
    })
}

impl Solver<'_, '_> {
    /// What is known of a step's result, and whether it need not be run.
    fn preview(&self, step: &Step) -> Result<Option<(Done, bool)>, StepError> {
        let parent = match step.parent() {
            Some(parent) => self.done(parent)?,
            None => {
                let done = match &step.op {
                    Op::Image(image) => self.image(&image.request)?,
                    _ => Done::new(KeyBuilder::new("scratch").finish(), Vec::new()),
                };
                return Ok(Some((done, true)));
            }
        };
        let key = match &step.op {
            Op::Copy(copy) => {
                if let Some(done) = self.known_by_source(copy, parent)? {
                    return Ok(Some((done, true)));
                }
                let here = matches!(copy.from, From::Context | From::Named(_));
                let remote = |s: &CopySource| matches!(s, CopySource::Url { .. });
                if !here || copy.sources.iter().any(remote) {
                    return Ok(None);
                }
                op::files::find(self, copy, parent)?
                    .into_parts()
                    .1
                    .read(self)?
            }
            Op::Run(_) | Op::Workdir(_) | Op::Scratch | Op::Image(_) => {
                self.run_key(step, parent)?
            }
        };
        Ok(Some(match self.known(&key, parent) {
            Some(done) => (done, true),
            None => (Done::new(key, parent.layers.clone()), false),
        }))
    }

    /// The result of a copy from another step that an earlier build has noted.
    fn known_by_source(&self, copy: &CopyOp, parent: &Done) -> Result<Option<Done>, StepError> {
        let Some(mut key) = op::files::quick_key(self, copy)? else {
            return Ok(None);
        };
        key.add("parent", parent.key.as_str());
        self.add_common(&mut key);
        Ok(self.known(&key.finish(), parent))
    }
}
