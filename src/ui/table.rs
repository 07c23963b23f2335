//! Columns for people.

use unicode_width::UnicodeWidthStr;

use super::escape;

/// Space between two columns.
const GAP: usize = 3;

/// `rows` under `header`, each column as wide as its widest cell, the last one
/// without padding. Cells are escaped.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let cells: Vec<[String; N]> = std::iter::once(header.map(str::to_owned))
        .chain(rows.iter().cloned())
        .map(|row| row.map(|cell| escape::text(&cell).into_owned()))
        .collect();
    let mut widths = [0; N];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut out = String::new();
    for row in &cells {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.width() + GAP));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
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
