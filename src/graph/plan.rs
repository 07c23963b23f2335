//! Planning: walks the stages that the target needs and turns each
//! instruction into a change of the config, a step, or both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::scope::{self, PROXY_ARGS, Vars};
use super::step::{
    BaseRequest, CopyOp, CopySource, From, ImageOp, Op, RunMount, RunNetwork, RunOp, Step, StepId,
    WorkdirOp,
};
use super::{
    Bases, Graph, HistoryItem, MARKER, NamedContext, PlanError, PlanOptions, Planned, config, stage,
};
use crate::dockerfile::ast::{
    ArgDecl, Command, Copy, Dockerfile, Heredoc, Instruction, InstructionKind, Run, Source, Text,
};
use crate::dockerfile::mount::{Bind, Cache, MountSpec};
use crate::dockerfile::span::Span;
use crate::dockerfile::{mount, parse_trigger, word};
use crate::image::{History, ImageConfig};
use crate::platform::Platform;
use crate::reference::Reference;

/// Plans the build of `options.target`, or says which images it has to know.
pub fn plan(file: &Dockerfile, options: &PlanOptions, bases: &Bases) -> Result<Planned, PlanError> {
    let globals = global_args(file, options)?;
    let mut planner = Planner {
        file,
        options,
        bases,
        source_date_epoch: epoch(file, &globals, options)?,
        globals,
        steps: Vec::new(),
        images: BTreeMap::new(),
        need: Vec::new(),
        done: BTreeMap::new(),
    };
    let target = planner.target()?;
    let wanted = planner.reachable(target)?;
    if !planner.need.is_empty() {
        return Ok(Planned::Need(planner.need));
    }
    for index in wanted {
        let state = planner.stage(index)?;
        planner.done.insert(index, state);
    }
    let Some(state) = planner.done.remove(&target) else {
        return Err(error("the target stage was not planned", None));
    };
    let mut config = state.config;
    for (name, value) in &options.labels {
        config.config.labels.insert(name.clone(), value.clone());
    }
    Ok(Planned::Graph(Box::new(Graph {
        steps: planner.steps,
        result: state.step,
        platform: state.platform,
        config,
        history: state.history,
        source_date_epoch: planner.source_date_epoch,
    })))
}

fn error(message: impl Into<String>, span: Option<Span>) -> PlanError {
    PlanError {
        message: message.into(),
        span,
        hint: None,
    }
}

fn error_at(message: impl Into<String>, span: Span) -> PlanError {
    error(message, Some(span))
}

fn build_arg<'a>(options: &'a PlanOptions, name: &str) -> Option<&'a str> {
    let found = options.build_args.iter().rev().find(|(n, _)| n == name);
    found.map(|(_, v)| v.as_str())
}

/// The ARGs before the first FROM, and the platform's.
fn global_args(file: &Dockerfile, options: &PlanOptions) -> Result<Vars, PlanError> {
    let mut vars = scope::platform_args(
        &options.platform,
        &options.build_platform,
        options.target.as_deref(),
        &options.build_args,
    );
    for instruction in &file.global_args {
        let InstructionKind::Arg(decls) = &instruction.kind else {
            continue;
        };
        for decl in decls {
            let name = &decl.name.value;
            let value = match (build_arg(options, name), &decl.default) {
                (Some(value), _) => Some(value.to_owned()),
                (None, Some(default)) => {
                    let lookup = |n: &str| vars.get(n).map(str::to_owned);
                    Some(expand(default, file.directives.escape, &lookup)?)
                }
                // A bare ARG leaves a platform argument's value alone.
                (None, None) => vars.get(name).map(str::to_owned),
            };
            vars.set(name, value);
        }
    }
    Ok(vars)
}

