//! Attributes of an entry as people know them from `ls`.

use shiplap::layer::{Kind, Mtime};
use shiplap::look::Inode;

/// Type and permissions as `ls` has them.
pub(crate) fn mode(inode: &Inode) -> String {
    let kind = match inode.kind {
        Kind::File { .. } | Kind::Hardlink { .. } => '-',
        Kind::Dir => 'd',
        Kind::Symlink { .. } => 'l',
        Kind::Char { .. } => 'c',
        Kind::Block { .. } => 'b',
        Kind::Fifo => 'p',
    };
    let mode = inode.meta.mode;
    let mut text = String::from(kind);
    for (shift, special, set, unset) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => set,
            (true, false) => unset,
        });
    }
    text
}

/// Owner and group.
pub(crate) fn owner(inode: &Inode) -> String {
    format!("{}:{}", inode.meta.uid, inode.meta.gid)
}

/// A time in RFC 3339; `@SECONDS` for one that no calendar has.
pub(crate) fn time(mtime: Mtime) -> String {
    let nanos = i32::try_from(mtime.nanos).unwrap_or(0);
    match jiff::Timestamp::new(mtime.secs, nanos) {
        Ok(time) => time.to_string(),
        Err(_) => format!("@{}", mtime.secs),
    }
}
