//! `shiplap explore`: a picture of an image.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};
use shiplap::image::{BlobSource, Descriptor, Image, PartReader};
use shiplap::look::Indexer;
use shiplap::look::waste::Wasted;

use super::error::Hinted;
use super::files::{Lazy, entry_json};
use super::image::ImageArgs;
use super::values::make_file;
use super::{Format, Session};
use crate::ui::explore::page::{MOST_WASTED, page};
use crate::ui::explore::picture::{Contents, Outline, word};
use crate::ui::explore::walk::{Ever, entries};
use crate::ui::{explore, output, screen};

const EXAMPLES: &str = "\
Examples:
    shiplap explore app:1
    shiplap explore docker://debian:bookworm
    shiplap explore app:1 --html app.html";

/// Show layers and files of an image, and go around in them
///
/// On the left the layers, on the right the files, with what the chosen layer
/// added (A), changed (C) and removed (R). The key ? shows what keys do.
///
/// --html writes a page with the layers, a map of the files by size, a table
/// of them and what is wasted. --format json prints an object: name, digest,
/// platform, created, size; layers (digest, diff_id, size, unpacked_size,
/// instruction, added, changed, removed); waste (efficiency, bytes, paths);
/// files as tree has them, also those that are gone, with removed and changes
/// (layer, change: added, changed or removed).
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExploreArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Write a page for a browser instead, one file that needs no other; - is
    /// standard output
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    html: Option<PathBuf>,
    /// Show it, or print the data
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl ExploreArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let on_screen = self.html.is_none() && self.format == Format::Text;
        if on_screen && !screen::is_there() {
            return Err(Hinted {
                hint: "shiplap tree prints the files; --html FILE writes a page, --format json \
                       prints the data"
                    .into(),
                error: anyhow::anyhow!("there is no terminal to draw on"),
            }
            .into());
        }
        let store = session.store()?;
        let opened = self.image.open(session, &store)?;
        let mut image = opened.image()?;
        let outline = Outline::of(&self.image.image, &image);
        let cancel = session.interrupts.cancel();
        let indexer = Indexer::new(&store, cancel.clone());
        if on_screen {
            let counter = Arc::new(AtomicU64::new(0));
            image.blobs = Arc::new(Counted {
                inner: Arc::clone(&image.blobs),
                bytes: Arc::clone(&counter),
            });
            let load = Box::new(move || contents(&indexer, &image, usize::MAX));
            let read = move || counter.load(Ordering::Relaxed);
            session.interrupts.at_exit(Some(Box::new(screen::restore)));
            let result = explore::run(outline, load, &read, &cancel);
            session.interrupts.at_exit(None);
            return result;
        }
        let most = match self.html {
            Some(_) => MOST_WASTED,
            None => usize::MAX,
        };
        let contents = contents(&indexer, &image, most)?;
        match self.html {
            None => output::json(&data(&outline, &contents)),
            Some(file) if file.as_os_str() == "-" => {
                output::stream(|out| Ok(page(&outline, &contents, out)?))
            }
            Some(file) => make_file(&file, |out| page(&outline, &contents, out)),
        }
    }
}

/// Reads the layers; with the `most` paths at which most is wasted.
fn contents(indexer: &Indexer, image: &Image, most: usize) -> anyhow::Result<Contents> {
    let indexes = indexer.image(image)?;
    Ok(Contents::of(&indexes, indexer.spools(), most)?)
}

/// All that is known of an image. Layers are counted from 1.
#[derive(Serialize)]
struct Data<W: Serialize, F: Serialize> {
    #[serde(flatten)]
    fields: Map<String, Value>,
    layers: Vec<Value>,
    waste: Waste<W>,
    problems: Vec<Value>,
    files: F,
}

#[derive(Serialize)]
struct Waste<P: Serialize> {
    bytes: u64,
    efficiency: f64,
    paths: P,
}

fn data<'a>(outline: &'a Outline, contents: &'a Contents) -> impl Serialize + 'a {
    let tree = &contents.tree;
    let layers = outline.layers.iter().enumerate().map(|(number, layer)| {
        let did = contents.layers.get(number).copied().unwrap_or_default();
        json!({
            "digest": layer.digest,
            "diff_id": layer.diff_id,
            "size": layer.size,
            "unpacked_size": contents.tar_bytes.get(number),
            "instruction": layer.instruction,
            "added": did.added,
            "changed": did.changed,
            "removed": did.removed,
        })
    });
    let wasted = |wasted: Wasted| -> io::Result<Value> {
        Ok(json!({
            "path": format!("/{}", tree.path(wasted.node).to_string_lossy()),
            "bytes": wasted.bytes,
            "files": wasted.files,
            "removed": wasted.is_removed(tree),
        }))
    };
    let problems = tree.problems().iter();
    let problems = problems.map(|(number, text)| json!({"layer": number + 1, "problem": text}));
    Data {
        fields: Map::from_iter([
            ("name".to_owned(), json!(outline.name)),
            ("digest".to_owned(), json!(outline.digest)),
            ("platform".to_owned(), json!(outline.platform)),
            ("created".to_owned(), json!(outline.created)),
            ("size".to_owned(), json!(outline.size())),
        ]),
        layers: layers.collect(),
        waste: Waste {
            bytes: contents.waste.bytes,
            efficiency: contents.waste.efficiency,
            paths: Lazy(move || contents.waste.paths.iter().map(wasted)),
        },
        problems: problems.collect(),
        files: Lazy(move || entries(tree).map(|entry| file(contents, entry))),
    }
}

/// An entry as `tree` has it, with what each layer did to it.
fn file(contents: &Contents, entry: Ever) -> io::Result<Map<String, Value>> {
    let tree = &contents.tree;
    let mut file = entry_json(&tree.path(entry.node), &tree.inode(entry.inode)?);
    let changes = contents.story(entry.node)?.into_iter();
    let changes = changes.map(|(layer, kind)| json!({"layer": layer + 1, "change": word(kind)}));
    file.insert("removed".into(), json!(entry.is_gone));
    file.insert("changes".into(), changes.collect());
    Ok(file)
}

/// Counts the bytes that are read of blobs.
struct Counted {
    inner: Arc<dyn BlobSource>,
    bytes: Arc<AtomicU64>,
}

impl BlobSource for Counted {
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(CountedReader {
            inner: self.inner.open(descriptor)?,
            bytes: Arc::clone(&self.bytes),
        }))
    }

    fn open_from(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Option<PartReader>> {
        self.inner.open_from(descriptor, offset)
    }
}

struct CountedReader {
    inner: Box<dyn Read + Send>,
    bytes: Arc<AtomicU64>,
}

impl Read for CountedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
