//! `shiplap ls` and `cat`: one directory or file of an image.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use shiplap::layer::Kind;
use shiplap::look::{InodeId, NodeId};

use super::files::{self, Lazy, Looked};
use super::image::ImageArgs;
use super::{Format, Session};
use crate::ui::{escape, format, output};

const LS_EXAMPLES: &str = "\
Examples:
    shiplap ls app:1
    shiplap ls -l app:1 /etc
    shiplap ls -R docker://reg.example/app:1 /srv

In JSON each entry has what tree has.";

const CAT_EXAMPLES: &str = "\
Examples:
    shiplap cat app:1 /etc/os-release
    shiplap cat docker-archive:app.tar /app/binary > binary";

/// List a directory of an image
#[derive(Debug, Args)]
#[command(after_help = LS_EXAMPLES)]
pub(super) struct LsArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Directories or files; links are followed inside the image
    #[arg(value_name = "PATH", default_value = "/")]
    paths: Vec<String>,
    /// Show mode, owner, size and time of each entry
    #[arg(short)]
    long: bool,
    /// Show all directories below too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Show the directories themselves, not what is in them
    #[arg(short, long)]
    directory: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl LsArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let looked = files::look(session, &self.image)?;
        let mut found = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            let (node, inode) = match looked.find(path, true) {
                // A link that leads nowhere is still something.
                Err(e) => looked.find(path, false).map_err(|_| e)?,
                Ok(found) => found,
            };
            let is_listed = !self.directory && looked.tree.is_dir(inode);
            found.push(match is_listed {
                true => Found::Dir(node),
                false => Found::Entry(path, node, inode),
            });
        }
        match self.format {
            Format::Text => output::stream(|out| Ok(self.text(&looked, &found, out)?)),
            Format::Json => output::json(&Report {
                files: Lazy(|| {
                    let all = found.iter().flat_map(|found| self.entries(&looked, found));
                    all.map(|(node, inode)| entry(&looked, node, inode))
                }),
            }),
        }
    }

    /// What is listed of `found`.
    fn entries(&self, looked: &Looked, found: &Found<'_>) -> impl Iterator<Item = Row> {
        let (own, dir) = match found {
            Found::Dir(node) => (None, Some(*node)),
            Found::Entry(_, node, inode) => (Some((*node, *inode)), None),
        };
        let dirs = dir.into_iter().flat_map(|dir| self.dirs(looked, dir));
        own.into_iter()
            .chain(dirs.flat_map(|dir| rows(looked, dir)))
    }

    /// The directory, and if wanted all below it.
    fn dirs(&self, looked: &Looked, dir: NodeId) -> impl Iterator<Item = NodeId> {
        let mut todo = vec![dir];
        std::iter::from_fn(move || {
            let dir = todo.pop()?;
            if self.recursive {
                let begins = todo.len();
                let below = rows(looked, dir).filter(|(_, i)| looked.tree.is_dir(*i));
                todo.extend(below.map(|(node, _)| node));
                todo[begins..].reverse();
            }
            Some(dir)
        })
    }

    fn text(&self, looked: &Looked, found: &[Found<'_>], out: &mut dyn Write) -> io::Result<()> {
        let several = self.recursive || self.paths.len() > 1;
        let mut gap = "";
        for found in found {
            let dir = match found {
                Found::Dir(dir) => *dir,
                Found::Entry(path, node, inode) => {
                    let row = (*node, *inode, path.as_bytes());
                    self.lines(looked, || std::iter::once(row), out)?;
                    gap = "\n";
                    continue;
                }
            };
            for dir in self.dirs(looked, dir) {
                if several {
                    let shown = looked.tree.path(dir).display().to_string();
                    writeln!(out, "{gap}/{}:", escape::text(&shown))?;
                    gap = "\n";
                }
                let named = || rows(looked, dir).map(|(n, i)| (n, i, looked.tree.name(n)));
                self.lines(looked, named, out)?;
            }
        }
        Ok(())
    }

    fn lines<'a, I: Iterator<Item = (NodeId, InodeId, &'a [u8])>>(
        &self,
        looked: &Looked,
        rows: impl Fn() -> I,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        if !self.long {
            for (_, _, name) in rows() {
                let name = String::from_utf8_lossy(name);
                writeln!(out, "{}", escape::text(&name))?;
            }
            return Ok(());
        }
        let cells = |(_, id, name): (NodeId, InodeId, &[u8])| {
            let inode = looked.tree.inode(id)?;
            let size = match inode.kind {
                Kind::Char { major, minor } | Kind::Block { major, minor } => {
                    format!("{major}, {minor}")
                }
                _ => format::size(inode.size()),
            };
            let name = escape::text(&files::name(name, &inode)).into_owned();
            let time = files::time(inode.meta.mtime);
            Ok::<_, io::Error>([files::mode(&inode), files::owner(&inode), size, time, name])
        };
        let (mut owners, mut sizes, mut times) = (0, 0, 0);
        for row in rows() {
            let [_, owner, size, time, _] = cells(row)?;
            owners = owners.max(owner.len());
            sizes = sizes.max(size.len());
            times = times.max(time.len());
        }
        for row in rows() {
            let [mode, owner, size, time, name] = cells(row)?;
            writeln!(
                out,
                "{mode}  {owner:<owners$}  {size:>sizes$}  {time:<times$}  {name}"
            )?;
        }
        Ok(())
    }
}

/// What a path leads to.
enum Found<'a> {
    /// A directory that is listed.
    Dir(NodeId),
    /// Anything else, with the path as it was given.
    Entry(&'a str, NodeId, InodeId),
}

type Row = (NodeId, InodeId);

#[derive(Serialize)]
struct Report<T: Serialize> {
    files: T,
}

/// What is in a directory.
fn rows(looked: &Looked, dir: NodeId) -> impl Iterator<Item = Row> {
    let children = looked.tree.children(dir).iter();
    children.filter_map(|node| Some((*node, looked.tree.now(*node)?)))
}

fn entry(looked: &Looked, node: NodeId, inode: InodeId) -> io::Result<Map<String, Value>> {
    let inode = looked.tree.inode(inode)?;
    Ok(files::entry_json(&looked.tree.path(node), &inode))
}

/// Print a file of an image
///
/// Links are followed inside the image. Where the layer was looked at before,
/// only the part of it that holds the file is read, from a registry too if it
/// serves ranges; the content is verified.
#[derive(Debug, Args)]
#[command(after_help = CAT_EXAMPLES)]
pub(super) struct CatArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Files, printed one behind the other
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
}

impl CatArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let looked = files::look(session, &self.image)?;
        let mut found = Vec::new();
        for path in &self.paths {
            let inode = looked.tree.inode(looked.find(path, true)?.1)?;
            match inode.kind {
                Kind::File { .. } => found.push(inode),
                Kind::Dir => anyhow::bail!("{path} is a directory; see shiplap ls"),
                _ => anyhow::bail!("{path} is no regular file"),
            }
        }
        for inode in found {
            output::copy(looked.open(&inode)?)?;
        }
        Ok(())
    }
}
