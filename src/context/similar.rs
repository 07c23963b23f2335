//! Names that were perhaps meant.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Tree;

/// A path that exists and differs little from `path`, in its first component
/// that does not.
pub fn similar(tree: &dyn Tree, path: &Path) -> Option<String> {
    let mut here = PathBuf::new();
    let mut parts = path.iter();
    for part in parts.by_ref() {
        let next = here.join(part);
        if tree.lookup(&next, true).ok()?.is_some() {
            here = next;
            continue;
        }
        let wanted: Vec<char> = part.to_string_lossy().chars().take(256).collect();
        let mut nearest: Option<(usize, String)> = None;
        let look = &mut |name: &OsStr| {
            let name = name.to_string_lossy();
            let chars: Vec<char> = name.chars().take(256).collect();
            let found = (distance(&wanted, &chars), &*name);
            let near = found.0 <= 1.max(wanted.len().max(name.len()) / 4);
            if near
                && nearest
                    .as_ref()
                    .is_none_or(|(d, n)| found < (*d, n.as_str()))
            {
                nearest = Some((found.0, name.into_owned()));
            }
        };
        tree.each_name(&here, look).ok()?;
        let mut out = here.join(nearest?.1);
        out.extend(parts);
        return Some(out.to_string_lossy().into_owned());
    }
    None
}

/// Edits between two names; a letter's case counts as no edit, two exchanged
/// neighbours as one.
fn distance(a: &[char], b: &[char]) -> usize {
    let same = |x: char, y: char| x == y || x.to_lowercase().eq(y.to_lowercase());
    let mut older: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (row[j] + usize::from(!same(*x, *y)))
                .min(row[j + 1] + 1)
                .min(next[j] + 1);
            if i > 0 && j > 0 && same(*x, b[j - 1]) && same(a[i - 1], *y) {
                best = best.min(older[j - 1] + 1);
            }
            next.push(best);
        }
        older = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}
