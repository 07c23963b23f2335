//! `shiplap check`: the linter, without a build.

use std::path::Path;

use clap::Args;
use serde_json::json;
use shiplap::build::{SourceText, frontend};
use shiplap::dockerfile::lint::{RULES, Report, Rule, Warning};
use shiplap::dockerfile::span::LineIndex;
use shiplap::dockerfile::{ParseError, suggest};

use super::error::{Located, Negative, Usage, located};
use super::source::{SourceArgs, environment};
use super::{Format, Session};
use crate::ui::excerpt::{Excerpt, Severity};
use crate::ui::{self, output};

const EXAMPLES: &str = "\
Examples:
  Check ./Dockerfile
    shiplap check

  Why is that a rule?
    shiplap check --explain WorkdirRelativePath";

/// Check a Dockerfile without building it
///
/// Base images that are in the store are looked at; no registry is asked. Exits
/// with 1 when there is something to warn of.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Explain a rule
    #[arg(long, value_name = "RULE")]
    explain: Option<String>,
}

impl CheckArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        match &self.explain {
            Some(rule) => explain(rule),
            None => check(session, &self.source, self.format),
        }
    }
}

/// Checks what `source` names, prints the result and fails when there is
/// something to warn of.
pub(super) fn check(session: &Session, source: &SourceArgs, format: Format) -> anyhow::Result<()> {
    let request = source.request(&environment)?;
    let cancel = session.interrupts.cancel();
    let store = session.existing_store();
    let (text, report) =
        frontend::check(&request, &Session::sources(), store.as_ref(), &cancel).map_err(located)?;
    match format {
        Format::Json => output::json(&as_json(&report, &text.text))?,
        Format::Text => output::result(&as_text(&report, &text))?,
    }
    match report.error {
        Some(error) if format == Format::Text => {
            Err(Located::parse(error, Path::new(&text.file), &text.text).into())
        }
        None if report.warnings.is_empty() => Ok(()),
        _ => Err(Negative.into()),
    }
}

/// Warnings that are shown to people.
const MOST_SHOWN: usize = 1000;

fn as_json(report: &Report, text: &str) -> serde_json::Value {
    let lines = LineIndex::new(text);
    let warnings: Vec<_> = report
        .warnings
        .iter()
        .map(|warning| {
            let (line, column) = lines.line_column(warning.span.start);
            json!({
                "rule": warning.rule.info().name,
                "line": line,
                "column": column,
                "detail": warning.detail,
                "description": warning.description(),
            })
        })
        .collect();
    let error = report.error.as_ref().map(|error: &ParseError| {
        let (line, column) = lines.line_column(error.span.start);
        json!({"message": error.message, "line": line, "column": column})
    });
    json!({"warnings": warnings, "error": error})
}

/// Whether the error says the same of the same FROM, and what to do.
fn repeats(warning: &Warning, report: &Report) -> bool {
    let of_base = matches!(
        warning.rule,
        Rule::InvalidDefaultArgInFrom | Rule::UndefinedArgInFrom
    );
    let spans = report
        .error
        .as_ref()
        .map(|error| (warning.span, error.span));
    of_base && spans.is_some_and(|(w, e)| w.start <= e.start && e.end <= w.end)
}

fn as_text(report: &Report, text: &SourceText) -> String {
    let mut out = String::new();
    let file = &text.file;
    let lines = LineIndex::new(&text.text);
    let warnings: Vec<_> = report
        .warnings
        .iter()
        .filter(|w| !repeats(w, report))
        .collect();
    for warning in warnings.iter().take(MOST_SHOWN) {
        let rule = warning.rule.info();
        let (start, end) = (warning.span.start, warning.span.end);
        let (line, column) = lines.line_column(start);
        // Looking for the line from the file's start would take longer with
        // each warning.
        let from = (start + 1).saturating_sub(column as usize);
        let excerpt = Excerpt {
            file,
            source: text.text.get(from..).unwrap_or_default(),
            lines_before: line.saturating_sub(1) as usize,
            span: start - from..end.saturating_sub(from),
            severity: Severity::Warning,
            message: &format!("{} [{}]", warning.detail, rule.name),
            label: "",
            notes: &[rule.summary.to_owned()],
        };
        out.push_str(&excerpt.render(ui::width(), false));
        out.push('\n');
    }
    let count = warnings.len();
    if count > MOST_SHOWN {
        out.push_str(&format!(
            "{} more are not shown; --format json has all\n",
            count - MOST_SHOWN
        ));
    }
    match (count, &report.error) {
        (0, None) => out.push_str("no warnings\n"),
        (0, Some(_)) => {}
        (1, _) => out.push_str("1 warning; shiplap check --explain RULE says why\n"),
        _ => out.push_str(&format!(
            "{count} warnings; shiplap check --explain RULE says why\n"
        )),
    }
    out
}

fn explain(name: &str) -> anyhow::Result<()> {
    let Some(rule) = Rule::find(name) else {
        let names = RULES.iter().map(|info| info.name);
        let near = suggest::nearest(name, names.clone())
            .map(|near| format!("; did you mean {near}?"))
            .unwrap_or_default();
        let all: Vec<&str> = names.collect();
        return Err(Usage::error(format!(
            "there is no rule {name:?}{near}\nrules: {}",
            all.join(", ")
        )));
    };
    let info = rule.info();
    let indent =
        |text: &str| -> String { text.lines().map(|line| format!("    {line}\n")).collect() };
    let experimental = if info.experimental {
        "\nIt runs only where `# check=experimental=` names it.\n"
    } else {
        ""
    };
    output::result(&format!(
        "{}: {}\n\n{}\n{experimental}\nBad:\n{}\nGood:\n{}",
        info.name,
        info.summary,
        info.explanation,
        indent(info.bad),
        indent(info.good),
    ))
}
