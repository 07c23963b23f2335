//! Makes an image of one layer from the tar of a root filesystem.
//!
//! The archive is read entry by entry and written anew, so that what ends up
//! in the layer is well-formed whoever made the archive. Everything is
//! streamed; the image's name is the caller's to give.

use std::io::{self, Read};

use crate::digest::{DiffId, HashingWriter};
use crate::event::{Cancel, Task};
use crate::image::media_type::{self, Format};
use crate::image::{BlobSink, Descriptor, History, ImageConfig, Manifest, RootFs};
use crate::layer::archive::open_archive;
use crate::layer::compress::{Compressor, Settings, read_ahead};
use crate::layer::tar_read::{Item, Names, TarError, TarReader};
use crate::layer::tar_write::{TarWriter, WriteError};
use crate::store::{Store, StoreError};

/// Bytes between two reports of progress.
const REPORT: u64 = 8 << 20;
/// The largest archive that is taken, in bytes of tar.
const MAX_BYTES: u64 = 1 << 44;

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The input can't be read.
    #[error("can't read the archive")]
    Read(#[source] io::Error),
    /// The input is something else.
    #[error("this is no tar archive, neither plain nor compressed with gzip, bzip2, xz or zstd")]
    NoArchive,
    /// The archive is malformed.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry can't be part of a layer.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The layer can't be stored.
    #[error("can't store the layer")]
    Layer(#[source] io::Error),
    /// The image can't be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How the image is made.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The config but for layers and the last entry of its history.
    pub config: ImageConfig,
    /// Says in the history where the layer comes from.
    pub created_by: String,
    /// A remark for the history.
    pub comment: String,
    /// How the layer is compressed.
    pub compression: Settings,
}

/// Reads a tar, compressed or not, and stores an image with its content.
///
/// # Errors
/// When the archive is none or is malformed, or the store fails; no manifest
/// is stored then.
pub fn import(
    store: &Store,
    archive: impl Read + Send + 'static,
    options: ImportOptions,
    task: &Task,
    cancel: &Cancel,
) -> Result<Descriptor, ImportError> {
    let archive = cancel.watch(archive);
    let tar = open_archive(archive)
        .map_err(ImportError::Read)?
        .ok_or(ImportError::NoArchive)?;
    let tar = read_ahead(tar).map_err(ImportError::Read)?;
    let compression = options.compression.compression;
    let (digest, size, diff_id) = layer(store, tar, &options.compression, task)?;
    let layer = Descriptor::new(media_type::layer(Format::Oci, compression), digest, size);

    let mut config = options.config;
    config.rootfs = RootFs {
        diff_ids: vec![diff_id],
        ..RootFs::default()
    };
    let made = History {
        created: config.created.clone(),
        created_by: options.created_by,
        comment: options.comment,
        ..History::default()
    };
    config.history.insert(0, made);
    let config = store.put_bytes(media_type::OCI_CONFIG, &config.to_bytes())?;
    let manifest = Manifest::new(Format::Oci, config, vec![layer]);
    Ok(store.put_bytes(media_type::OCI_MANIFEST, &manifest.to_bytes())?)
}

/// Writes the tar's entries as a layer: digest and size of the blob, and the
/// tar's diffID.
fn layer(
    store: &Store,
    tar: impl Read,
    settings: &Settings,
    task: &Task,
) -> Result<(crate::digest::Digest, u64, DiffId), ImportError> {
    let blob = HashingWriter::new(store.create().map_err(ImportError::Layer)?);
    let packed = Compressor::new(blob, settings).map_err(ImportError::Layer)?;
    let mut writer = TarWriter::new(HashingWriter::new(packed), None);
    let mut reader = TarReader::new(tar, Names::Layer);
    let mut reported = 0;
    while let Some(item) = reader.next_entry()? {
        // There is nothing below that a whiteout could remove.
        if let Item::Put(entry) = item {
            writer.put(&entry, &mut reader.body())?;
        }
        if reader.position() - reported >= REPORT {
            reported = reader.position();
            task.progress("tar", reported, None);
        }
    }
    let total = reader.finish(MAX_BYTES)?;
    task.progress("tar", total, Some(total));
    let tar = writer.finish().map_err(ImportError::Layer)?;
    let (packed, diff_id, _) = tar.finish();
    let blob = packed.finish().map_err(ImportError::Layer)?;
    let (blob, digest, size) = blob.finish();
    blob.commit(&digest).map_err(ImportError::Layer)?;
    Ok((digest, size, DiffId::new(diff_id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Events;
    use crate::image::media_type::Compression;

    fn options() -> ImportOptions {
        ImportOptions {
            config: ImageConfig {
                os: "linux".into(),
                architecture: "amd64".into(),
                created: Some("2020-01-01T00:00:00Z".into()),
                ..ImageConfig::default()
            },
            created_by: "import".into(),
            comment: String::new(),
            compression: Settings {
                compression: Compression::Gzip,
                level: None,
                workers: crate::layer::workers::Workers::new(1),
            },
        }
    }

    fn tar(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn run(bytes: Vec<u8>, cancel: &Cancel) -> Result<crate::image::Image, ImportError> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let task = Events::none().start("import");
        let descriptor = import(&store, io::Cursor::new(bytes), options(), &task, cancel)?;
        Ok(store.load_image(&descriptor, None).unwrap())
    }

    #[test]
    fn plain_and_compressed_archives_give_the_same_image() {
        let plain = tar(&[("etc/os-release", "ID=x\n"), ("bin/sh", "#!")]);
        let packed = zstd::encode_all(&plain[..], 3).unwrap();
        let a = run(plain, &Cancel::new()).unwrap();
        let b = run(packed, &Cancel::new()).unwrap();
        assert_eq!(a.descriptor.digest, b.descriptor.digest);
        assert_eq!(a.manifest.layers.len(), 1);
        assert_eq!(a.config.history.len(), 1);
        assert_eq!(a.config.platform().to_string(), "linux/amd64");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let none = Cancel::new();
        for bytes in [&b""[..], b"hello", &[0x1f, 0x8b, 8, 0, 0]] {
            let result = run(bytes.into(), &none);
            assert!(matches!(result, Err(ImportError::NoArchive)), "{bytes:?}");
        }
        let mut cut = tar(&[("a", &"x".repeat(5000))]);
        cut.truncate(2000);
        assert!(run(cut, &none).is_err());
        let cancelled = Cancel::new();
        cancelled.cancel();
        let result = run(tar(&[("a", "b")]), &cancelled);
        assert!(matches!(result, Err(ImportError::Read(_))));
    }
}
