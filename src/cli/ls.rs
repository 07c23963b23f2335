//! `shiplap ls` and `cat`: one directory or file of an image.

use clap::Args;
use serde_json::{Map, Value, json};
use shiplap::layer::Kind;
use shiplap::look::{InodeId, NodeId};

use super::files::{self, Looked};
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
        let mut text = String::new();
        let mut list: Vec<Map<String, Value>> = Vec::new();
        let several = self.recursive || self.paths.len() > 1;
        for path in &self.paths {
            let (node, inode) = match looked.find(path, true) {
                // A link that leads nowhere is still something.
                Err(e) => looked.find(path, false).map_err(|_| e)?,
                Ok(found) => found,
            };
            if self.directory || !looked.tree.inode(inode).is_dir() {
                let name = path.as_bytes();
                text.push_str(&self.lines(&looked, &[(node, inode, name)]));
                list.push(entry(&looked, node, inode));
                continue;
            }
            let mut todo = vec![node];
            while let Some(dir) = todo.pop() {
                let children = looked.tree.children(dir).iter();
                let rows: Vec<(NodeId, InodeId, &[u8])> = children
                    .filter_map(|n| Some((*n, looked.tree.now(*n)?, looked.tree.name(*n))))
                    .collect();
                if several {
                    let shown = looked.tree.path(dir);
                    let gap = if text.is_empty() { "" } else { "\n" };
                    let shown = escape::text(&shown.display().to_string()).into_owned();
                    text.push_str(&format!("{gap}/{shown}:\n"));
                }
                text.push_str(&self.lines(&looked, &rows));
                list.extend(rows.iter().map(|(n, i, _)| entry(&looked, *n, *i)));
                if self.recursive {
                    let below = rows.iter().rev();
                    let below = below.filter(|(_, i, _)| looked.tree.inode(*i).is_dir());
                    todo.extend(below.map(|(n, ..)| *n));
                }
            }
        }
        match self.format {
            Format::Text => output::result(&text),
            Format::Json => output::json(&json!({"files": list})),
        }
    }

    fn lines(&self, looked: &Looked, rows: &[(NodeId, InodeId, &[u8])]) -> String {
        let mut out = String::new();
        if !self.long {
            for (_, _, name) in rows {
                let name = String::from_utf8_lossy(name);
                out.push_str(&format!("{}\n", escape::text(&name)));
            }
            return out;
        }
        let cells: Vec<[String; 5]> = rows
            .iter()
            .map(|(_, id, name)| {
                let inode = looked.tree.inode(*id);
                let size = match inode.kind {
                    Kind::Char { major, minor } | Kind::Block { major, minor } => {
                        format!("{major}, {minor}")
                    }
                    _ => format::size(inode.size()),
                };
                let name = escape::text(&files::name(name, inode)).into_owned();
                let time = files::time(inode.meta.mtime);
                [files::mode(inode), files::owner(inode), size, time, name]
            })
            .collect();
        let width = |n: usize| cells.iter().map(|c| c[n].len()).max().unwrap_or(0);
        let (owners, sizes, times) = (width(1), width(2), width(3));
        for [mode, owner, size, time, name] in &cells {
            out.push_str(&format!(
                "{mode}  {owner:<owners$}  {size:>sizes$}  {time:<times$}  {name}\n"
            ));
        }
        out
    }
}

fn entry(looked: &Looked, node: NodeId, inode: InodeId) -> Map<String, Value> {
    files::entry_json(&looked.tree.path(node), looked.tree.inode(inode))
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
            let inode = looked.tree.inode(looked.find(path, true)?.1);
            match inode.kind {
                Kind::File { .. } => found.push(inode),
                Kind::Dir => anyhow::bail!("{path} is a directory; see shiplap ls"),
                _ => anyhow::bail!("{path} is no regular file"),
            }
        }
        for inode in found {
            output::copy(looked.open(inode)?)?;
        }
        Ok(())
    }
}
