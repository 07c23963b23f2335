//! Layers that are on their way to a registry while they are made.

use crate::registries::fake::{Fault, Registry};
use crate::sandbox::Sandbox;

/// Bytes of a layer that is worth a head start.
const SIZE: usize = 24 << 20;

fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..SIZE).map(next).collect()
}

/// Builds and pushes; the requests with their methods and sizes.
fn push(s: &Sandbox, context: &str, registry: &Registry, more: &[&str]) -> Vec<(String, usize)> {
    let name = format!("{}/app:1", registry.host());
    registry.state().log.clear();
    let mut args = vec!["--no-cache", "--push", "-t", &name];
    args.extend(more);
    s.build(context, &args);
    let state = registry.state();
    // Whatever went wrong: the image is there with all that it names.
    let (_, manifest) = &state.manifests["app"]["1"];
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    for blob in layers.chain([&manifest["config"]]) {
        assert!(state.blobs["app"].contains_key(blob["digest"].as_str().unwrap()));
    }
    let sent = state.log.iter();
    sent.map(|r| (r.method.clone(), r.body)).collect()
}

/// Bytes that were sent with requests of this method.
fn sent(log: &[(String, usize)], method: &str) -> usize {
    let of = log.iter().filter(|(m, _)| m == method);
    of.map(|(_, bytes)| bytes).sum()
}

#[test]
fn large_layers_have_a_head_start() {
    let s = Sandbox::new();
    let file = "FROM scratch AS a\nCOPY hidden small /\nFROM scratch\nCOPY --from=a small /\nCOPY large /\n";
    let context = s.context("ctx", &[("Dockerfile", file), ("small", "small")]);
    for (name, seed) in [("hidden", 1), ("large", 2)] {
        std::fs::write(s.path("ctx").join(name), noise(seed)).unwrap();
    }
    let registry = Registry::start();
    let log = push(&s, &context, &registry, &[]);
    // The layer in parts; what the other stage holds is nobody's business.
    assert!(
        (SIZE..SIZE + (1 << 20)).contains(&sent(&log, "PATCH")),
        "{log:?}"
    );
    assert!(sent(&log, "PUT") < 1 << 20, "{log:?}");

    // Whatever goes wrong with the parts, the image gets there as ever.
    for (method, part, skip, fault) in [
        (
            "PATCH",
            "/uploads/",
            0,
            Fault::Answer(500, Vec::new(), Vec::new()),
        ),
        ("PATCH", "/uploads/", 1, Fault::Close),
        ("PATCH", "/uploads/", 2, Fault::LoseSessions),
        (
            "PUT",
            "digest=",
            0,
            Fault::Answer(400, Vec::new(), Vec::new()),
        ),
        ("PUT", "digest=", 0, Fault::WorkThen(500)),
        (
            "POST",
            "/uploads/",
            0,
            Fault::Answer(404, Vec::new(), Vec::new()),
        ),
    ] {
        let registry = Registry::start();
        registry.fault(method, part, skip, 1, fault.clone());
        let log = push(&s, &context, &registry, &[]);
        assert!(
            sent(&log, "PUT") + sent(&log, "PATCH") >= SIZE,
            "{fault:?}: {log:?}"
        );
    }

    // To two repositories, or in another form than it is made in: only then.
    let registry = Registry::start();
    let other = format!("{}/other:1", registry.host());
    let log = push(&s, &context, &registry, &["-t", &other]);
    assert_eq!(sent(&log, "PATCH"), 0, "{log:?}");
}
