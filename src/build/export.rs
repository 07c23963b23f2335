//! From what was made to where it goes: the store, registries, archives,
//! directories. Names move last.

mod documents;
mod files;

use std::io;
use std::sync::Arc;

use super::assemble::Times;
use super::request::{Destination, Output, OutputKind, Request};
use super::{BuildError, Made, Tools};
use crate::event::{Cancel, Events, Outcome};
use crate::graph::{Graph, StepId};
use crate::image::{BlobSource, Descriptor};
use crate::layer::pipeline::SealOptions;
use crate::reference::Reference;
use crate::solve::{self, Layer};
use crate::transport::archive::OciArchive;
use crate::transport::docker_save::DockerArchive;
use crate::transport::early::EarlyUploads;
use crate::transport::layout::LayoutDestination;
use crate::transport::registry::RegistryDestination;
use crate::transport::{self, CopyOptions};

use documents::{Form, Written};

/// What was built for one platform.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) graph: Graph,
    pub(super) layers: Vec<Arc<Layer>>,
    /// The step whose file system it has.
    pub(super) result: StepId,
}

/// All that exporting needs.
pub(super) struct Exporter<'a> {
    pub(super) request: &'a Request,
    pub(super) tools: &'a Tools,
    pub(super) events: &'a Events,
    pub(super) cancel: &'a Cancel,
    /// Where blobs of base images are.
    pub(super) bases: Vec<Arc<dyn BlobSource>>,
    /// What the image is made of.
    pub(super) made: &'a Made<'a>,
    /// Layers that are on their way already.
    pub(super) early: Option<&'a EarlyUploads>,
    pub(super) seal: SealOptions,
    /// What is told of when things were made.
    pub(super) times: Times,
}

/// The whole result under one descriptor.
pub(super) struct Exported {
    pub(super) descriptor: Descriptor,
    /// The config, where there is one image.
    pub(super) config: Option<Descriptor>,
    pub(super) names: Vec<Reference>,
}

/// Sends layers to the registry while they are made, where they go to one
/// repository as they are made.
pub(super) fn early(request: &Request, tools: &Tools, cancel: &Cancel) -> Option<EarlyUploads> {
    let mut names = request.tags.clone();
    let mut pushes = request.push;
    for output in &request.outputs {
        if output.kind == OutputKind::Image && (output.push || request.push) {
            pushes = true;
            names.extend(output.names.iter().cloned());
            if output.compression.is_some() || output.compression_level.is_some() {
                return None;
            }
        }
    }
    let destinations = RegistryDestination::for_each(&tools.client, &names);
    match &destinations[..] {
        [destination] if pushes => {
            let repository = transport::Destination::repository(destination)?;
            Some(EarlyUploads::new(&tools.store, repository, cancel))
        }
        _ => None,
    }
}

