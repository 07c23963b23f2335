//! Makes foreign text safe to print.
//!
//! Names, messages and values may come from a Dockerfile, a registry or an
//! image, and may hold sequences that move the cursor, change the window's
//! title or write to the clipboard. [`text`] makes every such character
//! visible. Output of build steps is for reading as it is: [`log`] only takes
//! out what would disturb the terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// `text` on one line with every control character and every character that
/// turns the direction of writing written as an escape.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if is_dangerous(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Like [`text`], but line ends stay.
pub(crate) fn lines(text: &str) -> String {
    let escaped: Vec<_> = text.lines().map(self::text).collect();
    escaped.join("\n")
}

/// Control characters, line and paragraph separators, and the marks that
/// reorder what stands around them.
pub(crate) fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}'
        )
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What to keep of a line of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Colours (`ESC [ … m`) and text.
    Colors,
    /// Text only.
    Text,
}

/// A line of a step's output as it may be written to a terminal: sequences
/// other than colours are dropped, tabs become spaces, and of text that was
/// overwritten by means of a carriage return the last version stays.
pub(crate) fn log(line: &[u8], keep: Keep) -> String {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches('\r');
    let line = line.rsplit_once('\r').map_or(line, |(_, last)| last);
    let mut out = String::with_capacity(line.len());
    let mut column = 0_usize;
    let mut colored = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' | '\u{9b}' | '\u{9d}' | '\u{90}' | '\u{98}' | '\u{9e}' | '\u{9f}' => {
                let sequence = Sequence::read(c, &mut chars);
                if let Sequence::Color(parameters) = sequence
                    && keep == Keep::Colors
                {
                    let _ = write!(out, "\x1b[{parameters}m");
                    colored = true;
                }
            }
            '\t' => {
                let spaces = 8 - column % 8;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            c if is_dangerous(c) => {}
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    if colored {
        out.push_str("\x1b[0m");
    }
    out
}

/// A control sequence of a terminal (ECMA-48).
enum Sequence {
    /// "Select graphic rendition" with its parameters.
    Color(String),
    /// Any other.
    Other,
}

impl Sequence {
    /// Reads the rest of the sequence that `first` begins.
    fn read(first: char, chars: &mut std::str::Chars<'_>) -> Self {
        let kind = match first {
            '\u{9b}' => '[',
            '\x1b' => match chars.next() {
                Some(c) => c,
                None => return Self::Other,
            },
            _ => ']',
        };
        match kind {
            '[' => {
                let mut parameters = String::new();
                for c in chars.by_ref() {
                    match c {
                        'm' => return Self::Color(parameters),
                        '0'..='9' | ';' | ':' if parameters.len() < 64 => parameters.push(c),
                        // A final byte ends it; anything that has no place in
                        // a sequence ends it too.
                        '\x20'..='\x3f' => {}
                        _ => break,
                    }
                }
            }
            // Strings for the terminal: they end at BEL or at ST.
            ']' | 'P' | 'X' | '^' | '_' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\x07' | '\u{9c}' => break,
                        '\x1b' => {
                            chars.next();
                            break;
                        }
                        _ => {}
                    }
                }
            }
            // Intermediate bytes, then one final byte.
            '\x20'..='\x2f' => {
                for c in chars.by_ref() {
                    if !matches!(c, '\x20'..='\x2f') {
                        break;
                    }
                }
            }
            _ => {}
        }
        Self::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_control_characters_visible() {
        for (raw, shown) in [
            ("plain ünïcode", "plain ünïcode"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\x7f"),
            ("a\u{202e}txt.exe", "a\\u{202e}txt.exe"),
        ] {
            assert_eq!(text(raw), shown);
        }
        assert_eq!(lines("a\x1b\nb\r"), "a\\x1b\nb\\r");
    }

    #[test]
    fn log_lines_lose_what_moves_the_cursor() {
        for (raw, text, colors) in [
            ("ok", "ok", "ok"),
            ("\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m\x1b[0m"),
            ("a\x1b[2Jb\x1b[10;20Hc", "abc", "abc"),
            ("\x1b]0;title\x07x", "x", "x"),
            ("\x1b]52;c;aGk=\x1b\\x", "x", "x"),
            ("\x1bPq\x1b\\x\x1bcy\x1b(Bz", "xyz", "xyz"),
            ("10%\r50%\r100%\r", "100%", "100%"),
            ("a\tb", "a       b", "a       b"),
            ("a\x08\x07b\u{9b}1mc", "abc", "ab\x1b[1mc\x1b[0m"),
            ("\x1b", "", ""),
            ("\x1b[", "", ""),
        ] {
            assert_eq!(log(raw.as_bytes(), Keep::Text), text, "{raw:?}");
            assert_eq!(log(raw.as_bytes(), Keep::Colors), colors, "{raw:?}");
        }
        assert_eq!(log(b"\xff\xfe", Keep::Text), "\u{fffd}\u{fffd}");
    }
}
