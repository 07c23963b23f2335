//! A command for another platform: says what is missing before the kernel says no
//! more than "exec format error".

use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::StepError;
use crate::container::emulation::{self, BINFMT_MISC, HEAD};
use crate::context::Tree;

/// Fails when the command's program is for another architecture and nothing here
/// runs such programs. What can't be told is left to the kernel.
pub(in super::super) fn check(
    tree: &dyn Tree,
    args: &[String],
    env: &[(String, String)],
    cwd: &str,
) -> Result<(), StepError> {
    let first = find(tree, args, env, cwd);
    let Some((path, head)) = first.and_then(|first| program(tree, first)) else {
        return Ok(());
    };
    let Some(architecture) = emulation::foreign(&head) else {
        return Ok(());
    };
    let own = crate::platform::Platform::host().architecture;
    let listed = Path::new(BINFMT_MISC);
    let handler = if emulation::is_listed(listed) {
        match emulation::handler(&head, listed) {
            Ok(Some(handler)) => handler,
            Ok(None) => return Err(nothing_runs_it(&path, &architecture, &own)),
            Err(_) => return Ok(()),
        }
    } else {
        return match emulation::is_handled(&head) {
            Some(false) => Err(nothing_runs_it(&path, &architecture, &own)),
            Some(true) | None => Ok(()),
        };
    };
    let interpreter = &handler.interpreter;
    if handler.fixed || matches!(tree.lookup(interpreter, true), Ok(Some(_))) {
        return Ok(());
    }
    Err(StepError::Refused {
        message: format!(
            "{} is for {architecture}; this machine runs it with {}, which is not in the image",
            path.display(),
            interpreter.display()
        ),
        hint: Some(format!(
            "register the handler {} with the flag F, as the packages qemu-user-static and \
             binfmt-support of Debian and Ubuntu do, or copy {} into the image",
            handler.name,
            interpreter.display()
        )),
    })
}

fn nothing_runs_it(path: &Path, architecture: &str, own: &str) -> StepError {
    StepError::Refused {
        message: format!(
            "{} is for {architecture}, and this machine ({own}) has nothing that runs it",
            path.display()
        ),
        hint: Some(
            "install the packages qemu-user-static and binfmt-support (Debian, Ubuntu) or \
             qemu-user-static (Fedora), or let the step run on this machine's platform: \
             FROM --platform=$BUILDPLATFORM"
                .into(),
        ),
    }
}

/// The file that is executed in the end, and how it begins: a script's
/// interpreter stands for the script.
fn program(tree: &dyn Tree, mut path: PathBuf) -> Option<(PathBuf, Vec<u8>)> {
    for _ in 0..4 {
        let head = head(tree, &path)?;
        let Some(line) = head.strip_prefix(b"#!") else {
            return Some((path, head));
        };
        let line = line.split(|b| *b == b'\n').next()?;
        let line = String::from_utf8_lossy(line);
        path = PathBuf::from(line.split_whitespace().next()?);
    }
    None
}

fn head(tree: &dyn Tree, path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let file = tree.open(path).ok()?;
    file.take(HEAD as u64).read_to_end(&mut head).ok()?;
    Some(head)
}

/// The first word of the command as a path in the image.
pub(in super::super) fn find(
    tree: &dyn Tree,
    args: &[String],
    env: &[(String, String)],
    cwd: &str,
) -> Option<PathBuf> {
    let name = args.first()?;
    if name.contains('/') {
        return Some(Path::new(cwd).join(name));
    }
    let path = env.iter().rev().find(|(n, _)| n == "PATH")?;
    let dirs = path.1.split(':').filter(|dir| !dir.is_empty());
    let mut places = dirs.map(|dir| Path::new(cwd).join(dir).join(name));
    places.find(|place| matches!(tree.lookup(place, true), Ok(Some(_))))
}
