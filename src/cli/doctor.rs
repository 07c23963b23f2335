//! `shiplap doctor`: which isolations work here, and what would enable others.

use clap::Args;
use serde_json::json;
use shiplap::container::{self, Isolation, Place, Refusal, Rung};

use super::{Format, Session};
use crate::ui::{output, table};

const EXAMPLES: &str = "\
Examples:
  What works here, and why the rest does not
    shiplap doctor

  The same for a program
    shiplap doctor --format json";

/// Tell how RUN steps can be isolated here
///
/// Each isolation is tried, strongest first; --isolation=auto takes the first
/// one that works. A Dockerfile without RUN needs none of them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl DoctorArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let program = std::env::current_exe()?;
        // In the store if there can be one: its file system is what counts.
        let kept = session.store().and_then(|store| Ok(store.temp_dir()?));
        let elsewhere = tempfile::tempdir()?;
        let scratch = match &kept {
            Ok(dir) => dir.path(),
            Err(_) => elsewhere.path(),
        };
        let runtime = super::steps::installed_runtime(&super::source::environment);
        let rungs = container::survey(&Place {
            program: &program,
            scratch,
            root: None,
            runtime: runtime.as_deref(),
        });
        // A runtime is only used when it is asked for.
        let mut own = rungs.iter().filter(|r| r.isolation != Isolation::Oci);
        let chosen = own.find(|rung| rung.outcome.is_ok());
        match self.format {
            Format::Json => output::json(&json!({
                "auto": chosen.map(|rung| rung.isolation.name()),
                "isolations": rungs.iter().map(as_json).collect::<Vec<_>>(),
            })),
            Format::Text => output::result(&text(&rungs, chosen)),
        }
    }
}

fn name(rung: &Rung) -> String {
    match rung.form {
        "" => rung.isolation.to_string(),
        form => format!("{} {form}", rung.isolation),
    }
}

fn text(rungs: &[Rung], chosen: Option<&Rung>) -> String {
    let rows: Vec<[String; 3]> = rungs
        .iter()
        .map(|rung| match &rung.outcome {
            Ok(detail) => [name(rung), "works".into(), detail.clone()],
            Err(Refusal { reason, .. }) => [name(rung), "no".into(), reason.clone()],
        })
        .collect();
    let mut text = table::table(["ISOLATION", "", "HERE"], &rows);
    for rung in rungs {
        if let Err(refusal) = &rung.outcome
            && !refusal.remedy.is_empty()
        {
            text.push_str(&format!("\n{} needs {}.\n", name(rung), refusal.remedy));
        }
    }
    text.push_str(&match chosen {
        Some(rung) => format!("\nRUN steps are isolated with {}.\n", name(rung)),
        None => "\nNothing works: Dockerfiles with RUN can't be built here.\n".into(),
    });
    text.push_str("A Dockerfile without RUN needs no isolation and no privilege.\n");
    text
}

fn as_json(rung: &Rung) -> serde_json::Value {
    let mut entry = json!({
        "name": rung.isolation.name(),
        "form": rung.form,
        "works": rung.outcome.is_ok(),
    });
    match &rung.outcome {
        Ok(detail) => entry["detail"] = json!(detail),
        Err(refusal) => {
            entry["reason"] = json!(refusal.reason);
            entry["remedy"] = json!(refusal.remedy);
        }
    }
    entry
}
