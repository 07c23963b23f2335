//! Where a name leads: `registries.conf` of the containers tools, and mirrors
//! that were given by hand. Pure: texts in, answers out.
//!
//! # Specification
//! containers-registries.conf(5), version 2. Not read: the old version 1, and
//! `short-name-mode`; names without a registry are tried in their order, as in
//! its mode `permissive`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::reference::{DEFAULT_REGISTRY, Reference, ReferenceError};

/// Which pulls may use a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum PullFrom {
    /// All.
    #[default]
    #[serde(rename = "all")]
    All,
    /// Those by a digest.
    #[serde(rename = "digest-only")]
    DigestOnly,
    /// Those by a tag.
    #[serde(rename = "tag-only")]
    TagOnly,
}

impl PullFrom {
    /// Whether a pull by digest, or else by tag, may use it.
    pub(super) fn allows(self, by_digest: bool) -> bool {
        match self {
            Self::All => true,
            Self::DigestOnly => by_digest,
            Self::TagOnly => !by_digest,
        }
    }
}

/// A repository on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `host[:port]`.
    pub registry: String,
    /// Path.
    pub repository: String,
    /// Plain http, and certificates that nobody knows, are allowed.
    pub insecure: bool,
}

/// Where an image really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Asked first when pulling, in this order.
    pub mirrors: Vec<(Place, PullFrom)>,
    /// Asked last, and pushed to.
    pub primary: Place,
}

/// Why the configuration can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistriesError {
    /// A file is malformed.
    #[error("{file}: {reason}")]
    Malformed {
        /// The file, or what else the text came from.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A name may not be used.
    #[error("{name} is blocked by registries.conf (prefix {prefix})")]
    Blocked {
        /// What was asked for.
        name: String,
        /// The entry that blocks it.
        prefix: String,
    },
    /// An entry makes a name that is none.
    #[error("registries.conf leads from {name} to {target}: {reason}")]
    Target {
        /// What was asked for.
        name: String,
        /// What came of it.
        target: String,
        /// Why that is no name.
        reason: String,
    },
}

/// All that is configured.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    search: Vec<String>,
    aliases: BTreeMap<String, String>,
    rules: BTreeMap<String, Rule>,
}

#[derive(Debug, Clone, Default)]
struct Rule {
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

#[derive(Debug, Clone)]
struct Mirror {
    location: String,
    insecure: bool,
    pull: PullFrom,
    /// Given on the command line, not in a file.
    by_hand: bool,
}

#[derive(Deserialize)]
struct File {
    #[serde(default, rename = "unqualified-search-registries")]
    search: Option<Vec<String>>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    #[serde(default)]
    registry: Vec<RegistryEntry>,
}

#[derive(Deserialize)]
struct RegistryEntry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default, rename = "mirror-by-digest-only")]
    by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorEntry>,
}

#[derive(Deserialize)]
struct MirrorEntry {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default, rename = "pull-from-mirror")]
    pull: PullFrom,
}

