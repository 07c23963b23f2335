//! `shiplap check`: the linter, without a build.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use shiplap::context::ignore::Ignore;
use shiplap::dockerfile::lint::{LintOptions, RULES, Report, Rule, lint};
use shiplap::dockerfile::span::LineIndex;
use shiplap::dockerfile::{self, ParseError, suggest};

use super::error::{Located, Negative, Usage};
use super::source::{SourceArgs, environment};
use super::{Format, open_input};
use crate::ui::excerpt::{Excerpt, Severity};
use crate::ui::{self, escape, output};

/// The largest Dockerfile that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

const EXAMPLES: &str = "\
Examples:
  Check ./Dockerfile
    shiplap check

  Why is that a rule?
    shiplap check --explain WorkdirRelativePath";

/// Check a Dockerfile without building it
///
/// Exits with 1 when there is something to warn of.
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
    pub(super) fn run(self) -> anyhow::Result<()> {
        match &self.explain {
            Some(rule) => explain(rule),
            None => check(&self.source, self.format),
        }
    }
}

/// A Dockerfile with its name.
struct Text {
    file: PathBuf,
    text: String,
}

/// Checks what `source` names, prints the result and fails when there is
/// something to warn of.
pub(super) fn check(source: &SourceArgs, format: Format) -> anyhow::Result<()> {
    let request = source.request(&environment)?;
    let context = Path::new(&request.context);
    let text = read_dockerfile(context, request.file.as_deref())?;
    let ignore = ignore_rules(source, context, &text.file)?;
    let ignored = |path: &str| {
        let path = Path::new(path.trim_start_matches('/'));
        ignore.as_ref().is_some_and(|ignore| ignore.ignored(path))
    };
    let platform = request.platforms.first().map(ToString::to_string);
    let settings = request
        .build_args
        .iter()
        .rev()
        .find(|(name, _)| name == "BUILDKIT_DOCKERFILE_CHECK");
    let options = LintOptions {
        build_args: &request.build_args,
        target: request.target.as_deref(),
        target_platform: platform.as_deref(),
        ignored: ignore.is_some().then_some(&ignored),
        check: settings.map(|(_, value)| value.as_str()),
        ..LintOptions::default()
    };
    let report = match dockerfile::parse(&text.text) {
        Ok(file) => lint(&file, &options),
        Err(error) => Report {
            error: Some(error),
            ..Report::default()
        },
    };
    match format {
        Format::Json => output::json(&as_json(&report, &text.text))?,
        Format::Text => output::result(&as_text(&report, &text))?,
    }
    match report.error {
        Some(error) if format == Format::Text => {
            Err(Located::parse(error, &text.file, &text.text).into())
        }
        None if report.warnings.is_empty() => Ok(()),
        _ => Err(Negative.into()),
    }
}

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

fn as_text(report: &Report, text: &Text) -> String {
    let mut out = String::new();
    let file = text.file.display().to_string();
    for warning in &report.warnings {
        let rule = warning.rule.info();
        let excerpt = Excerpt {
            file: &file,
            source: &text.text,
            span: warning.span.start..warning.span.end,
            severity: Severity::Warning,
            message: &format!("{} [{}]", warning.detail, rule.name),
            label: "",
            notes: &[rule.summary.to_owned()],
        };
        out.push_str(&excerpt.render(ui::width(), false));
        out.push('\n');
    }
    let count = report.warnings.len();
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

fn read_dockerfile(context: &Path, file: Option<&str>) -> anyhow::Result<Text> {
    let file = match file {
        Some(file) if file == "-" || Path::new(file).exists() => PathBuf::from(file),
        Some(file) if context.join(file).exists() => context.join(file),
        Some(file) => PathBuf::from(file),
        None if context.as_os_str() == "-" => PathBuf::from("-"),
        None if !context.join("Dockerfile").exists() && context.join("Containerfile").exists() => {
            context.join("Containerfile")
        }
        None => context.join("Dockerfile"),
    };
    let mut bytes = Vec::new();
    open_input(&file)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("can't read {}", file.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        anyhow::bail!("{} is larger than {MAX_FILE} bytes", file.display());
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Text { file, text })
}

/// The ignore file's rules; `None` where there is none and where it takes
/// anything back: then a name alone does not decide.
fn ignore_rules(
    source: &SourceArgs,
    context: &Path,
    dockerfile: &Path,
) -> anyhow::Result<Option<Ignore>> {
    let own = PathBuf::from(format!("{}.dockerignore", dockerfile.display()));
    let found = match &source.ignorefile {
        Some(file) => Some(file.clone()),
        None => [
            own,
            context.join(".containerignore"),
            context.join(".dockerignore"),
        ]
        .into_iter()
        .find(|path| path.is_file()),
    };
    let Some(path) = found else {
        return Ok(None);
    };
    let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    let rules = Ignore::parse(&bytes)
        .map_err(|e| anyhow::anyhow!("{}: {e}", escape::text(&path.display().to_string())))?;
    let takes_back = bytes
        .split(|b| *b == b'\n')
        .any(|line| line.trim_ascii_start().starts_with(b"!"));
    Ok((!takes_back).then_some(rules))
}
