//! What instructions do to the image config, and the text that the history
//! keeps of them.
//!
//! # Specification
//! image-spec `config.md`; Dockerfile reference.

use std::fmt::Write as _;

use super::scope::EnvPlaces;
use crate::dockerfile::ast::{Command, Healthcheck};
use crate::image::config::Empty;
use crate::image::{self, ContainerConfig};

/// The shell of the shell form where no SHELL was given.
pub const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// The PATH that an image gets when it has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The words to run: the shell form behind the config's shell.
pub fn command_words(config: &ContainerConfig, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(line) => with_shell(config, line),
    }
}

/// `line` behind the config's shell.
pub fn with_shell(config: &ContainerConfig, line: &str) -> Vec<String> {
    let mut words = match &config.shell {
        Some(shell) if !shell.is_empty() => shell.clone(),
        _ => DEFAULT_SHELL.map(str::to_owned).to_vec(),
    };
    words.push(line.to_owned());
    words
}

/// CMD.
pub fn cmd(config: &mut ContainerConfig, command: &Command) -> String {
    let words = command_words(config, command);
    let text = format!("CMD {}", quoted(&words));
    config.cmd = none_if_empty(words);
    config.args_escaped = true;
    text
}

/// An empty list takes away what the base has, and is not written out.
fn none_if_empty(words: Vec<String>) -> Option<Vec<String>> {
    Some(words).filter(|w| !w.is_empty())
}

/// ENTRYPOINT; clears a CMD that this stage has not set itself.
pub fn entrypoint(config: &mut ContainerConfig, command: &Command, cmd_is_own: bool) -> String {
    let words = command_words(config, command);
    let text = format!("ENTRYPOINT {}", quoted(&words));
    config.entrypoint = none_if_empty(words);
    if !cmd_is_own {
        config.cmd = None;
    }
    text
}

/// ENV, with expanded pairs.
pub fn env(
    config: &mut ContainerConfig,
    places: &mut EnvPlaces,
    pairs: &[(String, String)],
) -> String {
    for (name, value) in pairs {
        places.set(&mut config.env, name, value);
    }
    key_values("ENV", pairs)
}

/// LABEL, with expanded pairs.
pub fn label(config: &mut ContainerConfig, pairs: &[(String, String)]) -> String {
    for (name, value) in pairs {
        config.labels.insert(name.clone(), value.clone());
    }
    key_values("LABEL", pairs)
}

fn key_values(name: &str, pairs: &[(String, String)]) -> String {
    let mut text = name.to_owned();
    for (key, value) in pairs {
        let _ = write!(text, " {key}={value}");
    }
    text
}

/// EXPOSE, with expanded words.
///
/// # Errors
/// A word that is no port.
pub fn expose(config: &mut ContainerConfig, words: &[String]) -> Result<String, String> {
    let mut ports = Vec::new();
    for word in words {
        ports.extend(parse_ports(word)?);
    }
    ports.sort();
    ports.dedup();
    let names: Vec<String> = ports
        .iter()
        .map(|(n, proto)| format!("{n}/{proto}"))
        .collect();
    for name in &names {
        config.exposed_ports.insert(name.clone(), Empty {});
    }
    Ok(format!("EXPOSE [{}]", names.join(" ")))
}

/// `port`, `from-to`, each with `/protocol`, behind an optional host part that
/// is dropped: `[ip:][host port:]port`.
fn parse_ports(word: &str) -> Result<Vec<(u16, String)>, String> {
    let fail = |why: &str| {
        Err(format!(
            "invalid port {word:?}: {why}; write a port or a range, as in 8080 or 7000-8000/udp"
        ))
    };
    let (rest, protocol) = match word.split_once('/') {
        Some((_, "")) => return fail("the protocol is empty"),
        Some((rest, protocol)) => (rest, protocol.to_ascii_lowercase()),
        None => (word, "tcp".to_owned()),
    };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return fail("the protocol is not tcp, udp or sctp");
    }
    // An IPv6 address stands in brackets, so the last colon is the port's.
    let range = rest.rsplit_once(':').map_or(rest, |(_, port)| port);
    let number = |text: &str| text.parse::<u16>().ok();
    let (first, last) = match range.split_once('-') {
        Some((a, b)) => (number(a), number(b)),
        None => (number(range), number(range)),
    };
    match (first, last) {
        (Some(first), Some(last)) if first <= last => {
            Ok((first..=last).map(|n| (n, protocol.clone())).collect())
        }
        (Some(_), Some(_)) => fail("the range ends before it begins"),
        _ => fail("it is no number from 0 to 65535"),
    }
}

/// VOLUME, with expanded paths.
///
/// # Errors
/// An empty path.
pub fn volume(config: &mut ContainerConfig, paths: &[String]) -> Result<String, String> {
    for path in paths {
        if path.trim().is_empty() {
            return Err("VOLUME specified can not be an empty string".into());
        }
        config.volumes.insert(path.clone(), Empty {});
    }
    Ok(format!("VOLUME [{}]", paths.join(" ")))
}

