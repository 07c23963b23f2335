//! From what was made to where it goes: the store, registries, archives,
//! directories. Names move last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::assemble::{Assembled, Times, assemble};
use super::cache::format::CacheIndex;
use super::cache::{self, CachePlace, CacheTo};
use super::request::{Destination, Output, OutputKind, Request};
use super::{BuildError, Made, Tools};
use crate::event::{Cancel, Events, Outcome};
use crate::graph::{Graph, StepId};
use crate::image::media_type::Format;
use crate::image::{BlobSource, Descriptor, Index};
use crate::layer::pipeline::SealOptions;
use crate::layer::tar_write::TarWriter;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::solve::{self, Layer, LayerBlob};
use crate::transport::archive::OciArchive;
use crate::transport::docker_save::DockerArchive;
use crate::transport::layout::LayoutDestination;
use crate::transport::registry::RegistryDestination;
use crate::transport::{self, CopyOptions, FirstOf, Source};

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
    pub(super) seal: SealOptions,
    /// What is told of when things were made.
    pub(super) times: Times,
}

/// The whole result under one descriptor.
pub(super) struct Exported {
    pub(super) descriptor: Descriptor,
    pub(super) config: Descriptor,
    pub(super) names: Vec<Reference>,
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
        let store = &self.tools.store;
        let mut images: Vec<Assembled> = Vec::new();
        for piece in pieces {
            let blobs = self.blobs(&piece.layers)?;
            let made: Vec<_> = piece.layers.iter().map(|l| l.made_at()).collect();
            let inline = self.inline(piece)?;
            let image = assemble(
                &piece.graph,
                &blobs,
                &made,
                &self.times,
                Format::Oci,
                inline,
            );
            store.put_bytes(&image.config.0.media_type, &image.config.1)?;
            store.put_bytes(&image.manifest.0.media_type, &image.manifest.1)?;
            images.push(image);
        }
        let Some(first) = images.first() else {
            return Err(BuildError::Input(
                "there is no platform to build for".into(),
            ));
        };
        let config = first.config.0.clone();
        let (descriptor, bytes) = if images.len() == 1 {
            first.manifest.clone()
        } else {
            let index = Index::new(images.iter().map(|i| i.manifest.0.clone()).collect());
            let bytes = index.to_bytes();
            let descriptor = store.put_bytes(&index.media_type, &bytes)?;
            (descriptor, bytes)
        };
        let plain = Descriptor {
            platform: None,
            ..descriptor.clone()
        };
        let mut sources: Vec<Arc<dyn BlobSource>> = vec![Arc::new(store.clone())];
        sources.extend(self.bases.iter().cloned());
        let blobs = Arc::new(FirstOf(sources));
        let source = Source::new("the image", plain.clone(), bytes, blobs);
        let mut names = self.request.tags.clone();
        for output in self.outputs() {
            for name in &output.names {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            self.output(&output, &source, pieces, &descriptor)?;
        }
        Ok(Exported {
            descriptor: plain,
            config,
            names,
        })
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
                    kind: OutputKind::Image,
                    dest: None,
                    names: Vec::new(),
                    tar: true,
                    push: true,
                }),
            }
        } else if outputs.is_empty() {
            outputs.push(Output {
                kind: OutputKind::Image,
                dest: None,
                names: Vec::new(),
                tar: true,
                push: false,
            });
        }
        outputs
    }

    fn output(
        &self,
        output: &Output,
        source: &Source,
        pieces: &[Piece],
        descriptor: &Descriptor,
    ) -> Result<(), BuildError> {
        let mut names = self.request.tags.clone();
        names.extend(
            output
                .names
                .iter()
                .filter(|n| !self.request.tags.contains(n))
                .cloned(),
        );
        match output.kind {
            OutputKind::Image if output.push => self.push(source, &names),
            OutputKind::Image => self.keep(pieces, descriptor, &names),
            OutputKind::Oci | OutputKind::Docker => self.archive(output, source, &names),
            OutputKind::Tar | OutputKind::Local => self.files(output, pieces),
        }
    }

    /// The cache that goes into the image's config, where one is asked for.
    fn inline(&self, piece: &Piece) -> Result<Option<CacheIndex>, BuildError> {
        let asked = |to: &CacheTo| to.place == CachePlace::Inline;
        if !self.request.cache_to.iter().any(asked) {
            return Ok(None);
        }
        Ok(Some(cache::export::inline(self.made, piece.result)?))
    }

    fn blobs(&self, layers: &[Arc<Layer>]) -> Result<Vec<LayerBlob>, BuildError> {
        let wanted = self.seal.compression;
        layers
            .iter()
            .map(|layer| {
                let blob = layer.blob()?;
                let have = crate::image::media_type::layer_compression(&blob.descriptor.media_type);
                if !self.request.force_compression || have == Some(wanted) {
                    return Ok(blob);
                }
                layer.fetch(&self.tools.store, self.events)?;
                Ok(solve::recompress(&self.tools.store, &blob, &self.seal)?)
            })
            .collect()
    }

    /// Puts the image into the store, names last.
    fn keep(
        &self,
        pieces: &[Piece],
        descriptor: &Descriptor,
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
        let names: Vec<(Reference, Descriptor)> = names
            .iter()
            .map(|n| (n.clone(), descriptor.clone()))
            .collect();
        self.tools.store.set_refs(&names)?;
        Ok(())
    }

    /// Sends the image to every repository among `names`, once each.
    fn push(&self, source: &Source, names: &[Reference]) -> Result<(), BuildError> {
        let mut groups: BTreeMap<(String, String), Vec<&Reference>> = BTreeMap::new();
        for name in names {
            let key = (name.registry().to_owned(), name.repository().to_owned());
            groups.entry(key).or_default().push(name);
        }
        for group in groups.values() {
            let Some((first, others)) = group.split_first() else {
                continue;
            };
            let tags = others.iter().filter_map(|r| r.tag().map(str::to_owned));
            let destination = RegistryDestination::new(&self.tools.client, first)
                .with_tags(tags)
                .remembering(&self.tools.store);
            transport::copy(
                source,
                &destination,
                &CopyOptions::default(),
                self.events,
                self.cancel,
            )?;
        }
        Ok(())
    }

    fn archive(
        &self,
        output: &Output,
        source: &Source,
        names: &[Reference],
    ) -> Result<(), BuildError> {
        let Some(dest) = &output.dest else {
            return Err(BuildError::Input("the output needs dest=FILE".into()));
        };
        let options = CopyOptions::default();
        let familiar: Vec<String> = names.iter().map(Reference::familiar).collect();
        let place = match dest {
            Destination::Path(path) => transport::Output::File(path.clone()),
            Destination::Stdout => transport::Output::Stream(Box::new(io::stdout())),
        };
        match (output.kind, dest) {
            (OutputKind::Oci, Destination::Path(path)) if !output.tar => {
                let name = familiar.first().map(String::as_str);
                let to = LayoutDestination::new(path, name);
                transport::copy(source, &to, &options, self.events, self.cancel)?;
            }
            (OutputKind::Docker, _) => {
                let to = DockerArchive::create(place, names)?;
                transport::copy(source, &to, &options, self.events, self.cancel)?;
            }
            (_, _) => {
                let to = OciArchive::create(place, &familiar)?;
                transport::copy(source, &to, &options, self.events, self.cancel)?;
            }
        }
        Ok(())
    }

    /// The root filesystem itself, as a tar or in a directory.
    fn files(&self, output: &Output, pieces: &[Piece]) -> Result<(), BuildError> {
        let Some(dest) = &output.dest else {
            return Err(BuildError::Input("the output needs dest=".into()));
        };
        let several = pieces.len() > 1;
        match (output.kind, dest) {
            (OutputKind::Local, Destination::Path(dir)) => {
                for piece in pieces {
                    let dir = if several {
                        dir.join(folder(&piece.graph.platform))
                    } else {
                        dir.clone()
                    };
                    std::fs::create_dir_all(&dir).map_err(write_error(&dir))?;
                    let changes = solve::files_of(&piece.layers, &self.tools.store, self.events)?;
                    solve::apply(changes, &dir, self.tools.store.layer_form())?;
                }
                Ok(())
            }
            (_, Destination::Path(path)) => {
                let dir = path
                    .parent()
                    .filter(|p| !p.as_os_str().is_empty())
                    .unwrap_or(Path::new("."));
                let mut file = tempfile::NamedTempFile::new_in(dir).map_err(write_error(path))?;
                self.tar(pieces, several, file.as_file_mut(), path)?;
                file.persist(path).map_err(|e| write_error(path)(e.error))?;
                use std::os::unix::fs::PermissionsExt;
                let mode = std::fs::Permissions::from_mode(0o644);
                std::fs::set_permissions(path, mode).map_err(write_error(path))
            }
            (_, Destination::Stdout) => {
                let mut out = io::stdout().lock();
                self.tar_into(pieces, several, &mut out, Path::new("-"))
            }
        }
    }

    fn tar(
        &self,
        pieces: &[Piece],
        several: bool,
        file: &mut File,
        path: &Path,
    ) -> Result<(), BuildError> {
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        self.tar_into(pieces, several, &mut out, path)?;
        out.flush().map_err(write_error(path))
    }

    fn tar_into(
        &self,
        pieces: &[Piece],
        several: bool,
        out: &mut dyn Write,
        path: &Path,
    ) -> Result<(), BuildError> {
        let mut tar = TarWriter::new(out, self.seal.clamp_mtime);
        for piece in pieces {
            for mut change in solve::files_of(&piece.layers, &self.tools.store, self.events)? {
                if several {
                    change = below(&folder(&piece.graph.platform), change);
                }
                tar.change(change)
                    .map_err(|e| write_error(path)(io::Error::other(e)))?;
            }
        }
        tar.finish()
            .map_err(write_error(path))?
            .flush()
            .map_err(write_error(path))
    }
}

fn below(folder: &str, change: crate::layer::Change) -> crate::layer::Change {
    use crate::layer::{Change, Kind};
    match change {
        Change::Put(mut entry, content) => {
            entry.path = Path::new(folder).join(&entry.path);
            if let Kind::Hardlink { target } = &mut entry.kind {
                *target = Path::new(folder).join(&*target);
            }
            Change::Put(entry, content)
        }
        Change::Whiteout(path) => Change::Whiteout(Path::new(folder).join(path)),
        Change::Opaque(path) => Change::Opaque(Path::new(folder).join(path)),
    }
}

/// `linux_amd64`.
fn folder(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> BuildError + '_ {
    move |source| BuildError::Write {
        path: path.to_path_buf(),
        source,
    }
}
