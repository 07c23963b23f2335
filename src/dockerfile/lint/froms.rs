//! The FROM lines: the arguments that they may use, and what they name.

use std::collections::HashMap;

use super::super::ast::{Dockerfile, InstructionKind, Stage, Text};
use super::super::error::ParseError;
use super::super::span::Span;
use super::super::suggest;
use super::super::word::{self, WordError};
use super::commands::Budget;
use super::scope::Scope;
use super::{LintOptions, Rule, Settings, Sink, names, statics};

/// A stage, after the FROM lines were read.
pub(super) struct Node {
    /// The image or stage that it starts from, expanded.
    pub(super) base: String,
    /// `--platform`, expanded.
    pub(super) platform: Option<String>,
    pub(super) parent: Option<usize>,
    /// Stages that it copies from or mounts.
    pub(super) needs: Vec<(usize, Span)>,
    pub(super) is_needed: bool,
    pub(super) own: Option<Settings>,
}

/// The predefined arguments and those before the first FROM.
pub(super) fn globals(
    file: &Dockerfile,
    options: &LintOptions<'_>,
    build_args: Option<&[(String, String)]>,
    budget: &mut Budget,
) -> Result<Scope, ParseError> {
    let mut scope = Scope::default();
    predefined(file, options, &mut scope);
    for arg in &file.global_args {
        let InstructionKind::Arg(args) = &arg.kind else {
            continue;
        };
        for decl in args {
            let name = &decl.name.value;
            let value = match (given(build_args.unwrap_or_default(), name), &decl.default) {
                (Some(value), _) => Some(value.to_owned()),
                (None, Some(default)) => {
                    let lookup = (budget.meter).count(|name: &str| scope.get(name).cloned());
                    let expanded = word::expand(&default.value, file.directives.escape, &lookup)
                        .map_err(|e| at(&e, arg.span))?;
                    budget.spend(expanded.text.len(), arg.span)?;
                    Some(expanded.text)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                scope.set(name, value);
            }
            scope.declare(name);
        }
    }
    Ok(scope)
}

fn predefined(file: &Dockerfile, options: &LintOptions<'_>, scope: &mut Scope) {
    let last = file.stages.last().and_then(|s| s.name.as_ref());
    let stage = match (options.target, last) {
        (Some(target), _) => target.to_owned(),
        (None, Some(name)) => name.value.to_lowercase(),
        (None, None) => "default".to_owned(),
    };
    let mut set = |name: &str, value: &str| {
        let value = given(options.build_args, name).unwrap_or(value);
        scope.set(name, value.to_owned());
    };
    for (prefix, platform) in [
        ("BUILD", options.build_platform),
        ("TARGET", options.target_platform),
    ] {
        let platform = platform.unwrap_or("linux/amd64");
        let mut parts = platform.splitn(3, '/');
        set(&format!("{prefix}PLATFORM"), platform);
        for name in ["OS", "ARCH", "VARIANT"] {
            set(&format!("{prefix}{name}"), parts.next().unwrap_or_default());
        }
        set(&format!("{prefix}OSVERSION"), "");
    }
    set("TARGETSTAGE", &stage);
}

pub(super) fn given<'a>(args: &'a [(String, String)], name: &str) -> Option<&'a str> {
    args.iter()
        .rev()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.as_str())
}

pub(super) fn at(error: &WordError, span: Span) -> ParseError {
    ParseError::new(error.to_string(), span)
}

/// Whether the base images have names without any build argument. An error
/// here shows up again where it counts.
pub(super) fn default_names(
    file: &Dockerfile,
    options: &LintOptions<'_>,
    sink: &mut Sink<'_>,
    budget: &mut Budget,
) {
    let Ok(scope) = globals(file, options, None, budget) else {
        return;
    };
    let lookup = (budget.meter).count(|name: &str| scope.get(name).cloned());
    for stage in &file.stages {
        let Ok(name) = word::expand(&stage.base.value, file.directives.escape, &lookup) else {
            return;
        };
        if !names::is_reference(&name.text) {
            let own = statics::of_stage(stage);
            let detail = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.base.value
            );
            sink.warn(
                Rule::InvalidDefaultArgInFrom,
                stage.span,
                own.as_ref(),
                detail,
            );
        }
    }
}

