//! Quotes, escapes and `$variables` of one word.
//!
//! A word is expanded over a [`Lookup`]; nothing here knows where the values
//! come from. What a value contains is never expanded again. Three
//! forms exist: [`expand`] keeps the result whole, [`expand_words`] splits it
//! at blanks that came from outside quotes, and [`expand_body`] replaces
//! variables in a heredoc's body and leaves its quotes alone.
//!
//! Time and memory are bounded: a word may nest [`MAX_DEPTH`] deep, its
//! expansion may take [`MAX_EXPANSION`] bytes in all, and patterns are matched
//! in linear time. The words of a file together are bounded by
//! [`Lookup::afford`].
//!
//! # Specification
//! Dockerfile reference, "Environment replacement" and "Shell parameter
//! expansion".

use thiserror::Error;

mod lookup;
mod pattern;
#[cfg(test)]
mod tests;

pub use lookup::{Lookup, Meter, Metered};

use pattern::Pattern;

/// How many bytes an expansion may have, all parts that were expanded on the
/// way included.
pub const MAX_EXPANSION: usize = 1 << 20;

/// How deep `${a:-${b:-…}}` may nest.
pub const MAX_DEPTH: usize = 100;

/// The result of [`expand`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The word without quotes, with its variables replaced.
    pub text: String,
    /// The names that have a value, in order of first use.
    pub used: Vec<String>,
    /// The names that have none, in order of first use.
    pub unset: Vec<String>,
}

/// Why a word can't be expanded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("can't expand {word:?}: {problem}")]
pub struct WordError {
    /// The word, cut off where it is long.
    pub word: String,
    /// What is wrong with it.
    pub problem: WordProblem,
    /// The names met before the error that have no value.
    pub unset: Vec<String>,
}

/// What is wrong with a word.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WordProblem {
    #[error("a {0} quote is opened and never closed")]
    OpenQuote(char),
    #[error("a `${{` has no closing `}}`")]
    OpenBrace,
    #[error("`${{name/pattern/replacement}}` needs a second `/`")]
    NoReplacement,
    #[error("`${{` must be followed by a variable's name")]
    NoName,
    #[error("`{0}` is no operator of `${{…}}`; there are :- - :+ + :? ? # ## % %% / and //")]
    Operator(String),
    #[error("the variable {name} {message}")]
    Required { name: String, message: String },
    #[error(
        "the pattern `{0}` is no pattern: a `\\` in it may stand before `*`, `?` and `\\` only"
    )]
    Pattern(String),
    #[error("the pattern is longer than {limit} bytes")]
    PatternSize { limit: usize },
    #[error("it nests deeper than {MAX_DEPTH} levels")]
    Depth,
    #[error("the result would be longer than {MAX_EXPANSION} bytes")]
    Size,
    #[error("with it the file's variables would be looked at for more than {} MiB", Meter::WORK >> 20)]
    Work,
}

/// Expands `text` as one word: quotes are removed, variables replaced.
///
/// # Errors
/// [`WordError`] on open quotes and braces, unknown operators, `:?` without a
/// value and where a bound is passed.
pub fn expand(text: &str, escape: char, lookup: &dyn Lookup) -> Result<Expansion, WordError> {
    // Most words have nothing to expand.
    if !text.contains(['$', '\'', '"', escape]) {
        return Ok(Expansion {
            text: text.to_owned(),
            ..Expansion::default()
        });
    }
    let mut lexer = Lexer::new(text, escape, lookup);
    let (result, _) = lexer.run()?;
    Ok(lexer.finish(result))
}

/// Expands `text` and splits it at the blanks that are not quoted, those of
/// variables' values included.
///
/// # Errors
/// As [`expand`].
pub fn expand_words(
    text: &str,
    escape: char,
    lookup: &dyn Lookup,
) -> Result<Vec<String>, WordError> {
    let mut lexer = Lexer::new(text, escape, lookup);
    Ok(lexer.run()?.1)
}

/// As [`expand_words`], with the names that were used beside the words.
///
/// # Errors
/// As [`expand`].
pub fn expand_words_with_names(
    text: &str,
    escape: char,
    lookup: &dyn Lookup,
) -> Result<(Vec<String>, Expansion), WordError> {
    let mut lexer = Lexer::new(text, escape, lookup);
    let (result, words) = lexer.run()?;
    Ok((words, lexer.finish(result)))
}

