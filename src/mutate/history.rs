//! Histories that say the truth. Pure.
//!
//! Entries that made a layer stand in the order of the layers; those that made
//! none stand between them.

use crate::image::History;

/// Bytes of an instruction, and of all of them, that a summary keeps.
const MAX_INSTRUCTION: usize = 120;
const MAX_SUMMARY: usize = 2000;

/// Makes `history` tell of exactly `layers` layers. Entries that are missing are
/// added at the end; of too many, the last are said to have made none.
pub fn align(history: &mut Vec<History>, layers: usize) {
    let mut seen = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        seen += 1;
        entry.empty_layer = seen > layers;
    }
    for _ in seen..layers {
        history.push(History {
            comment: "a layer that the history did not tell of".into(),
            ..History::default()
        });
    }
}

/// Where the entry of layer `number` stands, from 0; the length of `history`
/// where there is none.
pub fn position(history: &[History], number: usize) -> usize {
    let mut made = history.iter().enumerate().filter(|(_, e)| !e.empty_layer);
    made.nth(number).map_or(history.len(), |(at, _)| at)
}

/// Says that the layers from number `from` on have become one. Entries that
/// made no layer stay; what the others did is told in the new one.
///
/// `history` tells of all layers.
pub fn fold(history: &[History], from: usize, verb: &str) -> Vec<History> {
    let (before, folded) = history.split_at(position(history, from));
    let made = |entry: &&History| !entry.empty_layer;
    let instructions: Vec<&str> = folded
        .iter()
        .filter(made)
        .map(|entry| entry.created_by.as_str())
        .collect();
    let Some(last) = folded.iter().rposition(|entry| !entry.empty_layer) else {
        return history.to_vec();
    };
    let entry = History {
        created: folded[last].created.clone(),
        created_by: summary(verb, &instructions),
        ..History::default()
    };
    let mut new = before.to_vec();
    new.extend(folded[..last].iter().filter(|e| e.empty_layer).cloned());
    new.push(entry);
    new.extend_from_slice(&folded[last + 1..]);
    new
}

fn summary(verb: &str, instructions: &[&str]) -> String {
    let mut text = format!("{verb} of {} layers:", instructions.len());
    for (number, instruction) in instructions.iter().enumerate() {
        if text.len() > MAX_SUMMARY {
            text.push_str(&format!(" and {} more", instructions.len() - number));
            break;
        }
        text.push_str(if number == 0 { " " } else { "; " });
        let line = instruction.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(MAX_INSTRUCTION) {
            _ if line.is_empty() => text.push('?'),
            Some((at, _)) => text.push_str(&format!("{}…", &line[..at])),
            None => text.push_str(&line),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> History {
        History {
            created_by: text.trim_start_matches('-').into(),
            empty_layer: text.starts_with('-'),
            ..History::default()
        }
    }

    fn history(texts: &[&str]) -> Vec<History> {
        texts.iter().map(|t| entry(t)).collect()
    }

    fn made(history: &[History]) -> usize {
        history.iter().filter(|e| !e.empty_layer).count()
    }

    #[test]
    fn as_many_entries_as_layers() {
        for texts in [&[][..], &["a"], &["-e"], &["a", "-e", "b", "c", "d"]] {
            for layers in 0..4 {
                let mut history = history(texts);
                align(&mut history, layers);
                assert_eq!(made(&history), layers, "{texts:?}");
            }
        }
    }

    #[test]
    fn one_entry_for_what_was_folded() {
        let before = history(&[
            "base",
            "-ENV a",
            "RUN b",
            "-LABEL c",
            "COPY  d\n e",
            "-CMD f",
        ]);
        let after = fold(&before, 1, "flatten");
        let text: Vec<&str> = after.iter().map(|e| e.created_by.as_str()).collect();
        assert_eq!(
            text,
            [
                "base",
                "ENV a",
                "LABEL c",
                "flatten of 2 layers: RUN b; COPY d e",
                "CMD f"
            ]
        );
        assert_eq!(made(&after), 2);
        assert_eq!(made(&fold(&before, 0, "flatten")), 1);
        let long = vec![entry(&"x".repeat(500)); 500];
        let text = &fold(&long, 0, "flatten")[0].created_by;
        assert!(text.len() < 2500 && text.contains("more"), "{text}");
    }
}
