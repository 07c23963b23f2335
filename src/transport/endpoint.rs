//! From a [`Location`] to the place itself.

use std::path::Path;

use super::archive::OciArchive;
use super::copy::Destination;
use super::dir::{self, DirDestination};
use super::docker_save::DockerArchive;
use super::layout::{self, LayoutDestination};
use super::local::{self, LocalDestination};
use super::registry::{self, RegistryDestination};
use super::{Location, Output, Source, TransportError, docker_archive};
use crate::reference::{Reference, ReferenceError};
use crate::registry::Client;
use crate::store::{Store, StoreError};

/// What a location may lead to.
#[derive(Debug)]
pub struct Endpoints<'a> {
    /// For registries.
    pub client: &'a Client,
    /// For bare names.
    pub store: Option<&'a Store>,
}

impl Endpoints<'_> {
    /// Opens the image at `location`. A bare name is looked for in the store,
    /// then in its registry.
    ///
    /// # Errors
    /// When there is no such image, or it can't be read.
    pub fn open(&self, location: &Location) -> Result<Source, TransportError> {
        match location {
            Location::Registry(reference) => registry::open(self.client, reference),
            Location::Name(name) => self.open_name(name),
            Location::Oci { path, name } => layout::open(path, name.as_deref()),
            Location::OciArchive { path, name } => {
                layout::open_archive(readable(path)?, name.as_deref())
            }
            Location::DockerArchive { path, name } => {
                docker_archive::open(readable(path)?, name.as_deref())
            }
            Location::Dir(path) => dir::open(path),
        }
    }

    fn open_name(&self, name: &str) -> Result<Source, TransportError> {
        if let Some(store) = self.store {
            match local::open(store, name) {
                Err(TransportError::Store(StoreError::NoImage { .. })) => {}
                result => return result,
            }
        }
        // More than one only where registries are searched.
        let mut missing = None;
        for reference in self.client.candidates(name).map_err(no_name)? {
            match registry::open(self.client, &reference) {
                Ok(source) => return Ok(source),
                Err(e) => missing = Some(e),
            }
        }
        Err(missing.unwrap_or_else(|| TransportError::Place(format!("{name:?} is no name"))))
    }

    /// Prepares `location` for writing. A bare name is a name in the store.
    /// `stream` is where an archive named `-` goes.
    ///
    /// # Errors
    /// When it can't be written to.
    pub fn create(
        &self,
        location: &Location,
        stream: impl FnOnce() -> Box<dyn std::io::Write + Send>,
    ) -> Result<Box<dyn Destination>, TransportError> {
        self.create_named(location, &[], stream)
    }

    /// As [`create`](Self::create), with more names for the image: in the
    /// store, in a `docker save` archive, or tags of the same repository.
    ///
    /// # Errors
    /// Also when the place has no room for more names.
    pub fn create_named(
        &self,
        location: &Location,
        more: &[Reference],
        stream: impl FnOnce() -> Box<dyn std::io::Write + Send>,
    ) -> Result<Box<dyn Destination>, TransportError> {
        let output = |path: &Path| {
            if path.as_os_str() == "-" {
                Output::Stream(stream())
            } else {
                Output::File(path.to_owned())
            }
        };
        let no_more = |place: Box<dyn Destination>| match more {
            [] => Ok(place),
            _ => Err(TransportError::Place(format!(
                "{location} takes no more names"
            ))),
        };
        match location {
            Location::Registry(reference) => {
                let all: Vec<Reference> = [reference].into_iter().chain(more).cloned().collect();
                let mut made = RegistryDestination::for_each(self.client, &all);
                match (made.pop(), made.is_empty()) {
                    (Some(only), true) => Ok(Box::new(match self.store {
                        Some(store) => only.remembering(store),
                        None => only,
                    })),
                    _ => Err(TransportError::Place(format!(
                        "more names at {location} must be tags of the same repository"
                    ))),
                }
            }
            Location::Name(name) => {
                let Some(store) = self.store else {
                    return Err(TransportError::Place(format!(
                        "{name} would be a name in the local store; write docker://{name} for a registry"
                    )));
                };
                let mut names = vec![parse(name)?];
                names.extend(more.iter().cloned());
                Ok(Box::new(LocalDestination::in_store(store, names)))
            }
            Location::Oci { path, name } => {
                no_more(Box::new(LayoutDestination::new(path, name.as_deref())))
            }
            Location::OciArchive { path, name } => {
                let mut names: Vec<String> = name.iter().cloned().collect();
                names.extend(more.iter().map(Reference::familiar));
                Ok(Box::new(OciArchive::create(output(path), &names)?))
            }
            Location::DockerArchive { path, name } => {
                let mut references = match name {
                    Some(name) => vec![parse(name)?],
                    None => Vec::new(),
                };
                references.extend(more.iter().cloned());
                Ok(Box::new(DockerArchive::create(output(path), &references)?))
            }
            Location::Dir(path) => no_more(Box::new(DirDestination::new(path))),
        }
    }
}

fn parse(name: &str) -> Result<Reference, TransportError> {
    Reference::parse(name).map_err(no_name)
}

fn no_name(error: ReferenceError) -> TransportError {
    TransportError::Place(error.to_string())
}

/// An archive is read in the order of its manifest, not in its own.
fn readable(path: &Path) -> Result<&Path, TransportError> {
    if path.as_os_str() == "-" {
        return Err(TransportError::Place(
            "an archive can't be read from standard input here; put it into a file".into(),
        ));
    }
    Ok(path)
}