/// Expands a heredoc's body: variables are replaced, quotes stay, and a `\`
/// takes the meaning of what follows it whatever the file's escape character.
///
/// # Errors
/// As [`expand`].
pub fn expand_body(text: &str, lookup: &dyn Lookup) -> Result<Expansion, WordError> {
    let mut lexer = Lexer::new(text, '\\', lookup);
    lexer.modes.quotes_are_text = true;
    let (result, _) = lexer.run()?;
    Ok(lexer.finish(result))
}

/// Whether `text` has something that [`expand`] would replace or remove.
pub fn has_variable(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        match rest.chars().next() {
            None => return false,
            Some(c) if c == '{' || is_name_char(c) || is_special(c) => return true,
            Some(_) => {}
        }
    }
    false
}

/// The words of a line in which heredocs are looked for: quotes, escapes and
/// variables stay as they are, and blanks behind `<<` don't end a word.
pub(crate) fn heredoc_words(line: &str) -> Option<Vec<String>> {
    let mut lexer = Lexer::new(line, '\\', &|_: &str| None);
    lexer.modes = Modes {
        keep_quotes: true,
        keep_escapes: true,
        keep_unset: true,
        heredocs: true,
        quotes_are_text: false,
    };
    lexer.run().ok().map(|(_, words)| words)
}

/// The words of a heredoc's delimiter, with or without its quotes.
pub(crate) fn delimiter_words(text: &str, keep_quotes: bool) -> Result<Vec<String>, WordError> {
    let mut lexer = Lexer::new(text, '\\', &|_: &str| None);
    lexer.modes.keep_quotes = keep_quotes;
    lexer.modes.keep_unset = true;
    lexer.run().map(|(_, words)| words)
}

fn is_name_char(c: char) -> bool {
    c == '_' || c.is_alphabetic() || c.is_numeric()
}

/// The shell's special parameters, which have no value in a Dockerfile.
fn is_special(c: char) -> bool {
    matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!' | '0')
}

/// What a pass leaves as it is.
#[derive(Debug, Clone, Copy, Default)]
struct Modes {
    keep_quotes: bool,
    keep_escapes: bool,
    keep_unset: bool,
    heredocs: bool,
    quotes_are_text: bool,
}

/// The words of one level; the word being built is the lexer's `pending`.
#[derive(Debug, Default)]
struct Words {
    done: Vec<String>,
    in_word: bool,
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    escape: char,
    lookup: &'a dyn Lookup,
    modes: Modes,
    depth: usize,
    budget: usize,
    /// Shared by all levels: a nested level drops what the level above had
    /// begun, so that `a${b:-c}` splits into `c` and not `ac`, as users of
    /// EXPOSE have it from BuildKit.
    pending: String,
    used: Vec<String>,
    unset: Vec<String>,
}

type Step<T> = Result<T, WordProblem>;

