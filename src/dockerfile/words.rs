//! How the text after a keyword splits into flags, words and pairs. Quotes
//! decide where a word ends; but for flags they stay in it.

use super::raw::Piece;

/// The blanks that separate words.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\u{b}' | '\u{c}')
}

/// Takes the flags off the front of `text`, which stands at `offset` of its
/// line. A `--` ends them. The rest comes without blanks around it.
pub(super) fn flags(text: &str, offset: usize) -> (Vec<Piece>, Piece) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let word = rest.trim_start();
        at = text.len() - word.len();
        if !word.starts_with("--") {
            break;
        }
        let (value, length) = unquoted_word(word);
        if value == "--" {
            at += length;
            break;
        }
        flags.push(Piece {
            value,
            start: offset + at,
            end: offset + at + length,
        });
        at += length;
    }
    let rest = text.get(at..).unwrap_or_default();
    (flags, trimmed(rest, offset + at))
}

/// `text`, which stands at `offset`, without blanks around it.
pub(super) fn trimmed(text: &str, offset: usize) -> Piece {
    let rest = text.trim_start();
    let start = offset + (text.len() - rest.len());
    let rest = rest.trim_end();
    Piece {
        value: rest.to_owned(),
        start,
        end: start + rest.len(),
    }
}

/// The first word of `text` without its quotes and escapes, and how long it
/// is in the text.
fn unquoted_word(text: &str) -> (String, usize) {
    let mut value = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (value, i),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ if c == '\\' => {
                if let Some((_, next)) = chars.next() {
                    value.push(next);
                }
            }
            _ => value.push(c),
        }
    }
    (value, text.len())
}

/// The words between blanks; quotes mean nothing.
pub(super) fn split(text: &Piece) -> Vec<Piece> {
    let mut words = Vec::new();
    let mut rest = text.value.as_str();
    loop {
        let word = rest.trim_start_matches(is_blank);
        if word.is_empty() {
            return words;
        }
        let length = word.find(is_blank).unwrap_or(word.len());
        let start = text.start + (text.value.len() - word.len());
        words.push(Piece {
            value: word[..length].to_owned(),
            start,
            end: start + length,
        });
        rest = &word[length..];
    }
}

/// The words of ENV, LABEL and ARG: blanks in quotes or behind an escape
/// belong to a word, and quotes and escapes stay in it.
pub(super) fn quoted(text: &Piece, escape: char) -> Vec<Piece> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = text.value.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if let Some(start) = start.take() {
                words.push(Piece {
                    value: std::mem::take(&mut word),
                    start: text.start + start,
                    end: text.start + i,
                });
            }
            continue;
        }
        let from = *start.get_or_insert(i);
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            let Some((_, next)) = chars.next() else {
                // Nothing follows it, so it escapes nothing and is dropped; a
                // word of nothing else is none.
                start = (!word.is_empty()).then_some(from);
                break;
            };
            word.push(c);
            word.push(next);
            continue;
        }
        word.push(c);
    }
    if let Some(start) = start {
        words.push(Piece {
            value: word,
            start: text.start + start,
            end: text.start + text.value.len(),
        });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str) -> Piece {
        Piece {
            value: text.to_owned(),
            start: 0,
            end: text.len(),
        }
    }

    fn values(words: &[Piece]) -> Vec<&str> {
        words.iter().map(|w| w.value.as_str()).collect()
    }

    #[test]
    fn flags_come_off_the_front() {
        for (text, expected, rest) in [
            (" --a=1 --b x --c", vec!["--a=1", "--b"], "x --c"),
            (" --a -- --b", vec!["--a"], "--b"),
            (" --a=\"b c\"\\ d e", vec!["--a=b c d"], "e"),
            (" -a b ", vec![], "-a b"),
            ("", vec![], ""),
            (" --é=ü", vec!["--é=ü"], ""),
            (" --a=\"b", vec!["--a=b"], ""),
        ] {
            let (flags, args) = flags(text, 0);
            assert_eq!(values(&flags), expected, "{text}");
            assert_eq!(args.value, rest, "{text}");
            assert_eq!(&text[args.start..args.end], rest, "{text}");
        }
    }

    #[test]
    fn quoted_words_keep_their_quotes() {
        for (text, expected) in [
            ("a=b  c", vec!["a=b", "c"]),
            ("a=\"b c\" d", vec!["a=\"b c\"", "d"]),
            ("a='b\\' c'", vec!["a='b\\'", "c'"]),
            ("a=b\\ c", vec!["a=b\\ c"]),
            ("a=\"b\\\"c d\"", vec!["a=\"b\\\"c d\""]),
            ("a \\", vec!["a"]),
            ("a\\", vec!["a"]),
            ("\"\" a", vec!["\"\"", "a"]),
        ] {
            assert_eq!(values(&quoted(&piece(text), '\\')), expected, "{text}");
        }
    }

    #[test]
    fn plain_words() {
        assert_eq!(
            values(&split(&piece("a  \"b c\"\td"))),
            ["a", "\"b", "c\"", "d"]
        );
    }
}