/// The error for a base whose name has nothing left when its variables are
/// replaced; `unset` are those without a value.
pub fn empty_base(file: &Dockerfile, base: &Text, unset: &[String]) -> ParseError {
    let args = file.global_args.iter().filter_map(|i| match &i.kind {
        InstructionKind::Arg(decls) => Some(decls),
        _ => None,
    });
    let declared: Vec<&str> = args.flatten().map(|d| d.name.value.as_str()).collect();
    let stranger = unset.iter().find(|n| !declared.contains(&n.as_str()));
    let hint = match stranger {
        None => "give its ARG a default, or the build a --build-arg".to_owned(),
        Some(name) => match suggest::nearest(name, declared) {
            Some(near) => format!("{name} is not declared; did you mean {near}?"),
            None => format!("declare it before the first FROM, with a default: ARG {name}=…"),
        },
    };
    let message = format!("the base image's name `{}` comes out empty", base.value);
    ParseError::new(message, base.span).hint(hint)
}

/// Reads the FROM lines.
pub(super) fn froms(
    file: &Dockerfile,
    globals: &Scope,
    sink: &mut Sink<'_>,
    budget: &mut Budget,
) -> Result<Vec<Node>, ParseError> {
    let mut nodes = Vec::with_capacity(file.stages.len());
    let mut named: HashMap<String, usize> = HashMap::new();
    for (i, stage) in file.stages.iter().enumerate() {
        let own = statics::of_stage(stage);
        let expanded = from_word(
            file,
            stage,
            &stage.base,
            globals,
            own.as_ref(),
            sink,
            budget,
        )?;
        if expanded.text.is_empty() {
            return Err(empty_base(file, &stage.base, &expanded.unset));
        }
        let platform = match &stage.platform {
            Some(text) => Some(from_platform(
                file,
                stage,
                text,
                globals,
                own.as_ref(),
                sink,
                budget,
            )?),
            None => None,
        };
        let parent = named.get(&expanded.text).copied();
        nodes.push(Node {
            base: expanded.text,
            platform,
            parent,
            needs: Vec::new(),
            is_needed: false,
            own,
        });
        if let Some(name) = &stage.name {
            named.insert(name.value.to_lowercase(), i);
        }
    }
    Ok(nodes)
}

fn from_word(
    file: &Dockerfile,
    stage: &Stage,
    text: &Text,
    globals: &Scope,
    own: Option<&Settings>,
    sink: &mut Sink<'_>,
    budget: &mut Budget,
) -> Result<word::Expansion, ParseError> {
    let lookup = (budget.meter).count(|name: &str| globals.get(name).cloned());
    let result = word::expand(&text.value, file.directives.escape, &lookup);
    let unset = match &result {
        Ok(expanded) => &expanded.unset,
        Err(error) => &error.unset,
    };
    for name in unset.iter().filter(|name| !globals.is_declared(name)) {
        let near = budget.nearest(name, globals);
        let detail = match near {
            Some(near) => format!("FROM argument '{name}' is not declared (did you mean {near}?)"),
            None => format!("FROM argument '{name}' is not declared"),
        };
        sink.warn(Rule::UndefinedArgInFrom, stage.span, own, detail);
    }
    let expanded = result.map_err(|e| at(&e, text.span))?;
    budget.spend(expanded.text.len(), text.span)?;
    Ok(expanded)
}

fn from_platform(
    file: &Dockerfile,
    stage: &Stage,
    text: &Text,
    globals: &Scope,
    own: Option<&Settings>,
    sink: &mut Sink<'_>,
    budget: &mut Budget,
) -> Result<String, ParseError> {
    let expanded = from_word(file, stage, text, globals, own, sink, budget)?;
    let is_target = expanded.used == ["TARGETPLATFORM"] && expanded.unset.is_empty();
    if is_target && globals.get("TARGETPLATFORM") == Some(&expanded.text) {
        let detail = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            text.value
        );
        sink.warn(Rule::RedundantTargetPlatform, stage.span, own, detail);
    }
    let Some((os, architecture)) = names::platform(&expanded.text) else {
        let problem = if expanded.text.is_empty() {
            "comes out empty"
        } else {
            "is no platform"
        };
        return Err(
            ParseError::new(format!("--platform `{}` {problem}", text.value), text.span)
                .hint("platforms look like `linux/amd64` and `linux/arm/v7`"),
        );
    };
    if expanded.used.is_empty() && expanded.unset.is_empty() {
        let name = stage.name.as_ref().map(|n| n.value.to_lowercase());
        let name = name.unwrap_or_default();
        if !name.contains(&os) && !name.contains(&architecture) {
            let detail = format!(
                "FROM --platform flag should not use constant value {:?}",
                expanded.text
            );
            sink.warn(
                Rule::FromPlatformFlagConstDisallowed,
                stage.span,
                own,
                detail,
            );
        }
    }
    Ok(expanded.text)
}
