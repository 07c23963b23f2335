//! What a source of COPY or ADD means in a tree.
//!
//! A source is a path or a pattern. Links on the way to it and the source
//! itself, if it is one, are followed inside the tree; links met below it are
//! entries like any other. A pattern that matches nothing selects nothing, a
//! path that isn't there is an error.
//!
//! # Specification
//! Dockerfile reference, COPY and ADD: sources, `--parents`, `--exclude`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digests::Digests;
use super::entries::{Entries, NewFile};
use super::glob::{BadPattern, Glob, has_wildcard};
use super::ignore::{Ignore, IgnoreError, tidy};
use super::picked::Picked;
use super::similar::similar;
use super::walk::{self, Listed, Walked};
use super::{DirNames, Node, Tree};
use crate::digest::Digest;
use crate::layer::Kind;

/// Deepest tree that is copied.
const MAX_DEPTH: usize = 4096;

/// Why a source can't be selected.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// There is no such path.
    #[error("{path:?} not found{}", hint(path, *.left_out, .similar))]
    NotFound {
        /// The source as it was written.
        path: String,
        /// Whether an ignore file leaves it out.
        left_out: bool,
        /// A name that is there and looks much like it.
        similar: Option<String>,
    },
    /// A source is a link that leads nowhere.
    #[error("{path:?} is a symbolic link to {target:?}, which does not exist in this tree")]
    Dangling {
        /// The link.
        path: PathBuf,
        /// Its text.
        target: PathBuf,
    },
    /// The pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    /// A pattern of `--exclude` or `--parents` is malformed.
    #[error("{}", .0.fault)]
    Exclude(#[from] IgnoreError),
    /// The tree is deeper than can be copied.
    #[error("{0:?} is nested too deeply")]
    TooDeep(PathBuf),
    /// Something can't be read.
    #[error("reading the source {path:?}")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn hint(path: &str, left_out: bool, similar: &Option<String>) -> String {
    match (left_out, similar) {
        (true, _) => ": the ignore file excludes it".into(),
        _ if path == ".." || path.starts_with("../") => {
            "; `..` does not lead out of the tree, as nothing outside of it can be copied".into()
        }
        (false, Some(name)) => format!("; did you mean {name:?}?"),
        (false, None) => String::new(),
    }
}

/// One entry that was selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path below the match, or its own name where it is a match of a
    /// pattern; empty for what a path stands for.
    pub name: PathBuf,
    /// Where it is in the tree, without links, for what a pattern stands for.
    pub place: Option<PathBuf>,
    /// It is a match of a pattern.
    pub itself: bool,
    /// What the tree says of it, with extended attributes.
    pub node: Node,
    /// It is a directory that leads to selected entries, or one that a pattern
    /// of `--parents` picked: where the destination has it already, it keeps
    /// its owner and time there.
    pub passage: bool,
    /// Which of the selection's files it is a name of, for a file.
    pub file: Option<u32>,
    /// How many entries before it the first name of the same file is; 0 for
    /// the first.
    pub back: u64,
}

/// What a source stands for.
#[derive(Debug)]
pub struct Match {
    /// What that is.
    pub of: Of,
    /// Where it is in the tree, without links; the root for a pattern.
    pub path: PathBuf,
    /// What is below the match, in path order. For a pattern, all matches that
    /// are no directories and all that is below the others, match by match in
    /// the order they were found in: there may be millions.
    pub below: Arc<Entries>,
    /// Bytes that the files have together.
    pub bytes: u64,
}

/// What a source is.
#[derive(Debug)]
pub enum Of {
    /// A path.
    Path {
        /// The last component of the name by which it was found, links not
        /// followed; empty for the root.
        name: OsString,
        /// What is there.
        top: Box<Found>,
    },
    /// A pattern, with one match at least.
    Pattern(Kinds),
}

/// What the matches of a pattern are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kinds {
    /// There are directories.
    pub dirs: bool,
    /// There is something else.
    pub others: bool,
    /// The first one is a directory.
    pub dir_first: bool,
}

impl Kinds {
    pub(crate) fn add_dir(&mut self) {
        self.dir_first |= !self.others;
        self.dirs = true;
    }
}

/// What a source selects.
#[derive(Debug)]
pub struct Selection {
    /// `None` where a pattern matches nothing.
    pub found: Option<Match>,
    /// How many files there are, those with several names counted once.
    pub(super) files: u32,
    /// The digest of all but the contents of files.
    pub(super) shape: Digest,
    /// The digests of all files that are known, until
    /// [contents](super::checksum::Contents) have them.
    pub(super) known: Digests,
}

