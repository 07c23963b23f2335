//! Planning: walks the stages that the target needs and turns each
//! instruction into a change of the config, a step, or both.

mod epoch;
mod instruction;
mod names;
mod outline;
mod steps;
mod text;

use std::collections::{BTreeMap, BTreeSet};

pub use epoch::{EpochSource, SOURCE_DATE_EPOCH, epoch_source};
pub use outline::{Outline, OutlineArg, OutlineMount, Target, outline, targets};

use super::scope::{self, EnvPlaces, Vars};
use super::step::{BaseRequest, CopyOp, CopySource, From, ImageOp, Op, Step, StepId};
use super::{Bases, Graph, HistoryItem, MARKER, PlanError, PlanOptions, Planned, config, stage};
use crate::dockerfile::ast::{Dockerfile, Instruction, InstructionKind, Text};
use crate::dockerfile::lint::empty_base;
use crate::dockerfile::span::Span;
use crate::dockerfile::word::{self, Lookup, Meter};
use crate::dockerfile::{parse_trigger, suggest};
use crate::image::{History, ImageConfig, MAX_CONFIG_BYTES};
use crate::platform::Platform;

/// Bytes that the environment, labels and history of one image may have; a
/// config that is larger could not be read back.
const MAX_CONFIG: usize = MAX_CONFIG_BYTES as usize;
/// Bytes that all texts of a plan may have. Each step has its own environment
/// and each stage its own history, so a small file could ask for any amount.
const MAX_PLAN: usize = 256 << 20;

