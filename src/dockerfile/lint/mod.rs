//! What a Dockerfile does that its author may not have meant.
//!
//! [`lint`] looks at a syntax tree as a build would go through it, with the
//! same scopes for variables, and runs nothing. A file that can't be built has
//! an error in its [`Report`] beside the warnings found up to there. The rules
//! are a [table](RULES).
//!
//! Time is linear in the file's length and in what its variables expand to,
//! and that is bounded.

use super::ast::Dockerfile;
use super::error::ParseError;
use super::span::Span;

mod commands;
mod froms;
mod names;
mod needs;
mod rules;
mod scope;
mod settings;
mod stages;
mod statics;
#[cfg(test)]
mod tests;

pub use froms::empty_base;
pub use rules::{RULES, Rule, RuleInfo};
pub use settings::Settings;

/// What is known of a base image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseImage {
    /// The config's `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// Whether the config has a `Shell`.
    pub has_shell: bool,
    /// The config's `OnBuild`.
    pub on_build: Vec<String>,
    /// The config's platform, as `os/architecture[/variant]`.
    pub platform: Option<String>,
}

/// Finds what is known of an image by its expanded name.
pub type BaseLookup<'a> = dyn Fn(&str) -> Option<BaseImage> + 'a;

/// What to lint for.
#[derive(Clone, Copy, Default)]
pub struct LintOptions<'a> {
    /// `--build-arg`, the last of a name counts.
    pub build_args: &'a [(String, String)],
    /// The stage to build; with it only the stages that it needs are looked
    /// at.
    pub target: Option<&'a str>,
    /// Without a target: only what the last stage needs, as a build has it,
    /// and not all stages, as a check has it.
    pub only_needed: bool,
    /// The platform to build for, as `os/architecture[/variant]`; `None` is
    /// `linux/amd64`.
    pub target_platform: Option<&'a str>,
    /// The platform that builds; `None` is `linux/amd64`.
    pub build_platform: Option<&'a str>,
    /// What is known of the image of that name; `None` where nothing is.
    pub base: Option<&'a BaseLookup<'a>>,
    /// Whether the ignore file excludes a path of the context. `None` where
    /// there is no ignore file, and where one has exceptions: whether a
    /// directory of which parts come back is excluded can't be said.
    pub ignored: Option<&'a dyn Fn(&str) -> bool>,
    /// Settings in place of the file's `# check=`.
    pub check: Option<&'a str>,
}

impl std::fmt::Debug for LintOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LintOptions")
            .field("build_args", &self.build_args)
            .field("target", &self.target)
            .field("only_needed", &self.only_needed)
            .field("target_platform", &self.target_platform)
            .field("build_platform", &self.build_platform)
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}

/// A warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule that it is of.
    pub rule: Rule,
    /// Where; the line is that of the span's start.
    pub span: Span,
    /// What was found there.
    pub detail: String,
}

impl Warning {
    /// What the rule says.
    pub fn description(&self) -> &'static str {
        self.rule.info().summary
    }
}

/// What [`lint`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the file's order.
    pub warnings: Vec<Warning>,
    /// Why the file can't be built, where that shows without building.
    pub error: Option<ParseError>,
    /// Whether the settings make the warnings an error.
    pub fails: bool,
}

/// Looks a file through.
pub fn lint(file: &Dockerfile, options: &LintOptions<'_>) -> Report {
    let directive = file.directives.check.as_ref();
    let text = options
        .check
        .or(directive.map(|d| d.value.as_str()))
        .unwrap_or_default();
    let settings = match Settings::parse(text) {
        Ok(settings) => settings,
        Err(message) => {
            let span = directive.map_or(Span::new(0, 0), |d| d.span);
            return Report {
                error: Some(ParseError::new(message, span)),
                ..Report::default()
            };
        }
    };
    let mut sink = Sink {
        settings: &settings,
        warnings: Vec::new(),
    };
    statics::run(file, &mut sink);
    let error = stages::run(file, options, &mut sink).err();
    let mut warnings = sink.warnings;
    warnings.sort_by_key(|w| w.span.start);
    Report {
        fails: settings.error && !warnings.is_empty(),
        warnings,
        error,
    }
}

/// Takes the warnings of the rules that run.
struct Sink<'a> {
    settings: &'a Settings,
    warnings: Vec<Warning>,
}

impl Sink<'_> {
    /// `own` are the settings of the comments above the instruction.
    fn warn(&mut self, rule: Rule, span: Span, own: Option<&Settings>, detail: String) {
        if self.settings.runs_with(own, rule) {
            self.warnings.push(Warning { rule, span, detail });
        }
    }
}
