//! Caches that outlive the machine: each store here stands for another one.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::push_pull::registry;
use crate::sandbox::{Ran, Sandbox, has, skip};

const DOCKERFILE: &str = "\
FROM base AS one
RUN --mount=type=cache,target=/kept cat /kept/stamp; cat /proc/sys/kernel/random/uuid > /kept/stamp; cat /kept/stamp > /one
FROM base
COPY given /given
COPY --from=one /one /two
RUN --mount=type=cache,target=/kept cat /kept/stamp > /three; echo last
";

struct Build {
    s: Sandbox,
    context: String,
}

impl Build {
    fn new(test: &str) -> Option<Self> {
        let s = Sandbox::with_base(test)?;
        let context = s.context("ctx", &[("Dockerfile", DOCKERFILE), ("given", "x")]);
        Some(Self { s, context })
    }

    /// A build on a machine of its own.
    fn on(&self, machine: &str, more: &[&str]) -> Ran {
        let store = self.s.path(machine);
        if !store.exists() {
            self.s.import_at(&store);
        }
        let mut args = vec!["build", "--progress", "plain"];
        args.extend(more);
        args.push(&self.context);
        let ran = self.s.run_in(&store, &args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran
    }

    fn edit(&self, from: &str, to: &str) {
        let text = DOCKERFILE.replace(from, to);
        assert_ne!(text, DOCKERFILE);
        std::fs::write(Path::new(&self.context).join("Dockerfile"), text).unwrap();
    }

    /// The file of the image that a machine has as `app`.
    fn file(&self, machine: &str, more: &[&str], file: &str) -> String {
        let out = self.s.path("out");
        let _ = std::fs::remove_dir_all(&out);
        let dest = format!("type=local,dest={}", out.display());
        let mut args = vec!["-o", &dest];
        args.extend(more);
        self.on(machine, &args);
        std::fs::read_to_string(out.join(file)).unwrap()
    }
}

fn cached(ran: &Ran) -> usize {
    ran.stderr.matches(" CACHED").count()
}

#[test]
fn a_directory_brings_steps_and_mounts_to_another_machine() {
    let Some(b) = Build::new("a_directory_brings_steps_and_mounts_to_another_machine") else {
        return;
    };
    let to = "type=local,dest=carried,mode=max,mounts=true";
    let first = b.on("first", &["--cache-to", to]);
    assert_eq!(cached(&first), 0);
    let stamp = b.file("first", &[], "three");
    // Nothing runs, and no layer is fetched that no one asks for.
    let from = ["--cache-from", "type=local,src=carried"];
    let oci = ["-o", "type=oci,dest=app.tar"];
    let second = b.on("second", &[&from[..], &oci].concat());
    assert_eq!(cached(&second), 4, "{}", second.stderr);
    // What is made of the same layers is the same image, wherever.
    assert_eq!(b.on("second", &from).stdout, first.stdout);
    assert_eq!(b.file("second", &from, "three"), stamp);
    // A changed last step runs, and sees the cache mount.
    b.edit("echo last", "echo other");
    let third = b.on("third", &from);
    assert_eq!(cached(&third), 3, "{}", third.stderr);
    assert!(third.stderr.contains("cache mount"), "{}", third.stderr);
    assert_eq!(b.file("third", &from, "three"), stamp);
    // Without the import nothing is known: imports are no records.
    let alone = b.on("second", &["--no-cache"]);
    assert_eq!(cached(&alone), 0);
}

#[test]
fn mounts_go_on_though_no_step_ran_and_within_their_bounds() {
    let Some(b) = Build::new("mounts_go_on_though_no_step_ran_and_within_their_bounds") else {
        return;
    };
    b.on(
        "first",
        &["--cache-to", "type=local,dest=c1,mode=max,mounts=/kept"],
    );
    let stamp = b.file("first", &[], "three");
    let from = ["--cache-from", "type=local,src=c1"];
    b.on(
        "second",
        &[
            &from[..],
            &["--cache-to", "type=local,dest=c2,mode=max,mounts=true"],
        ]
        .concat(),
    );
    b.edit("echo last", "echo other");
    let from = ["--cache-from", "type=local,src=c2"];
    assert_eq!(b.file("third", &from, "three"), stamp);
    let small = "type=local,dest=c3,mode=max,mounts=true,mounts-size=8";
    let fourth = b.on("first", &["--cache-to", small]);
    assert!(fourth.stderr.contains("mounts-size"), "{}", fourth.stderr);
    let unnamed = "type=local,dest=c4,mode=max,mounts=other";
    b.on("first", &["--cache-to", unnamed]);
    for dir in ["c3", "c4"] {
        let index = layout_config(&b.s.path(dir)).1;
        assert!(index.get("mounts").is_none(), "{index}");
    }
}

#[test]
fn min_has_the_steps_of_the_result() {
    let Some(b) = Build::new("min_has_the_steps_of_the_result") else {
        return;
    };
    b.on("first", &["--cache-to", "type=local,dest=min,mode=min"]);
    b.on("first", &["--cache-to", "type=local,dest=max,mode=max"]);
    let steps = |dir: &str| {
        layout_config(&b.s.path(dir)).1["steps"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((steps("min"), steps("max")), (3, 4));
}

#[test]
fn what_is_wrong_with_a_cache_costs_time_only() {
    let Some(b) = Build::new("what_is_wrong_with_a_cache_costs_time_only") else {
        return;
    };
    b.on(
        "first",
        &["--cache-to", "type=local,dest=good,mode=max,mounts=true"],
    );
    b.edit("echo last", "echo other");
    let build = |machine: &str, dir: &str| {
        let from = format!("type=local,src={dir}");
        b.on(machine, &["--cache-from", &from])
    };
    let missing = build("m0", "nowhere");
    assert!(
        missing.stderr.contains("is not used: it is not there"),
        "{}",
        missing.stderr
    );
    // Every layer's bytes are others.
    copy(&b.s.path("good"), &b.s.path("damaged"));
    for layer in layout_config(&b.s.path("damaged")).0["layers"]
        .as_array()
        .unwrap()
    {
        std::fs::write(blob(&b.s.path("damaged"), &layer["digest"]), "damage").unwrap();
    }
    let damaged = build("m1", "damaged");
    assert!(
        damaged.stderr.contains("without the imported caches"),
        "{}",
        damaged.stderr
    );
    // The index says that layers have other content than they do.
    copy(&b.s.path("good"), &b.s.path("lying"));
    change_index(&b.s.path("lying"), |index| {
        let wrong = index["mounts"][0]["diffId"].clone();
        for step in index["steps"].as_array_mut().unwrap() {
            step["diffId"] = wrong.clone();
        }
    });
    let lying = build("m2", "lying");
    assert!(
        lying.stderr.contains("without the imported caches"),
        "{}",
        lying.stderr
    );
    // The index speaks of layers that are not there, or is none.
    copy(&b.s.path("good"), &b.s.path("short"));
    change_index(&b.s.path("short"), |index| {
        index["steps"][0]["layer"] = 99.into()
    });
    let short = build("m3", "short");
    assert!(
        short.stderr.contains("is not used: it speaks of layer 99"),
        "{}",
        short.stderr
    );
    copy(&b.s.path("good"), &b.s.path("empty"));
    change_index(&b.s.path("empty"), |index| {
        *index = Value::Array(Vec::new())
    });
    let empty = build("m4", "empty");
    assert!(empty.stderr.contains("is not used"), "{}", empty.stderr);
}

#[test]
fn a_registry_keeps_the_cache() {
    const NAME: &str = "a_registry_keeps_the_cache";
    if !has("docker-registry") {
        return skip(NAME, "docker-registry is missing");
    }
    let Some(b) = Build::new(NAME) else { return };
    let (_server, at) = registry(&b.s, None);
    let app = format!("{at}/team/app:1");
    let to = format!("type=registry,ref={at}/team/cache:main,mode=max,mounts=true");
    let from = format!("{at}/team/cache:main");
    b.on("first", &["-t", &app, "--push", "--cache-to", &to]);
    let log = || std::fs::read_to_string(b.s.path("registry.log")).unwrap();
    let before = log().len();
    // An empty machine: no step runs, no layer comes or goes.
    let args = [
        "-t",
        &app,
        "--push",
        "--cache-from",
        &from,
        "--cache-to",
        &to,
    ];
    let second = b.on("second", &args);
    assert_eq!(cached(&second), 4, "{}", second.stderr);
    let log = log()[before..].to_owned();
    let (_, index) = registry_config(&at, "team/cache", "main");
    let steps = index["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 4);
    assert!(!log.contains("\"PATCH "), "{log}");
    let gets = log.matches("\"GET /v2/team/cache/blobs/").count();
    assert_eq!(gets, 1, "only the index is read: {log}");
    // The image itself carries a cache when asked to.
    let inline = format!("{at}/team/inline:1");
    b.on(
        "first",
        &["-t", &inline, "--push", "--cache-to", "type=inline"],
    );
    let third = b.on("third", &["-t", &inline, "--push", "--cache-from", &inline]);
    assert_eq!(cached(&third), 3, "{}", third.stderr);
    // One repository for the steps of all images.
    let steps = format!("{at}/team/steps");
    b.on("fourth", &["-t", &app, "--push", "--cache-repo", &steps]);
    let fifth = b.on("fifth", &["-t", &app, "--push", "--cache-repo", &steps]);
    assert_eq!(cached(&fifth), 4, "{}", fifth.stderr);
    let old = [
        "--cache-repo",
        &steps,
        "--cache-ttl",
        "0s",
        "--no-push-cache",
    ];
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(cached(&b.on("sixth", &old)), 0);
    // A directory that can't be written fails the build, unless that is allowed.
    std::fs::write(b.s.path("file"), "").unwrap();
    let nowhere = format!("type=local,dest={}/x", b.s.path("file").display());
    let args = ["build", "--cache-to", &nowhere, &b.context];
    assert_eq!(b.s.run_in(&b.s.path("first"), &args).code, Some(1));
    b.on(
        "first",
        &["--cache-to", &format!("{nowhere},ignore-error=true")],
    );
    if has("skopeo") {
        let copy = std::process::Command::new("skopeo")
            .args(["copy", "--src-tls-verify=false"])
            .arg(format!("docker://{from}"))
            .arg(format!("oci:{}:x", b.s.path("copied").display()))
            .output()
            .unwrap();
        assert!(
            copy.status.success(),
            "{}",
            String::from_utf8_lossy(&copy.stderr)
        );
    }
}

/// Where a blob of a layout is.
fn blob(layout: &Path, digest: &Value) -> PathBuf {
    let digest = digest.as_str().unwrap().replace(':', "/");
    layout.join("blobs").join(digest)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The only manifest of a layout, and its config.
fn layout_config(layout: &Path) -> (Value, Value) {
    let index = read(&layout.join("index.json"));
    let manifest = read(&blob(layout, &index["manifests"][0]["digest"]));
    let config = read(&blob(layout, &manifest["config"]["digest"]));
    (manifest, config)
}

fn registry_config(at: &str, repository: &str, tag: &str) -> (Value, Value) {
    let get = |path: String| -> Value {
        let url = format!("http://{at}/v2/{repository}/{path}");
        let mut answer = ureq::get(url)
            .header("Accept", "application/vnd.oci.image.manifest.v1+json")
            .call()
            .unwrap();
        serde_json::from_reader(answer.body_mut().as_reader()).unwrap()
    };
    let manifest = get(format!("manifests/{tag}"));
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    (manifest.clone(), get(format!("blobs/{config}")))
}

/// Changes the config of a layout's manifest, digests and all.
fn change_index(layout: &Path, change: impl FnOnce(&mut Value)) {
    let (mut manifest, mut config) = layout_config(layout);
    change(&mut config);
    let put = |value: &Value| {
        let bytes = serde_json::to_vec(value).unwrap();
        let sum = Sha256::digest(&bytes);
        let hex: String = sum.iter().map(|b| format!("{b:02x}")).collect();
        let digest = Value::from(format!("sha256:{hex}"));
        std::fs::write(blob(layout, &digest), &bytes).unwrap();
        (digest, Value::from(bytes.len()))
    };
    let (digest, size) = put(&config);
    manifest["config"]["digest"] = digest;
    manifest["config"]["size"] = size;
    let mut index = read(&layout.join("index.json"));
    let (digest, size) = put(&manifest);
    index["manifests"][0]["digest"] = digest;
    index["manifests"][0]["size"] = size;
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status();
    assert!(done.unwrap().success());
}
