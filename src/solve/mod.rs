//! Runs a graph: keys, cache, scheduling, the steps themselves.
//!
//! Each step, after its inputs: compute its [key](key), look it up, and only
//! if it is unknown execute it. What a RUN leaves in its upper directory is a
//! layer at once for the next step; turning it into a blob (sealing) happens
//! beside the following steps, and only the end waits for it.
//!
//! Does not know where base images come from ([`Env::bases`] hands out images
//! whose blobs are fetched when read) nor where the result goes.

pub mod agent;
mod cache;
mod copying;
mod image_dirs;
pub mod inside;
pub mod key;
mod known;
pub mod layers;
pub mod op;
mod place;
mod preview;
mod scheduler;
mod sealing;
mod trees;
mod unpacking;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use crate::container::{Executor, IsolationError};
use crate::context::Tree;
use crate::digest::{ChainId, Digest};
use crate::event::{Cancel, Events, Outcome, Task, Usage, chain};
use crate::graph::{BaseRequest, From, Op, Step, StepId};
use crate::image::{BlobSink, Image};
use crate::layer::pipeline::SealOptions;
use crate::layer::{Change, Changes};
use crate::snapshot::Merged;
use crate::store::{LayerForm, Store, TempDir};

pub use agent::Agent;
use copying::Uses;
pub use image_dirs::LayerDirs;
use key::KeyBuilder;
pub use known::{Imported, Imports, recompress};
use known::{form, noted};
pub use layers::{Layer, LayerBlob, LayerError};
pub use op::cached::{CacheMount, cache_mounts, pack_mount};
pub use op::run::Secret;
pub use op::sources::Remote;
pub use preview::keys;
use sealing::{changes, seal, seal_dir, seal_in};
use trees::{TreeChanges, Trees};

