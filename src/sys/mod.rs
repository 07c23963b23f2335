//! System calls behind safe functions; the only place for `unsafe`.

pub mod capability;
pub mod fs;
pub mod landlock;
pub(crate) mod mapped;
pub mod network;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod whole_file;
pub mod xattr;
