//! System calls behind safe functions; the only place for `unsafe`.

pub mod fs;
