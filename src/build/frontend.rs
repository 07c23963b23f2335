//! What can be said of a request's Dockerfile: warnings, what a target takes,
//! which targets there are. Nothing here asks a registry.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bases::{self, Found};
use super::error::{BuildError, SourceText};
use super::input::{self, Input, Main, Reader, Stdin};
use super::request::{Request, Secret, SecretSource};
use super::{plan_options, platforms};
use crate::context::ignore::Ignore;
use crate::digest::Digest;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::lint::{self, BaseImage, LintOptions, Report, Settings};
use crate::dockerfile::span::{LineIndex, Span};
use crate::dockerfile::{self, ParseError};
use crate::event::{Cancel, Event, Events};
use crate::graph::{self, BaseRequest, Bases, Outline, Planned, Resolved, Target};
use crate::image::ImageConfig;
use crate::platform::Platform;
use crate::solve::Remote;
use crate::store::Store;

/// What looking at a Dockerfile takes.
pub struct Sources {
    /// Reaches what is named by URL.
    pub remote: Remote,
    /// Standard input, for whoever is asked to read it.
    pub stdin: Stdin,
    /// Where directories of our own are made.
    pub scratch: PathBuf,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("scratch", &self.scratch)
            .finish_non_exhaustive()
    }
}

/// Bases that a check looks up; a build has far fewer.
const MOST_BASES: usize = 200;

/// Base images that are on this machine, looked up when they are asked for.
struct LocalBases<'a> {
    store: Option<&'a Store>,
    request: &'a Request,
    found: RefCell<BTreeMap<BaseRequest, Option<ImageConfig>>>,
}

impl LocalBases<'_> {
    fn get(&self, request: &BaseRequest) -> Option<ImageConfig> {
        let mut found = self.found.borrow_mut();
        if let Some(known) = found.get(request) {
            return known.clone();
        }
        if found.len() >= MOST_BASES {
            return None;
        }
        let base = bases::local(self.store, request).map(|b| b.image.config.clone());
        found.insert(request.clone(), base.clone());
        base
    }

    /// By the name in FROM, which may be that of a named context.
    fn by_name(&self, name: &str, platform: &Platform) -> Option<BaseImage> {
        let config = self.get(&BaseRequest {
            name: image_of(self.request, name)?.to_owned(),
            platform: platform.clone(),
        })?;
        Some(known_base(&config))
    }
}

/// The image that FROM names: `name` itself, or that of the named context which
/// stands for it. `None` where that is a tree of files.
fn image_of<'a>(request: &'a Request, name: &'a str) -> Option<&'a str> {
    let contexts = request.build_contexts.iter().rev();
    match contexts.into_iter().find(|(n, _)| n == name) {
        Some((_, value)) => input::is_image_context(value).then_some(value),
        None => Some(name),
    }
}

/// What the linter wants to know of a base.
fn known_base(config: &ImageConfig) -> BaseImage {
    let platform = config.platform();
    let says = !platform.os.is_empty() && !platform.architecture.is_empty();
    BaseImage {
        env: config.config.env.clone(),
        has_shell: config.config.shell.is_some(),
        on_build: config.config.on_build.clone(),
        platform: says.then(|| platform.to_string()),
    }
}

/// Checks the Dockerfile. One that can't be built has an error in its report.
/// Of bases it knows what `store` and layouts on this machine have; no
/// registry is asked.
///
/// # Errors
/// When there is no Dockerfile to check.
pub fn check(
    request: &Request,
    sources: &Sources,
    store: Option<&Store>,
    cancel: &Cancel,
) -> Result<(SourceText, Report), BuildError> {
    let (main, source) = read(request, sources, cancel)?;
    let file = match dockerfile::parse(&source.text) {
        Ok(file) => file,
        Err(error) => {
            let report = Report {
                error: Some(error),
                ..Report::default()
            };
            return Ok((source, report));
        }
    };
    let platform = platforms(request).swap_remove(0);
    let host = Platform::host().to_string();
    let bases = LocalBases {
        store,
        request,
        found: RefCell::default(),
    };
    let base = |name: &str| bases.by_name(name, &platform);
    let ignore = plain_ignore(&main);
    let ignored = |path: &str| ignore.is_some_and(|i| i.ignored(Path::new(path)));
    let mut report = lint::lint(
        &file,
        &LintOptions {
            build_args: &request.build_args,
            target: request.target.as_deref(),
            target_platform: Some(&platform.to_string()),
            build_platform: Some(&host),
            base: Some(&base),
            ignored: ignore.is_some().then_some(&ignored),
            check: setting(request),
            ..LintOptions::default()
        },
    );
    if report.error.is_none() {
        report.error = plan_error(&file, request, &bases);
    }
    Ok((source, report))
}

/// What a build of the request's target takes.
///
/// # Errors
/// When the Dockerfile can't be read, or its plan would fail.
pub fn outline(
    request: &Request,
    sources: &Sources,
    cancel: &Cancel,
) -> Result<(SourceText, Outline), BuildError> {
    let (_main, source) = read(request, sources, cancel)?;
    let file = dockerfile::parse(&source.text).map_err(|e| source.parse(e))?;
    let options = plan_options(request, platforms(request).swap_remove(0));
    let outline = graph::outline(&file, &options).map_err(|e| source.plan(e))?;
    Ok((source, outline))
}

