//! The root filesystem itself, as a tar or in a directory.
//!
//! A directory is written to through its descriptor only: what stands there
//! already, links included, never leads anywhere else.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{Exporter, Piece};
use crate::build::BuildError;
use crate::build::request::{Destination, Output, OutputKind};
use crate::digest::Hasher;
use crate::layer::tar_write::TarWriter;
use crate::layer::{Change, Changes, Kind};
use crate::platform::Platform;
use crate::solve::{self, StepError};
use crate::sys::whole_file::{Access, Target};

/// What one platform's filesystem has.
struct Files {
    /// Its folder, where each platform gets one.
    folder: Option<String>,
    changes: Changes,
}

/// What stands for a path, however long it is: the first 16 bytes of its
/// sha256, of which the last bit makes room for [`Paths::IS_DIR`].
#[derive(Clone, Copy)]
struct Print(u128);

impl Print {
    fn of(path: &Path) -> Self {
        let mut hasher = Hasher::new();
        for part in path.components() {
            hasher.update(part.as_os_str().as_bytes());
            hasher.update(b"/");
        }
        let mut print = [0; 16];
        print.copy_from_slice(&hasher.finish_raw().0[..16]);
        Self(u128::from_be_bytes(print) & !Paths::IS_DIR)
    }
}

/// Paths, each with whether it is a directory.
#[derive(Default)]
struct Paths(Vec<u128>);

impl Paths {
    const IS_DIR: u128 = 1;

    fn push(&mut self, path: Print, is_dir: bool) {
        self.0.push(path.0 | u128::from(is_dir));
    }

    /// Makes them findable.
    fn sort(&mut self) {
        self.0.sort_unstable();
    }

    /// Whether `path`, which is one of them, is a directory.
    fn get(&self, path: Print) -> Option<bool> {
        let at = self.0.partition_point(|known| *known < path.0);
        let found = self.0.get(at)?;
        (found & !Self::IS_DIR == path.0).then_some(found & Self::IS_DIR != 0)
    }
}

