//! Whether a document is what the image-spec says it must be. Pure.
//!
//! Reading is lenient ([`Document`](super::Document) takes what means one
//! thing); this is strict, and says everything that is wrong at once. A `null`
//! counts as a field that is not there, as Docker writes it.
//!
//! # Specification
//! image-spec `descriptor.md`, `manifest.md`, `image-index.md`, `config.md`,
//! `image-layout.md`, and their JSON schemas.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::digest::Digest;

/// Most problems that are listed of one document.
const MAX_PROBLEMS: usize = 100;
/// Longest half of a media type, in bytes.
const MAX_MEDIA_NAME: usize = 127;

/// What a document is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentKind {
    /// Names a blob.
    Descriptor,
    /// One image.
    Manifest,
    /// Several manifests.
    Index,
    /// How an image is run and came to be.
    Config,
    /// The marker of a layout, `oci-layout`.
    Layout,
}

/// Something that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which field, `layers[0].size`; empty for the document itself.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// All that is wrong with `bytes` as a document of this kind, at most a
/// hundred problems.
pub fn validate(kind: DocumentKind, bytes: &[u8]) -> Vec<Problem> {
    let mut check = Check::default();
    match serde_json::from_slice(bytes) {
        Err(error) => check.add("", format!("it is no JSON: {error}")),
        Ok(Value::Object(map)) => match kind {
            DocumentKind::Descriptor => check.descriptor("", &map),
            DocumentKind::Manifest => check.manifest(&map),
            DocumentKind::Index => check.index(&map),
            DocumentKind::Config => check.config(&map),
            DocumentKind::Layout => {
                check.required("", &map, &["imageLayoutVersion"]);
                check.text("", &map, "imageLayoutVersion", |v| {
                    (v != "1.0.0").then(|| format!("is {v:?}, not \"1.0.0\""))
                });
            }
        },
        Ok(_) => check.add("", "it is no JSON object"),
    }
    check.problems
}

/// Collects problems.
#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

type Fields = Map<String, Value>;

/// `name` in the object at `place`.
fn at(place: &str, name: &str) -> String {
    if place.is_empty() {
        name.to_owned()
    } else {
        format!("{place}.{name}")
    }
}

fn get<'a>(map: &'a Fields, name: &str) -> Option<&'a Value> {
    map.get(name).filter(|v| !v.is_null())
}

fn any_text(_: &str) -> Option<String> {
    None
}

