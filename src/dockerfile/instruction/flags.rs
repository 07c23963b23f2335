//! The `--flags` of an instruction.

use super::super::ast::Text;
use super::super::error::ParseError;
use super::super::raw::Raw;
use super::super::span::Span;
use super::super::suggest;
use super::Context;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// A text, once.
    Text,
    /// A text, any number of times.
    Texts,
    /// Nothing, `true` or `false`.
    Bool,
}

/// The flags that were given, by name.
#[derive(Debug)]
pub(super) struct Given {
    given: Vec<(&'static str, Option<Text>, Span)>,
}

/// Refuses every flag.
pub(super) fn none(raw: &Raw, name: &str, context: &Context<'_>) -> Result<(), ParseError> {
    read(raw, name, &[], context).map(|_| ())
}

/// Reads the flags of `raw`, of which `known` exist.
///
/// # Errors
/// For flags that are unknown, given twice or lack their value.
pub(super) fn read(
    raw: &Raw,
    instruction: &str,
    known: &[(&'static str, Takes)],
    context: &Context<'_>,
) -> Result<Given, ParseError> {
    let mut given: Vec<(&'static str, Option<Text>, Span)> = Vec::new();
    for flag in &raw.flags {
        let span = context.span(flag);
        let body = flag.value.strip_prefix("--").unwrap_or(&flag.value);
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some(&(name, takes)) = known.iter().find(|(k, _)| *k == name) else {
            return Err(unknown(name, instruction, known, span));
        };
        if takes != Takes::Texts && given.iter().any(|(k, ..)| *k == name) {
            return Err(ParseError::new(format!("--{name} is given twice"), span)
                .hint("remove one of them"));
        }
        let value = match (takes, value) {
            (Takes::Bool, None) => None,
            (Takes::Bool, Some(value)) => {
                let lower = value.to_lowercase();
                if lower != "true" && lower != "false" {
                    return Err(ParseError::new(
                        format!("--{name} takes `true` or `false`, not `{value}`"),
                        span,
                    ));
                }
                Some(lower)
            }
            (_, Some(value)) => Some(value.to_owned()),
            (_, None) => {
                return Err(ParseError::new(format!("--{name} lacks its value"), span)
                    .hint(format!("write `--{name}=…`, without blanks around `=`")));
            }
        };
        given.push((name, value.map(|value| Text { value, span }), span));
    }
    Ok(Given { given })
}

fn unknown(
    name: &str,
    instruction: &str,
    known: &[(&'static str, Takes)],
    span: Span,
) -> ParseError {
    let names = || known.iter().map(|(k, _)| *k);
    let elsewhere = match name {
        "from" | "parents" => Some("COPY"),
        "checksum" | "keep-git-dir" | "unpack" => Some("ADD"),
        "platform" => Some("FROM"),
        "mount" | "network" | "security" | "device" => Some("RUN"),
        _ => None,
    };
    if let Some(elsewhere) = elsewhere {
        return ParseError::new(format!("{instruction} has no flag --{name}"), span)
            .hint(format!("{elsewhere} has it"));
    }
    let hint = match suggest::nearest(name, names()) {
        Some(near) => format!("did you mean `--{near}`?"),
        None if known.is_empty() => {
            "where the text itself begins with `--`, write `--` before it".to_owned()
        }
        None => {
            let all: Vec<String> = names().map(|k| format!("--{k}")).collect();
            format!("there are {}", all.join(", "))
        }
    };
    ParseError::new(format!("{instruction} has no flag --{name}"), span).hint(hint)
}

impl Given {
    /// The text of a flag that is given once; an empty one counts as none.
    pub(super) fn text(&mut self, name: &str) -> Option<Text> {
        let at = self.given.iter().position(|(k, ..)| *k == name)?;
        self.given.remove(at).1.filter(|t| !t.value.is_empty())
    }

    /// The texts of a flag, in order.
    pub(super) fn texts(&mut self, name: &str) -> Vec<Text> {
        let (wanted, rest) = std::mem::take(&mut self.given)
            .into_iter()
            .partition(|(k, ..)| *k == name);
        self.given = rest;
        let wanted: Vec<(&str, Option<Text>, Span)> = wanted;
        wanted
            .into_iter()
            .filter_map(|(_, value, _)| value)
            .collect()
    }

    /// Whether a flag is set, `None` where it isn't given.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        let (_, value, _) = self.given.iter().find(|(k, ..)| *k == name)?;
        Some(value.as_ref().is_none_or(|t| t.value == "true"))
    }
}
