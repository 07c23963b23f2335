//! The `shiplap` program.

fn main() {}
