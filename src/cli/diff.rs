//! `shiplap diff`: what differs between two images.

use std::io::Read;
use std::path::Path;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use shiplap::layer::Kind;
use shiplap::look::diff::{self, FieldChange, FileChange};
use shiplap::look::{Aspect, Aspects, Inode, InodeId};
use similar::TextDiff;

use super::error::Negative;
use super::files::{self, Looked, Wanted};
use super::image::ImageAccess;
use super::{Format, Session};
use crate::ui::{escape, format, output};

const EXAMPLES: &str = "\
Examples:
  Why did the digest change?
    shiplap diff app:1 app:2

  Two builds that should be the same but for times
    shiplap diff --ignore mtime,history app:1 docker://reg.example/app:1

  Configuration files only
    shiplap diff app:1 app:2 /etc

In JSON: equal, a and b (name, digest), config and history (field, before,
after), layers (status, a, b), files (path, status, aspects, before, after as
in tree, text_diff) and counts (added, removed, changed).";

/// Show what differs between two images
///
/// Compares configs, histories, layers, and files by content, mode, owner, time,
/// extended attributes and links. Small text files are shown line by line. The
/// exit code is 1 when the images differ in anything that is not ignored.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DiffArgs {
    /// The first image, as for the other commands: a name in the store or a
    /// registry, docker://NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE,
    /// dir:DIR
    #[arg(value_name = "A")]
    a: String,
    /// The second one
    #[arg(value_name = "B")]
    b: String,
    /// Compare only files at these paths, or patterns
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// What does not count
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT")]
    ignore: Vec<Ignored>,
    /// Don't show how text files differ
    #[arg(long)]
    no_text: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    access: ImageAccess,
}

/// What a comparison may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ignored {
    Config,
    History,
    Layers,
    Files,
    Kind,
    Content,
    Link,
    Device,
    Mode,
    Owner,
    Mtime,
    Xattr,
    Hardlink,
}

impl Ignored {
    fn aspect(self) -> Option<Aspect> {
        Some(match self {
            Self::Config | Self::History | Self::Layers | Self::Files => return None,
            Self::Kind => Aspect::Kind,
            Self::Content => Aspect::Content,
            Self::Link => Aspect::Link,
            Self::Device => Aspect::Device,
            Self::Mode => Aspect::Mode,
            Self::Owner => Aspect::Owner,
            Self::Mtime => Aspect::Mtime,
            Self::Xattr => Aspect::Xattr,
            Self::Hardlink => Aspect::Hardlink,
        })
    }
}

/// Largest text file that is shown line by line, in bytes.
const MAX_TEXT: u64 = 64 << 10;
/// Lines that such a file may have.
const MAX_LINES: usize = 2000;
/// How many are shown.
const MAX_TEXTS: usize = 50;
/// Longest value of a field that is shown, in characters.
const MAX_VALUE: usize = 300;

/// All that differs.
struct Differences {
    config: Vec<FieldChange>,
    history: Vec<FieldChange>,
    layers: Vec<(Option<usize>, Option<usize>)>,
    files: Vec<(FileChange, Option<String>)>,
}

