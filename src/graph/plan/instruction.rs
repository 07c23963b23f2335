//! Instructions that change the config, and what all instructions share.

use std::fmt::Write as _;

use super::text::redacted;
use super::{Planner, StageState, build_arg, error_at, expand, history};
use crate::dockerfile::ast::{ArgDecl, Instruction, InstructionKind, Text};
use crate::dockerfile::word;
use crate::graph::step::Op;
use crate::graph::{HistoryItem, PlanError, config};

impl Planner<'_> {
    pub(super) fn expand(&self, state: &StageState, text: &Text) -> Result<String, PlanError> {
        let lookup = self.meter.count(|n: &str| state.lookup(n));
        expand(text, self.file.directives.escape, &lookup).map_err(|e| PlanError {
            span: state.trigger.or(e.span),
            ..e
        })
    }

    pub(super) fn expand_all<'t>(
        &self,
        state: &StageState,
        texts: impl IntoIterator<Item = &'t Text>,
    ) -> Result<Vec<String>, PlanError> {
        texts.into_iter().map(|t| self.expand(state, t)).collect()
    }

    pub(super) fn instruction(
        &mut self,
        state: &mut StageState,
        i: &Instruction,
    ) -> Result<(), PlanError> {
        let span = state.trigger.unwrap_or(i.span);
        let fail = |message: String| error_at(message, span);
        let text = match &i.kind {
            InstructionKind::Arg(decls) => self.arg(state, decls)?,
            InstructionKind::Env(pairs) => {
                let pairs = self.pairs(state, &pairs.pairs)?;
                config::env(&mut state.config.config, &mut state.places, &pairs)
            }
            InstructionKind::Label(pairs) => {
                let pairs = self.pairs(state, &pairs.pairs)?;
                config::label(&mut state.config.config, &pairs)
            }
            InstructionKind::Cmd(command) => {
                state.own_cmd = true;
                config::cmd(&mut state.config.config, command)
            }
            InstructionKind::Entrypoint(command) => {
                config::entrypoint(&mut state.config.config, command, state.own_cmd)
            }
            InstructionKind::Expose(words) => {
                let words = self.expose_words(state, words)?;
                config::expose(&mut state.config.config, &words).map_err(fail)?
            }
            InstructionKind::Volume(paths) => {
                let paths = self.expand_all(state, paths)?;
                config::volume(&mut state.config.config, &paths).map_err(fail)?
            }
            InstructionKind::User(user) => {
                let user = self.expand(state, user)?;
                state.config.config.user.clone_from(&user);
                format!("USER {user}")
            }
            InstructionKind::StopSignal(signal) => {
                let signal = self.expand(state, signal)?;
                config::stop_signal(&mut state.config.config, &signal).map_err(fail)?
            }
            InstructionKind::Shell(words) => config::shell(&mut state.config.config, words),
            InstructionKind::Healthcheck(check) => {
                config::healthcheck(&mut state.config.config, check)
            }
            InstructionKind::Maintainer(text) => {
                state.config.author.clone_from(&text.value);
                format!("MAINTAINER {}", text.value)
            }
            InstructionKind::OnBuild(o) => {
                // The history has what a trigger does, not that it is there.
                state.config.config.on_build.push(o.trigger.clone());
                return self.grow(state, o.trigger.len(), span);
            }
            InstructionKind::Workdir(path) => return self.workdir(state, path, i),
            InstructionKind::Copy(copy) => return self.copy(state, copy, i, false),
            InstructionKind::Add(copy) => return self.copy(state, copy, i, true),
            InstructionKind::Run(run) => return self.run(state, run, i),
        };
        // What the history has, the config has too.
        self.grow(state, 2 * text.len(), span)?;
        state.history.push(HistoryItem {
            entry: history(text, true),
            inherited: false,
            step: None,
        });
        Ok(())
    }

    pub(super) fn pairs(
        &self,
        state: &StageState,
        pairs: &[(Text, Text)],
    ) -> Result<Vec<(String, String)>, PlanError> {
        pairs
            .iter()
            .map(|(k, v)| {
                let key = self.expand(state, k)?;
                if key.is_empty() {
                    return Err(error_at(
                        "names can not be blank",
                        state.trigger.unwrap_or(k.span),
                    ));
                }
                Ok((key, self.expand(state, v)?))
            })
            .collect()
    }

    pub(super) fn expose_words(
        &self,
        state: &StageState,
        words: &[Text],
    ) -> Result<Vec<String>, PlanError> {
        let lookup = self.meter.count(|n: &str| state.lookup(n));
        let mut out = Vec::new();
        for text in words {
            let expanded = word::expand_words(&text.value, self.file.directives.escape, &lookup);
            out.extend(
                expanded
                    .map_err(|e| error_at(e.to_string(), state.trigger.unwrap_or(text.span)))?,
            );
        }
        Ok(out)
    }

    pub(super) fn arg(
        &self,
        state: &mut StageState,
        decls: &[ArgDecl],
    ) -> Result<String, PlanError> {
        let mut text = "ARG".to_owned();
        for decl in decls {
            let name = &decl.name.value;
            let value = match (build_arg(self.options, name), &decl.default) {
                (Some(value), _) => Some(value.to_owned()),
                (None, Some(default)) => Some(self.expand(state, default)?),
                (None, None) => self.globals.get(name).map(str::to_owned),
            };
            let _ = write!(text, " {name}");
            if let Some(value) = &value {
                let _ = write!(text, "={value}");
            }
            state.args.set(name, value);
        }
        Ok(text)
    }

    pub(super) fn add_step(
        &mut self,
        state: &mut StageState,
        op: Op,
        i: &Instruction,
        created_by: String,
    ) -> Result<(), PlanError> {
        let span = state.trigger.unwrap_or(i.span);
        self.grow(state, created_by.len(), span)?;
        let stage = self.stage_name(state.index);
        let text = format!("{} {}", i.kind.name(), i.rest.trim());
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = match op {
            Op::Copy(_) => redacted(&text),
            Op::Scratch | Op::Image(_) | Op::Run(_) | Op::Workdir(_) => text,
        };
        let id = self.push(op, &stage, Some(span), text.clone());
        state.own_steps.push((id, text));
        state.step = id;
        state.history.push(HistoryItem {
            entry: history(created_by, false),
            inherited: false,
            step: Some(id),
        });
        Ok(())
    }
}
