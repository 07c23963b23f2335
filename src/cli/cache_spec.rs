//! `--cache-from`, `--cache-to` and their relatives: comma-separated
//! `key=value` pairs, or a bare name for `type=registry,ref=NAME`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use shiplap::build::cache::{CacheFrom, CacheMode, CacheMounts, CachePlace, CacheTo};
use shiplap::reference::Reference;

use super::output_spec::{boolean, csv};
use super::values;

/// kaniko's: how long an entry of a cache repository is used.
const DEFAULT_TTL: Duration = Duration::from_secs(14 * 24 * 3600);
/// Under which name an artifact is kept in a layout unless another is given.
const DEFAULT_NAME: &str = "latest";

/// Flags about caches on other places than the store.
#[derive(Debug, Clone, Args)]
pub(super) struct CacheArgs {
    /// Use results of earlier builds: type=registry,ref=NAME or
    /// type=local,src=DIR, or only NAME; may be given several times
    #[arg(long, value_name = "SPEC", value_parser = from, help_heading = "Cache")]
    cache_from: Vec<CacheFrom>,
    /// Keep the results of this build: type=registry,ref=NAME,
    /// type=local,dest=DIR or type=inline, with mode=min|max, mounts=true|ID,
    /// mounts-size=SIZE, ignore-error=true
    #[arg(long, value_name = "SPEC", value_parser = to, help_heading = "Cache")]
    cache_to: Vec<CacheTo>,
    /// Repository that has each step's result under its key, for all images;
    /// it is read and written
    #[arg(long, value_name = "REPOSITORY", value_parser = reference, help_heading = "Cache")]
    cache_repo: Option<Reference>,
    /// How old entries of --cache-repo may be, as in 336h [default: 336h]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Cache")]
    cache_ttl: Option<Duration>,
    /// Only read --cache-repo
    #[arg(long, help_heading = "Cache")]
    no_push_cache: bool,
}

impl CacheArgs {
    /// Where results are looked for.
    pub(super) fn from(&self) -> Vec<CacheFrom> {
        let repository = self.cache_repo.clone();
        let repository = repository.map(|reference| CacheFrom::Repository {
            reference,
            ttl: Some(self.cache_ttl.unwrap_or(DEFAULT_TTL)),
        });
        self.cache_from.iter().cloned().chain(repository).collect()
    }

    /// Where results go. `inline` asks for a cache in the image as well.
    pub(super) fn to(&self, inline: bool) -> Vec<CacheTo> {
        let mut all = self.cache_to.clone();
        if inline && all.iter().all(|to| to.place != CachePlace::Inline) {
            all.push(cache_to(CachePlace::Inline, CacheMode::Min));
        }
        if let (Some(repository), false) = (&self.cache_repo, self.no_push_cache) {
            let place = CachePlace::Repository(repository.clone());
            all.push(cache_to(place, CacheMode::Max));
        }
        all
    }

    /// The registries that are asked or written to, `host[:port]`.
    pub(super) fn registries(&self) -> Vec<&str> {
        let from = self.cache_from.iter().filter_map(|f| match f {
            CacheFrom::Registry(r) | CacheFrom::Repository { reference: r, .. } => Some(r),
            CacheFrom::Local { .. } => None,
        });
        let to = self.cache_to.iter().filter_map(|t| match &t.place {
            CachePlace::Registry(r) | CachePlace::Repository(r) => Some(r),
            CachePlace::Local { .. } | CachePlace::Inline => None,
        });
        let all = from.chain(to).chain(&self.cache_repo);
        all.map(Reference::registry).collect()
    }
}

fn cache_to(place: CachePlace, mode: CacheMode) -> CacheTo {
    CacheTo {
        place,
        mode,
        ignore_error: false,
        mounts: CacheMounts::default(),
    }
}

fn reference(text: &str) -> Result<Reference, String> {
    Reference::parse(text).map_err(|e| e.to_string())
}

/// The pairs of a spec, its type apart.
struct Pairs {
    kind: String,
    rest: Vec<(String, String)>,
}

fn pairs(text: &str) -> Result<Pairs, String> {
    let fields = csv(text)?;
    if let [only] = fields.as_slice()
        && !only.contains('=')
    {
        return Ok(Pairs {
            kind: "registry".into(),
            rest: vec![("ref".into(), only.clone())],
        });
    }
    let mut kind = None;
    let mut rest = Vec::new();
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("{field:?} is not key=value"));
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "type" => kind = Some(value.to_owned()),
            key => rest.push((key.to_owned(), value.to_owned())),
        }
    }
    let kind = kind.ok_or("type is missing: type=registry, local or inline")?;
    match kind.as_str() {
        "registry" | "local" | "inline" => Ok(Pairs { kind, rest }),
        _ => Err(format!(
            "unknown type {kind:?}; known are registry, local and inline"
        )),
    }
}

fn unknown(key: &str, known: &str) -> String {
    format!("unknown key {key:?}; known are type, {known}")
}

