//! Lists that are written as they are made.

use std::io;

use serde::Serialize;
use serde::ser::{Error, SerializeSeq};

/// A list of what a function finds, each time it is written. An error ends it,
/// and the whole that it is in.
pub(crate) struct Lazy<F>(pub(crate) F);

impl<F, I, T> Serialize for Lazy<F>
where
    F: Fn() -> I,
    I: Iterator<Item = io::Result<T>>,
    T: Serialize,
{
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for item in (self.0)() {
            list.serialize_element(&item.map_err(S::Error::custom)?)?;
        }
        list.end()
    }
}
