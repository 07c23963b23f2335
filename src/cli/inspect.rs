//! `shiplap inspect` and `history`: one image, described.

use clap::Args;
use serde_json::{Value, json};
use shiplap::image::{Image, media_type};

use super::image::ImageArgs;
use super::{Format, Session, images};
use crate::ui::{format, output, table};

/// Describe an image as JSON
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Print the image's config
    #[arg(long, group = "what")]
    config: bool,
    /// Print the image's manifest
    #[arg(long, group = "what")]
    manifest: bool,
    /// Print the bytes that the name stands for as they are, so that their
    /// digest is the image's
    #[arg(long, group = "what")]
    raw: bool,
    /// Form of the result
    #[arg(long, value_parser = ["json"], default_value = "json")]
    format: String,
}

impl InspectArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let opened = self.image.open(session, &store)?;
        if self.raw && self.image.access.platform.is_none() {
            return output::result_bytes(&opened.source.bytes);
        }
        let image = opened.image()?;
        let descriptor = &opened.source.descriptor;
        if self.raw {
            return output::result_bytes(&image.manifest_bytes);
        }
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes);
        if self.config {
            return output::json(&parse(&image.config_bytes)?);
        }
        if self.manifest {
            return output::json(&parse(&image.manifest_bytes)?);
        }
        let names: Vec<String> = store
            .refs()?
            .into_iter()
            .filter(|(_, d)| d.digest == descriptor.digest)
            .map(|(name, _)| name)
            .collect();
        let mut summary = summary(&image);
        summary["names"] = json!(names);
        summary["digest"] = json!(descriptor.digest);
        if media_type::is_index(&descriptor.media_type) {
            summary["manifest_digest"] = json!(image.descriptor.digest);
        }
        output::json(&summary)
    }
}

/// What an image is: identities, platform, config and layers.
fn summary(image: &Image) -> Value {
    let layers: Vec<Value> = image
        .manifest
        .layers
        .iter()
        .zip(&image.config.rootfs.diff_ids)
        .map(|(layer, diff_id)| {
            json!({
                "digest": layer.digest,
                "diff_id": diff_id,
                "media_type": layer.media_type,
                "size": layer.size,
            })
        })
        .collect();
    let size = image.manifest.layers.iter().map(|l| l.size);
    json!({
        "id": image.manifest.config.digest,
        "media_type": image.manifest.media_type,
        "platform": image.config.platform().to_string(),
        "created": image.config.created,
        "author": image.config.author,
        "size": size.fold(0_u64, u64::saturating_add),
        "config": image.config.config,
        "annotations": image.manifest.annotations,
        "layers": layers,
    })
}

/// Show how an image came to be, the newest step first
#[derive(Debug, Args)]
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
        // Entries that made a layer and layers stand in the same order; images
        // that lie about it have entries without layer.
        let mut layers = image.manifest.layers.iter();
        let mut entries: Vec<_> = image
            .config
            .history
            .iter()
            .map(|entry| {
                (
                    entry,
                    if entry.empty_layer {
                        None
                    } else {
                        layers.next()
                    },
                )
            })
            .collect();
        entries.reverse();
        if self.format == Format::Json {
            let list: Vec<Value> = entries
                .iter()
                .map(|(entry, layer)| {
                    json!({
                        "created": entry.created,
                        "created_by": entry.created_by,
                        "author": entry.author,
                        "comment": entry.comment,
                        "empty_layer": entry.empty_layer,
                        "layer": layer.map(|l| &l.digest),
                        "size": layer.map_or(0, |l| l.size),
                    })
                })
                .collect();
            return output::json(&list);
        }
        let now = jiff::Timestamp::now().as_second();
        let rows: Vec<_> = entries
            .iter()
            .map(|(entry, layer)| {
                let created = if self.no_trunc {
                    entry.created.clone().unwrap_or_else(|| "N/A".into())
                } else {
                    images::age(entry.created.as_deref(), now)
                };
                [
                    created,
                    short(&entry.created_by, self.no_trunc),
                    format::size(layer.map_or(0, |l| l.size)),
                    entry.comment.clone(),
                ]
            })
            .collect();
        let header = ["CREATED", "CREATED BY", "SIZE", "COMMENT"];
        output::result(&table::table(header, &rows))
    }
}

/// An instruction on one line, cut unless all of it is wanted.
fn short(text: &str, in_full: bool) -> String {
    if in_full {
        return text.to_owned();
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= WIDEST {
        return line;
    }
    let mut cut: String = line.chars().take(WIDEST - 1).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_cut_to_one_line() {
        assert_eq!(short("RUN a \\\n  b", false), "RUN a \\ b");
        assert_eq!(short(&"é".repeat(100), false).chars().count(), WIDEST);
        assert_eq!(short("a\nb", true), "a\nb");
    }
}