impl Exporter<'_> {
    /// Writes the files to where `output` says.
    pub(super) fn files(&self, output: &Output, pieces: &[Piece]) -> Result<(), BuildError> {
        let Some(dest) = &output.dest else {
            return Err(BuildError::Input("the output needs dest=".into()));
        };
        let split = output.platform_split.unwrap_or(pieces.len() > 1);
        if !split && pieces.len() > 1 {
            self.hold_apart(pieces)?;
        }
        match (output.kind, dest) {
            (OutputKind::Local, Destination::Path(dir)) => {
                self.directory(dir, pieces, split, output.delete)
            }
            (_, Destination::Path(path)) => {
                let mut target = Target::open(path, Access::All).map_err(write_error(path))?;
                let mut out = io::BufWriter::with_capacity(1 << 20, &mut target);
                self.tar(pieces, split, &mut out, path)?;
                out.flush().map_err(write_error(path))?;
                drop(out);
                target.finish().map_err(write_error(path))
            }
            (_, Destination::Stdout) => {
                let mut out = io::stdout().lock();
                self.tar(pieces, split, &mut out, Path::new("-"))
            }
        }
    }

    fn of(&self, piece: &Piece, split: bool) -> Result<Files, BuildError> {
        Ok(Files {
            folder: split.then(|| folder(&piece.graph.platform)),
            changes: solve::files_of(&piece.layers, &self.tools.store, self.events)?,
        })
    }

    /// Several platforms' files in one place must not be in each other's way.
    fn hold_apart(&self, pieces: &[Piece]) -> Result<(), BuildError> {
        let mut seen: Vec<(Paths, &Platform)> = Vec::new();
        for piece in pieces {
            let platform = &piece.graph.platform;
            let mut own = Paths::default();
            for change in self.of(piece, false)?.changes {
                let change = change.map_err(read_error)?;
                let (path, is_dir) = (Print::of(change.path()), is_dir(&change));
                let known = |(paths, other): &(Paths, _)| Some((paths.get(path)?, *other));
                match seen.iter().find_map(known) {
                    Some((true, _)) if is_dir => {}
                    Some((_, other)) => {
                        return Err(BuildError::Input(format!(
                            "{} is in the files for {other} and for {platform}; with \
                             platform-split=true each platform has a directory of its own",
                            change.path().display()
                        )));
                    }
                    None => own.push(path, is_dir),
                }
            }
            own.sort();
            seen.push((own, platform));
        }
        Ok(())
    }

    fn directory(
        &self,
        dest: &Path,
        pieces: &[Piece],
        split: bool,
        delete: bool,
    ) -> Result<(), BuildError> {
        std::fs::create_dir_all(dest).map_err(write_error(dest))?;
        if delete {
            self.guard(dest)?;
        }
        let mut keep = Paths::default();
        for piece in pieces {
            let files = self.of(piece, split)?;
            let below = Path::new(files.folder.as_deref().unwrap_or(""));
            if split {
                keep.push(Print::of(below), true);
            }
            let dir = if split {
                folder_of(dest, below).map_err(write_error(dest))?
            } else {
                dest.to_path_buf()
            };
            let noted = files.changes.inspect(|change| {
                if let (true, Ok(change)) = (delete, change) {
                    keep.push(Print::of(&below.join(change.path())), is_dir(change));
                }
            });
            solve::apply(noted, &dir, self.tools.store.layer_form())?;
        }
        if delete {
            keep.sort();
            let dir =
                open_dir(rustix::fs::CWD, dest.as_os_str(), true).map_err(write_error(dest))?;
            sweep(dir, Path::new(""), &keep).map_err(write_error(dest))?;
        }
        Ok(())
    }

    /// A directory that holds more than an export can be meant to is not
    /// cleared.
    fn guard(&self, dest: &Path) -> Result<(), BuildError> {
        let real = dest.canonicalize().map_err(write_error(dest))?;
        let used = [
            Path::new("."),
            self.tools.store.root(),
            Path::new(&self.request.context),
        ];
        for path in used {
            if path
                .canonicalize()
                .is_ok_and(|path| path.starts_with(&real))
            {
                return Err(BuildError::Input(format!(
                    "mode=delete would empty {}, which holds {}",
                    dest.display(),
                    path.display()
                )));
            }
        }
        Ok(())
    }

    fn tar(
        &self,
        pieces: &[Piece],
        split: bool,
        out: &mut dyn Write,
        path: &Path,
    ) -> Result<(), BuildError> {
        let mut tar = TarWriter::new(out, self.seal.clamp_mtime);
        for piece in pieces {
            let files = self.of(piece, split)?;
            for change in files.changes {
                let mut change = change.map_err(read_error)?;
                if let Some(folder) = &files.folder {
                    change = below(folder, change);
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

fn is_dir(change: &Change) -> bool {
    matches!(change, Change::Put(entry, _) if matches!(entry.kind, Kind::Dir))
}

fn below(folder: &str, change: Change) -> Change {
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

/// The folder `name` in `dest`: a directory of its own, no link to one.
fn folder_of(dest: &Path, name: &Path) -> io::Result<PathBuf> {
    let path = dest.join(name);
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            std::fs::remove_file(&path)?;
            std::fs::create_dir(&path)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => std::fs::create_dir(&path)?,
        Err(e) => return Err(e),
    }
    Ok(path)
}

fn open_dir(at: impl AsFd, name: &OsStr, follow: bool) -> io::Result<OwnedFd> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Removes what is in `dir`, which is at `at`, and not in `keep`. Follows no
/// link and crosses into no other filesystem.
fn sweep(dir: OwnedFd, at: &Path, keep: &Paths) -> io::Result<()> {
    let device = rustix::fs::fstat(&dir)?.st_dev;
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let path = at.join(name);
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        if is_dir && stat.st_dev != device {
            return Err(io::Error::other(format!(
                "another filesystem is mounted at {}",
                path.display()
            )));
        }
        let kept = keep.get(Print::of(&path)).is_some();
        if is_dir {
            sweep(open_dir(&dir, name, false)?, &path, keep)?;
        }
        if !kept {
            let flags = if is_dir {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            rustix::fs::unlinkat(&dir, name, flags)?;
        }
    }
    Ok(())
}

fn read_error(source: io::Error) -> StepError {
    StepError::Io {
        what: "can't read the layers".into(),
        source,
    }
}

pub(super) fn write_error(path: &Path) -> impl Fn(io::Error) -> BuildError + '_ {
    move |source| BuildError::Write {
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_with_what_they_are() {
        let path = |n: usize| PathBuf::from(format!("dir/{n}"));
        let mut paths = Paths::default();
        for n in 0..500 {
            paths.push(Print::of(&path(n)), n % 3 == 0);
        }
        paths.sort();
        for n in 0..1000 {
            assert_eq!(
                paths.get(Print::of(&path(n))),
                (n < 500).then_some(n % 3 == 0),
                "{n}"
            );
        }
    }

    #[test]
    fn only_what_is_inside_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("outside/deep")).unwrap();
        std::fs::write(at("outside/deep/precious"), b"x").unwrap();
        std::fs::create_dir_all(at("dest/old/sub")).unwrap();
        std::fs::write(at("dest/old/sub/f"), b"x").unwrap();
        std::fs::create_dir_all(at("dest/kept")).unwrap();
        std::fs::write(at("dest/kept/f"), b"x").unwrap();
        std::fs::write(at("dest/kept/stale"), b"x").unwrap();
        std::os::unix::fs::symlink("../outside", at("dest/link")).unwrap();
        std::os::unix::fs::symlink("../../outside", at("dest/kept/link")).unwrap();
        let mut keep = Paths::default();
        keep.push(Print::of(Path::new("kept")), true);
        keep.push(Print::of(Path::new("kept/f")), false);
        keep.sort();
        let open = open_dir(rustix::fs::CWD, at("dest").as_os_str(), true).unwrap();
        sweep(open, Path::new(""), &keep).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(at("dest"))
            .unwrap()
            .chain(std::fs::read_dir(at("dest/kept")).unwrap())
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["f", "kept"]);
        assert!(at("outside/deep/precious").exists());
    }
}
