//! `shiplap inspect`: one image, described.

use clap::Args;
use serde_json::{Value, json};
use shiplap::image::{Image, media_type};
use shiplap::store::Store;
use shiplap::transport::Location;

use super::error::Usage;
use super::image::{ImageArgs, Opened};
use super::{Session, images};
use crate::ui::{escape, format, output};

const EXAMPLES: &str = "\
Examples:
    shiplap inspect app:1
    shiplap inspect --format json docker://reg.example/app:1

  Single fields
    shiplap inspect --format .config.Env app:1
    shiplap inspect --format '{digest} {platform} {layers.0.size}' app:1
    shiplap inspect --format '{config.Labels.org.opencontainers.image.version}' app:1

  Documents, as they are
    shiplap inspect --raw app:1 | sha256sum
    shiplap inspect --config app:1

Fields in JSON: names, digest, manifest_digest (below an index), id (digest of
the config), media_type, platform, created, author, size (of the layers' blobs),
config (as in the image's config: Env, Cmd, Labels, …), annotations, layers
(digest, diff_id, media_type, size) and history. In a --format, text is printed
as it is, anything else as JSON; upper and lower case don't matter.";

/// Describe an image
///
/// Reads manifest and config only, wherever the image is.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
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
    /// digest is the image's; with --config those of the config
    #[arg(long, conflicts_with = "manifest")]
    raw: bool,
    /// Form of the result: text, json, a field (.config.Env), or text with
    /// fields in braces
    #[arg(
        short,
        long,
        default_value = "text",
        value_name = "FORM",
        conflicts_with = "what"
    )]
    format: String,
}

impl InspectArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let form = Form::parse(&self.format)?;
        let store = session.store()?;
        let opened = self.image.open(session, &store)?;
        if self.raw && !self.config && self.image.access.platform.is_none() {
            return output::result_bytes(&opened.source.bytes);
        }
        let image = opened.image()?;
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes);
        match (self.raw, self.config, self.manifest) {
            (true, true, _) => return output::result_bytes(&image.config_bytes),
            (true, ..) => return output::result_bytes(&image.manifest_bytes),
            (_, true, _) => return output::json(&parse(&image.config_bytes)?),
            (_, _, true) => return output::json(&parse(&image.manifest_bytes)?),
            _ => {}
        }
        let summary = summary(&image, &opened, &store)?;
        match form {
            Form::Text => output::result(&text(&summary)),
            Form::Json => output::json(&summary),
            Form::Fields(parts) => {
                let mut out = String::new();
                for part in parts {
                    match part {
                        Part::Text(text) => out.push_str(&text),
                        Part::Field(path) => out.push_str(&shown(field(&summary, &path)?)?),
                    }
                }
                out.push('\n');
                output::result(&out)
            }
        }
    }
}

/// How an image is described.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Fields(Vec<Part>),
}

/// A piece of a form.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl Form {
    fn parse(text: &str) -> anyhow::Result<Self> {
        match text {
            "text" => return Ok(Self::Text),
            "json" => return Ok(Self::Json),
            _ => {}
        }
        if text.contains("{{") {
            return Err(Usage::error(
                "--format takes fields, not a Go template; write {config.Env} for {{.Config.Env}}",
            ));
        }
        if let Some(field) = text.strip_prefix('.')
            && !text.contains(['{', ' '])
        {
            return Ok(Self::Fields(vec![Part::Field(field.to_owned())]));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((field, after)) = after.split_once('}') else {
                return Err(Usage::error(format!(
                    "--format {text:?}: a brace is not closed"
                )));
            };
            if !before.is_empty() {
                parts.push(Part::Text(unescape(before)));
            }
            let field = field.trim().trim_start_matches('.');
            parts.push(Part::Field(field.to_owned()));
            rest = after;
        }
        if parts.is_empty() {
            return Err(Usage::error(format!(
                "--format {text:?}: it is text, json, .FIELD, or text with {{FIELD}} in it"
            )));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(unescape(rest)));
        }
        Ok(Self::Fields(parts))
    }
}

/// `\n` and `\t` as shells leave them.
fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

/// The field at `path`: names and numbers with dots between them. Names may
/// have dots too.
///
/// # Errors
/// When there is none; says which there are.
fn field<'a>(value: &'a Value, path: &str) -> anyhow::Result<&'a Value> {
    if path.is_empty() {
        return Ok(value);
    }
    let none = |has: &str| anyhow::anyhow!("--format: there is no field {path:?}; {has}");
    match value {
        Value::Object(fields) => {
            let mut longest: Option<(&String, &Value)> = None;
            for (name, below) in fields {
                let begins = path
                    .get(..name.len())
                    .is_some_and(|p| p.eq_ignore_ascii_case(name));
                let ends = begins && matches!(path.as_bytes().get(name.len()), None | Some(b'.'));
                if ends && longest.is_none_or(|(l, _)| l.len() < name.len()) {
                    longest = Some((name, below));
                }
            }
            let Some((name, below)) = longest else {
                let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                return Err(none(&format!("there are {}", names.join(", "))));
            };
            field(below, path[name.len()..].trim_start_matches('.'))
        }
        Value::Array(list) => {
            let (number, rest) = path.split_once('.').unwrap_or((path, ""));
            let below = number.parse::<usize>().ok().and_then(|n| list.get(n));
            let below = below.ok_or_else(|| none(&format!("the list has {}", list.len())));
            field(below?, rest)
        }
        _ => Err(none("what is there has no fields")),
    }
}

