//! Changing an image wherever it is, or all images of an index.

use std::sync::Arc;

use super::{Selection, Source, TransportError};
use crate::image::media_type;
use crate::image::{BlobSource, Descriptor, Document, Image, Index};
use crate::mutate::NewBlobs;

/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;
/// The annotation by which an attestation names the image it is about.
const REFERENCE: &str = "vnd.docker.reference.digest";

/// What was made.
#[derive(Debug)]
pub struct Reshaped {
    /// To be copied to where it shall be.
    pub source: Source,
    /// The images, each once, in the order of the index.
    pub images: Vec<Image>,
}

/// Changes the images of `source` that `selection` means by `change`. Of an
/// index a new one is made, in which attestations are missing: they are about
/// what the images were. Nothing else is lost.
///
/// # Errors
/// What `change` says, and when a document can't be read.
pub fn reshape<E: From<TransportError>>(
    source: &Source,
    selection: &Selection,
    new: &NewBlobs,
    change: &mut dyn FnMut(&Image) -> Result<Image, E>,
) -> Result<Reshaped, E> {
    let mut images = Vec::new();
    if let Selection::One(platform) = selection {
        let image = change(&with_blobs(source.load_image(platform)?, new))?;
        let source = renew(
            source,
            image.descriptor.clone(),
            image.manifest_bytes.clone(),
            new,
        );
        images.push(image);
        return Ok(Reshaped { source, images });
    }
    let mut noted = |image: &Image| -> Result<Image, E> {
        let image = change(image)?;
        images.push(image.clone());
        Ok(image)
    };
    let (root, bytes) = (&source.descriptor, &source.bytes);
    let (descriptor, bytes) = visit(source, root, bytes, new, 0, &mut noted)?;
    if images.is_empty() {
        return Err(TransportError::Unfit {
            place: "this command".into(),
            name: source.name.clone(),
            reason: "it is no container image".into(),
        }
        .into());
    }
    let source = renew(source, descriptor, bytes, new);
    Ok(Reshaped { source, images })
}

fn renew(source: &Source, descriptor: Descriptor, bytes: Vec<u8>, new: &NewBlobs) -> Source {
    Source::new(
        source.name.clone(),
        descriptor,
        bytes,
        Arc::clone(&new.blobs) as _,
    )
    .with_repositories(source.repositories.clone())
}

fn with_blobs(image: Image, new: &NewBlobs) -> Image {
    Image {
        blobs: Arc::clone(&new.blobs) as _,
        ..image
    }
}

type Change<'a, E> = &'a mut dyn FnMut(&Image) -> Result<Image, E>;

/// What stands for a document afterwards.
fn visit<E: From<TransportError>>(
    source: &Source,
    descriptor: &Descriptor,
    bytes: &[u8],
    new: &NewBlobs,
    depth: usize,
    change: Change<'_, E>,
) -> Result<(Descriptor, Vec<u8>), E> {
    let malformed = |reason: String| TransportError::Malformed {
        place: format!("{} ({})", source.name, descriptor.digest),
        reason,
    };
    let index = match Document::parse(bytes).map_err(|e| malformed(e.to_string()))? {
        Document::Manifest(manifest) => {
            let is_image = matches!(
                manifest.config.media_type.as_str(),
                media_type::OCI_CONFIG | media_type::DOCKER_CONFIG
            );
            if !is_image {
                return Ok((descriptor.clone(), bytes.to_vec()));
            }
            let blobs: Arc<dyn BlobSource> = Arc::clone(&new.blobs) as _;
            let image = Image::load(descriptor.clone(), bytes.to_vec(), blobs);
            let before = image.map_err(TransportError::from)?;
            let after = change(&before)?;
            let mut here = Descriptor {
                media_type: after.descriptor.media_type.clone(),
                digest: after.descriptor.digest.clone(),
                size: after.descriptor.size,
                ..descriptor.clone()
            };
            let (was, is) = (before.config.platform(), after.config.platform());
            if here.platform.is_some() && was != is {
                here.platform = Some(is);
            }
            return Ok((here, after.manifest_bytes));
        }
        Document::Index(_) if depth > MAX_DEPTH => {
            return Err(malformed("indexes are nested too deeply".into()).into());
        }
        Document::Index(index) => *index,
    };
    let mut manifests = Vec::with_capacity(index.manifests.len());
    for entry in &index.manifests {
        if entry.annotations.contains_key(REFERENCE) {
            continue;
        }
        let child = Source::load(&source.name, entry.clone(), Arc::clone(&new.blobs) as _)?;
        let (here, bytes) = visit(source, entry, &child.bytes, new, depth + 1, change)?;
        let put = new.put(&here, &bytes);
        put.map_err(TransportError::blob(&here))?;
        manifests.push(here);
    }
    let kind = match index.media_type.as_str() {
        "" => media_type::OCI_INDEX.to_owned(),
        kind => kind.to_owned(),
    };
    let index = Index { manifests, ..index };
    let bytes = index.to_bytes();
    let mut here = Descriptor::of(&kind, &bytes);
    here.platform.clone_from(&descriptor.platform);
    here.annotations.clone_from(&descriptor.annotations);
    Ok((here, bytes))
}