/// SHELL.
pub fn shell(config: &mut ContainerConfig, words: &[String]) -> String {
    config.shell = Some(words.to_vec());
    format!("SHELL [{}]", words.join(" "))
}

/// STOPSIGNAL, expanded.
///
/// # Errors
/// A word that is no signal.
pub fn stop_signal(config: &mut ContainerConfig, signal: &str) -> Result<String, String> {
    if !is_signal(signal) {
        return Err(format!(
            "invalid signal {signal:?}; write a name or a number, as in SIGTERM or 15"
        ));
    }
    config.stop_signal = signal.to_owned();
    Ok(format!("STOPSIGNAL {signal}"))
}

fn is_signal(text: &str) -> bool {
    if let Ok(n) = text.parse::<u32>() {
        return (1..=64).contains(&n);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    const NAMES: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
        "RTMIN", "RTMAX",
    ];
    let offset = |prefix: &str, sign: char| {
        name.strip_prefix(prefix)
            .and_then(|r| r.strip_prefix(sign))
            .and_then(|n| n.parse::<u32>().ok())
            .is_some_and(|n| (1..=15).contains(&n))
    };
    NAMES.contains(&name) || offset("RTMIN", '+') || offset("RTMAX", '-')
}

/// HEALTHCHECK.
pub fn healthcheck(config: &mut ContainerConfig, check: &Healthcheck) -> String {
    let test = match &check.command {
        None => vec!["NONE".to_owned()],
        Some(Command::Shell(line)) => vec!["CMD-SHELL".to_owned(), line.clone()],
        Some(Command::Exec(words)) => {
            let mut test = vec!["CMD".to_owned()];
            test.extend(words.iter().cloned());
            test
        }
    };
    let text = format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        test.join(" "),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    );
    config.healthcheck = Some(image::Healthcheck {
        test,
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    });
    text
}

/// Nanoseconds the way the history has them: `1m30s`, `1.5s`, `300ms`.
fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |whole: u64, unit: u64| {
        let rest = n % unit;
        if rest == 0 {
            return whole.to_string();
        }
        let digits = format!("{:0width$}", rest, width = unit.ilog10() as usize);
        format!("{whole}.{}", digits.trim_end_matches('0'))
    };
    if n == 0 {
        return "0s".into();
    }
    if n < 1_000 {
        return format!("{sign}{n}ns");
    }
    if n < 1_000_000 {
        return format!("{sign}{}µs", fraction(n / 1_000, 1_000));
    }
    if n < 1_000_000_000 {
        return format!("{sign}{}ms", fraction(n / 1_000_000, 1_000_000));
    }
    let seconds = n / 1_000_000_000;
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let s = fraction(s, 1_000_000_000);
    match (h, m) {
        (0, 0) => format!("{sign}{s}s"),
        (0, _) => format!("{sign}{m}m{s}s"),
        _ => format!("{sign}{h}h{m}m{s}s"),
    }
}

/// `["a" "b"]`: how the history has lists of words.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| quote(w)).collect();
    format!("[{}]", words.join(" "))
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let mut c = ContainerConfig::default();
        let words = [
            "127.0.0.1:80:80",
            "[::1]:8080:8080",
            "5000:5000",
            "8000",
            "90-91/UDP",
        ];
        let text = expose(&mut c, &words.map(str::to_owned)).unwrap();
        assert_eq!(
            text,
            "EXPOSE [80/tcp 90/udp 91/udp 5000/tcp 8000/tcp 8080/tcp]"
        );
        assert_eq!(c.exposed_ports.len(), 6);
        for bad in ["", "a", "80/", "80/x", "70000", "9-1", "-1"] {
            assert!(expose(&mut c, &[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn history_texts() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (300_000_000, "300ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(nanos), text);
        }
        assert_eq!(quote("a\"b\\\n\u{1}é"), "\"a\\\"b\\\\\\n\\x01é\"");
    }

    #[test]
    fn entrypoint_clears_an_inherited_command() {
        let mut c = ContainerConfig::default();
        cmd(&mut c, &Command::Shell("x".into()));
        assert_eq!(
            c.cmd.as_deref(),
            Some(&["/bin/sh", "-c", "x"].map(str::to_owned)[..])
        );
        entrypoint(&mut c, &Command::Exec(vec!["e".into()]), true);
        assert!(c.cmd.is_some());
        entrypoint(&mut c, &Command::Exec(vec!["e".into()]), false);
        assert_eq!(c.cmd, None);
    }

    #[test]
    fn signals() {
        for good in ["SIGTERM", "term", "9", "RTMIN+3", "SIGRTMAX-1"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "SIG", "0", "65", "SIGFOO", "RTMIN+99"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