fn epoch(
    file: &Dockerfile,
    globals: &Vars,
    options: &PlanOptions,
) -> Result<Option<i64>, PlanError> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let declared = file.global_args.iter().find(
        |i| matches!(&i.kind, InstructionKind::Arg(d) if d.iter().any(|d| d.name.value == NAME)),
    );
    let value = build_arg(options, NAME).or_else(|| globals.get(NAME));
    let Some(value) = value.filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    value.parse().map(Some).map_err(|_| PlanError {
        message: format!("invalid {NAME} {value:?}: it is no number of seconds since 1970"),
        span: declared.map(|i| i.span),
        hint: None,
    })
}

fn expand(
    text: &Text,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, PlanError> {
    word::expand(&text.value, escape, lookup)
        .map(|e| e.text)
        .map_err(|e| error_at(e.to_string(), text.span))
}

/// A stage while it is planned, and what later stages take from it.
#[derive(Clone)]
struct StageState {
    index: usize,
    step: StepId,
    platform: Platform,
    config: ImageConfig,
    history: Vec<HistoryItem>,
    args: Vars,
    /// This stage has its own CMD.
    own_cmd: bool,
    /// The place of the FROM whose trigger is being run.
    trigger: Option<Span>,
    /// The steps of this stage, with their texts.
    own_steps: Vec<(StepId, String)>,
}

struct Planner<'a> {
    file: &'a Dockerfile,
    options: &'a PlanOptions,
    bases: &'a Bases,
    globals: Vars,
    steps: Vec<Step>,
    images: BTreeMap<BaseRequest, StepId>,
    need: Vec<(BaseRequest, Option<Span>)>,
    done: BTreeMap<usize, StageState>,
    source_date_epoch: Option<i64>,
}

/// What a FROM or a `--from` leads to.
enum Base {
    Scratch,
    Stage(usize),
    Context(String),
    Image(BaseRequest),
}

