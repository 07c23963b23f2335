//! RUN: a command in a container on top of its input's layers.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::key::KeyBuilder;
use super::super::trees::WorkTree;
use super::super::{Done, Env, Layer, Made, Options, Solver, StepError};
use super::mounts::Mounts;
use super::workdir::make_dirs;
use crate::container::{
    Confinement, Exit, Io, MOST_LAYERS, Mount, MountKind, Network, RootKind, RootSpec, RunSpec,
    UserIds,
};
use crate::context::Tree;
use crate::digest::Digest;
use crate::event::{Task, Usage};
use crate::graph::{RunNetwork, RunOp};
use crate::layer::{Change, Entry};
use crate::snapshot::{Guess, Merged, overlay, users};
use crate::store::{NewLayer, SecretsHeld};

/// Name of the host inside build containers: always the same, so that it can't
/// make two builds differ.
pub(in super::super) const HOSTNAME: &str = "shiplap";

/// A secret's value, read when a step asks for it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// In a file.
    File(PathBuf),
    /// At hand.
    Value(Vec<u8>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Secret {
    /// The value.
    pub(super) fn read(&self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::File(path) => std::fs::read(path),
            Self::Value(value) => Ok(value.clone()),
        }
    }
}

pub(in super::super) fn key(solver: &Solver<'_, '_>, op: &RunOp) -> Result<KeyBuilder, StepError> {
    let options = &solver.env.options;
    let mut key = KeyBuilder::new("run");
    if let Some(name) = &op.hostname {
        key.add("hostname", name);
    }
    key.list("args", &op.args)
        .list("env", op.env.iter().map(|(n, v)| format!("{n}={v}")))
        .add("cwd", &op.cwd)
        .add("user", &op.user)
        .add("network", network_name(network(op, options)?))
        .add("platform", op.platform.to_string())
        .add("insecure", if op.insecure { "yes" } else { "no" })
        .list("devices", &op.devices)
        .list(
            "hosts",
            options.add_hosts.iter().map(|(n, a)| format!("{n} {a}")),
        )
        .add("shm", options.confinement.shm_size.to_string());
    let usual = Confinement::default();
    let confinement = &options.confinement;
    if confinement.capabilities != usual.capabilities {
        key.list("capabilities", confinement.capabilities.names());
    }
    let devices = confinement.devices.iter();
    if confinement.devices != usual.devices {
        key.list("granted", devices.map(|d| d.target.as_os_str().as_bytes()));
    }
    if let Some(hostname) = &options.hostname {
        key.add("hostname", hostname);
    }
    key.optional("script name", op.script.as_ref().map(|(name, _)| name))
        .optional("script", op.script.as_ref().map(|(_, body)| body));
    super::mounts::add_to_key(solver, op, &mut key)?;
    Ok(key)
}

/// The network that the command sees. A Dockerfile may ask for less than the
/// user gave, not for more.
fn network(op: &RunOp, options: &Options) -> Result<Network, StepError> {
    match op.network {
        Some(RunNetwork::None) => Ok(Network::None),
        Some(RunNetwork::Host) => {
            if options.network == Network::Host || options.allow_host_network {
                return Ok(Network::Host);
            }
            Err(StepError::Refused {
                message: "RUN --network=host is not allowed".into(),
                hint: Some(
                    "allow it with --allow network.host, if you trust this Dockerfile".into(),
                ),
            })
        }
        Some(RunNetwork::Default) | None => Ok(options.network),
    }
}

/// In keys: which program connects a private network makes no difference.
fn network_name(network: Network) -> &'static str {
    match network {
        Network::Host => "Host",
        Network::None => "None",
        Network::Private(_) => "Private",
    }
}

/// A root filesystem to run in.
pub(in super::super) enum Base {
    Overlay(NewLayer),
    Tree(WorkTree),
}

impl Base {
    /// One of `layers`, for one run alone.
    pub(in super::super) fn take(
        solver: &Solver<'_, '_>,
        kind: RootKind,
        layers: &[Arc<Layer>],
    ) -> Result<Self, StepError> {
        Ok(match kind {
            RootKind::Overlay => Self::Overlay(solver.env.store.new_layer()?),
            RootKind::Directory => Self::Tree(solver.shared.trees.take(solver, layers)?),
        })
    }

    /// For the time of a run: where no mount can be made, files that `spec`
    /// brings along are in the tree itself.
    fn hold_secrets(&self, spec: &RunSpec) -> Result<Option<SecretsHeld>, StepError> {
        let brings = |m: &Mount| matches!(m.kind, MountKind::File { .. });
        Ok(match self {
            Self::Tree(tree) if spec.mounts.iter().any(brings) => Some(tree.hold_secrets()?),
            _ => None,
        })
    }

