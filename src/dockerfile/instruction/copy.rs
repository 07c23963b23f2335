//! COPY and ADD.

use super::super::args::{Args, Keyword};
use super::super::ast::{Copy, Heredoc, InstructionKind, Source, Text};
use super::super::error::ParseError;
use super::super::heredoc;
use super::super::raw::Raw;
use super::super::word;
use super::Context;
use super::flags::{self, Takes};

const COPY: [(&str, Takes); 6] = [
    ("from", Takes::Text),
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("parents", Takes::Bool),
    ("exclude", Takes::Texts),
];

const ADD: [(&str, Takes); 7] = [
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("checksum", Takes::Text),
    ("keep-git-dir", Takes::Bool),
    ("unpack", Takes::Bool),
    ("exclude", Takes::Texts),
];

/// Reads a COPY or ADD.
///
/// # Errors
/// For wrong flags, a missing destination and heredocs that are no sources.
pub(super) fn read(
    raw: &Raw,
    keyword: Keyword,
    args: Args,
    heredocs: Vec<Heredoc>,
    context: &Context<'_>,
) -> Result<InstructionKind, ParseError> {
    let name = keyword.name();
    let span = context.span(&raw.args);
    let words: Vec<Text> = match args {
        Args::Words(words) => words.into_iter().map(|w| context.text(w)).collect(),
        Args::Exec(words) => words
            .into_iter()
            .map(|value| Text { value, span })
            .collect(),
        _ => Vec::new(),
    };
    let (sources, dest) = split(raw, name, words)?;
    let known: &[(&'static str, Takes)] = match keyword {
        Keyword::Add => &ADD,
        _ => &COPY,
    };
    let mut flags = flags::read(raw, name, known, context)?;
    let copy = Copy {
        sources: with_heredocs(raw, name, sources, heredocs)?,
        dest,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        parents: flags.bool("parents").unwrap_or(false),
        exclude: flags.texts("exclude"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.bool("keep-git-dir"),
        unpack: flags.bool("unpack"),
    };
    Ok(match keyword {
        Keyword::Add => InstructionKind::Add(copy),
        _ => InstructionKind::Copy(copy),
    })
}

fn split(raw: &Raw, name: &str, mut words: Vec<Text>) -> Result<(Vec<Text>, Text), ParseError> {
    let given = words.len();
    let error = |message: String| {
        Err(ParseError::new(message, raw.span).hint(format!("write `{name} source destination`")))
    };
    let Some(dest) = words.pop() else {
        return error(format!("{name} needs a source and a destination"));
    };
    if given < 2 {
        return error(format!(
            "{name} has only `{}` and no destination",
            dest.value
        ));
    }
    if matches!(heredoc::opening(&dest.value), Ok(Some(_))) {
        return Err(ParseError::new(
            format!("{name} can't have a heredoc as its destination"),
            dest.span,
        )
        .hint("the destination comes last, behind the heredocs"));
    }
    Ok((words, dest))
}

/// Puts the heredocs in the places of the words that announce them.
fn with_heredocs(
    raw: &Raw,
    name: &str,
    sources: Vec<Text>,
    heredocs: Vec<Heredoc>,
) -> Result<Vec<Source>, ParseError> {
    if heredocs.is_empty() {
        return Ok(sources.into_iter().map(Source::Path).collect());
    }
    let mut heredocs = heredocs.into_iter();
    let mut found = Vec::with_capacity(sources.len());
    for source in sources {
        let opening = heredoc::opening(&source.value).ok().flatten();
        found.push(match opening.and_then(|_| heredocs.next()) {
            Some(heredoc) => Source::Heredoc(heredoc),
            None => Source::Path(source),
        });
    }
    match heredocs.next() {
        None => Ok(found),
        Some(left) => Err(ParseError::new(
            format!("the heredoc `{}` is no source of this {name}", left.name),
            raw.span,
        )
        .hint("write `<<` and the delimiter without blanks between and within them")),
    }
}

/// Refuses a `--from=` of COPY with variables: which stages and images a build
/// needs is known before any variable is. Parsing leaves this to who plans the
/// build, since a file with such a line still has a syntax tree.
///
/// # Errors
/// Where expanding `from` would change it.
pub fn check_copy_from(from: &Text, escape: char) -> Result<(), ParseError> {
    let expanded = word::expand(&from.value, escape, &|_: &str| None);
    if expanded.is_ok_and(|e| e.text == from.value) {
        return Ok(());
    }
    Err(ParseError::new(
        format!("--from can't have variables: `{}`", from.value),
        from.span,
    )
    .hint("name a stage with `FROM image:$VARIABLE AS name`, and write `--from=name`"))
}
