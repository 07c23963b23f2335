//! Texts: paths, commands, and how the history has a RUN.

use std::fmt::Write as _;

use super::error_at;
use crate::dockerfile::ast::{Command, Run, Text};
use crate::dockerfile::span::Span;
use crate::graph::scope::Vars;
use crate::graph::step::RunNetwork;
use crate::graph::{MARKER, PlanError, config};

/// `path` on top of the absolute `base`, without `.`, `..` and `//`.
pub(super) fn join_clean(base: &str, path: &str) -> String {
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
pub(super) fn is_url(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"]
        .iter()
        .any(|p| text.starts_with(p))
}

/// `text` with `xxxxx` in place of the users and passwords of the URLs in it.
pub(super) fn redacted(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| matches!(c, '/' | '?' | '#') || c.is_whitespace());
        let host = &after[..end.unwrap_or(after.len())];
        rest = after;
        if let Some((user, _)) = host.rsplit_once('@') {
            // A user alone is no secret to ssh.
            if user.contains(':') || before.starts_with("http") || before.contains(" http") {
                out.push_str("xxxxx:xxxxx");
                rest = &after[user.len()..];
            }
        }
    }
    out.push_str(rest);
    out
}

pub(super) fn run_network(text: &Text, span: Span) -> Result<RunNetwork, PlanError> {
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
pub(super) fn run_words(
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
pub(super) fn run_history(
    args: &Vars,
    lookup: &dyn Fn(&str) -> Option<String>,
    words: &[String],
) -> String {
    let mut text = "RUN".to_owned();
    let known: Vec<(&str, Option<&str>)> = args.iter().collect();
    if !known.is_empty() {
        let _ = write!(text, " |{}", known.len());
        for (name, _) in known {
            let value = lookup(name).unwrap_or_default();
            let _ = write!(text, " {name}={value}");
        }
    }
    let _ = write!(text, " {} # {MARKER}", words.join(" "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_cleaned() {
        for (base, path, joined) in [
            ("", "a", "/a"),
            ("/", "a/../b/./c/", "/b/c"),
            ("/a", "../../..", "/"),
            ("/a", "/b//c", "/b/c"),
        ] {
            assert_eq!(join_clean(base, path), joined, "{base:?} {path:?}");
        }
    }

    #[test]
    fn one_heredoc_alone_is_a_script() {
        for (line, alone) in [
            ("<<EOF", true),
            (" 3<<-'E O F' ", true),
            ("cat <<EOF", false),
            ("<<EOF cat", false),
            ("<<A <<B", false),
            ("<<", false),
        ] {
            assert_eq!(is_heredoc_word(line), alone, "{line:?}");
        }
    }

    #[test]
    fn credentials_are_hidden() {
        for (text, shown) in [
            ("ADD https://u:p@h/x /d", "ADD https://xxxxx:xxxxx@h/x /d"),
            ("ADD http://t@h/x /d", "ADD http://xxxxx:xxxxx@h/x /d"),
            ("ssh://git@h/x", "ssh://git@h/x"),
            (
                "ssh://git:p@h/x https://h/a@b",
                "ssh://xxxxx:xxxxx@h/x https://h/a@b",
            ),
            ("a://", "a://"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }
}
