//! `shiplap images`, `tag` and `rmi`: the names in the store.

use std::collections::{BTreeMap, HashMap};

use clap::Args;
use serde_json::{Value, json};
use shiplap::context::glob::Glob;
use shiplap::digest::Digest;
use shiplap::image::{Descriptor, Image};
use shiplap::reference::Reference;
use shiplap::store::Store;

use super::df::{self, Sizes};
use super::error::Usage;
use super::{Format, Session};
use crate::ui::{self, format, output, table};

const EXAMPLES: &str = "\
Examples:
    shiplap images
    shiplap images --digests debian
    shiplap images --filter label=stage=test --filter until=2026-01-31T00:00:00Z
    shiplap images --format json";

/// List the images in the store
///
/// The size is that of the image's layers as they are stored, compressed, each
/// counted once; the JSON form says what of it other images share.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImagesArgs {
    /// Show only images of this name
    name: Option<String>,
    /// Show only images that fit: reference=PATTERN, label=NAME[=VALUE],
    /// before=IMAGE, since=IMAGE, until=TIME (RFC 3339)
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Show digests too
    #[arg(long)]
    digests: bool,
    /// Print ids and digests in full
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// A name and what it stands for.
struct Row {
    name: String,
    descriptor: Descriptor,
    image: Option<Image>,
}

impl Row {
    /// Its layers' sizes, each layer once.
    fn size(image: &Image) -> u64 {
        let layers = image.manifest.layers.iter();
        let once: BTreeMap<_, _> = layers.map(|l| (&l.digest, l.size)).collect();
        once.values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    fn created(&self) -> Option<jiff::Timestamp> {
        self.image.as_ref()?.config.created.as_deref()?.parse().ok()
    }

    /// Repository and tag for people.
    fn parts(&self) -> (String, String) {
        match Reference::parse(&self.name) {
            Ok(reference) => (
                reference.familiar_name(),
                reference.tag().unwrap_or("<none>").to_owned(),
            ),
            // Other tools' names need not be references.
            Err(_) => (self.name.clone(), "<none>".into()),
        }
    }

    fn cells(&self, now: i64, in_full: bool) -> [String; 5] {
        let (repository, tag) = self.parts();
        let Some(image) = &self.image else {
            let damaged = || "<damaged>".to_owned();
            return [repository, tag, damaged(), damaged(), damaged()];
        };
        let id = &image.manifest.config.digest;
        let id = if in_full { id.as_str() } else { id.short() };
        [
            repository,
            tag,
            id.into(),
            age(image.config.created.as_deref(), now),
            format::size(Self::size(image)),
        ]
    }

    fn json(&self, sizes: &HashMap<Digest, Sizes>) -> Value {
        let sizes = sizes.get(&self.descriptor.digest);
        let (repository, tag) = self.parts();
        let image = self.image.as_ref();
        json!({
            "name": self.name,
            "repository": repository,
            "tag": tag,
            "digest": self.descriptor.digest,
            "media_type": self.descriptor.media_type,
            "id": image.map(|i| &i.manifest.config.digest),
            "created": image.and_then(|i| i.config.created.as_deref()),
            "platform": image.map(|i| i.config.platform().to_string()),
            "size": image.map(Self::size),
            "shared_size": sizes.map(|s| s.all - s.own),
            "unique_size": sizes.map(|s| s.own),
            "damaged": image.is_none(),
        })
    }
}

/// How long ago an RFC 3339 time was.
pub(super) fn age(created: Option<&str>, now: i64) -> String {
    match created.map(str::parse::<jiff::Timestamp>) {
        Some(Ok(time)) => format::age(now - time.as_second()),
        _ => "N/A".into(),
    }
}

impl ImagesArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let wanted = self.name.as_deref();
        let limits = self.limits(&store)?;
        let rows: Vec<Row> = store
            .refs()?
            .into_iter()
            .filter(|(name, _)| wanted.is_none_or(|wanted| is_of(name, wanted)))
            .map(|(name, descriptor)| row(&store, name, descriptor))
            .filter(|row| self.filter.iter().all(|f| f.fits(row)))
            .filter(|row| limits.iter().all(|limit| limit.fits(row)))
            .collect();
        if self.format == Format::Json {
            let sizes = df::sizes(&store)?;
            let list: Vec<Value> = rows.iter().map(|row| row.json(&sizes)).collect();
            return output::json(&list);
        }
        let now = jiff::Timestamp::now().as_second();
        let cells: Vec<_> = rows
            .iter()
            .map(|row| row.cells(now, self.no_trunc))
            .collect();
        if self.quiet {
            let ids: String = cells.iter().map(|c| format!("{}\n", c[2])).collect();
            return output::result(&ids);
        }
        if self.digests {
            let header = ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"];
            let digests = rows.iter().map(|row| row.descriptor.digest.to_string());
            let cells: Vec<[String; 6]> = cells
                .into_iter()
                .zip(digests)
                .map(|([repository, tag, id, created, size], digest)| {
                    [repository, tag, digest, id, created, size]
                })
                .collect();
            return output::result(&table::table(header, &cells));
        }
        let header = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
        output::result(&table::table(header, &cells))
    }

    /// The times that `before` and `since` stand for.
    fn limits(&self, store: &Store) -> anyhow::Result<Vec<Limit>> {
        let mut limits = Vec::new();
        for filter in &self.filter {
            let (name, before) = match filter {
                Filter::Before(name) => (name, true),
                Filter::Since(name) => (name, false),
                _ => continue,
            };
            let time = row(store, name.clone(), store.find(name)?)
                .created()
                .ok_or_else(|| Usage::error(format!("{name} does not say when it was made")))?;
            limits.push(Limit { time, before });
        }
        Ok(limits)
    }
}

