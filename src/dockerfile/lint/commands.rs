//! The instructions of a stage, gone through with its variables.

use super::super::ast::{
    Command, Copy, Dockerfile, Instruction, InstructionKind, KeyValues, Source, Text,
};
use super::super::error::ParseError;
use super::super::mount;
use super::super::span::Span;
use super::super::word::{self, Expansion, Meter, WordError};
use super::super::{ports, suggest};
use super::froms::{at, given};
use super::scope::Scope;
use super::{LintOptions, Rule, Settings, Sink, statics};

/// How many bytes the words of a file may expand to in all.
const MAX_EXPANDED: usize = 64 << 20;

/// Parts of names that hold secrets, and parts that make them harmless.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// Names that say how to build and never get a value in a stage.
const NO_VALUE: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// What keeps the time linear.
pub(super) struct Budget {
    suggestions: usize,
    bytes: usize,
    pub(super) meter: Meter,
}

impl Budget {
    pub(super) fn new(suggestions: usize) -> Self {
        Self {
            suggestions,
            bytes: MAX_EXPANDED,
            meter: Meter::default(),
        }
    }

    pub(super) fn spend(&mut self, bytes: usize, span: Span) -> Result<(), ParseError> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(|| {
            ParseError::new("the file's variables expand to too much text", span)
                .hint("a value that holds itself twice doubles each time")
        })?;
        Ok(())
    }

    /// A name of `scope` near to `name`, while there is time to look for one.
    pub(super) fn nearest<'a>(&mut self, name: &str, scope: &'a Scope) -> Option<&'a str> {
        self.suggestions = self.suggestions.checked_sub(1)?;
        suggest::nearest(name, scope.names())
    }
}

/// The state of a stage.
pub(super) struct Walk<'a, 'b> {
    file: &'a Dockerfile,
    options: &'a LintOptions<'a>,
    globals: &'a Scope,
    scope: &'a mut Scope,
    sink: &'a mut Sink<'b>,
    budget: &'a mut Budget,
    pub(super) workdir_set: bool,
    pub(super) has_shell: bool,
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
}

impl<'a, 'b> Walk<'a, 'b> {
    pub(super) fn new(
        file: &'a Dockerfile,
        options: &'a LintOptions<'a>,
        globals: &'a Scope,
        scope: &'a mut Scope,
        sink: &'a mut Sink<'b>,
        budget: &'a mut Budget,
    ) -> Self {
        Self {
            file,
            options,
            globals,
            scope,
            sink,
            budget,
            workdir_set: false,
            has_shell: false,
            cmd: None,
            entrypoint: None,
            healthcheck: None,
        }
    }
}

/// An instruction, and where its warnings go.
struct Here<'a> {
    span: Span,
    own: Option<&'a Settings>,
    keyword: &'a str,
}

/// Goes through one instruction; its warnings are put at `span`.
///
/// # Errors
/// Where a build would stop at it.
pub(super) fn run(
    walk: &mut Walk<'_, '_>,
    instruction: &Instruction,
    span: Span,
) -> Result<(), ParseError> {
    let own = statics::of_instruction(instruction);
    let here = Here {
        span,
        own: own.as_ref(),
        keyword: &instruction.keyword.value,
    };
    match &instruction.kind {
        InstructionKind::Arg(args) => {
            for decl in args {
                let default = decl.default.as_ref();
                walk.arg(&decl.name.value, default, &here)?;
            }
        }
        InstructionKind::Env(pairs) => walk.pairs("ENV", pairs, &here)?,
        InstructionKind::Label(pairs) => walk.pairs("LABEL", pairs, &here)?,
        InstructionKind::Add(copy) => walk.copy("Add", copy, &here)?,
        InstructionKind::Copy(copy) => walk.copy("Copy", copy, &here)?,
        InstructionKind::Run(run) => {
            for text in &run.mounts {
                walk.mount(text, &here)?;
            }
        }
        InstructionKind::Expose(words) => walk.expose(words, &here)?,
        InstructionKind::Workdir(path) => {
            let path = walk.expand(path, &here)?;
            if !walk.workdir_set && !path.starts_with('/') {
                let detail = format!(
                    "Relative workdir {path:?} can have unexpected results if the base image changes"
                );
                walk.warn(Rule::WorkdirRelativePath, detail, &here);
            }
            walk.workdir_set = true;
        }
        InstructionKind::User(text) | InstructionKind::StopSignal(text) => {
            walk.expand(text, &here)?;
        }
        InstructionKind::Volume(words) => {
            for text in words {
                walk.expand(text, &here)?;
            }
        }
        InstructionKind::Shell(_) => walk.has_shell = true,
        InstructionKind::Cmd(command) => {
            let before = walk.cmd.replace(here.span);
            walk.command(command, before, &here);
        }
        InstructionKind::Entrypoint(command) => {
            let before = walk.entrypoint.replace(here.span);
            walk.command(command, before, &here);
        }
        InstructionKind::Healthcheck(_) => {
            let before = walk.healthcheck.replace(here.span);
            walk.once(before, &here);
        }
        InstructionKind::Maintainer(_) | InstructionKind::OnBuild(_) => {}
    }
    Ok(())
}

