//! The use case: a request in, an image out.

pub mod request;

pub use request::{Built, Destination, NetworkMode, Output, OutputKind, PullPolicy, Request};