impl Registries {
    /// Adds the text of one file; what it says wins over earlier ones. An
    /// entry replaces an earlier one of the same prefix.
    ///
    /// # Errors
    /// When it is malformed; `file` is for the message.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), RegistriesError> {
        let malformed = |reason: String| RegistriesError::Malformed {
            file: file.to_owned(),
            reason,
        };
        let parsed: File = toml::from_str(text).map_err(|e| malformed(e.to_string()))?;
        if let Some(search) = parsed.search {
            self.search = search.into_iter().map(|s| trimmed(&s)).collect();
        }
        for (short, full) in parsed.aliases {
            if short.contains([':', '@']) || is_qualified(&short) {
                return Err(malformed(format!(
                    "the alias {short:?} must be a name without registry, tag and digest"
                )));
            }
            if full.is_empty() {
                self.aliases.remove(&short);
            } else {
                self.aliases.insert(short, full);
            }
        }
        for entry in parsed.registry {
            let (prefix, rule) = entry.rule().map_err(malformed)?;
            self.rules.insert(prefix, rule);
        }
        Ok(())
    }

    /// Adds a mirror by hand: `MIRROR` for Docker Hub, or `REGISTRY=MIRROR`. A
    /// mirror is `host[:port][/path]`, with `http://` before it for plain
    /// http. It is asked before those of files.
    ///
    /// # Errors
    /// The reason why it is none.
    pub fn add_mirror(&mut self, text: &str) -> Result<(), String> {
        let (prefix, mirror) = text.split_once('=').unwrap_or((DEFAULT_REGISTRY, text));
        let (location, insecure) = match mirror.strip_prefix("http://") {
            Some(rest) => (rest, true),
            None => (mirror.strip_prefix("https://").unwrap_or(mirror), false),
        };
        let (prefix, location) = (trimmed(prefix), trimmed(location));
        for name in [&prefix, &location] {
            Reference::parse(&format!("{name}/x"))
                .map_err(|_| format!("{name:?} is not host[:port][/path]"))?;
            if !is_qualified(&format!("{name}/x")) {
                return Err(format!("{name:?} is not host[:port][/path]"));
            }
        }
        // The mirrors of a file for this registry stay, behind it.
        let rule = self.rules.entry(prefix.clone()).or_insert_with(|| Rule {
            location: prefix,
            ..Rule::default()
        });
        let at = rule.mirrors.iter().take_while(|m| m.by_hand).count();
        let mirror = Mirror {
            location,
            insecure,
            pull: PullFrom::All,
            by_hand: true,
        };
        rule.mirrors.insert(at, mirror);
        Ok(())
    }

    /// What `name` may mean, the likeliest first: itself where it says its
    /// registry; its alias; the registries that are searched; Docker Hub.
    ///
    /// # Errors
    /// When one of them is no reference.
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>, ReferenceError> {
        if is_qualified(name) {
            return Ok(vec![Reference::parse(name)?]);
        }
        let (path, rest) = match name.find([':', '@']) {
            Some(at) => name.split_at(at),
            None => (name, ""),
        };
        if let Some(full) = self.aliases.get(path) {
            return Ok(vec![Reference::parse(&format!("{full}{rest}"))?]);
        }
        if self.search.is_empty() {
            return Ok(vec![Reference::parse(name)?]);
        }
        let full = self.search.iter().map(|at| format!("{at}/{name}"));
        full.map(|name| Reference::parse(&name)).collect()
    }

    /// Where `reference` leads.
    ///
    /// # Errors
    /// When it is blocked, or an entry makes no name of it.
    pub fn route(&self, reference: &Reference) -> Result<Route, RegistriesError> {
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let found = self
            .rules
            .iter()
            .filter_map(|(prefix, rule)| Some((matched(prefix, &name)?, prefix, rule)))
            .max_by_key(|(length, prefix, _)| (*length, !prefix.starts_with("*.")));
        let Some((length, prefix, rule)) = found else {
            return Ok(Route {
                mirrors: Vec::new(),
                primary: Place {
                    registry: reference.registry().to_owned(),
                    repository: reference.repository().to_owned(),
                    insecure: false,
                },
            });
        };
        if rule.blocked {
            return Err(RegistriesError::Blocked {
                name,
                prefix: prefix.clone(),
            });
        }
        let place = |location: &str, insecure: bool| {
            let target = match location {
                "" => name.clone(),
                location => format!("{location}{}", &name[length..]),
            };
            let parsed = Reference::parse(&target);
            match parsed {
                Ok(parsed) if is_qualified(&target) => Ok(Place {
                    registry: parsed.registry().to_owned(),
                    repository: parsed.repository().to_owned(),
                    insecure,
                }),
                other => Err(RegistriesError::Target {
                    name: name.clone(),
                    target,
                    reason: match other {
                        Ok(_) => "it has no registry".into(),
                        Err(e) => e.reason,
                    },
                }),
            }
        };
        let mirrors = rule.mirrors.iter().map(|m| {
            let place = place(&m.location, m.insecure)?;
            Ok((place, m.pull))
        });
        Ok(Route {
            mirrors: mirrors.collect::<Result<_, _>>()?,
            primary: place(&rule.location, rule.insecure)?,
        })
    }
}

