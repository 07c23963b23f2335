//! What is kept of a directory that was made of an image.
//!
//! ```text
//! shiplap-unpacked 1\n
//! {"image": …, "manifest": …, …}\n    the image and the manner, as JSON
//! record                              what every entry was, see snapshot::Record
//! ```

use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BundleError, ROOTFS};
use crate::image::Descriptor;
use crate::layer::ids::{IdMaps, IdRange};
use crate::platform::Platform;
use crate::snapshot::{Guess, Kept, Record};

const MAGIC: &str = "shiplap-unpacked 1";
/// The most bytes of one of the file's first lines.
const MAX_LINE: u64 = 64 << 20;
/// Bytes that are read and written at a time.
const BUFFER: usize = 128 << 10;
/// The file in a bundle.
pub(super) const IN_BUNDLE: &str = "shiplap.state";
/// The end of the file's name beside a root filesystem.
const BESIDE: &str = ".shiplap";

/// How a directory was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manner {
    /// All files belong to the user, whoever they should belong to.
    pub rootless: bool,
    /// Devices are empty files.
    pub placeholders: bool,
    /// What the image's owners are here.
    pub ids: IdMaps,
}

impl Manner {
    /// How entries of the directory, as they are now, become the image's.
    pub(super) fn kept(&self) -> Kept {
        let kept = match (self.rootless, self.placeholders) {
            (false, false) => Kept::OnDisk,
            (rootless, _) => Kept::Guessed(Guess {
                owner: rootless.then_some((0, 0)),
            }),
        };
        self.mapped(kept)
    }

    /// The same for a directory of which `kept` says the rest.
    pub(super) fn mapped(&self, kept: Kept) -> Kept {
        match self.ids.is_empty() || self.rootless {
            true => kept,
            false => Kept::Mapped(self.ids.clone(), Box::new(kept)),
        }
    }
}

/// What a directory was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Where the image was: a location.
    pub image: String,
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its platform.
    pub platform: Platform,
    /// How the directory was made.
    pub manner: Manner,
}

#[derive(Serialize, Deserialize)]
struct Header {
    image: String,
    manifest: Descriptor,
    platform: String,
    #[serde(default)]
    rootless: bool,
    #[serde(default)]
    placeholders: bool,
    #[serde(default)]
    uid_map: Vec<String>,
    #[serde(default)]
    gid_map: Vec<String>,
}

/// The file, read.
#[derive(Debug)]
pub struct State {
    /// The root filesystem.
    pub rootfs: PathBuf,
    /// What it was made of.
    pub origin: Origin,
    /// What its entries were.
    pub record: Record,
}

/// Where the file of the root filesystem `rootfs` is.
pub fn beside(rootfs: &Path) -> PathBuf {
    let mut path = rootfs.as_os_str().to_owned();
    path.push(BESIDE);
    path.into()
}

/// Whether there is such a file at `path`.
pub(super) fn is_state(path: &Path) -> bool {
    let is_file = fs::symlink_metadata(path).is_ok_and(|m| m.is_file());
    let begins = || -> io::Result<bool> {
        let mut begin = [0; MAGIC.len()];
        fs::File::open(path)?.read_exact(&mut begin)?;
        Ok(begin == *MAGIC.as_bytes())
    };
    is_file && begins().unwrap_or(false)
}

impl State {
    /// Reads what is kept of `dir`, a bundle or a root filesystem.
    ///
    /// # Errors
    /// When there is nothing, or it can't be read.
    pub fn of(dir: &Path) -> Result<Self, BundleError> {
        let real = dir.canonicalize().map_err(BundleError::io("find", dir))?;
        // The image itself may have files of these names.
        let in_bundle = real.join(IN_BUNDLE);
        let is_bundle = !beside(&real).exists() && in_bundle.is_file();
        let (rootfs, path) = match is_bundle && real.join(ROOTFS).is_dir() {
            true => (real.join(ROOTFS), in_bundle),
            false => (real.clone(), beside(&real)),
        };
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let dir = dir.to_owned();
                return Err(BundleError::NoState { dir, state: path });
            }
            Err(e) => return Err(BundleError::io("read", &path)(e)),
        };
        let (origin, record) = match read(BufReader::with_capacity(BUFFER, file)) {
            Ok(read) => read,
            Err(e) => {
                return Err(match e.kind() {
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                        BundleError::Damaged(path)
                    }
                    _ => BundleError::io("read", &path)(e),
                });
            }
        };
        Ok(Self {
            rootfs,
            origin,
            record,
        })
    }
}

