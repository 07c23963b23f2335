//! `-o/--output`: comma-separated `key=value` pairs, quoted as in CSV.

use shiplap::build::request::{Destination, Output, OutputKind};
use shiplap::image::media_type::{Compression, Format};
use shiplap::reference::Reference;

use super::annotations;

/// One `--output`, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputSpec {
    /// Where the result goes.
    pub(crate) output: Output,
    /// `rewrite-timestamp=`.
    pub(crate) rewrite_timestamp: Option<bool>,
    /// `registry.insecure=`.
    pub(crate) insecure: bool,
}

const KEYS: &str = "type, dest, name, push, push-by-digest, name-canonical, tar, oci-mediatypes, \
                    compression, compression-level, force-compression, rewrite-timestamp, \
                    registry.insecure, platform-split, mode and annotation.KEY";

/// Reads one `--output`. A text without `=` is the directory of
/// `type=local`; `-` is a root filesystem as tar on standard output.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(text: &str) -> Result<OutputSpec, String> {
    let fields = csv(text)?;
    if let [only] = fields.as_slice()
        && !only.contains('=')
    {
        let (kind, dest) = match only.as_str() {
            "" => return Err("it is empty".into()),
            "-" => (OutputKind::Tar, Destination::Stdout),
            dir => (OutputKind::Local, Destination::Path(dir.into())),
        };
        return Ok(spec(kind, Some(dest)));
    }
    let mut kind = None;
    let mut spec = spec(OutputKind::Image, None);
    let mut tar = None;
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("{field:?} is not key=value"));
        };
        // Annotations' keys keep their case.
        let field_name = key.trim();
        let key = field_name.to_ascii_lowercase();
        match key.as_str() {
            "type" => kind = Some(value),
            "dest" => {
                spec.output.dest = Some(match value {
                    "" => return Err("dest is empty".into()),
                    "-" => Destination::Stdout,
                    path => Destination::Path(path.into()),
                });
            }
            "name" => {
                for name in value.split(',').filter(|name| !name.is_empty()) {
                    let name = Reference::parse(name).map_err(|e| e.to_string())?;
                    spec.output.names.push(name);
                }
            }
            "push" => spec.output.push = boolean(&key, value)?,
            "push-by-digest" => spec.output.push_by_digest = boolean(&key, value)?,
            "name-canonical" => spec.output.name_canonical = boolean(&key, value)?,
            "tar" => tar = Some(boolean(&key, value)?),
            "oci-mediatypes" => {
                spec.output.format = Some(if boolean(&key, value)? {
                    Format::Oci
                } else {
                    Format::Docker
                });
            }
            "compression" => spec.output.compression = Some(compression(value)?),
            "compression-level" => {
                let level = value.parse().map_err(|_| {
                    format!("compression-level must be a whole number, not {value:?}")
                })?;
                spec.output.compression_level = Some(level);
            }
            "force-compression" => spec.output.force_compression = Some(boolean(&key, value)?),
            "rewrite-timestamp" => spec.rewrite_timestamp = Some(boolean(&key, value)?),
            "registry.insecure" => spec.insecure = boolean(&key, value)?,
            "platform-split" => spec.output.platform_split = Some(boolean(&key, value)?),
            "mode" => match value {
                "copy" => spec.output.delete = false,
                "delete" => spec.output.delete = true,
                _ => return Err(format!("mode must be copy or delete, not {value:?}")),
            },
            // About places that other builders keep images in.
            "store" | "unpack" => drop(boolean(&key, value)?),
            _ => match annotations::attribute(field_name, value) {
                Some(annotation) => spec.output.annotations.push(annotation?),
                None => return Err(format!("unknown key {key:?}; known are {KEYS}")),
            },
        }
    }
    let Some(kind) = kind else {
        return Err(
            "type is missing: type=image, registry, oci, docker, tar, local or cacheonly".into(),
        );
    };
    spec.output.kind = match kind {
        "image" => OutputKind::Image,
        "registry" => {
            spec.output.push = true;
            OutputKind::Image
        }
        "oci" => OutputKind::Oci,
        "docker" => OutputKind::Docker,
        "tar" => OutputKind::Tar,
        "local" => OutputKind::Local,
        "cacheonly" => OutputKind::Nothing,
        _ => {
            return Err(format!(
                "unknown type {kind:?}; known are image, registry, oci, docker, tar, local and cacheonly"
            ));
        }
    };
    check(&mut spec.output, tar)?;
    Ok(spec)
}

