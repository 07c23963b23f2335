//! `shiplap rebase`: the same image on another base.

use clap::Args;
use shiplap::image::Image;
use shiplap::mutate::MutateError;
use shiplap::mutate::rebase::{BASE_DIGEST, BASE_NAME, Base, rebase};
use shiplap::reference::Reference;
use shiplap::store::Store;

use super::Session;
use super::flatten::platform_of;
use super::image::{self, Opened};
use super::reshape::{Failed, FormArgs, ReshapeArgs, now};

const EXAMPLES: &str = "\
Examples:
  From one base to the next
    shiplap rebase app:1 --old-base debian:12.1 --new-base debian:12.2 -t app:2

  As the image's annotations tell: to what its base's name stands for now
    shiplap rebase docker://reg.example/app:1 --in-place";

/// Put an image on another base
///
/// The layers above the old base stay as they are and come to lie on the new
/// one. It is checked, by diffIDs, that the image stands on the old base; that
/// its files fit on the new one is for you to know.
///
/// Layers, the history's entries and the platform of the base are replaced.
/// The config is the image's own: variables, user, command and the rest stay
/// as they were, those that it once got from the old base included.
///
/// Without --old-base and --new-base the image's annotations
/// org.opencontainers.image.base.name and .digest say what its base was, and
/// what is under that name now is the new one. They are written anew. Prints
/// the new image's digest.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RebaseArgs {
    #[command(flatten)]
    common: ReshapeArgs,
    /// What the image stands on [default: as its annotations say]
    #[arg(long, value_name = "IMAGE")]
    old_base: Option<String>,
    /// What it is to stand on [default: as its annotations say]
    #[arg(long, value_name = "IMAGE")]
    new_base: Option<String>,
    #[command(flatten)]
    form: FormArgs,
}

impl RebaseArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let created = now()?;
        let form = self.form.format;
        self.common
            .run(session, "rebase", form, None, &mut |image, new| {
                let old_name = match &self.old_base {
                    Some(name) => name.clone(),
                    None => old_base(image)?,
                };
                let new_name = match &self.new_base {
                    Some(name) => name.clone(),
                    None => note(image, BASE_NAME, "--new-base")?.to_owned(),
                };
                let old = self.base(session, &store, &old_name, image)?;
                let base = self.base(session, &store, &new_name, image)?;
                let called =
                    |name: &str| match Reference::parse(name.trim_start_matches("docker://")) {
                        Ok(reference) => reference.to_string(),
                        Err(_) => name.to_owned(),
                    };
                let (old_name, new_name) = (called(&old_name), called(&new_name));
                let old = Base {
                    image: &old,
                    name: &old_name,
                };
                let base = Base {
                    image: &base,
                    name: &new_name,
                };
                Ok(rebase(image, &old, &base, &created, new)?)
            })
    }

    fn base(
        &self,
        session: &Session,
        store: &Store,
        name: &str,
        image: &Image,
    ) -> Result<Image, Failed> {
        let opened: Opened = image::open(session, store, &self.common.registry, name)?;
        Ok(opened.source.load_image(&platform_of(image))?)
    }
}

fn note<'a>(image: &'a Image, key: &str, flag: &str) -> Result<&'a str, MutateError> {
    let note = image.manifest.annotations.get(key);
    note.map(String::as_str).ok_or_else(|| {
        MutateError::Unfit(format!(
            "the image has no annotation {key} that tells of its base; give {flag}"
        ))
    })
}

/// The name of the old base with its digest, as the annotations have them.
fn old_base(image: &Image) -> Result<String, MutateError> {
    let flag = "--old-base";
    let name = note(image, BASE_NAME, flag)?;
    let digest = note(image, BASE_DIGEST, flag)?;
    let reference = Reference::parse(name)
        .map_err(|e| MutateError::Unfit(format!("the annotation {BASE_NAME}: {e}; give {flag}")))?;
    Ok(format!("{}@{digest}", reference.familiar_name()))
}