impl Check {
    fn add(&mut self, field: &str, reason: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                field: field.to_owned(),
                reason: reason.into(),
            });
        }
    }

    fn required(&mut self, place: &str, map: &Fields, names: &[&str]) {
        for name in names {
            if get(map, name).is_none() {
                self.add(&at(place, name), "is missing");
            }
        }
    }

    /// A string that `wrong` has nothing against.
    fn text(
        &mut self,
        place: &str,
        map: &Fields,
        name: &str,
        wrong: impl Fn(&str) -> Option<String>,
    ) {
        match get(map, name) {
            None => {}
            Some(Value::String(text)) => {
                if let Some(reason) = wrong(text) {
                    self.add(&at(place, name), reason);
                }
            }
            Some(_) => self.add(&at(place, name), "is no string"),
        }
    }

    fn texts(&mut self, place: &str, map: &Fields, names: &[&str]) {
        for name in names {
            self.text(place, map, name, any_text);
        }
    }

    fn boolean(&mut self, place: &str, map: &Fields, name: &str) {
        if get(map, name).is_some_and(|v| !v.is_boolean()) {
            self.add(&at(place, name), "is neither true nor false");
        }
    }

    /// The elements of a list, with their places.
    fn list<'a>(
        &mut self,
        place: &str,
        map: &'a Fields,
        name: &str,
    ) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
        let place = at(place, name);
        let items = match get(map, name) {
            Some(Value::Array(items)) => items.as_slice(),
            None => &[],
            Some(_) => {
                self.add(&place, "is no list");
                &[]
            }
        };
        let numbered = items.iter().enumerate();
        numbered.map(move |(i, item)| (format!("{place}[{i}]"), item))
    }

    fn strings(
        &mut self,
        place: &str,
        map: &Fields,
        name: &str,
        wrong: impl Fn(&str) -> Option<String>,
    ) {
        for (place, item) in self.list(place, map, name) {
            match item {
                Value::String(text) => {
                    if let Some(reason) = wrong(text) {
                        self.add(&place, reason);
                    }
                }
                _ => self.add(&place, "is no string"),
            }
        }
    }

    /// An object whose values all are strings, or objects.
    fn object_of(&mut self, place: &str, map: &Fields, name: &str, of_texts: bool) {
        let place = at(place, name);
        match get(map, name) {
            None => {}
            Some(Value::Object(inner)) => {
                for (key, value) in inner {
                    if of_texts && !value.is_string() {
                        self.add(&format!("{place}.{key}"), "is no string");
                    } else if !of_texts && !value.is_object() {
                        self.add(&format!("{place}.{key}"), "is no object");
                    }
                }
            }
            Some(_) => self.add(&place, "is no object"),
        }
    }

    fn inner<'a>(&mut self, place: &str, map: &'a Fields, name: &str) -> Option<&'a Fields> {
        match get(map, name)? {
            Value::Object(inner) => Some(inner),
            _ => {
                self.add(&at(place, name), "is no object");
                None
            }
        }
    }

    fn descriptor(&mut self, place: &str, map: &Fields) {
        self.required(place, map, &["mediaType", "size", "digest"]);
        for name in ["mediaType", "artifactType"] {
            self.text(place, map, name, media_type);
        }
        if let Some(size) = get(map, "size")
            && size.as_u64().is_none_or(|n| i64::try_from(n).is_err())
        {
            self.add(&at(place, "size"), "is no number of bytes");
        }
        self.text(place, map, "digest", |text| {
            Digest::parse(text).err().map(|e| e.reason.to_owned())
        });
        self.strings(place, map, "urls", |text| {
            url::Url::parse(text)
                .err()
                .map(|e| format!("is no URL: {e}"))
        });
        self.text(place, map, "data", |text| {
            let bad = STANDARD.decode(text).is_err();
            bad.then(|| "is no base64".to_owned())
        });
        self.object_of(place, map, "annotations", true);
        if let Some(platform) = self.inner(place, map, "platform") {
            self.platform(&at(place, "platform"), platform);
        }
    }

    fn platform(&mut self, place: &str, map: &Fields) {
        self.required(place, map, &["architecture", "os"]);
        self.texts(place, map, &["architecture", "os", "os.version", "variant"]);
        self.strings(place, map, "os.features", any_text);
    }

    fn descriptor_in(&mut self, map: &Fields, name: &str) {
        if let Some(inner) = self.inner("", map, name) {
            self.descriptor(name, inner);
        }
    }

    fn descriptors(&mut self, map: &Fields, name: &str) {
        for (place, item) in self.list("", map, name) {
            match item {
                Value::Object(inner) => self.descriptor(&place, inner),
                _ => self.add(&place, "is no object"),
            }
        }
    }

    /// What manifests and indexes share.
    fn document(&mut self, map: &Fields) {
        if get(map, "schemaVersion").is_some_and(|v| v.as_u64() != Some(2)) {
            self.add("schemaVersion", "is not 2");
        }
        for name in ["mediaType", "artifactType"] {
            self.text("", map, name, media_type);
        }
        self.descriptor_in(map, "subject");
        self.object_of("", map, "annotations", true);
    }

    fn manifest(&mut self, map: &Fields) {
        self.required("", map, &["schemaVersion", "config", "layers"]);
        self.document(map);
        self.descriptor_in(map, "config");
        self.descriptors(map, "layers");
        if map
            .get("layers")
            .and_then(Value::as_array)
            .is_some_and(Vec::is_empty)
        {
            self.add("layers", NO_LAYERS);
        }
    }

    fn index(&mut self, map: &Fields) {
        self.required("", map, &["schemaVersion", "manifests"]);
        self.document(map);
        self.descriptors(map, "manifests");
    }

    fn config(&mut self, map: &Fields) {
        self.required("", map, &["architecture", "os", "rootfs"]);
        self.texts(
            "",
            map,
            &["author", "architecture", "variant", "os", "os.version"],
        );
        self.strings("", map, "os.features", any_text);
        self.text("", map, "created", time);
        if let Some(config) = self.inner("", map, "config") {
            self.texts("config", config, &["User", "WorkingDir", "StopSignal"]);
            self.object_of("config", config, "ExposedPorts", false);
            self.object_of("config", config, "Volumes", false);
            self.object_of("config", config, "Labels", true);
            self.strings("config", config, "Env", |text| {
                let named = text
                    .split_once('=')
                    .is_some_and(|(name, _)| !name.is_empty());
                (!named).then(|| format!("{text:?} is not NAME=value"))
            });
            for name in ["Entrypoint", "Cmd", "OnBuild", "Shell"] {
                self.strings("config", config, name, any_text);
            }
            self.boolean("config", config, "ArgsEscaped");
        }
        if let Some(rootfs) = self.inner("", map, "rootfs") {
            self.required("rootfs", rootfs, &["type", "diff_ids"]);
            self.text("rootfs", rootfs, "type", |text| {
                (text != "layers").then(|| format!("is {text:?}, not \"layers\""))
            });
            self.strings("rootfs", rootfs, "diff_ids", |text| {
                Digest::parse(text).err().map(|e| e.reason.to_owned())
            });
        }
        for (place, item) in self.list("", map, "history") {
            let Value::Object(entry) = item else {
                self.add(&place, "is no object");
                continue;
            };
            self.texts(&place, entry, &["author", "created_by", "comment"]);
            self.text(&place, entry, "created", time);
            self.boolean(&place, entry, "empty_layer");
        }
    }
}

