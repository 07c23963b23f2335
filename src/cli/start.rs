//! What has to happen before the program has threads: a plain user's process
//! moves to a user namespace, if the command needs one.
//!
//! `build` needs one for RUN only, so its Dockerfile is looked at. One that
//! can't be read yet (it comes from standard input or from elsewhere) may have
//! a RUN. Where the RUN turns out to be a base's (ONBUILD), the program begins
//! again: nothing was made by then.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;

use shiplap::container::{self, Isolation};
use shiplap::dockerfile::{self, ast::InstructionKind};

use super::{Cli, Command};

/// What the process is after that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Started {
    /// Whether it was root's at the start.
    pub(super) by_root: bool,
    /// Whether it is where RUN steps can be isolated best.
    pub(super) may_run: bool,
}

/// What makes the program begin again with the knowledge that a RUN will come.
const WILL_RUN: &str = "--will-run";

/// Moves to a user namespace if that is needed and can be had. Where it can't,
/// the command goes on without, and says so if it comes to that.
pub(crate) fn start(cli: &Cli) -> Started {
    let mut started = Started {
        by_root: rustix::process::geteuid().is_root(),
        may_run: true,
    };
    let needed = match &cli.command {
        Command::Build(args) => {
            let isolation = args.isolation();
            let mounts = matches!(
                isolation,
                Isolation::Auto | Isolation::Namespaces | Isolation::Oci
            );
            let asked = matches!(isolation, Isolation::Namespaces | Isolation::Oci);
            let source = &args.source;
            started.may_run = !mounts
                || asked
                || cli.global.will_run
                || may_run(&source.context, source.file.as_deref());
            mounts && started.may_run
        }
        Command::Run(args) => matches!(
            args.isolation(),
            Isolation::Auto | Isolation::Namespaces | Isolation::Oci
        ),
        // Unpacked layers belong to ids that only a namespace has.
        Command::Prune(_) | Command::Rmi(_) | Command::Cache(_) => !started.by_root,
        _ => false,
    };
    if needed && !container::can_mount() {
        let _ = container::enter_user_namespace();
    }
    started
}

/// Becomes the same program with the same arguments, which knows from the start
/// that there will be a RUN step; returns only what went wrong.
pub(super) fn again() -> io::Error {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program)
            .arg0(name)
            .arg(WILL_RUN)
            .args(args)
            .exec(),
        Err(error) => error,
    }
}

/// Whether the Dockerfile of a build may have a RUN.
fn may_run(context: &str, file: Option<&str>) -> bool {
    if context == "-" {
        // It can be read once only.
        return true;
    }
    let path = match file {
        Some("-") => return true,
        Some(file) => Path::new(file).to_owned(),
        None => Path::new(context).join("Dockerfile"),
    };
    // What is wrong with it is found out and told later.
    let Ok(text) = std::fs::read_to_string(path) else {
        return true;
    };
    let Ok(file) = dockerfile::parse(&text) else {
        return false;
    };
    let mut instructions = file.stages.iter().flat_map(|stage| &stage.instructions);
    instructions.any(|i| matches!(i.kind, InstructionKind::Run(_)))
}
