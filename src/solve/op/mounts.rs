//! RUN's `--mount`: what is made ready before the command and taken away
//! after it.
//!
//! | type | what the command sees |
//! |---|---|
//! | bind, from a stage or an image | its layers, stacked; writes go to a directory that is thrown away. A copy where root filesystems are directories |
//! | bind, from the context | a copy of the files that `.dockerignore` lets through |
//! | cache | a directory of the store that outlives the build |
//! | tmpfs | memory |
//! | secret | a file in memory, or a variable |
//! | ssh | a socket whose other end asks the agent, for lists and signatures only |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::agent::Proxy;
use super::super::key::KeyBuilder;
use super::super::{Imported, Solver, StepError};
use crate::container::{Executor, Mount, MountKind, RootKind};
use crate::context::Tree;
use crate::digest::Digest;
use crate::dockerfile::mount::{Bind, Cache, MountSpec, Secret, Sharing, Ssh};
use crate::graph::{From, RunMount, RunOp};
use crate::layer::Kind;
use crate::snapshot::tree;
use crate::store::{Lock, LockMode, NewLayer};

/// Where a secret is when the instruction does not say.
const SECRETS: &str = "/run/secrets";

/// Mounts that are ready, with all that has to live as long as they do.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    specs: Vec<Mount>,
    /// Directories to throw away.
    scratch: Vec<NewLayer>,
    /// Locks on cache directories.
    locks: Vec<Lock>,
    /// What answers in the place of agents.
    proxies: Vec<Proxy>,
}

/// Adds what the command can see of its mounts.
pub(super) fn add_to_key(
    solver: &Solver<'_, '_>,
    op: &RunOp,
    key: &mut KeyBuilder,
) -> Result<(), StepError> {
    for mount in &op.mounts {
        // The spec has ids, paths and options, never a secret's value.
        key.add("mount", format!("{:?}", mount.spec));
        match (&mount.from, &mount.spec) {
            (Some(From::Step(id)), _) => {
                key.add("mount from", solver.done(*id)?.key.as_str());
            }
            (
                Some(from),
                MountSpec::Bind(Bind { source, .. }) | MountSpec::Cache(Cache { source, .. }),
            ) => {
                let tree = solver.source_tree(from)?;
                let digest = super::files::digest_below(solver, tree, source)?;
                key.add("mount from", digest.as_str());
            }
            (Some(_) | None, _) => {}
        }
    }
    Ok(())
}

impl Mounts {
    /// Makes everything ready; secrets that are variables go into
    /// `environment`.
    pub(super) fn prepare(
        solver: &Solver<'_, '_>,
        op: &RunOp,
        executor: &dyn Executor,
        environment: &mut Vec<(String, String)>,
    ) -> Result<Self, StepError> {
        let mut all = Self::default();
        if let Some((name, body)) = &op.script {
            all.specs.push(Mount {
                target: Path::new("/dev/pipes").join(name),
                kind: MountKind::File {
                    content: body.clone().into_bytes(),
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                },
            });
        }
        for mount in &op.mounts {
            match &mount.spec {
                MountSpec::Bind(bind) => all.bind(solver, op, mount, bind, executor.root())?,
                MountSpec::Cache(cache) => {
                    all.cache(solver, op, mount, cache, executor.mounts())?
                }
                MountSpec::Tmpfs(tmpfs) => all.specs.push(Mount {
                    target: target(&op.cwd, &tmpfs.target),
                    kind: MountKind::Tmpfs {
                        size: tmpfs.size_bytes,
                    },
                }),
                MountSpec::Secret(secret) => all.secret(solver, op, secret, environment)?,
                MountSpec::Ssh(ssh) => all.ssh(solver, op, ssh, environment)?,
            }
        }
        Ok(all)
    }

    /// For the container.
    pub(super) fn specs(&self) -> Vec<Mount> {
        self.specs.clone()
    }

    fn bind(
        &mut self,
        solver: &Solver<'_, '_>,
        op: &RunOp,
        mount: &RunMount,
        bind: &Bind,
        kind: RootKind,
    ) -> Result<(), StepError> {
        let store = solver.env.store;
        if let (RootKind::Directory, Some(from)) = (kind, &mount.from) {
            // A copy for this step alone, which may write to it.
            let copy = store.new_layer()?;
            let tree = solver.source_tree(from)?;
            let name = materialize(solver, &tree, &bind.source, copy.fs())?;
            self.specs.push(Mount {
                target: target(&op.cwd, &bind.target),
                kind: MountKind::Bind {
                    source: copy.fs().join(name.unwrap_or_default()),
                    subpath: None,
                    read_only: bind.read_only,
                },
            });
            self.scratch.push(copy);
            return Ok(());
        }
        let over = store.new_layer()?;
        let (lower, subpath, directory) = match &mount.from {
            Some(From::Step(id)) => {
                let layers = &solver.done(*id)?.layers;
                let lower = super::run::lower_dirs(solver, layers)?;
                let source = Path::new(&bind.source);
                let found = solver.tree(layers)?.lookup(source, true);
                let found =
                    found.map_err(StepError::io(format!("can't look at {}", bind.source)))?;
                let Some(found) = found else {
                    return Err(StepError::Refused {
                        message: format!("there is no {:?} to mount", bind.source),
                        hint: None,
                    });
                };
                (lower, Some(source.to_owned()), found.kind == Kind::Dir)
            }
            Some(from) => {
                let copy = store.new_layer()?;
                let tree = solver.source_tree(from)?;
                let name = materialize(solver, &tree, &bind.source, copy.fs())?;
                let lower = vec![copy.fs().to_path_buf()];
                self.scratch.push(copy);
                let directory = name.is_none();
                (lower, name, directory)
            }
            None => return Ok(()),
        };
        self.specs.push(Mount {
            target: target(&op.cwd, &bind.target),
            kind: MountKind::Overlay {
                lower,
                upper: over.fs().to_path_buf(),
                work: over.work().to_path_buf(),
                subpath: subpath.filter(|p| !p.as_os_str().is_empty()),
                directory,
                read_only: bind.read_only,
            },
        });
        self.scratch.push(over);
        Ok(())
    }

