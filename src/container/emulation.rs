//! Programs of other architectures: which they are, and whether the kernel has
//! a handler (binfmt_misc) that runs them.
//!
//! # Specification
//! Linux `Documentation/admin-guide/binfmt-misc.rst`; ELF header.

use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel shows its handlers, when that is mounted.
pub const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// How many of a program's first bytes the kernel looks at.
pub const HEAD: usize = 256;

/// A handler of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Its name, such as `qemu-aarch64`.
    pub name: String,
    /// The program that it starts.
    pub interpreter: PathBuf,
    /// The flag F: the interpreter was opened when it was registered, and need
    /// not be in a container's root.
    pub fixed: bool,
}

/// The architecture of an ELF program that this machine's processor does not
/// run, from the program's first bytes; `None` for its own, for scripts and for
/// everything else.
pub fn foreign(head: &[u8]) -> Option<String> {
    foreign_to(std::env::consts::ARCH, head)
}

fn foreign_to(host: &str, head: &[u8]) -> Option<String> {
    if head.len() < 20 || !head.starts_with(b"\x7fELF") {
        return None;
    }
    let bytes = [head[18], head[19]];
    let little = head[5] != 2;
    let machine = if little {
        u16::from_le_bytes(bytes)
    } else {
        u16::from_be_bytes(bytes)
    };
    let wide = head[4] == 2;
    let name = match (machine, wide, little) {
        (62, ..) => "amd64",
        (3, ..) => "386",
        (183, ..) => "arm64",
        (40, ..) => "arm",
        (243, true, _) => "riscv64",
        (21, _, true) => "ppc64le",
        (21, _, false) => "ppc64",
        (22, ..) => "s390x",
        (258, ..) => "loong64",
        (8, true, true) => "mips64le",
        (8, true, false) => "mips64",
        (8, false, true) => "mipsle",
        (8, false, false) => "mips",
        _ => return Some(format!("ELF machine {machine}")),
    };
    let own = match host {
        "x86_64" => matches!(name, "amd64" | "386"),
        // Most of them run 32 bit programs too; the kernel tells.
        "aarch64" => matches!(name, "arm64" | "arm"),
        "riscv64" => name == "riscv64",
        "powerpc64" => matches!(name, "ppc64" | "ppc64le"),
        "s390x" => name == "s390x",
        "loongarch64" => name == "loong64",
        // Unknown here, so nothing is called foreign.
        _ => true,
    };
    (!own).then(|| name.to_owned())
}

/// The handler for a program that begins with `head`, among those in `dir`;
/// `None` when there is none.
///
/// # Errors
/// When the handlers can't be listed.
pub fn handler(head: &[u8], dir: &Path) -> io::Result<Option<Handler>> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "status" || name == "register" {
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(entry.path())
            && let Some(handler) = parse(&name, &text, head)
        {
            return Ok(Some(handler));
        }
    }
    Ok(None)
}

/// Whether the kernel's list of handlers is to be seen at `dir`.
pub fn is_listed(dir: &Path) -> bool {
    dir.join("status").exists()
}

/// Asks the kernel itself whether anything runs programs that begin with
/// `head`, by starting one that ends there. `None` when it does not say.
pub fn is_handled(head: &[u8]) -> Option<bool> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().ok()?;
    let path = dir.path().join("program");
    std::fs::write(&path, &head[..head.len().min(HEAD)]).ok()?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).ok()?;
    let mut command = std::process::Command::new(&path);
    command
        .env_clear()
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    match command.spawn() {
        Ok(mut child) => {
            let _ = child.kill();
            let _ = child.wait();
            Some(true)
        }
        Err(e) if e.raw_os_error() == Some(libc::ENOEXEC) => Some(false),
        Err(_) => None,
    }
}

