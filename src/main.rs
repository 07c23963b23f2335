//! The `shiplap` program.

fn main() {
    shiplap::container::child_main();
}
