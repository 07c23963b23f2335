//! The use case: a request in, an image out.