/// Holds the output's attributes against its kind, and fills in what is
/// implied.
fn check(output: &mut Output, tar: Option<bool>) -> Result<(), String> {
    output.tar = tar.unwrap_or(true);
    let directory = match output.kind {
        OutputKind::Image => {
            if output.dest.is_some() {
                return Err("type=image goes to the store and takes no dest".into());
            }
            false
        }
        OutputKind::Nothing => {
            if output.dest.is_some() {
                return Err("type=cacheonly writes nothing and takes no dest".into());
            }
            false
        }
        OutputKind::Oci => !output.tar,
        OutputKind::Docker | OutputKind::Tar => false,
        OutputKind::Local => true,
    };
    if tar.is_some() && output.kind != OutputKind::Oci {
        return Err("tar=… belongs to type=oci".into());
    }
    if output.delete && output.kind != OutputKind::Local {
        return Err("mode=… belongs to type=local".into());
    }
    if output.platform_split.is_some()
        && !matches!(output.kind, OutputKind::Local | OutputKind::Tar)
    {
        return Err("platform-split=… belongs to type=local and type=tar".into());
    }
    if output.push_by_digest && !output.push {
        return Err("push-by-digest=true goes with push=true".into());
    }
    match (&output.dest, directory, output.kind) {
        (Some(Destination::Stdout), true, _) => {
            Err("a directory can't go to standard output; give dest=DIR".into())
        }
        (None, true, _) => Err("dest=DIR is missing".into()),
        // As with `docker buildx build`: without a file, the archive's image
        // is loaded.
        (None, false, OutputKind::Docker) => {
            output.kind = OutputKind::Image;
            Ok(())
        }
        (None, false, OutputKind::Oci | OutputKind::Tar) => {
            output.dest = Some(Destination::Stdout);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn spec(kind: OutputKind, dest: Option<Destination>) -> OutputSpec {
    OutputSpec {
        output: Output::new(kind, dest),
        rewrite_timestamp: None,
        insecure: false,
    }
}

/// Reads the name of a compression.
///
/// # Errors
/// The known names, when it is none of them.
pub(crate) fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "gzip" => Ok(Compression::Gzip),
        "gzip-single" => Ok(Compression::GzipSingle),
        "zstd" => Ok(Compression::Zstd),
        "uncompressed" => Ok(Compression::Uncompressed),
        _ => Err(format!(
            "unknown compression {text:?}; known are gzip, gzip-single, zstd and uncompressed"
        )),
    }
}

pub(crate) fn boolean(key: &str, text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" => Ok(true),
        "false" | "0" | "f" => Ok(false),
        _ => Err(format!("{key} must be true or false, not {text:?}")),
    }
}