    /// As the container takes it.
    pub(in super::super) fn spec(
        &self,
        solver: &Solver<'_, '_>,
        layers: &[Arc<Layer>],
    ) -> Result<RootSpec, StepError> {
        Ok(match self {
            Self::Overlay(layer) => RootSpec::Overlay {
                lower: lower_dirs(solver, layers)?,
                upper: layer.fs().to_path_buf(),
                work: layer.work().to_path_buf(),
            },
            Self::Tree(tree) => RootSpec::Dir {
                dir: tree.root(),
                work: tree.work(),
            },
        })
    }
}

/// A user as the container takes it: the primary group is one of the process's
/// groups, as runc has it.
pub(in super::super) fn user_ids(user: &users::UserIds) -> UserIds {
    let mut groups = user.groups.clone();
    if !groups.contains(&user.gid) {
        groups.insert(0, user.gid);
    }
    UserIds {
        uid: user.uid,
        gid: user.gid,
        groups,
    }
}

/// Runs the command; what comes back has what it changed.
pub(in super::super) fn run(
    solver: &Solver<'_, '_>,
    op: &RunOp,
    parent: &Done,
    task: &Task,
) -> Result<Made, StepError> {
    let env = solver.env;
    if op.insecure && !env.options.allow_insecure {
        return Err(StepError::Refused {
            message: "RUN --security=insecure is not allowed".into(),
            hint: Some(
                "allow it with --allow security.insecure, if you trust this Dockerfile".into(),
            ),
        });
    }
    if let Some(device) = op.devices.first() {
        return Err(StepError::Refused {
            message: format!("the device {device:?} is not available"),
            hint: Some("only devices that were granted to the build can be used".into()),
        });
    }
    let executor = (env.executor)()?;
    let tree: Arc<dyn Tree> = Arc::new(solver.tree(&parent.layers)?);
    super::foreign::check(&*tree, &op.args, &op.env, &op.cwd)?;
    let user = users::resolve_user(&*tree, if op.user.is_empty() { "0" } else { &op.user })?;
    let base = Base::take(solver, executor.root(), &parent.layers)?;
    make_cwd(&*tree, &op.cwd, &base, env)?;

    let mut environment = op.env.clone();
    environment.extend(op.hidden_env.iter().cloned());
    let mounts = Mounts::prepare(solver, op, &*executor, &mut environment)?;
    if !environment.iter().any(|(n, _)| n == "HOME") {
        environment.push(("HOME".into(), user.home.to_string_lossy().into_owned()));
    }
    let root = base.spec(solver, &parent.layers)?;
    let mut spec = RunSpec::new(root, op.args.iter().cloned());
    spec.env = environment
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    spec.cwd.clone_from(&op.cwd);
    spec.user = user_ids(&user);
    let hostname = env.options.hostname.as_ref().or(op.hostname.as_ref());
    let hostname = hostname.map_or(HOSTNAME, String::as_str);
    spec.hostname = hostname.into();
    spec.network = network(op, &env.options)?;
    spec.hosts = hosts(hostname, &env.options.add_hosts);
    spec.resolv_conf.clone_from(&env.options.resolv_conf);
    spec.mounts = mounts.specs();
    spec.confine(&env.options.confinement);
    spec.insecure = op.insecure;
    let held = base.hold_secrets(&spec)?;

    let exit = executor.run(
        &spec,
        Io::Lines(&|stream, line| task.log(stream, line.to_vec())),
        &env.cancel,
    );
    drop((held, mounts));
    if env.cancel.is_cancelled() {
        return Err(StepError::Cancelled);
    }
    let exit = exit?;
    task.used(Usage {
        cpu_seconds: exit.cpu_seconds,
        peak_memory_bytes: exit.peak_memory_bytes,
    });
    match exit.code {
        Some(0) => left(solver, &parent.layers, base, &*tree, (user.uid, user.gid)),
        _ => Err(failure(op, &exit)),
    }
}

/// What a command that went well left in its root filesystem.
pub(in super::super) fn left(
    solver: &Solver<'_, '_>,
    layers: &[Arc<Layer>],
    base: Base,
    tree: &dyn Tree,
    user: (u32, u32),
) -> Result<Made, StepError> {
    let env = solver.env;
    let form = env.store.layer_form();
    let guess = (!(form.owners && form.devices)).then_some(Guess {
        owner: (!form.owners).then_some(user),
    });
    let fail = || StepError::io("can't see what the command changed");
    match base {
        Base::Overlay(layer) => {
            if let Some(guess) = guess {
                crate::snapshot::note(layer.fs(), tree, guess).map_err(fail())?;
            }
            Ok(Made::Dir(layer))
        }
        Base::Tree(work) => {
            let lower = solver.tree(layers)?;
            let changes = work.changes(lower, guess, env).map_err(fail())?;
            Ok(Made::Tree(Box::new(changes)))
        }
    }
}

