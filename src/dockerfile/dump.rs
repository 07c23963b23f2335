//! A file's instructions as a list of lists, one line each, for tests and for
//! looking inside: `(copy ["--chown=me"] "a" "b")`.
//!
//! It shows the first pass, so it also shows files whose instructions are
//! wrong in themselves.

use std::fmt::Write as _;

use super::args::{self, Args};
use super::error::ParseError;
use super::line::Logical;
use super::raw::{Raw, Reader};

/// Dumps `text`; the result ends in a newline.
///
/// # Errors
/// Where the first pass fails: too long lines, malformed pairs, lists of other
/// things than strings, heredocs without end, no instructions.
pub fn dump(text: &str) -> Result<String, ParseError> {
    let mut reader = Reader::new(text);
    let mut out = String::new();
    while let Some(raw) = reader.next()? {
        instruction(&mut out, &raw, &raw.line, reader.escape())?;
        out.push('\n');
    }
    Ok(out)
}

fn instruction(
    out: &mut String,
    raw: &Raw,
    line: &Logical,
    escape: char,
) -> Result<(), ParseError> {
    out.push('(');
    out.push_str(&raw.keyword.value.to_lowercase());
    for (i, flag) in raw.flags.iter().enumerate() {
        out.push_str(if i == 0 { " [" } else { " " });
        quote(out, &flag.value);
    }
    if !raw.flags.is_empty() {
        out.push(']');
    }
    arguments(out, raw, args::read(raw, line, escape)?, line, escape)?;
    out.push(')');
    Ok(())
}

fn arguments(
    out: &mut String,
    raw: &Raw,
    args: Args,
    line: &Logical,
    escape: char,
) -> Result<(), ParseError> {
    let mut word = |word: &str| {
        out.push(' ');
        quote(out, word);
    };
    match args {
        Args::Nothing => {}
        Args::Unknown => word(""),
        Args::Words(words) => words.iter().for_each(|w| word(&w.value)),
        Args::Exec(words) => words.iter().for_each(|w| word(w)),
        Args::Line(text) => word(&text.value),
        Args::Pairs { pairs, legacy } => {
            for (key, value) in &pairs {
                word(&key.value);
                word(&value.value);
                word(if legacy { "" } else { "=" });
            }
        }
        Args::Health { kind, command } => {
            word(&kind.value);
            arguments(out, raw, *command, line, escape)?;
        }
        Args::Trigger(inner) => {
            if !args::chain_is_bounded(raw) {
                return Err(ParseError::new("ONBUILD can't hold an ONBUILD", raw.span));
            }
            out.push(' ');
            instruction(out, &inner, line, escape)?;
        }
    }
    Ok(())
}

/// `text` in double quotes, with what can't be printed escaped.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        // Writing to a string can't fail.
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\u{7}' => write!(out, "\\a"),
            '\u{8}' => write!(out, "\\b"),
            '\u{c}' => write!(out, "\\f"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            '\u{b}' => write!(out, "\\v"),
            c if c < ' ' || c == '\u{7f}' => write!(out, "\\x{:02x}", u32::from(c)),
            c if is_printable(c) => write!(out, "{c}"),
            c if u32::from(c) < 0x10000 => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "\\U{:08x}", u32::from(c)),
        };
    }
    out.push('"');
}

fn is_printable(c: char) -> bool {
    if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() {
        return true;
    }
    !c.is_whitespace() && !c.is_control() && !c.escape_debug().eq(c.escape_unicode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_dumped() {
        let text = "from a AS b\nCOPY --chown=me -- [\"x y\", \"z\"]\nENV a=b c=\"d e\"\nLABEL a b c\n\
            RUN --mount=type=tmpfs,target=/t make \\\n  all\nHEALTHCHECK --retries=1 CMD [\"x\"]\n\
            ONBUILD RUN echo \"hi\"\nCMD []\nNOPE x\nONBUILD\n";
        let expected = "(from \"a\" \"AS\" \"b\")\n(copy [\"--chown=me\"] \"x y\" \"z\")\n\
            (env \"a\" \"b\" \"=\" \"c\" \"\\\"d e\\\"\" \"=\")\n(label \"a\" \"b c\" \"\")\n\
            (run [\"--mount=type=tmpfs,target=/t\"] \"make   all\")\n\
            (healthcheck [\"--retries=1\"] \"CMD\" \"x\")\n(onbuild (run \"echo \\\"hi\\\"\"))\n\
            (cmd)\n(nope \"\")\n(onbuild)\n";
        assert_eq!(dump(text).unwrap(), expected);
    }

    #[test]
    fn rows_of_onbuild_are_bounded() {
        assert!(dump(&"ONBUILD ".repeat(8000)).is_err());
    }

    #[test]
    fn what_cannot_be_printed_is_escaped() {
        let mut out = String::new();
        quote(&mut out, "é☃😀\u{0}\u{a0}\u{ad}\u{e000}\u{1b}\\");
        assert_eq!(out, "\"é☃😀\\x00\\u00a0\\u00ad\\ue000\\x1b\\\\\"");
    }
}
