//! What each kind of step does.

pub mod add;
mod archive;
pub(super) mod cached;
pub mod copy;
mod copy_changes;
mod copy_error;
mod copy_look;
mod copy_merge;
mod copy_planned;
pub(super) mod files;
pub(super) mod foreign;
pub(super) mod mounts;
pub mod run;
mod sorted;
pub mod sources;
mod spilled;
pub(super) mod workdir;
