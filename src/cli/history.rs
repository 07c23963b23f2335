//! `shiplap history`: how an image came to be.

use clap::Args;
use serde_json::{Value, json};
use shiplap::look::steps::steps;

use super::image::ImageArgs;
use super::{Format, Session, files, images};
use crate::ui::{format, output, table};

const EXAMPLES: &str = "\
Examples:
    shiplap history app:1
    shiplap history --no-trunc docker://reg.example/app:1

In JSON each entry, the newest first, has created, created_by, author, comment,
empty_layer, layer (the digest), layer_number (the lowest is 1) and size (of the
layer's blob).";

/// Show how an image came to be, the newest step first
///
/// Reads manifest and config only. LAYER is the number of the layer that a step
/// made, the lowest is 1; SIZE is that of its blob.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Print everything in full
    #[arg(long)]
    no_trunc: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Widest instruction in the table, in characters.
const WIDEST: usize = 60;

impl HistoryArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let image = self.image.open(session, &store)?.image()?;
        let mut steps = steps(&image);
        steps.reverse();
        if self.format == Format::Json {
            let list: Vec<Value> = steps
                .iter()
                .map(|step| {
                    let entry = step.entry;
                    json!({
                        "created": entry.created,
                        "created_by": entry.created_by,
                        "author": entry.author,
                        "comment": entry.comment,
                        "empty_layer": entry.empty_layer,
                        "layer": step.layer.map(|(_, l)| &l.digest),
                        "layer_number": step.layer.map(|(n, _)| n + 1),
                        "size": step.layer.map_or(0, |(_, l)| l.size),
                    })
                })
                .collect();
            return output::json(&list);
        }
        let now = jiff::Timestamp::now().as_second();
        let rows: Vec<[String; 5]> = steps
            .iter()
            .map(|step| {
                let entry = step.entry;
                let (created, created_by) = if self.no_trunc {
                    let created = entry.created.clone();
                    (
                        created.unwrap_or_else(|| "N/A".into()),
                        entry.created_by.clone(),
                    )
                } else {
                    let created = images::age(entry.created.as_deref(), now);
                    (created, files::instruction(&entry.created_by, WIDEST))
                };
                let layer = step.layer.map(|(n, _)| (n + 1).to_string());
                [
                    created,
                    created_by,
                    layer.unwrap_or_else(|| "-".into()),
                    format::size(step.layer.map_or(0, |(_, l)| l.size)),
                    entry.comment.clone(),
                ]
            })
            .collect();
        let header = ["CREATED", "CREATED BY", "LAYER", "SIZE", "COMMENT"];
        output::result(&table::table(header, &rows))
    }
}