/// Writes the file.
pub(super) fn write(path: &Path, origin: &Origin, record: &Record) -> io::Result<()> {
    let text = |ranges: &[IdRange]| ranges.iter().map(ToString::to_string).collect();
    let header = Header {
        image: origin.image.clone(),
        manifest: origin.manifest.clone(),
        platform: origin.platform.to_string(),
        rootless: origin.manner.rootless,
        placeholders: origin.manner.placeholders,
        uid_map: text(&origin.manner.ids.users),
        gid_map: text(&origin.manner.ids.groups),
    };
    let mut file = BufWriter::with_capacity(BUFFER, fs::File::create(path)?);
    let header = serde_json::to_string(&header).map_err(io::Error::from)?;
    file.write_all(format!("{MAGIC}\n{header}\n").as_bytes())?;
    record.write_to(&mut file)?;
    file.flush()
}

fn read(mut file: BufReader<fs::File>) -> io::Result<(Origin, Record)> {
    let mut line = || -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let most = MAX_LINE;
        file.by_ref().take(most).read_until(b'\n', &mut line)?;
        match line.pop() {
            Some(b'\n') => Ok(line),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    let (magic, header) = (line()?, line()?);
    let origin = parse(&magic, &header).ok_or(io::ErrorKind::InvalidData)?;
    Ok((origin, Record::read_from(file)?))
}

fn parse(magic: &[u8], header: &[u8]) -> Option<Origin> {
    let header: Header = serde_json::from_slice(header).ok()?;
    if magic != MAGIC.as_bytes() {
        return None;
    }
    let ranges = |texts: Vec<String>| -> Option<Vec<IdRange>> {
        texts.iter().map(|t| IdRange::parse(t).ok()).collect()
    };
    Some(Origin {
        image: header.image,
        manifest: header.manifest,
        platform: Platform::parse(&header.platform).ok()?,
        manner: Manner {
            rootless: header.rootless,
            placeholders: header.placeholders,
            ids: IdMaps {
                users: ranges(header.uid_map)?,
                groups: ranges(header.gid_map)?,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::index::Spool;

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("root");
        fs::create_dir_all(rootfs.join("a/b")).unwrap();
        fs::write(rootfs.join("a/f"), "x").unwrap();
        std::os::unix::fs::symlink("a/f", rootfs.join("l")).unwrap();
        let origin = Origin {
            image: "oci:x y:z".into(),
            manifest: Descriptor::of("application/x", b"x"),
            platform: Platform::parse("linux/arm/v7").unwrap(),
            manner: Manner {
                rootless: false,
                placeholders: true,
                ids: IdMaps {
                    users: vec![IdRange::parse("0:1:2").unwrap()],
                    groups: Vec::new(),
                },
            },
        };
        let record = Record::read(&rootfs, Kept::OnDisk, Spool::memory()).unwrap();
        let path = beside(&rootfs);
        write(&path, &origin, &record).unwrap();
        let state = State::of(&rootfs).unwrap();
        assert_eq!(state.origin, origin);
        let bytes = |record: &Record| {
            let mut bytes = Vec::new();
            record.write_to(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(bytes(&state.record), bytes(&record));
        assert_eq!(state.record.len(), 4);
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(State::of(&rootfs).is_err(), "{len}");
        }
        fs::remove_file(&path).unwrap();
        let missing = State::of(&rootfs).unwrap_err();
        assert!(matches!(missing, BundleError::NoState { .. }));
    }
}
