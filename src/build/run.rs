//! The use case of a look inside: an image in, a process out, and perhaps
//! another image.
//!
//! What is run is the image's entrypoint and command, as the request changes
//! them. What it changed is thrown away, or becomes one more layer of an image
//! that is as the first otherwise: its own entrypoint and command stay, whatever
//! was run now.

use std::path::PathBuf;
use std::sync::Arc;

use super::assemble::{in_format, rfc3339};
use super::{Tools, Wanted, make_executor, now};
use crate::container::{Confinement, Executor, Exit, Isolation, Mount, Network, RootKind, Streams};
use crate::event::{Cancel, Events};
use crate::graph::config::DEFAULT_PATH;
use crate::image::media_type::{self, Format};
use crate::image::{ContainerConfig, Descriptor, History, Image, ImageConfig, Manifest};
use crate::layer::pipeline::SealOptions;
use crate::solve::inside::{Ended, Inside, run_inside};
use crate::solve::{Env, LayerBlob, Options, StepError};

/// A run, as asked for.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// The command's words, in place of the image's; empty is the image's.
    pub command: Vec<String>,
    /// In place of the image's entrypoint; empty words are none. The image's
    /// command goes with its entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Variables; without a value it is taken away.
    pub env: Vec<(String, Option<String>)>,
    /// In place of the image's user.
    pub user: Option<String>,
    /// In place of the image's working directory.
    pub cwd: Option<String>,
    /// Files of the host.
    pub mounts: Vec<Mount>,
    /// The root filesystem cannot be written to.
    pub read_only: bool,
    /// It has a terminal.
    pub terminal: bool,
    /// What it changes becomes an image.
    pub keep: Option<Keep>,
    /// Which network it sees.
    pub network: Network,
    /// The name of the host.
    pub hostname: Option<String>,
    /// `name`, `address` pairs for `/etc/hosts`.
    pub add_hosts: Vec<(String, String)>,
    /// What it may do and use.
    pub confinement: Confinement,
    /// How it is isolated.
    pub isolation: Isolation,
    /// What its root filesystem is made of; `None` is what works best.
    pub root_kind: Option<RootKind>,
    /// The runtime of [`Isolation::Oci`].
    pub runtime: Option<PathBuf>,
}

/// How the image of what was changed is made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Keep {
    /// The config that it gets, and what its history says of the way there from
    /// the first image's; `None` is the first image's.
    pub changed: Option<(ContainerConfig, Vec<History>)>,
    /// A remark for the history.
    pub comment: String,
    /// Who made it.
    pub author: Option<String>,
    /// The time of it all, seconds since 1970; `None` is now.
    pub epoch: Option<i64>,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Neither the image nor the request has a command.
    #[error("the image names no command, and none was given")]
    NoCommand,
    /// It could not be run, or its changes could not be kept.
    #[error("{0}")]
    Step(#[from] StepError),
    /// The image of the changes could not be stored.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// Runs a command in a container of `image`: how it ended, and the image of
/// what it changed, which has no name yet. `ready` is called when all is
/// prepared; the caller's terminal is the command's from there on.
///
/// # Errors
/// See [`StartError`]. A command that fails is none.
pub fn run(
    image: &Image,
    request: &RunRequest,
    tools: &Tools,
    (events, cancel): (&Events, &Cancel),
    streams: &Streams<'_>,
    ready: &mut dyn FnMut(),
) -> Result<(Exit, Option<Descriptor>), StartError> {
    let inside = inside(&image.config.config, request)?;
    let wanted = Wanted {
        isolation: request.isolation,
        root: request.root_kind,
        runtime: request.runtime.as_deref(),
    };
    let executor =
        || -> Result<Arc<dyn Executor>, StepError> { make_executor(wanted, tools, events) };
    let (seconds, nanos) = now();
    let env = Env {
        store: &tools.store,
        context: None,
        named: Default::default(),
        bases: &Default::default(),
        imports: Vec::new(),
        executor: &executor,
        remote: &tools.remote,
        options: options(request, tools, seconds),
        events: events.clone(),
        cancel: cancel.clone(),
        early: None,
    };
    let ended = run_inside(image, &inside, &env, streams, ready)?;
    let Some(keep) = &request.keep else {
        return Ok((ended.exit, None));
    };
    let time = match keep.epoch {
        Some(epoch) => rfc3339(epoch, 0),
        None => rfc3339(seconds, nanos),
    };
    let (config, layers) = documents(image, keep, &inside.args, &ended, &time);
    let store = &tools.store;
    let config = store.put_bytes(media_type::OCI_CONFIG, &config.to_bytes())?;
    let manifest = Manifest::new(Format::Oci, config, layers);
    let mut made = store.put_bytes(media_type::OCI_MANIFEST, &manifest.to_bytes())?;
    made.platform = Some(image.config.platform());
    Ok((ended.exit, Some(made)))
}

fn options(request: &RunRequest, tools: &Tools, now: i64) -> Options {
    Options {
        jobs: 1,
        no_cache: true,
        seal: SealOptions::default(),
        now,
        network: request.network,
        hostname: request.hostname.clone(),
        add_hosts: request.add_hosts.clone(),
        resolv_conf: tools.resolv_conf.clone(),
        confinement: request.confinement.clone(),
        secrets: Default::default(),
        ssh: Default::default(),
        allow_insecure: false,
        allow_host_network: false,
    }
}

/// What is run, by the image's config and the request. Pure.
fn inside(config: &ContainerConfig, request: &RunRequest) -> Result<Inside, StartError> {
    let given = |words: &[String]| words.iter().any(|word| !word.is_empty());
    let (entrypoint, default) = match &request.entrypoint {
        Some(words) if given(words) => (words.clone(), None),
        Some(_) => (Vec::new(), None),
        None => (
            config.entrypoint.clone().unwrap_or_default(),
            config.cmd.clone(),
        ),
    };
    let mut args = entrypoint;
    match request.command.is_empty() {
        true => args.extend(default.unwrap_or_default()),
        false => args.extend(request.command.iter().cloned()),
    }
    if args.is_empty() {
        return Err(StartError::NoCommand);
    }
    let first = |texts: [&str; 3]| -> String {
        let mut texts = texts.into_iter().filter(|text| !text.is_empty());
        texts.next().unwrap_or_default().to_owned()
    };
    Ok(Inside {
        args,
        env: variables(config, request),
        cwd: first([
            request.cwd.as_deref().unwrap_or_default(),
            &config.working_dir,
            "/",
        ]),
        user: first([
            request.user.as_deref().unwrap_or_default(),
            &config.user,
            "0",
        ]),
        mounts: request.mounts.clone(),
        read_only: request.read_only,
        keep: request.keep.is_some(),
    })
}

/// The environment: what every container has, the image's, the request's.
fn variables(config: &ContainerConfig, request: &RunRequest) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    let mut set = |name: &str, value: Option<&str>| match value {
        None => all.retain(|(known, _)| known != name),
        Some(value) => match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => all.push((name.into(), value.into())),
        },
    };
    if let Some(hostname) = &request.hostname {
        set("HOSTNAME", Some(hostname));
    }
    if request.terminal {
        set("TERM", Some("xterm"));
    }
    for entry in &config.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(name, Some(value));
    }
    for (name, value) in &request.env {
        set(name, value.as_deref());
    }
    all
}