impl Planner<'_> {
    fn target(&self) -> Result<usize, PlanError> {
        let count = self.file.stages.len();
        let Some(name) = &self.options.target else {
            return Ok(count.saturating_sub(1));
        };
        stage::by_name_or_number(self.file, name, count).ok_or_else(|| {
            let names: Vec<String> = self.file.stages.iter().filter_map(stage::name_of).collect();
            let near = stage::closest(name, names.iter().map(String::as_str));
            let hint = match near {
                Some(near) => format!("did you mean {near:?}?"),
                None if names.is_empty() => "no stage of this file has a name".into(),
                None => format!("the stages are: {}", names.join(", ")),
            };
            PlanError {
                message: format!("target stage {name:?} could not be found"),
                span: None,
                hint: Some(hint),
            }
        })
    }

    fn platform_of(&self, index: usize) -> Result<Platform, PlanError> {
        let Some(text) = &self.file.stages[index].platform else {
            return Ok(self.options.platform.clone());
        };
        let value = self.expand_global(text)?;
        if value.is_empty() {
            return Err(error_at("the platform of --platform is empty", text.span));
        }
        Platform::parse(&value).map_err(|e| error_at(e.to_string(), text.span))
    }

    fn expand_global(&self, text: &Text) -> Result<String, PlanError> {
        let lookup = |n: &str| self.globals.get(n).map(str::to_owned);
        expand(text, self.file.directives.escape, &lookup)
    }

    /// What the FROM of a stage leads to.
    fn base(&self, index: usize) -> Result<Base, PlanError> {
        let from = &self.file.stages[index];
        let name = self.expand_global(&from.base)?;
        if name.is_empty() {
            return Err(PlanError {
                message: format!("base name ({}) should not be blank", from.base.value),
                span: Some(from.base.span),
                hint: Some(
                    "give the variable a value: an ARG with a default before the first FROM, or --build-arg".into(),
                ),
            });
        }
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        if let Some(earlier) = stage::by_exact_name(self.file, &name, index) {
            return Ok(Base::Stage(earlier));
        }
        let platform = self.platform_of(index)?;
        self.named(&name, platform, from.base.span)
    }

    /// A named context or an image.
    fn named(&self, name: &str, platform: Platform, span: Span) -> Result<Base, PlanError> {
        let familiar = Reference::parse(name).ok().map(|r| r.familiar());
        let context = self
            .options
            .contexts
            .get(name)
            .map(|c| (name, c))
            .or_else(|| {
                let contexts = self.options.contexts.iter();
                let same = |n: &str| Reference::parse(n).ok().map(|r| r.familiar()) == familiar;
                let found = familiar
                    .as_ref()
                    .and_then(|_| contexts.into_iter().find(|(n, _)| same(n)));
                found.map(|(n, c)| (n.as_str(), c))
            });
        match context {
            Some((_, NamedContext::Image(name))) => Ok(Base::Image(BaseRequest {
                name: name.clone(),
                platform,
            })),
            Some((name, NamedContext::Tree)) => Ok(Base::Context(name.to_owned())),
            None => {
                Reference::parse(name).map_err(|e| error_at(e.to_string(), span))?;
                Ok(Base::Image(BaseRequest {
                    name: name.to_owned(),
                    platform,
                }))
            }
        }
    }

    /// What a `--from=` of stage `index` leads to.
    fn from(
        &self,
        index: usize,
        text: &str,
        platform: Platform,
        span: Span,
    ) -> Result<Base, PlanError> {
        if text.contains('$') {
            return Err(PlanError {
                message: format!(
                    "variable expansion is not supported for --from, and {text:?} has a variable"
                ),
                span: Some(span),
                hint: Some("define a stage, FROM $NAME AS source, and copy from that".into()),
            });
        }
        if text.is_empty() {
            return Err(error_at("--from names nothing", span));
        }
        if let Some(earlier) = stage::by_name_or_number(self.file, text, index) {
            return Ok(Base::Stage(earlier));
        }
        if text.parse::<u64>().is_ok() {
            return Err(error_at(
                format!(
                    "invalid stage index {text}: only the {index} stages before this one can be copied from"
                ),
                span,
            ));
        }
        if text == "scratch" {
            return Ok(Base::Scratch);
        }
        self.named(text, platform, span).map_err(|mut e| {
            let names: Vec<String> = self.file.stages.iter().filter_map(stage::name_of).collect();
            if let Some(near) = stage::closest(text, names.iter().map(String::as_str)) {
                e.hint = Some(format!("did you mean the stage {near:?}?"));
            }
            e
        })
    }

    /// The stages that `target` needs, in order; notes the images that are
    /// not known yet.
    fn reachable(&mut self, target: usize) -> Result<BTreeSet<usize>, PlanError> {
        let mut reached = BTreeSet::new();
        let mut todo = vec![target];
        while let Some(index) = todo.pop() {
            if !reached.insert(index) {
                continue;
            }
            let here = &self.file.stages[index];
            let base = self.base(index)?;
            let platform = self.platform_of(index)?;
            let mut froms: Vec<(String, Span)> = Vec::new();
            for instruction in &here.instructions {
                let values = stage::from_values(instruction);
                froms.extend(values.into_iter().map(|v| (v, instruction.span)));
            }
            match &base {
                Base::Scratch | Base::Context(_) => {}
                Base::Stage(earlier) => {
                    todo.push(*earlier);
                    for trigger in stage::triggers(&self.file.stages[*earlier]) {
                        let values = stage::from_values(trigger);
                        froms.extend(values.into_iter().map(|v| (v, here.span)));
                    }
                }
                Base::Image(request) => match self.bases.get(request) {
                    Some(found) => {
                        for text in &found.config.config.on_build {
                            let trigger = trigger(text, here.span)?;
                            let values = stage::from_values(&trigger);
                            froms.extend(values.into_iter().map(|v| (v, here.span)));
                        }
                    }
                    None => self.want(request, here.base.span),
                },
            }
            for (text, span) in froms {
                match self.from(index, &text, platform.clone(), span)? {
                    Base::Stage(earlier) => todo.push(earlier),
                    Base::Image(request) if !self.bases.contains_key(&request) => {
                        self.want(&request, span);
                    }
                    Base::Image(_) | Base::Scratch | Base::Context(_) => {}
                }
            }
        }
        Ok(reached)
    }

    fn want(&mut self, request: &BaseRequest, span: Span) {
        if !self.need.iter().any(|(r, _)| r == request) {
            self.need.push((request.clone(), Some(span)));
        }
    }

    fn push(&mut self, op: Op, stage: &str, span: Option<Span>, name: String) -> StepId {
        let id = StepId(self.steps.len());
        self.steps.push(Step {
            id,
            op,
            name,
            stage: stage.to_owned(),
            span,
        });
        id
    }

    /// The step that stands for an image, one for each image.
    fn image(
        &mut self,
        request: &BaseRequest,
        stage: &str,
        span: Span,
    ) -> Result<StepId, PlanError> {
        if let Some(id) = self.images.get(request) {
            return Ok(*id);
        }
        let found = self.bases.get(request);
        let found =
            found.ok_or_else(|| error_at(format!("{} was not looked up", request.name), span))?;
        let op = Op::Image(ImageOp {
            request: request.clone(),
            digest: found.digest.clone(),
        });
        let name = format!("FROM {}@{}", request.name, found.digest);
        let id = self.push(op, stage, Some(span), name);
        self.images.insert(request.clone(), id);
        Ok(id)
    }

    fn stage_name(&self, index: usize) -> String {
        match stage::name_of(&self.file.stages[index]) {
            Some(name) => name,
            None if self.file.stages.len() == 1 => String::new(),
            None => format!("stage-{index}"),
        }
    }

    fn stage(&mut self, index: usize) -> Result<StageState, PlanError> {
        let file = self.file;
        let here = &file.stages[index];
        let name = self.stage_name(index);
        let mut state = match self.base(index)? {
            Base::Stage(earlier) => {
                let Some(parent) = self.done.get(&earlier) else {
                    return Err(error_at("a stage can't be built on a later one", here.span));
                };
                StageState {
                    index,
                    own_cmd: false,
                    own_steps: Vec::new(),
                    ..parent.clone()
                }
            }
            Base::Image(request) => {
                let step = self.image(&request, &name, here.span)?;
                let mut config = self
                    .bases
                    .get(&request)
                    .map(|r| r.config.clone())
                    .unwrap_or_default();
                let has_path = scope::split_env(&config.config.env).any(|(n, _)| n == "PATH");
                if !has_path && config.os != "windows" {
                    config
                        .config
                        .env
                        .push(format!("PATH={}", config::DEFAULT_PATH));
                }
                let history = std::mem::take(&mut config.history).into_iter();
                let history = history.map(|entry| HistoryItem {
                    entry,
                    inherited: true,
                    step: None,
                });
                StageState {
                    platform: request.platform.clone(),
                    history: history.collect(),
                    ..self.empty_state(index, step, config)
                }
            }
            Base::Scratch => {
                let platform = self.platform_of(index)?;
                let step = self.push(Op::Scratch, &name, Some(here.span), "FROM scratch".into());
                self.empty_state(index, step, scratch_config(&platform))
            }
            Base::Context(context) => {
                let platform = self.platform_of(index)?;
                let scratch = self.push(Op::Scratch, &name, Some(here.span), "FROM scratch".into());
                let op = copy_of_context(scratch, &context, here.span);
                let step = self.push(op, &name, Some(here.span), format!("FROM {context}"));
                let mut state = self.empty_state(index, step, scratch_config(&platform));
                state.history.push(HistoryItem {
                    entry: history(format!("FROM {context}"), false),
                    inherited: false,
                    step: Some(step),
                });
                state
            }
        };
        state.platform = match self.file.stages[index].platform {
            Some(_) => self.platform_of(index)?,
            None => state.platform,
        };
        for text in std::mem::take(&mut state.config.config.on_build) {
            let instruction = trigger(&text, here.span)?;
            state.trigger = Some(here.span);
            self.instruction(&mut state, &instruction)?;
        }
        state.trigger = None;
        for instruction in &here.instructions {
            self.instruction(&mut state, instruction)?;
        }
        let total = state.own_steps.len() + 1;
        for (n, (id, text)) in state.own_steps.iter().enumerate() {
            let space = if name.is_empty() { "" } else { " " };
            self.steps[id.0].name = format!("[{name}{space}{}/{total}] {text}", n + 2);
        }
        if let Some(first) = self
            .steps
            .iter_mut()
            .find(|s| s.stage == name && s.span == Some(here.span) && s.name.starts_with("FROM "))
        {
            let space = if name.is_empty() { "" } else { " " };
            first.name = format!("[{name}{space}1/{total}] {}", first.name);
        }
        Ok(state)
    }

    fn empty_state(&self, index: usize, step: StepId, config: ImageConfig) -> StageState {
        StageState {
            index,
            step,
            platform: config.platform(),
            config,
            history: Vec::new(),
            args: Vars::default(),
            own_cmd: false,
            trigger: None,
            own_steps: Vec::new(),
        }
    }

    fn expand(&self, state: &StageState, text: &Text) -> Result<String, PlanError> {
        let lookup = |n: &str| scope::lookup(&state.config.config.env, &state.args, n);
        expand(text, self.file.directives.escape, &lookup).map_err(|e| PlanError {
            span: state.trigger.or(e.span),
            ..e
        })
    }

    fn expand_all<'t>(
        &self,
        state: &StageState,
        texts: impl IntoIterator<Item = &'t Text>,
    ) -> Result<Vec<String>, PlanError> {
        texts.into_iter().map(|t| self.expand(state, t)).collect()
    }

    fn instruction(&mut self, state: &mut StageState, i: &Instruction) -> Result<(), PlanError> {
        let span = state.trigger.unwrap_or(i.span);
        let fail = |message: String| error_at(message, span);
        let text = match &i.kind {
            InstructionKind::Arg(decls) => self.arg(state, decls)?,
            InstructionKind::Env(pairs) => {
                let pairs = self.pairs(state, &pairs.pairs)?;
                config::env(&mut state.config.config, &pairs)
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
                return Ok(());
            }
            InstructionKind::Workdir(path) => return self.workdir(state, path, i),
            InstructionKind::Copy(copy) => return self.copy(state, copy, i, false),
            InstructionKind::Add(copy) => return self.copy(state, copy, i, true),
            InstructionKind::Run(run) => return self.run(state, run, i),
        };
        state.history.push(HistoryItem {
            entry: history(text, true),
            inherited: false,
            step: None,
        });
        Ok(())
    }

    fn pairs(
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

    fn expose_words(&self, state: &StageState, words: &[Text]) -> Result<Vec<String>, PlanError> {
        let lookup = |n: &str| scope::lookup(&state.config.config.env, &state.args, n);
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

    fn arg(&self, state: &mut StageState, decls: &[ArgDecl]) -> Result<String, PlanError> {
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

    fn add_step(&mut self, state: &mut StageState, op: Op, i: &Instruction, created_by: String) {
        let span = state.trigger.unwrap_or(i.span);
        let stage = self.stage_name(state.index);
        let text = format!("{} {}", i.kind.name(), i.rest.trim());
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let id = self.push(op, &stage, Some(span), text.clone());
        state.own_steps.push((id, text));
        state.step = id;
        state.history.push(HistoryItem {
            entry: history(created_by, false),
            inherited: false,
            step: Some(id),
        });
    }

    fn workdir(
        &mut self,
        state: &mut StageState,
        path: &Text,
        i: &Instruction,
    ) -> Result<(), PlanError> {
        let path = self.expand(state, path)?;
        let clean = join_clean(&state.config.config.working_dir, &path);
        // An absolute path stays in the config as it was written.
        let path = if path.starts_with('/') {
            path
        } else {
            clean.clone()
        };
        state.config.config.working_dir.clone_from(&path);
        let created_by = format!("WORKDIR {path}");
        if clean == "/" || state.config.os == "windows" {
            state.history.push(HistoryItem {
                entry: history(created_by, true),
                inherited: false,
                step: None,
            });
            return Ok(());
        }
        let op = Op::Workdir(WorkdirOp {
            input: state.step,
            path,
            user: state.config.config.user.clone(),
        });
        self.add_step(state, op, i, created_by);
        Ok(())
    }

    /// The step or context that `--from` names.
    fn source(&mut self, state: &StageState, text: &str, span: Span) -> Result<From, PlanError> {
        match self.from(state.index, text, state.platform.clone(), span)? {
            Base::Scratch => {
                let stage = self.stage_name(state.index);
                Ok(From::Step(self.push(
                    Op::Scratch,
                    &stage,
                    Some(span),
                    "FROM scratch".into(),
                )))
            }
            Base::Stage(earlier) => match self.done.get(&earlier) {
                Some(done) => Ok(From::Step(done.step)),
                None => Err(error_at(
                    format!("the stage {text:?} is not built yet here"),
                    span,
                )),
            },
            Base::Context(name) => Ok(From::Named(name)),
            Base::Image(request) => {
                let stage = self.stage_name(state.index);
                Ok(From::Step(self.image(&request, &stage, span)?))
            }
        }
    }

    fn copy(
        &mut self,
        state: &mut StageState,
        copy: &Copy,
        i: &Instruction,
        add: bool,
    ) -> Result<(), PlanError> {
        let from = match &copy.from {
            None => From::Context,
            Some(text) => self.source(state, &text.value, state.trigger.unwrap_or(text.span))?,
        };
        let opt = |text: &Option<Text>| text.as_ref().map(|t| self.expand(state, t)).transpose();
        let (chown, chmod, checksum) = (opt(&copy.chown)?, opt(&copy.chmod)?, opt(&copy.checksum)?);
        let exclude = self.expand_all(state, &copy.exclude)?;
        let dest = self.expand(state, &copy.dest)?;
        if dest.is_empty() {
            return Err(error_at(
                "the destination is empty",
                state.trigger.unwrap_or(copy.dest.span),
            ));
        }
        let mut sources = Vec::new();
        let mut words = Vec::new();
        for source in &copy.sources {
            match source {
                Source::Path(text) => {
                    let path = self.expand(state, text)?;
                    let span = state.trigger.unwrap_or(text.span);
                    words.push(path.clone());
                    if is_url(&path) && from == From::Context {
                        if !add {
                            return Err(PlanError {
                                message: format!("the source {path:?} can't be a URL for COPY"),
                                span: Some(span),
                                hint: Some("use ADD for remote files and git repositories".into()),
                            });
                        }
                        sources.push(CopySource::Url { url: path, span });
                    } else {
                        sources.push(CopySource::Path { path, span });
                    }
                }
                Source::Heredoc(doc) => {
                    words.push(format!("<<{}", doc.name));
                    sources.push(CopySource::Inline {
                        name: doc.name.clone(),
                        content: self.heredoc(state, doc)?,
                    });
                }
            }
        }
        let mut created_by = i.kind.name().to_owned();
        if let Some(checksum) = &checksum {
            let _ = write!(created_by, " --checksum={checksum}");
        }
        if copy.parents {
            created_by.push_str(" --parents");
        }
        if let Some(chown) = &chown {
            let _ = write!(created_by, " --chown={chown}");
        }
        if let Some(chmod) = &chmod {
            let _ = write!(created_by, " --chmod={chmod}");
        }
        for word in &words {
            let _ = write!(created_by, " {word}");
        }
        let _ = write!(created_by, " {dest} # {MARKER}");
        let workdir = match state.config.config.working_dir.as_str() {
            "" | "\\" => "/".to_owned(),
            dir => dir.to_owned(),
        };
        let op = Op::Copy(Box::new(CopyOp {
            input: state.step,
            from,
            sources,
            dest,
            workdir,
            chown,
            chmod,
            link: copy.link,
            parents: copy.parents,
            exclude,
            add,
            checksum,
            keep_git_dir: copy.keep_git_dir,
            unpack: copy.unpack,
        }));
        self.add_step(state, op, i, created_by);
        Ok(())
    }

    fn heredoc(&self, state: &StageState, doc: &Heredoc) -> Result<String, PlanError> {
        if !doc.expand {
            return Ok(doc.body.clone());
        }
        let lookup = |n: &str| scope::lookup(&state.config.config.env, &state.args, n);
        word::expand_body(&doc.body, &lookup)
            .map(|e| e.text)
            .map_err(|e| error_at(e.to_string(), state.trigger.unwrap_or(doc.span)))
    }

    fn run(&mut self, state: &mut StageState, run: &Run, i: &Instruction) -> Result<(), PlanError> {
        let span = state.trigger.unwrap_or(i.span);
        let mut mounts = Vec::new();
        for text in &run.mounts {
            let span = state.trigger.unwrap_or(text.span);
            let lookup = |n: &str| scope::lookup(&state.config.config.env, &state.args, n);
            let escape = self.file.directives.escape;
            let expand = |value: &str| word::expand(value, escape, &lookup).map(|e| e.text);
            let spec = mount::parse_with(&text.value, &expand).map_err(|e| PlanError {
                hint: e.hint().map(str::to_owned),
                ..error_at(e.to_string(), span)
            })?;
            let from = match &spec {
                MountSpec::Bind(Bind {
                    from: Some(from), ..
                })
                | MountSpec::Cache(Cache {
                    from: Some(from), ..
                }) => Some(self.source(state, from, span)?),
                MountSpec::Bind(_) => Some(From::Context),
                MountSpec::Cache(_)
                | MountSpec::Tmpfs(_)
                | MountSpec::Secret(_)
                | MountSpec::Ssh(_) => None,
            };
            mounts.push(RunMount { spec, from });
        }
        let network = run
            .network
            .as_ref()
            .map(|t| run_network(t, span))
            .transpose()?;
        let insecure = match run.security.as_ref().map(|t| t.value.as_str()) {
            None | Some("sandbox") => false,
            Some("insecure") => true,
            Some(other) => {
                return Err(error_at(
                    format!("unknown --security={other:?}; it is sandbox or insecure"),
                    span,
                ));
            }
        };
        let (words, script) = run_words(run, &state.config.config);
        let env: Vec<(String, String)> = scope::split_env(&state.config.config.env)
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        let in_env = |name: &str| env.iter().any(|(n, _)| n == name);
        let from_args: Vec<(String, String)> = state
            .args
            .iter()
            .filter(|(n, _)| !in_env(n))
            .filter_map(|(n, v)| Some((n.to_owned(), v?.to_owned())))
            .collect();
        // Programs differ in which case they read, so both are set.
        let mut hidden_env: Vec<(String, String)> = Vec::new();
        for (name, value) in &self.options.build_args {
            if !PROXY_ARGS.contains(&name.as_str()) {
                continue;
            }
            for name in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
                let given = build_arg(self.options, &name).is_some_and(|v| v != value);
                let declared = state.args.iter().any(|(a, _)| a == name);
                let twice = hidden_env.iter().any(|(n, _)| *n == name);
                if !in_env(&name) && !declared && !given && !twice {
                    hidden_env.push((name, value.clone()));
                }
            }
        }
        let created_by = run_history(&state.args, &state.config.config.env, &words);
        let cwd = match state.config.config.working_dir.as_str() {
            "" => "/".to_owned(),
            dir => dir.to_owned(),
        };
        let op = Op::Run(Box::new(RunOp {
            input: state.step,
            args: words,
            env: env.into_iter().chain(from_args).collect(),
            hidden_env,
            cwd,
            user: state.config.config.user.clone(),
            mounts,
            network,
            insecure,
            script,
            devices: run.devices.iter().map(|d| d.value.clone()).collect(),
        }));
        self.add_step(state, op, i, created_by);
        Ok(())
    }
}

fn trigger(text: &str, span: Span) -> Result<Instruction, PlanError> {
    parse_trigger(text).map_err(|e| PlanError {
        message: format!("the base has an ONBUILD trigger that can't be parsed, {text:?}: {e}"),
        span: Some(span),
        hint: None,
    })
}

fn history(created_by: String, empty_layer: bool) -> History {
    History {
        created: None,
        created_by,
        author: String::new(),
        comment: format!("{MARKER}.dockerfile.v0"),
        empty_layer,
    }
}

fn scratch_config(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
        os_version: platform.os_version.clone().unwrap_or_default(),
        os_features: platform.os_features.clone(),
        ..ImageConfig::default()
    };
    if platform.os == "windows" {
        config.config.working_dir = "\\".into();
    } else {
        config.config.working_dir = "/".into();
        config
            .config
            .env
            .push(format!("PATH={}", config::DEFAULT_PATH));
    }
    config
}

