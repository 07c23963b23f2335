//! The media types of images.

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// An OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// An OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// An OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// What stands for a blob that says nothing.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The bytes of an [`EMPTY`] blob.
pub const EMPTY_JSON: &[u8] = b"{}";
/// A Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A Docker layer, not compressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// A Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// A Docker layer, zstd (not in Docker's document, but written by its tools).
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// How a layer's bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// gzip, RFC 1952.
    Gzip,
    /// gzip with one member, for readers that stop after the first. No media
    /// type tells it from other gzip, so nothing is ever read as this.
    GzipSingle,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Compression {
    /// What a blob that was compressed like this is read as.
    pub fn read_as(self) -> Self {
        match self {
            Self::GzipSingle => Self::Gzip,
            other => other,
        }
    }
}

/// The two families of manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// image-spec.
    Oci,
    /// Docker schema 2.
    Docker,
}

/// The layer media type for a family and a compression.
pub fn layer(format: Format, compression: Compression) -> &'static str {
    match (format, compression) {
        (Format::Oci, Compression::Uncompressed) => OCI_LAYER,
        (Format::Oci, Compression::Gzip | Compression::GzipSingle) => OCI_LAYER_GZIP,
        (Format::Oci, Compression::Zstd) => OCI_LAYER_ZSTD,
        (Format::Docker, Compression::Uncompressed) => DOCKER_LAYER,
        (Format::Docker, Compression::Gzip | Compression::GzipSingle) => DOCKER_LAYER_GZIP,
        (Format::Docker, Compression::Zstd) => DOCKER_LAYER_ZSTD,
    }
}

/// The compression that a layer's media type promises; `None` where it is no
/// layer of a root filesystem that we know.
pub fn layer_compression(media_type: &str) -> Option<Compression> {
    let media_type = media_type
        .replace(".nondistributable", "")
        .replace(".foreign", "");
    match media_type.as_str() {
        OCI_LAYER | DOCKER_LAYER => Some(Compression::Uncompressed),
        OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Some(Compression::Gzip),
        OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Some(Compression::Zstd),
        _ => None,
    }
}

/// Whether it names an index or a manifest list.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Whether it names a manifest of one image.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}
