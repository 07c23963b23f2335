//! Stages: names, the target, and which of them it needs.

use std::collections::HashMap;

use crate::dockerfile::ast::{Dockerfile, Instruction, InstructionKind, Stage};
use crate::dockerfile::span::Span;

/// The name of a stage as it is looked up.
pub(super) fn name_of(stage: &Stage) -> Option<String> {
    stage.name.as_ref().map(|n| n.value.to_ascii_lowercase())
}

/// The stages by the names that are looked up.
pub(super) struct Names {
    /// The stages of each name, in the file's order.
    stages: HashMap<String, Vec<usize>>,
    count: usize,
}

impl Names {
    pub(super) fn of(file: &Dockerfile) -> Self {
        let mut stages: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, stage) in file.stages.iter().enumerate() {
            if let Some(name) = name_of(stage) {
                stages.entry(name).or_default().push(i);
            }
        }
        Self {
            stages,
            count: file.stages.len(),
        }
    }

    /// The last stage before `before` that has this very name; FROM's rule.
    pub(super) fn by_exact_name(&self, name: &str, before: usize) -> Option<usize> {
        let stages = self.stages.get(name)?;
        let known = stages.partition_point(|i| *i < before);
        stages[..known].last().copied()
    }

    /// What `--from=` and `--target` name: a stage, whatever the case, or a
    /// number.
    pub(super) fn by_name_or_number(&self, text: &str, before: usize) -> Option<usize> {
        self.by_exact_name(&text.to_ascii_lowercase(), before)
            .or_else(|| {
                let number = text.parse::<usize>().ok()?;
                (number < before.min(self.count)).then_some(number)
            })
    }
}

/// The values of `--from=` and of mounts' `from=` in an instruction, as
/// written, and where.
pub(super) fn from_values(instruction: &Instruction) -> Vec<(String, Span)> {
    match &instruction.kind {
        InstructionKind::Copy(copy) | InstructionKind::Add(copy) => {
            let from = copy.from.iter();
            from.map(|t| (t.value.clone(), t.span)).collect()
        }
        InstructionKind::Run(run) => run
            .mounts
            .iter()
            .flat_map(|m| m.value.split(',').map(|field| (field, m.span)))
            .filter_map(|(field, span)| {
                let (key, value) = field.split_once('=')?;
                key.trim()
                    .eq_ignore_ascii_case("from")
                    .then(|| (value.trim_matches('"').to_owned(), span))
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The triggers that a stage leaves to stages built on it.
pub(super) fn triggers(stage: &Stage) -> impl Iterator<Item = &Instruction> {
    stage.instructions.iter().filter_map(|i| match &i.kind {
        InstructionKind::OnBuild(o) => Some(&*o.instruction),
        _ => None,
    })
}
