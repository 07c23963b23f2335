//! COPY and ADD as a step: finds the sources, takes their digest, plans the
//! layer.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::key::KeyBuilder;
use super::super::{Done, Solver, StepError};
use super::add::unpack_archives;
use super::copy::{self, Body, CopyChanges, CopyOptions, Single, Source};
use super::sources::limits;
use crate::context::checksum::Contents;
use crate::context::entries::NewFile;
use crate::context::ignore::Ignore;
use crate::context::select::{Selection, select};
use crate::context::{Empty, Tree};
use crate::digest::Digest;
use crate::dockerfile::chmod::Chmod;
use crate::event::chain;
use crate::graph::{CopyOp, CopySource, From};
use crate::layer::tar_write::{TarWriter, WriteError};
use crate::layer::unpack::{Form, unpack};
use crate::layer::{Change, Mtime};
use crate::snapshot::users;
use crate::store::LayerForm;
use crate::sys::fs::Root;

/// The sources of a copy, found but not read.
#[derive(Debug)]
pub(in super::super) struct Copied {
    sources: Vec<Source>,
    pub(in super::super) key: CopyKey,
}

/// The key of a copy: known when the content of all its files is.
#[derive(Debug)]
pub(in super::super) struct CopyKey {
    /// All but the contents.
    head: KeyBuilder,
    contents: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Known(Digest),
    Files(Arc<Contents>),
}

impl CopyKey {
    /// What all copies have in common that differ in contents only.
    pub(in super::super) fn place(&self) -> Digest {
        let mut key = self.head.clone();
        key.add("contents", "any");
        key.finish()
    }

    /// The key, if all contents are known.
    pub(in super::super) fn get(&self) -> Result<Option<Digest>, StepError> {
        let mut key = self.head.clone();
        for part in &self.contents {
            let digest = match part {
                Part::Known(digest) => Some(digest.clone()),
                Part::Files(files) => files.digest().map_err(put_aside())?,
            };
            let Some(digest) = digest else {
                return Ok(None);
            };
            key.add("content", digest.as_str());
        }
        Ok(Some(key.finish()))
    }

    /// The key; what is not known is read now.
    pub(in super::super) fn read(&self, solver: &Solver<'_, '_>) -> Result<Digest, StepError> {
        let env = solver.env;
        for part in &self.contents {
            if let Part::Files(files) = part {
                files.read(env.options.seal.workers.threads(), &env.cancel)?;
            }
        }
        self.get()?.ok_or(StepError::Cancelled)
    }
}

/// Everything that enters the key but the content of files.
fn definition(op: &CopyOp) -> KeyBuilder {
    let mut key = KeyBuilder::new(if op.add { "add" } else { "copy" });
    key.add("dest", &op.dest)
        .add("workdir", &op.workdir)
        .optional("chown", op.chown.as_ref())
        .optional("chmod", op.chmod.as_ref())
        .add("link", if op.link { "yes" } else { "no" })
        .add("parents", if op.parents { "yes" } else { "no" })
        .list("exclude", &op.exclude)
        .optional("checksum", op.checksum.as_ref())
        .add("keep git dir", format!("{:?}", op.keep_git_dir))
        .add("unpack", format!("{:?}", op.unpack));
    for source in &op.sources {
        match source {
            CopySource::Path { path, .. } => key.add("path", path),
            CopySource::Url { url, .. } => key.add("url", url),
            CopySource::Inline { name, content } => key.add("inline", name).add("body", content),
        };
    }
    key
}

/// The key by the step that is copied from, where it is copied from a step:
/// known without reading a file. `None` where content has to be looked at.
pub(in super::super) fn quick_key(
    solver: &Solver<'_, '_>,
    op: &CopyOp,
) -> Result<Option<KeyBuilder>, StepError> {
    let From::Step(id) = op.from else {
        return Ok(None);
    };
    let mut key = definition(op);
    key.add("from", solver.done(id)?.key.as_str());
    Ok(Some(key))
}

