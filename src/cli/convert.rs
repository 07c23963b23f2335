//! `shiplap convert` and `recompress`: the same image in another form.

use clap::Args;
use shiplap::image::media_type::{Compression, Format as Family};
use shiplap::transport::Recompress;

use super::error::Usage;
use super::reshape::{FormArgs, ReshapeArgs};
use super::transfer::FamilyArg;
use super::{Format, Session, output_spec};

const CONVERT_EXAMPLES: &str = "\
Examples:
    shiplap convert app:1 --format docker -t docker://old.example/app:1";

const RECOMPRESS_EXAMPLES: &str = "\
Examples:
  Smaller, for images that are pulled often
    shiplap recompress app:1 --compression zstd --compression-level 19 -t app:1-zstd

  Not at all, for a store that compresses itself
    shiplap recompress app:1 --compression uncompressed --in-place";

/// Write manifests, configs and layers in OCI's or in Docker's form
///
/// Config and layers keep their content; only what they are called changes.
/// Layers in zstd become gzip in Docker's form, which knows no other. Prints the
/// new image's digest.
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub(super) struct ConvertArgs {
    #[command(flatten)]
    common: ReshapeArgs,
    /// The form to write
    #[arg(short, long, value_enum)]
    format: FamilyArg,
    /// Form of the result: json as for the other commands' --format
    #[arg(long, value_enum, value_name = "FORM", default_value = "text")]
    result: Format,
}

impl ConvertArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let family = Some(self.format.family());
        self.common
            .copy(session, "convert", self.result, family, None)
    }
}

/// Compress the layers anew
///
/// Their content stays, and so do the diffIDs and the config. Prints the new
/// image's digest.
#[derive(Debug, Args)]
#[command(after_help = RECOMPRESS_EXAMPLES)]
pub(super) struct RecompressArgs {
    #[command(flatten)]
    common: ReshapeArgs,
    /// Compression of the layers: gzip, gzip-single, zstd or
    /// uncompressed
    #[arg(long, alias = "compression-format", value_name = "NAME")]
    #[arg(value_parser = output_spec::compression)]
    compression: Compression,
    /// Level of the compression; with it layers that are compressed so already
    /// are compressed anew too
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    compression_level: Option<i32>,
    /// Compress layers anew that are compressed so already
    #[arg(long)]
    force_compression: bool,
    #[command(flatten)]
    form: FormArgs,
}

impl RecompressArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        if self.compression_level.is_some() && self.compression == Compression::Uncompressed {
            return Err(Usage::error("what is not compressed has no level"));
        }
        let recompress = Recompress {
            compression: self.compression,
            level: self.compression_level,
            force: self.force_compression || self.compression_level.is_some(),
        };
        let family: Option<Family> = None;
        let form = self.form.format;
        self.common
            .copy(session, "recompress", form, family, Some(recompress))
    }
}
