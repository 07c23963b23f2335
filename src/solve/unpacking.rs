//! Layers as directories: unpacked from their blobs, or while these are made.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::Env;
use super::layers::{LayerBlob, LayerError};
use super::sealing::blob_of;
use crate::context::Tree;
use crate::digest::VerifyingReader;
use crate::image::media_type::layer_compression;
use crate::image::{BlobSink, BlobSource};
use crate::layer::originals::Originals;
use crate::layer::unpack::{Form, Lower, UnpackError, UnpackOptions, Unpacked, unpack};
use crate::layer::{Changes, Entry, Meta, compress, pipeline};
use crate::snapshot::Merged;
use crate::store::{NewLayer, Store};
use crate::sys::fs::Root;

/// Why a blob can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlobError {
    #[error("its media type {0:?} is no layer")]
    Kind(String),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// Unpacks a blob of the store, or the one that `coming` brings, into a
/// directory of its own.
pub(super) fn unpack_blob(
    store: &Store,
    blob: &LayerBlob,
    coming: Option<Box<dyn Read + Send>>,
    lower: Option<&dyn Lower>,
) -> Result<(NewLayer, Unpacked), BlobError> {
    let kind = &blob.descriptor.media_type;
    let compression = layer_compression(kind).ok_or_else(|| BlobError::Kind(kind.clone()))?;
    let packed = match coming {
        Some(coming) => coming,
        None => store.open(&blob.descriptor)?,
    };
    let tar = compress::decompress(packed, compression)?;
    let mut tar = VerifyingReader::new(tar, blob.diff_id.digest().clone(), None)?;
    let made = unpack_tar(store, &mut tar, lower, None)?;
    // All of it, so that all of it is verified.
    io::copy(&mut tar, &mut io::sink())?;
    Ok(made)
}

/// Unpacks a layer's tar into a directory of its own.
fn unpack_tar(
    store: &Store,
    tar: impl Read,
    lower: Option<&dyn Lower>,
    originals: Option<&Originals>,
) -> Result<(NewLayer, Unpacked), BlobError> {
    let new = store.new_layer()?;
    let root = Root::open(new.fs())?;
    let form = store.layer_form();
    let options = UnpackOptions {
        lower,
        originals,
        ..form.unpack_options(Form::Overlay {
            user_xattr: form.user_xattr,
        })
    };
    let unpacked = unpack(tar, &root, &options)?;
    if !(form.owners && form.devices) {
        unpacked.notes.write(new.fs())?;
    }
    Ok((new, unpacked))
}

/// Whether a directory is the same whatever its layer lies on.
pub(super) fn is_alone(unpacked: &Unpacked) -> bool {
    let mut implied = unpacked.implied.iter();
    implied.all(|path| path.as_os_str().is_empty())
}

/// Makes a layer's blob and, of the very bytes that go into it, its directory,
/// which is then found by its diffID.
///
/// Where the directory can't be made there is none, and whoever needs it unpacks
/// the blob, or learns why it can't be.
pub(super) fn seal_unpacked(
    env: &Env<'_>,
    sink: &dyn BlobSink,
    changes: Changes,
) -> Result<LayerBlob, LayerError> {
    let (mut feed, tar) = compress::feed();
    let originals = Arc::new(Originals::default());
    let changes = originals.watch(changes);
    let (sealed, unpacked) = std::thread::scope(|scope| {
        let unpacked = scope.spawn(|| unpack_tar(env.store, tar, None, Some(&originals)));
        let sealed = pipeline::seal_copied(changes, sink, &env.options.seal, &mut feed);
        match &sealed {
            Ok(_) => feed.finish(),
            Err(_) => drop(feed),
        }
        (sealed, unpacked.join())
    });
    let blob = blob_of(sealed)?;
    if let Ok(Ok((new, unpacked))) = unpacked
        && is_alone(&unpacked)
        && env.store.layer_dir(&blob.diff_id).is_none()
    {
        let _ = new.publish(&blob.diff_id);
    }
    Ok(blob)
}

/// The layers below one that is unpacked.
pub(super) struct Below(pub(super) Merged);

impl Lower for Below {
    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        let Some(node) = self.0.lookup(path, false)? else {
            return Ok(None);
        };
        Ok(Some(Entry {
            path: path.to_path_buf(),
            kind: node.kind,
            meta: Meta {
                xattrs: self.0.xattrs(path)?,
                ..node.meta
            },
        }))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.0.open(path)
    }
}