impl Walk<'_, '_> {
    fn warn(&mut self, rule: Rule, detail: String, here: &Here<'_>) {
        self.sink.warn(rule, here.span, here.own, detail);
    }

    fn expand(&mut self, text: &Text, here: &Here<'_>) -> Result<String, ParseError> {
        let span = text.span;
        self.expand_str(&text.value, span, here)
    }

    fn expand_str(
        &mut self,
        text: &str,
        span: Span,
        here: &Here<'_>,
    ) -> Result<String, ParseError> {
        let lookup = (self.budget.meter).count(|name: &str| self.scope.get(name).cloned());
        let result = word::expand(text, self.file.directives.escape, &lookup);
        self.note(result, span, here)
    }

    /// Warns of the names without a value.
    fn note(
        &mut self,
        result: Result<Expansion, WordError>,
        span: Span,
        here: &Here<'_>,
    ) -> Result<String, ParseError> {
        let unset = match &result {
            Ok(expanded) => &expanded.unset,
            Err(error) => &error.unset,
        };
        for name in unset {
            if self.scope.is_declared(name) || NO_VALUE.contains(&name.as_str()) {
                continue;
            }
            let detail = match self.budget.nearest(name, self.scope) {
                Some(near) => {
                    format!("Usage of undefined variable '${name}' (did you mean ${near}?)")
                }
                None => format!("Usage of undefined variable '${name}'"),
            };
            self.warn(Rule::UndefinedVar, detail, here);
        }
        let expanded = result.map_err(|e| at(&e, span))?;
        self.budget.spend(expanded.text.len(), span)?;
        Ok(expanded.text)
    }

    fn arg(
        &mut self,
        name: &str,
        default: Option<&Text>,
        here: &Here<'_>,
    ) -> Result<(), ParseError> {
        self.secret("ARG", name, here);
        let value = match (given(self.options.build_args, name), default) {
            (Some(value), _) => Some(value.to_owned()),
            (None, Some(default)) => Some(self.expand(default, here)?),
            (None, None) => self.globals.get(name).cloned(),
        };
        if let Some(value) = value.filter(|_| !NO_VALUE.contains(&name)) {
            self.budget.spend(value.len(), here.span)?;
            self.scope.set(name, value);
        }
        self.scope.declare(name);
        Ok(())
    }

    fn pairs(&mut self, name: &str, pairs: &KeyValues, here: &Here<'_>) -> Result<(), ParseError> {
        // All are expanded before the first one is set.
        let mut expanded = Vec::with_capacity(pairs.pairs.len());
        for (key, value) in &pairs.pairs {
            expanded.push((self.expand(key, here)?, self.expand(value, here)?));
        }
        for (key, value) in expanded {
            if pairs.legacy {
                let keyword = here.keyword;
                let detail = format!(
                    "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
                );
                self.warn(Rule::LegacyKeyValueFormat, detail, here);
            }
            if name == "ENV" {
                self.secret("ENV", &key, here);
                self.scope.set(&key, value);
            }
        }
        Ok(())
    }

    fn secret(&mut self, instruction: &str, name: &str, here: &Here<'_>) {
        let lower = name.to_lowercase();
        let has = |parts: &[&str]| lower.split('_').any(|part| parts.contains(&part));
        if has(&SECRET) && !has(&HARMLESS) {
            let detail = format!(
                "Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})"
            );
            self.warn(Rule::SecretsUsedInArgOrEnv, detail, here);
        }
    }

