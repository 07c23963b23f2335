//! `shiplap timestamp`: no time after an instant.

use clap::Args;
use shiplap::mutate::time::clamp;

use super::error::Usage;
use super::reshape::{FormArgs, LayerArgs, ReshapeArgs};
use super::{Session, values};

const EXAMPLES: &str = "\
Examples:
    shiplap timestamp app:1 -t app:repro --epoch 2026-01-01T00:00:00Z

  The time of the last commit
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) shiplap timestamp app:1 --in-place";

/// Let no time in an image be later than an instant
///
/// Times of files, of the image and of its history that are later become that
/// instant; earlier ones stay. Layers without such files keep their digest.
/// Prints the new image's digest.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TimestampArgs {
    #[command(flatten)]
    common: ReshapeArgs,
    /// The instant: seconds since 1970, or RFC 3339 [default:
    /// $SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = epoch)]
    epoch: Option<i64>,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    form: FormArgs,
}

fn epoch(text: &str) -> Result<i64, String> {
    let wrong = |_| "it is neither seconds since 1970 nor an RFC 3339 time".to_owned();
    let seconds = match text.parse::<i64>() {
        Ok(seconds) => seconds,
        Err(_) => text.parse::<jiff::Timestamp>().map_err(wrong)?.as_second(),
    };
    jiff::Timestamp::from_second(seconds).map_err(wrong)?;
    Ok(seconds)
}

impl TimestampArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let given = match self.epoch {
            Some(epoch) => Some(epoch),
            None => values::source_date_epoch(std::env::var_os("SOURCE_DATE_EPOCH"))?,
        };
        let epoch = given
            .ok_or_else(|| Usage::error("which instant? give --epoch, or set SOURCE_DATE_EPOCH"))?;
        let (form, layers) = (self.form.format, Some(&self.layers));
        self.common
            .run(session, "timestamp", form, layers, &mut |image, new| {
                Ok(clamp(image, epoch, new)?)
            })
    }
}
