//! `shiplap df`: what takes the room.

use std::collections::HashMap;

use clap::Args;
use serde_json::{Value, json};
use shiplap::digest::Digest;
use shiplap::store::{Store, Usage};

use super::{Format, Session};
use crate::ui::{format, output, table};

const EXAMPLES: &str = "\
Examples:
    shiplap df
    shiplap df --per-image
    shiplap df --format json";

/// Show what the store takes up
///
/// Bytes on the disk; what several images share counts once. Images are what
/// names lead to. Other blobs belong to the cache of builds, or to nobody:
/// what prune would free without options is reclaimable.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DfArgs {
    /// Show for each image what it has for itself and what it shares
    #[arg(long)]
    per_image: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// The blobs of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// All of its layers.
    pub(super) all: u64,
    /// Those that no other image has.
    pub(super) own: u64,
}

/// How much of each image's layers is its own; images of one digest are one.
pub(super) fn sizes(store: &Store) -> anyhow::Result<HashMap<Digest, Sizes>> {
    let mut layers: HashMap<Digest, Vec<(Digest, u64)>> = HashMap::new();
    for (_, descriptor) in store.refs()? {
        if !layers.contains_key(&descriptor.digest)
            && let Ok(image) = store.load_image(&descriptor, None)
        {
            let mut blobs: Vec<(Digest, u64)> = image
                .manifest
                .layers
                .iter()
                .map(|l| (l.digest.clone(), l.size))
                .collect();
            blobs.sort();
            blobs.dedup();
            layers.insert(descriptor.digest, blobs);
        }
    }
    let mut users: HashMap<&Digest, usize> = HashMap::new();
    for (digest, _) in layers.values().flatten() {
        *users.entry(digest).or_default() += 1;
    }
    let sum = |blobs: &[(Digest, u64)], most: usize| {
        let counted = blobs
            .iter()
            .filter(|(d, _)| users.get(d).is_some_and(|n| *n <= most));
        counted.fold(0_u64, |sum, (_, size)| sum.saturating_add(*size))
    };
    let found = layers.iter().map(|(digest, blobs)| {
        let sizes = Sizes {
            all: sum(blobs, usize::MAX),
            own: sum(blobs, 1),
        };
        (digest.clone(), sizes)
    });
    Ok(found.collect())
}

impl DfArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let usage = store.usage()?;
        let images = if self.per_image || self.format == Format::Json {
            named(&store)?
        } else {
            Vec::new()
        };
        if self.format == Format::Json {
            return output::json(&as_json(&usage, &images));
        }
        let mut text = table::table(["TYPE", "COUNT", "SIZE"], &rows(&usage));
        text.push_str(&format!(
            "\nreclaimable by prune: {}\n",
            format::size(usage.reclaimable_bytes)
        ));
        if self.per_image {
            let rows: Vec<[String; 4]> = images
                .into_iter()
                .map(|(name, sizes)| {
                    let shared = sizes.all - sizes.own;
                    let numbers = [sizes.all, shared, sizes.own].map(format::size);
                    let [all, shared, own] = numbers;
                    [name, all, shared, own]
                })
                .collect();
            text.push('\n');
            text.push_str(&table::table(["IMAGE", "SIZE", "SHARED", "OWN"], &rows));
        }
        output::result(&text)
    }
}

/// The names with the sizes of their images.
fn named(store: &Store) -> anyhow::Result<Vec<(String, Sizes)>> {
    let sizes = sizes(store)?;
    let refs = store.refs()?.into_iter();
    Ok(refs
        .filter_map(|(name, d)| Some((name, *sizes.get(&d.digest)?)))
        .collect())
}

/// Blobs that names don't lead to.
fn others(usage: &Usage) -> (u64, u64) {
    (
        usage.blobs - usage.image_blobs,
        usage.blob_bytes - usage.image_bytes,
    )
}

fn rows(usage: &Usage) -> Vec<[String; 3]> {
    let (other_blobs, other_bytes) = others(usage);
    [
        ("images", usage.refs, usage.image_bytes),
        ("other blobs", other_blobs, other_bytes),
        ("unpacked layers", usage.layers, usage.layer_bytes),
        ("cache records", usage.records, usage.record_bytes),
        ("indexes of layers", usage.indexes, usage.index_bytes),
        ("cache mounts", usage.mounts, usage.mount_bytes),
    ]
    .into_iter()
    .map(|(what, count, bytes)| [what.into(), count.to_string(), format::size(bytes)])
    .chain([[
        "scratch".into(),
        "-".into(),
        format::size(usage.scratch_bytes),
    ]])
    .collect()
}

fn as_json(usage: &Usage, images: &[(String, Sizes)]) -> Value {
    let (other_blobs, other_bytes) = others(usage);
    let list = images.iter().map(|(name, sizes)| {
        json!({
            "name": name,
            "size": sizes.all,
            "shared_size": sizes.all - sizes.own,
            "unique_size": sizes.own,
        })
    });
    json!({
        "images": {
            "count": usage.refs,
            "blobs": usage.image_blobs,
            "bytes": usage.image_bytes,
            "list": list.collect::<Vec<_>>(),
        },
        "other_blobs": {"count": other_blobs, "bytes": other_bytes},
        "layers": {"count": usage.layers, "bytes": usage.layer_bytes},
        "cache_records": {"count": usage.records, "bytes": usage.record_bytes},
        "indexes": {"count": usage.indexes, "bytes": usage.index_bytes},
        "cache_mounts": {"count": usage.mounts, "bytes": usage.mount_bytes},
        "scratch": {"bytes": usage.scratch_bytes},
        "reclaimable": usage.reclaimable_bytes,
    })
}
