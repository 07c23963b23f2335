//! The use case: a request in, an image out.

pub mod import;
pub mod request;

pub use request::{Built, Destination, NetworkMode, Output, OutputKind, PullPolicy, Request};
