//! Users and groups of an image: `USER` and `--chown`.
//!
//! Names are looked up in the tree's own `/etc/passwd` and `/etc/group`, which
//! nobody vouches for: only regular files inside the tree are read, no more
//! than [`MAX_BYTES`] of them, and lines that make no sense are passed over.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::context::Tree;

/// Larger files are refused (CVE-2026-47262: memory is not theirs to take).
pub const MAX_BYTES: u64 = 10 << 20;
/// The largest id; 2^32-1 means "no change" to the kernel.
const MAX_ID: u64 = 0xffff_fffe;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIds {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// Home directory; `/` where it is not known.
    pub home: PathBuf,
}

impl UserIds {
    /// uid 0, gid 0.
    pub fn root() -> Self {
        Self {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/root".into(),
        }
    }
}

/// Why a user or a group could not be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is not in the file.
    #[error(
        "{kind} {name:?} is not in the image's {file}; create it in an earlier step, or give a number"
    )]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
    /// A number that is no id.
    #[error("{text:?} is no valid id: ids go from 0 to {MAX_ID}")]
    Range {
        /// The number.
        text: String,
    },
    /// Neither `user` nor `user:group`.
    #[error("{text:?} is not of the form user or user:group")]
    Malformed {
        /// The text.
        text: String,
    },
    /// The file can't be used.
    #[error("can't read the image's {file}")]
    Read {
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Who `spec` is (`user`, `uid`, `user:group` and so on, as in USER): the
/// group of a user without one in `spec` is the one in passwd, else 0; a uid
/// that is not in passwd has no groups and the home `/`. A group in `spec`
/// leaves no supplementary groups, as in runc.
///
/// # Errors
/// When a name is unknown, a number too large or the files can't be read.
pub fn resolve_user(tree: &dyn Tree, spec: &str) -> Result<UserIds, UserError> {
    let (user, group) = split(if spec.is_empty() { "0" } else { spec })?;
    let passwd = read(tree, PASSWD)?;
    let number = id(user)?;
    let entry = find_user(&passwd, user, number);
    let (uid, known_gid, name) = match (&entry, number) {
        (Some(u), _) => (u.uid, u.gid, Some(u.name)),
        (None, Some(uid)) => (uid, 0, None),
        (None, None) => return Err(unknown("user", user, PASSWD)),
    };
    let (mut gid, mut groups) = (known_gid, Vec::new());
    if group.is_some() || name.is_some() {
        // A numeric group needs no file, and a broken one is no obstacle.
        let numeric = group.map(id).transpose()?.flatten();
        match (group, numeric) {
            (Some(_), Some(number)) => gid = number,
            (Some(group), None) => gid = find_group(&read(tree, GROUP)?, group)?,
            (None, _) => groups = memberships(&read(tree, GROUP)?, name),
        }
    }
    groups.sort_unstable();
    groups.dedup();
    let home = entry.map(|u| u.home).filter(|h| h.starts_with(b"/"));
    Ok(UserIds {
        uid,
        gid,
        groups,
        home: home.map_or_else(|| "/".into(), path),
    })
}

/// Owner and group for `spec` as in `--chown`: a number alone is the group
/// too, a name alone brings its primary group.
///
/// # Errors
/// When a name is unknown, a number too large or the files can't be read.
pub fn resolve_chown(tree: &dyn Tree, spec: &str) -> Result<(u32, u32), UserError> {
    let (user, group) = split(spec)?;
    let (uid, own_gid) = match id(user)? {
        Some(number) => (number, number),
        None => {
            let passwd = read(tree, PASSWD)?;
            let found = find_user(&passwd, user, None);
            let found = found.ok_or_else(|| unknown("user", user, PASSWD))?;
            (found.uid, found.gid)
        }
    };
    let gid = match group {
        None => own_gid,
        Some(group) => match id(group)? {
            Some(number) => number,
            None => find_group(&read(tree, GROUP)?, group)?,
        },
    };
    Ok((uid, gid))
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

fn unknown(kind: &'static str, name: &str, file: &'static str) -> UserError {
    UserError::Unknown {
        kind,
        name: name.chars().take(200).collect(),
        file,
    }
}

fn split(spec: &str) -> Result<(&str, Option<&str>), UserError> {
    let malformed = || UserError::Malformed {
        text: spec.chars().take(200).collect(),
    };
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let bad = |part: &str| part.is_empty() || part.contains([':', '\n', '\0']);
    if bad(user) || group.is_some_and(bad) {
        return Err(malformed());
    }
    Ok((user, group))
}

/// The number, if it is one.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(n) if n <= MAX_ID && digits.len() == text.len() => Ok(u32::try_from(n).ok()),
        _ => Err(UserError::Range {
            text: text.chars().take(200).collect(),
        }),
    }
}

