//! One command on top of an image, outside of any graph.
//!
//! Its root filesystem is made as that of a RUN step is, and so is the layer of
//! what it changed. But its streams are its user's, it may see directories of
//! the host, nothing of it is looked up or recorded, and how it ends is no
//! failure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::op::run::{self, Base};
use super::{Env, Layer, LayerBlob, Made, Shared, Solver, StepError, Uses};
use super::{layers_of, op, seal, seal_dir};
use crate::container::{Exit, Io, Isolation, Mount, MountKind, RunError, RunSpec, Streams};
use crate::context::Tree;
use crate::image::Image;
use crate::snapshot::users;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The command's words.
    pub args: Vec<String>,
    /// Variables; `HOME` is the user's where it is not among them.
    pub env: Vec<(String, String)>,
    /// The working directory, absolute; made where it is missing.
    pub cwd: String,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// Directories and files of the host.
    pub mounts: Vec<Mount>,
    /// The root filesystem cannot be written to.
    pub read_only: bool,
    /// A layer is made of what it changed.
    pub keep: bool,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// The command's end.
    pub exit: Exit,
    /// The layers of the image and the new one, lowest first; empty unless they
    /// were to be kept.
    pub layers: Vec<LayerBlob>,
}

/// Runs the command to its end. `ready` is called when all is prepared: the
/// caller's terminal is the command's from there on.
///
/// # Errors
/// When it could not be run, or was cancelled.
pub fn run_inside(
    image: &Image,
    inside: &Inside,
    env: &Env<'_>,
    streams: &Streams<'_>,
    ready: &mut dyn FnMut(),
) -> Result<Ended, StepError> {
    let (shared, uses) = (Shared::default(), Uses::of(&[], &[]));
    std::thread::scope(|scope| {
        let solver = Solver {
            env,
            results: &[],
            shared: &shared,
            scope,
            uses: &uses,
        };
        let below = layers_of(image);
        let tree: Arc<dyn Tree> = Arc::new(solver.tree(&below)?);
        let (exit, base, user) = execute(&solver, &below, &tree, inside, (streams, ready))?;
        if !inside.keep {
            return Ok(Ended {
                exit,
                layers: Vec::new(),
            });
        }
        let made = run::left(&solver, &below, base, &*tree, user)?;
        let new = sealed(env, made, &below)?;
        let all = below.iter().chain([&new]);
        let blobs = all.map(|layer| layer.fetch(env.store, &env.events));
        Ok(Ended {
            exit,
            layers: blobs.collect::<Result<_, _>>()?,
        })
    })
}

type Left = (Exit, Base, (u32, u32));

fn execute(
    solver: &Solver<'_, '_>,
    below: &[Arc<Layer>],
    tree: &Arc<dyn Tree>,
    inside: &Inside,
    (streams, ready): (&Streams<'_>, &mut dyn FnMut()),
) -> Result<Left, StepError> {
    let env = solver.env;
    let executor = (env.executor)()?;
    let is_bound = |mount: &Mount| !matches!(mount.kind, MountKind::Tmpfs { .. });
    if inside.mounts.iter().any(is_bound) && !executor.mounts() {
        return Err(StepError::Refused {
            message: format!(
                "with the isolation {} nothing can be mounted: the container can't have files of \
                 this machine",
                executor.isolation()
            ),
            hint: Some(
                "shiplap doctor tells what would enable a stronger isolation; small inputs can \
                 go by standard input"
                    .into(),
            ),
        });
    }
    op::foreign::check(&**tree, &inside.args, &inside.env, &inside.cwd)?;
    if executor.isolation() == Isolation::Proot {
        is_there(&**tree, inside)?;
    }
    let user = users::resolve_user(&**tree, &inside.user)?;
    let base = Base::take(solver, executor.root(), below)?;
    run::make_cwd(&**tree, &inside.cwd, &base, env)?;
    let mut spec = RunSpec::new(base.spec(solver, below)?, inside.args.iter().cloned());
    let mut variables: BTreeSet<&str> = BTreeSet::new();
    for (name, value) in &inside.env {
        variables.insert(name);
        spec.env.push(format!("{name}={value}"));
    }
    if !variables.contains("HOME") {
        spec.env.push(format!("HOME={}", user.home.display()));
    }
    spec.cwd.clone_from(&inside.cwd);
    spec.user = run::user_ids(&user);
    let options = &env.options;
    let hostname = options.hostname.as_deref().unwrap_or(run::HOSTNAME);
    spec.hostname = hostname.into();
    spec.network = options.network;
    spec.hosts = run::hosts(hostname, &options.add_hosts);
    spec.resolv_conf.clone_from(&options.resolv_conf);
    spec.mounts.clone_from(&inside.mounts);
    spec.read_only = inside.read_only;
    spec.confine(&options.confinement);
    ready();
    let exit = executor.run(&spec, Io::Streams(streams), &env.cancel)?;
    Ok((exit, base, (user.uid, user.gid)))
}

/// Fails where there is no such command, which proot reports by an exit code
/// that could be any command's.
fn is_there(tree: &dyn Tree, inside: &Inside) -> Result<(), StepError> {
    let found = op::foreign::find(tree, &inside.args, &inside.env, &inside.cwd);
    let found = found.filter(|path| matches!(tree.lookup(path, true), Ok(Some(_))));
    match found {
        Some(_) => Ok(()),
        None => Err(RunError::NotFound {
            name: inside.args.first().cloned().unwrap_or_default(),
            reason: "it is not in the image".into(),
        }
        .into()),
    }
}

/// The layer of what the command left.
fn sealed(env: &Env<'_>, made: Made, below: &[Arc<Layer>]) -> Result<Arc<Layer>, StepError> {
    match made {
        Made::Dir(dir) => {
            let fs = dir.fs().to_path_buf();
            let layer = Arc::new(Layer::made(dir));
            layer.seal(seal_dir(env, env.store, fs, below));
            layer.publish();
            layer.blob()?;
            Ok(layer)
        }
        Made::Tree(tree) => Ok(Arc::new(Layer::stored(seal(
            env,
            env.store,
            tree.stream(),
        )?))),
    }
}
