//! `shiplap mutate`: another config.

use clap::Args;
use shiplap::image::History;
use shiplap::image::media_type::Format as Family;
use shiplap::mutate::MutateError;
use shiplap::mutate::config::{ConfigEdit, Edit, edit};
use shiplap::platform::Platform;

use super::error::Usage;
use super::reshape::{FormArgs, MessageArgs, ReshapeArgs, now};
use super::values::{key_or_value, key_value};
use super::{Session, import};

const EXAMPLES: &str = "\
Examples:
  Variables, a label and the command
    shiplap mutate app:1 -t app:2 --env MODE=production --unset-env DEBUG \\
        --label stage=live --cmd '[\"serve\", \"--port\", \"80\"]'

  How it is found out whether it works
    shiplap mutate app:1 --in-place --healthcheck '--interval=10s CMD curl -f localhost'

  An annotation, in a registry
    shiplap mutate docker://reg.example/app:1 --in-place --annotation org.example.by=me";

/// Change an image's config: how it is run and what is said about it
///
/// The layers stay as they are. Values of --entrypoint, --cmd, --shell,
/// --healthcheck, --expose, --volume and --stop-signal are what stands behind
/// the Dockerfile instruction: a JSON list, or text for the shell form. The
/// history gets an entry that tells of the change, unless --no-history is
/// given. Prints the new image's digest.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MutateArgs {
    #[command(flatten)]
    common: ReshapeArgs,
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = key_value, help_heading = "Config")]
    env: Vec<(String, String)>,
    /// Remove a variable
    #[arg(long, value_name = "NAME", help_heading = "Config")]
    unset_env: Vec<String>,
    /// Set a label
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = key_or_value, help_heading = "Config")]
    label: Vec<(String, String)>,
    /// Remove a label
    #[arg(long, value_name = "NAME", help_heading = "Config")]
    unset_label: Vec<String>,
    /// Set an annotation of the manifest
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = key_or_value, help_heading = "Config")]
    annotation: Vec<(String, String)>,
    /// Remove an annotation
    #[arg(long, value_name = "NAME", help_heading = "Config")]
    unset_annotation: Vec<String>,
    /// Set the user, USER[:GROUP]; nothing is root
    #[arg(short, long, value_name = "USER", help_heading = "Config")]
    user: Option<String>,
    /// Set the directory that the command starts in
    #[arg(short, long, value_name = "DIR", help_heading = "Config")]
    workdir: Option<String>,
    /// Set what is run
    #[arg(
        long,
        value_name = "COMMAND",
        allow_hyphen_values = true,
        help_heading = "Config"
    )]
    entrypoint: Option<String>,
    /// Have no entrypoint
    #[arg(long, conflicts_with = "entrypoint", help_heading = "Config")]
    unset_entrypoint: bool,
    /// Set the command, or the entrypoint's arguments
    #[arg(
        long,
        value_name = "COMMAND",
        allow_hyphen_values = true,
        help_heading = "Config"
    )]
    cmd: Option<String>,
    /// Have no command
    #[arg(long, conflicts_with = "cmd", help_heading = "Config")]
    unset_cmd: bool,
    /// Set the shell of the shell form, a JSON list
    #[arg(long, value_name = "LIST", help_heading = "Config")]
    shell: Option<String>,
    /// Add a port, PORT[/PROTOCOL]
    #[arg(
        long,
        alias = "exposed-ports",
        value_name = "PORT",
        help_heading = "Config"
    )]
    expose: Vec<String>,
    /// Remove a port
    #[arg(long, value_name = "PORT", help_heading = "Config")]
    unset_expose: Vec<String>,
    /// Add a volume
    #[arg(long, value_name = "PATH", help_heading = "Config")]
    volume: Vec<String>,
    /// Remove a volume
    #[arg(long, value_name = "PATH", help_heading = "Config")]
    unset_volume: Vec<String>,
    /// Set the signal that asks to stop
    #[arg(long, value_name = "SIGNAL", help_heading = "Config")]
    stop_signal: Option<String>,
    /// Leave the signal to the runtime
    #[arg(long, conflicts_with = "stop_signal", help_heading = "Config")]
    unset_stop_signal: bool,
    /// Set the health check, as HEALTHCHECK has it; NONE for none at all
    #[arg(
        long,
        value_name = "CHECK",
        allow_hyphen_values = true,
        help_heading = "Config"
    )]
    healthcheck: Option<String>,
    /// Say nothing about the health
    #[arg(long, conflicts_with = "healthcheck", help_heading = "Config")]
    unset_healthcheck: bool,
    /// Remove the triggers for images that are built on this one
    #[arg(long, help_heading = "Config")]
    unset_onbuild: bool,
    /// Set the author; nothing removes it
    #[arg(long, value_name = "TEXT", help_heading = "Config")]
    author: Option<String>,
    /// Set what the image runs on
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse, help_heading = "Config")]
    set_platform: Option<Platform>,
    /// Set when the image was made, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Config")]
    created: Option<String>,
    /// Add no entry to the history
    #[arg(long, help_heading = "History")]
    no_history: bool,
    /// What the entry says the image was made by
    #[arg(long, value_name = "TEXT", help_heading = "History")]
    created_by: Option<String>,
    #[command(flatten)]
    form: FormArgs,
    // The last: what comes after it would have the heading too.
    #[command(flatten, next_help_heading = "History")]
    message: MessageArgs,
}