/// Splits a line of comma-separated values; a field that begins with `"` runs
/// to the closing one, and `""` in it stands for `"`.
///
/// # Errors
/// When the quotes don't fit.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, more) = match rest.split_once(',') {
                Some((field, more)) => (field, Some(more)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(format!(
                    "{field:?} has a quote inside; put the whole pair in quotes"
                ));
            }
            fields.push(field.to_owned());
            match more {
                Some(more) => rest = more,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut left = quoted;
        loop {
            let Some((before, after)) = left.split_once('"') else {
                return Err("a quote is not closed".into());
            };
            field.push_str(before);
            left = after;
            match left.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    left = after;
                }
                None => break,
            }
        }
        fields.push(field);
        if left.is_empty() {
            return Ok(fields);
        }
        rest = left
            .strip_prefix(',')
            .ok_or("after a closing quote there must be a comma")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(p: &str) -> Option<Destination> {
        Some(Destination::Path(p.into()))
    }

    #[test]
    fn kinds_and_destinations() {
        let stdout = Some(Destination::Stdout);
        for (text, kind, dest, tar) in [
            ("out", OutputKind::Local, path("out"), true),
            ("-", OutputKind::Tar, stdout.clone(), true),
            ("type=local,dest=out", OutputKind::Local, path("out"), true),
            ("type=tar,dest=r.tar", OutputKind::Tar, path("r.tar"), true),
            ("type=tar,dest=-", OutputKind::Tar, stdout.clone(), true),
            ("type=tar", OutputKind::Tar, stdout.clone(), true),
            ("type=oci", OutputKind::Oci, stdout, true),
            (
                "type=oci,tar=false,dest=d",
                OutputKind::Oci,
                path("d"),
                false,
            ),
            ("TYPE=oci,dest=a=b", OutputKind::Oci, path("a=b"), true),
            (
                "type=docker,dest=i.tar",
                OutputKind::Docker,
                path("i.tar"),
                true,
            ),
            ("type=docker", OutputKind::Image, None, true),
            ("type=image", OutputKind::Image, None, true),
            (
                "type=tar,\"dest=a,\"\"b\"",
                OutputKind::Tar,
                path("a,\"b"),
                true,
            ),
        ] {
            let spec = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(spec.output.kind, kind, "{text}");
            assert_eq!(spec.output.dest, dest, "{text}");
            assert_eq!(spec.output.tar, tar, "{text}");
        }
    }

    #[test]
    fn attributes() {
        let text = "type=image,\"name=a,b:1\",push=true,compression=zstd,\
                    compression-level=-3,force-compression=1,rewrite-timestamp=true";
        let spec = parse(text).unwrap();
        let names: Vec<_> = spec.output.names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["a:latest", "b:1"]);
        assert!(spec.output.push);
        assert_eq!(spec.output.compression, Some(Compression::Zstd));
        assert_eq!(spec.output.compression_level, Some(-3));
        assert_eq!(spec.output.force_compression, Some(true));
        assert_eq!(spec.rewrite_timestamp, Some(true));
        assert!(parse("type=registry,name=a").unwrap().output.push);
        let text = "type=registry,name=r.example/a,push-by-digest=true,name-canonical=true,\
                    oci-mediatypes=false,registry.insecure=true,store=false,annotation.Ab.c=v";
        let spec = parse(text).unwrap();
        assert!(spec.output.push_by_digest && spec.output.name_canonical && spec.insecure);
        assert_eq!(spec.output.format, Some(Format::Docker));
        assert_eq!(spec.output.annotations[0].key, "Ab.c");
        let spec = parse("type=local,dest=d,mode=delete,platform-split=false").unwrap();
        assert!(spec.output.delete && spec.output.platform_split == Some(false));
        let nothing = parse("type=cacheonly").unwrap().output;
        assert_eq!(nothing.kind, OutputKind::Nothing);
    }

    #[test]
    fn wrong_ones_are_refused() {
        for text in [
            "",
            "dest=x",
            "type=zip,dest=x",
            "type=oci,what=1,dest=x",
            "type=oci,dest",
            "type=oci,dest=",
            "type=local",
            "type=local,dest=-",
            "type=oci,tar=false,dest=-",
            "type=oci,tar=maybe",
            "type=tar,tar=false,dest=x",
            "type=image,dest=x",
            "type=image,name=A",
            "type=image,compression=lz4",
            "type=image,compression-level=x",
            "type=tar,\"dest=x",
            "type=tar,\"dest=x\"y",
            "type=tar,dest=\"x\"",
            "type=cacheonly,dest=x",
            "type=oci,mode=delete,dest=x",
            "type=local,mode=move,dest=x",
            "type=image,platform-split=true",
            "type=image,push-by-digest=true,name=a",
            "type=image,oci-mediatypes=2",
            "type=image,annotation-nothing.k=v",
            "type=oci,tar=true,dest=x,annotation=v",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