fn copy_of_context(input: StepId, context: &str, span: Span) -> Op {
    Op::Copy(Box::new(CopyOp {
        input,
        from: From::Named(context.to_owned()),
        sources: vec![CopySource::Path {
            path: "/".into(),
            span,
        }],
        dest: "/".into(),
        workdir: "/".into(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        add: false,
        checksum: None,
        keep_git_dir: None,
        unpack: None,
    }))
}

/// `path` on top of the absolute `base`, without `.`, `..` and `//`.
fn join_clean(base: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether ADD takes it for something remote.
fn is_url(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"]
        .iter()
        .any(|p| text.starts_with(p))
}

fn run_network(text: &Text, span: Span) -> Result<RunNetwork, PlanError> {
    match text.value.as_str() {
        "default" => Ok(RunNetwork::Default),
        "none" => Ok(RunNetwork::None),
        "host" => Ok(RunNetwork::Host),
        other => Err(error_at(
            format!("unknown --network={other:?}; it is default, none or host"),
            span,
        )),
    }
}

/// The words of a RUN, and the script that they name.
fn run_words(
    run: &Run,
    config: &crate::image::ContainerConfig,
) -> (Vec<String>, Option<(String, String)>) {
    let Command::Shell(line) = &run.command else {
        return (config::command_words(config, &run.command), None);
    };
    match run.heredocs.as_slice() {
        [] => (config::with_shell(config, line), None),
        [only] if is_heredoc_word(line) => {
            if only.body.starts_with("#!") {
                let path = format!("/dev/pipes/{}", only.name);
                let script = (only.name.clone(), only.body.clone());
                (config::with_shell(config, &path), Some(script))
            } else {
                (config::with_shell(config, &only.body), None)
            }
        }
        several => {
            // The shell reads the heredocs itself.
            let mut text = line.clone();
            for doc in several {
                let _ = write!(text, "\n{}{}", doc.raw, doc.name);
            }
            (config::with_shell(config, &text), None)
        }
    }
}

/// Whether the line is one `<<WORD` and nothing else.
fn is_heredoc_word(line: &str) -> bool {
    let line = line.trim().trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = line.strip_prefix("<<") else {
        return false;
    };
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let (mut single, mut double) = (false, false);
    for c in rest.chars() {
        match c {
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            c if (c.is_whitespace() || c == '<') && !single && !double => return false,
            _ => {}
        }
    }
    !rest.is_empty()
}

/// `RUN |2 A=1 B=2 /bin/sh -c …`: all build arguments in effect stand before
/// the command.
fn run_history(args: &Vars, env: &[String], words: &[String]) -> String {
    let mut text = "RUN".to_owned();
    let known: Vec<(&str, Option<&str>)> = args.iter().collect();
    if !known.is_empty() {
        let _ = write!(text, " |{}", known.len());
        for (name, _) in known {
            let value = scope::lookup(env, args, name).unwrap_or_default();
            let _ = write!(text, " {name}={value}");
        }
    }
    let _ = write!(text, " {} # {MARKER}", words.join(" "));
    text
}
