//! Which variables an instruction sees.
//!
//! | where | ARG before FROM | platform ARGs | ARG in the stage | ENV |
//! |---|---|---|---|---|
//! | FROM | yes | yes | – | – |
//! | a stage | as default of a bare `ARG name` | as default of a bare `ARG name` | from its line on, and in stages built on this one | wins over every ARG |
//!
//! # Specification
//! Dockerfile reference, "ARG" and "Environment replacement".

use std::collections::HashMap;

use crate::platform::Platform;

/// Arguments that RUN sees without a declaration, and that enter neither the
/// history nor a key unless they are declared.
pub const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// A list of names and values in the order of their first appearance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vars {
    list: Vec<(String, Option<String>)>,
    places: HashMap<String, usize>,
}

impl Vars {
    /// The value; `None` where the name is unknown or has no value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.list[*self.places.get(name)?].1.as_deref()
    }

    /// Sets the value, keeping the place of a name that is known.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        match self.places.get(name) {
            Some(place) => self.list[*place].1 = value,
            None => {
                self.places.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.list.iter().map(|(n, v)| (n.as_str(), v.as_deref()))
    }
}

/// The ARGs that are there without a declaration before the first FROM.
pub fn platform_args(
    target: &Platform,
    build: &Platform,
    stage: Option<&str>,
    overrides: &[(String, String)],
) -> Vars {
    let mut vars = Vars::default();
    let mut add = |prefix: &str, p: &Platform| {
        let text = match &p.os_version {
            Some(version) => {
                let variant = p.variant.as_ref().map(|v| format!("/{v}"));
                let variant = variant.unwrap_or_default();
                format!("{}({version})/{}{variant}", p.os, p.architecture)
            }
            None => p.to_string(),
        };
        let version = p.os_version.clone().unwrap_or_default();
        let variant = p.variant.clone().unwrap_or_default();
        for (name, value) in [
            ("PLATFORM", text),
            ("OS", p.os.clone()),
            ("OSVERSION", version),
            ("ARCH", p.architecture.clone()),
            ("VARIANT", variant),
        ] {
            vars.set(&format!("{prefix}{name}"), Some(value));
        }
    };
    add("BUILD", build);
    add("TARGET", target);
    vars.set("TARGETSTAGE", Some(stage.unwrap_or("default").to_owned()));
    for (name, value) in overrides {
        if vars.get(name).is_some() {
            vars.set(name, Some(value.clone()));
        }
    }
    vars
}

/// Splits the `NAME=value` strings of an image config.
pub fn split_env(env: &[String]) -> impl Iterator<Item = (&str, &str)> {
    env.iter().map(|e| e.split_once('=').unwrap_or((e, "")))
}

/// Where the names of one config's environment stand in it.
#[derive(Debug, Clone, Default)]
pub struct EnvPlaces(HashMap<String, (usize, usize)>);

impl EnvPlaces {
    /// The places in `env`.
    pub fn of(env: &[String]) -> Self {
        let mut places: HashMap<String, (usize, usize)> = HashMap::new();
        for (i, (name, _)) in split_env(env).enumerate() {
            places
                .entry(name.to_owned())
                .and_modify(|(_, last)| *last = i)
                .or_insert((i, i));
        }
        Self(places)
    }

    /// The value of `name` in `env`. The last of equal names counts, as for a
    /// process.
    pub fn get<'e>(&self, env: &'e [String], name: &str) -> Option<&'e str> {
        let (_, last) = self.0.get(name)?;
        Some(env.get(*last)?.split_once('=').map_or("", |(_, v)| v))
    }

    /// Sets `name` in `env`, in place where it is known.
    pub fn set(&mut self, env: &mut Vec<String>, name: &str, value: &str) {
        let text = format!("{name}={value}");
        match self.0.get(name) {
            Some((first, _)) => env[*first] = text,
            None => {
                self.0.insert(name.to_owned(), (env.len(), env.len()));
                env.push(text);
            }
        }
    }
}

/// Sets `name` in a config's environment, in place where it is known. For one
/// of many, [`EnvPlaces::set`].
pub fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    EnvPlaces::of(env).set(env, name, value);
}

/// What an instruction of a stage sees: ENV first, then ARG. For one of many
/// questions, [`EnvPlaces::get`].
pub fn lookup(env: &[String], args: &Vars, name: &str) -> Option<String> {
    let from_env = split_env(env).filter(|(n, _)| *n == name).last();
    from_env
        .map(|(_, v)| v.to_owned())
        .or_else(|| args.get(name).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_wins_over_arg() {
        let mut env = vec!["A=env".to_owned(), "B".to_owned()];
        let mut args = Vars::default();
        args.set("A", Some("arg".into()));
        args.set("C", Some("arg".into()));
        args.set("D", None);
        let get = |env: &[String], name: &str| {
            let found = lookup(env, &args, name);
            if let Some(in_env) = EnvPlaces::of(env).get(env, name) {
                assert_eq!(found.as_deref(), Some(in_env));
            }
            found
        };
        assert_eq!(get(&env, "A").as_deref(), Some("env"));
        assert_eq!(get(&env, "B").as_deref(), Some(""));
        assert_eq!(get(&env, "C").as_deref(), Some("arg"));
        assert_eq!(get(&env, "D"), None);
        set_env(&mut env, "A", "new");
        assert_eq!(env, ["A=new", "B"]);
    }

    #[test]
    fn platform_arguments_can_be_overridden() {
        let p = Platform::new("linux", "arm");
        let over = [
            ("TARGETARCH".to_owned(), "x".to_owned()),
            ("OTHER".into(), "y".into()),
        ];
        let vars = platform_args(&p, &Platform::new("linux", "amd64"), None, &over);
        let get = |n| vars.get(n).map(str::to_owned);
        assert_eq!(get("TARGETPLATFORM").as_deref(), Some("linux/arm/v7"));
        assert_eq!(get("TARGETVARIANT").as_deref(), Some("v7"));
        assert_eq!(get("BUILDVARIANT").as_deref(), Some(""));
        assert_eq!(get("TARGETARCH").as_deref(), Some("x"));
        assert_eq!(get("TARGETSTAGE").as_deref(), Some("default"));
        assert_eq!(get("OTHER"), None);
    }
}
