//! What a target can be given: arguments, secrets, agents, caches. And which
//! targets there are.
//!
//! Only the Dockerfile is looked at, so what a base image's environment or
//! triggers would add is not known here.

use std::collections::{BTreeMap, BTreeSet};

use super::{Base, Planner, build_arg, expand, global_args, planner};
use crate::dockerfile::ast::{ArgDecl, Dockerfile, Instruction, InstructionKind, Text};
use crate::dockerfile::mount::{self, MountSpec};
use crate::dockerfile::span::Span;
use crate::dockerfile::word::{self, Meter};
use crate::graph::scope::{self, Vars};
use crate::graph::{Bases, PlanError, PlanOptions, stage};

/// What a build of one target takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The stage's name, where it has one.
    pub name: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
    /// Arguments that change something, in the file's order.
    pub args: Vec<OutlineArg>,
    /// Secrets that RUN mounts.
    pub secrets: Vec<OutlineMount>,
    /// Agents that RUN mounts.
    pub ssh: Vec<OutlineMount>,
    /// Caches that RUN mounts.
    pub caches: Vec<OutlineMount>,
}

/// An ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// The value it has in this build.
    pub value: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
    /// Where it is declared.
    pub span: Span,
}

/// Something that RUN mounts under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineMount {
    /// The name.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The instruction.
    pub span: Span,
}

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What the comment above it says.
    pub description: Option<String>,
    /// What it starts from, as written.
    pub base: String,
    /// Its `--platform`, as written.
    pub platform: Option<String>,
    /// Whether it is what is built when no target is named.
    pub is_default: bool,
    /// Its FROM.
    pub span: Span,
}

/// The stages of a file, in its order.
pub fn targets(file: &Dockerfile) -> Vec<Target> {
    let last = file.stages.len().saturating_sub(1);
    let value = |text: &Option<Text>| text.as_ref().map(|t| t.value.clone());
    file.stages
        .iter()
        .enumerate()
        .map(|(i, stage)| Target {
            name: stage::name_of(stage),
            description: stage.doc.clone(),
            base: stage.base.value.clone(),
            platform: value(&stage.platform),
            is_default: i == last,
            span: stage.span,
        })
        .collect()
}

/// What the build of `options.target` takes.
///
/// # Errors
/// Where its plan would have one that the Dockerfile alone shows.
pub fn outline(file: &Dockerfile, options: &PlanOptions) -> Result<Outline, PlanError> {
    let bases = Bases::new();
    let mut planner = planner(file, options, &bases)?;
    let target = planner.target()?;
    let wanted = planner.reachable(target)?;
    let mut walk = Walk {
        planner: &planner,
        used: BTreeSet::new(),
        out: Outline {
            name: stage::name_of(&file.stages[target]),
            description: file.stages[target].doc.clone(),
            ..Outline::default()
        },
        done: BTreeMap::new(),
    };
    for index in wanted {
        walk.stage(index)?;
    }
    let used = walk.used;
    let mut out = walk.out;
    out.args.extend(globals(file, options, used)?);
    out.args.sort_by_key(|a| a.span.start);
    for mounts in [&mut out.secrets, &mut out.ssh, &mut out.caches] {
        mounts.sort_by_key(|m| m.span.start);
    }
    Ok(out)
}

/// The ARGs before the first FROM that `used` has, and those that their
/// defaults use.
fn globals(
    file: &Dockerfile,
    options: &PlanOptions,
    mut used: BTreeSet<String>,
) -> Result<Vec<OutlineArg>, PlanError> {
    let meter = Meter::default();
    let vars = global_args(file, options, &meter)?;
    let lookup = meter.count(|name: &str| vars.get(name).map(str::to_owned));
    let mut found = Vec::new();
    for instruction in file.global_args.iter().rev() {
        let InstructionKind::Arg(decls) = &instruction.kind else {
            continue;
        };
        for decl in decls.iter().rev() {
            if !used.contains(&decl.name.value) {
                continue;
            }
            if let Some(default) = &decl.default
                && build_arg(options, &decl.name.value).is_none()
            {
                let escape = file.directives.escape;
                if let Ok(expanded) = word::expand(&default.value, escape, &lookup) {
                    used.extend(expanded.used);
                }
            }
            // The last declaration of a name is the one that counts.
            if !found.iter().any(|a: &OutlineArg| a.name == decl.name.value) {
                let value = vars.get(&decl.name.value).map(str::to_owned);
                found.push(argument(decl, value, instruction));
            }
        }
    }
    Ok(found)
}

fn argument(decl: &ArgDecl, value: Option<String>, instruction: &Instruction) -> OutlineArg {
    let name = &decl.name.value;
    let doc = instruction.doc.as_deref().unwrap_or_default();
    let description = doc
        .lines()
        .find_map(|line| line.strip_prefix(name.as_str())?.strip_prefix(' '));
    OutlineArg {
        name: name.clone(),
        value,
        description: description.map(str::to_owned),
        span: instruction.span,
    }
}

