//! What each kind of step does.

pub mod add;
pub mod chmod;
pub mod copy;
