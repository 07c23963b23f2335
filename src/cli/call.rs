//! `build --call=outline` and `--call=targets`: what a Dockerfile offers.
//!
//! The JSON has the names that other builders' clients read.

use base64::Engine as _;
use serde_json::{Map, Value, json};
use shiplap::build::frontend::{self, Sources};
use shiplap::build::request::Request;
use shiplap::build::{BuildError, SourceText};
use shiplap::dockerfile::span::{LineIndex, Span};
use shiplap::event::Cancel;
use shiplap::graph::{Outline, OutlineMount, Target};

use super::error::located;
use super::source::{SourceArgs, environment};
use super::{Format, Session};
use crate::ui::output;
use crate::ui::table::table;

/// What to do with a Dockerfile, and how to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) what: What,
    pub(super) format: Format,
}

/// What to do with a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Build it.
    Build,
    /// Check it as `shiplap check` does.
    Check,
    /// Say what the target takes.
    Outline,
    /// List the stages.
    Targets,
}

impl Call {
    /// Reads `WHAT[,format=FORM]`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut call = Self {
            what: What::Build,
            format: Format::Text,
        };
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("format", "json")) => call.format = Format::Json,
                Some(("format", "text")) => call.format = Format::Text,
                Some(("format", _)) => return Err("the format is text or json".into()),
                Some((key, _)) => return Err(format!("{key:?} is nothing it takes")),
                None => {
                    call.what = match part {
                        "build" => What::Build,
                        "check" | "lint" => What::Check,
                        "outline" => What::Outline,
                        "targets" => What::Targets,
                        _ => return Err("it is build, check, outline or targets".into()),
                    }
                }
            }
        }
        Ok(call)
    }
}

/// Prints what the target takes.
pub(super) fn outline(
    session: &Session,
    source: &SourceArgs,
    format: Format,
) -> anyhow::Result<()> {
    let (text, outline) = asked(session, source, frontend::outline)?;
    match format {
        Format::Json => output::json(&outline_json(&text, &outline)),
        Format::Text => output::result(&outline_text(&outline)),
    }
}

/// Prints the stages.
pub(super) fn targets(
    session: &Session,
    source: &SourceArgs,
    format: Format,
) -> anyhow::Result<()> {
    let (text, targets) = asked(session, source, frontend::targets)?;
    match format {
        Format::Json => output::json(&targets_json(&text, &targets)),
        Format::Text => output::result(&targets_text(&targets)),
    }
}

/// Asks about the Dockerfile that `source` names.
fn asked<T>(
    session: &Session,
    source: &SourceArgs,
    question: impl FnOnce(&Request, &Sources, &Cancel) -> Result<T, BuildError>,
) -> anyhow::Result<T> {
    let request = source.request(&environment)?;
    let cancel = session.interrupts.cancel();
    question(&request, &Session::sources(), &cancel).map_err(located)
}

/// An object without what is empty.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let filled = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::Object(_) => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| filled(value));
    let fields: Map<String, Value> = fields.map(|(k, v)| (k.to_owned(), v)).collect();
    Value::Object(fields)
}

fn location(lines: &LineIndex, span: Span) -> Value {
    let (start, _) = lines.line_column(span.start);
    let (end, _) = lines.line_column(span.end);
    json!({"ranges": [{"start": {"line": start}, "end": {"line": end}}]})
}

fn sources(text: &SourceText) -> Value {
    json!([base64::engine::general_purpose::STANDARD.encode(text.text.as_bytes())])
}

fn outline_json(text: &SourceText, outline: &Outline) -> Value {
    let lines = LineIndex::new(&text.text);
    let args = outline.args.iter().map(|arg| {
        object([
            ("name", json!(arg.name)),
            ("description", json!(arg.description)),
            ("value", json!(arg.value)),
            ("location", location(&lines, arg.span)),
        ])
    });
    let mounts = |list: &[OutlineMount], name: &str| -> Value {
        let entries = list.iter().map(|mount| {
            object([
                (name, json!(mount.name)),
                ("required", json!(mount.required)),
                ("location", location(&lines, mount.span)),
            ])
        });
        entries.collect()
    };
    object([
        ("name", json!(outline.name)),
        ("description", json!(outline.description)),
        ("args", args.collect()),
        ("secrets", mounts(&outline.secrets, "name")),
        ("ssh", mounts(&outline.ssh, "name")),
        ("cache", mounts(&outline.caches, "ID")),
        ("sources", sources(text)),
    ])
}

fn targets_json(text: &SourceText, targets: &[Target]) -> Value {
    let lines = LineIndex::new(&text.text);
    let list = targets.iter().map(|target| {
        object([
            ("name", json!(target.name)),
            ("default", json!(target.is_default)),
            ("description", json!(target.description)),
            ("base", json!(target.base)),
            ("platform", json!(target.platform)),
            ("location", location(&lines, target.span)),
        ])
    });
    json!({"targets": list.collect::<Value>(), "sources": sources(text)})
}

fn outline_text(outline: &Outline) -> String {
    let mut parts = Vec::new();
    let mut head = String::new();
    if let Some(name) = &outline.name {
        head.push_str(&format!("TARGET:      {name}\n"));
    }
    if let Some(description) = &outline.description {
        head.push_str(&format!("DESCRIPTION: {description}\n"));
    }
    if !head.is_empty() {
        parts.push(head);
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let args = outline
        .args
        .iter()
        .map(|arg| [arg.name.clone(), text(&arg.value), text(&arg.description)]);
    let args: Vec<_> = args.collect();
    if !args.is_empty() {
        parts.push(table(["BUILD ARG", "VALUE", "DESCRIPTION"], &args));
    }
    let rows = |list: &[OutlineMount]| -> Vec<[String; 2]> {
        let required = |m: &OutlineMount| if m.required { "true" } else { "" }.to_owned();
        list.iter().map(|m| [m.name.clone(), required(m)]).collect()
    };
    for (heading, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            parts.push(table([heading, "REQUIRED"], &rows(list)));
        }
    }
    let caches: Vec<_> = outline.caches.iter().map(|m| [m.name.clone()]).collect();
    if !caches.is_empty() {
        parts.push(table(["CACHE MOUNT"], &caches));
    }
    parts.join("\n")
}

fn targets_text(targets: &[Target]) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let rows = targets.iter().enumerate().map(|(number, target)| {
        let name = match (&target.name, target.is_default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => format!("({number})"),
        };
        let (description, platform) = (text(&target.description), text(&target.platform));
        [name, description, target.base.clone(), platform]
    });
    let rows: Vec<_> = rows.collect();
    table(["TARGET", "DESCRIPTION", "BASE", "PLATFORM"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let parse = |text: &str| Call::parse(text).map(|c| (c.what, c.format));
        assert_eq!(parse("lint"), Ok((What::Check, Format::Text)));
        assert_eq!(
            parse("outline,format=json"),
            Ok((What::Outline, Format::Json))
        );
        assert_eq!(
            parse("format=text,targets"),
            Ok((What::Targets, Format::Text))
        );
        for bad in ["x", "check,format=xml", "check,x=y", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
