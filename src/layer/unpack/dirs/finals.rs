//! What directories shall have in the end, and when they get it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::super::error::Step;
use super::super::{UnpackError, Unpacked, attrs};
use super::{Dir, Dirs, Make, is_open};
use crate::layer::Mtime;

/// What a directory gets when it is not worked in.
#[derive(Debug)]
pub(super) struct Final {
    pub(super) path: PathBuf,
    pub(super) mode: Option<u32>,
    pub(super) mtime: Mtime,
}

impl Dirs<'_> {
    /// While all links are as they were, finds out the paths without links of
    /// those directories that are to be found again.
    pub(super) fn tie(&mut self) -> Result<(), UnpackError> {
        for ino in std::mem::take(&mut self.loose) {
            let Some(last) = self.finals.get(&ino) else {
                continue;
            };
            let path = last.path.clone();
            let found = self.walk_again(&path)?;
            let found = found.filter(|(dir, _)| dir.ino == ino);
            match (found, self.finals.get_mut(&ino)) {
                (Some((_, real)), Some(last)) => last.path = real,
                _ => drop(self.finals.remove(&ino)),
            }
        }
        // What the walks noted is known by such paths.
        self.loose.clear();
        Ok(())
    }

    /// Between two entries, when nothing is being worked in: gives directories
    /// their modes and times if there are many. Those that would keep a process
    /// out that modes concern stay until the end, however many they are.
    pub(in crate::layer::unpack) fn relieve(&mut self) -> Result<(), UnpackError> {
        if self.finals.len() < self.most {
            return Ok(());
        }
        let mut finals = self.take_finals()?;
        if self.limited {
            // It must stay possible to get to what is below them.
            let is_shut = |last: &mut Final| last.mode.is_some_and(|mode| !is_open(mode));
            self.finals = finals.extract_if(|_, last| is_shut(last)).collect();
        }
        self.most = self.kept + 2 * self.finals.len();
        self.set_all(finals)
    }

    fn take_finals(&mut self) -> Result<HashMap<u64, Final>, UnpackError> {
        if self.limited {
            // Their order counts, and some stay.
            self.tie()?;
        }
        self.loose.clear();
        Ok(std::mem::take(&mut self.finals))
    }

    /// Gives all directories their modes and times.
    pub(in crate::layer::unpack) fn finish(
        mut self,
        result: &mut Unpacked,
    ) -> Result<(), UnpackError> {
        for (ino, path) in std::mem::take(&mut self.implied).iter() {
            if self.open_last(&path, ino)?.is_some() {
                let added = result.implied.push(&path);
                added.ok_or(Errno::OVERFLOW).step("note", &path)?;
            }
        }
        let settled = result.implied.settle();
        settled
            .ok_or(Errno::OVERFLOW)
            .step("note", Path::new("/"))?;
        let finals = self.take_finals()?;
        self.set_all(finals)?;
        result.used_lower = self.used_lower;
        Ok(())
    }

    /// Sets modes and times, the deepest directory first so that none is closed
    /// before what is below it is done.
    fn set_all(&mut self, finals: HashMap<u64, Final>) -> Result<(), UnpackError> {
        self.cache.clear();
        let kept = std::mem::take(&mut self.finals);
        let mut finals: Vec<(u64, Final)> = finals.into_iter().collect();
        finals.sort_unstable_by(|a, b| b.1.path.cmp(&a.1.path));
        for (ino, last) in finals {
            if let Some(fd) = self.open_last(&last.path, ino)? {
                set(&fd, &last.path, last.mode, last.mtime)?;
            }
        }
        // What was noted on the way is not what shall be.
        self.finals = kept;
        Ok(())
    }

    /// Opens the directory that was at `path`; `None` when it was removed or
    /// replaced later on.
    fn open_last(&mut self, path: &Path, ino: u64) -> Result<Option<OwnedFd>, UnpackError> {
        let found = match self.root.open_dir(path) {
            Ok(fd) => Some(fd),
            // It may lead through a link that only lower layers have.
            Err(e) if leads_nowhere(&e) && self.lower.is_some() => self.walk_only(path)?,
            Err(e) if leads_nowhere(&e) => None,
            Err(e) if Errno::from_io_error(&e) == Some(Errno::NAMETOOLONG) => {
                self.walk_only(path)?
            }
            Err(e) => return Err(e).step("open", path),
        };
        let Some(fd) = found else { return Ok(None) };
        let stat = rustix::fs::fstat(&fd).step("look at", path)?;
        Ok((stat.st_ino == ino).then_some(fd))
    }

    /// The same for a path that one call can't lead along.
    fn walk_only(&mut self, path: &Path) -> Result<Option<OwnedFd>, UnpackError> {
        let found = self.walk_again(path)?;
        Ok(found.and_then(|(dir, _)| Rc::try_unwrap(dir).ok().map(|dir| dir.fd)))
    }

    fn walk_again(&mut self, path: &Path) -> Result<Option<(Rc<Dir>, PathBuf)>, UnpackError> {
        match self.walk(path, Make::Nothing) {
            Err(UnpackError::Io { source, .. }) if leads_nowhere(&source) => Ok(None),
            done => done,
        }
    }
}

/// Whether there is no directory at a path any more.
fn leads_nowhere(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
    )
}

/// Gives an open directory its mode and time.
pub(in crate::layer::unpack) fn set(
    fd: &OwnedFd,
    path: &Path,
    mode: Option<u32>,
    time: Mtime,
) -> Result<(), UnpackError> {
    if let Some(mode) = mode {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).step("set the mode of", path)?;
    }
    rustix::fs::futimens(fd, &attrs::times(time)).step("set the time of", path)
}
