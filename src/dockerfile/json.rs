//! The JSON lists of exec forms.
//!
//! Only as much JSON as is needed to tell three cases apart: a list of
//! strings, a list of other things (an error), and text that is no JSON list
//! (the shell form). Nesting is counted, never recursed into.

/// What the text after an instruction is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum List {
    /// `["a", "b"]`
    Strings(Vec<String>),
    /// A JSON list with something else in it.
    Other,
    /// No JSON list.
    None,
}

/// Reads `text`, which must be a JSON list from its first to its last
/// character.
pub(super) fn list(text: &str) -> List {
    if !text.starts_with('[') {
        return List::None;
    }
    let mut reader = Reader {
        text,
        at: 0,
        strings: Vec::new(),
        only_strings: true,
    };
    match reader.document() {
        None => List::None,
        Some(()) if reader.only_strings => List::Strings(reader.strings),
        Some(()) => List::Other,
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    strings: Vec<String>,
    only_strings: bool,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A whole list; `None` where it is malformed.
    fn document(&mut self) -> Option<()> {
        // Each open bracket or brace by its closing byte.
        let mut open = Vec::new();
        loop {
            // A value is due here.
            self.blanks();
            match self.peek()? {
                b'[' => {
                    self.at += 1;
                    self.only_strings &= open.is_empty();
                    open.push(b']');
                    self.blanks();
                    if self.peek() != Some(b']') {
                        continue;
                    }
                }
                b'{' => {
                    self.at += 1;
                    self.only_strings = false;
                    open.push(b'}');
                    self.blanks();
                    if self.peek() != Some(b'}') {
                        self.key()?;
                        continue;
                    }
                }
                b'"' => {
                    let value = self.string()?;
                    if self.only_strings {
                        self.strings.push(value);
                    }
                }
                _ => {
                    self.only_strings = false;
                    self.scalar()?;
                }
            }
            // A comma or closing bytes are due here.
            loop {
                self.blanks();
                let Some(close) = open.last() else {
                    return (self.at == self.text.len()).then_some(());
                };
                if self.eat(*close) {
                    open.pop();
                } else if self.eat(b',') {
                    if *close == b'}' {
                        self.blanks();
                        self.key()?;
                    }
                    break;
                } else {
                    return None;
                }
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.blanks();
        self.eat(b':').then_some(())
    }

    fn scalar(&mut self) -> Option<()> {
        for word in ["null", "true", "false"] {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Some(());
            }
        }
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn string(&mut self) -> Option<String> {
        if !self.eat(b'"') {
            return None;
        }
        let mut value = String::new();
        loop {
            let rest = self.rest();
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            value.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(value);
                }
                b'\\' => {
                    self.at += 1;
                    value.push(self.escaped()?);
                }
                _ => return None,
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.at += 1;
        Some(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return None,
        })
    }

    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        if !(0xd800..0xdc00).contains(&first) {
            return Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        // A surrogate without its other half becomes the replacement character.
        let before = self.at;
        if self.rest().starts_with("\\u") {
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return char::from_u32(code);
            }
            self.at = before;
        }
        Some(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> List {
        List::Strings(words.iter().map(|w| (*w).to_owned()).collect())
    }

    #[test]
    fn lists() {
        for (text, expected) in [
            ("[]", strings(&[])),
            ("[ ]", strings(&[])),
            ("[\"a\" , \"b\"]", strings(&["a", "b"])),
            (r#"["\u00e9\ud83d\ude00\ud83d"]"#, strings(&["é😀\u{fffd}"])),
            (
                r#"["\"\\\/\b\f\n\r\t"]"#,
                strings(&["\"\\/\u{8}\u{c}\n\r\t"]),
            ),
            ("[1]", List::Other),
            ("[\"a\", [\"b\"]]", List::Other),
            ("[null, {\"a\": [-0.5e+3, true]}]", List::Other),
            ("['a']", List::None),
            ("[\"a\",]", List::None),
            ("[\"a\"", List::None),
            ("[\"a\"] x", List::None),
            ("[\"a\tb\"]", List::None),
            ("[\"\\x\"]", List::None),
            ("[01]", List::None),
            ("[\"\\u12é\"]", List::None),
            ("{}", List::None),
            ("", List::None),
        ] {
            assert_eq!(list(text), expected, "{text}");
        }
        assert_eq!(list(&"[".repeat(1 << 20)), List::None);
    }
}