impl Match {
    /// Where an entry of the match is in the tree.
    pub fn path_of(&self, entry: &Found) -> PathBuf {
        entry.path_in(&self.path)
    }
}

impl Found {
    /// Where it is in the tree, an entry of a match at `path`.
    pub(super) fn path_in(&self, path: &Path) -> PathBuf {
        match &self.place {
            Some(place) => place.clone(),
            None if self.name.as_os_str().is_empty() => path.to_owned(),
            None => path.join(&self.name),
        }
    }
}

/// Everything that `source` selects in `tree`, without what `exclude` matches
/// (by the path below the source; for a file by its name). With `parents` the
/// part behind `/./` is a pattern whose directories are kept. What is long waits
/// in files that `new_file` makes.
pub fn select(
    tree: &dyn Tree,
    source: &str,
    parents: bool,
    exclude: &Ignore,
    new_file: NewFile<'_>,
) -> Result<Selection, SelectError> {
    let mut start = source;
    let mut take = None;
    if parents {
        let (before, pattern) = source.split_once("/./").unwrap_or(("/", source));
        start = before;
        take = Some(tidy(Path::new(pattern)));
    }
    let filter = Filter {
        take: match &take {
            Some(pattern) if !pattern.as_os_str().is_empty() => Some(taking(pattern)?),
            _ => None,
        },
        leave: exclude,
    };
    let wanted = tidy(Path::new(start));
    let mut picked = Picked::new(has_wildcard(wanted.as_os_str().as_bytes()), new_file);
    let mut first = None;
    starts(tree, (start, &wanted), &mut |found| {
        let (name, path) = match found {
            Start::Plain(path, node) => {
                let name = Path::new(path.file_name().unwrap_or_default());
                if exclude.ignored(name) || filter.take.is_some() {
                    return Ok(());
                }
                let pushed = picked.push_match(path.clone(), node);
                return pushed.map_err(|e| read(&path, e));
            }
            Start::Path(name, path) => (name, path),
        };
        let node = match tree.lookup(&path, false).map_err(|e| read(&path, e))? {
            Some(node) => node,
            None => return Err(not_found(tree, start, &path)),
        };
        let is_dir = node.kind == Kind::Dir;
        if !is_dir && (exclude.ignored(Path::new(&name)) || filter.take.is_some()) {
            return Ok(());
        }
        let mut top = top(tree, &path, node)?;
        picked.begin(&mut top).map_err(|e| read(&path, e))?;
        if is_dir {
            let below = Dir {
                name: PathBuf::new(),
                path: path.clone(),
                depth: 0,
                rest: None,
            };
            walk::walk(
                below,
                |dir| list(tree, &filter, dir),
                |take| flatten(take, &mut picked, &path),
            )?;
        }
        first.get_or_insert_with(|| path.clone());
        let ended = picked.end(name, path.clone(), top);
        ended.map_err(|e| read(&path, e))
    })?;
    if let Some(pattern) = take
        && !has_wildcard(pattern.as_os_str().as_bytes())
        && !pattern.as_os_str().is_empty()
        && picked.is_hollow()
        && !exclude.ignored(&pattern)
    {
        let path = first.map_or_else(|| pattern.clone(), |first| first.join(&pattern));
        return Err(not_found(tree, source, &path));
    }
    Ok(picked.finish())
}

struct Filter<'a> {
    take: Option<Ignore>,
    leave: &'a Ignore,
}

/// The pattern as one that says what to take.
fn taking(pattern: &Path) -> Result<Ignore, IgnoreError> {
    let bytes = pattern.as_os_str().as_bytes();
    // A name that starts with an exclamation mark takes nothing back here.
    if bytes.first() == Some(&b'!') {
        return Ignore::from_patterns([[b"\\", bytes].concat()]);
    }
    Ignore::from_patterns([bytes])
}

/// Something that a path or pattern stands for.
enum Start {
    /// Its name, and its path without links.
    Path(OsString, PathBuf),
    /// Anything but a directory or a link: its path, and what was listed.
    Plain(PathBuf, Node),
}

/// Takes what a path or pattern stands for.
type Take<'a> = dyn FnMut(Start) -> Result<(), SelectError> + 'a;

