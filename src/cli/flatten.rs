//! `shiplap flatten` and `squash`: one layer of several.

use std::num::NonZeroUsize;

use clap::Args;
use shiplap::mutate::MutateError;
use shiplap::mutate::flatten::{flatten, layers_of_base};
use shiplap::platform::Platform;

use super::reshape::{Failed, FormArgs, LayerArgs, ReshapeArgs};
use super::{Session, image};

const FLATTEN_EXAMPLES: &str = "\
Examples:
  All layers
    shiplap flatten app:1 -t app:flat

  What was built on a base, which stays as it is
    shiplap flatten app:1 --since debian:bookworm -t app:flat

  From one registry to another
    shiplap flatten docker://reg.example/app:1 -t docker://reg.example/app:1-flat";

const SQUASH_EXAMPLES: &str = "\
Examples:
    shiplap squash app:1 --last 3 -t app:squashed";

/// Make one layer of all layers, or of those above a base
///
/// The files stay the same, with owners, modes, times, extended attributes and
/// hard links; what layers removed is gone. The history keeps the entries that
/// made no layer, and has one entry for all that are folded. The result is the
/// same whenever it is made. Prints the new image's digest.
#[derive(Debug, Args)]
#[command(after_help = FLATTEN_EXAMPLES)]
pub(super) struct FlattenArgs {
    #[command(flatten)]
    common: ReshapeArgs,
    /// Leave the layers below this one as they are; the lowest is 1
    #[arg(long, value_name = "N", conflicts_with = "since")]
    from: Option<NonZeroUsize>,
    /// Leave the layers of this image as they are; it is what IMAGE stands on
    #[arg(long, value_name = "BASE")]
    since: Option<String>,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    form: FormArgs,
}

impl FlattenArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let base = match &self.since {
            Some(name) => Some((
                name,
                image::open(session, &store, &self.common.registry, name)?,
            )),
            None => None,
        };
        let (form, layers) = (self.form.format, Some(&self.layers));
        self.common
            .run(session, "flatten", form, layers, &mut |image, new| {
                let from = match (&base, self.from) {
                    (Some((name, base)), _) => {
                        let base = base.source.load_image(&platform_of(image))?;
                        layers_of_base(image, &base, name)?
                    }
                    (None, Some(from)) => from.get() - 1,
                    (None, None) => 0,
                };
                let count = image.manifest.layers.len();
                if from > count {
                    let reason = format!(
                        "the image has {count} layers, so none is number {}",
                        from + 1
                    );
                    return Err(MutateError::Unfit(reason).into());
                }
                Ok(flatten(image, from, "flatten", new)?)
            })
    }
}

/// What an image says that it runs on; this machine's where it says nothing.
pub(super) fn platform_of(image: &shiplap::image::Image) -> Platform {
    let platform = image.config.platform();
    match platform.os.is_empty() || platform.architecture.is_empty() {
        true => Platform::host(),
        false => platform.normalized(),
    }
}

/// Make one layer of the last layers
///
/// As flatten does, for the last N layers. Prints the new image's digest.
#[derive(Debug, Args)]
#[command(after_help = SQUASH_EXAMPLES)]
pub(super) struct SquashArgs {
    #[command(flatten)]
    common: ReshapeArgs,
    /// How many layers, counted from the last
    #[arg(short = 'n', long, value_name = "N")]
    last: NonZeroUsize,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    form: FormArgs,
}

impl SquashArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let (form, layers) = (self.form.format, Some(&self.layers));
        self.common
            .run(session, "squash", form, layers, &mut |image, new| {
                let count = image.manifest.layers.len();
                let from = count.checked_sub(self.last.get()).ok_or_else(|| {
                    let reason = format!("the image has {count} layers, not {}", self.last);
                    Failed::from(MutateError::Unfit(reason))
                })?;
                Ok(flatten(image, from, "squash", new)?)
            })
    }
}