    fn copy(&mut self, verb: &str, copy: &Copy, here: &Here<'_>) -> Result<(), ParseError> {
        for text in [&copy.chown, &copy.chmod, &copy.checksum]
            .into_iter()
            .flatten()
            .chain(&copy.exclude)
        {
            self.expand(text, here)?;
        }
        for source in &copy.sources {
            match source {
                Source::Path(text) => {
                    let path = self.expand(text, here)?;
                    if copy.from.is_none() && !is_remote(&path) {
                        self.ignored(verb, &path, here);
                    }
                }
                Source::Heredoc(heredoc) if heredoc.expand => {
                    let lookup =
                        (self.budget.meter).count(|name: &str| self.scope.get(name).cloned());
                    let result = word::expand_body(&heredoc.body, &lookup);
                    self.note(result, heredoc.span, here)?;
                }
                Source::Heredoc(_) => {}
            }
        }
        self.expand(&copy.dest, here)?;
        Ok(())
    }

    fn ignored(&mut self, verb: &str, path: &str, here: &Here<'_>) {
        let Some(ignored) = self.options.ignored else {
            return;
        };
        let path = clean(path);
        if ignored(&path) {
            let detail =
                format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
            self.warn(Rule::CopyIgnoredFile, detail, here);
        }
    }

    fn mount(&mut self, text: &Text, here: &Here<'_>) -> Result<(), ParseError> {
        let mut expanded = Vec::new();
        {
            let scope = &*self.scope;
            let lookup = (self.budget.meter).count(|name: &str| scope.get(name).cloned());
            let results = std::cell::RefCell::new(&mut expanded);
            let escape = self.file.directives.escape;
            let parsed = mount::parse_with(&text.value, &|value| {
                let result = word::expand(value, escape, &lookup);
                let text = result.clone().map(|e| e.text);
                results.borrow_mut().push(result);
                text
            });
            if let Err(error) = parsed {
                let hint = error.hint().map(str::to_owned);
                return Err(ParseError::new(error.to_string(), text.span).hint_option(hint));
            }
        }
        for result in expanded {
            self.note(result, text.span, here)?;
        }
        Ok(())
    }

    fn expose(&mut self, words: &[Text], here: &Here<'_>) -> Result<(), ParseError> {
        for text in words {
            let lookup = (self.budget.meter).count(|name: &str| self.scope.get(name).cloned());
            let escape = self.file.directives.escape;
            let found =
                word::expand_words(&text.value, escape, &lookup).map_err(|e| at(&e, text.span))?;
            for port in found {
                self.budget.spend(port.len(), text.span)?;
                let parsed =
                    ports::parse(&port).map_err(|e| ParseError::new(e.to_string(), text.span))?;
                if parsed.odd_case {
                    let detail = format!(
                        "Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                    );
                    self.warn(Rule::ExposeProtoCasing, detail, here);
                }
                if parsed.has_host {
                    let detail = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                    );
                    self.warn(Rule::ExposeInvalidFormat, detail, here);
                }
            }
        }
        Ok(())
    }

    fn command(&mut self, command: &Command, before: Option<Span>, here: &Here<'_>) {
        self.once(before, here);
        if matches!(command, Command::Shell(_)) && !self.has_shell {
            let detail = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                here.keyword
            );
            self.warn(Rule::JSONArgsRecommended, detail, here);
        }
    }

    /// Warns of the instruction at `before`, which the one here undoes.
    fn once(&mut self, before: Option<Span>, here: &Here<'_>) {
        if let Some(span) = before {
            let detail = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                here.keyword
            );
            let rule = Rule::MultipleInstructionsDisallowed;
            self.sink.warn(rule, span, here.own, detail);
        }
    }
}

fn is_remote(path: &str) -> bool {
    let lower = path.to_lowercase();
    ["http://", "https://", "git://", "git@", "ssh://"]
        .iter()
        .any(|scheme| lower.starts_with(scheme))
}

/// `path` without `.`, `..` and empty components where they mean nothing.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let is_absolute = path.starts_with('/');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}