/// Plans the build of `options.target`, or says which images it has to know.
pub fn plan(file: &Dockerfile, options: &PlanOptions, bases: &Bases) -> Result<Planned, PlanError> {
    let mut planner = planner(file, options, bases)?;
    let target = planner.target()?;
    let wanted = planner.reachable(target)?;
    if !planner.need.is_empty() {
        return Ok(Planned::Need(planner.need));
    }
    for index in wanted {
        let state = planner.stage(index)?;
        let done = DoneStage {
            step: state.step,
            state: Some(state),
        };
        planner.done.insert(index, done);
    }
    let Some(state) = planner.done.remove(&target).and_then(|done| done.state) else {
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

fn planner<'a>(
    file: &'a Dockerfile,
    options: &'a PlanOptions,
    bases: &'a Bases,
) -> Result<Planner<'a>, PlanError> {
    let meter = Meter::default();
    let globals = global_args(file, options, &meter)?;
    // Whatever else gives a time is asked before; here it has none.
    let source_date_epoch = match epoch::source(file, &globals, options)? {
        Some(EpochSource::Seconds(seconds)) => Some(seconds),
        Some(EpochSource::Context | EpochSource::Named(_) | EpochSource::Remote { .. }) | None => {
            None
        }
    };
    Ok(Planner {
        file,
        options,
        bases,
        source_date_epoch,
        globals,
        steps: Vec::new(),
        images: BTreeMap::new(),
        need: Vec::new(),
        wanted: BTreeSet::new(),
        done: BTreeMap::new(),
        children: BTreeMap::new(),
        names: stage::Names::of(file),
        room: MAX_PLAN,
        meter,
    })
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
fn global_args(file: &Dockerfile, options: &PlanOptions, meter: &Meter) -> Result<Vars, PlanError> {
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
                    let lookup = meter.count(|n: &str| vars.get(n).map(str::to_owned));
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

fn expand_globals(
    text: &Text,
    escape: char,
    vars: &Vars,
    meter: &Meter,
) -> Result<String, PlanError> {
    let lookup = meter.count(|n: &str| vars.get(n).map(str::to_owned));
    expand(text, escape, &lookup)
}

fn expand(text: &Text, escape: char, lookup: &dyn Lookup) -> Result<String, PlanError> {
    word::expand(&text.value, escape, lookup)
        .map(|e| e.text)
        .map_err(|e| error_at(e.to_string(), text.span))
}

/// What later stages take from a stage.
struct DoneStage {
    step: StepId,
    /// For those built on it; the last of them takes it away.
    state: Option<StageState>,
}

/// A stage while it is planned, and what the stages built on it begin with.
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
    /// Where names stand in the config's environment.
    places: EnvPlaces,
    /// About how many bytes config and history have.
    bytes: usize,
}

impl StageState {
    /// The value of a variable.
    fn lookup(&self, name: &str) -> Option<String> {
        let found = self.places.get(&self.config.config.env, name);
        found.or_else(|| self.args.get(name)).map(str::to_owned)
    }

    /// Bytes of the environment that a step gets.
    fn environment_bytes(&self) -> usize {
        let env = self.config.config.env.iter().map(String::len);
        let args = self
            .args
            .iter()
            .map(|(n, v)| n.len() + v.map_or(0, str::len));
        env.chain(args).map(|n| n + ENTRY).sum()
    }
}

/// What an entry of a list takes beside its text, in bytes.
const ENTRY: usize = 64;

struct Planner<'a> {
    file: &'a Dockerfile,
    options: &'a PlanOptions,
    bases: &'a Bases,
    globals: Vars,
    steps: Vec<Step>,
    images: BTreeMap<BaseRequest, StepId>,
    need: Vec<(BaseRequest, Option<Span>)>,
    wanted: BTreeSet<BaseRequest>,
    done: BTreeMap<usize, DoneStage>,
    /// How many stages are still to be built on each.
    children: BTreeMap<usize, usize>,
    source_date_epoch: Option<i64>,
    names: stage::Names,
    /// Bytes that the plan may still take.
    room: usize,
    /// How much the variables may still be looked at.
    meter: Meter,
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
        self.names.by_name_or_number(name, count).ok_or_else(|| {
            let names: Vec<String> = self.file.stages.iter().filter_map(stage::name_of).collect();
            let near = suggest::nearest(&name.to_lowercase(), names.iter().map(String::as_str));
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
        expand_globals(
            text,
            self.file.directives.escape,
            &self.globals,
            &self.meter,
        )
    }

    /// The name of a stage that a named context takes the place of, with all
    /// its instructions.
    fn replaced(&self, index: usize) -> Option<&str> {
        let stage = &self.file.stages[index];
        let name = &stage.name.as_ref()?.value;
        let (name, _) = self
            .options
            .contexts
            .get_key_value(name)
            .or_else(|| self.options.contexts.get_key_value(&name.to_lowercase()))?;
        Some(name)
    }

    /// The instructions of a stage that are run.
    fn instructions(&self, index: usize) -> &[Instruction] {
        match self.replaced(index) {
            Some(_) => &[],
            None => &self.file.stages[index].instructions,
        }
    }

    /// What the FROM of a stage leads to.
    fn base(&self, index: usize) -> Result<Base, PlanError> {
        let from = &self.file.stages[index];
        if let Some(name) = self.replaced(index) {
            return self.named(name, self.platform_of(index)?, from.span);
        }
        let name = self.expand_global(&from.base)?;
        if name.is_empty() {
            let lookup = |n: &str| self.globals.get(n).map(str::to_owned);
            let escape = self.file.directives.escape;
            let unset = word::expand(&from.base.value, escape, &lookup).map(|e| e.unset);
            let error = empty_base(self.file, &from.base, &unset.unwrap_or_default());
            return Err(PlanError {
                message: error.message,
                span: Some(error.span),
                hint: error.hint,
            });
        }
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        if let Some(earlier) = self.names.by_exact_name(&name, index) {
            return Ok(Base::Stage(earlier));
        }
        let platform = self.platform_of(index)?;
        self.named(&name, platform, from.base.span)
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
            for instruction in self.instructions(index) {
                froms.extend(stage::from_values(instruction));
            }
            match &base {
                Base::Scratch | Base::Context(_) => {}
                Base::Stage(earlier) => {
                    todo.push(*earlier);
                    *self.children.entry(*earlier).or_default() += 1;
                    for trigger in stage::triggers(&self.file.stages[*earlier]) {
                        self.spend(ENTRY, here.span)?;
                        let values = stage::from_values(trigger);
                        froms.extend(values.into_iter().map(|(v, _)| (v, here.span)));
                    }
                }
                Base::Image(request) => match self.bases.get(request) {
                    Some(found) => {
                        for text in &found.config.config.on_build {
                            self.spend(ENTRY + text.len(), here.span)?;
                            let trigger = trigger(text, here.span)?;
                            let values = stage::from_values(&trigger);
                            froms.extend(values.into_iter().map(|(v, _)| (v, here.span)));
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
        if self.wanted.insert(request.clone()) {
            self.need.push((request.clone(), Some(span)));
        }
    }

    /// Takes `bytes` of what the plan may have.
    fn spend(&mut self, bytes: usize, span: Span) -> Result<(), PlanError> {
        self.room = self.room.checked_sub(bytes).ok_or_else(|| PlanError {
            message: format!(
                "the plan is too large: the environments and histories of its steps and stages take more than {} MiB together",
                MAX_PLAN >> 20
            ),
            span: Some(span),
            hint: Some("each step has all variables, and each stage all that came before in the one it is built on".into()),
        })?;
        Ok(())
    }

    /// Counts what an instruction adds to its stage's config.
    fn grow(&mut self, state: &mut StageState, bytes: usize, span: Span) -> Result<(), PlanError> {
        state.bytes += bytes + ENTRY;
        if state.bytes > MAX_CONFIG {
            return Err(PlanError {
                message: format!(
                    "the image's config would be too large: its variables, labels and history take more than {} MiB",
                    MAX_CONFIG >> 20
                ),
                span: Some(span),
                hint: Some("put large values into files".into()),
            });
        }
        self.spend(bytes + ENTRY, span)
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

    /// The state of a stage for one that is built on it.
    fn take_parent(&mut self, index: usize, span: Span) -> Result<Option<StageState>, PlanError> {
        let left = self.children.get_mut(&index).map_or(0, |left| {
            *left = left.saturating_sub(1);
            *left
        });
        if left == 0 {
            return Ok(self.done.get_mut(&index).and_then(|done| done.state.take()));
        }
        let size = |s: &StageState| s.bytes + s.environment_bytes();
        let state = |done: &DoneStage| done.state.as_ref().map_or(0, size);
        self.spend(self.done.get(&index).map_or(0, state), span)?;
        Ok(self.done.get(&index).and_then(|done| done.state.clone()))
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
        let before = self.steps.len();
        let mut state = match self.base(index)? {
            Base::Stage(earlier) => {
                let Some(parent) = self.take_parent(earlier, here.span)? else {
                    return Err(error_at("a stage can't be built on a later one", here.span));
                };
                StageState {
                    index,
                    own_cmd: false,
                    own_steps: Vec::new(),
                    ..parent
                }
            }
            Base::Image(request) => {
                let step = self.image(&request, &name, here.span)?;
                let mut config = self
                    .bases
                    .get(&request)
                    .map(|r| r.config.clone())
                    .unwrap_or_default();
                let bytes = config_bytes(&config);
                self.spend(bytes, here.span)?;
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
                    bytes,
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
            let done = self.instruction(&mut state, &instruction);
            done.map_err(|e| PlanError {
                message: format!("{}, in the base's ONBUILD trigger {text:?}", e.message),
                ..e
            })?;
        }
        state.trigger = None;
        let is_replaced = self.replaced(index).is_some();
        for instruction in here.instructions.iter().filter(|_| !is_replaced) {
            self.instruction(&mut state, instruction)?;
        }
        let total = state.own_steps.len() + 1;
        for (n, (id, text)) in state.own_steps.iter().enumerate() {
            let space = if name.is_empty() { "" } else { " " };
            self.steps[id.0].name = format!("[{name}{space}{}/{total}] {text}", n + 2);
        }
        if let Some(first) = self.steps[before..]
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
            places: EnvPlaces::of(&config.config.env),
            bytes: 0,
            config,
            history: Vec::new(),
            args: Vars::default(),
            own_cmd: false,
            trigger: None,
            own_steps: Vec::new(),
        }
    }
}

/// About how many bytes a config has.
fn config_bytes(config: &ImageConfig) -> usize {
    let inner = &config.config;
    let history = config.history.iter().map(|h| h.created_by.len());
    let labels = inner.labels.iter().map(|(k, v)| k.len() + v.len());
    let lists = inner.env.iter().chain(&inner.on_build).map(String::len);
    lists.chain(labels).chain(history).map(|n| n + ENTRY).sum()
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
        dest_span: None,
        workdir: "/".into(),
        chown: None,
        chown_span: None,
        chmod: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        exclude_spans: Vec::new(),
        add: false,
        checksum: None,
        keep_git_dir: None,
        unpack: None,
    }))
}
