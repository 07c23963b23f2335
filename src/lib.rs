//! shiplap builds container images from Dockerfiles, takes existing images
//! apart, and ships them to any registry.
//!
//! # The map
//! Data flows from left to right, and a module imports only modules above it
//! in this list (`tests/architecture.rs` holds that):
//!
//! | module | what it is for |
//! |---|---|
//! | [`sys`] | system calls behind safe functions; the only `unsafe` |
//! | [`digest`] | digests, diffIDs, chainIDs; hashing readers and writers |
//! | [`platform`] | os/arch/variant |
//! | [`reference`] | `[registry/]name[:tag][@digest]` |
//! | [`event`] | what happens, as data, for whoever shows it |
//! | [`roots`] | CA certificates: which servers are who they say they are |
//! | [`dockerfile`] | text → typed instructions, words, lint; pure |
//! | [`image`] | manifests, indexes, configs; blob traits |
//! | [`layer`] | a filesystem delta ↔ a tar blob |
//! | [`mutate`] | images made of images: flatten, append, rebase, … |
//! | [`store`] | the local store: an OCI layout and our own directories |
//! | [`context`] | trees that COPY and ADD read from |
//! | [`graph`] | instructions + base configs → a graph of steps; pure |
//! | [`container`] | one process in isolation |
//! | [`snapshot`] | root filesystems from layers, and the difference a step made |
//! | [`registry`] | the distribution-spec client |
//! | [`transport`] | where images live, and copying between those places |
//! | [`verify`] | whether an image is what it says |
//! | [`look`] | what is in an image that was never unpacked |
//! | [`bundle`] | images as directories, and back |
//! | [`solve`] | runs a graph: keys, cache, scheduling, the steps themselves |
//! | [`build`] | the use case: request in, image out |
//!
//! The binary adds `ui` (renders events) and `cli` (commands); nothing in the
//! library writes to a terminal or reads the environment.

#[allow(unsafe_code)]
pub mod sys;

pub mod digest;
pub mod event;
pub mod image;
pub mod layer;
pub mod mutate;
pub mod platform;
pub mod reference;
pub mod roots;

pub mod context;
pub mod dockerfile;
pub mod store;

pub mod container;
pub mod graph;
pub mod snapshot;

pub mod look;
pub mod registry;
pub mod transport;
pub mod verify;

pub mod bundle;

pub mod build;
pub mod solve;
