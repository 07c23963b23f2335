//! Readers of the small languages that flags speak.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use shiplap::build::request::{Secret, SecretSource};
use shiplap::container::Ulimit;
use shiplap::solve::agent::{Agent, Programs};
use shiplap::sys::whole_file::{Access, Target};

use super::error::Usage;
use super::output_spec::csv;

/// `KEY=VALUE`, the key not empty.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("it must be NAME=VALUE".into()),
    }
}

/// `KEY=VALUE`, or `KEY` alone with an empty value.
pub(crate) fn key_or_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(_) => key_value(text),
        None if text.is_empty() => Err("it is empty".into()),
        None => Ok((text.into(), String::new())),
    }
}

/// The value of the variable SOURCE_DATE_EPOCH, where it has one.
pub(crate) fn source_date_epoch(value: Option<OsString>) -> anyhow::Result<Option<i64>> {
    let text = value.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    match seconds.filter(|seconds: &i64| *seconds >= 0) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(Usage::error(format!(
            "SOURCE_DATE_EPOCH must be seconds since 1970, not {text:?}"
        ))),
    }
}

/// A time: `500ms`, `2s`, `1.5m`, or seconds without a unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write 500ms, 2s or 1m");
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| wrong())
}

/// A number of bytes, with `k`, `m`, `g` or `t` for powers of 1024, with or
/// without a `b` behind.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write 64m, 1g or a number of bytes");
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.strip_suffix('b').unwrap_or(&lower);
    let number = number.strip_suffix('i').unwrap_or(number);
    let (number, shift) = match number.chars().last() {
        Some('k') => (&number[..number.len() - 1], 10),
        Some('m') => (&number[..number.len() - 1], 20),
        Some('g') => (&number[..number.len() - 1], 30),
        Some('t') => (&number[..number.len() - 1], 40),
        _ => (number, 0),
    };
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// `HOST:ADDRESS` or `HOST=ADDRESS`; the address may stand in brackets.
/// `host-gateway` is the loopback address: steps that reach the host at all
/// share its network.
pub(crate) fn host(text: &str) -> Result<(String, String), String> {
    let Some((name, address)) = text.split_once('=').or_else(|| text.split_once(':')) else {
        return Err("it must be HOST:ADDRESS".into());
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(format!("{name:?} is no host name"));
    }
    let address = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    let address = match address {
        "host-gateway" => "127.0.0.1",
        _ => address,
    };
    match address.parse::<std::net::IpAddr>() {
        Ok(address) => Ok((name.into(), address.to_string())),
        Err(_) => Err(format!("{address:?} is no IP address")),
    }
}

/// `NAME=SOFT[:HARD]`; `-1` is unlimited.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, String> {
    const NAMES: [&str; 15] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
    ];
    let (name, limits) = key_value(text)?;
    if name != "stack" && !NAMES.contains(&name.as_str()) {
        let names = NAMES.join(", ");
        return Err(format!(
            "unknown limit {name:?}; known are {names} and stack"
        ));
    }
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| format!("{text:?} is no limit")),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((&limits, &limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err("the soft limit is above the hard one".into());
    }
    let resource = serde_json::from_value(name.clone().into())
        .map_err(|_| format!("unknown limit {name:?}"))?;
    Ok(Ulimit {
        resource,
        soft,
        hard,
    })
}

/// `id=NAME[,src=FILE|,env=VARIABLE]`, as `docker build` has it: without a
/// source it is the variable of that name where there is one, else the file.
pub(crate) fn secret(
    text: &str,
    variable: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Result<Secret, String> {
    let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
    for field in csv(text)? {
        let (key, value) = key_value(&field)?;
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => env = Some(value),
            "type" if value == "file" || value == "env" => kind = Some(value),
            "type" => return Err(format!("unknown type {value:?}; known are file and env")),
            _ => {
                return Err(format!(
                    "unknown key {key:?}; known are id, src, env and type"
                ));
            }
        }
    }
    if kind.as_deref() == Some("env") && env.is_none() {
        env = file.take();
    }
    if file.is_some() && env.is_some() {
        return Err("src and env exclude each other".into());
    }
    let id = match (id, &file, &env) {
        (Some(id), _, _) if !id.is_empty() => id,
        _ => return Err("id is missing".into()),
    };
    let source = match (file, env) {
        (Some(file), _) => SecretSource::File(file.into()),
        (None, Some(name)) => match variable(&name) {
            Some(value) => SecretSource::Value(value),
            None => return Err(format!("the environment has no variable {name}")),
        },
        (None, None) if kind.as_deref() == Some("file") => SecretSource::File(id.clone().into()),
        (None, None) => match variable(&id) {
            Some(value) => SecretSource::Value(value),
            None => SecretSource::File(id.clone().into()),
        },
    };
    Ok(Secret { id, source })
}