impl<'a> Lexer<'a> {
    fn new(text: &'a str, escape: char, lookup: &'a dyn Lookup) -> Self {
        Self {
            text,
            at: 0,
            escape,
            lookup,
            modes: Modes::default(),
            depth: 0,
            // The text itself may be as long as it likes; only growth counts.
            budget: MAX_EXPANSION.saturating_add(text.len().saturating_mul(2)),
            pending: String::new(),
            used: Vec::new(),
            unset: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(String, Vec<String>), WordError> {
        self.until(None, self.modes.keep_escapes)
            .map_err(|problem| WordError {
                word: shorten(self.text),
                problem,
                unset: std::mem::take(&mut self.unset),
            })
    }

    fn finish(self, text: String) -> Expansion {
        Expansion {
            text,
            used: self.used,
            unset: self.unset,
        }
    }

    fn peek(&self) -> Option<char> {
        self.text
            .get(self.at..)
            .and_then(|rest| rest.chars().next())
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn spend(&mut self, bytes: usize) -> Step<()> {
        self.budget = self.budget.checked_sub(bytes).ok_or(WordProblem::Size)?;
        Ok(())
    }

    /// Reads up to the end of the text, or up to `stop` and over it.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Step<(String, Vec<String>)> {
        if self.depth >= MAX_DEPTH {
            return Err(WordProblem::Depth);
        }
        self.depth += 1;
        let outer = std::mem::replace(&mut self.modes.keep_escapes, keep_escapes);
        let result = self.level(stop);
        self.modes.keep_escapes = outer;
        self.depth -= 1;
        result
    }

    fn level(&mut self, stop: Option<char>) -> Step<(String, Vec<String>)> {
        let mut result = String::new();
        let mut words = Words::default();
        self.pending.clear();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                self.spend(result.len())?;
                return Ok((result, self.end_words(words)));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    for c in value.chars() {
                        self.add_char(&mut words, c);
                    }
                    result.push_str(&value);
                }
                '\'' if !self.modes.quotes_are_text => {
                    let value = self.single_quoted()?;
                    self.add_raw(&mut words, &value);
                    result.push_str(&value);
                }
                '"' if !self.modes.quotes_are_text => {
                    let value = self.double_quoted()?;
                    self.add_raw(&mut words, &value);
                    result.push_str(&value);
                }
                '<' if self.modes.heredocs => {
                    let value = self.less();
                    self.add_raw(&mut words, &value);
                    result.push_str(&value);
                }
                _ if c == self.escape => {
                    self.next();
                    if self.modes.keep_escapes {
                        self.add_raw_char(&mut words, c);
                        result.push(c);
                    }
                    // One at the very end escapes nothing and is dropped.
                    if let Some(c) = self.next() {
                        self.add_raw_char(&mut words, c);
                        result.push(c);
                    }
                }
                _ => {
                    self.next();
                    self.add_char(&mut words, c);
                    result.push(c);
                }
            }
        }
        match stop {
            None => Ok((result, self.end_words(words))),
            Some('/') => Err(WordProblem::NoReplacement),
            Some(_) => Err(WordProblem::OpenBrace),
        }
    }

    fn add_char(&mut self, words: &mut Words, c: char) {
        if !c.is_whitespace() {
            self.add_raw_char(words, c);
        } else if words.in_word && !self.pending.is_empty() {
            words.done.push(std::mem::take(&mut self.pending));
            words.in_word = false;
        }
    }

    fn add_raw_char(&mut self, words: &mut Words, c: char) {
        self.pending.push(c);
        words.in_word = true;
    }

    fn add_raw(&mut self, words: &mut Words, text: &str) {
        self.pending.push_str(text);
        words.in_word = true;
    }

    fn end_words(&mut self, mut words: Words) -> Vec<String> {
        if !self.pending.is_empty() {
            words.done.push(std::mem::take(&mut self.pending));
        }
        words.done
    }

    /// `'…'`: nothing in it has a meaning.
    fn single_quoted(&mut self) -> Step<String> {
        self.next();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let Some(length) = rest.find('\'') else {
            self.at = self.text.len();
            return Err(WordProblem::OpenQuote('\''));
        };
        self.at += length + 1;
        let inner = &rest[..length];
        Ok(if self.modes.keep_quotes {
            format!("'{inner}'")
        } else {
            inner.to_owned()
        })
    }

    /// `"…"`: variables have a meaning, and an escape before `"`, `$` and
    /// itself.
    fn double_quoted(&mut self) -> Step<String> {
        let mut result = String::new();
        self.next();
        if self.modes.keep_quotes {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(WordProblem::OpenQuote('"')),
                Some('"') => {
                    self.next();
                    if self.modes.keep_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    result.push_str(&value);
                }
                Some(c) if c == self.escape => {
                    self.next();
                    if self.modes.keep_escapes {
                        result.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == self.escape => {
                            self.next();
                            result.push(next);
                        }
                        Some(_) => result.push(c),
                    }
                }
                Some(c) => {
                    self.next();
                    result.push(c);
                }
            }
        }
    }

    /// `<`, or `<<` and the blanks behind it, which belong to the heredoc's
    /// word.
    fn less(&mut self) -> String {
        let start = self.at;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while self.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\r')) {
                self.next();
            }
        }
        self.text.get(start..self.at).unwrap_or_default().to_owned()
    }

    fn dollar(&mut self) -> Step<String> {
        self.next();
        if self.peek() == Some('{') {
            self.next();
            return self.braces();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        match self.value(name)? {
            Some(value) => Ok(value),
            None if self.modes.keep_unset => Ok(format!("${name}")),
            None => Ok(String::new()),
        }
    }

    /// The name behind `$` or `${`; a number and a special parameter are names
    /// too.
    fn name(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = match rest.chars().next() {
            Some(c) if c.is_numeric() => rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len()),
            Some(c) if is_special(c) => c.len_utf8(),
            _ => rest.find(|c| !is_name_char(c)).unwrap_or(rest.len()),
        };
        self.at += length;
        &rest[..length]
    }

    fn value(&mut self, name: &str) -> Step<Option<String>> {
        let value = self.lookup.value(name);
        let names = if value.is_some() {
            &mut self.used
        } else {
            &mut self.unset
        };
        if !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
        if let Some(value) = &value {
            self.spend(value.len())?;
            self.afford(value.len())?;
        }
        Ok(value)
    }

    fn afford(&self, work: usize) -> Step<()> {
        match self.lookup.afford(work) {
            true => Ok(()),
            false => Err(WordProblem::Work),
        }
    }

    /// A pattern, paid for matching `value`.
    fn pattern(&self, text: &str, value: &str) -> Step<Pattern> {
        /// A step of matching next to one of copying.
        const COST: usize = 4;
        let pattern = Pattern::parse(text)?;
        self.afford(pattern.work(value).saturating_mul(COST))?;
        Ok(pattern)
    }

    /// What follows `${`.
    fn braces(&mut self) -> Step<String> {
        match self.peek() {
            None => return Err(WordProblem::OpenBrace),
            Some('{' | '}' | ':') => return Err(WordProblem::NoName),
            Some(_) => {}
        }
        let start = self.at;
        let name = self.name();
        match self.next() {
            None => Err(WordProblem::OpenBrace),
            Some('}') => match self.value(name)? {
                Some(value) => Ok(value),
                None if self.modes.keep_unset => Ok(self.verbatim(start)),
                None => Ok(String::new()),
            },
            Some(':') => match self.next() {
                None => Err(WordProblem::OpenBrace),
                Some(op @ ('-' | '+' | '?')) => self.substitute(name, op, true, start),
                Some(op) => Err(WordProblem::Operator(format!(":{op}"))),
            },
            Some(op @ ('-' | '+' | '?')) => self.substitute(name, op, false, start),
            Some(op @ ('#' | '%')) => self.trim(name, op, start),
            Some('/') => self.replace(name, start),
            Some(op) => Err(WordProblem::Operator(op.to_string())),
        }
    }

    /// The `${…}` that ends here and whose name begins at `start`.
    fn verbatim(&self, start: usize) -> String {
        format!("${{{}", self.text.get(start..self.at).unwrap_or_default())
    }

    /// `:-` `-` `:+` `+` `:?` `?`; with `empty_too` an empty value counts as
    /// none.
    fn substitute(&mut self, name: &str, op: char, empty_too: bool, start: usize) -> Step<String> {
        let (word, _) = self.until(Some('}'), false)?;
        let value = self.value(name)?;
        if value.is_none() && self.modes.keep_unset {
            return Ok(self.verbatim(start));
        }
        let is_set = value.is_some();
        let value = value.filter(|v| !(empty_too && v.is_empty()));
        match (op, value) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(WordProblem::Required {
                name: name.to_owned(),
                message: match (word.is_empty(), is_set) {
                    (false, _) => format!("is required: {word}"),
                    (true, true) => "must not be empty".to_owned(),
                    (true, false) => "has no value".to_owned(),
                },
            }),
        }
    }

    /// `#` `##` `%` `%%`.
    fn trim(&mut self, name: &str, op: char, start: usize) -> Step<String> {
        let (word, _) = self.until(Some('}'), true)?;
        let Some(value) = self.value(name)? else {
            return Ok(if self.modes.keep_unset {
                self.verbatim(start)
            } else {
                Pattern::parse(word.strip_prefix(op).unwrap_or(&word))?;
                String::new()
            });
        };
        let (pattern, longest) = match word.strip_prefix(op) {
            Some(pattern) => (pattern, true),
            None => (word.as_str(), false),
        };
        let pattern = self.pattern(pattern, &value)?;
        let rest = match op {
            '#' => pattern.trim_prefix(&value, longest),
            _ => pattern.trim_suffix(&value, longest),
        };
        Ok(rest.to_owned())
    }

    /// `/` `//`.
    fn replace(&mut self, name: &str, start: usize) -> Step<String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let (pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true)?;
        let Some(value) = self.value(name)? else {
            return Ok(if self.modes.keep_unset {
                self.verbatim(start)
            } else {
                Pattern::parse(&pattern)?;
                String::new()
            });
        };
        let room = self.budget;
        let pattern = self.pattern(&pattern, &value)?;
        let result = pattern.replace(&value, &replacement, all, room)?;
        self.spend(result.len())?;
        Ok(result)
    }
}

/// The start of a word, for messages.
fn shorten(word: &str) -> String {
    const SHOWN: usize = 60;
    if word.chars().count() <= SHOWN {
        return word.to_owned();
    }
    word.chars().take(SHOWN).chain(['…']).collect()
}
