//! Which stages there are, what each one starts from, and in which order they
//! are looked through.

use std::collections::HashMap;

use super::super::ast::{Dockerfile, InstructionKind, Stage, Text};
use super::super::error::ParseError;
use super::super::instruction::check_copy_from;
use super::super::mount::{self, MountSpec};
use super::super::span::Span;
use super::super::word::{self, WordError};
use super::super::{parse_trigger, suggest};
use super::commands::{self, Budget, Walk};
use super::scope::Scope;
use super::{BaseImage, LintOptions, Rule, Settings, Sink, names, statics};

/// How many names a file's warnings may be compared with in all.
const MAX_SUGGESTIONS: usize = 100;

/// How many triggers may run in all.
const MAX_TRIGGERS: usize = 100_000;

/// A stage, after the FROM lines were read.
struct Node {
    /// The image or stage that it starts from, expanded.
    base: String,
    /// `--platform`, expanded.
    platform: Option<String>,
    parent: Option<usize>,
    /// Stages that it copies from or mounts.
    needs: Vec<(usize, Span)>,
    is_needed: bool,
    own: Option<Settings>,
}

/// What a stage hands to those built on it.
#[derive(Clone, Copy, Default)]
struct Outcome {
    workdir_set: bool,
    has_shell: bool,
}

/// Goes through the file as a build would.
///
/// # Errors
/// Where the build would stop.
pub(super) fn run(
    file: &Dockerfile,
    options: &LintOptions<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), ParseError> {
    let mut budget = Budget::new(MAX_SUGGESTIONS);
    default_names(file, options, sink, &mut budget);
    let globals = globals(file, options, Some(options.build_args), &mut budget)?;
    let mut nodes = froms(file, &globals, sink, &mut budget)?;
    let by_name = by_name(file);
    let target = target(file, options, &by_name)?;
    needs(file, &by_name, &mut nodes)?;
    mark_needed(&mut nodes, target, options);
    references(file, &nodes)?;
    walk(file, options, &globals, &nodes, sink, &mut budget)
}

