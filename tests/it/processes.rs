//! The processes of this machine, as `/proc` shows them.

use std::collections::BTreeSet;

/// A process: its number alone may be another's a moment later.
pub(crate) type Process = (u32, String);

/// All processes: number, parent, start, and the words of the command line.
pub(crate) fn processes() -> Vec<(u32, u32, String, String)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let look = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if fields.first() == Some(&"Z") {
            return None;
        }
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        Some((
            pid,
            fields.get(1)?.parse().ok()?,
            (*fields.get(19)?).to_owned(),
            words,
        ))
    };
    entries.filter_map(look).collect()
}

/// `root` and all processes below it.
pub(crate) fn family(root: u32) -> BTreeSet<Process> {
    let all = processes();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|p| p.1 == parent).map(|p| p.0));
        next += 1;
    }
    let own = all.into_iter().filter(|p| found.contains(&p.0));
    own.map(|(pid, _, start, _)| (pid, start)).collect()
}

/// Those of `family` that live, and all processes with `marker` in their words.
/// A zombie holds nothing any more and counts as dead.
pub(crate) fn living(family: &BTreeSet<Process>, marker: Option<&str>) -> Vec<String> {
    let all = processes().into_iter();
    let own = all.filter(|(pid, _, start, words)| {
        marker.is_some_and(|m| words.contains(m)) || family.contains(&(*pid, start.clone()))
    });
    own.map(|(pid, _, _, words)| format!("{pid} {words}"))
        .collect()
}