    fn cache(
        &mut self,
        solver: &Solver<'_, '_>,
        op: &RunOp,
        mount: &RunMount,
        cache: &Cache,
        mounts: bool,
    ) -> Result<(), StepError> {
        let target = target(&op.cwd, &cache.target);
        let id = super::cached::id(op, cache);
        let known_as = super::cached::name(&id, mount, cache);
        let elsewhere = solver.env.imports.iter();
        let elsewhere = elsewhere.map(|i| i.mount(&known_as)).find_map(|m| m);
        let (name, lock) = claim(solver, known_as, cache.sharing, mounts)?;
        let dir = solver.env.store.mount_dir(&name)?;
        let content = dir.join("fs");
        {
            let _only = solver
                .env
                .store
                .lock(&format!("fill-{}", name.encoded()), LockMode::Exclusive)?;
            let restore = elsewhere.filter(|_| super::cached::is_empty(&content));
            let is_dir = std::fs::symlink_metadata(&content).is_ok_and(|m| m.is_dir());
            if restore.is_some() || !is_dir {
                self.fill(solver, mount, cache, &id, &dir, restore)?;
            }
        }
        solver
            .env
            .store
            .note_mount(&name, &id, sharing_name(cache.sharing));
        let mut source = content;
        if cache.read_only && !mounts {
            // It is moved to where the command sees it, and could be changed.
            let copy = solver.env.store.new_layer()?;
            let form = solver.env.store.layer_form();
            let manner = tree::Manner {
                owners: form.owners,
                devices: form.devices,
                latest: None,
            };
            tree::apply(&source, copy.fs(), manner)
                .map_err(StepError::io("can't copy a cache directory"))?;
            source = copy.fs().to_path_buf();
            self.scratch.push(copy);
        }
        self.specs.push(Mount {
            target,
            kind: MountKind::Bind {
                source,
                subpath: None,
                read_only: cache.read_only,
            },
        });
        self.locks.push(lock);
        Ok(())
    }

