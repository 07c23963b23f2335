//! A syntax tree as text again: comments and instructions as they were
//! written, one line each where it is short enough, and the parser reads the
//! same tree from it.

use std::fmt::Write as _;

use super::ast::{Dockerfile, Heredoc, Instruction, InstructionKind, Source};
use super::line::{MAX_LINE, continued};

/// Lines are broken before they are this long, so that the escape character
/// still fits.
const BREAK: usize = MAX_LINE - 8;

/// Prints `file`. What is printed parses to the same tree but for its spans;
/// of empty lines among continuations nothing is left.
pub fn print(file: &Dockerfile) -> String {
    let escape = file.directives.escape;
    let mut out = String::new();
    if let Some(syntax) = &file.directives.syntax {
        directive(&mut out, "syntax", &syntax.value);
    }
    if escape != '\\' {
        directive(&mut out, "escape", &escape.to_string());
    }
    if let Some(check) = &file.directives.check {
        directive(&mut out, "check", &check.value);
    }
    // Else a comment in a directive's form would be one.
    out.push('\n');
    for arg in &file.global_args {
        instruction(&mut out, arg, escape);
    }
    for stage in &file.stages {
        let lines = stage.comments.iter().map(String::as_str);
        comments(&mut out, lines, stage.comments_adjacent);
        line(&mut out, &stage.keyword.value, &stage.rest, escape);
        for inner in &stage.instructions {
            instruction(&mut out, inner, escape);
        }
    }
    out
}

/// Whether two trees differ in nothing but their spans.
pub fn same_but_spans(a: &Dockerfile, b: &Dockerfile) -> bool {
    without_spans(a) == without_spans(b)
}

fn without_spans(file: &Dockerfile) -> String {
    const START: &str = "Span { start: ";
    let parts = (&file.directives, &file.global_args, &file.stages);
    let text = format!("{parts:?}");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(START) {
        out.push_str(&rest[..at]);
        rest = &rest[at + START.len()..];
        rest = rest.find('}').map_or("", |end| &rest[end..]);
    }
    out.push_str(rest);
    out
}

fn directive(out: &mut String, name: &str, value: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(out, "# {name}={value}");
}

fn comments<'a>(out: &mut String, lines: impl Iterator<Item = &'a str>, adjacent: bool) {
    let mut any = false;
    for line in lines {
        let _ = writeln!(out, "# {line}");
        any = true;
    }
    if any && !adjacent {
        out.push('\n');
    }
}

fn instruction(out: &mut String, instruction: &Instruction, escape: char) {
    let doc = instruction.doc.iter().flat_map(|d| d.split('\n'));
    comments(out, doc, instruction.doc_adjacent);
    line(out, &instruction.keyword.value, &instruction.rest, escape);
    for heredoc in heredocs(&instruction.kind) {
        out.push_str(&heredoc.raw);
        out.push_str(&heredoc.name);
        out.push('\n');
    }
}

fn heredocs(kind: &InstructionKind) -> Vec<&Heredoc> {
    match kind {
        InstructionKind::Run(run) => run.heredocs.iter().collect(),
        InstructionKind::Add(copy) | InstructionKind::Copy(copy) => copy
            .sources
            .iter()
            .filter_map(|source| match source {
                Source::Heredoc(heredoc) => Some(heredoc),
                Source::Path(_) => None,
            })
            .collect(),
        InstructionKind::OnBuild(trigger) => heredocs(&trigger.instruction.kind),
        _ => Vec::new(),
    }
}

fn line(out: &mut String, keyword: &str, rest: &str, escape: char) {
    let start = out.len();
    out.push_str(keyword);
    if !rest.is_empty() {
        out.push(' ');
        out.push_str(rest);
    }
    let text = out.split_off(start);
    let mut left = text.as_str();
    while left.len() > BREAK {
        let Some(at) = break_before(left, escape) else {
            break;
        };
        out.push_str(&left[..at]);
        out.push(escape);
        out.push('\n');
        left = &left[at..];
    }
    out.push_str(left);
    if continued(left, escape).is_some() {
        // A form feed is a blank that doesn't let the line go on.
        out.push('\u{c}');
    }
    out.push('\n');
}

/// The last place below [`BREAK`] at which a line can go on in the next one:
/// not behind an escape character, and not where the next line would look
/// empty or like a comment.
fn break_before(text: &str, escape: char) -> Option<usize> {
    let mut before = None;
    let mut best = None;
    for (i, c) in text.char_indices() {
        if i > BREAK {
            break;
        }
        let fits = !c.is_whitespace() && c != '#' && i > 0;
        if fits && before != Some(escape) {
            best = Some(i);
        }
        before = Some(c);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn what_is_printed_parses_to_the_same() {
        let part = "ab ".repeat(20_000);
        let long = format!("FROM a\nRUN {part}\\\ny#{part}\\\n x\n");
        for text in [
            "# syntax=x\n# escape=`\n# check=skip=all\nFROM a\nRUN a`\n  b\n",
            "\n# escape=`\nFROM a\n",
            "FROM scratch\n",
            "ARG a=1 b\n# x y\n\nFROM --platform=$a b AS c\n# d\n#\n# e\nRUN x\n",
            "FROM a\r\nRUN x \\\r\n\r\n# c\r\n y\r\n",
            "FROM a\nRUN <<A <<-'B' cat\n$x\nA\n\ty\n\tB\nCOPY <<-X <<Y /z/\n\ta\n\tX\nY\n",
            "FROM a\nONBUILD RUN <<A\nx\nA\nONBUILD COPY --link a b\n",
            "FROM a\nRUN x\\\u{c}\nRUN y \\\\\nRUN z \\",
            "FROM a\nENV a=\"b c\" d=e\\ f\nLABEL a  b  c\nCMD [\"x\" , \"y\"]\nHEALTHCHECK --retries=3 CMD x\n",
            long.as_str(),
        ] {
            let tree = parse(text).unwrap();
            let printed = print(&tree);
            let again = parse(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"));
            assert!(same_but_spans(&tree, &again), "{text}\n{printed}");
            assert_eq!(print(&again), printed);
        }
    }
}
