//! An automaton as a table, for paths of plain ASCII.

use std::collections::HashMap;

use super::program::{Goal, Program, Step, set};

/// More states than this, and the table is not worth its memory.
const MAX_STATES: usize = 256;

/// Longest program that is tried, in steps.
const MAX_STEPS: usize = 128;

/// Where nothing leads on.
const DEAD: u16 = u16::MAX;

/// The table.
#[derive(Debug, Clone)]
pub(super) struct Dfa {
    /// The column of each ASCII character.
    columns: [u8; 128],
    width: usize,
    /// Row by row: the next state.
    next: Vec<u16>,
    accepts: Vec<bool>,
}

impl Dfa {
    /// `None` when the table would be too large, or what comes next matters.
    pub(super) fn build(program: &Program) -> Option<Self> {
        let steps = program.steps();
        let plain = |s: &Step| !matches!(s, Step::Start | Step::End | Step::Boundary(_));
        if steps.len() > MAX_STEPS || !steps.iter().all(plain) {
            return None;
        }
        let (columns, samples) = columns(steps);
        let width = samples.len();
        let last = steps.len();
        let accepting = |states: &[u64]| states[last / 64] & (1 << (last % 64)) != 0;

        let mut start = vec![0; last / 64 + 1];
        program.enter(&mut start, 0, None, None);
        let mut dfa = Self {
            columns,
            width,
            next: Vec::new(),
            accepts: vec![accepting(&start)],
        };
        let mut numbers = HashMap::from([(start.clone(), 0_u16)]);
        let mut rows = vec![start];
        let mut row = 0;
        while let Some(states) = rows.get(row).cloned() {
            for c in &samples {
                let after = advance(program, &states, *c);
                if after.iter().all(|w| *w == 0) {
                    dfa.next.push(DEAD);
                    continue;
                }
                let number = match numbers.get(&after) {
                    Some(number) => *number,
                    None => {
                        if rows.len() >= MAX_STATES {
                            return None;
                        }
                        let number = u16::try_from(rows.len()).ok()?;
                        dfa.accepts.push(accepting(&after));
                        numbers.insert(after.clone(), number);
                        rows.push(after);
                        number
                    }
                };
                dfa.next.push(number);
            }
            row += 1;
        }
        Some(dfa)
    }

    /// Whether `goal` is reached; `None` for a path that has more than ASCII.
    pub(super) fn run(&self, path: &[u8], goal: Goal) -> Option<bool> {
        let stops = goal == Goal::EndOrSlash;
        let mut state = 0;
        for b in path {
            let column = *self.columns.get(usize::from(*b))?;
            if *b == b'/' && stops && self.accepts[state] {
                return Some(true);
            }
            let next = self.next[state * self.width + usize::from(column)];
            if next == DEAD {
                return Some(false);
            }
            state = usize::from(next);
        }
        Some(self.accepts[state])
    }
}

/// Which characters no step tells apart, and one of each kind.
fn columns(steps: &[Step]) -> ([u8; 128], Vec<char>) {
    let mut columns = [0; 128];
    let mut kinds: HashMap<Vec<bool>, u8> = HashMap::new();
    let mut samples = Vec::new();
    for (b, column) in (0_u8..128).zip(&mut columns) {
        let c = char::from(b);
        let mut kind: Vec<bool> = vec![c == '/', c == '\n'];
        kind.extend(steps.iter().map(|step| match step {
            Step::One(set) | Step::Star(set) => set.has(c),
            _ => false,
        }));
        // At most 128 kinds, since there are no more characters.
        let number = u8::try_from(samples.len()).unwrap_or(u8::MAX);
        *column = *kinds.entry(kind).or_insert_with(|| {
            samples.push(c);
            number
        });
    }
    (columns, samples)
}

/// All states after `c`.
fn advance(program: &Program, states: &[u64], c: char) -> Vec<u64> {
    let mut next = vec![0; states.len()];
    for (i, step) in program.steps().iter().enumerate() {
        if states[i / 64] & (1 << (i % 64)) == 0 {
            continue;
        }
        match step {
            Step::One(set) if set.has(c) => program.enter(&mut next, i + 1, Some(c), None),
            Step::Star(set) if set.has(c) => program.enter(&mut next, i, Some(c), None),
            Step::InDirs if c != '\n' => {
                set(&mut next, i);
                if c == '/' {
                    program.enter(&mut next, i + 1, Some(c), None);
                }
            }
            _ => {}
        }
    }
    next
}
