//! The `config.json` of a bundle that users run themselves.
//!
//! It says what the [`oci`](super::oci) rung's does, but for what belongs to a
//! run of ours: limits, devices and the control group are the runtime's
//! defaults.
//!
//! # Specification
//! runtime-spec `config.md`, `config-linux.md`; what differs for a plain user
//! is what runc's `spec --rootless` writes.

use serde_json::{Value, json};

use super::oci;
use super::spec::RunSpec;
use crate::layer::ids::{IdMaps, IdRange};

/// Who is going to run a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Root, with these ids for the container's, where they are others.
    Root(IdMaps),
    /// A plain user with no other id than its own.
    User {
        /// Its id.
        uid: u32,
        /// Its group's.
        gid: u32,
    },
}

/// The `config.json` for what `spec` says to run. `mounts` come after the
/// usual ones; the root filesystem is `rootfs` beside the file.
pub fn bundle_config(spec: &RunSpec, owner: &Owner, mounts: Vec<Value>) -> Value {
    let mut all = oci::usual_mounts(spec);
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    let plain = matches!(owner, Owner::User { .. });
    if plain {
        for mount in &mut all {
            confine(mount);
        }
    } else {
        namespaces.push("network");
    }
    all.extend(mounts);
    let one = |inside: u32, outside| IdRange {
        inside,
        outside,
        count: 1,
    };
    let (users, groups) = match owner {
        Owner::Root(ids) => (ids.users.clone(), ids.groups.clone()),
        Owner::User { uid, gid } => (vec![one(0, *uid)], vec![one(0, *gid)]),
    };
    let mut config = oci::document(spec, &spec.capabilities, all);
    let linux = &mut config["linux"];
    if !(users.is_empty() && groups.is_empty()) {
        namespaces.push("user");
        linux["uidMappings"] = mappings(&users);
        linux["gidMappings"] = mappings(&groups);
    }
    let kinds = namespaces.iter().map(|kind| json!({"type": kind}));
    linux["namespaces"] = kinds.collect();
    if !plain {
        linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    }
    config
}

fn mappings(ranges: &[IdRange]) -> Value {
    // A namespace needs a map of both.
    let all = [IdRange {
        inside: 0,
        outside: 0,
        count: u32::MAX,
    }];
    let ranges = match ranges {
        [] => &all[..],
        some => some,
    };
    let json = |r: &IdRange| json!({"containerID": r.inside, "hostID": r.outside, "size": r.count});
    ranges.iter().map(json).collect()
}

/// Leaves out of a mount what takes more than one id, or a network of its own.
fn confine(mount: &mut Value) {
    match mount["destination"].as_str() {
        Some("/sys") => {
            *mount = json!({
                "destination": "/sys",
                "type": "none",
                "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        }
        Some("/dev/pts") => {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|o| !o.as_str().is_some_and(|o| o.starts_with("gid=")));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::RootSpec;

    fn spec() -> RunSpec {
        let root = RootSpec::Dir {
            dir: "/r".into(),
            work: "/w".into(),
        };
        RunSpec::new(root, ["true"])
    }

    #[test]
    fn a_plain_user_has_one_id_and_the_hosts_network() {
        let owner = Owner::User { uid: 7, gid: 8 };
        let config = bundle_config(&spec(), &owner, Vec::new());
        let linux = &config["linux"];
        assert_eq!(
            linux["uidMappings"],
            json!([{"containerID": 0, "hostID": 7, "size": 1}])
        );
        assert_eq!(linux["gidMappings"][0]["hostID"], 8);
        let text = linux["namespaces"].to_string();
        assert!(text.contains("user") && !text.contains("network"), "{text}");
        assert!(linux.get("resources").is_none());
        assert!(!config["mounts"].to_string().contains("gid=5"));
    }

    #[test]
    fn roots_bundle_has_a_user_namespace_with_a_map_only() {
        let config = bundle_config(&spec(), &Owner::Root(IdMaps::default()), Vec::new());
        assert!(!config["linux"]["namespaces"].to_string().contains("user"));
        let ids = IdMaps {
            users: vec![IdRange::parse("0:1000:5").unwrap()],
            groups: Vec::new(),
        };
        let config = bundle_config(&spec(), &Owner::Root(ids), Vec::new());
        assert_eq!(config["linux"]["uidMappings"][0]["size"], 5);
        assert_eq!(config["linux"]["gidMappings"][0]["hostID"], 0);
    }
}
