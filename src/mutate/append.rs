//! One layer more.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Draft, MutateError, NewBlobs};
use crate::image::{History, Image};
use crate::layer::archive::open_archive;
use crate::layer::compress::read_ahead;
use crate::layer::merge::LayerBlob;
use crate::layer::pipeline::{LayerWriter, Sealed, seal};
use crate::layer::tar_read::{Item, Names, TarReader};
use crate::layer::{Change, Entry, Kind, MAX_TAR_BYTES};

/// What becomes of the entries that are added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placing {
    /// The directory they come into, relative; empty for the root.
    pub prefix: PathBuf,
    /// Owner and group of all.
    pub owner: Option<(u32, u32)>,
    /// Permission bits of all but links.
    pub mode: Option<u32>,
}

impl Placing {
    fn path(&self, path: &Path) -> PathBuf {
        match path.as_os_str().is_empty() {
            true => self.prefix.clone(),
            false => self.prefix.join(path),
        }
    }

    fn entry(&self, mut entry: Entry) -> Entry {
        entry.path = self.path(&entry.path);
        if let Kind::Hardlink { target } = &mut entry.kind {
            *target = self.path(target);
        }
        if let Some((uid, gid)) = self.owner {
            (entry.meta.uid, entry.meta.gid) = (uid, gid);
        }
        if let Some(mode) = self.mode
            && !matches!(entry.kind, Kind::Symlink { .. })
        {
            entry.meta.mode = mode;
        }
        entry
    }

    fn change(&self, change: Change) -> Change {
        match change {
            Change::Put(entry, content) => Change::Put(self.entry(entry), content),
            Change::Whiteout(path) => Change::Whiteout(self.path(&path)),
            Change::Opaque(path) => Change::Opaque(self.path(&path)),
        }
    }
}

/// The image with `changes` as one more layer, of which `history` tells.
///
/// # Errors
/// When a change can't be had or written, or the sink fails.
pub fn append(
    image: &Image,
    changes: impl IntoIterator<Item = io::Result<Change>>,
    placing: &Placing,
    history: History,
    new: &NewBlobs,
) -> Result<Image, MutateError> {
    let changes = changes.into_iter().map(|c| Ok(placing.change(c?)));
    let sealed = seal(changes, &*new.sink, &new.seal_for(image))?;
    add(image, sealed, history, new)
}

/// The image with the content of a tar as one more layer, of which `history`
/// tells. The tar may be compressed with gzip, bzip2, xz or zstd; it is read
/// as a layer, whiteouts included, and written anew.
///
/// # Errors
/// When it is no tar or a malformed one, or the sink fails.
pub fn append_tar(
    image: &Image,
    archive: impl Read + Send + 'static,
    placing: &Placing,
    history: History,
    new: &NewBlobs,
) -> Result<Image, MutateError> {
    let none = "it is no tar archive, neither plain nor compressed with gzip, bzip2, xz or zstd";
    let tar = open_archive(archive)
        .map_err(MutateError::Read)?
        .ok_or_else(|| MutateError::Unfit(none.into()))?;
    let tar = read_ahead(tar).map_err(MutateError::Read)?;
    let mut writer = LayerWriter::new(&*new.sink, &new.seal_for(image))?;
    let mut reader = TarReader::new(tar, Names::Layer);
    while let Some(item) = reader.next_entry()? {
        match item {
            Item::Put(entry) => writer
                .tar()
                .put(&placing.entry(entry), &mut reader.body())?,
            Item::Whiteout(path) => writer.tar().whiteout(&placing.path(&path))?,
            Item::Opaque(path) => writer.tar().opaque(&placing.path(&path))?,
        }
    }
    reader.finish(MAX_TAR_BYTES)?;
    add(image, writer.finish()?, history, new)
}

/// The image with a layer on top.
pub(super) fn add(
    image: &Image,
    sealed: Sealed,
    history: History,
    new: &NewBlobs,
) -> Result<Image, MutateError> {
    let mut layers = LayerBlob::of(image);
    layers.push(sealed.into());
    let mut draft = Draft::new(image);
    draft.config.created.clone_from(&history.created);
    draft.config.history.push(History {
        empty_layer: false,
        ..history
    });
    draft.set_layers(layers);
    draft.finish(new)
}
