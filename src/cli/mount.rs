//! `shiplap mount` and `umount`: an image's files at a place of the host.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use shiplap::container::{MOST_LAYERS, mount_layers};
use shiplap::solve::LayerDirs;
use shiplap::store::{Attached, Store};

use super::error::{Hinted, Usage};
use super::image::ImageAccess;
use super::{Format, ProgressArgs, Session};
use crate::ui::{escape, output, table};

const EXAMPLES: &str = "\
Examples:
  Look into an image
    shiplap mount debian:12 /mnt
    shiplap umount /mnt

  At a place in the store, which is printed
    dir=$(shiplap mount app:1)

  What is mounted
    shiplap mount

Mounting takes root. A plain user can do it in a namespace of its own, where it
is seen by what runs there:
    unshare --user --map-root-user --mount
    shiplap --root DIR mount app:1 /mnt";

/// Mount an image's files, or list what is mounted
///
/// Layers are unpacked in the store, unless they are already, and stay there
/// until nothing mounted needs them. The mount can't be written to, and devices
/// and set-user-id programs in it have no effect.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MountArgs {
    /// The image: a name in the store or a registry, docker://NAME,
    /// oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME] or
    /// dir:DIR; none to list what is mounted
    image: Option<String>,
    /// Where to mount it [default: a directory in the store, which is printed]
    dir: Option<PathBuf>,
    /// Let it be written to; what is written is gone after umount
    #[arg(short, long)]
    writable: bool,
    #[command(flatten)]
    access: ImageAccess,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl MountArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let Some(name) = &self.image else {
            return list(&session.store()?, self.format);
        };
        let target = self.dir.as_deref().map(place).transpose()?;
        if !may_mount() {
            return Err(refused(anyhow::anyhow!(
                "this user can't mount anything here"
            )));
        }
        let store = session.store()?;
        let image = self.access.open(session, &store, name)?.image()?;
        let count = image.manifest.layers.len();
        if count >= MOST_LAYERS {
            anyhow::bail!(
                "an overlay takes at most {} layers, this image has {count}",
                MOST_LAYERS - 1
            );
        }
        let ui = session.ui(&self.progress)?;
        let layers = LayerDirs::of(&image, &store, &ui.events())?;
        drop(ui);
        let mount = Attached {
            id: String::new(),
            target: PathBuf::new(),
            image: name.clone(),
            digest: image.descriptor.digest.to_string(),
            writable: self.writable,
        };
        let (record, target) = store.attach(&mount, target.as_deref(), &layers.dirs)?;
        let make = |name: &str| -> anyhow::Result<PathBuf> {
            let path = record.dir().join(name);
            std::fs::create_dir(&path)
                .with_context(|| format!("can't create {}", path.display()))?;
            Ok(path)
        };
        let empty = make("empty")?;
        let upper = match self.writable {
            true => Some((make("upper")?, make("work")?)),
            false => None,
        };
        // It has the root's owner and mode where no layer is there to say.
        let mut lower = vec![empty];
        lower.extend(layers.dirs.iter().cloned());
        if let (Some((upper, _)), Some(top)) = (&upper, lower.last()) {
            inherit(top, upper).with_context(|| format!("can't prepare {}", upper.display()))?;
        }
        let upper = upper.as_ref().map(|(u, w)| (u.as_path(), w.as_path()));
        mount_layers(&lower, upper, &target).map_err(|error| {
            let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
            let place = format!("can't mount an overlay at {}", target.display());
            let error = anyhow::Error::from(error).context(place);
            match denied {
                true => refused(error),
                false => error,
            }
        })?;
        record.keep();
        layers.keep();
        match self.format {
            Format::Text => output::result(&format!("{}\n", target.display())),
            Format::Json => output::json(&json!({
                "target": target,
                "image": name,
                "digest": mount.digest,
                "writable": mount.writable,
            })),
        }
    }
}

/// Whether this process has what mounting takes, as far as that is known
/// without trying.
fn may_mount() -> bool {
    const SYS_ADMIN: u32 = 21;
    shiplap::sys::capability::permitted().is_ok_and(|set| set >> SYS_ADMIN & 1 == 1)
}