/// What is said of a manifest without layers. Images that are built from
/// nothing have none, and every program takes them.
pub const NO_LAYERS: &str = "is empty";

fn time(text: &str) -> Option<String> {
    let bad = text.parse::<jiff::Timestamp>().is_err();
    bad.then(|| format!("{text:?} is no RFC 3339 time"))
}

fn media_type(text: &str) -> Option<String> {
    let name = |part: &str| {
        (1..=MAX_MEDIA_NAME).contains(&part.len())
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    let good = text
        .split_once('/')
        .is_some_and(|(a, b)| name(a) && name(b));
    (!good).then(|| format!("{text:?} is no media type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(kind: DocumentKind, text: &str) -> String {
        let found = validate(kind, text.as_bytes());
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        lines.join("; ")
    }

    #[test]
    fn says_all_that_is_wrong() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let good = format!(r#"{{"mediaType":"a/b","size":0,"digest":"{empty}"}}"#);
        for (kind, text, expected) in [
            (DocumentKind::Descriptor, good.clone(), ""),
            (
                DocumentKind::Descriptor,
                "{\"size\":-1,\"digest\":\"SHA256:0\"}".into(),
                "mediaType: is missing; size: is no number of bytes; digest: the algorithm is malformed",
            ),
            (
                DocumentKind::Manifest,
                format!(r#"{{"schemaVersion":2,"config":{good},"layers":[{{}},1]}}"#),
                "layers[0].mediaType: is missing; layers[0].size: is missing; layers[0].digest: is missing; layers[1]: is no object",
            ),
            (
                DocumentKind::Index,
                format!(r#"{{"schemaVersion":3,"manifests":[{good}],"subject":1}}"#),
                "schemaVersion: is not 2; subject: is no object",
            ),
            (
                DocumentKind::Config,
                r#"{"os":1,"architecture":"a","config":{"Env":["A"],"Volumes":null},"rootfs":{"type":"x","diff_ids":[]},"history":[{"created":"now"}]}"#.into(),
                "os: is no string; config.Env[0]: \"A\" is not NAME=value; rootfs.type: is \"x\", not \"layers\"; history[0].created: \"now\" is no RFC 3339 time",
            ),
            (DocumentKind::Layout, "[]".into(), "it is no JSON object"),
        ] {
            assert_eq!(problems(kind, &text), expected, "{text}");
        }
        let many = format!(r#"{{"manifests":[{}]}}"#, vec!["1"; 1000].join(","));
        assert_eq!(
            validate(DocumentKind::Index, many.as_bytes()).len(),
            MAX_PROBLEMS
        );
    }
}
