//! Runs a graph: keys, cache, scheduling, the steps themselves.

pub mod op;