impl Exporter<'_> {
    /// Makes the documents and sends everything to every output.
    pub(super) fn export(&self, pieces: &[Piece]) -> Result<Exported, BuildError> {
        let task = self.events.start("export");
        let result = self.export_all(pieces);
        task.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(e) => Outcome::Failed(e.to_string()),
        });
        result
    }

    fn export_all(&self, pieces: &[Piece]) -> Result<Exported, BuildError> {
        let outputs = self.outputs();
        let first = outputs.iter().find(|o| o.kind.is_image());
        // The result is called by the digest that its first image has.
        let mut written = vec![self.write(pieces, self.form(first))?];
        let mut names = self.request.tags.clone();
        for output in &outputs {
            if output.kind.is_image() {
                let form = self.form(Some(output));
                let at = self.written(&mut written, pieces, form)?;
                self.image(output, &written[at], pieces)?;
            } else if output.kind != OutputKind::Nothing {
                self.files(output, pieces)?;
            }
            names.extend(output.names.iter().cloned());
        }
        let result = written.swap_remove(0);
        if outputs.iter().any(|o| o.name_canonical) {
            let canonical = |name: &Reference| name.with_digest(result.descriptor.digest.clone());
            let canonical: Vec<Reference> = names.iter().map(canonical).collect();
            names.extend(canonical);
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.to_string()));
        Ok(Exported {
            descriptor: result.descriptor,
            config: result.config,
            names,
        })
    }

    /// Where in `written` the documents of this form are; made if need be.
    fn written(
        &self,
        written: &mut Vec<Written>,
        pieces: &[Piece],
        form: Form,
    ) -> Result<usize, BuildError> {
        if let Some(known) = written.iter().position(|w| w.form == form) {
            return Ok(known);
        }
        written.push(self.write(pieces, form)?);
        Ok(written.len() - 1)
    }

    /// The outputs that were asked for: the store where nothing else was, and
    /// registries for `--push`.
    fn outputs(&self) -> Vec<Output> {
        let mut outputs = self.request.outputs.clone();
        if self.request.push {
            // A push alone leaves no name here, so that base layers that no
            // step needed need not be downloaded.
            let image = outputs.iter_mut().find(|o| o.kind == OutputKind::Image);
            match image {
                Some(image) => image.push = true,
                None => outputs.push(Output {
                    push: true,
                    ..Output::new(OutputKind::Image, None)
                }),
            }
        } else if outputs.is_empty() {
            outputs.push(Output::new(OutputKind::Image, None));
        }
        outputs
    }

    fn image(
        &self,
        output: &Output,
        written: &Written,
        pieces: &[Piece],
    ) -> Result<(), BuildError> {
        let mut names = self.request.tags.clone();
        let more = output.names.iter();
        names.extend(more.filter(|n| !self.request.tags.contains(n)).cloned());
        match output.kind {
            OutputKind::Image if output.push => self.push(output, written, &names),
            OutputKind::Image => self.keep(pieces, written, &names),
            OutputKind::Oci | OutputKind::Docker => self.archive(output, written, &names),
            OutputKind::Tar | OutputKind::Local | OutputKind::Nothing => Ok(()),
        }
    }

    /// Puts the image into the store, names last.
    fn keep(
        &self,
        pieces: &[Piece],
        written: &Written,
        names: &[Reference],
    ) -> Result<(), BuildError> {
        let layers: Vec<&Arc<Layer>> = pieces.iter().flat_map(|p| &p.layers).collect();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let work = || -> Result<(), solve::LayerError> {
            loop {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(layer) = layers.get(n) else {
                    return Ok(());
                };
                layer.fetch(&self.tools.store, self.events)?;
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..4.min(layers.len().max(1)))
                .map(|_| scope.spawn(work))
                .collect();
            let mine = work();
            others
                .into_iter()
                .map(|o| o.join().unwrap_or(Ok(())))
                .fold(mine, Result::and)
        })?;
        let store = &self.tools.store;
        for (descriptor, bytes) in &written.documents {
            store.put_bytes(&descriptor.media_type, bytes)?;
        }
        let root = written.documents.last();
        let root = root.map_or(&written.descriptor, |(root, _)| root);
        let names: Vec<(Reference, Descriptor)> =
            names.iter().map(|n| (n.clone(), root.clone())).collect();
        store.set_refs(&names)?;
        Ok(())
    }

    /// Sends the image to every repository among `names`, once each.
    fn push(
        &self,
        output: &Output,
        written: &Written,
        names: &[Reference],
    ) -> Result<(), BuildError> {
        if let Some(early) = self.early {
            early.wait();
        }
        let client = &self.tools.client;
        let made = RegistryDestination::for_each(client, names).into_iter();
        let made = made.map(|destination| -> Box<dyn transport::Destination> {
            let destination = destination.remembering(&self.tools.store);
            Box::new(if output.push_by_digest {
                destination.without_tags()
            } else {
                destination
            })
        });
        let destinations: Vec<_> = made.collect();
        let options = CopyOptions::default();
        transport::copy_to_each(
            &written.source,
            &destinations,
            &options,
            self.events,
            self.cancel,
        )?;
        Ok(())
    }

    fn archive(
        &self,
        output: &Output,
        written: &Written,
        names: &[Reference],
    ) -> Result<(), BuildError> {
        let Some(dest) = &output.dest else {
            return Err(BuildError::Input("the output needs dest=FILE".into()));
        };
        let familiar: Vec<String> = names.iter().map(Reference::familiar).collect();
        let place = match dest {
            Destination::Path(path) => transport::Output::File(path.clone()),
            Destination::Stdout => transport::Output::Stream(Box::new(io::stdout())),
        };
        let send = |to: &dyn transport::Destination| {
            let options = CopyOptions::default();
            transport::copy(&written.source, to, &options, self.events, self.cancel)
        };
        match (output.kind, dest) {
            (OutputKind::Oci, Destination::Path(path)) if !output.tar => {
                if familiar.is_empty() {
                    send(&LayoutDestination::new(path, None))?;
                }
                for name in &familiar {
                    send(&LayoutDestination::new(path, Some(name)))?;
                }
            }
            (OutputKind::Docker, _) => {
                send(&DockerArchive::create(place, names)?)?;
            }
            (_, _) => {
                send(&OciArchive::create(place, &familiar)?)?;
            }
        }
        Ok(())
    }
}
