//! `shiplap layers`: what each layer of an image did.

use clap::Args;
use serde_json::{Value, json};
use shiplap::look::steps::instructions;
use shiplap::look::summary;

use super::files;
use super::image::ImageArgs;
use super::{Format, Session};
use crate::ui::{format, output, table};

const EXAMPLES: &str = "\
Examples:
    shiplap layers app:1
    shiplap layers docker://reg.example/app:1 --format json

In JSON each layer has number, digest, diff_id, media_type, size (of the blob),
unpacked_size (of the tar), files (entries in it), added, changed, removed,
added_bytes, changed_bytes, removed_bytes and instruction.";

/// Show what each layer of an image did, the lowest first
///
/// Sizes are those of the blob and of the tar in it. Added, changed and removed
/// are numbers of entries; a directory that only got another time does not
/// count.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LayersArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Print digests and instructions in full
    #[arg(long)]
    no_trunc: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Widest instruction in the table, in characters.
const WIDEST: usize = 50;

impl LayersArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let looked = files::look(session, &self.image)?;
        let sums = summary(&looked.tree)?;
        let made_by = instructions(&looked.image);
        let layers = looked.image.manifest.layers.iter().enumerate();
        if self.format == Format::Json {
            let list: Vec<Value> = layers
                .map(|(n, layer)| {
                    let (index, sum) = (&looked.indexes[n], &sums[n]);
                    json!({
                        "number": n + 1,
                        "digest": layer.digest,
                        "diff_id": index.diff_id,
                        "media_type": layer.media_type,
                        "size": layer.size,
                        "unpacked_size": index.tar_bytes,
                        "files": index.len(),
                        "added": sum.added,
                        "changed": sum.changed,
                        "removed": sum.removed,
                        "added_bytes": sum.added_bytes,
                        "changed_bytes": sum.changed_bytes,
                        "removed_bytes": sum.removed_bytes,
                        "instruction": made_by[n],
                    })
                })
                .collect();
            return output::json(&json!({"layers": list}));
        }
        let rows: Vec<[String; 9]> = layers
            .map(|(n, layer)| {
                let (index, sum) = (&looked.indexes[n], &sums[n]);
                let id = |digest: &shiplap::digest::Digest| match self.no_trunc {
                    true => digest.to_string(),
                    false => digest.short().to_owned(),
                };
                let widest = if self.no_trunc { usize::MAX } else { WIDEST };
                [
                    (n + 1).to_string(),
                    id(&layer.digest),
                    id(index.diff_id.digest()),
                    format::size(layer.size),
                    format::size(index.tar_bytes),
                    format!("+{}", sum.added),
                    format!("~{}", sum.changed),
                    format!("-{}", sum.removed),
                    files::instruction(made_by[n], widest),
                ]
            })
            .collect();
        let header = [
            "LAYER",
            "DIGEST",
            "DIFFID",
            "SIZE",
            "UNPACKED",
            "ADDED",
            "CHANGED",
            "REMOVED",
            "CREATED BY",
        ];
        output::result(&table::table(header, &rows))
    }
}
