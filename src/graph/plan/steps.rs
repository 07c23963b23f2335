//! Instructions that make a step: WORKDIR, COPY, ADD, RUN.

use std::fmt::Write as _;

use super::text::{is_url, join_clean, redacted, run_history, run_network, run_words};
use super::{Base, Planner, StageState, build_arg, error_at, history};
use crate::digest::Digest;
use crate::dockerfile::ast::{Copy, Heredoc, Instruction, Run, Source, Text};
use crate::dockerfile::chmod::Chmod;
use crate::dockerfile::mount::{Bind, Cache, MountSpec};
use crate::dockerfile::span::Span;
use crate::dockerfile::{mount, word};
use crate::graph::scope::{self, PROXY_ARGS};
use crate::graph::step::{CopyOp, CopySource, From, Op, RunMount, RunOp, WorkdirOp};
use crate::graph::{HistoryItem, MARKER, PlanError};

impl Planner<'_> {
    pub(super) fn workdir(
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
        self.add_step(state, op, i, created_by)
    }

    /// The step or context that `--from` names.
    pub(super) fn source(
        &mut self,
        state: &StageState,
        text: &str,
        span: Span,
    ) -> Result<From, PlanError> {
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

    pub(super) fn copy(
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
        let trigger = state.trigger;
        let place = |text: &Text| trigger.unwrap_or(text.span);
        if dest.is_empty() {
            return Err(error_at("the destination is empty", place(&copy.dest)));
        }
        check_copy_flags(copy, chmod.as_deref(), trigger)?;
        let (sources, words) = self.copy_sources(state, copy, i, from == From::Context, add)?;
        if let (Some(checksum), Some(text)) = (&checksum, &copy.checksum) {
            check_checksum(checksum, &sources).map_err(|message| {
                let mut error = error_at(message, state.trigger.unwrap_or(text.span));
                error.hint = Some("--checksum=sha256:… is what one remote file has, --checksum=<commit> what one repository is at".into());
                error
            })?;
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
            dest_span: Some(place(&copy.dest)),
            workdir,
            chown,
            chown_span: copy.chown.as_ref().map(place),
            chmod,
            link: copy.link,
            parents: copy.parents,
            exclude,
            exclude_spans: copy.exclude.iter().map(place).collect(),
            add,
            checksum,
            keep_git_dir: copy.keep_git_dir,
            unpack: copy.unpack,
        }));
        self.add_step(state, op, i, created_by)
    }

    /// The sources of a COPY or ADD, and how the history has them.
    fn copy_sources(
        &self,
        state: &StageState,
        copy: &Copy,
        i: &Instruction,
        from_context: bool,
        add: bool,
    ) -> Result<(Vec<CopySource>, Vec<String>), PlanError> {
        let mut sources = Vec::new();
        let mut words = Vec::new();
        for source in &copy.sources {
            match source {
                Source::Path(text) => {
                    let path = self.expand(state, text)?;
                    let span = state.trigger.unwrap_or(text.span);
                    words.push(if is_url(&path) {
                        redacted(&path)
                    } else {
                        path.clone()
                    });
                    if is_url(&path) && from_context {
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
                    if !is_file_name(&doc.name) {
                        return Err(PlanError {
                            message: format!("{:?} can't be the name of a file", doc.name),
                            span: Some(state.trigger.unwrap_or(i.span)),
                            hint: Some(
                                "the file is named after the delimiter; use one without slashes"
                                    .into(),
                            ),
                        });
                    }
                    words.push(format!("<<{}", doc.name));
                    sources.push(CopySource::Inline {
                        name: doc.name.clone(),
                        content: self.heredoc(state, doc)?,
                    });
                }
            }
        }
        Ok((sources, words))
    }

    pub(super) fn heredoc(&self, state: &StageState, doc: &Heredoc) -> Result<String, PlanError> {
        if !doc.expand {
            return Ok(doc.body.clone());
        }
        let lookup = self.meter.count(|n: &str| state.lookup(n));
        word::expand_body(&doc.body, &lookup)
            .map(|e| e.text)
            .map_err(|e| error_at(e.to_string(), state.trigger.unwrap_or(doc.span)))
    }

    pub(super) fn run(
        &mut self,
        state: &mut StageState,
        run: &Run,
        i: &Instruction,
    ) -> Result<(), PlanError> {
        let span = state.trigger.unwrap_or(i.span);
        let mut mounts = Vec::new();
        for text in &run.mounts {
            let span = state.trigger.unwrap_or(text.span);
            let lookup = self.meter.count(|n: &str| state.lookup(n));
            let escape = self.file.directives.escape;
            let expand = |value: &str| word::expand(value, escape, &lookup).map(|e| e.text);
            let mut spec = mount::parse_with(&text.value, &expand).map_err(|e| PlanError {
                hint: e.hint().map(str::to_owned),
                ..error_at(e.to_string(), span)
            })?;
            if let (MountSpec::Cache(cache), Some(space)) = (
                &mut spec,
                build_arg(self.options, "BUILDKIT_CACHE_MOUNT_NS"),
            ) && !space.is_empty()
            {
                let id = cache.id.take();
                let id = id
                    .unwrap_or_else(|| join_clean(&state.config.config.working_dir, &cache.target));
                cache.id = Some(format!("{space}/{id}"));
            }
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
        self.spend(state.environment_bytes(), span)?;
        let (words, script) = run_words(run, &state.config.config);
        let env: Vec<(String, String)> = scope::split_env(&state.config.config.env)
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        let in_env = |name: &str| {
            let env = &state.config.config.env;
            state.places.get(env, name).is_some()
        };
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
        let created_by = run_history(&state.args, &|n| state.lookup(n), &words);
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
            hostname: build_arg(self.options, "BUILDKIT_SANDBOX_HOSTNAME")
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            insecure,
            script,
            devices: run.devices.iter().map(|d| d.value.clone()).collect(),
            platform: state.platform.clone(),
        }));
        self.add_step(state, op, i, created_by)
    }
}

/// Refuses flags whose values mean nothing, before anything runs.
fn check_copy_flags(
    copy: &Copy,
    chmod: Option<&str>,
    trigger: Option<Span>,
) -> Result<(), PlanError> {
    let place = |text: &Text| trigger.unwrap_or(text.span);
    if let (Some(value), Some(text)) = (chmod, &copy.chmod) {
        Chmod::parse(value).map_err(|e| PlanError {
            hint: Some(Chmod::FORMS.into()),
            ..error_at(e.to_string(), place(text))
        })?;
    }
    Ok(())
}

/// Whether a heredoc's file can have this name.
fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Whether these sources can have this checksum.
fn check_checksum(checksum: &str, sources: &[CopySource]) -> Result<(), String> {
    match sources {
        [CopySource::Url { .. }] => {}
        [_] => return Err("only a remote source can have a checksum".into()),
        _ => return Err("only a single source can have a checksum".into()),
    }
    let is_commit = checksum.len() >= 7 && checksum.bytes().all(|b| b.is_ascii_hexdigit());
    if is_commit || Digest::parse(checksum).is_ok() {
        return Ok(());
    }
    Err(format!("{checksum:?} is no checksum"))
}
