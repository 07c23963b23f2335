//! Which stages there are, what each one starts from, and in which order they
//! are looked through.

use std::collections::HashMap;

use super::super::ast::{Dockerfile, InstructionKind, Stage};
use super::super::error::ParseError;
use super::super::span::Span;
use super::super::{parse_trigger, suggest};
use super::commands::{self, Budget, Walk};
use super::froms::{Node, default_names, froms, globals};
use super::needs::{needs, no_image};
use super::scope::Scope;
use super::{BaseImage, LintOptions, Rule, Sink, names};

/// How many names a file's warnings may be compared with in all.
const MAX_SUGGESTIONS: usize = 100;

/// How many triggers may run in all.
const MAX_TRIGGERS: usize = 100_000;

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
            return Err(no_image(file, &node.base, stage.base.span));
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
    let wanted = node.platform.as_deref().or(options.target_platform);
    let wanted = wanted.unwrap_or("linux/amd64");
    let Some(got) = image.platform.as_deref() else {
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

fn in_trigger(text: &str, error: ParseError) -> ParseError {
    ParseError {
        message: format!("{}, in the base's ONBUILD trigger {text:?}", error.message),
        ..error
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
        commands::run(walk, &instruction, stage.span).map_err(|e| in_trigger(text, e))?;
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