fn exclude(op: &CopyOp) -> Result<Ignore, StepError> {
    Ignore::from_patterns(&op.exclude).map_err(StepError::Exclude)
}

/// Finds the sources. Nothing is read but what comes from elsewhere.
pub(in super::super) fn find(
    solver: &Solver<'_, '_>,
    op: &CopyOp,
    parent: &Done,
) -> Result<Copied, StepError> {
    let env = solver.env;
    let exclude = exclude(op)?;
    let mut head = definition(op);
    head.add("parent", parent.key.as_str());
    solver.add_common(&mut head);
    let mut sources = Vec::new();
    let mut contents = Vec::new();
    for source in &op.sources {
        match source {
            CopySource::Path { path, .. } => {
                let tree = solver.source_tree(&op.from)?;
                let new_file = || spool(solver);
                let mut selection = select(&*tree, path, op.parents, &exclude, &new_file)?;
                let contents_of = Contents::of(tree, &mut selection, &new_file);
                let files = Arc::new(contents_of.map_err(put_aside())?);
                contents.push(Part::Files(Arc::clone(&files)));
                sources.push(Source::tree(files, selection));
            }
            CopySource::Inline { name, content } => sources.push(Source::File(Single {
                name: name.clone(),
                body: Body::Bytes(content.as_bytes().into()),
                size: content.len() as u64,
                mode: 0o644,
                mtime: Mtime {
                    secs: env.options.now,
                    nanos: 0,
                },
            })),
            CopySource::Url { url, .. } => {
                let fetched = super::sources::fetch(solver, op, url, &exclude)?;
                contents.push(Part::Known(fetched.digest));
                sources.push(fetched.source);
            }
        }
    }
    let key = CopyKey { head, contents };
    Ok(Copied { sources, key })
}

/// Plans the layer: what to write, in path order.
pub(in super::super) fn plan(
    solver: &Solver<'_, '_>,
    op: &CopyOp,
    parent: &Done,
    found: Vec<Source>,
) -> Result<CopyChanges, StepError> {
    let env = solver.env;
    let mut sources = Vec::new();
    for (source, asked) in found.into_iter().zip(&op.sources) {
        // Files are unpacked by what they are, unless told not to; what was
        // fetched only when told to.
        let unpacked = match asked {
            CopySource::Path { .. } => op.add && op.unpack != Some(false),
            CopySource::Inline { .. } => false,
            CopySource::Url { .. } => op.unpack == Some(true),
        };
        if unpacked {
            let new_file = || spool(solver);
            sources.extend(unpack_archives(vec![source], &limits(solver, &new_file))?);
        } else {
            sources.push(source);
        }
    }
    let chmod = match &op.chmod {
        Some(text) => Some(Chmod::parse(text).map_err(|e| StepError::Refused {
            message: e.to_string(),
            hint: Some(Chmod::FORMS.into()),
        })?),
        None => None,
    };
    let mut options = CopyOptions {
        chown: None,
        chmod,
        link: op.link,
        several: op.sources.len() > 1,
        created: Mtime {
            secs: env.options.now,
            nanos: 0,
        },
    };
    // A name is looked up in the target's own passwd.
    let named = op
        .chown
        .as_ref()
        .is_some_and(|c| c.contains(|c: char| !c.is_ascii_digit() && c != ':'));
    let root: Arc<dyn Tree> = if options.independent() && !named {
        Arc::new(Empty)
    } else {
        solver.look(&parent.layers)?
    };
    if let Some(chown) = &op.chown {
        let find = |tree: &dyn Tree| users::resolve_chown(tree, chown);
        options.chown = Some(solver.users(&parent.layers, &*root, find)?);
    }
    Ok(copy::plan(
        sources,
        &op.dest,
        Path::new(&op.workdir),
        root,
        &options,
        &|| spool(solver),
    )?)
}

