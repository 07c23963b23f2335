//! Another config: how the image is run, and what is said about it. Pure but
//! for storing the result.

use std::collections::{BTreeMap, BTreeSet};

use super::{Draft, MutateError, NewBlobs};
use crate::image::config::Empty;
use crate::image::{Healthcheck, History, Image, ImageConfig};
use crate::platform::Platform;

/// What becomes of a field: `None` leaves it, `Some(None)` removes it.
pub type Edit<T> = Option<Option<T>>;

/// What is to be different.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConfigEdit {
    /// Variables, with values or without them to be removed.
    pub env: Vec<(String, Option<String>)>,
    /// Labels, likewise.
    pub labels: Vec<(String, Option<String>)>,
    /// Annotations of the manifest, likewise.
    pub annotations: Vec<(String, Option<String>)>,
    /// `user[:group]`.
    pub user: Edit<String>,
    /// Where the command starts.
    pub working_dir: Edit<String>,
    /// What is run.
    pub entrypoint: Edit<Vec<String>>,
    /// The command, or the entrypoint's arguments.
    pub cmd: Edit<Vec<String>>,
    /// The shell of the shell form.
    pub shell: Edit<Vec<String>>,
    /// The signal that asks to stop.
    pub stop_signal: Edit<String>,
    /// How to find out whether a container works.
    pub healthcheck: Edit<Healthcheck>,
    /// Who made the image.
    pub author: Edit<String>,
    /// Ports to add, `port/protocol`.
    pub add_ports: Vec<String>,
    /// Ports to remove.
    pub remove_ports: Vec<String>,
    /// Volumes to add.
    pub add_volumes: Vec<String>,
    /// Volumes to remove.
    pub remove_volumes: Vec<String>,
    /// Removes the triggers for images built on this one.
    pub clear_on_build: bool,
    /// What it runs on.
    pub platform: Option<Platform>,
    /// When the image was made, RFC 3339; else that of `history`.
    pub created: Option<String>,
    /// Tells of the change; nothing does so when `None`.
    pub history: Option<History>,
}

/// The image with another config.
///
/// # Errors
/// When there is nothing to remove of what is to be removed, a field can't be,
/// or the sink fails.
pub fn edit(image: &Image, edit: &ConfigEdit, new: &NewBlobs) -> Result<Image, MutateError> {
    let mut draft = Draft::new(image);
    change(&mut draft.config, edit).map_err(MutateError::Unfit)?;
    let notes = &mut draft.manifest.annotations;
    apply("annotation", notes, &edit.annotations).map_err(MutateError::Unfit)?;
    // A change that changes nothing is none.
    if draft.config == image.config && draft.manifest == image.manifest && edit.created.is_none() {
        return Ok(image.clone());
    }
    if let Some(entry) = &edit.history {
        draft.config.created.clone_from(&entry.created);
        draft.config.history.push(History {
            empty_layer: true,
            ..entry.clone()
        });
    }
    if let Some(created) = &edit.created {
        draft.config.created = Some(created.clone());
    }
    draft.finish(new)
}

fn change(config: &mut ImageConfig, edit: &ConfigEdit) -> Result<(), String> {
    let run = &mut config.config;
    for (name, value) in &edit.env {
        let is_it = |entry: &String| entry.split('=').next() == Some(name);
        let at = run.env.iter().position(is_it);
        match (value, at) {
            (Some(value), Some(at)) => run.env[at] = format!("{name}={value}"),
            (Some(value), None) => run.env.push(format!("{name}={value}")),
            (None, Some(_)) => run.env.retain(|entry| !is_it(entry)),
            (None, None) => return Err(format!("the image has no variable {name}")),
        }
    }
    apply("label", &mut run.labels, &edit.labels)?;
    let text = |field: &mut String, edit: &Edit<String>| {
        if let Some(value) = edit {
            *field = value.clone().unwrap_or_default();
        }
    };
    text(&mut run.user, &edit.user);
    text(&mut run.working_dir, &edit.working_dir);
    text(&mut run.stop_signal, &edit.stop_signal);
    text(&mut config.author, &edit.author);
    for (field, edit) in [
        (&mut run.entrypoint, &edit.entrypoint),
        (&mut run.cmd, &edit.cmd),
        (&mut run.shell, &edit.shell),
    ] {
        if let Some(value) = edit {
            field.clone_from(value);
        }
    }
    if let Some(check) = &edit.healthcheck {
        run.healthcheck.clone_from(check);
    }
    let ports = (&edit.add_ports[..], &edit.remove_ports[..]);
    set("port", &mut run.exposed_ports, ports)?;
    let volumes = (&edit.add_volumes[..], &edit.remove_volumes[..]);
    set("volume", &mut run.volumes, volumes)?;
    if edit.clear_on_build {
        run.on_build.clear();
    }
    if let Some(platform) = &edit.platform {
        config.os.clone_from(&platform.os);
        config.architecture.clone_from(&platform.architecture);
        config.variant = platform.variant.clone().unwrap_or_default();
        config.os_version = platform.os_version.clone().unwrap_or_default();
        config.os_features.clone_from(&platform.os_features);
    }
    Ok(())
}

