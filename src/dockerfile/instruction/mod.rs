//! The second pass: what each instruction means, checked.

use super::args::{self, Args, Keyword};
use super::ast::{ArgDecl, Command, Instruction, InstructionKind, KeyValues, OnBuild, Text};
use super::error::ParseError;
use super::line::Logical;
use super::raw::{Piece, Raw};
use super::span::Span;

mod copy;
mod duration;
mod flags;
mod from;
mod health;
mod run;

pub use copy::check_copy_from;
pub(super) use from::from;

/// What the parsers of the instructions share.
pub(super) struct Context<'a> {
    pub(super) line: &'a Logical,
    pub(super) escape: char,
}

impl Context<'_> {
    fn text(&self, piece: Piece) -> Text {
        Text {
            span: self.line.span(piece.start, piece.end),
            value: piece.value,
        }
    }

    fn span(&self, piece: &Piece) -> Span {
        self.line.span(piece.start, piece.end)
    }
}

/// Reads one instruction other than FROM. Its heredocs move into the result.
///
/// # Errors
/// Where the instruction is unknown or malformed.
pub(super) fn read(
    mut raw: Raw,
    keyword: Keyword,
    context: &Context<'_>,
) -> Result<Instruction, ParseError> {
    let args = args::read(&raw, context.line, context.escape)?;
    let heredocs = std::mem::take(&mut raw.heredocs);
    let kind = match keyword {
        Keyword::Add | Keyword::Copy => copy::read(&raw, keyword, args, heredocs, context)?,
        Keyword::Run => run::read(&raw, args, heredocs, context)?,
        Keyword::Healthcheck => health::read(&raw, args, context)?,
        Keyword::OnBuild => on_build(&raw, args, heredocs, context)?,
        _ => simple(&raw, keyword, args, context)?,
    };
    let end = raw.args.end.max(raw.keyword.end);
    let rest = context
        .line
        .text
        .get(raw.keyword.end..end)
        .unwrap_or_default()
        .trim()
        .to_owned();
    Ok(Instruction {
        span: raw.span,
        doc_adjacent: raw.comments_adjacent,
        doc: (!raw.comments.is_empty()).then(|| raw.comments.join("\n")),
        keyword: context.text(raw.keyword),
        rest,
        kind,
    })
}

/// The error for a keyword that is none.
pub(super) fn unknown(raw: &Raw, context: &Context<'_>) -> ParseError {
    let name = &raw.keyword.value;
    let span = context.span(&raw.keyword);
    if name.is_empty() {
        return ParseError::new("the continuation goes nowhere", raw.span)
            .hint("remove the escape character at the end of the line");
    }
    let error = ParseError::new(format!("`{name}` is no instruction"), span);
    if let Some(odd) = name.chars().find(|c| c.is_whitespace()) {
        return error.hint(format!(
            "the blank in it is not a space but U+{:04X}; write a space",
            odd as u32
        ));
    }
    let error = error.hint("lines that go on need the escape character at their end");
    error.hint_option(args::nearest(name).map(|near| format!("did you mean `{near}`?")))
}

fn simple(
    raw: &Raw,
    keyword: Keyword,
    args: Args,
    context: &Context<'_>,
) -> Result<InstructionKind, ParseError> {
    flags::none(raw, keyword.name(), context)?;
    Ok(match keyword {
        Keyword::Env => InstructionKind::Env(pairs(raw, "ENV", args, context)?),
        Keyword::Label => InstructionKind::Label(pairs(raw, "LABEL", args, context)?),
        Keyword::Arg => InstructionKind::Arg(arg(raw, args, context)?),
        Keyword::Cmd => InstructionKind::Cmd(command(args)),
        Keyword::Entrypoint => InstructionKind::Entrypoint(command(args)),
        Keyword::Shell => InstructionKind::Shell(shell(raw, args, context)?),
        Keyword::Expose => InstructionKind::Expose(match args {
            Args::Words(words) => words.into_iter().map(|w| context.text(w)).collect(),
            _ => return Err(needs_some(raw, "EXPOSE", "a port, as in `EXPOSE 8080/tcp`")),
        }),
        Keyword::Volume => InstructionKind::Volume(volume(raw, args, context)?),
        Keyword::Maintainer => InstructionKind::Maintainer(one(raw, args, context)?),
        Keyword::StopSignal => InstructionKind::StopSignal(one(raw, args, context)?),
        Keyword::User => InstructionKind::User(one(raw, args, context)?),
        Keyword::Workdir => InstructionKind::Workdir(one(raw, args, context)?),
        // The caller has these read elsewhere.
        Keyword::Add
        | Keyword::Copy
        | Keyword::From
        | Keyword::Healthcheck
        | Keyword::OnBuild
        | Keyword::Run => return Err(unknown(raw, context)),
    })
}

fn needs_some(raw: &Raw, name: &str, what: &str) -> ParseError {
    ParseError::new(format!("{name} needs at least one argument"), raw.span)
        .hint(format!("give it {what}"))
}

