//! RUN.

use super::super::args::Args;
use super::super::ast::{Heredoc, InstructionKind, Run, Text};
use super::super::error::ParseError;
use super::super::raw::Raw;
use super::super::{mount, suggest};
use super::flags::{self, Takes};
use super::{Context, command};

const FLAGS: [(&str, Takes); 4] = [
    ("mount", Takes::Texts),
    ("network", Takes::Text),
    ("security", Takes::Text),
    ("device", Takes::Texts),
];

const NETWORKS: [&str; 3] = ["default", "none", "host"];
const SECURITIES: [&str; 2] = ["sandbox", "insecure"];

/// Reads a RUN.
///
/// # Errors
/// For wrong flags.
pub(super) fn read(
    raw: &Raw,
    args: Args,
    heredocs: Vec<Heredoc>,
    context: &Context<'_>,
) -> Result<InstructionKind, ParseError> {
    let mut flags = flags::read(raw, "RUN", &FLAGS, context)?;
    let mounts = flags.texts("mount");
    for text in &mounts {
        mount::check_raw(&text.value).map_err(|e| {
            ParseError::new(e.to_string(), text.span).hint_option(e.hint().map(str::to_owned))
        })?;
    }
    let network = flags.text("network");
    one_of("network", network.as_ref(), &NETWORKS)?;
    let security = flags.text("security");
    one_of("security", security.as_ref(), &SECURITIES)?;
    Ok(InstructionKind::Run(Run {
        command: command(args),
        heredocs,
        mounts,
        network,
        security,
        devices: flags.texts("device"),
    }))
}

fn one_of(flag: &str, value: Option<&Text>, known: &[&str]) -> Result<(), ParseError> {
    let Some(text) = value else { return Ok(()) };
    if known.contains(&text.value.as_str()) {
        return Ok(());
    }
    let hint = suggest::nearest(&text.value, known.iter().copied()).map_or_else(
        || format!("it takes {}", known.join(", ")),
        |near| format!("did you mean `{near}`?"),
    );
    Err(ParseError::new(format!("--{flag} has no value `{}`", text.value), text.span).hint(hint))
}