impl Copied {
    /// The sources, and what their key is made of.
    pub(in super::super) fn into_parts(self) -> (Vec<Source>, CopyKey) {
        (self.sources, self.key)
    }
}

/// The content digest of everything below `source`.
pub(super) fn digest_below(
    solver: &Solver<'_, '_>,
    tree: Arc<dyn Tree>,
    source: &str,
) -> Result<Digest, StepError> {
    let new_file = || spool(solver);
    let mut selection = below(&*tree, source, &new_file)?;
    let contents = Contents::of(tree, &mut selection, &new_file).map_err(put_aside())?;
    contents.read(
        solver.env.options.seal.workers.threads(),
        &solver.env.cancel,
    )?;
    let digest = contents.digest().map_err(put_aside())?;
    digest.ok_or(StepError::Cancelled)
}

/// Changes that make what is at `source`: the content of a directory, or a
/// file under its own name.
pub(in super::super) fn changes_below(
    tree: &Arc<dyn Tree>,
    source: &str,
    new_file: NewFile<'_>,
) -> Result<CopyChanges, StepError> {
    let selection = below(&**tree, source, new_file)?;
    let options = CopyOptions {
        chown: None,
        chmod: None,
        link: false,
        several: false,
        created: Mtime::default(),
    };
    let contents = Contents::unhashed(Arc::clone(tree), &selection);
    let sources = vec![Source::tree(Arc::new(contents), selection)];
    let (top, root) = (Path::new("/"), Arc::new(Empty));
    Ok(copy::plan(sources, "/", top, root, &options, new_file)?)
}

/// A file without a name, in the build's own directory.
pub(super) fn spool(solver: &Solver<'_, '_>) -> io::Result<File> {
    let dir = solver.scratch().map_err(|e| io::Error::other(chain(&e)))?;
    tempfile::tempfile_in(dir)
}

/// What was selected can't be had back from where it waits.
fn put_aside() -> impl FnOnce(io::Error) -> StepError {
    StepError::io("can't read the list of what is copied")
}

fn below(tree: &dyn Tree, source: &str, new_file: NewFile<'_>) -> Result<Selection, StepError> {
    let nothing: [&str; 0] = [];
    let none = Ignore::from_patterns(nothing).map_err(|e| StepError::Refused {
        message: e.to_string(),
        hint: None,
    })?;
    let source = if source.is_empty() { "/" } else { source };
    Ok(select(tree, source, false, &none, new_file)?)
}

/// Writes `changes` into the empty directory `dest`, as far as `form` allows.
pub(in super::super) fn apply(
    changes: impl Iterator<Item = io::Result<Change>> + Send,
    dest: &Path,
    form: LayerForm,
) -> Result<(), StepError> {
    let fail = || StepError::io(format!("can't write into {}", dest.display()));
    let root = Root::open(dest).map_err(fail())?;
    let (reader, writer) = io::pipe().map_err(fail())?;
    // The tar in between is what makes this the same as unpacking a layer.
    std::thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut tar = TarWriter::new(io::BufWriter::with_capacity(1 << 18, writer), None);
            for change in changes {
                tar.change(change.map_err(WriteError::Changes)?)?;
            }
            let mut out = tar.finish().map_err(WriteError::Write)?;
            io::Write::flush(&mut out).map_err(WriteError::Write)
        });
        let options = form.unpack_options(Form::Flat);
        let read = unpack(reader, &root, &options);
        let written = written
            .join()
            .unwrap_or_else(|_| Err(WriteError::Write(io::Error::other("a worker stopped"))));
        // A broken pipe on one side is the other side's failure.
        match (read, written) {
            (Ok(_), Ok(())) => Ok(()),
            (Err(e), Ok(()) | Err(WriteError::Write(_))) => {
                Err(fail()(io::Error::other(chain(&e))))
            }
            (_, Err(e)) => Err(fail()(io::Error::other(chain(&e)))),
        }
    })
}
