//! Working trees: root filesystems that are plain directories.
//!
//! A tree belongs to one step at a time. A step takes one that has the lowest
//! layers of what it needs already, and has the others applied to it; when it
//! is done, its tree is there for the next step.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::layers::Layer;
use super::{Env, Solver, StepError};
use crate::context::Tree;
use crate::layer::index::Spool;
use crate::layer::{Change, Changes, Kind};
use crate::snapshot::copy::{Table, TableChanges};
use crate::snapshot::tree::{self, Manner};
use crate::snapshot::{Clamped, Guess, Merged};
use crate::store::{SecretsHeld, StoreError, TempDir};

/// The trees that nobody uses.
#[derive(Debug, Default)]
pub(super) struct Trees(Mutex<Vec<WorkTree>>);

/// One working tree.
#[derive(Debug)]
pub(crate) struct WorkTree {
    scratch: TempDir,
    /// What it is made of, lowest first.
    layers: Vec<Arc<Layer>>,
    /// Its state when all layers were applied.
    table: Option<Table>,
}

/// What a step changed in its tree, while it is being written.
pub(crate) struct TreeChanges {
    tree: WorkTree,
    found: Arc<Mutex<Found>>,
    manner: Manner,
}

struct Found {
    changes: Option<TableChanges>,
    /// Other names of files.
    links: Paths,
    /// What is younger in the tree than in the layer.
    late: Paths,
}

/// Paths for later, in a file: there may be millions.
struct Paths {
    /// Where the file is made.
    dir: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Paths {
    fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            file: None,
        }
    }

    fn push(&mut self, path: &Path) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = tempfile::tempfile_in(&self.dir)?;
                self.file.insert(BufWriter::new(file))
            }
        };
        file.write_all(path.as_os_str().as_bytes())?;
        file.write_all(&[0])
    }

    fn is_empty(&self) -> bool {
        self.file.is_none()
    }

    /// All paths, in their order.
    fn read(self) -> io::Result<impl Iterator<Item = io::Result<PathBuf>>> {
        let mut file = match self.file {
            Some(file) => Some(file.into_inner().map_err(io::IntoInnerError::into_error)?),
            None => None,
        };
        if let Some(file) = &mut file {
            file.rewind()?;
        }
        let paths = file.map(|file| BufReader::new(file).split(0));
        let path = |bytes: io::Result<Vec<u8>>| Ok(OsString::from_vec(bytes?).into());
        Ok(paths.into_iter().flatten().map(path))
    }
}

impl WorkTree {
    /// The root of the tree.
    pub(super) fn root(&self) -> PathBuf {
        self.scratch.path().join("tree")
    }

    /// An empty directory beside it.
    pub(super) fn work(&self) -> PathBuf {
        self.scratch.path().join("work")
    }

    /// A place for a table.
    fn spool(&self) -> io::Result<Spool> {
        Spool::temporary(self.scratch.path())
    }

    /// See [`TempDir::hold_secrets`].
    pub(super) fn hold_secrets(&self) -> Result<SecretsHeld, StoreError> {
        self.scratch.hold_secrets()
    }

    /// What changed in it since it was taken. `lower` is what it was then.
    pub(super) fn changes(
        mut self,
        lower: Merged,
        guess: Option<Guess>,
        env: &Env<'_>,
    ) -> io::Result<TreeChanges> {
        let Some(table) = self.table.take() else {
            return Err(io::Error::other("the tree was not looked at before"));
        };
        let lower: Arc<dyn Tree> = match env.options.seal.clamp_mtime {
            // An unpacked layer may be one that a step left, with the times
            // from before they were brought back.
            Some(latest) => Arc::new(Clamped::new(lower, latest)),
            None => Arc::new(lower),
        };
        let changes = table.changes(&self.root(), lower, guess, self.spool()?)?;
        Ok(TreeChanges {
            manner: manner(env),
            found: Arc::new(Mutex::new(Found {
                changes: Some(changes),
                links: Paths::new(self.scratch.path()),
                late: Paths::new(self.scratch.path()),
            })),
            tree: self,
        })
    }
}

