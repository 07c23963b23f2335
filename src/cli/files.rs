//! What commands about the files of an image share: getting at them, and how
//! they are shown.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use serde_json::{Map, Value, json};
use shiplap::context::glob::has_wildcard;
use shiplap::context::ignore::Ignore;
use shiplap::image::Image;
use shiplap::layer::Kind;
use shiplap::layer::index::LayerIndex;
use shiplap::look::content::{self, FileReader};
use shiplap::look::steps::instructions;
use shiplap::look::{Indexer, Inode, InodeId, NodeId, Rows, Tree};
use shiplap::store::Store;

use super::Session;
use super::error::Usage;
use super::image::{ImageArgs, Opened};
pub(super) use crate::ui::entry::{mode, owner, time};
pub(super) use crate::ui::lazy::Lazy;
use crate::ui::{escape, output};

/// An image with what is in it.
pub(super) struct Looked {
    pub(super) image: Image,
    pub(super) indexes: Vec<Arc<LayerIndex>>,
    pub(super) tree: Tree,
    /// What it is read from.
    _opened: Opened,
}

/// Opens an image and finds out what is in it.
pub(super) fn look(session: &Session, args: &ImageArgs) -> anyhow::Result<Looked> {
    let store = session.store()?;
    let opened = args.open(session, &store)?;
    look_at(session, opened)
}

/// Finds out what is in an image.
pub(super) fn look_at(session: &Session, opened: Opened) -> anyhow::Result<Looked> {
    let store = session.store()?;
    let image = opened.image()?;
    let indexer = Indexer::new(&store, session.interrupts.cancel());
    let indexes = indexer.image(&image)?;
    let tree = Tree::build(indexes.iter().cloned(), indexer.spools())?;
    for (layer, problem) in tree.problems() {
        let text = format!("warning: layer {}: {problem}\n", layer + 1);
        output::message(&escape::lines(&text));
    }
    Ok(Looked {
        image,
        indexes,
        tree,
        _opened: opened,
    })
}

impl Looked {
    /// Opens a file.
    pub(super) fn open(&self, inode: &Inode) -> anyhow::Result<FileReader> {
        open_file(&self.image, &self.indexes, inode)
    }

    /// All that a comparison needs, with the files outside of memory.
    ///
    /// # Errors
    /// When they can't be put there.
    pub(super) fn into_rows(self, store: &Store) -> anyhow::Result<Side> {
        Ok(Side {
            rows: Rows::of(&self.tree, store.spool())?,
            image: self.image,
            indexes: self.indexes,
            _opened: self._opened,
        })
    }

    /// The number of the layer that someone means by its number from 1, its
    /// digest or diffID, or the beginning of one; counted from 0.
    ///
    /// # Errors
    /// [`Usage`] when there is none, or there are several.
    pub(super) fn layer(&self, text: &str) -> anyhow::Result<usize> {
        let layers = &self.image.manifest.layers;
        if let Ok(number) = text.parse::<usize>()
            && text.len() < 6
        {
            return match number.checked_sub(1).filter(|n| *n < layers.len()) {
                Some(layer) => Ok(layer),
                None => Err(Usage::error(format!(
                    "there is no layer {number}; the image has {}, the lowest is 1",
                    layers.len()
                ))),
            };
        }
        let diff_ids = &self.image.config.rootfs.diff_ids;
        let fits = |digest: &shiplap::digest::Digest| {
            digest.as_str().starts_with(text) || digest.encoded().starts_with(text)
        };
        let found: Vec<usize> = (0..layers.len())
            .filter(|n| fits(&layers[*n].digest) || fits(diff_ids[*n].digest()))
            .collect();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(Usage::error(format!("the image has no layer {text:?}"))),
            _ => Err(Usage::error(format!("several layers begin with {text:?}"))),
        }
    }

    /// What is at `path` in the finished image.
    ///
    /// # Errors
    /// When there is nothing; says which layer removed it.
    pub(super) fn find(&self, path: &str, follow: bool) -> anyhow::Result<(NodeId, InodeId)> {
        let tree = &self.tree;
        let found = tree.find(content::inside(path), follow)?;
        if let Some((node, inode)) = found.and_then(|n| Some((n, tree.now(n)?))) {
            return Ok((node, inode));
        }
        let mut here = Some(Tree::ROOT);
        for part in Path::new(path.trim_start_matches('/')).components() {
            here = here.and_then(|h| tree.child(h, part.as_os_str().as_bytes()));
        }
        let removed = here.and_then(|node| tree.versions(node).next());
        match removed {
            Some((layer, None)) => {
                let by = instructions(&self.image).get(layer).copied().unwrap_or("");
                let by = match by {
                    "" => String::new(),
                    by => format!(": {by}"),
                };
                anyhow::bail!("{path} was removed by layer {}{by}", layer + 1)
            }
            _ => anyhow::bail!("the image has no {path}"),
        }
    }
}

