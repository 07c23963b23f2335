//! The rules that need no variable's value.

use std::collections::HashSet;

use super::super::ast::{Dockerfile, Instruction, InstructionKind, Stage, Text};
use super::super::span::Span;
use super::{Rule, Settings, Sink};

pub(super) fn run(file: &Dockerfile, sink: &mut Sink<'_>) {
    for span in &file.empty_continuations {
        let detail = "Empty continuation line".to_owned();
        sink.warn(Rule::NoEmptyContinuation, *span, None, detail);
    }
    for arg in &file.global_args {
        instruction(arg, sink);
    }
    for stage in &file.stages {
        from(stage, sink);
        for inner in &stage.instructions {
            instruction(inner, sink);
        }
    }
    names(file, sink);
    casing(file, sink);
}

/// The settings of the comments above a stage.
pub(super) fn of_stage(stage: &Stage) -> Option<Settings> {
    Settings::of_comments(stage.comments.iter().map(String::as_str))
}

/// The settings of the comments above an instruction.
pub(super) fn of_instruction(instruction: &Instruction) -> Option<Settings> {
    let doc = instruction.doc.as_deref()?;
    Settings::of_comments(doc.lines())
}

fn from(stage: &Stage, sink: &mut Sink<'_>) {
    let own = of_stage(stage);
    let own = own.as_ref();
    let (span, keyword) = (stage.span, stage.keyword.value.as_str());
    if let Some(name) = &stage.name {
        let lower = name.value.to_lowercase();
        if lower != name.value {
            let detail = format!("Stage name '{}' should be lowercase", name.value);
            sink.warn(Rule::StageNameCasing, span, own, detail);
        }
        if stage.comments_adjacent {
            let last = stage.comments.last().map(String::as_str);
            description("FROM", &[&lower], last, span, own, sink);
        }
    }
    if let Some(as_keyword) = &stage.as_keyword {
        let as_keyword = &as_keyword.value;
        let differs = (is_lower(keyword) && !is_lower(as_keyword))
            || (is_upper(keyword) && !is_upper(as_keyword));
        if differs {
            let detail = format!("'{as_keyword}' and '{keyword}' keywords' casing do not match");
            sink.warn(Rule::FromAsCasing, span, own, detail);
        }
    }
}

fn instruction(instruction: &Instruction, sink: &mut Sink<'_>) {
    let own = of_instruction(instruction);
    let own = own.as_ref();
    match &instruction.kind {
        InstructionKind::Maintainer(_) => {
            let detail = "Maintainer instruction is deprecated in favor of using label";
            sink.warn(
                Rule::MaintainerDeprecated,
                instruction.span,
                own,
                detail.to_owned(),
            );
        }
        InstructionKind::Arg(args) if instruction.doc_adjacent => {
            let names: Vec<&str> = args.iter().map(|a| a.name.value.as_str()).collect();
            let last = instruction.doc.as_deref().and_then(|d| d.lines().last());
            description("ARG", &names, last, instruction.span, own, sink);
        }
        _ => {}
    }
}

fn description(
    keyword: &str,
    names: &[&str],
    comment: Option<&str>,
    span: Span,
    own: Option<&Settings>,
    sink: &mut Sink<'_>,
) {
    let Some(comment) = comment else { return };
    let first = comment.split(' ').next().unwrap_or_default();
    if names.contains(&first) {
        return;
    }
    let name = match names {
        [name] => name,
        _ => "<arg_key>",
    };
    let detail =
        format!("Comment for {keyword} should follow the format: `# {name} <description>`");
    sink.warn(Rule::InvalidDefinitionDescription, span, own, detail);
}

fn names(file: &Dockerfile, sink: &mut Sink<'_>) {
    let mut seen = HashSet::new();
    for stage in &file.stages {
        let Some(name) = &stage.name else { continue };
        let own = of_stage(stage);
        let own = own.as_ref();
        let name = name.value.to_lowercase();
        if name == "scratch" || name == "context" {
            let detail =
                format!("Stage name should not use the same name as reserved stage {name:?}");
            sink.warn(Rule::ReservedStageName, stage.span, own, detail);
        }
        if seen.contains(&name) {
            let detail = format!("Duplicate stage name {name:?}, stage names should be unique");
            sink.warn(Rule::DuplicateStageName, stage.span, own, detail);
        }
        seen.insert(name);
    }
}

fn casing(file: &Dockerfile, sink: &mut Sink<'_>) {
    let (mut lower, mut upper) = (0_usize, 0_usize);
    let keywords = || {
        file.stages.iter().flat_map(|stage| {
            let first: (&Text, Span) = (&stage.keyword, stage.span);
            let rest = stage.instructions.iter().map(|i| (&i.keyword, i.span));
            std::iter::once(first).chain(rest)
        })
    };
    for (keyword, _) in keywords() {
        lower += usize::from(is_lower(&keyword.value));
        upper += usize::from(is_upper(&keyword.value) && !is_lower(&keyword.value));
    }
    let (fits, name): (fn(&str) -> bool, &str) = if lower > upper {
        (is_lower, "lowercase")
    } else {
        (is_upper, "uppercase")
    };
    for stage in &file.stages {
        let own = of_stage(stage);
        let mut check = |keyword: &Text, span: Span, own: Option<&Settings>| {
            if !fits(&keyword.value) {
                let detail = format!(
                    "Command '{}' should match the case of the command majority ({name})",
                    keyword.value
                );
                sink.warn(Rule::ConsistentInstructionCasing, span, own, detail);
            }
        };
        check(&stage.keyword, stage.span, own.as_ref());
        for inner in &stage.instructions {
            check(&inner.keyword, inner.span, of_instruction(inner).as_ref());
        }
    }
}

fn is_lower(text: &str) -> bool {
    !text.chars().any(char::is_uppercase)
}

fn is_upper(text: &str) -> bool {
    !text.chars().any(char::is_lowercase)
}