fn apply(
    what: &str,
    map: &mut BTreeMap<String, String>,
    edits: &[(String, Option<String>)],
) -> Result<(), String> {
    for (name, value) in edits {
        match value {
            Some(value) => drop(map.insert(name.clone(), value.clone())),
            None if map.remove(name).is_none() => {
                return Err(format!("the image has no {what} {name}"));
            }
            None => {}
        }
    }
    Ok(())
}

fn set(
    what: &str,
    set: &mut BTreeMap<String, Empty>,
    (add, remove): (&[String], &[String]),
) -> Result<(), String> {
    let missing: BTreeSet<&String> = remove.iter().filter(|r| !set.contains_key(*r)).collect();
    if let Some(missing) = missing.first() {
        return Err(format!("the image has no {what} {missing}"));
    }
    set.retain(|name, _| !remove.contains(name));
    set.extend(add.iter().map(|name| (name.clone(), Empty {})));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_and_removed() {
        let mut config = ImageConfig::default();
        config.config.env = vec!["A=1".into(), "B=2".into(), "A=3".into(), "C".into()];
        config.config.user = "u".into();
        config.config.cmd = Some(vec!["x".into()]);
        config.config.volumes.insert("/v".into(), Empty {});
        let some = |s: &str| Some(s.to_owned());
        let edit = ConfigEdit {
            env: vec![
                ("B".into(), some("new")),
                ("A".into(), None),
                ("D".into(), some("")),
                ("C".into(), None),
            ],
            labels: vec![("l".into(), some("1"))],
            user: Some(None),
            cmd: Some(None),
            entrypoint: Some(Some(vec!["e".into()])),
            add_ports: vec!["80/tcp".into()],
            remove_volumes: vec!["/v".into()],
            add_volumes: vec!["/w".into()],
            platform: Some(Platform::parse("linux/arm/v7").unwrap()),
            ..ConfigEdit::default()
        };
        change(&mut config, &edit).unwrap();
        assert_eq!(config.config.env, ["B=new", "D="]);
        assert_eq!(config.config.labels["l"], "1");
        assert_eq!(
            (config.config.user.as_str(), &config.config.cmd),
            ("", &None)
        );
        assert_eq!(
            config.config.entrypoint.as_deref(),
            Some(&["e".to_owned()][..])
        );
        assert!(config.config.exposed_ports.contains_key("80/tcp"));
        let volumes: Vec<&String> = config.config.volumes.keys().collect();
        assert_eq!(volumes, ["/w"]);
        assert_eq!(config.platform().to_string(), "linux/arm/v7");
    }

    #[test]
    fn what_is_not_there_is_not_removed_in_silence() {
        let gone = || vec![("X".to_owned(), None)];
        for edit in [
            ConfigEdit {
                env: gone(),
                ..ConfigEdit::default()
            },
            ConfigEdit {
                labels: gone(),
                ..ConfigEdit::default()
            },
            ConfigEdit {
                remove_ports: vec!["1/tcp".into()],
                ..ConfigEdit::default()
            },
        ] {
            assert!(
                change(&mut ImageConfig::default(), &edit).is_err(),
                "{edit:?}"
            );
        }
    }
}
