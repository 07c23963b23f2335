//! Cache mounts as content: what they are known by, and their way into a layer
//! and back.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::super::{Imported, LayerBlob, Solver, StepError, StepResult, seal_in};
use crate::context::Tree;
use crate::digest::{Digest, Hasher, VerifyingReader};
use crate::dockerfile::mount::{Cache, MountSpec};
use crate::event::chain;
use crate::graph::{Op, RunMount, RunOp, Step};
use crate::image::media_type::{Compression, layer_compression};
use crate::layer::compress;
use crate::layer::pipeline::SealOptions;
use crate::layer::unpack::{Form, unpack};
use crate::snapshot::Merged;
use crate::store::{LockMode, Store};
use crate::sys::fs::Root;

/// A cache mount that a graph names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// What it is known by, the same on every machine.
    pub name: Digest,
    /// Its id in the Dockerfile.
    pub id: String,
    /// A step that was executed now has it.
    pub used: bool,
}

/// The id of a cache mount.
pub(super) fn id(op: &RunOp, cache: &Cache) -> String {
    match &cache.id {
        Some(id) => id.clone(),
        None => {
            let target = super::mounts::target(&op.cwd, &cache.target);
            target.to_string_lossy().into_owned()
        }
    }
}

/// What a cache mount is known by. The id is somebody's text: only its digest
/// becomes a file name.
pub(super) fn name(id: &str, mount: &RunMount, cache: &Cache) -> Digest {
    let mut name = Hasher::new();
    name.field(id.as_bytes());
    if let Some(from) = &mount.from {
        name.field(format!("{from:?}").as_bytes());
        name.field(cache.source.as_bytes());
    }
    name.finish()
}

/// The cache mounts of `steps`; `results` are what they came to.
pub fn cache_mounts(steps: &[Step], results: &[Option<StepResult>]) -> Vec<CacheMount> {
    let mut found: Vec<CacheMount> = Vec::new();
    for (step, result) in steps.iter().zip(results) {
        let Op::Run(op) = &step.op else { continue };
        let used = result.as_ref().is_some_and(|r| r.ran);
        for mount in &op.mounts {
            let MountSpec::Cache(cache) = &mount.spec else {
                continue;
            };
            let id = id(op, cache);
            let name = name(&id, mount, cache);
            match found.iter_mut().find(|m| m.name == name) {
                Some(known) => known.used |= used,
                None => found.push(CacheMount { name, id, used }),
            }
        }
    }
    found
}

/// Makes a layer of the cache mount `name` as it is now; `None` where it is
/// not there, empty, in use, or has files of more than `max_bytes`.
///
/// # Errors
/// When it can't be read, or the layer can't be written.
pub fn pack_mount(
    store: &Store,
    name: &Digest,
    max_bytes: u64,
) -> Result<Result<LayerBlob, &'static str>, StepError> {
    let Some(_lock) = store.try_lock_mount(name, LockMode::Exclusive)? else {
        return Ok(Err("another build uses it"));
    };
    let content = store.mount_dir(name)?.join("fs");
    if is_empty(&content) {
        return Ok(Err("it is empty"));
    }
    let tree = Merged::new(vec![content]).map_err(StepError::io("can't open the cache mount"))?;
    let tree: Arc<dyn Tree> = Arc::new(tree);
    let changes = super::files::changes_below(&tree, "/", &|| store.temp_file())?;
    if changes.bytes() > max_bytes {
        return Ok(Err("it has more bytes than mounts-size allows"));
    }
    // Restoring is waited for, and what is in a cache often is compressed.
    let options = SealOptions {
        compression: Compression::Zstd,
        ..SealOptions::default()
    };
    Ok(Ok(seal_in(store, Box::new(changes), &options)?))
}

/// Whether there is no directory with something in it.
pub(super) fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// Puts the content of an imported mount into the empty directory `dest`.
pub(super) fn restore(
    solver: &Solver<'_, '_>,
    found: &Imported,
    dest: &Path,
) -> Result<(), StepError> {
    let blob = &found.blob;
    let task = solver.env.events.start(format!(
        "fetch cache mount {}",
        blob.descriptor.digest.short()
    ));
    let fail = || StepError::io("can't restore the cache mount");
    let kind = &blob.descriptor.media_type;
    let compression = layer_compression(kind)
        .ok_or_else(|| fail()(io::Error::other(format!("{kind:?} is no layer"))))?;
    let packed: Box<dyn Read + Send> = found.blobs.open(&blob.descriptor).map_err(fail())?;
    let tar = compress::decompress(packed, compression).map_err(fail())?;
    let mut tar = VerifyingReader::new(tar, blob.diff_id.digest().clone(), None).map_err(fail())?;
    let root = Root::open(dest).map_err(fail())?;
    let form = solver.env.store.layer_form();
    let options = form.unpack_options(Form::Flat);
    unpack(&mut tar, &root, &options).map_err(|e| fail()(io::Error::other(chain(&e))))?;
    io::copy(&mut tar, &mut io::sink()).map_err(fail())?;
    task.finish(crate::event::Outcome::Done);
    Ok(())
}
