//! The variables of a stage, with a way back.
//!
//! Stages built on one stage all begin with its variables. They are gone
//! through one after the other, depth first, and each one's changes are taken
//! back before the next begins, so no stage copies another's table.

use std::collections::{HashMap, HashSet};

/// Names with values, and names that ARG declared.
#[derive(Debug, Default)]
pub(super) struct Scope {
    values: HashMap<String, String>,
    declared: HashSet<String>,
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Value(String, Option<String>),
    Declared(String),
}

impl Scope {
    pub(super) fn get(&self, name: &str) -> Option<&String> {
        self.values.get(name)
    }

    pub(super) fn set(&mut self, name: &str, value: String) {
        let before = self.values.insert(name.to_owned(), value);
        self.changes.push(Change::Value(name.to_owned(), before));
    }

    /// Notes an ARG, with or without a value.
    pub(super) fn declare(&mut self, name: &str) {
        if self.declared.insert(name.to_owned()) {
            self.changes.push(Change::Declared(name.to_owned()));
        }
    }

    pub(super) fn is_declared(&self, name: &str) -> bool {
        self.declared.contains(name)
    }

    /// All names, sorted.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.values.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// A mark to go [back](Self::back) to.
    pub(super) fn mark(&self) -> usize {
        self.changes.len()
    }

    /// Takes back what happened since `mark`.
    pub(super) fn back(&mut self, mark: usize) {
        while self.changes.len() > mark {
            match self.changes.pop() {
                Some(Change::Value(name, Some(before))) => {
                    self.values.insert(name, before);
                }
                Some(Change::Value(name, None)) => {
                    self.values.remove(&name);
                }
                Some(Change::Declared(name)) => {
                    self.declared.remove(&name);
                }
                None => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_taken_back() {
        let mut scope = Scope::default();
        scope.set("a", "1".into());
        let mark = scope.mark();
        scope.set("a", "2".into());
        scope.set("b", "3".into());
        scope.set("a", "4".into());
        scope.declare("c");
        scope.back(mark);
        assert_eq!(scope.names(), ["a"]);
        assert_eq!(scope.get("a").map(String::as_str), Some("1"));
        assert!(!scope.is_declared("c"));
    }
}
