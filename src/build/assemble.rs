//! From layers and a plan to the documents of an image. Pure.

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

/// Makes config and manifest. `created` is RFC 3339.
pub(super) fn assemble(
    graph: &Graph,
    layers: &[LayerBlob],
    created: &str,
    format: Format,
) -> Assembled {
    let mut config = ImageConfig {
        created: Some(created.to_owned()),
        rootfs: RootFs {
            diff_ids: layers.iter().map(|l| l.diff_id.clone()).collect(),
            ..RootFs::default()
        },
        ..graph.config.clone()
    };
    let history = graph.history.iter().map(|item| {
        let mut entry = item.entry.clone();
        if !item.inherited {
            entry.created = Some(created.to_owned());
            entry.empty_layer = item.step.is_none();
        }
        entry
    });
    config.history = history.collect();
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
    let manifest_bytes = Manifest::new(format, config_descriptor.clone(), layers).to_bytes();
    let mut manifest_descriptor = Descriptor::of(manifest_type, &manifest_bytes);
    manifest_descriptor.platform = Some(config.platform());
    Assembled {
        config: (config_descriptor, config_bytes),
        manifest: (manifest_descriptor, manifest_bytes),
    }
}

/// The same layer under the family's media type.
fn in_format(layer: &Descriptor, format: Format) -> Descriptor {
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
