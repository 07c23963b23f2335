//! `shiplap verify`.

use clap::Args;
use serde_json::{Value, json};
use shiplap::store::{Damage, Store};
use shiplap::transport::{Location, local};
use shiplap::verify::{Verified, Verifier};

use super::access::RegistryArgs;
use super::error::Negative;
use super::{Format, Session, image};
use crate::ui::{escape, format, output};

const EXAMPLES: &str = "\
Examples:
  One image, wherever it is
    shiplap verify app:1
    shiplap verify docker://reg.example/app:1
    shiplap verify oci-archive:app.tar

  All images of the store, and the store itself
    shiplap verify --all

  What is broken is moved away, so that it is fetched or made again
    shiplap verify --all --repair";

/// Check that images are what they say, to the last byte
///
/// Reads every blob: digests, sizes, media types, documents against the
/// specification, every layer to its end against its diffID, the history
/// against the layers, platforms against the index. With --all also the store:
/// every blob, links to unpacked layers, names that lead nowhere. Layers that
/// the store left in their registry are no fault. The exit code is 1 when
/// something is wrong.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct VerifyArgs {
    /// Images: names in the store, docker://NAME, oci:DIR[:NAME],
    /// oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], dir:DIR
    #[arg(
        value_name = "IMAGE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    images: Vec<String>,
    /// All images of the store, and the store as a whole
    #[arg(short, long)]
    all: bool,
    /// Move broken blobs and links of the store to its directory `aside`
    #[arg(long, requires = "all")]
    repair: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// What was found of one image.
struct Row {
    name: String,
    found: Verified,
    /// It could not even be opened.
    error: Option<String>,
}

impl VerifyArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let mut verifier = Verifier::new(session.interrupts.cancel());
        let mut rows = Vec::new();
        for name in &self.images {
            let opened = image::open(session, &store, &self.registry, name)?;
            let partial = matches!(opened.location, Location::Name(_));
            rows.push(Row {
                name: name.clone(),
                found: verifier.image(&opened.source, partial),
                error: None,
            });
        }
        let mut damages = Vec::new();
        if self.all {
            rows.extend(all(&store, &mut verifier)?);
            damages = store.check(self.repair)?.damages;
        }
        match self.format {
            Format::Json => output::json(&json!({
                "images": rows.iter().map(Row::json).collect::<Vec<_>>(),
                "store": damages.iter().map(damage_json).collect::<Vec<_>>(),
            }))?,
            Format::Text => output::result(&text(&rows, &damages))?,
        }
        let good = damages.is_empty() && rows.iter().all(Row::is_good);
        if good { Ok(()) } else { Err(Negative.into()) }
    }
}

/// Everything that has a name in the store.
fn all(store: &Store, verifier: &mut Verifier) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, _) in store.refs()? {
        rows.push(match local::open(store, &name) {
            Ok(source) => Row {
                found: verifier.image(&source, true),
                name,
                error: None,
            },
            Err(error) => Row {
                name,
                found: Verified::default(),
                error: Some(format!("{:#}", anyhow::Error::from(error))),
            },
        });
    }
    Ok(rows)
}

impl Row {
    fn is_good(&self) -> bool {
        self.error.is_none() && self.found.problems.is_empty()
    }

    fn json(&self) -> Value {
        let found = &self.found;
        let problems = found
            .problems
            .iter()
            .map(|p| json!({"digest": p.digest, "what": p.what, "reason": p.reason}));
        json!({
            "name": self.name,
            "ok": self.is_good(),
            "images": found.images,
            "layers": found.layers,
            "entries": found.entries,
            "bytes": found.bytes,
            "absent": found.absent,
            "error": self.error,
            "problems": problems.collect::<Vec<_>>(),
        })
    }
}

fn damage_json(damage: &Damage) -> Value {
    json!({"path": damage.path, "reason": damage.reason, "moved": damage.moved})
}

/// A line for each image, and one for each thing that is wrong.
fn text(rows: &[Row], damages: &[Damage]) -> String {
    let mut lines = Vec::new();
    for row in rows {
        let found = &row.found;
        let verdict = if row.is_good() { "ok" } else { "BROKEN" };
        let absent = match found.absent.len() {
            0 => String::new(),
            n => format!(", {n} not here but in their registry"),
        };
        lines.push(format!(
            "{verdict}: {}: {} layers with {} entries read, {}{absent}",
            row.name,
            found.layers,
            found.entries,
            format::size(found.bytes),
        ));
        if let Some(error) = &row.error {
            lines.push(format!("  {error}"));
        }
        for problem in &found.problems {
            let (what, digest) = (&problem.what, &problem.digest);
            lines.push(format!("  {what} {digest}: {}", problem.reason));
        }
    }
    for damage in damages {
        let path = damage.path.display();
        lines.push(match &damage.moved {
            Some(to) => format!(
                "store: {path}: {}; moved to {}",
                damage.reason,
                to.display()
            ),
            None => format!("store: {path}: {}", damage.reason),
        });
    }
    let escaped = lines.iter().map(|line| format!("{}\n", escape::text(line)));
    escaped.collect()
}
