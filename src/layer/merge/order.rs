//! What is written of a [`Stack`], in the order of the entries that it is from.
//!
//! The order of all names would take as much memory again as half of the stack,
//! so they are put in order some at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::iter::Peekable;
use std::vec::IntoIter;

use crate::layer::stack::{Found, NameId, NodeId, Stack};

/// Entries whose names are counted together.
const BLOCK: u32 = 1 << 14;
/// So many names are put in order at a time at least, and of very many names a
/// part, as all of them are looked through each time.
const SOME: usize = 1 << 17;
const PART: usize = 16;

/// What is written, and what of it when.
#[derive(Debug)]
pub(super) struct Order<'a> {
    stack: &'a Stack,
    /// Directories without an entry that nothing else brings into being.
    pub(super) implied: Vec<NameId>,
    /// New names for what lower layers have under the other name.
    pub(super) links: Vec<(NameId, NameId)>,
    /// The layers that contents come from, in order.
    pub(super) layers: Vec<u32>,
    /// The files that `links` lead to.
    shared: HashSet<NodeId>,
    /// How many names each block of entries has.
    counts: Vec<u32>,
}

fn all(stack: &Stack) -> impl Iterator<Item = (NameId, Found<'_>)> {
    let names = (0..stack.capacity()).map(NameId::at);
    names.filter_map(|name| Some((name, stack.get(name)?)))
}

impl<'a> Order<'a> {
    pub(super) fn of(stack: &'a Stack) -> Self {
        let mut order = Self {
            stack,
            implied: Vec::new(),
            links: Vec::new(),
            layers: Vec::new(),
            shared: HashSet::new(),
            counts: Vec::new(),
        };
        for name in stack.names() {
            if let Some(Found::Dir(dir)) = stack.get(name)
                && stack.is_new(name)
                && !stack.needs_opaque(name)
                && dir.entry().is_none()
                && dir.is_empty()
            {
                order.implied.push(name);
            }
        }
        order.find_links();
        let mut layers = BTreeSet::new();
        for (name, found) in all(stack) {
            let Some(entry) = order.entry(name, found) else {
                continue;
            };
            if let Found::Node(node) = found {
                layers.insert(stack.origin_of(node).layer);
            }
            let block = (entry / BLOCK) as usize;
            if block >= order.counts.len() {
                order.counts.resize(block + 1, 0);
            }
            order.counts[block] += 1;
        }
        order.layers = layers.into_iter().collect();
        order
    }

    /// Files that layers below the split have and that have new names too.
    fn find_links(&mut self) {
        let stack = self.stack;
        let mut links: Vec<(NodeId, NameId)> = Vec::new();
        for (name, found) in all(stack) {
            if let Found::Node(node) = found
                && stack.is_new(name)
                && stack.is_below(node)
            {
                links.push((node, name));
            }
        }
        if links.is_empty() {
            return;
        }
        let mut targets: HashMap<NodeId, Option<NameId>> =
            links.iter().map(|(node, _)| (*node, None)).collect();
        for (name, found) in all(stack) {
            if let Found::Node(node) = found
                && !stack.is_new(name)
                && let Some(target) = targets.get_mut(&node)
                && target.is_none_or(|other| stack.path(name) < stack.path(other))
            {
                *target = Some(name);
            }
        }
        targets.retain(|_, target| target.is_some());
        sort(stack, &mut links);
        let target = |(node, name): &(NodeId, NameId)| Some((*name, (*targets.get(node)?)?));
        self.links = links.iter().filter_map(target).collect();
        self.shared = targets.into_keys().collect();
    }

    /// The number of the entry that a name is written with, if it is.
    fn entry(&self, name: NameId, found: Found<'_>) -> Option<u32> {
        if !self.stack.is_new(name) {
            return None;
        }
        match found {
            Found::Dir(dir) => dir.entry(),
            Found::Node(node) if self.shared.contains(&node) => None,
            Found::Node(node) => Some(node.index() as u32),
        }
    }

    /// All that has an entry, in the order of those.
    pub(super) fn entries(&'a self) -> Entries<'a> {
        Entries {
            order: self,
            block: 0,
            end: 0,
            dirs: Vec::new().into_iter().peekable(),
            nodes: Vec::new(),
            passed: 0,
        }
    }
}

/// By nodes; the names of one in the order of their paths.
fn sort(stack: &Stack, names: &mut [(NodeId, NameId)]) {
    names.sort_unstable_by(|(a, x), (b, y)| {
        let paths = || stack.path(*x).cmp(&stack.path(*y));
        a.cmp(b).then_with(paths)
    });
}

/// See [`Order::entries`].
#[derive(Debug)]
pub(super) struct Entries<'a> {
    order: &'a Order<'a>,
    /// The first block that was not looked for yet, and its first entry.
    block: usize,
    end: u32,
    /// Of the entries before: directories with theirs, and everything else.
    dirs: Peekable<IntoIter<(u32, NameId)>>,
    nodes: Vec<(NodeId, NameId)>,
    passed: usize,
}

impl Entries<'_> {
    /// The next of the directories with an entry before `entry`.
    pub(super) fn dir_before(&mut self, entry: u32) -> Option<NameId> {
        loop {
            if let Some((_, dir)) = self.dirs.next_if(|(number, _)| *number < entry) {
                return Some(dir);
            }
            if entry < self.end || !self.more() {
                return None;
            }
        }
    }

    /// The names of what `entry` has put there. All directories before it have
    /// come.
    pub(super) fn names_of(&mut self, entry: u32) -> &[(NodeId, NameId)] {
        let rest = &self.nodes[self.passed..];
        let is_it = |(node, _): &&(NodeId, NameId)| node.index() == entry as usize;
        let count = rest.iter().take_while(is_it).count();
        self.passed += count;
        &rest[..count]
    }

    /// Looks for some more.
    fn more(&mut self) -> bool {
        let Order { stack, counts, .. } = self.order;
        let some = SOME.max(stack.capacity() / PART);
        let mut count = 0;
        let begin = self.end;
        while let Some(here) = counts.get(self.block).filter(|_| count < some) {
            count += *here as usize;
            self.block += 1;
        }
        self.end = (self.block as u32).saturating_mul(BLOCK);
        let mut dirs = Vec::new();
        let mut nodes = Vec::with_capacity(count.min(some));
        if count > 0 {
            for (name, found) in all(stack) {
                match (self.order.entry(name, found), found) {
                    (Some(n), _) if !(begin..self.end).contains(&n) => {}
                    (Some(entry), Found::Dir(_)) => dirs.push((entry, name)),
                    (Some(_), Found::Node(node)) => nodes.push((node, name)),
                    (None, _) => {}
                }
            }
        }
        dirs.sort_unstable();
        sort(stack, &mut nodes);
        (self.nodes, self.passed) = (nodes, 0);
        self.dirs = dirs.into_iter().peekable();
        begin < self.end
    }
}