fn time(text: &str) -> Result<String, String> {
    match text.parse::<jiff::Timestamp>() {
        Ok(_) => Ok(text.to_owned()),
        Err(e) => Err(format!("it is no RFC 3339 time: {e}")),
    }
}

/// An empty value removes.
fn or_nothing(value: Option<&String>) -> Edit<String> {
    value.map(|value| Some(value.clone()).filter(|v| !v.is_empty()))
}

/// What is set, then what is removed.
fn pairs(set: &[(String, String)], unset: &[String]) -> Vec<(String, Option<String>)> {
    let set = set.iter().map(|(k, v)| (k.clone(), Some(v.clone())));
    let unset = unset.iter().map(|k| (k.clone(), None));
    set.chain(unset).collect()
}

impl MutateArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let mut change = self.edit()?;
        if change == ConfigEdit::default() {
            return Err(Usage::error(
                "nothing is to be changed; see shiplap mutate --help",
            ));
        }
        if !self.no_history {
            change.history = Some(History {
                created: Some(now()?),
                created_by: self.created_by.clone().unwrap_or_else(|| self.told()),
                comment: self.message.message.clone(),
                author: self.author.clone().unwrap_or_default(),
                ..History::default()
            });
        }
        let form = self.form.format;
        self.common
            .run(session, "mutate", form, None, &mut |image, new| {
                if image.manifest.format() == Family::Docker && !change.annotations.is_empty() {
                    let reason = "docker's form has no annotations; convert the image to oci first";
                    return Err(MutateError::Unfit(reason.into()).into());
                }
                Ok(edit(image, &change, new)?)
            })
    }

    /// What the history says, in the words of a Dockerfile.
    fn told(&self) -> String {
        let mut told: Vec<String> = Vec::new();
        let mut tell = |word: &str, values: &mut dyn Iterator<Item = String>| {
            told.extend(values.map(|value| format!("{word} {value}")));
        };
        let pair = |(k, v): &(String, String)| format!("{k}={v}");
        tell("ENV", &mut self.env.iter().map(pair));
        tell("LABEL", &mut self.label.iter().map(pair));
        tell("USER", &mut self.user.iter().cloned());
        tell("WORKDIR", &mut self.workdir.iter().cloned());
        tell("ENTRYPOINT", &mut self.entrypoint.iter().cloned());
        tell("CMD", &mut self.cmd.iter().cloned());
        tell("SHELL", &mut self.shell.iter().cloned());
        tell("EXPOSE", &mut self.expose.iter().cloned());
        tell("VOLUME", &mut self.volume.iter().cloned());
        tell("STOPSIGNAL", &mut self.stop_signal.iter().cloned());
        tell("HEALTHCHECK", &mut self.healthcheck.iter().cloned());
        match told.is_empty() {
            true => "shiplap mutate".into(),
            false => format!("shiplap mutate: {}", told.join("; ")),
        }
    }

    fn edit(&self) -> anyhow::Result<ConfigEdit> {
        let lines = [
            // First, as the shell forms after it use it.
            ("SHELL", self.shell.iter().collect::<Vec<_>>()),
            ("ENTRYPOINT", self.entrypoint.iter().collect()),
            ("CMD", self.cmd.iter().collect()),
            ("EXPOSE", self.expose.iter().collect()),
            ("VOLUME", self.volume.iter().collect()),
            ("STOPSIGNAL", self.stop_signal.iter().collect()),
            ("HEALTHCHECK", self.healthcheck.iter().collect()),
        ];
        let ports = self.unset_expose.iter().collect::<Vec<_>>();
        let parse = |lines: &[(&str, Vec<&String>)]| {
            let mut text = Vec::new();
            for (word, values) in lines {
                for value in values {
                    if value.contains('\n') {
                        return Err(Usage::error(format!(
                            "{word}: the value has a line end in it"
                        )));
                    }
                    text.push(format!("{word} {value}"));
                }
            }
            Ok(import::changed(&text, Platform::host())?.config)
        };
        let config = parse(&lines)?;
        let gone = parse(&[("EXPOSE", ports)])?;
        fn set<T>(given: bool, unset: bool, value: Option<T>) -> Edit<T> {
            match (given, unset) {
                (true, _) => Some(value),
                (false, true) => Some(None),
                (false, false) => None,
            }
        }
        let signal = Some(config.stop_signal);
        Ok(ConfigEdit {
            env: pairs(&self.env, &self.unset_env),
            labels: pairs(&self.label, &self.unset_label),
            annotations: pairs(&self.annotation, &self.unset_annotation),
            user: or_nothing(self.user.as_ref()),
            working_dir: or_nothing(self.workdir.as_ref()),
            entrypoint: set(
                self.entrypoint.is_some(),
                self.unset_entrypoint,
                config.entrypoint,
            ),
            cmd: set(self.cmd.is_some(), self.unset_cmd, config.cmd),
            shell: set(self.shell.is_some(), false, config.shell),
            stop_signal: set(self.stop_signal.is_some(), self.unset_stop_signal, signal),
            healthcheck: set(
                self.healthcheck.is_some(),
                self.unset_healthcheck,
                config.healthcheck,
            ),
            author: or_nothing(self.author.as_ref()),
            add_ports: config.exposed_ports.into_keys().collect(),
            remove_ports: gone.exposed_ports.into_keys().collect(),
            add_volumes: config.volumes.into_keys().collect(),
            remove_volumes: self.unset_volume.clone(),
            clear_on_build: self.unset_onbuild,
            platform: self.set_platform.clone(),
            created: self.created.clone(),
            history: None,
        })
    }
}