    /// Makes a new cache: its first content, owner and mode. It becomes visible
    /// when it is whole.
    fn fill(
        &self,
        solver: &Solver<'_, '_>,
        mount: &RunMount,
        cache: &Cache,
        id: &str,
        dir: &Path,
        restore: Option<Imported>,
    ) -> Result<(), StepError> {
        let fail = || {
            StepError::io(format!(
                "can't prepare the cache directory {}",
                dir.display()
            ))
        };
        let new = dir.join("new");
        if new.exists() {
            solver.env.store.trash(&new)?;
        }
        std::fs::create_dir(&new).map_err(fail())?;
        let restored = match &restore {
            Some(found) => match super::cached::restore(solver, found, &new) {
                Ok(()) => true,
                // A cache may always be empty.
                Err(e) => {
                    let why = crate::event::chain(&e);
                    solver.env.events.warn(format!("cache mount {id:?}: {why}"));
                    solver.env.store.trash(&new)?;
                    std::fs::create_dir(&new).map_err(fail())?;
                    false
                }
            },
            None => false,
        };
        if let (Some(from), false) = (&mount.from, restored) {
            let tree = solver.source_tree(from)?;
            materialize(solver, &tree, &cache.source, &new)?;
        }
        let own = (cache.uid.unwrap_or(0), cache.gid.unwrap_or(0));
        if solver.env.store.layer_form().owners {
            std::os::unix::fs::chown(&new, Some(own.0), Some(own.1)).map_err(fail())?;
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(cache.mode.unwrap_or(0o755));
        std::fs::set_permissions(&new, mode).map_err(fail())?;
        let content = dir.join("fs");
        if content.exists() {
            solver.env.store.trash(&content)?;
        }
        std::fs::rename(&new, content).map_err(fail())
    }

    fn secret(
        &mut self,
        solver: &Solver<'_, '_>,
        op: &RunOp,
        secret: &Secret,
        environment: &mut Vec<(String, String)>,
    ) -> Result<(), StepError> {
        let Some(source) = solver.env.options.secrets.get(&secret.id) else {
            if secret.required {
                return Err(StepError::Refused {
                    message: format!("the secret {:?} is required and was not given", secret.id),
                    hint: Some(format!("give it with --secret id={},src=FILE", secret.id)),
                });
            }
            return Ok(());
        };
        let content = source.read().map_err(StepError::io(format!(
            "can't read the secret {:?}",
            secret.id
        )))?;
        if let Some(name) = &secret.env {
            let value = String::from_utf8(content.clone()).map_err(|_| StepError::Refused {
                message: format!(
                    "the secret {:?} is no text and can't be a variable",
                    secret.id
                ),
                hint: None,
            })?;
            environment.retain(|(n, _)| n != name);
            environment.push((name.clone(), value));
        }
        let path = match (&secret.target, &secret.env) {
            (Some(path), _) => Some(target(&op.cwd, path)),
            (None, None) => {
                let name = Path::new(&secret.id).file_name().unwrap_or_default();
                Some(Path::new(SECRETS).join(name))
            }
            (None, Some(_)) => None,
        };
        if let Some(target) = path {
            self.specs.push(Mount {
                target,
                kind: MountKind::File {
                    content,
                    mode: secret.mode.unwrap_or(0o400),
                    uid: secret.uid.unwrap_or(0),
                    gid: secret.gid.unwrap_or(0),
                },
            });
        }
        Ok(())
    }

    fn ssh(
        &mut self,
        solver: &Solver<'_, '_>,
        op: &RunOp,
        ssh: &Ssh,
        environment: &mut Vec<(String, String)>,
    ) -> Result<(), StepError> {
        let Some(agent) = solver.env.options.ssh.get(&ssh.id) else {
            if ssh.required {
                return Err(StepError::Refused {
                    message: format!("the SSH agent {:?} is required and was not given", ssh.id),
                    hint: Some(format!("give it with --ssh {}", ssh.id)),
                });
            }
            return Ok(());
        };
        let target = match &ssh.target {
            Some(path) => target(&op.cwd, path),
            None => PathBuf::from(format!("/run/ssh_agent.{}", self.specs.len())),
        };
        environment.retain(|(n, _)| n != "SSH_AUTH_SOCK");
        environment.push((
            "SSH_AUTH_SOCK".into(),
            target.to_string_lossy().into_owned(),
        ));
        let own = (
            ssh.mode.unwrap_or(0o600),
            ssh.uid.unwrap_or(0),
            ssh.gid.unwrap_or(0),
        );
        let proxy = Proxy::new(agent, own, solver.env.store)?;
        self.specs.push(Mount {
            target,
            kind: MountKind::Bind {
                source: proxy.path(),
                subpath: None,
                read_only: false,
            },
        });
        self.proxies.push(proxy);
        Ok(())
    }
}

/// The absolute path of a mount, without `.`.
pub(super) fn target(cwd: &str, text: &str) -> PathBuf {
    let path = Path::new(cwd).join(text);
    path.components().collect()
}

fn sharing_name(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Shared => "shared",
        Sharing::Private => "private",
        Sharing::Locked => "locked",
    }
}

/// A cache that this step may use now, and the lock that says so: for
/// `private` the first of the caches of this name that nobody uses, otherwise
/// the one there is, waiting for its turn. Where it can't be mounted it is at
/// one place only, so it cannot be shared.
fn claim(
    solver: &Solver<'_, '_>,
    name: Digest,
    sharing: Sharing,
    mounts: bool,
) -> Result<(Digest, Lock), StepError> {
    let store = solver.env.store;
    let mode = match sharing {
        Sharing::Shared if mounts => LockMode::Shared,
        Sharing::Shared | Sharing::Private | Sharing::Locked => LockMode::Exclusive,
    };
    let mut candidate = name.clone();
    let mut number = 0_u32;
    loop {
        if let Some(lock) = store.try_lock_mount(&candidate, mode)? {
            return Ok((candidate, lock));
        }
        if solver.env.cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        if sharing == Sharing::Private {
            number += 1;
            candidate = Digest::of(format!("{name} {number}").as_bytes());
        } else {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Copies `source` of `tree` into the directory `dest`: the content of a
/// directory, or a file under its own name, which is handed out then.
fn materialize(
    solver: &Solver<'_, '_>,
    tree: &Arc<dyn Tree>,
    source: &str,
    dest: &Path,
) -> Result<Option<PathBuf>, StepError> {
    let form = solver.env.store.layer_form();
    let fail = || StepError::io(format!("can't copy {source} for a mount"));
    let node = tree.lookup(Path::new(source), true).map_err(fail())?;
    let is_file = node.is_some_and(|n| n.kind != Kind::Dir);
    let new_file = || super::files::spool(solver);
    let mut changes = super::files::changes_below(tree, source, &new_file)?.peekable();
    let first = changes.peek().filter(|_| is_file);
    let name = first.and_then(|c| Some(c.as_ref().ok()?.path().to_path_buf()));
    super::files::apply(changes, dest, form)?;
    Ok(name)
}