/// `ID=SOCKET`, `ID=KEY[,KEY…]` with files, or `ID` alone for the agent that
/// `agent` names. `programs` finds OpenSSH's.
pub(crate) fn ssh(
    text: &str,
    agent: Option<PathBuf>,
    programs: impl FnOnce() -> anyhow::Result<Programs>,
) -> anyhow::Result<(String, Agent)> {
    match text.split_once('=') {
        Some((id, paths)) if !id.is_empty() && !paths.is_empty() => {
            let paths: Vec<PathBuf> = paths.split(',').map(PathBuf::from).collect();
            let agent = Agent::new(&paths, programs)?;
            Ok((id.into(), agent))
        }
        Some(_) => Err(Usage::error("it must be ID=SOCKET or ID=KEY")),
        None => match agent {
            Some(agent) => Ok((text.into(), Agent::Socket(agent))),
            None => Err(Usage::error(
                "no agent runs (SSH_AUTH_SOCK is not set); give ID=SOCKET or ID=KEY",
            )),
        },
    }
}

/// Writes `text` to a file that others read: whole or not at all, and never
/// through a symbolic link that someone else may have put there. A device or a
/// pipe is written to as it is.
pub(crate) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    make_file(path, |out| out.write_all(text.as_bytes()))
}

/// [`write_file`] for what is made while it is written.
pub(crate) fn make_file(
    path: &Path,
    make: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    to_file(path, Access::All, |file| {
        let mut out = io::BufWriter::with_capacity(64 << 10, file);
        let made = make(&mut out).and_then(|()| out.flush());
        made.with_context(|| cannot_write(path))
    })
}

/// Writes a file that appears under its name when it is complete. The errors
/// of `write` are its own.
pub(crate) fn to_file(
    path: &Path,
    access: Access,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut target = Target::open(path, access).with_context(|| cannot_write(path))?;
    write(&mut target)?;
    target.finish().with_context(|| cannot_write(path))
}

fn cannot_write(path: &Path) -> String {
    format!("can't write {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("2s", Some(2000)),
            ("1.5m", Some(90_000)),
            ("3", Some(3000)),
            ("0", Some(0)),
            ("-1s", None),
            ("1e99h", None),
            ("soon", None),
            ("", None),
        ] {
            let got = duration(text).ok().map(|d| d.as_millis());
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("100b", Some(100)),
            ("64m", Some(64 << 20)),
            ("64MB", Some(64 << 20)),
            ("2GiB", Some(2 << 30)),
            ("1t", Some(1 << 40)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1.5g", None),
            ("99999999999t", None),
            ("é", None),
        ] {
            assert_eq!(super::bytes(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn hosts() {
        let address = |text| host(text).ok().map(|(_, address)| address);
        assert_eq!(address("a:1.2.3.4").as_deref(), Some("1.2.3.4"));
        assert_eq!(address("a=::1").as_deref(), Some("::1"));
        assert_eq!(address("a:[::1]").as_deref(), Some("::1"));
        assert_eq!(address("a:host-gateway").as_deref(), Some("127.0.0.1"));
        for text in [
            "a",
            "a:",
            ":1.2.3.4",
            "a b:1.2.3.4",
            "a\n:1.2.3.4",
            "a:1.2.3",
        ] {
            assert!(host(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn limits() {
        let limit = ulimit("nofile=1024:2048").unwrap();
        assert_eq!((limit.soft, limit.hard), (Some(1024), Some(2048)));
        assert_eq!(ulimit("core=-1").unwrap().hard, None);
        for text in ["nofile", "nofile=2:1", "nofile=-1:1", "files=1", "nofile=x"] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets() {
        let variable = |name: &str| (name == "TOKEN").then(|| b"t".to_vec());
        for (text, source) in [
            ("id=a,src=/f", Some(SecretSource::File("/f".into()))),
            (
                "id=a,source=/f,type=file",
                Some(SecretSource::File("/f".into())),
            ),
            ("id=a,env=TOKEN", Some(SecretSource::Value(b"t".into()))),
            (
                "id=a,type=env,src=TOKEN",
                Some(SecretSource::Value(b"t".into())),
            ),
            ("id=TOKEN", Some(SecretSource::Value(b"t".into()))),
            (
                "id=TOKEN,type=file",
                Some(SecretSource::File("TOKEN".into())),
            ),
            ("id=a", Some(SecretSource::File("a".into()))),
            (
                "\"id=a\",\"src=/x,y\"",
                Some(SecretSource::File("/x,y".into())),
            ),
            ("id=a,env=NONE", None),
            ("src=/f", None),
            ("id=a,src=/f,env=TOKEN", None),
            ("id=a,mode=1", None),
            ("id=a,type=x", None),
        ] {
            assert_eq!(
                secret(text, &variable).ok().map(|s| s.source),
                source,
                "{text}"
            );
        }
    }
}