/// A time before or after which images must have been made.
struct Limit {
    time: jiff::Timestamp,
    before: bool,
}

impl Limit {
    fn fits(&self, row: &Row) -> bool {
        row.created().is_some_and(|t| {
            if self.before {
                t < self.time
            } else {
                t > self.time
            }
        })
    }
}

/// What images must have.
#[derive(Debug, Clone)]
enum Filter {
    Reference(Glob),
    Label(String, Option<String>),
    Before(String),
    Since(String),
    Until(jiff::Timestamp),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
        Ok(match key {
            "reference" => {
                Self::Reference(Glob::parse(value.as_bytes()).map_err(|e| e.to_string())?)
            }
            "label" => match value.split_once('=') {
                Some((name, value)) => Self::Label(name.into(), Some(value.into())),
                None => Self::Label(value.into(), None),
            },
            "before" => Self::Before(value.into()),
            "since" => Self::Since(value.into()),
            "until" => Self::Until(value.parse().map_err(|_| {
                "until must be a time, as in until=2026-01-31T00:00:00Z".to_owned()
            })?),
            _ => {
                return Err(format!(
                    "there is no filter {key:?}; there are reference, label, before, since, until"
                ));
            }
        })
    }

    fn fits(&self, row: &Row) -> bool {
        match self {
            Self::Reference(glob) => {
                let (repository, tag) = row.parts();
                glob.matches(repository.as_bytes())
                    || glob.matches(format!("{repository}:{tag}").as_bytes())
            }
            Self::Label(name, value) => row.image.as_ref().is_some_and(|image| {
                let found = image.config.config.labels.get(name);
                found.is_some_and(|f| value.as_ref().is_none_or(|v| v == f))
            }),
            Self::Until(time) => row.created().is_some_and(|t| t < *time),
            // They need the store.
            Self::Before(_) | Self::Since(_) => true,
        }
    }
}

/// Whether `name` is `wanted`, or `wanted` with any tag where it has none.
fn is_of(name: &str, wanted: &str) -> bool {
    let (Ok(name), Ok(reference)) = (Reference::parse(name), Reference::parse(wanted)) else {
        return name == wanted;
    };
    let has_tag = wanted
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains([':', '@']));
    let place = |r: &Reference| (r.registry().to_owned(), r.repository().to_owned());
    name == reference || !has_tag && place(&name) == place(&reference)
}

fn row(store: &Store, name: String, descriptor: Descriptor) -> Row {
    let image = match store.load_image(&descriptor, None) {
        Ok(image) => Some(image),
        Err(error) => {
            let text = format!("{name}: {error}");
            output::message(&format!("warning: {}\n", ui::escape::text(&text)));
            None
        }
    };
    Row {
        name,
        descriptor,
        image,
    }
}

/// Give an image another name
#[derive(Debug, Args)]
pub(super) struct TagArgs {
    /// Name, digest or id of the image
    source: String,
    /// New names
    #[arg(required = true, value_name = "NAME[:TAG]")]
    names: Vec<String>,
}

impl TagArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let names: Vec<Reference> = self
            .names
            .iter()
            .map(|name| new_name(name))
            .collect::<anyhow::Result<_>>()?;
        let store = session.store()?;
        let descriptor = store.find(&self.source)?;
        let refs: Vec<_> = names
            .into_iter()
            .map(|name| (name, descriptor.clone()))
            .collect();
        Ok(store.set_refs(&refs)?)
    }
}