/// The config and the layers of the image of what was changed. Pure.
fn documents(
    image: &Image,
    keep: &Keep,
    args: &[String],
    ended: &Ended,
    time: &str,
) -> (ImageConfig, Vec<Descriptor>) {
    let mut config = ImageConfig {
        created: Some(time.to_owned()),
        author: keep.author.clone().unwrap_or_default(),
        ..image.config.clone()
    };
    let diff_ids = ended.layers.iter().map(|l: &LayerBlob| l.diff_id.clone());
    config.rootfs.diff_ids = diff_ids.collect();
    config.history.push(History {
        created: Some(time.to_owned()),
        created_by: args.join(" "),
        comment: keep.comment.clone(),
        author: config.author.clone(),
        ..History::default()
    });
    if let Some((changed, entries)) = &keep.changed {
        config.config.clone_from(changed);
        let entries = entries.iter().map(|entry| History {
            created: Some(time.to_owned()),
            empty_layer: true,
            ..entry.clone()
        });
        config.history.extend(entries);
    }
    // An older one speaks of other layers.
    config.other.remove(super::cache::format::INLINE_FIELD);
    let layers = ended.layers.iter();
    let layers = layers.map(|layer| in_format(&layer.descriptor, Format::Oci));
    (config, layers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_command_is_that_of_the_image_or_of_the_request() {
        let config = |entrypoint: &str, cmd: &str| ContainerConfig {
            entrypoint: Some(words(entrypoint)),
            cmd: Some(words(cmd)),
            ..ContainerConfig::default()
        };
        let args = |config: &ContainerConfig, entrypoint: Option<&str>, command: &str| {
            let request = RunRequest {
                entrypoint: entrypoint.map(|text| vec![text.to_owned()]),
                command: words(command),
                ..RunRequest::default()
            };
            inside(config, &request)
                .map(|inside| inside.args.join(" "))
                .ok()
        };
        let both = config("tini --", "sh -l");
        for (entrypoint, command, expected) in [
            (None, "", Some("tini -- sh -l")),
            (None, "ls /", Some("tini -- ls /")),
            (Some("cat"), "", Some("cat")),
            (Some("cat"), "/etc/passwd", Some("cat /etc/passwd")),
            (Some(""), "ls", Some("ls")),
            (Some(""), "", None),
        ] {
            assert_eq!(args(&both, entrypoint, command).as_deref(), expected);
        }
        assert_eq!(args(&config("", ""), None, ""), None);
    }

    #[test]
    fn the_rest_is_the_images_unless_the_request_says_other() {
        let config = ContainerConfig {
            env: vec!["A=1".into(), "B=2".into(), "C=3".into(), "PATH=/x".into()],
            cmd: Some(words("sh")),
            user: "ana".into(),
            working_dir: "/work".into(),
            ..ContainerConfig::default()
        };
        let mut request = RunRequest::default();
        let plain = inside(&config, &request).unwrap();
        assert_eq!((plain.user.as_str(), plain.cwd.as_str()), ("ana", "/work"));
        assert_eq!(plain.env[0], ("PATH".into(), "/x".into()));
        request.env = vec![("B".into(), Some("two".into())), ("C".into(), None)];
        request.user = Some("7:8".into());
        request.cwd = Some("/other".into());
        request.terminal = true;
        let other = inside(&config, &request).unwrap();
        assert_eq!((other.user.as_str(), other.cwd.as_str()), ("7:8", "/other"));
        let env: Vec<String> = other.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(env, ["PATH=/x", "TERM=xterm", "A=1", "B=two"]);
        let bare = inside(
            &ContainerConfig::default(),
            &RunRequest {
                command: words("ls"),
                ..RunRequest::default()
            },
        );
        let bare = bare.unwrap();
        assert_eq!((bare.user.as_str(), bare.cwd.as_str()), ("0", "/"));
        assert_eq!(bare.env, [("PATH".into(), DEFAULT_PATH.into())]);
    }
}
