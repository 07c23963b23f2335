//! Files that are under their name only when they are whole.
//!
//! | what has the name | what [`Target`] makes of it |
//! |---|---|
//! | nothing, a file, a link to a file | the new file takes its place in one step; a link is not followed |
//! | a file that is mounted there | it gets the content when that is whole |
//! | a device, a pipe, a link to one | it is written to as it is |
//! | one of our descriptors, as `/dev/stdout` | so is what it leads to, even a file |
//! | a directory | an error, and it stays |
//!
//! Until then the content is in `.shiplap-…` beside it, which is removed when
//! it is dropped.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, OFlags, StatxAttributes, StatxFlags};
use rustix::io::{Errno, FdFlags};
use tempfile::NamedTempFile;

/// Who may use a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whom the umask lets: as a file that is created the usual way.
    Umask,
    /// Its owner writes and all read it, whatever the umask says.
    All,
    /// Its owner only.
    Owner,
}

/// A file that takes the place of what has its name, whatever that is.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    access: Access,
    growing: Growing,
}

#[derive(Debug)]
enum Growing {
    /// Beside its place.
    Beside(NamedTempFile),
    /// In a file without a name, until the one that can't be replaced gets it.
    Aside { file: File, mounted: File },
}

impl WholeFile {
    /// Begins the file that will be at `path`. Nothing is there before
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// When the directory of `path` is missing or can't be written to.
    pub fn create(path: &Path, access: Access) -> io::Result<Self> {
        let growing = match is_mounted(path) {
            true => Growing::Aside {
                file: tempfile::tempfile()?,
                mounted: OpenOptions::new()
                    .write(true)
                    .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                    .open(path)?,
            },
            false => Growing::Beside(beside(path, access)?),
        };
        Ok(Self {
            path: path.to_owned(),
            access,
            growing,
        })
    }

    /// The content, to be written, read and cut.
    pub fn file(&mut self) -> &mut File {
        match &mut self.growing {
            Growing::Beside(file) => file.as_file_mut(),
            Growing::Aside { file, .. } => file,
        }
    }

    /// Puts the file under its name.
    ///
    /// # Errors
    /// When it can't be renamed, as where a directory has the name.
    pub fn finish(self) -> io::Result<()> {
        self.end(false)
    }

    /// [`finish`](Self::finish) once the content is on the disk, so that the
    /// name never has less, even after a power failure.
    ///
    /// # Errors
    /// As `finish`, and when the content can't be flushed.
    pub fn finish_flushed(self) -> io::Result<()> {
        self.end(true)
    }

    fn end(self, flush: bool) -> io::Result<()> {
        let flush = |file: &File| if flush { file.sync_all() } else { Ok(()) };
        match self.growing {
            Growing::Beside(file) => {
                if self.access == Access::All {
                    let readable = Permissions::from_mode(0o644);
                    file.as_file().set_permissions(readable)?;
                }
                flush(file.as_file())?;
                file.persist(&self.path).map_err(|e| e.error)?;
                Ok(())
            }
            Growing::Aside {
                mut file,
                mut mounted,
            } => {
                file.rewind()?;
                mounted.set_len(0)?;
                io::copy(&mut file, &mut mounted)?;
                flush(&mounted)
            }
        }
    }
}

fn beside(path: &Path, access: Access) -> io::Result<NamedTempFile> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mode = match access {
        Access::Umask => 0o666,
        // All may read it when it is whole, not before.
        Access::All | Access::Owner => 0o600,
    };
    tempfile::Builder::new()
        .prefix(".shiplap-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir.unwrap_or(Path::new(".")))
}

/// Whether at `path` is a file that is mounted there by itself, as container
/// engines mount one for a result. A kernel that does not say has none.
fn is_mounted(path: &Path) -> bool {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(CWD, path, nofollow, StatxFlags::TYPE).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.stx_mode.into()).is_file()
            && stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    })
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// Where content goes that a user named a file for.
#[derive(Debug)]
pub enum Target {
    /// A file, there when it is whole.
    Whole(WholeFile),
    /// A device, a pipe or a descriptor, written to as it is.
    AsItIs(File),
}