/// Finds what a path or pattern stands for.
fn starts(
    tree: &dyn Tree,
    (source, wanted): (&str, &Path),
    take: &mut Take<'_>,
) -> Result<(), SelectError> {
    let parts: Vec<&OsStr> = wanted.iter().collect();
    let literal = parts
        .iter()
        .take_while(|p| !has_wildcard(p.as_bytes()))
        .count();
    let head: PathBuf = parts.iter().take(literal).collect();
    if literal == parts.len() {
        let name = wanted.file_name().unwrap_or_default().to_owned();
        return match follow(tree, wanted)? {
            Some(path) => take(Start::Path(name, path)),
            None => Err(not_found(tree, source, wanted)),
        };
    }
    let globs: Vec<Glob> = parts
        .iter()
        .skip(literal)
        .map(|p| Glob::parse(p.as_bytes()))
        .collect::<Result<_, _>>()?;
    let Some(base) = follow(tree, &head)? else {
        return Ok(());
    };
    expand(tree, &base, &globs, take)
}

fn expand(
    tree: &dyn Tree,
    dir: &Path,
    globs: &[Glob],
    take: &mut Take<'_>,
) -> Result<(), SelectError> {
    let Some((glob, rest)) = globs.split_first() else {
        return Ok(());
    };
    let is_dir = tree
        .lookup(dir, false)
        .map_err(|e| read(dir, e))?
        .is_some_and(|n| n.kind == Kind::Dir);
    if !is_dir {
        return Ok(());
    }
    let mut each = |name: OsString, node: Node| {
        let path = dir.join(&name);
        if !rest.is_empty() {
            // A link to a directory is not searched.
            return match node.kind {
                Kind::Dir => expand(tree, &path, rest, take),
                _ => Ok(()),
            };
        }
        if !matches!(node.kind, Kind::Dir | Kind::Symlink { .. }) {
            return take(Start::Plain(path, node));
        }
        match follow(tree, &path)? {
            Some(path) => take(Start::Path(name, path)),
            None => Ok(()),
        }
    };
    let Some(names) = tree.names(dir).map_err(|e| read(dir, e))? else {
        for (name, node) in tree.list(dir).map_err(|e| read(dir, e))? {
            if glob.matches(name.as_bytes()) {
                each(name, node)?;
            }
        }
        return Ok(());
    };
    let names = names.only(|name| glob.matches(name.as_bytes()));
    for from in (0..names.len()).step_by(TOGETHER) {
        let some = from..names.len().min(from + TOGETHER);
        for (name, node) in (tree.list_some(dir, &names, some)).map_err(|e| read(dir, e))? {
            each(name, node)?;
        }
    }
    Ok(())
}

/// The path without links, `None` where there is nothing.
fn follow(tree: &dyn Tree, path: &Path) -> Result<Option<PathBuf>, SelectError> {
    if tree
        .lookup(path, true)
        .map_err(|e| read(path, e))?
        .is_some()
    {
        return tree.resolve(path).map(Some).map_err(|e| read(path, e));
    }
    if let Ok(Some(Node {
        kind: Kind::Symlink { target },
        ..
    })) = tree.lookup(path, false)
    {
        return Err(SelectError::Dangling {
            path: path.to_owned(),
            target,
        });
    }
    Ok(None)
}

/// Entries of one directory that are looked at together.
const TOGETHER: usize = 4 << 10;

/// A directory whose entries are to be selected.
struct Dir {
    name: PathBuf,
    path: PathBuf,
    depth: usize,
    /// For the rest of a directory: all its names, and the place of the next.
    rest: Option<(Arc<DirNames>, usize)>,
}

/// An entry of a listed directory that is selected, or may lead to one.
struct Child {
    found: Found,
    /// Whether it is there for its own sake.
    wanted: bool,
    /// Its place among the directories to list, for one that is.
    below: Option<usize>,
}

