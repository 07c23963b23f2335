//! From layers and a plan to the documents of an image. Pure.

use std::collections::BTreeMap;

use super::cache::format::{CacheIndex, INLINE_FIELD};
use crate::graph::Graph;
use crate::image::media_type::{self, Format};
use crate::image::{Descriptor, ImageConfig, Manifest, RootFs};
use crate::solve::LayerBlob;

/// The documents of one image, as bytes and as the descriptors that name them.
#[derive(Debug, Clone)]
pub(super) struct Assembled {
    /// The config.
    pub(super) config: (Descriptor, Vec<u8>),
    /// The manifest; its descriptor has the platform.
    pub(super) manifest: (Descriptor, Vec<u8>),
}

/// The times that an image tells of, RFC 3339.
#[derive(Debug, Clone)]
pub(super) enum Times {
    /// All that is new has this time.
    Fixed(String),
    /// A layer has the time at which it was made, all else that of the layer
    /// before it: what is built again from known layers is the same image. The
    /// time given is for what has none.
    Made(String),
}

impl Times {
    /// The times of the history's entries that are not the base's. `made` are
    /// those of the layers, seconds since 1970.
    fn of(&self, graph: &Graph, made: &[Option<i64>]) -> Vec<String> {
        let own = || graph.history.iter().filter(|item| !item.inherited);
        let now = match self {
            Self::Fixed(time) => return own().map(|_| time.clone()).collect(),
            Self::Made(now) => now,
        };
        let steps = own().filter(|item| item.step.is_some()).count();
        let made = made.get(made.len().saturating_sub(steps)..);
        let mut made = made.unwrap_or_default().iter().map(|secs| match secs {
            Some(secs) => rfc3339(*secs, 0),
            None => now.clone(),
        });
        let mut times: Vec<Option<String>> = own()
            .map(|item| item.step.and_then(|_| made.next()))
            .collect();
        let inherited = graph.history.iter().rev().find(|item| item.inherited);
        let inherited = inherited.and_then(|item| item.entry.created.clone());
        // What comes before the first layer has that layer's time.
        let first = times.iter().flatten().next().cloned();
        let mut before = first.or(inherited).unwrap_or_else(|| now.clone());
        for time in &mut times {
            before = time.get_or_insert_with(|| before.clone()).clone();
        }
        times.into_iter().flatten().collect()
    }
}

/// Makes config and manifest. `made` says when each layer was made, as far as
/// that is known, in seconds since 1970; `annotations` are the manifest's.
pub(super) fn assemble(
    graph: &Graph,
    layers: &[LayerBlob],
    made: &[Option<i64>],
    times: &Times,
    format: Format,
    inline_cache: Option<CacheIndex>,
    annotations: BTreeMap<String, String>,
) -> Assembled {
    let own = times.of(graph, made);
    let created = match (own.last(), times, &graph.config.created) {
        (Some(last), ..) => last.clone(),
        // Nothing is new.
        (None, Times::Made(_), Some(base)) => base.clone(),
        (None, Times::Made(time) | Times::Fixed(time), _) => time.clone(),
    };
    let mut own = own.into_iter();
    let mut config = ImageConfig {
        created: Some(created),
        rootfs: RootFs {
            diff_ids: layers.iter().map(|l| l.diff_id.clone()).collect(),
            ..RootFs::default()
        },
        ..graph.config.clone()
    };
    let history = graph.history.iter().map(|item| {
        let mut entry = item.entry.clone();
        if !item.inherited {
            entry.created = own.next();
            entry.empty_layer = item.step.is_none();
        }
        entry
    });
    config.history = history.collect();
    // An older one, of a base image, speaks of other layers.
    config.other.remove(INLINE_FIELD);
    if let Some(Ok(value)) = inline_cache.map(serde_json::to_value) {
        config.other.insert(INLINE_FIELD.into(), value);
    }
    let (config_type, manifest_type) = match format {
        Format::Oci => (media_type::OCI_CONFIG, media_type::OCI_MANIFEST),
        Format::Docker => (media_type::DOCKER_CONFIG, media_type::DOCKER_MANIFEST),
    };
    let config_bytes = config.to_bytes();
    let config_descriptor = Descriptor::of(config_type, &config_bytes);
    let layers = layers
        .iter()
        .map(|l| in_format(&l.descriptor, format))
        .collect();
    let manifest = Manifest {
        annotations,
        ..Manifest::new(format, config_descriptor.clone(), layers)
    };
    let manifest_bytes = manifest.to_bytes();
    let mut manifest_descriptor = Descriptor::of(manifest_type, &manifest_bytes);
    manifest_descriptor.platform = Some(config.platform());
    Assembled {
        config: (config_descriptor, config_bytes),
        manifest: (manifest_descriptor, manifest_bytes),
    }
}

/// The same layer under the family's media type.
pub(super) fn in_format(layer: &Descriptor, format: Format) -> Descriptor {
    match media_type::layer_compression(&layer.media_type) {
        Some(compression)
            if !layer.media_type.contains("nondistributable")
                && !layer.media_type.contains("foreign") =>
        {
            Descriptor {
                media_type: media_type::layer(format, compression).into(),
                ..layer.clone()
            }
        }
        _ => layer.clone(),
    }
}

/// `seconds` since 1970 and `nanos` as RFC 3339.
pub(super) fn rfc3339(seconds: i64, nanos: i32) -> String {
    jiff::Timestamp::new(seconds, nanos)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}
