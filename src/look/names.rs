//! Paths as numbers: each is a directory's number and a name, and names lie one
//! behind the other.

use std::hash::{BuildHasher, RandomState};

use super::tree::{NONE, NodeId};
use crate::layer::bits::{Bits, Ranked};
use crate::layer::code::{self, Input};

/// It is known where each name is whose number is a multiple of this.
const EACH: usize = 4;

/// Names of nodes, and the directories that they are in.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    parents: Vec<u32>,
    /// Names, each behind its length, and where every [`EACH`]th of them is.
    bytes: Vec<u8>,
    places: Vec<u32>,
}

impl Names {
    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there is no room for more.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.len() > most || self.bytes.len() > (u32::MAX >> 1) as usize
    }

    /// [`NONE`] for the root.
    pub(super) fn parent(&self, node: u32) -> u32 {
        self.parents[node as usize]
    }

    pub(super) fn name(&self, node: u32) -> &[u8] {
        let place = self.places[node as usize / EACH] as usize;
        let mut input = Input(&self.bytes[place..]);
        for _ in 0..node as usize % EACH {
            input.field();
        }
        input.field().unwrap_or_default()
    }

    /// Adds one; its number.
    pub(super) fn push(&mut self, parent: u32, name: &[u8]) -> u32 {
        let node = self.len() as u32;
        self.parents.push(parent);
        if (node as usize).is_multiple_of(EACH) {
            self.places.push(self.bytes.len() as u32);
        }
        code::field(&mut self.bytes, name);
        node
    }

    /// All but the root by parent and name.
    pub(super) fn sorted(&self) -> Sorted {
        let mut parents = Bits::default();
        for parent in &self.parents[1..] {
            parents.insert(*parent);
        }
        let parents = Ranked::of(parents);
        let place = |parent: u32| parents.place(parent).unwrap_or_default();
        let mut begins = vec![0_u32; parents.len() + 1];
        for parent in &self.parents[1..] {
            begins[place(*parent) + 1] += 1;
        }
        for at in 1..begins.len() {
            begins[at] += begins[at - 1];
        }
        // Each into its parent's part, and the parts put in order: mostly
        // they are already.
        let mut nodes = vec![NodeId(NONE); self.len() - 1];
        for (node, parent) in self.parents.iter().enumerate().skip(1) {
            let next = &mut begins[place(*parent)];
            nodes[*next as usize] = NodeId(node as u32);
            *next += 1;
        }
        // Each has come to where the next one begins.
        begins.rotate_right(1);
        begins[0] = 0;
        for bounds in begins.windows(2) {
            let part = &mut nodes[bounds[0] as usize..bounds[1] as usize];
            let name = |node: &NodeId| self.name(node.0);
            if !part.is_sorted_by(|a, b| name(a) <= name(b)) {
                part.sort_unstable_by(|a, b| name(a).cmp(name(b)));
            }
        }
        Sorted {
            nodes,
            parents,
            begins,
        }
    }
}

/// Nodes by parent and name.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    nodes: Vec<NodeId>,
    /// Those that have some below them.
    pub(super) parents: Ranked,
    /// Where what is below each of them begins, and where the last one's ends.
    begins: Vec<u32>,
}

impl Sorted {
    /// What is below `node`, by name.
    pub(super) fn of(&self, node: u32) -> &[NodeId] {
        let Some(place) = self.parents.place(node) else {
            return &[];
        };
        &self.nodes[self.begins[place] as usize..self.begins[place + 1] as usize]
    }
}

/// Finds nodes by parent and name.
#[derive(Debug)]
pub(super) struct Table {
    /// Numbers of nodes, each at the place that its hash says or behind it;
    /// a power of two of them, a quarter free at least.
    slots: Vec<u32>,
    hash: RandomState,
    count: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![NONE; 64],
            hash: RandomState::new(),
            count: 0,
        }
    }

    pub(super) fn get(&self, names: &Names, parent: u32, name: &[u8]) -> Option<u32> {
        self.place(names, parent, name).ok()
    }

    /// The node, or the free place where it would be.
    fn place(&self, names: &Names, parent: u32, name: &[u8]) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut at = self.hash.hash_one((parent, name)) as usize & mask;
        loop {
            match self.slots[at] {
                NONE => return Err(at),
                node if names.parent(node) == parent && names.name(node) == name => {
                    return Ok(node);
                }
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// The node, which is made if there is none; whether it was.
    pub(super) fn get_or_add(
        &mut self,
        names: &mut Names,
        parent: u32,
        name: &[u8],
    ) -> (u32, bool) {
        let at = match self.place(names, parent, name) {
            Ok(node) => return (node, false),
            Err(at) => at,
        };
        let node = names.push(parent, name);
        self.slots[at] = node;
        self.count += 1;
        if self.count > self.slots.len() / 4 * 3 {
            let more = self.slots.len() * 2;
            self.slots = Vec::new();
            self.slots = vec![NONE; more];
            for node in 1..names.len() as u32 {
                let (parent, name) = (names.parent(node), names.name(node));
                if let Err(at) = self.place(names, parent, name) {
                    self.slots[at] = node;
                }
            }
        }
        (node, true)
    }
}
