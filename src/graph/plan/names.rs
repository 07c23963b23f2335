//! What the names in FROM and `--from` lead to.

use super::{Base, Planner, error_at};
use crate::dockerfile::ast::Stage;
use crate::dockerfile::span::Span;
use crate::dockerfile::suggest;
use crate::graph::{BaseRequest, NamedContext, PlanError, stage};
use crate::platform::Platform;
use crate::reference::Reference;

impl Planner<'_> {
    /// A named context or an image.
    pub(super) fn named(
        &self,
        name: &str,
        platform: Platform,
        span: Span,
    ) -> Result<Base, PlanError> {
        match self.context(name, &platform) {
            Some((_, NamedContext::Image(image))) if image == "docker-image://scratch" => {
                Ok(Base::Scratch)
            }
            Some((_, NamedContext::Image(name))) => Ok(Base::Image(BaseRequest {
                name: name.clone(),
                platform,
            })),
            Some((name, NamedContext::Tree)) => Ok(Base::Context(name.to_owned())),
            None => {
                Reference::parse(name).map_err(|e| PlanError {
                    hint: suggest::stage(self.file, name),
                    ..error_at(e.to_string(), span)
                })?;
                Ok(Base::Image(BaseRequest {
                    name: name.to_owned(),
                    platform,
                }))
            }
        }
    }

    /// The named context that stands for `name`: the one for the platform,
    /// `name::os/arch`, else the one for all.
    pub(super) fn context(&self, name: &str, platform: &Platform) -> Option<(&str, &NamedContext)> {
        let contexts = &self.options.contexts;
        if contexts.is_empty() {
            return None;
        }
        let known = |key: &str| contexts.get_key_value(key).map(|(n, c)| (n.as_str(), c));
        let familiar = Reference::parse(name).ok().map(|r| r.familiar());
        let suffix = format!("::{platform}");
        let same = |n: &str| {
            familiar.is_some() && Reference::parse(n).ok().map(|r| r.familiar()) == familiar
        };
        known(&format!("{name}{suffix}"))
            .or_else(|| {
                let mut own = contexts.iter();
                own.find(|(n, _)| n.strip_suffix(&suffix).is_some_and(same))
                    .map(|(n, c)| (n.as_str(), c))
            })
            .or_else(|| known(name))
            .or_else(|| {
                let mut all = contexts.iter();
                all.find(|(n, _)| same(n)).map(|(n, c)| (n.as_str(), c))
            })
    }

    /// What a `--from=` of stage `index` leads to.
    pub(super) fn from(
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
        if let Some(earlier) = self.names.by_name_or_number(text, index) {
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
        let lower = text.to_ascii_lowercase();
        let is_named = |s: &Stage| stage::name_of(s).as_deref() == Some(lower.as_str());
        if is_named(&self.file.stages[index]) {
            return Err(PlanError {
                message: format!("the stage {text:?} can't take files from itself"),
                span: Some(span),
                hint: Some(
                    "an image of that name can be had through another stage: FROM image AS other"
                        .into(),
                ),
            });
        }
        if self.file.stages.iter().skip(index).any(is_named) {
            return Err(PlanError {
                message: format!("the stage {text:?} comes after this one"),
                span: Some(span),
                hint: Some("move that stage up, before the FROM of this one".into()),
            });
        }
        self.named(text, platform, span)
    }
}