impl RegistryEntry {
    fn rule(self) -> Result<(String, Rule), String> {
        let location = trimmed(&self.location);
        let prefix = match trimmed(&self.prefix) {
            prefix if prefix.is_empty() => location.clone(),
            prefix => prefix,
        };
        if prefix.is_empty() {
            return Err("a [[registry]] has neither prefix nor location".into());
        }
        if location.is_empty() && !prefix.starts_with("*.") {
            return Err(format!("the [[registry]] {prefix} has no location"));
        }
        let by_digest_only = self.by_digest_only;
        let mirrors = self.mirror.into_iter().map(|m| Mirror {
            location: trimmed(&m.location),
            insecure: m.insecure,
            pull: match m.pull {
                PullFrom::All if by_digest_only => PullFrom::DigestOnly,
                pull => pull,
            },
            by_hand: false,
        });
        let rule = Rule {
            location,
            insecure: self.insecure,
            blocked: self.blocked,
            mirrors: mirrors.collect(),
        };
        Ok((prefix, rule))
    }
}

fn trimmed(text: &str) -> String {
    text.trim().trim_end_matches('/').to_owned()
}

/// Whether a name says its registry.
fn is_qualified(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| {
        first == "localhost"
            || first.contains(['.', ':'])
            || first.bytes().any(|b| b.is_ascii_uppercase())
    })
}

/// How much of `name` a prefix covers: whole components only. `*.x` covers
/// the host names below `x`.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    let length = match prefix.strip_prefix('*') {
        None => name.starts_with(prefix).then_some(prefix.len())?,
        Some(below) => {
            let (domain, path) = match below.find('/') {
                Some(at) => below.split_at(at),
                None => (below, ""),
            };
            let host = name.split('/').next().unwrap_or_default();
            let bare = match domain.contains(':') {
                true => host,
                false => host.split(':').next().unwrap_or_default(),
            };
            if !bare.ends_with(domain) || bare.len() <= domain.len() {
                return None;
            }
            let rest = &name[bare.len()..];
            rest.starts_with(path).then_some(bare.len() + path.len())?
        }
    };
    let rest = &name[length..];
    (rest.is_empty() || rest.starts_with(['/', ':'])).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"
unqualified-search-registries = ["quay.io", "docker.io"]
[aliases]
"fedora" = "registry.fedoraproject.org/fedora"

[[registry]]
location = "docker.io"
mirror-by-digest-only = true
[[registry.mirror]]
location = "hub.lan:5000/proxy/"
insecure = true
[[registry.mirror]]
location = "mirror.gcr.io"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "docker.io/team"
location = "r.lan/copy"

[[registry]]
prefix = "*.corp.example"
blocked = true

[[registry]]
prefix = "ok.corp.example"
location = "ok.corp.example"
insecure = true

[[registry]]
prefix = "*.any.example/sub"
location = "all.example"