fn failure(op: &RunOp, exit: &Exit) -> StepError {
    let command = op.args.join(" ");
    let command: String = command.chars().take(200).collect();
    let what = match (exit.code, exit.signal) {
        (Some(code), _) => format!("the command {command:?} ended with exit code {code}"),
        (None, Some(signal)) => format!("the command {command:?} was killed by signal {signal}"),
        (None, None) => format!("the command {command:?} did not end properly"),
    };
    let what = match exit.out_of_memory {
        true => format!("{what}: it ran out of the memory that it is limited to"),
        false => what,
    };
    StepError::Command {
        what,
        code: exit.code,
    }
}

/// Layers are merged in numbers like this, so that the steps that follow find
/// the same ones merged.
const GROUP: usize = 100;

/// The lower directories of an overlay that shows `layers`, lowest first: what
/// cannot be seen is left out, and where there are more than an overlay takes
/// the lowest ones are merged.
pub(super) fn lower_dirs(
    solver: &Solver<'_, '_>,
    layers: &[Arc<Layer>],
) -> Result<Vec<PathBuf>, StepError> {
    let fail = || StepError::io("can't put the layers together");
    let mut dirs = overlay::visible(solver.dirs(layers)?).map_err(fail())?;
    let over = dirs.len().saturating_sub(MOST_LAYERS);
    if over > 0 {
        // Merging takes one away less than it merges.
        let count = (over + 1).next_multiple_of(GROUP).min(dirs.len());
        let merged = merged(solver, &dirs[..count])?;
        dirs.splice(..count, [merged]);
    }
    Ok(dirs)
}

/// One plain directory with all that `dirs` (lowest first) make, for the time
/// of this build.
fn merged(solver: &Solver<'_, '_>, dirs: &[PathBuf]) -> Result<PathBuf, StepError> {
    let fail = || StepError::io("can't merge the lowest layers");
    let mut names = Vec::new();
    for dir in dirs {
        names.extend_from_slice(dir.as_os_str().as_encoded_bytes());
        names.push(0);
    }
    let name = format!("merged-{}", Digest::of(&names).encoded());
    let scratch = solver.scratch()?;
    let done = scratch.join(name);
    if done.exists() {
        return Ok(done);
    }
    let making = tempfile::tempdir_in(scratch).map_err(fail())?.keep();
    let tree = Merged::new(dirs.to_vec()).map_err(fail())?;
    overlay::inherit_root(&tree, &making).map_err(fail())?;
    let tree: Arc<dyn Tree> = Arc::new(tree);
    let form = solver.env.store.layer_form();
    let new_file = || super::files::spool(solver);
    let changes = super::files::changes_below(&tree, "/", &new_file)?;
    super::files::apply(changes, &making, form)?;
    match std::fs::rename(&making, &done) {
        // Another step may have been first.
        Err(_) if done.exists() => Ok(done),
        renamed => renamed.map(|()| done).map_err(fail()),
    }
}

pub(in super::super) fn hosts(hostname: &str, extra: &[(String, String)]) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// A base may name a working directory that it does not have; the step sees
/// one all the same, as with every container runtime.
pub(in super::super) fn make_cwd(
    tree: &dyn Tree,
    cwd: &str,
    base: &Base,
    env: &Env<'_>,
) -> Result<(), StepError> {
    let path = Path::new(cwd);
    let fail = || StepError::io(format!("can't make the working directory {cwd}"));
    if tree.lookup(path, true).map_err(fail())?.is_some() {
        return Ok(());
    }
    for change in make_dirs(tree, path, (0, 0), env.options.now)? {
        let Change::Put(Entry { path, meta, .. }, _) = change else {
            continue;
        };
        // Its links are resolved, and nobody else is in there yet.
        let dir = match base {
            Base::Overlay(layer) => layer.fs().join(&path),
            Base::Tree(tree) => tree.root().join(&path),
        };
        match std::fs::create_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(fail())?,
        }
        if env.store.layer_form().owners {
            std::os::unix::fs::lchown(&dir, Some(meta.uid), Some(meta.gid)).map_err(fail())?;
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(meta.mode);
        std::fs::set_permissions(&dir, mode).map_err(fail())?;
    }
    Ok(())
}