fn shown(value: &Value) -> anyhow::Result<String> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => serde_json::to_string(other)?,
    })
}

/// What an image is: identities, platform, config and layers.
fn summary(image: &Image, opened: &Opened, store: &Store) -> anyhow::Result<Value> {
    let descriptor = &opened.source.descriptor;
    let mut names: Vec<String> = Vec::new();
    if matches!(opened.location, Location::Name(_)) {
        let refs = store.refs()?.into_iter();
        let own = refs.filter(|(_, d)| d.digest == descriptor.digest);
        names.extend(own.map(|(name, _)| name));
    }
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
    let mut summary = json!({
        "names": names,
        "digest": descriptor.digest,
        "id": image.manifest.config.digest,
        "media_type": image.manifest.media_type,
        "platform": image.config.platform().to_string(),
        "created": image.config.created,
        "author": image.config.author,
        "size": size.fold(0_u64, u64::saturating_add),
        "config": image.config.config,
        "annotations": image.manifest.annotations,
        "layers": layers,
        "history": image.config.history,
    });
    if media_type::is_index(&descriptor.media_type) {
        summary["manifest_digest"] = json!(image.descriptor.digest);
    }
    Ok(summary)
}

/// The summary for people.
fn text(summary: &Value) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            let value = escape::text(value);
            out.push_str(&format!("{:<13} {value}\n", format!("{label}:")));
        }
    };
    let get = |field: &str| summary[field].as_str().unwrap_or_default();
    let strings = |value: &Value| -> Vec<String> {
        let list = value.as_array().map_or(&[][..], Vec::as_slice);
        list.iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect()
    };
    let keys = |value: &Value| -> Vec<String> {
        let fields = value.as_object();
        fields.map_or_else(Vec::new, |f| f.keys().cloned().collect())
    };
    let pairs = |value: &Value| -> Vec<String> {
        let fields = value.as_object().into_iter().flatten();
        fields
            .map(|(k, v)| {
                format!(
                    "{k}={}",
                    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
                )
            })
            .collect()
    };
    line("Names", &strings(&summary["names"]).join(", "));
    line("Digest", get("digest"));
    line("Manifest", get("manifest_digest"));
    line("Config", get("id"));
    line("Media type", get("media_type"));
    line("Platform", get("platform"));
    let now = jiff::Timestamp::now().as_second();
    if let Some(created) = summary["created"].as_str() {
        let age = images::age(Some(created), now);
        line("Created", &format!("{created} ({age})"));
    }
    line("Author", get("author"));
    let config = &summary["config"];
    line("User", config["User"].as_str().unwrap_or_default());
    line("Workdir", config["WorkingDir"].as_str().unwrap_or_default());
    let command = |value: &Value| {
        value
            .as_array()
            .map_or_else(String::new, |_| value.to_string())
    };
    line("Entrypoint", &command(&config["Entrypoint"]));
    line("Cmd", &command(&config["Cmd"]));
    line("Ports", &keys(&config["ExposedPorts"]).join(", "));
    line("Volumes", &keys(&config["Volumes"]).join(", "));
    line(
        "Stop signal",
        config["StopSignal"].as_str().unwrap_or_default(),
    );
    line("Healthcheck", &command(&config["Healthcheck"]["Test"]));
    for (label, list) in [
        ("Env", strings(&config["Env"])),
        ("Label", pairs(&config["Labels"])),
        ("Annotation", pairs(&summary["annotations"])),
    ] {
        list.iter().for_each(|value| line(label, value));
    }
    let layers = summary["layers"].as_array().map_or(&[][..], Vec::as_slice);
    let size = format::size(summary["size"].as_u64().unwrap_or(0));
    line("Layers", &format!("{} with {size}", layers.len()));
    for (number, layer) in layers.iter().enumerate() {
        let digest = layer["digest"].as_str().unwrap_or_default();
        let size = format::size(layer["size"].as_u64().unwrap_or(0));
        out.push_str(&format!("  {:>3}  {digest}  {size:>8}\n", number + 1));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_have_fields() {
        let fields = |text: &str| Form::parse(text).unwrap();
        let one = |f: &str| Form::Fields(vec![Part::Field(f.into())]);
        assert_eq!(fields("text"), Form::Text);
        assert_eq!(fields("json"), Form::Json);
        assert_eq!(fields(".config.Env"), one("config.Env"));
        assert_eq!(fields("{.digest}"), one("digest"));
        assert_eq!(
            fields("a {b}\\n{c} d"),
            Form::Fields(vec![
                Part::Text("a ".into()),
                Part::Field("b".into()),
                Part::Text("\n".into()),
                Part::Field("c".into()),
                Part::Text(" d".into()),
            ])
        );
        for bad in ["{{.Config.Env}}", "{open", "nothing"] {
            assert!(Form::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_are_found() {
        let value = json!({
            "config": {"Env": ["A=1"], "Labels": {"a.b": "x", "a": {"b": "y"}, "a.b.c": 3}},
            "none": null,
        });
        for (path, is) in [
            ("config.env.0", "A=1"),
            ("Config.Env", r#"["A=1"]"#),
            ("config.labels.a.b", "x"),
            ("config.labels.a.b.c", "3"),
            ("none", ""),
        ] {
            assert_eq!(shown(field(&value, path).unwrap()).unwrap(), is, "{path}");
        }
        for bad in [
            "conf",
            "config.Env.1",
            "config.Env.x",
            "none.x",
            "config.Labels.a.bc",
            "é",
        ] {
            assert!(field(&value, bad).is_err(), "{bad}");
        }
    }
}
