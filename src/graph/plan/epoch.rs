//! Where the time for everything comes from.
//!
//! `SOURCE_DATE_EPOCH` is a number, or it names what has a time of its own:
//! the build context, a named context, or a stage that is nothing but one
//! remote ADD.

use super::text::is_url;
use super::{build_arg, error_at, expand, expand_globals, global_args};
use crate::dockerfile::ast::{Dockerfile, InstructionKind, Source};
use crate::dockerfile::span::Span;
use crate::dockerfile::word::Meter;
use crate::graph::scope::Vars;
use crate::graph::{PlanError, PlanOptions, stage};

/// The argument's name.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What gives the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpochSource {
    /// Seconds since 1970.
    Seconds(i64),
    /// The build context.
    Context,
    /// A named context.
    Named(String),
    /// A remote file or a repository that a stage adds.
    Remote {
        /// Its URL.
        url: String,
        /// `--checksum=`, expanded.
        checksum: Option<String>,
        /// Where it stands.
        span: Span,
    },
}

/// What `SOURCE_DATE_EPOCH` means, from the build arguments or from an ARG
/// before the first FROM; `None` where it is not given or empty.
///
/// # Errors
/// When it is neither a number nor the name of anything with a time.
pub fn epoch_source(
    file: &Dockerfile,
    options: &PlanOptions,
) -> Result<Option<EpochSource>, PlanError> {
    let globals = global_args(file, options, &Meter::default())?;
    source(file, &globals, options)
}

pub(super) fn source(
    file: &Dockerfile,
    globals: &Vars,
    options: &PlanOptions,
) -> Result<Option<EpochSource>, PlanError> {
    let given = build_arg(options, SOURCE_DATE_EPOCH);
    let value = given.or_else(|| globals.get(SOURCE_DATE_EPOCH));
    let Some(value) = value.filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    if let Ok(seconds) = value.parse() {
        return Ok(Some(EpochSource::Seconds(seconds)));
    }
    if value == "context" {
        return Ok(Some(EpochSource::Context));
    }
    if options.contexts.contains_key(value) {
        return Ok(Some(EpochSource::Named(value.to_owned())));
    }
    let wanted = value.to_ascii_lowercase();
    let found = file
        .stages
        .iter()
        .position(|s| stage::name_of(s).as_deref() == Some(wanted.as_str()));
    if let Some(index) = found {
        return of_stage(file, index, globals, options).map(Some);
    }
    let is_name = |name: &str| name == SOURCE_DATE_EPOCH;
    let declared = file.global_args.iter().find(
        |i| matches!(&i.kind, InstructionKind::Arg(d) if d.iter().any(|d| is_name(&d.name.value))),
    );
    Err(PlanError {
        message: format!("invalid {SOURCE_DATE_EPOCH}: {value}"),
        span: declared.filter(|_| given.is_none()).map(|i| i.span),
        hint: Some(
            "it is a number of seconds since 1970, `context`, or the name of a context or a stage"
                .into(),
        ),
    })
}

/// The one thing that the stage adds.
fn of_stage(
    file: &Dockerfile,
    index: usize,
    globals: &Vars,
    options: &PlanOptions,
) -> Result<EpochSource, PlanError> {
    let here = &file.stages[index];
    let fail = |message: &str, span: Span| {
        let mut error = error_at(format!("{SOURCE_DATE_EPOCH} stage {message}"), span);
        error.hint =
            Some("its time is that of the one remote file or repository that it adds".into());
        error
    };
    let meter = Meter::default();
    let mut vars = globals.clone();
    vars.set(SOURCE_DATE_EPOCH, None);
    let escape = file.directives.escape;
    if expand_globals(&here.base, escape, &vars, &meter)? != "scratch" {
        return Err(fail("must use FROM scratch", here.span));
    }
    let mut found = None;
    for instruction in &here.instructions {
        let lookup = meter.count(|n: &str| vars.get(n).map(str::to_owned));
        match &instruction.kind {
            InstructionKind::Arg(decls) => {
                for decl in decls {
                    let name = &decl.name.value;
                    let value = match (build_arg(options, name), &decl.default) {
                        (Some(value), _) => value.to_owned(),
                        (None, Some(default)) => expand_globals(default, escape, &vars, &meter)?,
                        (None, None) => continue,
                    };
                    vars.set(name, Some(value));
                }
            }
            InstructionKind::Add(add) if found.is_none() => {
                let [Source::Path(text)] = add.sources.as_slice() else {
                    return Err(fail(
                        "must contain exactly one remote ADD source",
                        instruction.span,
                    ));
                };
                let url = expand(text, escape, &lookup)?;
                if !is_url(&url) {
                    return Err(fail(
                        "source must be a single HTTP(S) or Git ADD",
                        text.span,
                    ));
                }
                let checksum = add.checksum.as_ref();
                let checksum = checksum.map(|t| expand(t, escape, &lookup)).transpose()?;
                found = Some(EpochSource::Remote {
                    url,
                    checksum,
                    span: text.span,
                });
            }
            InstructionKind::Add(_) => {
                return Err(fail(
                    "must contain exactly one remote ADD",
                    instruction.span,
                ));
            }
            other => {
                let message = format!(
                    "does not meet source-only requirements: unsupported {} instruction",
                    other.name()
                );
                return Err(fail(&message, instruction.span));
            }
        }
    }
    found.ok_or_else(|| fail("must contain exactly one remote ADD", here.span))
}
