//! Word expansion once more, over vectors of marked characters and without
//! any concern for speed.

/// A character and whether it stood in quotes or behind an escape.
type Marked = (char, bool);

/// What a word becomes.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The text, and the words where the model knows how it splits.
    Text(String, Option<Vec<String>>),
    /// It is refused.
    Refused,
}

struct Model<'a> {
    text: Vec<char>,
    at: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// `${a:-b}` was met: how words come out of it is not modelled.
    nested: bool,
}

/// Why the model gives up.
enum Stop {
    Refused,
    /// Something that is not modelled.
    Unknown,
}

/// Expands `text`; `None` where the model does not know.
pub fn expand(
    text: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Option<Outcome> {
    if text.matches("${").count() > 20 {
        return None;
    }
    let mut model = Model {
        text: text.chars().collect(),
        at: 0,
        escape,
        lookup,
        nested: false,
    };
    match model.run(false) {
        Ok(marked) => {
            let words = (!model.nested).then(|| words(&marked));
            Some(Outcome::Text(plain(&marked), words))
        }
        Err(Stop::Refused) => Some(Outcome::Refused),
        Err(Stop::Unknown) => None,
    }
}

fn plain(marked: &[Marked]) -> String {
    marked.iter().map(|(c, _)| c).collect()
}

fn words(marked: &[Marked]) -> Vec<String> {
    marked
        .split(|(c, quoted)| c.is_whitespace() && !quoted)
        .filter(|word| !word.is_empty())
        .map(plain)
        .collect()
}

fn name_char(c: char) -> bool {
    c == '_' || c.is_alphabetic() || c.is_numeric()
}

impl Model<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.text.get(self.at).copied();
        self.at += usize::from(c.is_some());
        c
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    /// Up to the end, or over the `}` that closes.
    fn run(&mut self, inner: bool) -> Result<Vec<Marked>, Stop> {
        let mut out = Vec::new();
        while let Some(c) = self.take() {
            match c {
                '}' if inner => return Ok(out),
                '\'' => loop {
                    match self.take().ok_or(Stop::Refused)? {
                        '\'' => break,
                        c => out.push((c, true)),
                    }
                },
                '"' => self.double(&mut out)?,
                '$' => {
                    let value = self.variable()?;
                    out.extend(value.chars().map(|c| (c, false)));
                }
                c if c == self.escape => out.extend(self.take().map(|c| (c, true))),
                c => out.push((c, false)),
            }
        }
        if inner { Err(Stop::Refused) } else { Ok(out) }
    }

    fn double(&mut self, out: &mut Vec<Marked>) -> Result<(), Stop> {
        loop {
            match self.take().ok_or(Stop::Refused)? {
                '"' => return Ok(()),
                '$' => {
                    let value = self.variable()?;
                    out.extend(value.chars().map(|c| (c, true)));
                }
                c if c == self.escape => match self.peek() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        self.take();
                        out.push((next, true));
                    }
                    Some(_) => out.push((c, true)),
                    None => {}
                },
                c => out.push((c, true)),
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_numeric() => {
                while let Some(c) = self.peek().filter(|c| c.is_numeric()) {
                    name.push(c);
                    self.at += 1;
                }
            }
            Some(c) if "@*#?-$!0".contains(c) => {
                name.push(c);
                self.at += 1;
            }
            _ => {
                while let Some(c) = self.peek().filter(|c| name_char(*c)) {
                    name.push(c);
                    self.at += 1;
                }
            }
        }
        name
    }

    fn variable(&mut self) -> Result<String, Stop> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok((self.lookup)(&name).unwrap_or_default());
        }
        self.take();
        if matches!(self.peek(), None | Some('{' | '}' | ':')) {
            return Err(Stop::Refused);
        }
        let name = self.name();
        let mut operator = self.take().ok_or(Stop::Refused)?;
        if operator == '}' {
            return Ok((self.lookup)(&name).unwrap_or_default());
        }
        self.nested = true;
        if matches!(operator, '#' | '%' | '/') {
            return self.pattern(&name, operator);
        }
        let mut value = (self.lookup)(&name);
        if operator == ':' {
            operator = self.take().ok_or(Stop::Refused)?;
            value = value.filter(|v| !v.is_empty());
        }
        if !matches!(operator, '-' | '+' | '?') {
            return Err(Stop::Refused);
        }
        let word = plain(&self.run(true)?);
        match (operator, value) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('-', Some(value)) | ('?', Some(value)) => Ok(value),
            ('+', None) => Ok(String::new()),
            _ => Err(Stop::Refused),
        }
    }

    /// Patterns of plain characters, `*` and `?`.
    fn pattern(&mut self, name: &str, operator: char) -> Result<String, Stop> {
        let twice = self.peek() == Some(operator);
        if twice {
            self.take();
        }
        let until = |model: &mut Self, end: char| {
            let mut text = Vec::new();
            loop {
                match model.take().ok_or(Stop::Refused)? {
                    c if c == end => return Ok(text),
                    '$' | '\'' | '"' | '\\' | '`' | '\n' => return Err(Stop::Unknown),
                    c => text.push(c),
                }
            }
        };
        let end = if operator == '/' { '/' } else { '}' };
        let pattern = until(self, end)?;
        let replacement = match operator {
            '/' => until(self, '}')?,
            _ => Vec::new(),
        };
        let value: Vec<char> = (self.lookup)(name).unwrap_or_default().chars().collect();
        if pattern.len() > 30 || value.len() > 200 || value.contains(&'\n') {
            return Err(Stop::Unknown);
        }
        let all = value.len();
        let result: Vec<char> = match operator {
            '#' => {
                let mut ends: Vec<usize> = (0..=all)
                    .filter(|n| matches(&pattern, &value[..*n]))
                    .collect();
                if twice {
                    ends.reverse();
                }
                value[ends.first().copied().unwrap_or(0)..].to_vec()
            }
            '%' => {
                let mut starts: Vec<usize> = (0..=all)
                    .rev()
                    .filter(|n| matches(&pattern, &value[*n..]))
                    .collect();
                if twice {
                    starts.reverse();
                }
                value[..starts.first().copied().unwrap_or(all)].to_vec()
            }
            _ => {
                // What replacing an empty match means is not modelled.
                if matches(&pattern, &[]) {
                    return Err(Stop::Unknown);
                }
                replace(&value, &pattern, &replacement, twice)
            }
        };
        Ok(result.into_iter().collect())
    }
}

fn replace(value: &[char], pattern: &[char], replacement: &[char], all: bool) -> Vec<char> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < value.len() {
        let longest = (at + 1..=value.len())
            .rev()
            .find(|end| matches(pattern, &value[at..*end]));
        match longest {
            Some(end) => {
                out.extend(replacement);
                at = end;
                if !all {
                    break;
                }
            }
            None => {
                out.push(value[at]);
                at += 1;
            }
        }
    }
    out.extend(&value[at..]);
    out
}

/// Whether the whole of `text` matches, by the table of all pairs of prefixes.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for p in pattern {
        let mut next = vec![false; text.len() + 1];
        for n in 0..=text.len() {
            next[n] = match p {
                '*' => row[n] || (n > 0 && next[n - 1]),
                '?' => n > 0 && row[n - 1],
                c => n > 0 && row[n - 1] && text[n - 1] == *c,
            };
        }
        row = next;
    }
    row[text.len()]
}