/// What one of the kernel's files says, if it is about programs like `head`.
fn parse(name: &str, text: &str, head: &[u8]) -> Option<Handler> {
    let mut lines = text.lines();
    if lines.next() != Some("enabled") {
        return None;
    }
    let (mut interpreter, mut fixed, mut offset) = (None, false, 0usize);
    let (mut magic, mut mask) = (Vec::new(), None);
    for line in lines {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "interpreter" => interpreter = Some(PathBuf::from(value)),
            "flags:" => fixed = value.contains('F'),
            "offset" => offset = value.parse().ok()?,
            "magic" => magic = hex(value)?,
            "mask" => mask = Some(hex(value)?),
            // Handlers by extension are for something else.
            "extension" => return None,
            _ => {}
        }
    }
    let part = head.get(offset..offset.checked_add(magic.len())?)?;
    let matches = part
        .iter()
        .zip(&magic)
        .enumerate()
        .all(|(i, (have, want))| {
            let mask = mask.as_ref().and_then(|m| m.get(i)).copied();
            (have ^ want) & mask.unwrap_or(0xff) == 0
        });
    if magic.is_empty() || !matches {
        return None;
    }
    Some(Handler {
        name: name.to_owned(),
        interpreter: interpreter?,
        fixed,
    })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\n\
        offset 0\nmagic 7f454c460201010000000000000000000200b700\n\
        mask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn elf(class: u8, data: u8, machine: u16) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data, 1]);
        let (kind, machine) = if data == 2 {
            (2u16.to_be_bytes(), machine.to_be_bytes())
        } else {
            (2u16.to_le_bytes(), machine.to_le_bytes())
        };
        head[16..18].copy_from_slice(&kind);
        head[18..20].copy_from_slice(&machine);
        head
    }

    #[test]
    fn architectures_by_their_headers() {
        for (head, name) in [
            (elf(2, 1, 62), None),
            (elf(1, 1, 3), None),
            (elf(2, 1, 183), Some("arm64")),
            (elf(1, 1, 40), Some("arm")),
            (elf(2, 2, 22), Some("s390x")),
            (elf(2, 1, 21), Some("ppc64le")),
            (elf(2, 1, 243), Some("riscv64")),
            (elf(2, 1, 9999), Some("ELF machine 9999")),
            (b"#!/bin/sh\n".to_vec(), None),
            (Vec::new(), None),
        ] {
            assert_eq!(foreign_to("x86_64", &head).as_deref(), name);
        }
        assert_eq!(foreign_to("aarch64", &elf(2, 1, 183)), None);
        assert_eq!(
            foreign_to("aarch64", &elf(2, 1, 62)).as_deref(),
            Some("amd64")
        );
    }

    #[test]
    fn handlers_are_read_as_the_kernel_shows_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let find = |head: &[u8]| handler(head, dir.path()).unwrap();
        write("status", "enabled");
        write(
            "jar",
            "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n",
        );
        assert!(is_listed(dir.path()));
        assert_eq!(find(&elf(2, 1, 183)), None);
        write("qemu-aarch64", ARM64);
        let found = find(&elf(2, 1, 183)).unwrap();
        assert_eq!(found.name, "qemu-aarch64");
        assert!(found.fixed);
        // Position-independent programs differ in a bit that the mask leaves out.
        let mut pie = elf(2, 1, 183);
        pie[16] = 3;
        assert!(find(&pie).is_some());
        assert_eq!(find(&elf(2, 1, 62)), None);
        assert_eq!(find(&[0x7f]), None);
        write("qemu-aarch64", &ARM64.replace("POCF", "OC"));
        assert!(!find(&elf(2, 1, 183)).unwrap().fixed);
        write("qemu-aarch64", &ARM64.replace("enabled", "disabled"));
        assert_eq!(find(&elf(2, 1, 183)), None);
        for broken in ["", "enabled", "enabled\nmagic zz\n", "enabled\noffset x\n"] {
            write("qemu-aarch64", broken);
            assert_eq!(find(&elf(2, 1, 183)), None, "{broken:?}");
        }
    }

    #[test]
    fn the_kernel_says_what_it_does_not_run() {
        // No machine has this number.
        if let Some(handled) = is_handled(&elf(2, 1, 0xfe01)) {
            assert!(!handled);
        }
    }
}