/// What the selection takes of the directory `dir`.
fn list(tree: &dyn Tree, filter: &Filter<'_>, dir: Dir) -> Result<Listed<Dir, Child>, SelectError> {
    if dir.depth > MAX_DEPTH {
        return Err(SelectError::TooDeep(dir.path.clone()));
    }
    let fail = |e| read(&dir.path, e);
    let names = match &dir.rest {
        Some((names, from)) => Some((Arc::clone(names), *from)),
        None => (tree.names(&dir.path).map_err(fail)?).map(|names| (Arc::new(names), 0)),
    };
    let mut rest = None;
    let listed = match names {
        Some((names, from)) => {
            let to = names.len().min(from + TOGETHER);
            let listed = tree.list_some(&dir.path, &names, from..to);
            rest = (to < names.len()).then_some((names, to));
            listed.map_err(fail)?
        }
        None => tree.list(&dir.path).map_err(fail)?,
    };
    let mut entries = Vec::with_capacity(listed.len());
    let mut below = Vec::new();
    for (file_name, mut node) in listed {
        let name = dir.name.join(&file_name);
        let taken = filter.take.as_ref().is_none_or(|t| t.ignored(&name));
        let left = filter.leave.ignored(&name);
        let is_dir = node.kind == Kind::Dir;
        let wanted = taken && !left;
        let mut passage = false;
        let mut number = None;
        if is_dir {
            // A directory that is not taken itself is there for what is in it.
            let into = (taken
                || filter
                    .take
                    .as_ref()
                    .is_none_or(|t| t.may_match_below(&name)))
                && (!left || filter.leave.may_reinclude_below(&name));
            if into {
                number = Some(below.len());
                below.push(Dir {
                    name: name.clone(),
                    path: dir.path.join(file_name),
                    depth: dir.depth + 1,
                    rest: None,
                });
            }
            passage = !wanted || filter.take.is_some();
        }
        if !wanted && number.is_none() {
            continue;
        }
        node.meta.xattrs.retain(|name, _| is_portable_xattr(name));
        entries.push(Child {
            found: Found {
                passage,
                ..found_at(name, node)
            },
            wanted,
            below: number,
        });
    }
    let rest = rest.map(|rest| Dir {
        rest: Some(rest),
        ..dir
    });
    Ok(Listed {
        entries,
        below,
        rest,
    })
}

/// Puts listings together in path order; directories that turned out to lead
/// nowhere are dropped.
fn flatten(
    take: &mut dyn FnMut(usize) -> Result<Walked<Child>, SelectError>,
    out: &mut Picked<'_>,
    path: &Path,
) -> Result<(), SelectError> {
    /// A directory that is being put together.
    struct Open {
        children: std::vec::IntoIter<Child>,
        first: usize,
        /// Number of the rest of the directory.
        rest: Option<usize>,
        /// The directory itself, as long as it only may lead somewhere.
        held: Option<Found>,
    }
    let mut open = |number: usize, held: Option<Found>| {
        let listed = take(number)?;
        Ok::<_, SelectError>(Open {
            children: listed.entries.into_iter(),
            first: listed.first,
            rest: listed.rest,
            held,
        })
    };
    let mut stack: Vec<Open> = vec![open(0, None)?];
    while let Some(dir) = stack.last_mut() {
        let Some(child) = dir.children.next() else {
            let (rest, held) = (dir.rest, dir.held.take());
            stack.pop();
            if let Some(rest) = rest {
                stack.push(open(rest, held)?);
            }
            continue;
        };
        let number = child.below.map(|below| dir.first + below);
        let mut held = Some(child.found);
        if child.wanted {
            let led = stack.iter_mut().filter_map(|dir| dir.held.take());
            for found in led.chain(held.take()) {
                out.push(found, path).map_err(|e| read(path, e))?;
            }
        }
        if let Some(number) = number {
            stack.push(open(number, held)?);
        }
    }
    Ok(())
}

/// The match itself.
fn top(tree: &dyn Tree, path: &Path, mut node: Node) -> Result<Found, SelectError> {
    if !matches!(node.kind, Kind::Symlink { .. }) {
        let mut xattrs = tree.xattrs(path).map_err(|e| read(path, e))?;
        xattrs.retain(|name, _| is_portable_xattr(name));
        node.meta.xattrs = xattrs;
    }
    Ok(found_at(PathBuf::new(), node))
}

pub(super) fn found_at(name: PathBuf, node: Node) -> Found {
    Found {
        name,
        place: None,
        itself: false,
        node,
        passage: false,
        file: None,
        back: 0,
    }
}

/// Whether an extended attribute says something about the file that is true
/// on other machines: the user's own ones and file capabilities. Labels of
/// this machine's security modules and those of overlayfs stay behind.
pub fn is_portable_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn read(path: &Path, source: io::Error) -> SelectError {
    SelectError::Read {
        path: path.to_owned(),
        source,
    }
}

