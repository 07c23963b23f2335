//! FROM.

use super::super::args::{self, Args};
use super::super::ast::{Stage, Text};
use super::super::error::ParseError;
use super::super::raw::Raw;
use super::Context;
use super::flags::{self, Takes};

const FLAGS: [(&str, Takes); 1] = [("platform", Takes::Text)];

/// Reads a FROM.
///
/// # Errors
/// Where it has another form than `FROM [--platform=P] IMAGE [AS NAME]`.
pub(in super::super) fn from(raw: Raw, context: &Context<'_>) -> Result<Stage, ParseError> {
    let mut flags = flags::read(&raw, "FROM", &FLAGS, context)?;
    let words = match args::read(&raw, context.line, context.escape)? {
        Args::Words(words) => words,
        _ => Vec::new(),
    };
    let mut words = words.into_iter().map(|word| context.text(word));
    let (base, as_keyword, name) = match (words.next(), words.next(), words.next()) {
        (Some(base), None, None) => (base, None, None),
        (Some(base), Some(keyword), Some(name))
            if keyword.value.eq_ignore_ascii_case("as") && words.next().is_none() =>
        {
            (base, Some(keyword), Some(name))
        }
        (base, second, _) => return Err(wrong_form(&raw, base, second)),
    };
    if let Some(name) = &name {
        check_name(name)?;
    }
    let doc = name.as_ref().and_then(|name| {
        let prefix = format!("{} ", name.value.to_lowercase());
        raw.comments
            .iter()
            .find_map(|c| c.strip_prefix(&prefix).map(str::to_owned))
    });
    let rest = context
        .line
        .text
        .get(raw.keyword.end..raw.args.end.max(raw.keyword.end))
        .unwrap_or_default()
        .trim()
        .to_owned();
    Ok(Stage {
        span: raw.span,
        keyword: context.text(raw.keyword),
        platform: flags.text("platform"),
        base,
        as_keyword,
        name,
        doc,
        comments: raw.comments,
        comments_adjacent: raw.comments_adjacent,
        rest,
        instructions: Vec::new(),
    })
}

fn wrong_form(raw: &Raw, base: Option<Text>, second: Option<Text>) -> ParseError {
    let hint = match (base, second) {
        (None, _) => "write the image's name, or `scratch` for an empty one".to_owned(),
        (Some(base), Some(second)) if second.value.eq_ignore_ascii_case("as") => format!(
            "write one name behind `AS`, as in `FROM {} AS build`",
            base.value
        ),
        (Some(_), Some(second)) if second.value.starts_with('#') => {
            "a comment needs a line of its own".to_owned()
        }
        (Some(base), Some(_)) => {
            format!("to name the stage, write `FROM {} AS name`", base.value)
        }
        (Some(_), None) => "write `FROM image AS name`".to_owned(),
    };
    ParseError::new(
        "FROM has the form `FROM image` or `FROM image AS name`",
        raw.span,
    )
    .hint(hint)
}

fn check_name(name: &Text) -> Result<(), ParseError> {
    let lower = name.value.to_lowercase();
    let mut chars = lower.chars();
    let fits = chars.next().is_some_and(|c| c.is_ascii_lowercase())
        && chars
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
    if fits {
        return Ok(());
    }
    Err(ParseError::new(
        format!("`{}` can't be a stage's name", name.value),
        name.span,
    )
    .hint("a name begins with a letter and goes on with letters, digits, `-`, `_` and `.`"))
}
