//! The values of `RUN --mount=`.
//!
//! A value is a comma-separated list of `key=value`, of which only the keys
//! below exist. [`parse`] takes a value in which nothing is left to expand;
//! [`parse_with`] expands each key's value on its own, so that a comma from a
//! variable doesn't begin a new key. `from` is never expanded: which images
//! and stages a build needs is known before any variable is.
//!
//! # Specification
//! Dockerfile reference, "RUN --mount".

use thiserror::Error;

use super::suggest;
use super::word::{self, WordError};

#[cfg(test)]
mod tests;

/// A mount of a RUN step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSpec {
    /// Files of the context, of a stage or of an image.
    Bind(Bind),
    /// A directory that outlives the build.
    Cache(Cache),
    /// Memory.
    Tmpfs(Tmpfs),
    /// A secret as a file, in the environment, or both.
    Secret(Secret),
    /// The SSH agent's socket.
    Ssh(Ssh),
}

/// `type=bind`, which is what a mount is without `type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// A stage, context or image; the build context where there is none.
    pub from: Option<String>,
    /// The path in it; empty for its root.
    pub source: String,
    /// Where it appears; a relative path and an empty one start at the working
    /// directory.
    pub target: String,
    /// Else writes are allowed and thrown away.
    pub read_only: bool,
}

/// `type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Its name; the target where there is none.
    pub id: Option<String>,
    /// What a new cache starts from.
    pub from: Option<String>,
    /// The path in `from`.
    pub source: String,
    /// Where it appears, as in [`Bind::target`].
    pub target: String,
    /// Whether it can only be read.
    pub read_only: bool,
    /// What happens when two steps want it at once.
    pub sharing: Sharing,
    /// The mode of a new cache's directory; 0755 where there is none.
    pub mode: Option<u32>,
    /// Its owner; 0 where there is none.
    pub uid: Option<u32>,
    /// Its group; 0 where there is none.
    pub gid: Option<u32>,
}

/// `type=tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where it appears, as in [`Bind::target`].
    pub target: String,
    /// Its largest size in bytes.
    pub size_bytes: Option<u64>,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// `type=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub id: String,
    /// The file it appears as; `None` where only `env` was asked for.
    pub target: Option<String>,
    /// The environment variable it appears as.
    pub env: Option<String>,
    /// Whether the build fails where it isn't given.
    pub required: bool,
    /// The file's mode; 0400 where there is none.
    pub mode: Option<u32>,
    /// The file's owner; 0 where there is none.
    pub uid: Option<u32>,
    /// The file's group; 0 where there is none.
    pub gid: Option<u32>,
}

/// `type=ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// Which of the agents that were given.
    pub id: String,
    /// Where the socket appears; anywhere where there is none.
    pub target: Option<String>,
    /// Whether the build fails where it isn't given.
    pub required: bool,
    /// The socket's mode; 0600 where there is none.
    pub mode: Option<u32>,
    /// The socket's owner; 0 where there is none.
    pub uid: Option<u32>,
    /// The socket's group; 0 where there is none.
    pub gid: Option<u32>,
}

/// Who may use a cache at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Any number of steps.
    #[default]
    Shared,
    /// One step each; a second one gets a cache of its own.
    Private,
    /// One step; a second one waits.
    Locked,
}

/// Why a mount can't be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum MountError {
    #[error("--mount has an odd double quote")]
    Quotes,
    #[error("--mount has no key `{key}`")]
    UnknownKey { key: String, hint: String },
    #[error("--mount: `{key}` needs a value")]
    NoValue { key: String, hint: String },
    #[error("--mount has no {key} `{value}`")]
    Value {
        key: &'static str,
        value: String,
        hint: String,
    },
    #[error("--mount=type={kind} takes no `{key}`")]
    NotHere {
        key: &'static str,
        kind: &'static str,
        hint: String,
    },
    #[error("--mount=type=secret needs an `id` or a `target`")]
    NoSecret,
    #[error("--mount=type=secret takes `id` or `source`, not both")]
    TwoIds,
    #[error("--mount: `from` can't have variables: `{value}`")]
    VariableInFrom { value: String },
    #[error("--mount: {0}")]
    Word(#[from] WordError),
}

impl MountError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Quotes => Some("leave quotes out; `type=cache,target=/path` needs none"),
            Self::UnknownKey { hint, .. }
            | Self::NoValue { hint, .. }
            | Self::Value { hint, .. }
            | Self::NotHere { hint, .. } => Some(hint),
            Self::NoSecret => Some("write `--mount=type=secret,id=name`"),
            Self::TwoIds => Some("`source` is an older name of `id`; leave it out"),
            Self::VariableInFrom { .. } => {
                Some("name a stage with `FROM image:$VARIABLE AS name`, and write `from=name`")
            }
            Self::Word(_) => None,
        }
    }
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

const KINDS: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

/// Parses a value in which nothing is left to expand.
///
/// # Errors
/// [`MountError`] for unknown keys and values and for keys that the mount's
/// type doesn't take.
pub fn parse(text: &str) -> Result<MountSpec, MountError> {
    parse_with(text, &|value| Ok(value.to_owned()))
}