fn one(raw: &Raw, args: Args, context: &Context<'_>) -> Result<Text, ParseError> {
    match args {
        Args::Line(text) => Ok(context.text(text)),
        _ => {
            let name = raw.keyword.value.to_uppercase();
            let example = match name.as_str() {
                "USER" => "USER nobody",
                "WORKDIR" => "WORKDIR /srv",
                "STOPSIGNAL" => "STOPSIGNAL SIGTERM",
                _ => "LABEL org.opencontainers.image.authors=\"me@example.org\"",
            };
            let message = format!("{name} needs exactly one argument");
            Err(ParseError::new(message, raw.span).hint(format!("write `{example}`")))
        }
    }
}

fn pairs(
    raw: &Raw,
    name: &str,
    args: Args,
    context: &Context<'_>,
) -> Result<KeyValues, ParseError> {
    let Args::Pairs { pairs, legacy } = args else {
        return Err(needs_some(raw, name, "a pair, as in `name=value`"));
    };
    if let Some((key, value)) = pairs.iter().find(|(key, _)| key.value.is_empty()) {
        return Err(blank_name(name, context.line.span(key.start, value.end)));
    }
    let pairs = pairs
        .into_iter()
        .map(|(key, value)| (context.text(key), context.text(value)))
        .collect();
    Ok(KeyValues { pairs, legacy })
}

fn blank_name(instruction: &str, span: Span) -> ParseError {
    ParseError::new(format!("{instruction} has a value without a name"), span)
        .hint("write `name=value`, without blanks around `=`")
}

fn arg(raw: &Raw, args: Args, context: &Context<'_>) -> Result<Vec<ArgDecl>, ParseError> {
    let Args::Words(words) = args else {
        return Err(needs_some(raw, "ARG", "a name, as in `ARG VERSION=1.0`"));
    };
    let mut found = Vec::with_capacity(words.len());
    for word in words {
        let span = context.span(&word);
        let Some((name, value)) = word.value.split_once('=') else {
            found.push(ArgDecl {
                name: context.text(word),
                default: None,
            });
            continue;
        };
        if name.is_empty() {
            return Err(blank_name("ARG", span));
        }
        let middle = word.start + name.len();
        found.push(ArgDecl {
            name: Text {
                value: name.to_owned(),
                span: context.line.span(word.start, middle),
            },
            default: Some(Text {
                value: value.to_owned(),
                span: context.line.span(middle + 1, word.end.max(middle + 1)),
            }),
        });
    }
    Ok(found)
}

fn command(args: Args) -> Command {
    match args {
        Args::Exec(words) => Command::Exec(words),
        Args::Line(text) => Command::Shell(text.value),
        _ => Command::Shell(String::new()),
    }
}

fn shell(raw: &Raw, args: Args, context: &Context<'_>) -> Result<Vec<String>, ParseError> {
    const FORM: &str = "write a JSON list, as in `SHELL [\"/bin/bash\", \"-c\"]`";
    match args {
        Args::Exec(words) if !words.is_empty() => Ok(words),
        Args::Line(text) => Err(ParseError::new(
            "SHELL takes a JSON list of strings only",
            context.span(&text),
        )
        .hint(FORM)),
        _ => Err(ParseError::new("SHELL needs at least one argument", raw.span).hint(FORM)),
    }
}

fn volume(raw: &Raw, args: Args, context: &Context<'_>) -> Result<Vec<Text>, ParseError> {
    let span = context.span(&raw.args);
    let words: Vec<Text> = match args {
        Args::Words(words) => words.into_iter().map(|w| context.text(w)).collect(),
        Args::Exec(words) if !words.is_empty() => words
            .into_iter()
            .map(|word| Text {
                value: word.trim().to_owned(),
                span,
            })
            .collect(),
        _ => return Err(needs_some(raw, "VOLUME", "a path, as in `VOLUME /data`")),
    };
    if words.iter().any(|w| w.value.is_empty()) {
        return Err(ParseError::new("VOLUME has an empty path", span).hint("remove it"));
    }
    Ok(words)
}

fn on_build(
    raw: &Raw,
    args: Args,
    heredocs: Vec<super::ast::Heredoc>,
    context: &Context<'_>,
) -> Result<InstructionKind, ParseError> {
    flags::none(raw, "ONBUILD", context)?;
    let Args::Trigger(mut inner) = args else {
        return Err(needs_some(
            raw,
            "ONBUILD",
            "an instruction, as in `ONBUILD RUN make`",
        ));
    };
    let mut trigger = raw.args.value.clone();
    for heredoc in &heredocs {
        trigger.push('\n');
        trigger.push_str(&heredoc.raw);
        trigger.push_str(&heredoc.name);
    }
    let Some(keyword) = Keyword::of(&inner.keyword.value) else {
        return Err(unknown(&inner, context));
    };
    let span = context.span(&inner.keyword);
    match keyword {
        Keyword::OnBuild => {
            return Err(ParseError::new("ONBUILD can't hold an ONBUILD", span)
                .hint("triggers reach the next build only, never the one after it"));
        }
        Keyword::From | Keyword::Maintainer => {
            return Err(ParseError::new(
                format!("ONBUILD can't hold a {}", keyword.name()),
                span,
            ));
        }
        _ => {}
    }
    if let Some(last) = heredocs.last() {
        inner.span.end = last.end.end;
    }
    inner.heredocs = heredocs;
    let instruction = read(*inner, keyword, context)?;
    Ok(InstructionKind::OnBuild(OnBuild {
        trigger,
        instruction: Box::new(instruction),
    }))
}
