//! The `shiplap` program: process-wide matters first, then the command line.
//!
//! Standard descriptors that are closed at the start are open on `/dev/null`
//! when `main` begins (Rust's runtime sees to that), so no file of ours can
//! get their numbers and be written to by mistake.

mod cli;
mod ui;

use std::process::ExitCode;

fn main() -> ExitCode {
    shiplap::container::child_main();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    let started = cli::start(&cli);
    shiplap::sys::process::share_heaps();
    shiplap::sys::process::raise_open_files();
    // Before any thread: handlers for all of them.
    match cli::signals::Interrupts::install() {
        Ok(interrupts) => ExitCode::from(cli::run(cli, started, interrupts)),
        Err(error) => {
            ui::output::message(&format!("error: can't handle signals: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
