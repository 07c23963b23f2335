//! Which paths are wanted.

use shiplap::context::ignore::Ignore;

/// Text that a path has in it, or a pattern.
#[derive(Debug, Clone)]
pub(crate) enum Filter {
    /// Anywhere in the path; capitals count only if the text has some.
    Text { text: Vec<u8>, exact: bool },
    /// With `*`, `?`, `[…]` and `**`: of the whole path, or of a name where it
    /// has no slash. What is below a directory that matches is wanted too.
    Pattern(Ignore),
}

impl Filter {
    /// What was typed; `None` where that is nothing. A pattern that is not
    /// finished is taken as text.
    pub(crate) fn parse(typed: &str) -> Option<Self> {
        if typed.is_empty() {
            return None;
        }
        if typed.contains(['*', '?', '[']) {
            let body = typed.trim_start_matches('/');
            let pattern = match typed.contains('/') {
                true => body.to_owned(),
                false => format!("**/{body}"),
            };
            if !pattern.starts_with('!')
                && let Ok(pattern) = Ignore::from_patterns([pattern])
            {
                return Some(Self::Pattern(pattern));
            }
        }
        let exact = typed.chars().any(char::is_uppercase);
        Some(Self::Text {
            text: typed.trim_start_matches('/').as_bytes().to_vec(),
            exact,
        })
    }

    /// Whether a path (relative) is wanted.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Text { text, .. } if text.is_empty() => true,
            Self::Text { text, exact: true } => path.windows(text.len()).any(|w| w == text),
            Self::Text { text, exact: false } => path
                .windows(text.len())
                .any(|w| w.eq_ignore_ascii_case(text)),
            Self::Pattern(pattern) => pattern.ignored_bytes(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_patterns() {
        for (typed, path, wanted) in [
            ("lib", "usr/lib/x", true),
            ("LIB", "usr/lib/x", false),
            ("readme", "doc/README.md", true),
            ("/usr/l", "usr/lib", true),
            ("*.py", "a/b/c.py", true),
            ("*.py", "a/b/c.pyc", false),
            ("usr/*.py", "usr/c.py", true),
            ("usr/*.py", "usr/a/c.py", false),
            ("usr/**/*.py", "usr/a/b/c.py", true),
            ("/usr/li?", "usr/lib/below", true),
            ("[", "a[b", true),
            ("!*", "a/!b", true),
        ] {
            let filter = Filter::parse(typed).unwrap();
            assert_eq!(filter.matches(path.as_bytes()), wanted, "{typed} {path}");
        }
        assert!(Filter::parse("").is_none());
    }
}
