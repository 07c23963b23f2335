//! Annotations as flags and outputs have them, in the language of buildx.

use shiplap::build::request::{Annotated, Annotation};
use shiplap::platform::Platform;

/// What one flag stands for: an annotation for each document it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Several(pub(crate) Vec<Annotation>);

/// `[DOCUMENT[[PLATFORM]],…:]KEY=VALUE`.
pub(crate) fn flag(text: &str) -> Result<Several, String> {
    let (names, value) = text
        .split_once('=')
        .ok_or("it must be KEY=VALUE, with manifest:, index: and the like before KEY or not")?;
    let (documents, key) = match names.split_once(':') {
        Some((documents, key)) => (documents, key),
        None => ("manifest", names),
    };
    documents
        .split(',')
        .map(|document| annotation(document, key, value))
        .collect::<Result<_, _>>()
        .map(Several)
}

/// `annotation[-DOCUMENT][[PLATFORM]].KEY` of an output; `None` for other keys.
pub(crate) fn attribute(name: &str, value: &str) -> Option<Result<Annotation, String>> {
    let rest = name.strip_prefix("annotation")?;
    if !rest.starts_with(['.', '-', '[']) {
        return None;
    }
    let (document, key) = match rest.split_once(']') {
        Some((document, key)) => (format!("{document}]"), key.strip_prefix('.')),
        None => match rest.split_once('.') {
            Some((document, key)) => (document.to_owned(), Some(key)),
            None => (String::new(), None),
        },
    };
    let Some(key) = key else {
        return Some(Err(format!("{name:?} has no key; write annotation.KEY")));
    };
    let document = match document.strip_prefix('-') {
        Some(document) => document.to_owned(),
        None => format!("manifest{document}"),
    };
    Some(annotation(&document, key, value))
}

fn annotation(document: &str, key: &str, value: &str) -> Result<Annotation, String> {
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    let (document, platform) = match document.split_once('[') {
        Some((document, platform)) => {
            let platform = platform.strip_suffix(']').ok_or("a [ is not closed")?;
            let platform = Platform::parse(platform).map_err(|e| e.to_string())?;
            (document, Some(platform))
        }
        None => (document, None),
    };
    let to = match document {
        "manifest" => Annotated::Manifest,
        "manifest-descriptor" => Annotated::ManifestDescriptor,
        "index" => Annotated::Index,
        "index-descriptor" => Annotated::IndexDescriptor,
        _ => {
            return Err(format!(
                "nothing called {document:?} can be annotated; known are manifest, index, \
                 manifest-descriptor and index-descriptor"
            ));
        }
    };
    if platform.is_some() && matches!(to, Annotated::Index | Annotated::IndexDescriptor) {
        return Err(format!("{document} is for all platforms"));
    }
    Ok(Annotation {
        to,
        platform,
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(to: Annotated, platform: Option<&str>, key: &str, value: &str) -> Annotation {
        Annotation {
            to,
            platform: platform.map(|p| Platform::parse(p).unwrap()),
            key: key.into(),
            value: value.into(),
        }
    }

    #[test]
    fn flags() {
        use Annotated::{Index, Manifest, ManifestDescriptor};
        for (text, expected) in [
            ("k=v", vec![of(Manifest, None, "k", "v")]),
            ("k=", vec![of(Manifest, None, "k", "")]),
            ("k=a:b=c", vec![of(Manifest, None, "k", "a:b=c")]),
            ("index:k=v", vec![of(Index, None, "k", "v")]),
            (
                "index,manifest[linux/arm64]:a.b/c=v",
                vec![
                    of(Index, None, "a.b/c", "v"),
                    of(Manifest, Some("linux/arm64"), "a.b/c", "v"),
                ],
            ),
            (
                "manifest-descriptor:k=v",
                vec![of(ManifestDescriptor, None, "k", "v")],
            ),
        ] {
            assert_eq!(flag(text), Ok(Several(expected)), "{text}");
        }
        for bad in [
            "",
            "k",
            "=v",
            "layer:k=v",
            "index[linux/arm64]:k=v",
            "manifest[linux/arm64:k=v",
            "manifest[x]:k=v",
            ":k=v",
        ] {
            assert!(flag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes() {
        use Annotated::{IndexDescriptor, Manifest};
        for (name, expected) in [
            ("annotation.a.b", of(Manifest, None, "a.b", "v")),
            (
                "annotation[linux/arm64].k",
                of(Manifest, Some("linux/arm64"), "k", "v"),
            ),
            (
                "annotation-manifest[linux/arm64].k",
                of(Manifest, Some("linux/arm64"), "k", "v"),
            ),
            (
                "annotation-index-descriptor.k",
                of(IndexDescriptor, None, "k", "v"),
            ),
        ] {
            assert_eq!(attribute(name, "v"), Some(Ok(expected)), "{name}");
        }
        assert_eq!(attribute("annotations", "v"), None);
        assert_eq!(attribute("name", "v"), None);
        for bad in [
            "annotation.",
            "annotation-what.k",
            "annotation-index",
            "annotation[x",
        ] {
            assert!(matches!(attribute(bad, "v"), Some(Err(_))), "{bad}");
        }
    }
}