/// The predefined arguments and those before the first FROM.
fn globals(
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
                    let lookup = |name: &str| scope.get(name).cloned();
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
fn default_names(
    file: &Dockerfile,
    options: &LintOptions<'_>,
    sink: &mut Sink<'_>,
    budget: &mut Budget,
) {
    let Ok(scope) = globals(file, options, None, budget) else {
        return;
    };
    let lookup = |name: &str| scope.get(name).cloned();
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

/// Reads the FROM lines.
fn froms(
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
            return Err(ParseError::new(
                format!(
                    "the base image's name `{}` comes out empty",
                    stage.base.value
                ),
                stage.base.span,
            )
            .hint("give its ARG a default, or the build a --build-arg"));
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
    let lookup = |name: &str| globals.get(name).cloned();
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

/// The last stage of each name.
fn by_name(file: &Dockerfile) -> HashMap<String, usize> {
    file.stages
        .iter()
        .enumerate()
        .filter_map(|(i, stage)| Some((stage.name.as_ref()?.value.to_lowercase(), i)))
        .collect()
}

fn target(
    file: &Dockerfile,
    options: &LintOptions<'_>,
    by_name: &HashMap<String, usize>,
) -> Result<usize, ParseError> {
    let last = file.stages.len().saturating_sub(1);
    let Some(name) = options.target.filter(|t| !t.is_empty()) else {
        return Ok(last);
    };
    if let Some(at) = by_name.get(&name.to_lowercase()) {
        return Ok(*at);
    }
    // A number is a stage's place where no stage has that name.
    if let Some(at) = name.parse::<usize>().ok().filter(|at| *at <= last) {
        return Ok(at);
    }
    let mut known: Vec<&str> = by_name.keys().map(String::as_str).collect();
    known.sort_unstable();
    let hint = suggest::nearest(name, known).map(|near| format!("did you mean `{near}`?"));
    let span = file.stages.last().map_or(Span::new(0, 0), |s| s.span);
    Err(ParseError::new(format!("there is no stage `{name}`"), span).hint_option(hint))
}

/// The stages that each stage's own instructions refer to.
fn needs(
    file: &Dockerfile,
    by_name: &HashMap<String, usize>,
    nodes: &mut [Node],
) -> Result<(), ParseError> {
    let count = file.stages.len();
    for (i, (stage, node)) in file.stages.iter().zip(nodes).enumerate() {
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Copy(copy) => {
                    let Some(from) = &copy.from else { continue };
                    check_copy_from(from, file.directives.escape)?;
                    let number = from.value.parse::<i64>().ok();
                    let at = match number {
                        Some(number) => Some(stage_number(number, count, from)?),
                        None => by_name.get(&from.value.to_lowercase()).copied(),
                    };
                    match at {
                        Some(at) if at == i => return Err(own_stage(stage, instruction.span)),
                        Some(at) => node.needs.push((at, from.span)),
                        None if !names::is_reference(&from.value) => {
                            return Err(no_image(&from.value, from.span));
                        }
                        None => {}
                    }
                }
                InstructionKind::Run(run) => {
                    for text in &run.mounts {
                        let from = match mount::parse_with(&text.value, &|v| Ok(v.to_owned())) {
                            Ok(MountSpec::Bind(bind)) => bind.from,
                            Ok(MountSpec::Cache(cache)) => cache.from,
                            _ => None,
                        };
                        let Some(from) = from else { continue };
                        match by_name.get(&from.to_lowercase()) {
                            Some(at) if *at == i => {
                                return Err(own_stage(stage, instruction.span));
                            }
                            Some(at) => node.needs.push((*at, text.span)),
                            None => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn stage_number(number: i64, count: usize, from: &Text) -> Result<usize, ParseError> {
    usize::try_from(number)
        .ok()
        .filter(|at| *at < count)
        .ok_or_else(|| {
            ParseError::new(format!("there is no stage number {number}"), from.span).hint(format!(
                "the file's stages have the numbers 0 to {}",
                count - 1
            ))
        })
}

fn own_stage(stage: &Stage, span: Span) -> ParseError {
    let name = stage.name.as_ref().map_or("", |n| n.value.as_str());
    ParseError::new(format!("the stage {name} takes files from itself"), span)
        .hint("a stage sees its own files without --from; take others from an earlier stage")
}

fn no_image(name: &str, span: Span) -> ParseError {
    ParseError::new(
        format!("`{name}` is neither a stage nor an image's name"),
        span,
    )
    .hint("image names have small letters only, as in `example.org/name:tag`")
}

fn mark_needed(nodes: &mut [Node], target: usize, options: &LintOptions<'_>) {
    if options.target.is_none() && !options.only_needed {
        nodes.iter_mut().for_each(|n| n.is_needed = true);
        return;
    }
    let mut open = vec![target];
    while let Some(at) = open.pop() {
        let Some(node) = nodes.get_mut(at) else {
            continue;
        };
        if !std::mem::replace(&mut node.is_needed, true) {
            open.extend(node.needs.iter().map(|(at, _)| *at));
            open.extend(node.parent);
        }
    }
}

fn references(file: &Dockerfile, nodes: &[Node]) -> Result<(), ParseError> {
    for (stage, node) in file.stages.iter().zip(nodes) {
        let is_image = node.parent.is_none() && node.base != "scratch";
        if is_image && !names::is_reference(&node.base) {
            return Err(no_image(&node.base, stage.base.span));
        }
    }
    Ok(())
}

/// A step of the way through the tree of stages.
enum Step {
    Enter(usize),
    Leave(usize),
}

/// Goes through the needed stages, each one before those built on it.
fn walk(
    file: &Dockerfile,
    options: &LintOptions<'_>,
    globals: &Scope,
    nodes: &[Node],
    sink: &mut Sink<'_>,
    budget: &mut Budget,
) -> Result<(), ParseError> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut open = Vec::new();
    for (i, node) in nodes.iter().enumerate().rev() {
        match node.parent {
            _ if !node.is_needed => {}
            Some(parent) => children[parent].push(i),
            None => open.push(Step::Enter(i)),
        }
    }
    let mut scope = Scope::default();
    let mut outcomes = vec![Outcome::default(); nodes.len()];
    let mut triggers = MAX_TRIGGERS;
    // The way through the tree isn't the file's order; what a build would have
    // come to after its first error is taken back at the end.
    let mut first_error: Option<(usize, ParseError)> = None;
    let before = sink.warnings.len();
    let mut found: Vec<(usize, super::Warning)> = Vec::new();
    while let Some(step) = open.pop() {
        let at = match step {
            Step::Leave(mark) => {
                scope.back(mark);
                continue;
            }
            Step::Enter(at) => at,
        };
        let (node, stage) = (&nodes[at], &file.stages[at]);
        open.push(Step::Leave(scope.mark()));
        open.extend(children[at].iter().map(|c| Step::Enter(*c)));
        let mut outcome = node.parent.map_or(Outcome::default(), |p| outcomes[p]);
        let image = begin(options, node, &mut scope, &mut outcome);
        if let Some(image) = &image {
            base_platform(options, stage, node, image, sink);
        }
        let mut walk = Walk::new(file, options, globals, &mut scope, sink, budget);
        walk.workdir_set = outcome.workdir_set;
        walk.has_shell = outcome.has_shell;
        let result = run_triggers(&mut walk, file, node, stage, image.as_ref(), &mut triggers)
            .and_then(|()| later(stage, node, at))
            .and_then(|()| {
                stage
                    .instructions
                    .iter()
                    .try_for_each(|i| commands::run(&mut walk, i, i.span))
            });
        outcomes[at] = Outcome {
            workdir_set: walk.workdir_set,
            has_shell: walk.has_shell,
        };
        found.extend(sink.warnings.drain(before..).map(|w| (at, w)));
        if let Err(error) = result
            && first_error.as_ref().is_none_or(|(first, _)| at < *first)
        {
            first_error = Some((at, error));
        }
    }
    let last = first_error.as_ref().map_or(usize::MAX, |(at, _)| *at);
    found.retain(|(at, _)| *at <= last);
    sink.warnings.extend(found.into_iter().map(|(_, w)| w));
    first_error.map_or(Ok(()), |(_, error)| Err(error))
}

/// Fills a scope with what the base image has.
fn begin(
    options: &LintOptions<'_>,
    node: &Node,
    scope: &mut Scope,
    outcome: &mut Outcome,
) -> Option<BaseImage> {
    if node.parent.is_some() {
        return None;
    }
    let image = (node.base != "scratch")
        .then(|| options.base.and_then(|base| base(&node.base)))
        .flatten();
    scope.set("PATH", String::new());
    if let Some(image) = &image {
        for pair in &image.env {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            scope.set(name, value.to_owned());
        }
        outcome.has_shell = image.has_shell;
    }
    image
}

fn base_platform(
    options: &LintOptions<'_>,
    stage: &Stage,
    node: &Node,
    image: &BaseImage,
    sink: &mut Sink<'_>,
) {
    let wanted = options.target_platform.unwrap_or("linux/amd64");
    let Some(got) = image
        .platform
        .as_deref()
        .filter(|_| stage.platform.is_none())
    else {
        return;
    };
    if names::platform(got) != names::platform(wanted) {
        let detail = format!(
            "Base image {} was pulled with platform {got:?}, expected {wanted:?} for current build",
            stage.base.value
        );
        sink.warn(
            Rule::InvalidBaseImagePlatform,
            stage.span,
            node.own.as_ref(),
            detail,
        );
    }
}

/// Refuses files from stages that come later.
fn later(stage: &Stage, node: &Node, at: usize) -> Result<(), ParseError> {
    match node.needs.iter().find(|(needed, _)| *needed > at) {
        None => Ok(()),
        Some((_, span)) => {
            let name = stage.name.as_ref().map_or("this stage", |n| &n.value);
            Err(ParseError::new(
                format!("{name} takes files from a stage that comes after it"),
                *span,
            )
            .hint("move that stage up, before the FROM of this one"))
        }
    }
}

/// Runs the triggers of the image, or of the stage, that `node` starts from.
fn run_triggers(
    walk: &mut Walk<'_, '_>,
    file: &Dockerfile,
    node: &Node,
    stage: &Stage,
    image: Option<&BaseImage>,
    left: &mut usize,
) -> Result<(), ParseError> {
    for text in image.map(|i| i.on_build.as_slice()).unwrap_or_default() {
        let instruction = parse_trigger(text).map_err(|e| {
            ParseError::new(
                format!("the base image has a trigger that can't be read: {e}"),
                stage.span,
            )
            .hint_option(e.hint)
        })?;
        commands::run(walk, &instruction, stage.span)?;
    }
    let parent = node.parent.and_then(|p| file.stages.get(p));
    let triggers = parent
        .map(|p| p.instructions.as_slice())
        .unwrap_or_default();
    for instruction in triggers {
        if let InstructionKind::OnBuild(trigger) = &instruction.kind {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| ParseError::new("the file's ONBUILDs run too often", stage.span))?;
            commands::run(walk, &trigger.instruction, stage.span)?;
        }
    }
    Ok(())
}