impl Found {
    /// Notes what has to be done in the tree once it is written.
    fn note(&mut self, change: &Change, clamp: Option<i64>) -> io::Result<()> {
        let Change::Put(entry, _) = change else {
            return Ok(());
        };
        if matches!(entry.kind, Kind::Hardlink { .. }) {
            self.links.push(&entry.path)?;
        }
        if clamp.is_some_and(|clamp| entry.meta.mtime.secs >= clamp) {
            self.late.push(&entry.path)?;
        }
        Ok(())
    }
}

impl TreeChanges {
    /// The changes themselves, for whoever writes them.
    pub(super) fn stream(&self) -> Changes {
        let (found, clamp) = (Arc::clone(&self.found), self.manner.latest);
        Box::new(std::iter::from_fn(move || {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            let change = found.changes.as_mut()?.next()?;
            Some(change.and_then(|change| found.note(&change, clamp).map(|()| change)))
        }))
    }

    /// When all was written: the tree, of which `layer` is now the highest.
    pub(super) fn finish(mut self, layer: Arc<Layer>) -> io::Result<WorkTree> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = || Paths::new(self.tree.scratch.path());
        let links = std::mem::replace(&mut found.links, nothing());
        let late = std::mem::replace(&mut found.late, nothing());
        let changes = found.changes.take();
        drop(found);
        let changes = changes.ok_or_else(|| io::Error::other("nothing was written"))?;
        let mut table = changes.finish()?;
        let root = self.tree.root();
        if !(links.is_empty() && late.is_empty()) {
            drop(table);
            tree::split(&root, links.read()?, self.manner)?;
            // The next step starts from what the layer says.
            if let Some(clamp) = self.manner.latest {
                tree::set_times(&root, late.read()?, clamp)?;
            }
            table = Table::read(&root, self.tree.spool()?)?;
        }
        self.tree.table = Some(table);
        self.tree.layers.push(layer);
        Ok(self.tree)
    }
}

fn manner(env: &Env<'_>) -> Manner {
    let form = env.store.layer_form();
    Manner {
        owners: form.owners,
        devices: form.devices,
        latest: env.options.seal.clamp_mtime,
    }
}

impl Trees {
    /// Gives a tree back for others.
    pub(super) fn put(&self, tree: WorkTree) {
        let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        trees.push(tree);
    }

    /// The tree with the most of `layers`, and none else.
    fn nearest(&self, layers: &[Arc<Layer>]) -> Option<WorkTree> {
        let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = |tree: &WorkTree| {
            let own = &tree.layers;
            own.len() <= layers.len() && own.iter().zip(layers).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        let found = (trees.iter().enumerate())
            .filter(|(_, tree)| begins(tree))
            .max_by_key(|(_, tree)| tree.layers.len());
        let n = found?.0;
        Some(trees.swap_remove(n))
    }

    /// A tree of `layers`, for this step alone.
    pub(super) fn take(
        &self,
        solver: &Solver<'_, '_>,
        layers: &[Arc<Layer>],
    ) -> Result<WorkTree, StepError> {
        let fail = || StepError::io("can't make a root filesystem");
        let store = solver.env.store;
        let mut tree = match self.nearest(layers) {
            Some(tree) => tree,
            None => {
                let scratch = store.temp_dir()?;
                for name in ["tree", "work"] {
                    std::fs::create_dir(scratch.path().join(name)).map_err(fail())?;
                }
                WorkTree {
                    scratch,
                    layers: Vec::new(),
                    table: None,
                }
            }
        };
        let dirs = solver.dirs(layers)?;
        let missing = tree.layers.len()..layers.len();
        if !missing.is_empty() {
            tree.table = None;
        }
        for n in missing {
            let (Some(layer), Some(dir)) = (layers.get(n), dirs.get(n)) else {
                continue;
            };
            tree::apply(dir, &tree.root(), manner(solver.env)).map_err(fail())?;
            tree.layers.push(Arc::clone(layer));
        }
        if tree.table.is_none() {
            let root = mode(&tree.root(), 0o755).and_then(|()| {
                let lower = Merged::new(dirs)?;
                crate::snapshot::overlay::inherit_root(&lower, &tree.root())
            });
            root.map_err(fail())?;
            let table = tree
                .spool()
                .and_then(|spool| Table::read(&tree.root(), spool));
            tree.table = Some(table.map_err(fail())?);
        }
        // What the run before left there.
        let work = tree.work();
        store.trash(&work)?;
        std::fs::create_dir(&work).map_err(fail())?;
        Ok(tree)
    }
}

fn mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}