/// Parses a value as in the file; `expand` is given the value of each key but
/// `from`.
///
/// # Errors
/// As [`parse`], and what `expand` returns.
pub fn parse_with(
    text: &str,
    expand: &dyn Fn(&str) -> Result<String, WordError>,
) -> Result<MountSpec, MountError> {
    let mut keys = Keys::default();
    for field in fields(text)? {
        keys.take(&field, expand)?;
    }
    keys.finish()
}

/// Checks what can be known of a value before its variables are.
///
/// # Errors
/// For odd quotes and a `from` with variables.
pub fn check_raw(text: &str) -> Result<(), MountError> {
    for field in fields(text)? {
        check_from(&field)?;
    }
    Ok(())
}

/// Whether a value as in the file has a variable in `from`, which is an error.
pub fn uses_variable_in_from(text: &str) -> bool {
    matches!(check_raw(text), Err(MountError::VariableInFrom { .. }))
}

fn check_from(field: &str) -> Result<(), MountError> {
    match field.split_once('=') {
        Some((key, value)) if key.eq_ignore_ascii_case("from") && word::has_variable(value) => {
            Err(MountError::VariableInFrom {
                value: value.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// The comma-separated fields; one in double quotes may hold commas, and a
/// doubled quote in it is a quote.
fn fields(text: &str) -> Result<Vec<String>, MountError> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let length = rest.find(',').unwrap_or(rest.len());
            let field = &rest[..length];
            if field.contains('"') {
                return Err(MountError::Quotes);
            }
            fields.push(field.to_owned());
            match rest[length..].strip_prefix(',') {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut at = quoted;
        loop {
            let end = at.find('"').ok_or(MountError::Quotes)?;
            field.push_str(&at[..end]);
            at = &at[end + 1..];
            match at.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    at = after;
                }
                None => break,
            }
        }
        fields.push(field);
        if at.is_empty() {
            return Ok(fields);
        }
        rest = at.strip_prefix(',').ok_or(MountError::Quotes)?;
    }
}

/// The keys that were given.
#[derive(Debug, Default)]
struct Keys {
    kind: Option<&'static str>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    id: Option<String>,
    sharing: Option<Sharing>,
    required: Option<bool>,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl Keys {
    fn take(
        &mut self,
        field: &str,
        expand: &dyn Fn(&str) -> Result<String, WordError>,
    ) -> Result<(), MountError> {
        check_from(field)?;
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let Some(value) = value else {
            return self.take_word(&key);
        };
        let value = expand(value)?;
        match key.as_str() {
            "type" => self.kind = Some(kind(&value)?),
            "from" => self.from = some(value),
            "source" | "src" => self.source = some(value),
            "target" | "dst" | "destination" => self.target = some(value),
            "readonly" | "ro" => self.read_only = Some(boolean("readonly", &value)?),
            "readwrite" | "rw" => self.read_only = Some(!boolean("readwrite", &value)?),
            "id" => self.id = some(value),
            "sharing" => self.sharing = Some(sharing(&value)?),
            "required" => self.required = Some(boolean("required", &value)?),
            "size" => self.size = Some(size(&value)?),
            "mode" => self.mode = Some(mode(&value)?),
            "uid" => self.uid = Some(number("uid", &value)?),
            "gid" => self.gid = Some(number("gid", &value)?),
            "env" => self.env = some(value),
            _ => return Err(unknown(&key)),
        }
        Ok(())
    }

    /// A key without `=`.
    fn take_word(&mut self, key: &str) -> Result<(), MountError> {
        match key {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => self.required = Some(true),
            _ if KEYS.contains(&key) => {
                return Err(MountError::NoValue {
                    key: key.to_owned(),
                    hint: format!("write `{key}=value`"),
                });
            }
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    fn finish(self) -> Result<MountSpec, MountError> {
        let kind = self.kind.unwrap_or("bind");
        self.check(kind)?;
        let read_only = |default| self.read_only.unwrap_or(default);
        Ok(match kind {
            "cache" => MountSpec::Cache(Cache {
                read_only: read_only(false),
                id: self.id,
                from: self.from,
                source: self.source.unwrap_or_default(),
                target: self.target.unwrap_or_default(),
                sharing: self.sharing.unwrap_or_default(),
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
            }),
            "tmpfs" => MountSpec::Tmpfs(Tmpfs {
                read_only: read_only(false),
                target: self.target.unwrap_or_default(),
                size_bytes: self.size,
            }),
            "secret" => self.secret()?,
            "ssh" => MountSpec::Ssh(Ssh {
                id: self.id.unwrap_or_else(|| "default".to_owned()),
                target: self.target,
                required: self.required.unwrap_or(false),
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
            }),
            _ => MountSpec::Bind(Bind {
                read_only: read_only(true),
                from: self.from,
                source: self.source.unwrap_or_default(),
                target: self.target.unwrap_or_default(),
            }),
        })
    }

    fn secret(self) -> Result<MountSpec, MountError> {
        let id = match (self.id, self.source, &self.target) {
            (Some(_), Some(_), _) => return Err(MountError::TwoIds),
            (Some(id), None, _) | (None, Some(id), _) => id,
            (None, None, Some(target)) => last_component(target).to_owned(),
            (None, None, None) => return Err(MountError::NoSecret),
        };
        let target = match (self.target, &self.env) {
            (Some(target), _) => Some(target),
            (None, Some(_)) => None,
            (None, None) => Some(format!("/run/secrets/{}", last_component(&id))),
        };
        Ok(MountSpec::Secret(Secret {
            id,
            target,
            env: self.env,
            required: self.required.unwrap_or(false),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
        }))
    }

    /// Refuses keys that would silently do nothing, or worse.
    fn check(&self, kind: &'static str) -> Result<(), MountError> {
        let table: [(&'static str, bool, &[&str]); 9] = [
            ("mode", self.mode.is_some(), &["secret", "ssh", "cache"]),
            ("uid", self.uid.is_some(), &["secret", "ssh", "cache"]),
            ("gid", self.gid.is_some(), &["secret", "ssh", "cache"]),
            ("required", self.required.is_some(), &["secret", "ssh"]),
            ("size", self.size.is_some(), &["tmpfs"]),
            ("sharing", self.sharing.is_some(), &["cache"]),
            ("env", self.env.is_some(), &["secret"]),
            (
                "from",
                self.from.is_some(),
                &["bind", "cache", "tmpfs", "ssh"],
            ),
            (
                "source",
                self.source.is_some(),
                &["bind", "cache", "tmpfs", "secret"],
            ),
        ];
        for (key, given, kinds) in table {
            if given && !kinds.contains(&kind) {
                return Err(MountError::NotHere {
                    key,
                    kind,
                    hint: format!("`{key}` is for type={}", kinds.join(" and type=")),
                });
            }
        }
        Ok(())
    }
}

fn some(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

fn last_component(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

fn unknown(key: &str) -> MountError {
    let hint = match suggest::nearest(key, KEYS) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", KEYS.join(", ")),
    };
    MountError::UnknownKey {
        key: key.to_owned(),
        hint,
    }
}

fn choice(key: &'static str, value: &str, known: &[&'static str]) -> MountError {
    let hint = match suggest::nearest(value, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", known.join(", ")),
    };
    MountError::Value {
        key,
        value: value.to_owned(),
        hint,
    }
}

fn kind(value: &str) -> Result<&'static str, MountError> {
    let lower = value.to_lowercase();
    KINDS
        .iter()
        .find(|k| **k == lower)
        .copied()
        .ok_or_else(|| choice("type", value, &KINDS))
}

fn sharing(value: &str) -> Result<Sharing, MountError> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => Err(choice("sharing", value, &["shared", "private", "locked"])),
    }
}

fn boolean(key: &'static str, value: &str) -> Result<bool, MountError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(choice(key, value, &["true", "false"])),
    }
}

fn bad_value(key: &'static str, value: &str, hint: &str) -> MountError {
    MountError::Value {
        key,
        value: value.to_owned(),
        hint: hint.to_owned(),
    }
}

fn number(key: &'static str, value: &str) -> Result<u32, MountError> {
    digits(value)
        .and_then(|v| v.parse().ok())
        .ok_or_else(|| bad_value(key, value, "it takes a number, no name"))
}

fn mode(value: &str) -> Result<u32, MountError> {
    digits(value)
        .and_then(|v| u32::from_str_radix(v, 8).ok())
        .ok_or_else(|| bad_value("mode", value, "it takes an octal number, as in `mode=0700`"))
}

/// `value` where it is made of digits alone; the standard parsers take a sign.
fn digits(value: &str) -> Option<&str> {
    value.bytes().all(|b| b.is_ascii_digit()).then_some(value)
}

/// Bytes, or a number with one of the binary units `k`, `m`, `g`, `t`, `p`,
/// which may be followed by `b` or `ib`.
fn size(value: &str) -> Result<u64, MountError> {
    let bad = || bad_value("size", value, "it takes a size, as in `size=64m`");
    let end = value
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(value.len());
    let (number, unit) = value.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_lowercase();
    let shift = match unit.trim_end_matches('b') {
        "" => 0,
        "k" | "ki" => 10,
        "m" | "mi" => 20,
        "g" | "gi" => 30,
        "t" | "ti" => 40,
        "p" | "pi" => 50,
        _ => return Err(bad()),
    };
    if unit.ends_with("bb") || unit.ends_with('i') {
        return Err(bad());
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(bad());
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| bad())?
    };
    let scale = 1_u64 << shift;
    let mut part: u128 = 0;
    let mut divisor: u128 = 1;
    for digit in fraction.bytes().take(18) {
        part = part * 10 + u128::from(digit - b'0');
        divisor *= 10;
    }
    let part = u64::try_from(part * u128::from(scale) / divisor).map_err(|_| bad())?;
    whole
        .checked_mul(scale)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or_else(bad)
}
