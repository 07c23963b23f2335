//! Columns for people.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::escape;

/// Space between two columns.
const GAP: usize = 3;

/// `rows` under `header`, each column as wide as its widest cell, the last one
/// without padding. Cells are escaped.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut out = Vec::new();
    let written = write(&mut out, header, || rows.iter().cloned());
    written.map_or_else(
        |_| String::new(),
        |()| String::from_utf8(out).unwrap_or_default(),
    )
}

/// [`table`] for any number of rows: they are made twice, one at a time, first
/// to see how wide they are.
///
/// # Errors
/// When `out` can't be written.
pub(crate) fn write<const N: usize, I: Iterator<Item = [String; N]>>(
    out: &mut dyn Write,
    header: [&str; N],
    rows: impl Fn() -> I,
) -> io::Result<()> {
    let cells = || {
        let header = std::iter::once(header.map(str::to_owned));
        let all = header.chain(rows());
        all.map(|row| row.map(|cell| escape::text(&cell).into_owned()))
    };
    let mut widths = [0; N];
    for row in cells() {
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.width());
        }
    }
    for row in cells() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            let pad = width.saturating_sub(cell.width()) + GAP;
            line.extend(std::iter::repeat_n(' ', pad));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_and_escapes() {
        let rows = [
            ["日本".to_owned(), "1".into(), "x".into()],
            ["a\x1b".into(), "22".into(), String::new()],
        ];
        assert_eq!(
            table(["NAME", "N", "LAST"], &rows),
            "NAME    N    LAST\n日本    1    x\na\\x1b   22\n"
        );
    }
}
