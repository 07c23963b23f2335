//! `shiplap diff`: what differs between two images.

use std::io::{self, Read, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shiplap::layer::Kind;
use shiplap::look::diff::{self, FieldChange, FileChange};
use shiplap::look::{Aspect, Aspects, Inode};
use similar::TextDiff;

use super::error::Negative;
use super::files::{self, Lazy, Side, Wanted};
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
    /// Files that are added, removed and changed.
    counts: [usize; 3],
    /// How text files differ: the number of the file among those that do.
    texts: Vec<(usize, String)>,
}

impl DiffArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let wanted = Wanted::new(&self.paths)?;
        let store = session.store()?;
        let open = |name: &str| {
            let opened = self.access.open(session, &store, name)?;
            files::look_at(session, opened)?.into_rows(&store)
        };
        let (a, b) = (open(&self.a)?, open(&self.b)?);
        let found = self.compare(&a, &b, &wanted)?;
        let equal = found.config.is_empty()
            && found.history.is_empty()
            && found.counts == [0; 3]
            && found.layers.iter().all(|(x, y)| x.is_some() && y.is_some());
        match self.format {
            Format::Text => {
                output::stream(|out| Ok(self.text(&a, &b, &wanted, &found, equal, out)?))?;
            }
            Format::Json => output::json(&self.report(&a, &b, &wanted, &found, equal))?,
        }
        if equal { Ok(()) } else { Err(Negative.into()) }
    }

    /// Files that differ, in order. They may be millions, so they are found
    /// again whenever they are asked for.
    fn files<'a>(
        &self,
        a: &'a Side,
        b: &'a Side,
        wanted: &'a Wanted,
    ) -> impl Iterator<Item = io::Result<FileChange>> + use<'a> {
        let ignore: Aspects = self.ignore.iter().filter_map(|i| i.aspect()).collect();
        let compares = !self.ignore.contains(&Ignored::Files);
        let changes = compares.then(|| diff::files(&a.rows, &b.rows, ignore));
        let changes = changes.into_iter().flatten();
        changes.filter(|change| change.as_ref().map_or(true, |c| wanted.has(&c.path)))
    }

    fn compare(&self, a: &Side, b: &Side, wanted: &Wanted) -> anyhow::Result<Differences> {
        // Paths ask for files only.
        let all = self.paths.is_empty();
        let compares = |what| all && !self.ignore.contains(&what);
        let (x, y) = (&a.image, &b.image);
        let mut found = Differences {
            config: Vec::new(),
            history: Vec::new(),
            layers: Vec::new(),
            counts: [0; 3],
            texts: Vec::new(),
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
        for (number, change) in self.files(a, b, wanted).enumerate() {
            let change = change?;
            found.counts[match (&change.before, &change.after) {
                (None, _) => 0,
                (_, None) => 1,
                _ => 2,
            }] += 1;
            let is_shown = !self.no_text && found.texts.len() < MAX_TEXTS;
            if is_shown
                && change.aspects.has(Aspect::Content)
                && let Some(lines) = text_diff(a, b, &change)?
            {
                found.texts.push((number, lines));
            }
        }
        Ok(found)
    }

    fn text(
        &self,
        a: &Side,
        b: &Side,
        wanted: &Wanted,
        found: &Differences,
        equal: bool,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        writeln!(
            out,
            "--- {}  {}\n+++ {}  {}",
            escape::text(&self.a),
            a.image.descriptor.digest,
            escape::text(&self.b),
            b.image.descriptor.digest
        )?;
        if equal {
            let same = a.image.descriptor.digest == b.image.descriptor.digest;
            return out.write_all(match same {
                true => b"\nthe images are the same\n",
                false => b"\nnothing else differs\n",
            });
        }
        for (title, changes) in [("config", &found.config), ("history", &found.history)] {
            if !changes.is_empty() {
                writeln!(out, "\n{title}:")?;
                for change in changes {
                    out.write_all(field_line(change).as_bytes())?;
                }
            }
        }
        if found.layers.iter().any(|(x, y)| x.is_none() || y.is_none()) {
            writeln!(out, "\nlayers:")?;
            for pair in &found.layers {
                out.write_all(layer_line(a, b, pair).as_bytes())?;
            }
        }
        if found.counts != [0; 3] {
            let [added, removed, changed] = found.counts;
            writeln!(
                out,
                "\nfiles: {added} added, {removed} removed, {changed} changed"
            )?;
            for (number, change) in self.files(a, b, wanted).enumerate() {
                out.write_all(file_line(&change?).as_bytes())?;
                for line in found.text_of(number).into_iter().flat_map(str::lines) {
                    writeln!(out, "      {}", escape::text(line))?;
                }
            }
        }
        Ok(())
    }

    fn report<'a>(
        &self,
        a: &'a Side,
        b: &'a Side,
        wanted: &'a Wanted,
        found: &'a Differences,
        equal: bool,
    ) -> impl Serialize + use<'a, '_> {
        let fields = |changes: &[FieldChange]| -> Vec<Value> {
            changes
                .iter()
                .map(|c| json!({"field": c.field, "before": c.before, "after": c.after}))
                .collect()
        };
        let layer = |side: &Side, number: Option<usize>| {
            number.map(|n| {
                let layer = &side.image.manifest.layers[n];
                json!({
                    "number": n + 1,
                    "digest": layer.digest,
                    "diff_id": side.indexes[n].diff_id,
                    "size": layer.size,
                })
            })
        };
        let layers = found.layers.iter().map(|(x, y)| {
            let status = status(x.is_some(), y.is_some(), "same");
            json!({"status": status, "a": layer(a, *x), "b": layer(b, *y)})
        });
        let [added, removed, changed] = found.counts;
        Report {
            a: json!({"name": self.a, "digest": a.image.descriptor.digest}),
            b: json!({"name": self.b, "digest": b.image.descriptor.digest}),
            config: fields(&found.config),
            counts: json!({"added": added, "removed": removed, "changed": changed}),
            equal,
            files: Lazy(move || {
                let changes = self.files(a, b, wanted).enumerate();
                changes.map(|(number, c)| Ok(file_json(&c?, found.text_of(number))))
            }),
            history: fields(&found.history),
            layers: layers.collect(),
        }
    }
}