/// The targets that the Dockerfile has.
///
/// # Errors
/// When it can't be read.
pub fn targets(
    request: &Request,
    sources: &Sources,
    cancel: &Cancel,
) -> Result<(SourceText, Vec<Target>), BuildError> {
    let (_main, source) = read(request, sources, cancel)?;
    let file = dockerfile::parse(&source.text).map_err(|e| source.parse(e))?;
    Ok((source, graph::targets(&file)))
}

fn read(
    request: &Request,
    sources: &Sources,
    cancel: &Cancel,
) -> Result<(Main, SourceText), BuildError> {
    let main = Reader {
        remote: &sources.remote,
        stdin: &sources.stdin,
        scratch: &sources.scratch,
        request,
        cancel,
    }
    .main()?;
    let source = source_of(&main);
    Ok((main, source))
}

pub(super) fn source_of(main: &Main) -> SourceText {
    SourceText {
        file: main.file.clone(),
        text: Arc::clone(&main.text),
    }
}

/// The ignore file where a name alone decides: one without exceptions.
fn plain_ignore(main: &Main) -> Option<&Ignore> {
    main.ignore.as_ref().filter(|i| !i.has_exceptions())
}

/// The settings that a build argument gives in place of `# check=`.
fn setting(request: &Request) -> Option<&str> {
    let args = request.build_args.iter().rev();
    let found = args
        .into_iter()
        .find(|(n, _)| n == "BUILDKIT_DOCKERFILE_CHECK");
    found.map(|(_, value)| value.as_str())
}

/// Where a plan would fail, with what is known of its bases.
fn plan_error(file: &Dockerfile, request: &Request, known: &LocalBases<'_>) -> Option<ParseError> {
    let options = plan_options(request, platforms(request).swap_remove(0));
    let mut bases = Bases::new();
    loop {
        match graph::plan(file, &options, &bases) {
            Ok(Planned::Graph(_)) => return None,
            Ok(Planned::Need(needed)) => {
                for (request, _) in needed {
                    let config = known.get(&request).unwrap_or_else(|| ImageConfig {
                        architecture: request.platform.architecture.clone(),
                        os: request.platform.os.clone(),
                        ..ImageConfig::default()
                    });
                    let digest = Digest::of(b"");
                    bases.insert(request, Resolved { digest, config });
                }
            }
            Err(e) => {
                let last = file.stages.last().map_or(Span::new(0, 0), |s| s.span);
                let error = ParseError::new(e.message, e.span.unwrap_or(last));
                return Some(error.hint_option(e.hint));
            }
        }
    }
}

/// Reports what the linter finds in what is built; an error where the file
/// asks for that.
pub(super) fn lint(
    file: &Dockerfile,
    request: &Request,
    input: &Input,
    found: &Found,
    source: &SourceText,
    events: &Events,
) -> Result<(), BuildError> {
    let directive = file.directives.check.as_ref();
    let text = setting(request).or(directive.map(|d| d.value.as_str()));
    if let Err(message) = Settings::parse(text.unwrap_or_default()) {
        let span = directive.map_or(Span::new(0, 0), |d| d.span);
        return Err(source.parse(ParseError::new(message, span)));
    }
    let target = request.platforms.first().map(Platform::to_string);
    let host = Platform::host().to_string();
    let base = |name: &str| {
        let image = image_of(request, name)?;
        let (_, base) = found.iter().find(|(base, _)| base.name == image)?;
        Some(known_base(&base.image.config))
    };
    let ignore = plain_ignore(&input.main);
    let ignored = |path: &str| ignore.is_some_and(|i| i.ignored(Path::new(path)));
    let report = lint::lint(
        file,
        &LintOptions {
            build_args: &request.build_args,
            target: request.target.as_deref(),
            only_needed: true,
            target_platform: Some(target.as_deref().unwrap_or(&host)),
            build_platform: Some(&host),
            base: Some(&base),
            ignored: ignore.is_some().then_some(&ignored),
            check: setting(request),
        },
    );
    let lines = LineIndex::new(&source.text);
    let mut rules: Vec<&str> = Vec::new();
    for warning in &report.warnings {
        let rule = warning.rule.info().name;
        events.emit(Event::Warning {
            rule: Some(rule.to_owned()),
            message: warning.detail.clone(),
            line: Some(lines.line_column(warning.span.start).0),
        });
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    if report.fails && !rules.is_empty() {
        return Err(BuildError::Input(format!(
            "the Dockerfile asks that warnings are errors, and there are some: {}",
            rules.join(", ")
        )));
    }
    Ok(())
}

/// The value of a secret, for a server that wants one.
pub(super) fn secret(secrets: &[Secret], id: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(found) = secrets.iter().find(|s| s.id == id) else {
        return Ok(None);
    };
    match &found.source {
        SecretSource::File(path) => std::fs::read(path).map(Some),
        SecretSource::Value(value) => Ok(Some(value.clone())),
    }
}