/// Reads one `--cache-from`.
///
/// # Errors
/// What is wrong with it.
fn from(text: &str) -> Result<CacheFrom, String> {
    let pairs = pairs(text)?;
    let (mut name, mut path, mut tag) = (None, None, None);
    for (key, value) in pairs.rest {
        match (pairs.kind.as_str(), key.as_str()) {
            ("registry", "ref") => name = Some(reference(&value)?),
            ("local", "src") => path = Some(PathBuf::from(value)),
            ("local", "tag" | "digest") => tag = Some(value),
            ("registry", key) => return Err(unknown(key, "ref")),
            (_, key) => return Err(unknown(key, "src, tag, digest")),
        }
    }
    match (pairs.kind.as_str(), name, path) {
        ("registry", Some(name), _) => Ok(CacheFrom::Registry(name)),
        ("registry", None, _) => Err("ref is missing".into()),
        ("local", _, Some(path)) => Ok(CacheFrom::Local {
            path,
            name: tag.unwrap_or_else(|| DEFAULT_NAME.into()),
        }),
        ("local", _, None) => Err("src is missing".into()),
        _ => Err("an inline cache is read with type=registry,ref=IMAGE".into()),
    }
}

/// Reads one `--cache-to`.
///
/// # Errors
/// What is wrong with it.
fn to(text: &str) -> Result<CacheTo, String> {
    const KNOWN: &str = "ref (registry), dest, tag (local), mode, mounts, mounts-size, \
                         ignore-error";
    let pairs = pairs(text)?;
    let (mut name, mut path, mut tag) = (None, None, None);
    let mut to = cache_to(CachePlace::Inline, CacheMode::Min);
    to.mounts.max_bytes = CacheMounts::DEFAULT_MAX_BYTES;
    for (key, value) in pairs.rest {
        match (pairs.kind.as_str(), key.as_str()) {
            ("registry", "ref") => name = Some(reference(&value)?),
            ("local", "dest") => path = Some(PathBuf::from(value)),
            ("local", "tag") => tag = Some(value),
            ("registry" | "local", "mode") => {
                to.mode = match value.as_str() {
                    "min" => CacheMode::Min,
                    "max" => CacheMode::Max,
                    _ => return Err(format!("mode must be min or max, not {value:?}")),
                }
            }
            ("registry" | "local", "mounts") => mounts(&mut to.mounts, &value),
            ("registry" | "local", "mounts-size") => to.mounts.max_bytes = values::bytes(&value)?,
            (_, "ignore-error") => to.ignore_error = boolean(&key, &value)?,
            // What they ask for is so in any case.
            ("registry" | "local", "oci-mediatypes" | "image-manifest") => {
                if !boolean(&key, &value)? {
                    return Err(format!("{key}=false is no longer what registries take"));
                }
            }
            (_, key) => return Err(unknown(key, KNOWN)),
        }
    }
    to.place = match (pairs.kind.as_str(), name, path) {
        ("registry", Some(name), _) => CachePlace::Registry(name),
        ("registry", None, _) => return Err("ref is missing".into()),
        ("local", _, Some(path)) => CachePlace::Local {
            path,
            name: tag.unwrap_or_else(|| DEFAULT_NAME.into()),
        },
        ("local", _, None) => return Err("dest is missing".into()),
        _ => CachePlace::Inline,
    };
    Ok(to)
}

/// `true`, `false`, or ids with semicolons between them.
fn mounts(mounts: &mut CacheMounts, value: &str) {
    match value {
        "true" | "all" => mounts.all = true,
        "false" => mounts.all = false,
        ids => {
            let ids = ids.split(';').filter(|id| !id.is_empty());
            mounts.ids.extend(ids.map(str::to_owned));
        }
    }
}

/// A time as Go writes it: `336h`, `1h30m`, `90s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write 336h or 30m");
    let mut seconds = 0_u64;
    let mut number = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            'd' => 86_400,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        let n: u64 = number.parse().map_err(|_| wrong())?;
        number.clear();
        let more = n.checked_mul(unit).and_then(|n| seconds.checked_add(n));
        seconds = more.ok_or_else(wrong)?;
    }
    if text.is_empty() || !number.is_empty() {
        return Err(wrong());
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    #[test]
    fn places_to_read() {
        let local = |path: &str, name: &str| CacheFrom::Local {
            path: path.into(),
            name: name.into(),
        };
        for (text, wanted) in [
            ("r.example/c:1", CacheFrom::Registry(name("r.example/c:1"))),
            ("type=registry,ref=c", CacheFrom::Registry(name("c"))),
            ("type=local,src=/c", local("/c", "latest")),
            ("type=local,src=c,tag=x", local("c", "x")),
        ] {
            assert_eq!(from(text), Ok(wanted), "{text}");
        }
        for bad in [
            "",
            "type=registry",
            "type=local,dest=x",
            "type=inline",
            "type=gha",
            "ref=c",
            "type=registry,ref=UPPER",
        ] {
            assert!(from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn places_to_write() {
        let all = to("type=registry,ref=c,mode=max,mounts=a;b,mounts-size=1k,ignore-error=true");
        let all = all.unwrap();
        assert_eq!(all.place, CachePlace::Registry(name("c")));
        assert_eq!((all.mode, all.ignore_error), (CacheMode::Max, true));
        assert_eq!(all.mounts.ids, ["a", "b"]);
        assert_eq!((all.mounts.all, all.mounts.max_bytes), (false, 1024));
        assert_eq!(to("type=inline").unwrap().place, CachePlace::Inline);
        assert!(to("type=local,dest=d,mounts=true").unwrap().mounts.all);
        for bad in [
            "type=inline,mode=max",
            "type=local,ref=x",
            "type=registry,ref=c,mode=some",
            "type=s3,bucket=b",
            "type=registry,ref=c,image-manifest=false",
        ] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(duration("336h"), Ok(DEFAULT_TTL));
        assert_eq!(duration("1h30m5s"), Ok(Duration::from_secs(5405)));
        for bad in ["", "5", "h", "1y", "-1h", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