/// Variables of a stage.
#[derive(Debug, Clone, Default)]
struct Scope {
    env: Vec<String>,
    args: Vars,
}

struct Walk<'a, 'b> {
    planner: &'a Planner<'b>,
    /// Names that are taken from the ARGs before the first FROM.
    used: BTreeSet<String>,
    out: Outline,
    done: BTreeMap<usize, Scope>,
}

impl Walk<'_, '_> {
    fn stage(&mut self, index: usize) -> Result<(), PlanError> {
        let file = self.planner.file;
        let here = &file.stages[index];
        for text in [Some(&here.base), here.platform.as_ref()]
            .into_iter()
            .flatten()
        {
            let get = |n: &str| self.planner.globals.get(n).map(str::to_owned);
            let lookup = self.planner.meter.count(get);
            let expanded = word::expand(&text.value, file.directives.escape, &lookup);
            self.used
                .extend(expanded.map(|e| e.used).unwrap_or_default());
        }
        let mut scope = Scope::default();
        if let Base::Stage(earlier) = self.planner.base(index)? {
            scope = self.done.get(&earlier).cloned().unwrap_or_default();
            for trigger in stage::triggers(&file.stages[earlier]) {
                self.instruction(&mut scope, trigger, here.span)?;
            }
        }
        for instruction in self.planner.instructions(index) {
            self.instruction(&mut scope, instruction, instruction.span)?;
        }
        self.done.insert(index, scope);
        Ok(())
    }

    fn instruction(
        &mut self,
        scope: &mut Scope,
        instruction: &Instruction,
        span: Span,
    ) -> Result<(), PlanError> {
        let escape = self.planner.file.directives.escape;
        match &instruction.kind {
            InstructionKind::Arg(decls) => {
                for decl in decls {
                    self.arg(scope, decl, instruction)?;
                }
            }
            InstructionKind::Env(pairs) => {
                let before = scope.clone();
                let get = |n: &str| scope::lookup(&before.env, &before.args, n);
                let lookup = self.planner.meter.count(get);
                for (key, value) in &pairs.pairs {
                    let key = expand(key, escape, &lookup)?;
                    let value = expand(value, escape, &lookup)?;
                    scope::set_env(&mut scope.env, &key, &value);
                }
            }
            InstructionKind::Run(run) => {
                for text in &run.mounts {
                    let get = |n: &str| scope::lookup(&scope.env, &scope.args, n);
                    let lookup = self.planner.meter.count(get);
                    let expand = |value: &str| word::expand(value, escape, &lookup).map(|e| e.text);
                    let spec = mount::parse_with(&text.value, &expand).map_err(|e| PlanError {
                        message: e.to_string(),
                        span: Some(text.span),
                        hint: e.hint().map(str::to_owned),
                    })?;
                    self.mount(spec, span);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn arg(
        &mut self,
        scope: &mut Scope,
        decl: &ArgDecl,
        instruction: &Instruction,
    ) -> Result<(), PlanError> {
        let name = &decl.name.value;
        let given = build_arg(self.planner.options, name).map(str::to_owned);
        let global = self.planner.globals.get(name).map(str::to_owned);
        let value = match (given, &decl.default) {
            // What is given from outside, or from before the first FROM.
            (None, None) if global.is_some() => {
                self.used.insert(name.clone());
                scope.args.set(name, global);
                return Ok(());
            }
            (None, Some(default)) => {
                let get = |n: &str| scope::lookup(&scope.env, &scope.args, n);
                let lookup = self.planner.meter.count(get);
                Some(expand(
                    default,
                    self.planner.file.directives.escape,
                    &lookup,
                )?)
            }
            (given, _) => given,
        };
        scope.args.set(name, value.clone());
        self.out.args.retain(|a| a.name != *name);
        self.out.args.push(argument(decl, value, instruction));
        Ok(())
    }

    fn mount(&mut self, spec: MountSpec, span: Span) {
        let (list, name, required) = match spec {
            MountSpec::Secret(secret) => (&mut self.out.secrets, secret.id, secret.required),
            MountSpec::Ssh(ssh) => (&mut self.out.ssh, ssh.id, ssh.required),
            MountSpec::Cache(cache) => {
                let id = cache.id.unwrap_or(cache.target);
                (&mut self.out.caches, id, false)
            }
            MountSpec::Bind(_) | MountSpec::Tmpfs(_) => return,
        };
        match list.iter_mut().find(|m| m.name == name) {
            Some(known) => known.required |= required,
            None => list.push(OutlineMount {
                name,
                required,
                span,
            }),
        }
    }
}
