//! `# check=skip=A,B;error=true;experimental=C`.

use super::super::directive;
use super::Rule;

/// Which rules run, and whether a warning fails the build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The rules that don't run, by name.
    pub skip: Vec<String>,
    /// Whether none runs.
    pub skip_all: bool,
    /// The experimental rules that run, by name.
    pub experimental: Vec<String>,
    /// Whether all experimental rules run.
    pub experimental_all: bool,
    /// Whether a warning is an error.
    pub error: bool,
}

impl Settings {
    /// Reads a directive's value.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        if text.trim().is_empty() {
            return Ok(settings);
        }
        for part in text.split(';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("the check option `{part}` has no value"));
            };
            let value = value.trim();
            match key.trim() {
                "skip" if value == "all" => settings.skip_all = true,
                "skip" => settings.skip = names(value),
                "experimental" if value == "all" => settings.experimental_all = true,
                "experimental" => settings.experimental = names(value),
                "error" => settings.error = boolean(value)?,
                key => {
                    return Err(format!(
                        "`{key}` is no check option; there are skip, error and experimental"
                    ));
                }
            }
        }
        Ok(settings)
    }

    /// Whether `rule` runs.
    pub fn runs(&self, rule: Rule) -> bool {
        let info = rule.info();
        let named = |names: &[String]| names.iter().any(|n| n == info.name);
        let wanted = !info.experimental || self.experimental_all || named(&self.experimental);
        wanted && !self.skip_all && !named(&self.skip)
    }

    /// The settings of a `check=` comment above an instruction, which add to
    /// the file's. One that is malformed is only a comment.
    pub(super) fn of_comments<'a>(comments: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let (_, value) = comments
            .into_iter()
            .filter_map(directive::in_comment)
            .find(|(name, _)| name.eq_ignore_ascii_case("check"))?;
        let first = value.split(' ').next().unwrap_or_default();
        Self::parse(first).ok()
    }

    /// Whether `rule` runs here and for an instruction with settings of its own.
    pub(super) fn runs_with(&self, own: Option<&Self>, rule: Rule) -> bool {
        let Some(own) = own else {
            return self.runs(rule);
        };
        let mut both = self.clone();
        both.skip.extend(own.skip.iter().cloned());
        both.skip_all |= own.skip_all;
        both.experimental.extend(own.experimental.iter().cloned());
        both.experimental_all |= own.experimental_all;
        both.runs(rule)
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(|n| n.trim().to_owned()).collect()
}

fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "the check option `error` is true or false, not `{value}`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let settings =
            Settings::parse("skip=FromAsCasing, UndefinedVar;error=true;experimental=all").unwrap();
        assert!(!settings.runs(Rule::FromAsCasing));
        assert!(!settings.runs(Rule::UndefinedVar));
        assert!(settings.runs(Rule::StageNameCasing));
        assert!(settings.runs(Rule::InvalidDefinitionDescription));
        assert!(settings.error);
        assert!(!Settings::default().runs(Rule::InvalidDefinitionDescription));
        assert!(
            !Settings::parse("skip=all")
                .unwrap()
                .runs(Rule::FromAsCasing)
        );
        for wrong in ["skip", "error=maybe", "other=1", "skip=all;"] {
            assert!(Settings::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn comments_add_to_the_file() {
        let own = Settings::of_comments(["a comment", "check=skip=UndefinedVar because"]);
        assert!(!Settings::default().runs_with(own.as_ref(), Rule::UndefinedVar));
        assert!(Settings::default().runs_with(own.as_ref(), Rule::FromAsCasing));
        assert_eq!(
            Settings::of_comments(["check this", "check=nonsense"]),
            None
        );
    }
}