impl DiffArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let wanted = Wanted::new(&self.paths)?;
        let store = session.store()?;
        let open = |name: &str| {
            let opened = self.access.open(session, &store, name)?;
            files::look_at(session, opened)
        };
        let (a, b) = (open(&self.a)?, open(&self.b)?);
        let found = self.compare(&a, &b, &wanted)?;
        let equal = found.config.is_empty()
            && found.history.is_empty()
            && found.files.is_empty()
            && found.layers.iter().all(|(x, y)| x.is_some() && y.is_some());
        match self.format {
            Format::Text => output::result(&self.text(&a, &b, &found, equal))?,
            Format::Json => output::json(&self.report(&a, &b, &found, equal))?,
        }
        if equal { Ok(()) } else { Err(Negative.into()) }
    }

    fn compare(&self, a: &Looked, b: &Looked, wanted: &Wanted) -> anyhow::Result<Differences> {
        // Paths ask for files only.
        let all = self.paths.is_empty();
        let compares = |what| all && !self.ignore.contains(&what);
        let (x, y) = (&a.image, &b.image);
        let mut found = Differences {
            config: Vec::new(),
            history: Vec::new(),
            layers: Vec::new(),
            files: Vec::new(),
        };
        if compares(Ignored::Config) {
            found.config = diff::fields(&diff::config(x), &diff::config(y));
        }
        if compares(Ignored::History) {
            found.history = diff::fields(&diff::history(x), &diff::history(y));
        }
        if compares(Ignored::Layers) {
            found.layers = diff::layers(&x.manifest.layers, &y.manifest.layers);
        }
        if self.ignore.contains(&Ignored::Files) {
            return Ok(found);
        }
        let ignore: Aspects = self.ignore.iter().filter_map(|i| i.aspect()).collect();
        let mut texts = 0;
        for change in diff::files(&a.tree, &b.tree, ignore) {
            if !wanted.has(&change.path) {
                continue;
            }
            let mut lines = None;
            if !self.no_text && texts < MAX_TEXTS && change.aspects.has(Aspect::Content) {
                lines = text_diff(a, b, &change)?;
                texts += usize::from(lines.is_some());
            }
            found.files.push((change, lines));
        }
        Ok(found)
    }

    fn text(&self, a: &Looked, b: &Looked, found: &Differences, equal: bool) -> String {
        let mut out = format!(
            "--- {}  {}\n+++ {}  {}\n",
            escape::text(&self.a),
            a.image.descriptor.digest,
            escape::text(&self.b),
            b.image.descriptor.digest
        );
        if equal {
            let same = a.image.descriptor.digest == b.image.descriptor.digest;
            out.push_str(match same {
                true => "\nthe images are the same\n",
                false => "\nnothing else differs\n",
            });
            return out;
        }
        for (title, changes) in [("config", &found.config), ("history", &found.history)] {
            if !changes.is_empty() {
                out.push_str(&format!("\n{title}:\n"));
                changes.iter().for_each(|c| out.push_str(&field_line(c)));
            }
        }
        if found.layers.iter().any(|(x, y)| x.is_none() || y.is_none()) {
            out.push_str("\nlayers:\n");
            for pair in &found.layers {
                out.push_str(&layer_line(a, b, pair));
            }
        }
        if !found.files.is_empty() {
            let [added, removed, changed] = counts(&found.files);
            out.push_str(&format!(
                "\nfiles: {added} added, {removed} removed, {changed} changed\n"
            ));
            for (change, lines) in &found.files {
                out.push_str(&file_line(a, b, change));
                for line in lines.iter().flat_map(|l| l.lines()) {
                    out.push_str(&format!("      {}\n", escape::text(line)));
                }
            }
        }
        out
    }

    fn report(&self, a: &Looked, b: &Looked, found: &Differences, equal: bool) -> Value {
        let fields = |changes: &[FieldChange]| -> Vec<Value> {
            changes
                .iter()
                .map(|c| json!({"field": c.field, "before": c.before, "after": c.after}))
                .collect()
        };
        let layer = |looked: &Looked, number: Option<usize>| {
            number.map(|n| {
                let layer = &looked.image.manifest.layers[n];
                json!({
                    "number": n + 1,
                    "digest": layer.digest,
                    "diff_id": looked.indexes[n].diff_id,
                    "size": layer.size,
                })
            })
        };
        let layers: Vec<Value> = found
            .layers
            .iter()
            .map(|(x, y)| {
                let status = status(x.is_some(), y.is_some(), "same");
                json!({"status": status, "a": layer(a, *x), "b": layer(b, *y)})
            })
            .collect();
        let files: Vec<Map<String, Value>> = found
            .files
            .iter()
            .map(|(change, lines)| file_json(a, b, change, lines.as_deref()))
            .collect();
        let [added, removed, changed] = counts(&found.files);
        json!({
            "equal": equal,
            "a": {"name": self.a, "digest": a.image.descriptor.digest},
            "b": {"name": self.b, "digest": b.image.descriptor.digest},
            "config": fields(&found.config),
            "history": fields(&found.history),
            "layers": layers,
            "files": files,
            "counts": {"added": added, "removed": removed, "changed": changed},
        })
    }
}