[[registry]]
prefix = "bad.example"
location = "no registry"
"#;

    fn registries() -> Registries {
        let mut registries = Registries::default();
        registries.add("a.conf", CONF).unwrap();
        registries
    }

    /// `mirror,mirror*|primary`, with `!` before what is insecure.
    fn shown(registries: &Registries, name: &str) -> String {
        let place = |p: &Place| {
            let mark = if p.insecure { "!" } else { "" };
            format!("{mark}{}/{}", p.registry, p.repository)
        };
        match registries.route(&Reference::parse(name).unwrap()) {
            Ok(route) => {
                let mirrors = route.mirrors.iter();
                let mirrors = mirrors.map(|(p, from)| format!("{} {from:?}", place(p)));
                let mirrors: Vec<_> = mirrors.collect();
                format!("{}|{}", mirrors.join(","), place(&route.primary))
            }
            Err(RegistriesError::Blocked { prefix, .. }) => format!("blocked by {prefix}"),
            Err(_) => "error".into(),
        }
    }

    #[test]
    fn names_lead_where_the_longest_prefix_says() {
        let registries = registries();
        for (name, expected) in [
            (
                "debian:12",
                "!hub.lan:5000/proxy/library/debian DigestOnly,mirror.gcr.io/library/debian TagOnly|docker.io/library/debian",
            ),
            ("docker.io/team/x:1", "|r.lan/copy/x"),
            (
                "docker.io/teams/x",
                "!hub.lan:5000/proxy/teams/x DigestOnly,mirror.gcr.io/teams/x TagOnly|docker.io/teams/x",
            ),
            ("docker.io.evil.example/x", "|docker.io.evil.example/x"),
            ("a.corp.example/x", "blocked by *.corp.example"),
            ("a.b.corp.example:5000/x", "blocked by *.corp.example"),
            ("corp.example/x", "|corp.example/x"),
            ("evilcorp.example/x", "|evilcorp.example/x"),
            ("ok.corp.example/x", "|!ok.corp.example/x"),
            ("ok.corp.example:80/x", "|!ok.corp.example:80/x"),
            ("a.any.example/sub/x", "|all.example/x"),
            ("a.any.example/subx/x", "|a.any.example/subx/x"),
            ("bad.example/x", "error"),
        ] {
            assert_eq!(shown(&registries, name), expected, "{name}");
        }
    }

    #[test]
    fn short_names_are_searched() {
        let mut registries = registries();
        let shown = |registries: &Registries, name: &str| {
            let all = registries.candidates(name).unwrap();
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (name, expected) in [
            ("fedora:40", &["registry.fedoraproject.org/fedora:40"][..]),
            ("x", &["quay.io/x:latest", "docker.io/library/x:latest"]),
            ("a/b:1", &["quay.io/a/b:1", "docker.io/a/b:1"]),
            ("r.io/fedora", &["r.io/fedora:latest"]),
            ("localhost/fedora", &["localhost/fedora:latest"]),
        ] {
            assert_eq!(shown(&registries, name), expected, "{name}");
        }
        let later = "unqualified-search-registries = []\naliases = { fedora = \"\" }";
        registries.add("b.conf", later).unwrap();
        assert_eq!(
            shown(&registries, "fedora"),
            ["docker.io/library/fedora:latest"]
        );
        let none = Registries::default();
        assert_eq!(shown(&none, "x"), ["docker.io/library/x:latest"]);
        assert!(none.candidates("X Y").is_err());
    }

    #[test]
    fn mirrors_by_hand_come_first() {
        let mut registries = registries();
        registries.add_mirror("https://one.example/p/").unwrap();
        registries.add_mirror("http://two.example:81").unwrap();
        registries.add_mirror("r.io=r.lan:5000/r").unwrap();
        assert_eq!(
            shown(&registries, "docker.io/a/b"),
            "one.example/p/a/b All,!two.example:81/a/b All,\
             !hub.lan:5000/proxy/a/b DigestOnly,mirror.gcr.io/a/b TagOnly|docker.io/a/b"
        );
        assert_eq!(shown(&registries, "r.io/x"), "r.lan:5000/r/x All|r.io/x");
        for bad in ["", "r.io=", "nodots", "=x.io", "ftp://x.io", "a b.io"] {
            assert!(registries.add_mirror(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn malformed_files_say_where() {
        for text in [
            "[[registry]]\nprefix = \"x.io\"",
            "[[registry]]\nblocked = true",
            "aliases = { \"x.io/a\" = \"b.io/c\" }",
            "unqualified-search-registries = 3",
            "[[registry]]\nlocation = \"x.io\"\n[[registry.mirror]]\nlocation = \"y.io\"\npull-from-mirror = \"never\"",
            "= =",
        ] {
            let error = Registries::default().add("/etc/x.conf", text).unwrap_err();
            assert!(error.to_string().starts_with("/etc/x.conf: "), "{error}");
        }
    }
}
