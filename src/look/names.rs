//! Paths as numbers: each is a directory's number and a name, and names lie one
//! behind the other.

use std::hash::{BuildHasher, RandomState};

use super::tree::NodeId;
use crate::layer::bits::{Bits, Ranked};
use crate::layer::chains::Chains;
use crate::layer::frames::{Frames, NONE};
use crate::layer::pile::Spools;
use crate::layer::texts::{Texts, sort};

/// Names of nodes, and the directories that they are in.
#[derive(Debug)]
pub(super) struct Names {
    parents: Frames,
    texts: Texts,
    /// The places of their texts.
    places: Frames,
}

impl Names {
    /// Texts lie in one of `spools`.
    pub(super) fn new(spools: Spools) -> Self {
        Self {
            parents: Frames::default(),
            texts: Texts::new(spools),
            places: Frames::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there is no room for more.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.len() > most || self.texts.len() > (u32::MAX >> 1).into()
    }

    /// [`NONE`] for the root.
    pub(super) fn parent(&self, node: u32) -> u32 {
        self.parents.get(node as usize)
    }

    pub(super) fn name(&self, node: u32) -> &[u8] {
        self.texts.get(self.places.get(node as usize).into())
    }

    /// Adds one; its number.
    pub(super) fn push(&mut self, parent: u32, name: &[u8]) -> u32 {
        let node = self.len() as u32;
        self.parents.push(parent);
        self.places.push(self.texts.push(name) as u32);
        node
    }

    /// All but the root by parent and name.
    pub(super) fn sorted(&self) -> Sorted {
        let mut parents = Bits::default();
        for parent in self.parents.iter().skip(1) {
            parents.insert(parent);
        }
        let parents = Ranked::of(parents);
        let place = |parent: u32| parents.place(parent).unwrap_or_default();
        let mut begins = vec![0_u32; parents.len() + 1];
        for parent in self.parents.iter().skip(1) {
            begins[place(parent) + 1] += 1;
        }
        for at in 1..begins.len() {
            begins[at] += begins[at - 1];
        }
        // Each into its parent's part, and the parts put in order: mostly
        // they are already.
        let mut nodes = vec![NodeId(NONE); self.len() - 1];
        for (node, parent) in self.parents.iter().enumerate().skip(1) {
            let next = &mut begins[place(parent)];
            nodes[*next as usize] = NodeId(node as u32);
            *next += 1;
        }
        // Each has come to where the next one begins.
        begins.rotate_right(1);
        begins[0] = 0;
        for bounds in begins.windows(2) {
            let part = &mut nodes[bounds[0] as usize..bounds[1] as usize];
            sort(part, |node| self.name(node.0), <[u8]>::cmp);
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
#[derive(Debug, Default)]
pub(super) struct Table {
    nodes: Chains,
    hasher: RandomState,
}

impl Table {
    fn hash(&self, parent: u32, name: &[u8]) -> u32 {
        self.hasher.hash_one((parent, name)) as u32
    }

    pub(super) fn get(&self, names: &Names, parent: u32, name: &[u8]) -> Option<u32> {
        let is_it = |node| names.parent(node) == parent && names.name(node) == name;
        self.nodes.find(self.hash(parent, name), is_it)
    }

    /// The node, which is made if there is none; whether it was.
    pub(super) fn get_or_add(
        &mut self,
        names: &mut Names,
        parent: u32,
        name: &[u8],
    ) -> (u32, bool) {
        if let Some(node) = self.get(names, parent, name) {
            return (node, false);
        }
        let node = names.push(parent, name);
        let hash = self.hash(parent, name);
        self.nodes.insert(node, hash);
        (node, true)
    }
}