fn status(before: bool, after: bool, both: &'static str) -> &'static str {
    match (before, after) {
        (true, true) => both,
        (false, _) => "added",
        (true, false) => "removed",
    }
}

fn counts(files: &[(FileChange, Option<String>)]) -> [usize; 3] {
    let mut counts = [0; 3];
    for (change, _) in files {
        let at = match (change.before, change.after) {
            (None, _) => 0,
            (_, None) => 1,
            _ => 2,
        };
        counts[at] += 1;
    }
    counts
}

fn field_line(change: &FieldChange) -> String {
    let show = |value: &Option<Value>| {
        value.as_ref().map(|v| {
            let text = v.to_string();
            match text.chars().count() > MAX_VALUE {
                true => text.chars().take(MAX_VALUE).chain(['…']).collect(),
                false => text,
            }
        })
    };
    let text = match (show(&change.before), show(&change.after)) {
        (Some(before), Some(after)) => format!("~ {}: {before} -> {after}", change.field),
        (Some(before), None) => format!("- {}: {before}", change.field),
        (None, after) => format!("+ {}: {}", change.field, after.unwrap_or_default()),
    };
    format!("  {}\n", escape::text(&text))
}

fn layer_line(a: &Looked, b: &Looked, pair: &(Option<usize>, Option<usize>)) -> String {
    let (mark, looked, other, number) = match pair {
        (Some(n), Some(_)) => ('=', a, b, *n),
        (Some(n), None) => ('-', a, b, *n),
        (None, Some(n)) => ('+', b, a, *n),
        (None, None) => return String::new(),
    };
    let layer = &looked.image.manifest.layers[number];
    let size = format::size(layer.size);
    // The same tar under another digest is only compressed otherwise.
    let diff_id = &looked.indexes[number].diff_id;
    let again = other.indexes.iter().any(|index| index.diff_id == *diff_id);
    let note = match mark != '=' && again {
        true => "  (the other image has it, compressed otherwise)",
        false => "",
    };
    format!(
        "  {mark} {:>3}  {}  {size:>8}{note}\n",
        number + 1,
        layer.digest
    )
}

fn file_line(a: &Looked, b: &Looked, change: &FileChange) -> String {
    let path = format!("/{}", change.path.display());
    let before = change.before.map(|id| a.tree.inode(id));
    let after = change.after.map(|id| b.tree.inode(id));
    let line = match (before, after) {
        (Some(x), Some(y)) => {
            let parts: Vec<String> = change.aspects.iter().map(|at| aspect(at, x, y)).collect();
            format!("~ {path}: {}", parts.join(", "))
        }
        (Some(x), None) => format!("- {path}  {}", described(x)),
        (None, Some(y)) => format!("+ {path}  {}", described(y)),
        (None, None) => return String::new(),
    };
    format!("  {}\n", escape::text(&line))
}

fn described(inode: &Inode) -> String {
    let (mode, owner) = (files::mode(inode), files::owner(inode));
    match &inode.kind {
        Kind::File { size } => format!("{mode} {owner} {}", format::size(*size)),
        Kind::Symlink { target } => format!("{mode} {owner} -> {}", target.display()),
        _ => format!("{mode} {owner}"),
    }
}

/// In what two entries differ, in words.
fn aspect(aspect: Aspect, before: &Inode, after: &Inode) -> String {
    let (x, y) = (&before.meta, &after.meta);
    let name = aspect.name();
    match aspect {
        Aspect::Content => match (before.size(), after.size()) {
            (x, y) if x == y => format!("content ({} as before)", format::size(x)),
            (x, y) => format!("content ({} -> {})", format::size(x), format::size(y)),
        },
        Aspect::Mode => format!("mode {:04o} -> {:04o}", x.mode, y.mode),
        Aspect::Owner => format!("owner {} -> {}", files::owner(before), files::owner(after)),
        Aspect::Mtime => format!("mtime {} -> {}", files::time(x.mtime), files::time(y.mtime)),
        Aspect::Kind => format!(
            "kind {} -> {}",
            &files::mode(before)[..1],
            &files::mode(after)[..1]
        ),
        Aspect::Link => match (&before.kind, &after.kind) {
            (Kind::Symlink { target: x }, Kind::Symlink { target: y }) => {
                format!("link {} -> {}", x.display(), y.display())
            }
            _ => name.to_owned(),
        },
        Aspect::Xattr => {
            let differs = |n: &&Vec<u8>| x.xattrs.get(*n) != y.xattrs.get(*n);
            let mut names: Vec<&Vec<u8>> = x.xattrs.keys().chain(y.xattrs.keys()).collect();
            names.sort();
            names.dedup();
            let names: Vec<String> = names
                .into_iter()
                .filter(differs)
                .map(|n| String::from_utf8_lossy(n).into_owned())
                .collect();
            format!("xattr {}", names.join(" "))
        }
        Aspect::Device | Aspect::Hardlink => name.to_owned(),
    }
}

fn file_json(
    a: &Looked,
    b: &Looked,
    change: &FileChange,
    lines: Option<&str>,
) -> Map<String, Value> {
    let path = Path::new(&change.path);
    let entry = |looked: &Looked, id: Option<InodeId>| {
        id.map(|id| files::entry_json(path, looked.tree.inode(id)))
    };
    let (before, after) = (entry(a, change.before), entry(b, change.after));
    let mut out = Map::new();
    let known = before.as_ref().or(after.as_ref());
    for field in ["path", "path_base64"] {
        if let Some(value) = known.and_then(|entry| entry.get(field)) {
            out.insert(field.into(), value.clone());
        }
    }
    let status = status(before.is_some(), after.is_some(), "changed");
    out.insert("status".into(), json!(status));
    let aspects: Vec<&str> = change.aspects.iter().map(Aspect::name).collect();
    out.insert("aspects".into(), json!(aspects));
    out.insert("before".into(), json!(before));
    out.insert("after".into(), json!(after));
    if let Some(lines) = lines {
        out.insert("text_diff".into(), json!(lines));
    }
    out
}

/// How two small text files differ; `None` where they are none.
fn text_diff(a: &Looked, b: &Looked, change: &FileChange) -> anyhow::Result<Option<String>> {
    let read = |looked: &Looked, id: Option<InodeId>| -> anyhow::Result<Option<String>> {
        let Some(inode) = id.map(|id| looked.tree.inode(id)) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        match inode.kind {
            Kind::File { size: 0 } => {}
            Kind::File { size } if size <= MAX_TEXT => {
                looked.open(inode)?.take(MAX_TEXT).read_to_end(&mut bytes)?;
            }
            _ => return Ok(None),
        }
        let text = String::from_utf8(bytes).ok();
        Ok(text.filter(|t| !t.contains('\0') && t.lines().count() <= MAX_LINES))
    };
    let sizes = [(a, change.before), (b, change.after)];
    let small = sizes
        .iter()
        .all(|(looked, id)| id.is_some_and(|id| looked.tree.inode(id).size() <= MAX_TEXT));
    if !small {
        return Ok(None);
    }
    let (Some(x), Some(y)) = (read(a, change.before)?, read(b, change.after)?) else {
        return Ok(None);
    };
    let lines = TextDiff::from_lines(x.as_str(), y.as_str());
    Ok(Some(lines.unified_diff().context_radius(2).to_string()))
}
