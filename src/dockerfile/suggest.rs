//! "Did you mean": the known name nearest to an unknown one.

use super::ast::Dockerfile;

/// Names further away than this are no help.
const FARTHEST: usize = 2;

/// The name nearest to `word`, or `None` where all are far or one is the word
/// itself. Of several equally near ones it is one with two letters swapped,
/// else the first.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(usize, bool, &str)> = None;
    for name in names {
        if name == word {
            return None;
        }
        let limit = best.map_or(FARTHEST, |(distance, ..)| distance);
        let Some(distance) = distance_below(word, name, limit + 1) else {
            continue;
        };
        let swapped = is_swapped(word, name);
        if best.is_none_or(|(d, s, _)| distance < d || (swapped && !s)) {
            best = Some((distance, swapped, name));
        }
    }
    best.map(|(.., name)| name)
}

/// What may have been meant by the name of an image that there is not: a
/// stage.
pub fn stage(file: &Dockerfile, name: &str) -> Option<String> {
    if name != "scratch" && name.eq_ignore_ascii_case("scratch") {
        return Some("the empty image is written `scratch`".into());
    }
    let stages = file.stages.iter().filter_map(|s| s.name.as_ref());
    let names: Vec<String> = stages.map(|n| n.value.to_lowercase()).collect();
    let lower = name.to_lowercase();
    if names.contains(&lower) && name != lower {
        return Some(format!(
            "to start from the stage, write its name in lower case: {lower}"
        ));
    }
    if names.contains(&lower) {
        return Some("the stage of that name comes later; move it up".into());
    }
    let near = nearest(&lower, names.iter().map(String::as_str))?;
    Some(format!("did you mean the stage {near:?}?"))
}

/// Whether `a` is `b` with two neighbours swapped.
fn is_swapped(a: &str, b: &str) -> bool {
    let differing: Vec<(char, char)> = a.chars().zip(b.chars()).filter(|(x, y)| x != y).collect();
    a.len() == b.len() && matches!(differing.as_slice(), [(x, y), (z, w)] if x == w && y == z)
}

/// As [`nearest`], for names that ignore case; the answer is in the word's
/// case.
pub fn nearest_ignoring_case(word: &str, names: &[&str]) -> Option<String> {
    let lower: Vec<String> = names.iter().map(|n| n.to_lowercase()).collect();
    let found = nearest(&word.to_lowercase(), lower.iter().map(String::as_str))?;
    Some(if word == word.to_lowercase() {
        found.to_owned()
    } else {
        found.to_uppercase()
    })
}

/// The Levenshtein distance of `a` and `b`, `None` where it is not below
/// `limit`.
fn distance_below(a: &str, b: &str, limit: usize) -> Option<usize> {
    // Bytes give a lower bound that spares long words the table.
    if a.chars().count().abs_diff(b.chars().count()) >= limit {
        return None;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut least = left;
        row[0] = left;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let above = *cell;
            left = (diagonal + usize::from(x != *y))
                .min(above + 1)
                .min(left + 1);
            diagonal = above;
            *cell = left;
            least = least.min(left);
        }
        if least >= limit {
            return None;
        }
    }
    row.last().copied().filter(|d| *d < limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_wins() {
        let names = ["from", "chown", "chmod", "link"];
        for (word, expected) in [
            ("form", Some("from")),
            ("chwon", Some("chown")),
            ("chmode", Some("chmod")),
            ("lnk", Some("link")),
            ("from", None),
            ("parents", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), expected, "{word}");
        }
        assert_eq!(
            nearest_ignoring_case("COYP", &["COPY", "RUN"]).as_deref(),
            Some("COPY")
        );
        assert_eq!(
            nearest_ignoring_case("rnu", &["COPY", "RUN"]).as_deref(),
            Some("run")
        );
        assert_eq!(nearest("RNU", ["ENV", "RUN", "ADD"]), Some("RUN"));
    }
}