/// An image that is compared.
pub(super) struct Side {
    pub(super) image: Image,
    pub(super) indexes: Vec<Arc<LayerIndex>>,
    pub(super) rows: Rows,
    _opened: Opened,
}

impl Side {
    /// Opens a file.
    pub(super) fn open(&self, inode: &Inode) -> anyhow::Result<FileReader> {
        open_file(&self.image, &self.indexes, inode)
    }
}

fn open_file(
    image: &Image,
    indexes: &[Arc<LayerIndex>],
    inode: &Inode,
) -> anyhow::Result<FileReader> {
    let index = indexes.get(inode.layer);
    let index = index.ok_or_else(|| anyhow::anyhow!("the image has no such layer"))?;
    Ok(content::open(image, index, inode)?)
}

/// Which paths are wanted.
pub(super) struct Wanted {
    patterns: Option<Ignore>,
}

impl Wanted {
    /// Reads paths and patterns; all are wanted when there are none.
    ///
    /// # Errors
    /// [`Usage`] for a pattern that makes no sense.
    pub(super) fn new(patterns: &[String]) -> anyhow::Result<Self> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for pattern in patterns {
            let inner = pattern.trim_start_matches('/').trim_end_matches('/');
            if inner.is_empty() || inner == "." {
                return Ok(Self { patterns: None });
            }
            // Nothing that begins with ! is an exception here.
            let bytes = match inner.starts_with('!') {
                true => format!("[!]{}", &inner[1..]).into_bytes(),
                false => inner.as_bytes().to_vec(),
            };
            if has_wildcard(&bytes) && !pattern.contains('/') {
                all.push([b"**/", &bytes[..]].concat());
            }
            all.push(bytes);
        }
        if all.is_empty() {
            return Ok(Self { patterns: None });
        }
        let patterns = Ignore::from_patterns(all);
        let patterns = patterns.map_err(|e| Usage::error(e.to_string()))?;
        Ok(Self {
            patterns: Some(patterns),
        })
    }

    /// Whether all paths are.
    pub(super) fn has_all(&self) -> bool {
        self.patterns.is_none()
    }

    /// Whether `path`, or a directory that it is in, is wanted.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.patterns.as_ref().is_none_or(|p| p.ignored(path))
    }
}

/// A name, with where a link leads.
pub(super) fn name(name: &[u8], inode: &Inode) -> String {
    let name = String::from_utf8_lossy(name);
    match &inode.kind {
        Kind::Symlink { target } => format!("{name} -> {}", target.display()),
        Kind::Hardlink { target } => format!("{name} => {}", target.display()),
        _ => name.into_owned(),
    }
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::File { .. } => "file",
        Kind::Dir => "directory",
        Kind::Symlink { .. } => "symlink",
        Kind::Hardlink { .. } => "hardlink",
        Kind::Char { .. } => "char",
        Kind::Block { .. } => "block",
        Kind::Fifo => "fifo",
    }
}

