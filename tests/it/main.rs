//! The program as its users run it: whole commands, real files, real kernels,
//! real registries. What a machine lacks is said, and skipped.

mod build_cache;
mod build_run;
mod cache_mounts;
mod cache_travel;
mod chroot;
mod compression;
mod confine;
mod copy;
mod copying;
mod diff;
mod early;
mod errors;
mod explore;
mod frontend;
mod hostile_layers;
mod housekeeping;
mod look;
mod memory;
mod messages;
mod mount_escapes;
mod on_disk;
mod outputs;
mod platforms;
mod pods;
mod probe;
mod processes;
mod push_pull;
mod real_program;
mod registries;
mod remains;
mod reshape;
mod run;
mod rungs;
mod sandbox;
mod secrets;
mod ssh;
mod store;
mod straight;
mod takeout;
mod ways;
mod web;

/// Every file of tests here is part of the binary.
#[test]
fn no_file_is_forgotten() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let main = include_str!("main.rs");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|m| *m != "main") {
            assert!(main.contains(&format!("mod {module};")), "{name}");
        }
    }
}