/// All that executing steps needs.
pub struct Env<'a> {
    /// Where layers and records are kept.
    pub store: &'a Store,
    /// The build context; `None` where there is none.
    pub context: Option<Arc<dyn Tree>>,
    /// Named contexts that are files.
    pub named: BTreeMap<String, Arc<dyn Tree>>,
    /// The base images.
    pub bases: &'a BTreeMap<BaseRequest, Image>,
    /// Where results of other builds are looked for, in this order.
    pub imports: Vec<Arc<dyn Imports>>,
    /// Hands out what runs commands; asked only when there is one to run.
    pub executor: &'a (dyn Fn() -> Result<Arc<dyn Executor>, StepError> + Sync),
    /// Reaches what ADD names by URL.
    pub remote: &'a Remote,
    /// What was asked for.
    pub options: Options,
    /// Who listens.
    pub events: Events,
    /// Asks to stop.
    pub cancel: Cancel,
    /// Takes the new layers of what is wanted, and puts them into the store.
    pub early: Option<&'a dyn BlobSink>,
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env")
            .field("store", &self.store.root())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What the user asked for, as far as steps are concerned.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many steps run at once.
    pub jobs: usize,
    /// Steps are executed even if their result is known.
    pub no_cache: bool,
    /// How layers are written.
    pub seal: SealOptions,
    /// The time for directories that steps imply, seconds since 1970.
    pub now: i64,
    /// The network of RUN.
    pub network: crate::container::Network,
    /// The name of the host in RUN; `None` is ours.
    pub hostname: Option<String>,
    /// `name`, `address` pairs for `/etc/hosts`.
    pub add_hosts: Vec<(String, String)>,
    /// The content of `/etc/resolv.conf` for RUN.
    pub resolv_conf: String,
    /// What RUN may do and use.
    pub confinement: crate::container::Confinement,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// SSH agents by id.
    pub ssh: BTreeMap<String, Agent>,
    /// RUN may ask for `--security=insecure`.
    pub allow_insecure: bool,
    /// RUN may ask for `--network=host` whatever `network` is.
    pub allow_host_network: bool,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A RUN's command ended with something other than success.
    #[error("{what}")]
    Command {
        /// What happened, for people.
        what: String,
        /// The command's exit code, where it had one.
        code: Option<i32>,
    },
    /// The command could not be run.
    #[error(transparent)]
    Container(#[from] crate::container::RunError),
    /// There is no isolation of the kind that was asked for.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// Files could not be copied.
    #[error(transparent)]
    Copy(#[from] op::copy::CopyError),
    /// An archive could not be unpacked.
    #[error(transparent)]
    Add(#[from] op::add::AddError),
    /// A source could not be found.
    #[error(transparent)]
    Select(#[from] crate::context::select::SelectError),
    /// A pattern of `--exclude` means nothing; its line is its number.
    #[error("--exclude: {}", .0.fault)]
    Exclude(crate::context::ignore::IgnoreError),
    /// A source could not be read.
    #[error(transparent)]
    Checksum(#[from] crate::context::checksum::ChecksumError),
    /// A layer could not be fetched, unpacked or written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A user or a group is not known.
    #[error(transparent)]
    User(#[from] crate::snapshot::users::UserError),
    /// A file operation failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
    /// The instruction asks for something that can't be given.
    #[error("{message}")]
    Refused {
        /// What and why.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Everything is being stopped.
    #[error("cancelled")]
    Cancelled,
}

impl StepError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// A build that failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {source}")]
pub struct SolveError {
    /// The step's name.
    pub name: String,
    /// Its instruction in the Dockerfile.
    pub span: Option<crate::dockerfile::span::Span>,
    /// What went wrong.
    #[source]
    pub source: Box<StepError>,
}

/// What a solved graph made.
#[derive(Debug)]
pub struct Solved {
    /// The layers of each result, lowest first.
    pub layers: Vec<Vec<Arc<Layer>>>,
    /// What each step came to, if it makes a layer.
    pub steps: Vec<Option<StepResult>>,
    /// Steps that were executed.
    pub ran: Vec<Ran>,
}

/// A step that was executed.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// The step's name.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// What its command used, where it had one.
    pub usage: Option<Usage>,
}

/// What a step that makes a layer came to.
#[derive(Debug, Clone)]
pub struct StepResult {
    /// Keys that lead to it; steps on top of it use the first.
    pub keys: Vec<Digest>,
    /// Its layer.
    pub layer: Arc<Layer>,
    /// How many layers are below it.
    pub height: usize,
    /// It was executed now.
    pub ran: bool,
}

/// The result of one step: all layers, lowest first.
#[derive(Debug, Clone)]
struct Done {
    key: Digest,
    layers: Vec<Arc<Layer>>,
    /// Other keys that lead to it.
    also: Vec<Digest>,
    /// It was executed now.
    ran: bool,
}

impl Done {
    fn new(key: Digest, layers: Vec<Arc<Layer>>) -> Self {
        Self {
            key,
            layers,
            also: Vec::new(),
            ran: false,
        }
    }

    /// With one layer more.
    fn with(&self, key: Digest, layer: Arc<Layer>) -> Self {
        let mut layers = self.layers.clone();
        layers.push(layer);
        Self::new(key, layers)
    }

    fn result(&self) -> Option<StepResult> {
        let (layer, below) = self.layers.split_last()?;
        let keys = std::iter::once(&self.key).chain(&self.also).cloned();
        Some(StepResult {
            keys: keys.collect(),
            layer: Arc::clone(layer),
            height: below.len(),
            ran: self.ran,
        })
    }
}

/// Executes what has to be executed so that the steps `wanted` are there. Each
/// step's inputs stand before it.
///
/// # Errors
/// The first step that failed. What other steps had finished stays known.
pub fn solve(steps: &[Step], wanted: &[StepId], env: &Env<'_>) -> Result<Solved, SolveError> {
    let inputs: Vec<Vec<usize>> = steps
        .iter()
        .map(|s| s.inputs().into_iter().map(|i| i.0).collect())
        .collect();
    let results: Vec<OnceLock<Done>> = steps.iter().map(|_| OnceLock::new()).collect();
    let shared = Shared::default();
    let uses = Uses::of(steps, wanted);
    let outcome = std::thread::scope(|scope| {
        let solver = Solver {
            env,
            results: &results,
            shared: &shared,
            scope,
            uses: &uses,
        };
        scheduler::run(&inputs, env.options.jobs, &env.cancel, &|n| {
            let step = &steps[n];
            if env.cancel.is_cancelled() {
                return Err(at(step)(StepError::Cancelled));
            }
            let done = solver.step(n, step).map_err(at(step))?;
            let _ = results[n].set(done);
            Ok(())
        })
        // The scope's end waits for every seal.
    });
    let result = |n: usize| {
        steps[n].parent()?;
        results[n].get()?.result()
    };
    let made: Vec<Option<StepResult>> = (0..steps.len()).map(result).collect();
    for made in made.iter().flatten() {
        made.layer.publish();
    }
    outcome?;
    for (step, made) in steps.iter().zip(&made) {
        if let Some(made) = made {
            made.layer.blob().map_err(|e| at(step)(e.into()))?;
        }
    }
    let layers_of = |id: &StepId| {
        let done = results.get(id.0).and_then(OnceLock::get);
        done.map(|d| d.layers.clone()).unwrap_or_default()
    };
    Ok(Solved {
        layers: wanted.iter().map(layers_of).collect(),
        steps: made,
        ran: (shared.ran.into_inner()).unwrap_or_else(PoisonError::into_inner),
    })
}

fn at(step: &Step) -> impl FnOnce(StepError) -> SolveError + '_ {
    |source| SolveError {
        name: step.name.clone(),
        span: place::place(step, &source).or(step.span),
        source: Box::new(source),
    }
}

/// Keys that are being worked on: a second step with the same key waits for
/// the first and finds its result.
#[derive(Default)]
struct Flights {
    busy: Mutex<BTreeSet<Digest>>,
    changed: Condvar,
}

struct Flight<'a> {
    flights: &'a Flights,
    key: Digest,
}

impl Flights {
    fn enter(&self, key: &Digest) -> Flight<'_> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while !busy.insert(key.clone()) {
            busy = self
                .changed
                .wait(busy)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Flight {
            flights: self,
            key: key.clone(),
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut busy = self
            .flights
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.key);
        self.flights.changed.notify_all();
    }
}

/// What a RUN left.
pub(crate) enum Made {
    /// A directory in overlayfs' form, to be compared with what is below.
    Dir(crate::store::NewLayer),
    /// A working tree that was changed.
    Tree(Box<TreeChanges>),
}

/// What the steps of one solution share.
#[derive(Default)]
struct Shared {
    ran: Mutex<Vec<Ran>>,
    flights: Flights,
    trees: Trees,
    scratch: OnceLock<TempDir>,
}

struct Solver<'s, 'e: 's> {
    env: &'s Env<'e>,
    results: &'s [OnceLock<Done>],
    shared: &'s Shared,
    scope: &'s std::thread::Scope<'s, 'e>,
    uses: &'s Uses,
}

impl<'s, 'e: 's> Solver<'s, 'e> {
    fn done(&self, id: StepId) -> Result<&'s Done, StepError> {
        self.results
            .get(id.0)
            .and_then(OnceLock::get)
            .ok_or(StepError::Cancelled)
    }

    fn step(&self, number: usize, step: &Step) -> Result<Done, StepError> {
        match &step.op {
            Op::Scratch => Ok(Done::new(KeyBuilder::new("scratch").finish(), Vec::new())),
            Op::Image(image) => self.image(&image.request),
            Op::Run(_) | Op::Copy(_) | Op::Workdir(_) => self.layer(number, step),
        }
    }

    fn image(&self, request: &BaseRequest) -> Result<Done, StepError> {
        let Some(image) = self.env.bases.get(request) else {
            return Err(StepError::Refused {
                message: format!("the image {} was not looked up", request.name),
                hint: None,
            });
        };
        let diff_ids = &image.config.rootfs.diff_ids;
        let mut key = KeyBuilder::new("image");
        key.optional("chain", ChainId::of(diff_ids).map(|c| c.to_string()));
        Ok(Done::new(key.finish(), layers_of(image)))
    }

    /// A step that adds a layer: from the cache, or executed.
    fn layer(&self, number: usize, step: &Step) -> Result<Done, StepError> {
        let env = self.env;
        let Some(parent) = step.parent() else {
            return Err(StepError::Cancelled);
        };
        let parent = self.done(parent)?;
        let task = env.events.start(step.name.clone());
        let result = self.layer_inner(number, step, parent, &task);
        match &result {
            Ok((_, true)) => task.finish(Outcome::Cached),
            Ok((_, false)) => task.finish(Outcome::Done),
            Err(StepError::Cancelled) => task.finish(Outcome::Cancelled),
            Err(e) => task.finish(Outcome::Failed(chain(e))),
        }
        result.map(|(done, _)| done)
    }

    fn layer_inner(
        &self,
        number: usize,
        step: &Step,
        parent: &'s Done,
        task: &Task,
    ) -> Result<(Done, bool), StepError> {
        if let Op::Copy(copy) = &step.op {
            return self.copy(number, step, copy, parent);
        }
        let key = self.run_key(step, parent)?;
        let flight = self.shared.flights.enter(&key);
        if let Some(done) = self.known(&key, parent) {
            return Ok((done, true));
        }
        if self.env.cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        let began = Instant::now();
        let layer = match &step.op {
            Op::Run(run) => {
                let made = op::run::run(self, run, parent, task)?;
                self.took(step, began, task.usage());
                let now = Some(self.env.options.now);
                let dir = match made {
                    Made::Dir(dir) => dir,
                    Made::Tree(tree) => {
                        let layer = self.seal_tree(number, *tree, &key)?;
                        return Ok((parent.with(key, layer), false));
                    }
                };
                let fs = dir.fs().to_path_buf();
                let layer = Arc::new(Layer::made(dir).at(now));
                let sealed = layer.clone();
                let (env, key, lower) = (self.env, key.clone(), parent.layers.clone());
                let sink = self.sink(number);
                self.scope.spawn(move || {
                    let result = seal_dir(env, sink, fs, &lower);
                    if let Ok(blob) = &result {
                        noted(
                            env,
                            cache::put(env.store, &key, &key, &form(env), blob, now),
                        );
                    }
                    sealed.seal(result);
                    drop(flight);
                });
                layer
            }
            Op::Workdir(w) => {
                let made = changes(op::workdir::workdir(self, w, parent)?.into_iter());
                let (blob, layer) = self.seal_listed(number, made)?;
                let store = self.env.store;
                noted(
                    self.env,
                    cache::put(store, &key, &key, &form(self.env), &blob, layer.made_at()),
                );
                self.took(step, began, task.usage());
                Arc::new(layer)
            }
            Op::Copy(_) | Op::Scratch | Op::Image(_) => return Err(StepError::Cancelled),
        };
        let done = Done {
            ran: true,
            ..parent.with(key, layer)
        };
        Ok((done, false))
    }

    /// Writes what a step changed in its tree, which is then there for others.
    fn seal_tree(
        &self,
        number: usize,
        tree: TreeChanges,
        key: &Digest,
    ) -> Result<Arc<Layer>, StepError> {
        let env = self.env;
        let now = Some(env.options.now);
        let blob = seal(env, self.sink(number), tree.stream())?;
        noted(env, cache::put(env.store, key, key, &form(env), &blob, now));
        let layer = Arc::new(Layer::stored(blob).at(now));
        // Without it the next step makes a tree anew.
        if let Ok(tree) = tree.finish(layer.clone()) {
            self.shared.trees.put(tree);
        }
        Ok(layer)
    }

    /// Takes note of how long a step took, and what its command used.
    fn took(&self, step: &Step, began: Instant, usage: Option<Usage>) {
        self.shared
            .ran
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Ran {
                name: step.name.clone(),
                seconds: began.elapsed().as_secs_f64(),
                usage,
            });
    }

    fn run_key(&self, step: &Step, parent: &Done) -> Result<Digest, StepError> {
        let mut key = match &step.op {
            Op::Run(run) => op::run::key(self, run)?,
            Op::Workdir(w) => op::workdir::key(w),
            Op::Copy(_) | Op::Scratch | Op::Image(_) => KeyBuilder::new("none"),
        };
        key.add("parent", parent.key.as_str());
        self.add_common(&mut key);
        Ok(key.finish())
    }

    /// Adds what enters every key.
    fn add_common(&self, key: &mut KeyBuilder) {
        let clamp = self.env.options.seal.clamp_mtime;
        key.optional("clamp mtime", clamp.map(|c| c.to_string()));
    }

    /// A directory for what is needed only as long as the build goes on.
    fn scratch(&self) -> Result<&'s Path, StepError> {
        let scratch = &self.shared.scratch;
        if scratch.get().is_none() {
            let made = self.env.store.temp_dir()?;
            let _ = scratch.set(made);
        }
        Ok(scratch.get().map_or(Path::new("/"), TempDir::path))
    }

    /// The files that COPY or a mount reads from.
    fn source_tree(&self, from: &From) -> Result<Arc<dyn Tree>, StepError> {
        let missing = |what: String| StepError::Refused {
            message: what,
            hint: None,
        };
        match from {
            From::Step(id) => Ok(Arc::new(self.tree(&self.done(*id)?.layers)?)),
            From::Context => self
                .env
                .context
                .clone()
                .ok_or_else(|| missing("there is no build context".into())),
            From::Named(name) => (self.env.named.get(name).cloned())
                .ok_or_else(|| missing(format!("there is no context named {name:?}"))),
        }
    }

    /// The file system of a step's result, only to look up where things are.
    fn look(&self, layers: &[Arc<Layer>]) -> Result<Arc<dyn Tree>, StepError> {
        let env = self.env;
        Ok(layers::look(
            layers,
            env.store,
            &env.events,
            self.uses.runs,
        )?)
    }

    /// The file system of a step's result, without a mount.
    fn tree(&self, layers: &[Arc<Layer>]) -> Result<Merged, StepError> {
        let dirs = layers::dirs(layers, self.env.store, &self.env.events)?;
        Merged::new(dirs).map_err(StepError::io("can't open the layers"))
    }

    /// The directories of a step's result, lowest first.
    fn dirs(&self, layers: &[Arc<Layer>]) -> Result<Vec<PathBuf>, StepError> {
        Ok(layers::dirs(layers, self.env.store, &self.env.events)?)
    }
}

