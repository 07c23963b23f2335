//! The `shiplap` program.
mod ui;
fn main() {}