impl Target {
    /// Opens what is to be at `path`; a pipe waits for its reader.
    ///
    /// # Errors
    /// When `path` is a directory or a socket, or can't be written to.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        if let Some(file) = descriptor(path)? {
            return Ok(Self::AsItIs(file));
        }
        if path.metadata().is_ok_and(|m| !m.is_file()) {
            return Ok(Self::AsItIs(OpenOptions::new().write(true).open(path)?));
        }
        Ok(Self::Whole(WholeFile::create(path, access)?))
    }

    /// Ends it: a file is under its name now.
    ///
    /// # Errors
    /// As [`WholeFile::finish`].
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Whole(file) => file.finish(),
            Self::AsItIs(_) => Ok(()),
        }
    }
}

/// The descriptor of ours that `path` stands for, by links or by itself. Its
/// place in a file is shared: what we write to it in other ways comes before or
/// after, never in the same place.
fn descriptor(path: &Path) -> io::Result<Option<File>> {
    const MOST_LINKS: usize = 40;
    let Ok(ours) = std::fs::canonicalize("/proc/self/fd") else {
        return Ok(None);
    };
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new(".")).canonicalize();
        let name = path.file_name().and_then(|name| name.to_str());
        let (Ok(dir), Some(name)) = (dir, name) else {
            break;
        };
        if let (true, Ok(number)) = (dir == ours, name.parse::<u16>()) {
            return copy_of(number.into()).map(Some);
        }
        match std::fs::read_link(&path) {
            Ok(to) => path = dir.join(to),
            Err(_) => break,
        }
    }
    Ok(None)
}

/// A copy of the descriptor that whoever started us gave us under `number`;
/// those that we opened are nothing to write to.
fn copy_of(number: RawFd) -> io::Result<File> {
    // SAFETY: it is only looked at and copied, which fails where it is closed.
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(given)?.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF.into());
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(given, 0)?.into())
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Whole(file) => file.write(bytes),
            Self::AsItIs(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Whole(file) => file.flush(),
            Self::AsItIs(file) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileTypeExt;

    use rustix::fs::{Mode, mknodat};

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let name = |e: io::Result<std::fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = std::fs::read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_there_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "old").unwrap();
        let mut half = Target::open(&path, Access::All).unwrap();
        half.write_all(b"half").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(half);
        assert_eq!(names(dir.path()), ["f"], "what was not finished is gone");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        for (access, flushed) in [(Access::All, false), (Access::Owner, true)] {
            let mut file = WholeFile::create(&path, access).unwrap();
            file.write_all(b"new").unwrap();
            match flushed {
                true => file.finish_flushed().unwrap(),
                false => file.finish().unwrap(),
            }
            let mode = path.metadata().unwrap().permissions().mode() & 0o777;
            let expected = match access {
                Access::All => 0o644,
                _ => 0o600,
            };
            assert_eq!(mode, expected, "{access:?}");
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
        }
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn the_usual_way_is_the_usual_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, usual) = (dir.path().join("ours"), dir.path().join("usual"));
        File::create(&usual).unwrap();
        let file = WholeFile::create(&ours, Access::Umask).unwrap();
        file.finish().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&usual));
    }

    #[test]
    fn a_link_is_replaced_and_a_device_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("precious"), "old").unwrap();
        std::os::unix::fs::symlink("precious", at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/null", at("null")).unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let write = |name: &str| {
            let mut target = Target::open(&at(name), Access::All).unwrap();
            target.write_all(b"new").unwrap();
            target.finish().unwrap();
        };
        write("link");
        assert_eq!(std::fs::read(at("precious")).unwrap(), b"old");
        assert!(at("link").symlink_metadata().unwrap().is_file());
        write("null");
        assert!(at("null").symlink_metadata().unwrap().is_symlink());
        let pipe = at("pipe");
        let reader = std::thread::spawn(move || std::fs::read(pipe).unwrap());
        write("pipe");
        assert_eq!(reader.join().unwrap(), b"new");
        assert!(at("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_descriptor_of_ones_own_is_not_given_away() {
        let file = tempfile::tempfile().unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert!(Target::open(Path::new(&path), Access::All).is_err());
        // Whoever starts a program with it clears that flag.
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).unwrap();
        let mut target = Target::open(Path::new(&path), Access::All).unwrap();
        target.write_all(b"new").unwrap();
        target.finish().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
        assert_eq!((&file).stream_position().unwrap(), 3);
    }

    #[test]
    fn a_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        std::fs::create_dir(&path).unwrap();
        let error = Target::open(&path, Access::All).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        let file = WholeFile::create(&path, Access::All).unwrap();
        assert!(file.finish().is_err());
        let missing = dir.path().join("none/f");
        let error = Target::open(&missing, Access::All).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(names(dir.path()), ["d"]);
    }
}