/// The layers of an image, lowest first; nothing of them is fetched yet.
fn layers_of(image: &Image) -> Vec<Arc<Layer>> {
    let blobs = image.manifest.layers.iter();
    blobs
        .zip(&image.config.rootfs.diff_ids)
        .map(|(descriptor, diff_id)| {
            let blob = LayerBlob {
                descriptor: descriptor.clone(),
                diff_id: diff_id.clone(),
            };
            Arc::new(Layer::of_base(image, blob))
        })
        .collect()
}

/// Everything in the file system that `layers` make, lowest first.
pub fn files_of(
    layers: &[Arc<Layer>],
    store: &Store,
    events: &Events,
) -> Result<Changes, StepError> {
    let dirs = layers::dirs(layers, store, events)?;
    let tree = Merged::new(dirs).map_err(StepError::io("can't open the layers"))?;
    let tree: Arc<dyn Tree> = Arc::new(tree);
    let changes = op::files::changes_below(&tree, "/", &|| store.temp_file())?;
    Ok(Box::new(changes))
}

/// Writes `changes` into the directory `dest`, on top of what is there, as far
/// as `form` allows.
pub fn apply(
    changes: impl Iterator<Item = std::io::Result<Change>> + Send,
    dest: &Path,
    form: LayerForm,
) -> Result<(), StepError> {
    op::files::apply(changes, dest, form)
}
