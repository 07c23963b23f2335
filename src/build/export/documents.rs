//! Manifests, configs and the index of a result, in the form that an output
//! wants.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::Arc;

use super::{Exporter, Piece};
use crate::build::BuildError;
use crate::build::assemble::{Assembled, assemble};
use crate::build::cache::format::CacheIndex;
use crate::build::cache::{self, CachePlace, CacheTo};
use crate::build::request::{Annotated, Annotation, Output};
use crate::digest::{Digest, VerifyingReader};
use crate::image::media_type::{self, Compression, Format};
use crate::image::{BlobSource, Descriptor, Index};
use crate::layer::pipeline::SealOptions;
use crate::platform::Platform;
use crate::solve::{self, Layer, LayerBlob};
use crate::transport::{FirstOf, Source};

/// What makes one output's documents differ from another's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Form {
    format: Format,
    compression: Compression,
    level: Option<i32>,
    /// Base layers are compressed anew too.
    force: bool,
    annotations: Vec<Annotation>,
}

/// The result in one form.
pub(super) struct Written {
    pub(super) form: Form,
    /// Names the manifest or index; without a platform.
    pub(super) descriptor: Descriptor,
    /// The config, where there is one image.
    pub(super) config: Option<Descriptor>,
    pub(super) source: Source,
    /// All documents, the root last.
    pub(super) documents: Vec<(Descriptor, Vec<u8>)>,
}

impl Exporter<'_> {
    /// The form that `output` asks for, or that the whole build asks for.
    pub(super) fn form(&self, output: Option<&Output>) -> Form {
        let request = self.request;
        let compression = output.and_then(|o| o.compression);
        let compression = compression.unwrap_or(self.seal.compression);
        let same = compression == self.seal.compression;
        let mut annotations = request.annotations.clone();
        annotations.extend(output.into_iter().flat_map(|o| o.annotations.clone()));
        Form {
            format: output.and_then(|o| o.format).unwrap_or(request.format),
            compression,
            level: output
                .and_then(|o| o.compression_level)
                .or(self.seal.level.filter(|_| same)),
            force: output
                .and_then(|o| o.force_compression)
                .unwrap_or(request.force_compression),
            annotations,
        }
    }

    /// Makes the documents.
    pub(super) fn write(&self, pieces: &[Piece], form: Form) -> Result<Written, BuildError> {
        let mut images: Vec<Assembled> = Vec::new();
        let several = self.request.is_index();
        for piece in pieces {
            let blobs = self.blobs(&piece.layers, &form)?;
            let platform = &piece.graph.platform;
            let of = |level| for_platform(&form.annotations, level, Some(platform));
            let annotations = of(Annotated::Manifest);
            let made: Vec<_> = piece.layers.iter().map(|l| l.made_at()).collect();
            let mut image = assemble(
                &piece.graph,
                &blobs,
                &made,
                &self.times,
                form.format,
                self.inline(piece)?,
                annotations,
            );
            image.manifest.0.annotations = of(Annotated::ManifestDescriptor);
            images.push(image);
        }
        let Some(first) = images.first() else {
            return Err(BuildError::Input(
                "there is no platform to build for".into(),
            ));
        };
        let config = (!several).then(|| first.config.0.clone());
        let mut documents: Vec<(Descriptor, Vec<u8>)> = Vec::new();
        for image in &images {
            documents.push(image.config.clone());
            documents.push(image.manifest.clone());
        }
        if several {
            let of = |level| for_platform(&form.annotations, level, None);
            let mut index = Index::new(images.iter().map(|i| i.manifest.0.clone()).collect());
            if form.format == Format::Docker {
                index.media_type = media_type::DOCKER_INDEX.into();
            }
            index.annotations = of(Annotated::Index);
            let bytes = index.to_bytes();
            let mut descriptor = Descriptor::of(&index.media_type, &bytes);
            descriptor.annotations = of(Annotated::IndexDescriptor);
            documents.push((descriptor, bytes));
        }
        let (root, bytes) = documents
            .last()
            .cloned()
            .unwrap_or_else(|| first.manifest.clone());
        let descriptor = Descriptor {
            platform: None,
            ..root
        };
        let made = documents.iter().map(|(d, b)| (d.digest.clone(), b.clone()));
        let mut sources: Vec<Arc<dyn BlobSource>> = vec![
            Arc::new(Documents(made.collect())),
            Arc::new(self.tools.store.clone()),
        ];
        sources.extend(self.bases.iter().cloned());
        let blobs = Arc::new(FirstOf(sources));
        let source = Source::new("the image", descriptor.clone(), bytes, blobs);
        Ok(Written {
            form,
            descriptor,
            config,
            source,
            documents,
        })
    }

    /// The cache that goes into the image's config, where one is asked for.
    fn inline(&self, piece: &Piece) -> Result<Option<CacheIndex>, BuildError> {
        let asked = |to: &CacheTo| to.place == CachePlace::Inline;
        if !self.request.cache_to.iter().any(asked) {
            return Ok(None);
        }
        Ok(Some(cache::export::inline(self.made, piece.result)?))
    }

    /// The layers as `form` wants them.
    fn blobs(&self, layers: &[Arc<Layer>], form: &Form) -> Result<Vec<LayerBlob>, BuildError> {
        let seal = SealOptions {
            compression: form.compression,
            level: form.level,
            ..self.seal.clone()
        };
        layers
            .iter()
            .map(|layer| {
                let blob = layer.blob()?;
                let have = media_type::layer_compression(&blob.descriptor.media_type);
                // A layer of the base stays as it is, unless its form has no
                // place in the manifest.
                let bound = !form.force && layer.is_of_base();
                let unfit = form.format == Format::Docker && have == Some(Compression::Zstd);
                let wanted = (form.compression, form.level);
                let other = match layer.is_of_base() {
                    true => have != Some(form.compression),
                    false => {
                        have != Some(form.compression.read_as())
                            || wanted != (self.seal.compression, self.seal.level)
                    }
                };
                if !unfit && (bound || !other) {
                    return Ok(blob);
                }
                layer.fetch(&self.tools.store, self.events)?;
                Ok(solve::recompress(&self.tools.store, &blob, &seal)?)
            })
            .collect()
    }
}

/// The annotations of one document. Without a platform: those for none.
fn for_platform(
    annotations: &[Annotation],
    level: Annotated,
    platform: Option<&Platform>,
) -> BTreeMap<String, String> {
    let fits = |a: &&Annotation| {
        a.to == level && (a.platform.is_none() || a.platform.as_ref() == platform)
    };
    let pairs = annotations.iter().filter(fits);
    pairs.map(|a| (a.key.clone(), a.value.clone())).collect()
}

/// Documents in memory.
struct Documents(HashMap<Digest, Vec<u8>>);

impl BlobSource for Documents {
    fn open(&self, d: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.0.get(&d.digest).ok_or(io::ErrorKind::NotFound)?;
        let reader = io::Cursor::new(bytes.clone());
        let size = Some(d.size);
        Ok(Box::new(VerifyingReader::new(
            reader,
            d.digest.clone(),
            size,
        )?))
    }
}