/// A name that an image is to get.
pub(super) fn new_name(text: &str) -> anyhow::Result<Reference> {
    let reference = Reference::parse(text).map_err(|e| Usage::error(e.to_string()))?;
    if reference.digest().is_some() {
        return Err(Usage::error(format!(
            "{text}: a name for an image in the store can't have a digest"
        )));
    }
    Ok(reference)
}

/// A name in a registry, with or without `docker://`.
pub(super) fn registry_name(text: &str) -> anyhow::Result<Reference> {
    let name = text.strip_prefix("docker://").unwrap_or(text);
    Reference::parse(name).map_err(|e| Usage::error(e.to_string()))
}

/// Take names away from images
///
/// What no name leads to any more is removed by prune.
#[derive(Debug, Args)]
pub(super) struct RmiArgs {
    /// Names, digests or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Take all names away from an image that is given by digest or id, and
    /// don't mind names that are not there
    #[arg(short, long)]
    force: bool,
}

impl RmiArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        // Everything is looked up before anything is changed.
        let mut doomed: Vec<String> = Vec::new();
        for name in &self.names {
            match names_of(&store, name, self.force) {
                Ok(names) => doomed.extend(names),
                Err(_) if self.force => {}
                Err(error) => return Err(error),
            }
        }
        let mut removed = String::new();
        for name in doomed {
            if store.remove_name(&name)? {
                removed.push_str(&format!("Untagged: {}\n", ui::escape::text(&name)));
            }
        }
        output::result(&removed)
    }
}

/// Take single names away from images
///
/// Like rmi, but takes names only and says in JSON what it did.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n    shiplap untag app:old reg.example/app:old")]
pub(super) struct UntagArgs {
    /// Names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl UntagArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let refs = store.refs()?;
        let mut doomed = Vec::new();
        // Everything is looked up before anything is changed.
        for text in &self.names {
            let reference = Reference::parse(text).ok();
            let is_it = |name: &str| {
                name == text || reference.is_some() && Reference::parse(name).ok() == reference
            };
            let found = refs.iter().find(|(name, _)| is_it(name));
            let (name, _) =
                found.ok_or_else(|| shiplap::store::StoreError::NoImage { text: text.clone() })?;
            doomed.push(name.clone());
        }
        for name in &doomed {
            store.remove_name(name)?;
        }
        match self.format {
            Format::Json => output::json(&json!({"untagged": doomed})),
            Format::Text => {
                let lines = doomed
                    .iter()
                    .map(|n| format!("Untagged: {}\n", ui::escape::text(n)));
                output::result(&lines.collect::<String>())
            }
        }
    }
}

/// The names in the store that `text` means.
fn names_of(store: &Store, text: &str, all: bool) -> anyhow::Result<Vec<String>> {
    let refs = store.refs()?;
    let reference = Reference::parse(text).ok();
    let is_it = |name: &String| {
        name == text || (reference.is_some() && Reference::parse(name).ok() == reference)
    };
    let by_name: Vec<String> = refs
        .iter()
        .map(|(name, _)| name.clone())
        .filter(is_it)
        .collect();
    if !by_name.is_empty() {
        return Ok(by_name);
    }
    let digest = store.find(text)?.digest;
    let names: Vec<String> = refs
        .into_iter()
        .filter(|(_, descriptor)| descriptor.digest == digest)
        .map(|(name, _)| name)
        .collect();
    if names.len() > 1 && !all {
        return Err(Usage::error(format!(
            "{text} has several names, {}; give one of them, or --force for all",
            names.join(", ")
        )));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_with_and_without_tag() {
        let debian = "docker.io/library/debian:12";
        for (wanted, matches) in [
            ("debian", true),
            ("debian:12", true),
            ("docker.io/library/debian", true),
            ("debian:11", false),
            ("deb", false),
            ("NOT A NAME", false),
        ] {
            assert_eq!(is_of(debian, wanted), matches, "{wanted}");
        }
        assert!(is_of("NOT A NAME", "NOT A NAME"));
    }

    #[test]
    fn ages_of_times() {
        assert_eq!(age(Some("1970-01-01T00:00:00Z"), 3600), "1 hour ago");
        assert_eq!(age(Some("yesterday"), 0), "N/A");
        assert_eq!(age(None, 0), "N/A");
    }
}
