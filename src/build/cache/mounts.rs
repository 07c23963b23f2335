//! Cache mounts on their way into an artifact.

use std::sync::Arc;

use super::CacheMounts;
use crate::digest::Digest;
use crate::event::{Events, Outcome};
use crate::solve::{self, CacheMount, Imports, LayerBlob, StepError};
use crate::store::Store;

/// A mount that goes along.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) name: Digest,
    pub(super) id: String,
    pub(super) blob: LayerBlob,
}

/// The mounts that `wanted` asks for, as layers. One that this build did not
/// use goes on as it was imported; else the store's content counts.
pub(super) fn pack(
    mounts: &[CacheMount],
    wanted: &CacheMounts,
    imports: &[Arc<dyn Imports>],
    store: &Store,
    events: &Events,
) -> Result<Vec<Packed>, StepError> {
    let mut packed = Vec::new();
    for mount in mounts.iter().filter(|m| wanted.wants(&m.id)) {
        let imported = || imports.iter().find_map(|i| i.mount(&mount.name));
        let before = if mount.used { None } else { imported() };
        let blob = match before {
            Some(found) => Some(found.blob),
            None => {
                let task = events.start(format!("pack cache mount {}", mount.id));
                let result = solve::pack_mount(store, &mount.name, wanted.max_bytes)?;
                task.finish(Outcome::Done);
                if let Err(reason) = &result {
                    events.warn(format!("cache mount {} is left out: {reason}", mount.id));
                }
                result.ok()
            }
        };
        packed.extend(blob.map(|blob| Packed {
            name: mount.name.clone(),
            id: mount.id.clone(),
            blob,
        }));
    }
    Ok(packed)
}