/// Bytes that are text nearly always: what is none is also given as base64.
fn text_field(out: &mut Map<String, Value>, field: &str, bytes: &[u8]) {
    out.insert(field.into(), json!(String::from_utf8_lossy(bytes)));
    if std::str::from_utf8(bytes).is_err() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
        out.insert(format!("{field}_base64"), json!(encoded));
    }
}

/// What is known of an entry, as JSON.
pub(super) fn entry_json(path: &Path, inode: &Inode) -> Map<String, Value> {
    let mut out = Map::new();
    let absolute = [b"/", path.as_os_str().as_bytes()].concat();
    text_field(&mut out, "path", &absolute);
    let meta = &inode.meta;
    out.insert("type".into(), json!(kind_name(&inode.kind)));
    out.insert("size".into(), json!(inode.size()));
    out.insert("mode".into(), json!(format!("{:04o}", meta.mode)));
    out.insert("uid".into(), json!(meta.uid));
    out.insert("gid".into(), json!(meta.gid));
    out.insert("mtime".into(), json!(time(meta.mtime)));
    out.insert("layer".into(), json!(inode.layer + 1));
    match &inode.kind {
        Kind::Symlink { target } | Kind::Hardlink { target } => {
            text_field(&mut out, "target", target.as_os_str().as_bytes());
        }
        Kind::Char { major, minor } | Kind::Block { major, minor } => {
            out.insert("device".into(), json!([major, minor]));
        }
        _ => {}
    }
    if let Some(digest) = inode.digest {
        let digest = shiplap::digest::Digest::from(digest);
        out.insert("digest".into(), json!(digest));
    }
    if !meta.xattrs.is_empty() {
        let engine = base64::engine::general_purpose::STANDARD;
        let values = meta.xattrs.iter().map(|(name, value)| {
            let name = String::from_utf8_lossy(name).into_owned();
            (name, json!(engine.encode(value)))
        });
        out.insert("xattrs".into(), Value::Object(values.collect()));
    }
    out
}

/// An instruction on one line, cut to `widest` characters.
pub(super) fn instruction(text: &str, widest: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= widest {
        return line;
    }
    let mut cut: String = line.chars().take(widest.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use shiplap::layer::Meta;

    #[test]
    fn modes_read_as_in_ls() {
        let shown = |kind, mode| {
            let meta = Meta {
                mode,
                ..Meta::default()
            };
            mode_of(kind, meta)
        };
        fn mode_of(kind: Kind, meta: Meta) -> String {
            mode(&Inode {
                kind,
                meta,
                digest: None,
                layer: 0,
                origin: None,
            })
        }
        assert_eq!(shown(Kind::Dir, 0o1777), "drwxrwxrwt");
        assert_eq!(shown(Kind::File { size: 1 }, 0o4755), "-rwsr-xr-x");
        assert_eq!(shown(Kind::File { size: 1 }, 0o6640), "-rwSr-S---");
        assert_eq!(shown(Kind::Fifo, 0), "p---------");
    }

    #[test]
    fn patterns_choose_paths() {
        let wanted = |patterns: &[&str], path: &str| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            Wanted::new(&patterns).unwrap().has(Path::new(path))
        };
        for (patterns, path, is) in [
            (&[][..], "a", true),
            (&["/"], "a", true),
            (&["/etc"], "etc/passwd", true),
            (&["etc/"], "etc", true),
            (&["etc"], "usr/etc", false),
            (&["*.so"], "usr/lib/a.so", true),
            (&["usr/*.so"], "usr/lib/a.so", false),
            (&["/usr/**/*.so"], "usr/lib/x/a.so", true),
            (&["a", "b"], "b", true),
            (&["!a"], "!a", true),
            (&["!a"], "b", false),
        ] {
            assert_eq!(wanted(patterns, path), is, "{patterns:?} {path}");
        }
    }

    #[test]
    fn instructions_are_cut_to_one_line() {
        assert_eq!(instruction("RUN a \\\n  b", 60), "RUN a \\ b");
        assert_eq!(instruction(&"é".repeat(100), 60).chars().count(), 60);
    }
}
