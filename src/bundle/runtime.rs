//! The `config.json` of an image's bundle.
//!
//! # Specification
//! image-spec `conversion.md`.

use std::path::Path;

use serde_json::{Value, json};

use super::BundleError;
use super::state::Manner;
use crate::container::{self, Owner, RootSpec, RunSpec};
use crate::image::{ContainerConfig, ImageConfig};
use crate::snapshot::Merged;
use crate::snapshot::users::{self, UserIds};

/// Where programs are when the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the image does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The command instead of the image's.
    pub args: Vec<String>,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// The document for the image that was unpacked to `rootfs`.
pub(super) fn config(
    image: &ImageConfig,
    rootfs: &Path,
    hostname: &str,
    manner: &Manner,
    options: &Options,
) -> Result<Vec<u8>, BundleError> {
    let fail = || BundleError::io("read", rootfs);
    let tree = Merged::new(vec![rootfs.to_owned()]).map_err(fail())?;
    let user = users::resolve_user(&tree, &image.config.user)?;
    let owner = match manner.rootless {
        true => Owner::User {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
        false => Owner::Root(manner.ids.clone()),
    };
    let spec = spec(&image.config, user, hostname, options);
    let mut config = container::bundle_config(&spec, &owner, volumes(&image.config));
    config["process"]["terminal"] = json!(options.terminal);
    if manner.rootless {
        // There are no other groups to be in.
        config["process"]["user"]["additionalGids"] = json!([]);
    }
    config["annotations"] = annotations(image);
    let mut bytes = serde_json::to_vec_pretty(&config).unwrap_or_default();
    bytes.push(b'\n');
    Ok(bytes)
}

fn spec(config: &ContainerConfig, user: UserIds, hostname: &str, options: &Options) -> RunSpec {
    let mut args: Vec<String> = config.entrypoint.clone().unwrap_or_default();
    args.extend(match options.args.is_empty() {
        true => config.cmd.clone().unwrap_or_default(),
        false => options.args.clone(),
    });
    if args.is_empty() {
        args.push("sh".into());
    }
    // It is not run from here.
    let root = RootSpec::Dir {
        dir: "rootfs".into(),
        work: "rootfs".into(),
    };
    let mut spec = RunSpec::new(root, args);
    spec.env.clone_from(&config.env);
    let has = |env: &[String], name: &str| env.iter().any(|v| v.starts_with(name));
    if !has(&spec.env, "PATH=") {
        spec.env.push(PATH.into());
    }
    if !has(&spec.env, "HOME=") {
        spec.env.push(format!("HOME={}", user.home.display()));
    }
    if options.terminal && !has(&spec.env, "TERM=") {
        spec.env.push("TERM=xterm".into());
    }
    let dir = config.working_dir.trim_start_matches('/');
    spec.cwd = format!("/{dir}");
    spec.user = container::UserIds {
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
    };
    spec.hostname = hostname.chars().take(64).collect();
    spec
}

/// What is written to a volume does not go to the root filesystem.
fn volumes(config: &ContainerConfig) -> Vec<Value> {
    let mount = |path: &String| {
        json!({
            "destination": path,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["rw", "nosuid", "nodev", "tmpcopyup"],
        })
    };
    let absolute = config.volumes.keys().filter(|path| path.starts_with('/'));
    absolute.map(mount).collect()
}

fn annotations(image: &ImageConfig) -> Value {
    let config = &image.config;
    let mut all = json!({});
    let ports: Vec<&str> = config.exposed_ports.keys().map(String::as_str).collect();
    for (name, value) in [
        ("os", &image.os),
        ("architecture", &image.architecture),
        ("variant", &image.variant),
        ("author", &image.author),
        ("created", image.created.as_ref().unwrap_or(&String::new())),
        ("stopSignal", &config.stop_signal),
        ("exposedPorts", &ports.join(",")),
    ] {
        if !value.is_empty() {
            all[format!("org.opencontainers.image.{name}")] = json!(value);
        }
    }
    for (name, value) in &config.labels {
        all[name.as_str()] = json!(value);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(image: &Value, options: &Options) -> Value {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("etc")).unwrap();
        std::fs::write(rootfs.join("etc/passwd"), "me:x:7:8::/me:/bin/sh\n").unwrap();
        std::fs::write(rootfs.join("etc/group"), "more:x:9:me\n").unwrap();
        let image = ImageConfig::parse(image.to_string().as_bytes()).unwrap();
        let manner = Manner::default();
        let bytes = config(&image, &rootfs, "box", &manner, options).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn the_image_says_how_it_is_run() {
        let image = json!({
            "os": "linux", "architecture": "amd64", "created": "2020-01-01T00:00:00Z",
            "config": {
                "User": "me", "Env": ["A=b"], "Entrypoint": ["e"], "Cmd": ["c", "d"],
                "WorkingDir": "/w", "Labels": {"l": "m"}, "Volumes": {"/data": {}},
                "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT",
            },
        });
        let config = made(&image, &Options::default());
        let process = &config["process"];
        assert_eq!(process["args"], json!(["e", "c", "d"]));
        assert_eq!(process["env"], json!(["A=b", PATH, "HOME=/me"]));
        assert_eq!(process["cwd"], "/w");
        assert_eq!(process["user"]["uid"], 7);
        assert_eq!(process["user"]["additionalGids"], json!([9]));
        assert_eq!(config["hostname"], "box");
        let annotations = &config["annotations"];
        assert_eq!(annotations["l"], "m");
        assert_eq!(
            annotations["org.opencontainers.image.stopSignal"],
            "SIGQUIT"
        );
        assert_eq!(
            annotations["org.opencontainers.image.exposedPorts"],
            "80/tcp"
        );
        assert!(config["mounts"].to_string().contains("/data"));
    }

    #[test]
    fn a_command_takes_the_place_of_the_images() {
        let image = json!({"os": "linux", "config": {"Cmd": ["x"]}});
        let options = Options {
            args: vec!["y".into()],
            terminal: true,
        };
        let process = &made(&image, &options)["process"];
        assert_eq!(process["args"], json!(["y"]));
        assert_eq!(process["terminal"], true);
        let empty = made(&json!({"os": "linux"}), &Options::default());
        assert_eq!(empty["process"]["args"], json!(["sh"]));
        assert_eq!(empty["process"]["cwd"], "/");
    }
}
