//! Writing an OCI layout into a tar.

use std::sync::{Mutex, PoisonError};

use super::copy::{Counted, Destination, Progress};
use super::layout::{MARKER, blob_name};
use super::plan::{self, Plan};
use super::tar_out::{Output, TarOut};
use super::{REF_NAME, Source, TransportError};
use crate::image::{Descriptor, Index};
use crate::reference::Reference;

/// Writes an OCI layout into a tar; several images may go into one.
#[derive(Debug)]
pub struct OciArchive {
    place: String,
    names: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tar: Option<TarOut>,
    entries: Vec<Descriptor>,
}

impl OciArchive {
    /// Begins the archive. Its image gets the names `names`; when there are
    /// none, each image gets the names that its [`Source`] carries.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn create(output: Output, names: &[String]) -> Result<Self, TransportError> {
        let place = format!("oci-archive:{}", output.display());
        let mut tar = TarOut::create(output)?;
        tar.bytes("oci-layout", MARKER).map_err(|e| tar.failed(e))?;
        Ok(Self {
            place,
            names: names.to_vec(),
            state: Mutex::new(State {
                tar: Some(tar),
                entries: Vec::new(),
            }),
        })
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut TarOut, &mut Vec<Descriptor>) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { tar, entries } = &mut *state;
        match tar {
            Some(tar) => act(tar, entries),
            None => Err(TransportError::Unfit {
                place: self.place.clone(),
                name: "another image".into(),
                reason: "the archive is complete".into(),
            }),
        }
    }
}

/// Adds the directories that a blob is in.
pub(super) fn add_dirs(tar: &mut TarOut, descriptor: &Descriptor) -> Result<(), TransportError> {
    for dir in [
        "blobs".to_owned(),
        format!("blobs/{}", descriptor.digest.algorithm()),
    ] {
        tar.dir(&dir).map_err(|e| tar.failed(e))?;
    }
    Ok(())
}

impl Destination for OciArchive {
    fn name(&self) -> String {
        self.place.clone()
    }

    fn has(&self, blob: &Descriptor) -> Result<bool, TransportError> {
        self.with(|tar, _| Ok(tar.has(&blob_name(&blob.digest))))
    }

    fn put_blob(
        &self,
        blob: &Descriptor,
        source: &Source,
        progress: Progress<'_>,
    ) -> Result<(), TransportError> {
        let mut reader = Counted {
            inner: plan::open(source, blob)?,
            done: 0,
            progress,
        };
        self.with(|tar, _| {
            add_dirs(tar, blob)?;
            tar.stream(&blob_name(&blob.digest), blob.size, &mut reader)
                .map_err(TransportError::blob(blob))
        })
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), TransportError> {
        self.with(|tar, _| {
            add_dirs(tar, descriptor)?;
            tar.bytes(&blob_name(&descriptor.digest), bytes)
                .map_err(|e| tar.failed(e))
        })
    }

    fn finish(&self, plan: &Plan) -> Result<Descriptor, TransportError> {
        self.put_manifest(&plan.root, plan.root_bytes())?;
        let carried: Vec<String> = plan.references.iter().map(Reference::familiar).collect();
        let names = match self.names.as_slice() {
            [] => carried.as_slice(),
            given => given,
        };
        self.with(|_, entries| {
            if names.is_empty() {
                entries.push(plan.root.clone());
            }
            for name in names {
                let mut entry = plan.root.clone();
                entry.annotations.insert(REF_NAME.into(), name.clone());
                entries.push(entry);
            }
            Ok(plan.root.clone())
        })
    }

    fn close(&self) -> Result<(), TransportError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut tar) = state.tar.take() else {
            return Ok(());
        };
        let index = Index::new(std::mem::take(&mut state.entries)).to_bytes();
        tar.bytes("index.json", &index).map_err(|e| tar.failed(e))?;
        tar.finish()
    }

    fn parallel(&self) -> usize {
        1
    }
}