fn not_found(tree: &dyn Tree, source: &str, path: &Path) -> SelectError {
    SelectError::NotFound {
        path: source.to_owned(),
        left_out: tree.is_left_out(path),
        similar: similar(tree, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::local::LocalTree;

    fn tree(ignore: &str) -> (tempfile::TempDir, LocalTree) {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "a/b/c/d/e/bay",
            "a/b/c/d/foo",
            "a/b2/c/d/e/bar",
            "main.go",
            "x.txt",
            "[0].txt",
        ] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        std::os::unix::fs::symlink("a/b", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("gone", dir.path().join("dangling")).unwrap();
        std::os::unix::fs::symlink("x.txt", dir.path().join("l.txt")).unwrap();
        let ignore = Ignore::parse(ignore.as_bytes()).unwrap();
        let tree = LocalTree::open(dir.path(), Some(ignore)).unwrap();
        (dir, tree)
    }

    fn names(source: &str, parents: bool, exclude: &[&str]) -> Result<String, SelectError> {
        let (_dir, tree) = tree("");
        let exclude = Ignore::from_patterns(exclude).unwrap();
        let selection = select(&tree, source, parents, &exclude, &tempfile::tempfile)?;
        let Some(found) = selection.found else {
            return Ok(String::new());
        };
        let mut out = Vec::new();
        match &found.of {
            Of::Path { name, .. } => out.push(format!("{}:", name.display())),
            Of::Pattern(kinds) => {
                let is_dir = |entry: &Found| !entry.itself;
                let below: Vec<Found> = found.below.read().map(Result::unwrap).collect();
                assert!(kinds.dirs || !below.iter().any(is_dir));
                assert_eq!(kinds.others, below.iter().any(|entry| entry.itself));
            }
        }
        for entry in found.below.read().map(Result::unwrap) {
            let colon = if entry.itself { ":" } else { "" };
            out.push(format!("{}{colon}", entry.name.display()));
            let there = tree.lookup(&found.path_of(&entry), false).unwrap();
            assert_eq!(there.map(|node| node.inode), Some(entry.node.inode));
        }
        Ok(out.join(" "))
    }

    #[test]
    fn all_matches_of_a_pattern_are_in_one_list() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c/in", "d", "g/in", "h"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["c/f", "c/in/one", "e", "f"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        // One file under two names is one in a match, and two in two of them.
        for (name, other) in [("c/f", "c/f2"), ("c/f", "g/f"), ("c/f", "i")] {
            std::fs::hard_link(dir.path().join(name), dir.path().join(other)).unwrap();
        }
        std::os::unix::fs::symlink("c/in/one", dir.path().join("one")).unwrap();
        let tree = LocalTree::open(dir.path(), None).unwrap();
        let found = |source| {
            let none = Ignore::default();
            let selection = select(&tree, source, false, &none, &tempfile::tempfile);
            selection.unwrap().found
        };
        let list = |source| -> String {
            let Some(found) = found(source) else {
                return "nothing".into();
            };
            let entry = |entry: Found| {
                let place = found.path_of(&entry).display().to_string();
                match entry.file {
                    Some(file) => format!("{place}({file})"),
                    None => place,
                }
            };
            let below = found.below.read().map(|e| entry(e.unwrap()));
            below.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            list("*"),
            "c/f(0) c/f2(0) c/in c/in/one(1) e(2) f(3) g/f(4) g/in i(5) c/in/one(6)"
        );
        assert_eq!(list("c"), "c/f(0) c/f2(0) c/in c/in/one(1)");
        assert_eq!(list("[abdh]"), "");
        assert_eq!(list("[x]*"), "nothing");
        for (source, expected) in [
            ("*", (true, true, true)),
            ("[abcg]", (true, false, true)),
            ("[ef]", (false, true, false)),
            ("[eg]", (true, true, false)),
        ] {
            let Some(Match {
                of: Of::Pattern(kinds),
                ..
            }) = found(source)
            else {
                panic!("{source}");
            };
            let kinds = (kinds.dirs, kinds.others, kinds.dir_first);
            assert_eq!(kinds, expected, "{source}");
        }
    }

    #[test]
    fn selections() {
        let table: &[(&str, bool, &[&str], &str)] = &[
            ("main.go", false, &[], "main.go:"),
            ("/../main.go", false, &[], "main.go:"),
            ("main.go/", false, &[], "main.go:"),
            ("*.go", false, &[], "main.go:"),
            ("*.none", false, &[], ""),
            ("none/*", false, &[], ""),
            ("*.txt", false, &[], "[0].txt: l.txt: x.txt:"),
            ("[[]0].txt", false, &[], "[0].txt:"),
            ("a/b2", false, &[], "b2: c c/d c/d/e c/d/e/bar"),
            ("link", false, &[], "link: c c/d c/d/e c/d/e/bay c/d/foo"),
            ("link/c/d/foo", false, &[], "foo:"),
            ("a/*/c/d/f*", false, &[], "foo:"),
            ("a/*/c/d/*/b*", false, &[], "bay: bar:"),
            ("a/*/c/d/*", false, &[], "bay foo: bar"),
            ("lin*/c", false, &[], ""),
            ("a/b", false, &["**/e"], "b: c c/d c/d/foo"),
            ("a/b", false, &["c", "!c/d/foo"], "b: c c/d c/d/foo"),
            ("*.txt", false, &["x*"], "[0].txt: l.txt:"),
            (
                "a/b/c",
                true,
                &[],
                ": a a/b a/b/c a/b/c/d a/b/c/d/e a/b/c/d/e/bay a/b/c/d/foo",
            ),
            ("a/b/./c/d/foo", true, &[], "b: c c/d c/d/foo"),
            (
                "a/b*/./c/**/e",
                true,
                &[],
                "c c/d c/d/e c/d/e/bay c c/d c/d/e c/d/e/bar",
            ),
            ("a/b/./none*", true, &[], "b:"),
            ("a/*/*/d/f*", true, &[], ": a a/b a/b/c a/b/c/d a/b/c/d/foo"),
        ];
        for (source, parents, exclude, expected) in table {
            let names = names(source, *parents, exclude).unwrap();
            assert_eq!(names, *expected, "{source} {parents} {exclude:?}");
        }
    }

    #[test]
    fn a_large_directory_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let count = TOGETHER + 100;
        for n in 0..count {
            let path = dir.path().join(format!("n{n:05}"));
            match n % 100 {
                0 => {
                    std::fs::create_dir(&path).unwrap();
                    std::fs::write(path.join("inside"), "").unwrap();
                }
                _ => std::fs::write(path, "").unwrap(),
            }
        }
        let tree = LocalTree::open(dir.path(), None).unwrap();
        let found = select(&tree, "/", false, &Ignore::default(), &tempfile::tempfile).unwrap();
        let names: Vec<PathBuf> = (found.found.unwrap().below)
            .read()
            .map(|f| f.unwrap().name)
            .collect();
        assert_eq!(names.len(), count + count.div_ceil(100));
        assert!(names.is_sorted());
        // Nothing but the last one, and the directory that it is in.
        let last = [format!("!n{:05}", count - 1)];
        let but = Ignore::from_patterns(["*".as_bytes(), last[0].as_bytes()]).unwrap();
        let found = select(&tree, "/", false, &but, &tempfile::tempfile).unwrap();
        assert_eq!(found.found.unwrap().below.len(), 1);
    }

    #[test]
    fn errors() {
        for (source, parents, expected) in [
            (
                "mian.go",
                false,
                "\"mian.go\" not found; did you mean \"main.go\"?",
            ),
            (
                "MAIN.go",
                false,
                "\"MAIN.go\" not found; did you mean \"main.go\"?",
            ),
            (
                "a/b/cc/x",
                false,
                "\"a/b/cc/x\" not found; did you mean \"a/b/c/x\"?",
            ),
            ("zzzzzz", false, "\"zzzzzz\" not found"),
            ("a/none", true, "\"a/none\" not found"),
            ("main.go/x", false, "\"main.go/x\" not found"),
            (
                "[",
                false,
                "the pattern \"[\" has an open or empty `[…]`, or ends with a `\\`; put a `\\` before what is meant as it is",
            ),
            (
                "dangling",
                false,
                "\"dangling\" is a symbolic link to \"gone\", which does not exist in this tree",
            ),
        ] {
            let error = names(source, parents, &[]).unwrap_err();
            assert_eq!(error.to_string(), expected, "{source}");
        }
        let (_dir, tree) = tree("*.txt");
        let error = select(
            &tree,
            "x.txt",
            false,
            &Ignore::default(),
            &tempfile::tempfile,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"x.txt\" not found: the ignore file excludes it"
        );
        assert!(select(&tree, "l*", false, &Ignore::default(), &tempfile::tempfile).is_ok());
    }
}