impl Differences {
    /// How the file with this number among those that differ does.
    fn text_of(&self, number: usize) -> Option<&str> {
        let at = self.texts.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        Some(&self.texts[at].1)
    }
}

#[derive(Serialize)]
struct Report<F: Serialize> {
    a: Value,
    b: Value,
    config: Vec<Value>,
    counts: Value,
    equal: bool,
    files: F,
    history: Vec<Value>,
    layers: Vec<Value>,
}

fn status(before: bool, after: bool, both: &'static str) -> &'static str {
    match (before, after) {
        (true, true) => both,
        (false, _) => "added",
        (true, false) => "removed",
    }
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

fn layer_line(a: &Side, b: &Side, pair: &(Option<usize>, Option<usize>)) -> String {
    let (mark, side, other, number) = match pair {
        (Some(n), Some(_)) => ('=', a, b, *n),
        (Some(n), None) => ('-', a, b, *n),
        (None, Some(n)) => ('+', b, a, *n),
        (None, None) => return String::new(),
    };
    let layer = &side.image.manifest.layers[number];
    let size = format::size(layer.size);
    // The same tar under another digest is only compressed otherwise.
    let diff_id = &side.indexes[number].diff_id;
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

fn file_line(change: &FileChange) -> String {
    let path = format!("/{}", change.path.display());
    let line = match (&change.before, &change.after) {
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

fn file_json(change: &FileChange, lines: Option<&str>) -> Map<String, Value> {
    let entry = |inode: &Inode| files::entry_json(&change.path, inode);
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    let (before, after) = (before.map(entry), after.map(entry));
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
fn text_diff(a: &Side, b: &Side, change: &FileChange) -> anyhow::Result<Option<String>> {
    let read = |side: &Side, inode: &Inode| -> anyhow::Result<Option<String>> {
        let mut bytes = Vec::new();
        match inode.kind {
            Kind::File { size: 0 } => {}
            Kind::File { size } if size <= MAX_TEXT => {
                side.open(inode)?.take(MAX_TEXT).read_to_end(&mut bytes)?;
            }
            _ => return Ok(None),
        }
        let text = String::from_utf8(bytes).ok();
        Ok(text.filter(|t| !t.contains('\0') && t.lines().count() <= MAX_LINES))
    };
    let (Some(before), Some(after)) = (&change.before, &change.after) else {
        return Ok(None);
    };
    if before.size() > MAX_TEXT || after.size() > MAX_TEXT {
        return Ok(None);
    }
    let (Some(x), Some(y)) = (read(a, before)?, read(b, after)?) else {
        return Ok(None);
    };
    let lines = TextDiff::from_lines(x.as_str(), y.as_str());
    Ok(Some(lines.unified_diff().context_radius(2).to_string()))
}
