//! The shape of the text behind each keyword: words, pairs, a JSON list, a
//! whole line, or another instruction.

use super::error::ParseError;
use super::json;
use super::line::Logical;
use super::raw::{self, Piece, Raw};
use super::suggest;
use super::words;

/// How many ONBUILDs may stand in a row before reading stops; more than one is
/// refused later on.
const MAX_CHAIN: usize = 8;

/// The keywords of the Dockerfile reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
}

const KEYWORDS: [(&str, Keyword); 18] = [
    ("ADD", Keyword::Add),
    ("ARG", Keyword::Arg),
    ("CMD", Keyword::Cmd),
    ("COPY", Keyword::Copy),
    ("ENTRYPOINT", Keyword::Entrypoint),
    ("ENV", Keyword::Env),
    ("EXPOSE", Keyword::Expose),
    ("FROM", Keyword::From),
    ("HEALTHCHECK", Keyword::Healthcheck),
    ("LABEL", Keyword::Label),
    ("MAINTAINER", Keyword::Maintainer),
    ("ONBUILD", Keyword::OnBuild),
    ("RUN", Keyword::Run),
    ("SHELL", Keyword::Shell),
    ("STOPSIGNAL", Keyword::StopSignal),
    ("USER", Keyword::User),
    ("VOLUME", Keyword::Volume),
    ("WORKDIR", Keyword::Workdir),
];

impl Keyword {
    /// The keyword `name` is, whatever its case.
    pub(super) fn of(name: &str) -> Option<Self> {
        KEYWORDS
            .iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(name))
            .map(|(_, keyword)| *keyword)
    }

    /// In capitals.
    pub(super) fn name(self) -> &'static str {
        KEYWORDS
            .iter()
            .find(|(_, k)| *k == self)
            .map_or("", |(name, _)| name)
    }
}

/// The keyword nearest to one that is none.
pub(super) fn nearest(name: &str) -> Option<String> {
    let names: Vec<&str> = KEYWORDS.iter().map(|(name, _)| *name).collect();
    suggest::nearest_ignoring_case(name, &names)
}

/// What follows a keyword.
#[derive(Debug)]
pub(super) enum Args {
    Nothing,
    Words(Vec<Piece>),
    /// A JSON list.
    Exec(Vec<String>),
    Line(Piece),
    Pairs {
        pairs: Vec<(Piece, Piece)>,
        legacy: bool,
    },
    Health {
        kind: Piece,
        command: Box<Args>,
    },
    Trigger(Box<Raw>),
    /// Of a keyword that is none.
    Unknown,
}

/// Reads what follows the keyword of `raw`, which stands in `line`.
///
/// # Errors
/// For lists of other things than strings and for pairs that are none.
pub(super) fn read(raw: &Raw, line: &Logical, escape: char) -> Result<Args, ParseError> {
    let text = &raw.args;
    let Some(keyword) = Keyword::of(&raw.keyword.value) else {
        return Ok(Args::Unknown);
    };
    let span = line.span(text.start, text.end);
    Ok(match keyword {
        Keyword::Add | Keyword::Copy | Keyword::Volume => match json::list(&text.value) {
            json::List::Strings(words) => Args::Exec(words),
            json::List::Other => return Err(not_strings(span)),
            json::List::None => some_words(words::split(text)),
        },
        Keyword::Cmd | Keyword::Entrypoint | Keyword::Run | Keyword::Shell => {
            maybe_exec(text, line)?
        }
        Keyword::Arg => some_words(words::quoted(text, escape)),
        Keyword::Env | Keyword::Label => pairs(keyword, text, line, escape)?,
        Keyword::Expose | Keyword::From => some_words(words::split(text)),
        Keyword::Maintainer | Keyword::StopSignal | Keyword::User | Keyword::Workdir => whole(text),
        Keyword::Healthcheck => health(text, line)?,
        Keyword::OnBuild if text.value.is_empty() => Args::Nothing,
        Keyword::OnBuild => Args::Trigger(Box::new(raw::split(line, text.start, text.end))),
    })
}

/// The instruction behind a row of ONBUILDs, for the dump.
pub(super) fn chain_is_bounded(raw: &Raw) -> bool {
    let mut rest = raw.args.value.as_str();
    for _ in 0..MAX_CHAIN {
        let length = rest.find(words::is_blank).unwrap_or(rest.len());
        if !rest[..length].eq_ignore_ascii_case("ONBUILD") {
            return true;
        }
        rest = rest[length..].trim_start();
    }
    false
}

fn some_words(words: Vec<Piece>) -> Args {
    if words.is_empty() {
        Args::Nothing
    } else {
        Args::Words(words)
    }
}

fn whole(text: &Piece) -> Args {
    if text.value.is_empty() {
        Args::Nothing
    } else {
        Args::Line(text.clone())
    }
}

fn maybe_exec(text: &Piece, line: &Logical) -> Result<Args, ParseError> {
    Ok(match json::list(&text.value) {
        json::List::Strings(words) => Args::Exec(words),
        json::List::Other => return Err(not_strings(line.span(text.start, text.end))),
        json::List::None => whole(text),
    })
}

fn not_strings(span: super::span::Span) -> ParseError {
    ParseError::new("the JSON list may hold strings only", span).hint(
        "put each word in double quotes; where no JSON is meant, don't begin the text with `[`",
    )
}

fn pairs(keyword: Keyword, text: &Piece, line: &Logical, escape: char) -> Result<Args, ParseError> {
    let words = words::quoted(text, escape);
    let Some(first) = words.first() else {
        return Ok(Args::Nothing);
    };
    let name = keyword.name();
    if !first.value.contains('=') {
        let Some(length) = text.value.find(words::is_blank) else {
            return Err(ParseError::new(
                format!("{name} has a name, `{}`, and no value", text.value),
                line.span(text.start, text.end),
            )
            .hint(format!("write `{name} {}=value`", text.value)));
        };
        let value = text.value[length..].trim_start_matches(words::is_blank);
        let split = text.start + (text.value.len() - value.len());
        let key = Piece {
            value: text.value[..length].to_owned(),
            start: text.start,
            end: text.start + length,
        };
        let value = Piece {
            value: value.to_owned(),
            start: split,
            end: text.end,
        };
        return Ok(Args::Pairs {
            pairs: vec![(key, value)],
            legacy: true,
        });
    }
    let mut pairs = Vec::with_capacity(words.len());
    for word in words {
        let Some((key, value)) = word.value.split_once('=') else {
            return Err(ParseError::new(
                format!("`{}` is no pair of a name and a value", word.value),
                line.span(word.start, word.end),
            )
            .hint(format!(
                "write `name=value`; a value with blanks goes in quotes: `{name} name=\"a b\"`"
            )));
        };
        let middle = word.start + key.len();
        pairs.push((
            Piece {
                value: key.to_owned(),
                start: word.start,
                end: middle,
            },
            Piece {
                value: value.to_owned(),
                start: middle + 1,
                end: word.end.max(middle + 1),
            },
        ));
    }
    Ok(Args::Pairs {
        pairs,
        legacy: false,
    })
}

fn health(text: &Piece, line: &Logical) -> Result<Args, ParseError> {
    let length = text
        .value
        .find(char::is_whitespace)
        .unwrap_or(text.value.len());
    if length == 0 {
        return Ok(Args::Nothing);
    }
    let kind = Piece {
        value: text.value[..length].to_owned(),
        start: text.start,
        end: text.start + length,
    };
    let rest = words::trimmed(&text.value[length..], text.start + length);
    Ok(Args::Health {
        kind,
        command: Box::new(maybe_exec(&rest, line)?),
    })
}
