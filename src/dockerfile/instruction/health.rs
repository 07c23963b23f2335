//! HEALTHCHECK.

use super::super::args::Args;
use super::super::ast::{Command, Healthcheck, InstructionKind};
use super::super::error::ParseError;
use super::super::raw::Raw;
use super::flags::{self, Given, Takes};
use super::{Context, command, duration};

const FLAGS: [(&str, Takes); 5] = [
    ("interval", Takes::Text),
    ("timeout", Takes::Text),
    ("start-period", Takes::Text),
    ("start-interval", Takes::Text),
    ("retries", Takes::Text),
];

/// Docker refuses images whose checks run more often than this; 0 stands for
/// the default.
const SHORTEST_NANOSECONDS: i64 = 1_000_000;

const NONE: Healthcheck = Healthcheck {
    command: None,
    interval: 0,
    timeout: 0,
    start_period: 0,
    start_interval: 0,
    retries: 0,
};

/// Reads a HEALTHCHECK.
///
/// # Errors
/// For wrong flags and where it is neither CMD nor NONE.
pub(super) fn read(
    raw: &Raw,
    args: Args,
    context: &Context<'_>,
) -> Result<InstructionKind, ParseError> {
    let Args::Health {
        kind,
        command: args,
    } = args
    else {
        return Err(
            ParseError::new("HEALTHCHECK needs at least one argument", raw.span)
                .hint("write `HEALTHCHECK CMD command` or `HEALTHCHECK NONE`"),
        );
    };
    if kind.value.eq_ignore_ascii_case("NONE") {
        return match *args {
            Args::Nothing => Ok(InstructionKind::Healthcheck(NONE)),
            _ => Err(ParseError::new(
                "HEALTHCHECK NONE takes no arguments",
                context.span(&raw.args),
            )),
        };
    }
    let mut flags = flags::read(raw, "HEALTHCHECK", &FLAGS, context)?;
    if !kind.value.eq_ignore_ascii_case("CMD") {
        return Err(ParseError::new(
            format!("HEALTHCHECK has no form `{}`", kind.value),
            context.span(&kind),
        )
        .hint("write `HEALTHCHECK CMD command` or `HEALTHCHECK NONE`"));
    }
    let command = command(*args);
    let empty = match &command {
        Command::Shell(line) => line.is_empty(),
        Command::Exec(words) => words.is_empty(),
    };
    if empty {
        return Err(
            ParseError::new("HEALTHCHECK CMD has no command", context.span(&kind))
                .hint("write `HEALTHCHECK CMD command`; `HEALTHCHECK NONE` turns a check off"),
        );
    }
    Ok(InstructionKind::Healthcheck(Healthcheck {
        command: Some(command),
        interval: nanoseconds(&mut flags, "interval")?,
        timeout: nanoseconds(&mut flags, "timeout")?,
        start_period: nanoseconds(&mut flags, "start-period")?,
        start_interval: nanoseconds(&mut flags, "start-interval")?,
        retries: retries(&mut flags)?,
    }))
}

fn nanoseconds(flags: &mut Given, name: &str) -> Result<i64, ParseError> {
    let Some(text) = flags.text(name) else {
        return Ok(0);
    };
    let Some(value) = duration::nanoseconds(&text.value) else {
        return Err(ParseError::new(
            format!("--{name} has no duration: `{}`", text.value),
            text.span,
        )
        .hint("durations look like `30s`, `1m30s` or `500ms`"));
    };
    if value != 0 && value < SHORTEST_NANOSECONDS {
        return Err(ParseError::new(
            format!("--{name} can't be shorter than 1ms"),
            text.span,
        ));
    }
    Ok(value)
}

fn retries(flags: &mut Given) -> Result<i64, ParseError> {
    let Some(text) = flags.text("retries") else {
        return Ok(0);
    };
    let value: Result<i32, _> = text.value.parse();
    match value {
        Ok(value) if value >= 0 => Ok(i64::from(value)),
        _ => Err(ParseError::new(
            format!("--retries takes a number from 0 on, not `{}`", text.value),
            text.span,
        )),
    }
}