/// The file's bytes; nothing where there is no such file.
fn read(tree: &dyn Tree, file: &'static str) -> Result<Vec<u8>, UserError> {
    let fail = |source| UserError::Read { file, source };
    let at = Path::new(file);
    if tree.lookup(at, true).map_err(fail)?.is_none() {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    let opened = tree.open(at).map_err(fail)?;
    opened
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is larger than {} MiB", MAX_BYTES >> 20),
        )));
    }
    Ok(bytes)
}

/// The fields of every line that has at least `least` of them.
fn lines(bytes: &[u8], least: usize) -> impl Iterator<Item = Vec<&[u8]>> {
    bytes.split(|b| *b == b'\n').filter_map(move |line| {
        let fields: Vec<&[u8]> = line.splitn(8, |b| *b == b':').collect();
        (fields.len() >= least && !line.starts_with(b"#")).then_some(fields)
    })
}

fn field_id(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?.trim();
    id(text).ok().flatten()
}

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// By name; by number where it is one and no user has it for a name.
fn find_user<'a>(passwd: &'a [u8], name: &str, number: Option<u32>) -> Option<User<'a>> {
    let mut by_number = None;
    for fields in lines(passwd, 4) {
        let (Some(uid), Some(gid)) = (field_id(fields[2]), field_id(fields[3])) else {
            continue;
        };
        let user = User {
            name: fields[0],
            uid,
            gid,
            home: fields.get(5).copied().unwrap_or_default(),
        };
        if user.name == name.as_bytes() {
            return Some(user);
        }
        if by_number.is_none() && number == Some(uid) {
            by_number = Some(user);
        }
    }
    by_number
}

fn find_group(group: &[u8], name: &str) -> Result<u32, UserError> {
    lines(group, 3)
        .filter(|fields| fields[0] == name.as_bytes())
        .find_map(|fields| field_id(fields[2]))
        .ok_or_else(|| unknown("group", name, GROUP))
}

/// The groups that list `name` as a member.
fn memberships(group: &[u8], name: Option<&[u8]>) -> Vec<u32> {
    let Some(name) = name else {
        return Vec::new();
    };
    lines(group, 4)
        .filter(|fields| fields[3].split(|b| *b == b',').any(|member| member == name))
        .filter_map(|fields| field_id(fields[2]))
        .collect()
}

fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Merged;

    const PASSWD_TEXT: &str = "root:x:0:0:root:/root:/bin/bash\n\
        # comment:x:1:1:::\n\
        broken\n\
        neg:x:-1:0:::\n\
        huge:x:4294967295:0:::\n\
        app:x:1000:2000:App,,,:/home/app:/bin/sh\n\
        nohome:x:1001:1001::\n\
        \u{fffd}:x:5:5:::\n\
        42:x:4242:4243::/forty:\n";
    const GROUP_TEXT: &str = "root:x:0:\n\
        app:x:2000:\n\
        wheel:x:10:app,root\n\
        audio:x:9:root,app,x\n\
        none:x:11\n\
        bad:x:y:app\n";

    fn tree() -> (tempfile::TempDir, Merged) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), PASSWD_TEXT).unwrap();
        std::fs::write(dir.path().join("etc/group"), GROUP_TEXT).unwrap();
        let merged = Merged::new(vec![dir.path().to_owned()]).unwrap();
        (dir, merged)
    }

    #[test]
    fn users() {
        let (_dir, tree) = tree();
        for (spec, uid, gid, groups, home) in [
            ("", 0, 0, &[10, 9][..], "/root"),
            ("root", 0, 0, &[9, 10], "/root"),
            ("app", 1000, 2000, &[9, 10], "/home/app"),
            ("1000", 1000, 2000, &[9, 10], "/home/app"),
            ("app:wheel", 1000, 10, &[], "/home/app"),
            ("app:0", 1000, 0, &[], "/home/app"),
            ("77", 77, 0, &[], "/"),
            ("77:app", 77, 2000, &[], "/"),
            ("77:88", 77, 88, &[], "/"),
            ("nohome", 1001, 1001, &[], "/"),
            ("42", 4242, 4243, &[], "/forty"),
            ("4294967294", 4_294_967_294, 0, &[], "/"),
        ] {
            let mut groups = groups.to_vec();
            groups.sort_unstable();
            let expected = UserIds {
                uid,
                gid,
                groups,
                home: home.into(),
            };
            assert_eq!(resolve_user(&tree, spec).unwrap(), expected, "{spec:?}");
        }
        for bad in [
            "nobody",
            "app:nogroup",
            ":",
            "app:",
            ":app",
            "a:b:c",
            "-1",
            "4294967295",
            "neg",
            "huge",
            "broken",
            "99999999999999999999",
            "app:4294967295",
            "app\n",
            "# comment",
        ] {
            assert!(resolve_user(&tree, bad).is_err(), "{bad:?}");
        }
        let error = resolve_user(&tree, "nobody").unwrap_err().to_string();
        assert!(
            error.contains("/etc/passwd") && error.contains("nobody"),
            "{error}"
        );
    }

    #[test]
    fn owners() {
        let (_dir, tree) = tree();
        for (spec, expected) in [
            ("app", (1000, 2000)),
            ("1000", (1000, 1000)),
            ("55", (55, 55)),
            ("55:wheel", (55, 10)),
            ("app:66", (1000, 66)),
            ("app:audio", (1000, 9)),
            ("0:0", (0, 0)),
        ] {
            assert_eq!(resolve_chown(&tree, spec).unwrap(), expected, "{spec:?}");
        }
        for bad in [
            "",
            "x",
            "app:x",
            "1:",
            ":1",
            "-1",
            "4294967295",
            "+5",
            "../../x",
        ] {
            assert!(resolve_chown(&tree, bad).is_err(), "{bad:?}");
        }
        let nothing = Merged::new(Vec::new()).unwrap();
        assert_eq!(resolve_chown(&nothing, "7").unwrap(), (7, 7));
        assert_eq!(resolve_user(&nothing, "0").unwrap().home, Path::new("/"));
        assert!(resolve_chown(&nothing, "root").is_err());
    }

    #[test]
    fn hostile_files() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let (dir, tree) = tree();
        let passwd = dir.path().join("etc/passwd");
        let refused = |make: &dyn Fn()| {
            std::fs::remove_file(&passwd).unwrap();
            make();
            resolve_user(&tree, "root").unwrap_err().to_string()
        };
        let secret = dir.path().with_extension("secret");
        std::fs::write(&secret, "root:x:7:7::/:\n").unwrap();
        refused(&|| std::os::unix::fs::symlink(&secret, &passwd).unwrap());
        refused(&|| mknodat(CWD, &passwd, FileType::Fifo, Mode::RWXU, 0).unwrap());
        refused(&|| std::os::unix::fs::symlink("/dev/zero", &passwd).unwrap());
        refused(&|| {
            let file = std::fs::File::create(&passwd).unwrap();
            file.set_len(2 << 30).unwrap();
        });
        refused(&|| std::fs::write(&passwd, vec![b'x'; 1 << 20]).unwrap());
        refused(&|| std::fs::write(&passwd, vec![0; 1 << 20]).unwrap());
        std::fs::remove_file(secret).unwrap();
    }
}
