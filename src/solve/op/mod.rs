//! What each kind of step does.

pub mod chmod;
pub mod copy;