/// Adds what a user can do who may not mount.
fn refused(error: anyhow::Error) -> anyhow::Error {
    let hint = "run it as root, in `unshare --user --map-root-user --mount` for what runs there, \
                or make a directory with shiplap unpack"
        .into();
    Hinted { hint, error }.into()
}

/// The directory to mount at, absolute.
fn place(dir: &Path) -> anyhow::Result<PathBuf> {
    let real = dir
        .canonicalize()
        .with_context(|| format!("can't mount at {}", dir.display()))?;
    match real.is_dir() {
        true => Ok(real),
        false => Err(Usage::error(format!("{} is no directory", dir.display()))),
    }
}

/// Gives `to` the owner and the mode of `from`.
fn inherit(from: &Path, to: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(from)?;
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid()))?;
    std::fs::set_permissions(to, meta.permissions())
}

fn list(store: &Store, format: Format) -> anyhow::Result<()> {
    let mounts = store.attached()?;
    if format == Format::Json {
        let all = mounts.iter().map(|m| {
            json!({
                "target": m.target, "image": m.image, "digest": m.digest, "writable": m.writable,
            })
        });
        return output::json(&all.collect::<Vec<_>>());
    }
    let rows: Vec<_> = mounts
        .iter()
        .map(|m| {
            let digest = m.digest.rsplit(':').next().unwrap_or_default();
            [
                escape::text(&m.image).to_string(),
                digest.chars().take(12).collect(),
                if m.writable { "rw" } else { "ro" }.to_owned(),
                escape::text(&m.target.display().to_string()).to_string(),
            ]
        })
        .collect();
    output::result(&table::table(
        ["IMAGE", "DIGEST", "MODE", "DIRECTORY"],
        &rows,
    ))
}

const UMOUNT_EXAMPLES: &str = "\
Examples:
  shiplap umount /mnt
  shiplap umount app:1
  shiplap umount --all";

/// Unmount images that shiplap mount mounted
#[derive(Debug, Args)]
#[command(after_help = UMOUNT_EXAMPLES)]
pub(super) struct UmountArgs {
    /// Directories, or names of images: all mounts of it
    #[arg(required_unless_present = "all", value_name = "DIR|IMAGE")]
    what: Vec<String>,
    /// All of them
    #[arg(short, long, conflicts_with = "what")]
    all: bool,
    /// Also where something is still in use: it goes when that ends
    #[arg(short, long)]
    lazy: bool,
}

impl UmountArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let mounts = store.attached()?;
        let mut chosen: Vec<&Attached> = Vec::new();
        if self.all {
            chosen.extend(&mounts);
        }
        for what in &self.what {
            let path = Path::new(what).canonicalize().ok();
            let is_meant = |m: &&Attached| Some(&m.target) == path.as_ref() || m.image == *what;
            let before = chosen.len();
            chosen.extend(mounts.iter().filter(is_meant));
            if chosen.len() == before {
                return Err(Hinted {
                    hint: "shiplap mount lists what is".into(),
                    error: anyhow::anyhow!("{what} is not mounted"),
                }
                .into());
            }
        }
        let flags = match self.lazy {
            true => rustix::mount::UnmountFlags::DETACH,
            false => rustix::mount::UnmountFlags::empty(),
        };
        for mount in chosen {
            rustix::mount::unmount(&mount.target, flags | rustix::mount::UnmountFlags::NOFOLLOW)
                .map_err(std::io::Error::from)
                .map_err(|error| unmount_error(mount, error))?;
            store.detach(&mount.id)?;
        }
        Ok(())
    }
}

fn unmount_error(mount: &Attached, error: std::io::Error) -> anyhow::Error {
    let busy = error.kind() == std::io::ErrorKind::ResourceBusy;
    let error =
        anyhow::Error::from(error).context(format!("can't unmount {}", mount.target.display()));
    match busy {
        true => Hinted {
            hint: "a process is in it or has a file of it open; --lazy does not wait for it".into(),
            error,
        }
        .into(),
        false => error,
    }
}
