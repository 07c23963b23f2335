//! What is shown and what keys do to it. Pure: nothing here knows a terminal.

use std::collections::HashSet;

use shiplap::look::{NodeId, Tree};

use super::filter::Filter;
use super::picture::{Contents, Outline};
use super::places::{Focus, Places, lines};
use super::rows::{self, Sort, View, Wanted};

/// A key that was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Tab,
    Backspace,
    Escape,
    /// Ctrl-U: the line that is typed is emptied.
    Empty,
    /// Ctrl-C.
    Interrupt,
}

/// How far the layers are read.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Bytes of `of` so far.
    Reading {
        done: u64,
        of: u64,
    },
    /// They can't be read.
    Failed(String),
    Done(Box<Contents>),
}

/// What the right side shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Files,
    /// Paths at which bytes are wasted.
    Wasted,
}

/// A place in a list, and the first line of it that is visible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) at: usize,
    pub(crate) top: usize,
}

impl Cursor {
    /// Moves as `key` says in a list of `len`, of which `page` lines are
    /// visible; whether the key was one that moves.
    fn moved(&mut self, key: Key, len: usize, page: usize) -> bool {
        let page = page.max(1);
        self.at = match key {
            Key::Up | Key::Char('k') => self.at.saturating_sub(1),
            Key::Down | Key::Char('j') => self.at + 1,
            Key::PageUp => self.at.saturating_sub(page),
            Key::PageDown => self.at.saturating_add(page),
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => len,
            _ => return false,
        };
        self.fit(len, page);
        true
    }

    /// Brings the place into the list, and what is visible to the place.
    fn fit(&mut self, len: usize, page: usize) {
        let page = page.max(1);
        self.at = self.at.min(len.saturating_sub(1));
        let lowest = self.at.saturating_sub(page - 1);
        self.top = self.top.clamp(lowest, self.at);
        // No empty lines at the end while there is something above.
        self.top = self.top.min(len.saturating_sub(page));
    }
}

/// All that is shown.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) outline: Outline,
    pub(crate) progress: Progress,
    pub(crate) focus: Focus,
    /// 0 is the whole image, others a layer and one.
    pub(crate) layers: Cursor,
    pub(crate) shown: Shown,
    pub(crate) files: Cursor,
    pub(crate) wasted: Cursor,
    pub(crate) sort: Sort,
    pub(crate) only_changes: bool,
    /// What was typed to filter by.
    pub(crate) filter: String,
    /// Whether it is being typed.
    pub(crate) typing: bool,
    pub(crate) help: bool,
    pub(crate) quit: bool,
    pub(crate) view: View,
    /// The entries of the lines.
    pub(crate) rows: Vec<NodeId>,
    /// Entries that are wanted, folded away or not.
    pub(crate) count: usize,
    /// By [`place`](Tree::place).
    open: Vec<bool>,
    /// The same while there is a filter, which unfolds all.
    open_filtered: Vec<bool>,
    size: (u16, u16),
}

impl State {
    /// Before the layers are read, on a screen of `size` columns and lines.
    pub(crate) fn new(outline: Outline, size: (u16, u16)) -> Self {
        Self {
            progress: Progress::Reading {
                done: 0,
                of: outline.size(),
            },
            outline,
            focus: Focus::Layers,
            layers: Cursor::default(),
            shown: Shown::Files,
            files: Cursor::default(),
            wasted: Cursor::default(),
            sort: Sort::Name,
            only_changes: false,
            filter: String::new(),
            typing: false,
            help: false,
            quit: false,
            view: View::default(),
            rows: Vec::new(),
            count: 0,
            open: Vec::new(),
            open_filtered: Vec::new(),
            size,
        }
    }

    /// Where things are.
    pub(crate) fn places(&self) -> Option<Places> {
        let layers = self.outline.layers.len();
        Places::of(self.size.0, self.size.1, layers, self.focus)
    }

    pub(crate) fn contents(&self) -> Option<&Contents> {
        match &self.progress {
            Progress::Done(contents) => Some(contents),
            _ => None,
        }
    }

    /// The chosen layer; `None` for the whole image.
    pub(crate) fn layer(&self) -> Option<usize> {
        self.layers.at.checked_sub(1)
    }

    /// The chosen entry of the tree.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.rows.get(self.files.at).copied()
    }

    /// Whether an entry is unfolded.
    pub(crate) fn is_open(&self, node: NodeId) -> bool {
        let place = self.contents().and_then(|c| c.tree.place(node));
        place.is_some_and(|place| self.folds()[place])
    }

    /// Whether there is something to unfold.
    pub(crate) fn has_below(&self, node: NodeId) -> bool {
        let Some(contents) = self.contents() else {
            return false;
        };
        let children = contents.tree.children(node).iter();
        let mut children = children.copied();
        children.any(|c| self.view.shows(&contents.tree, c))
    }

    /// The screen has another size.
    pub(crate) fn resized(&mut self, size: (u16, u16)) {
        self.size = size;
        self.fit();
    }

    /// So much was read in all; whether that is news.
    pub(crate) fn read(&mut self, bytes: u64) -> bool {
        let Progress::Reading { done, of } = &mut self.progress else {
            return false;
        };
        std::mem::replace(done, bytes.min(*of)) != *done
    }

    /// The layers can't be read.
    pub(crate) fn failed(&mut self, why: String) {
        self.progress = Progress::Failed(why);
    }

    /// The layers are read.
    pub(crate) fn done(&mut self, contents: Contents) {
        let places = contents.tree.parents();
        self.open = vec![false; places];
        self.open_filtered = vec![true; places];
        self.progress = Progress::Done(Box::new(contents));
        self.look();
    }

    /// Does what `key` asks for.
    pub(crate) fn key(&mut self, key: Key) {
        match key {
            Key::Interrupt => self.quit = true,
            _ if self.typing => self.typed(key),
            _ if self.help => {
                if matches!(key, Key::Escape | Key::Enter | Key::Char('q' | '?' | ' ')) {
                    self.help = false;
                }
            }
            Key::Char('q') => self.quit = true,
            Key::Escape if !self.filter.is_empty() => self.set_filter(String::new()),
            Key::Escape if self.shown == Shown::Wasted => self.shown = Shown::Files,
            Key::Escape => self.quit = true,
            Key::Char('?') => self.help = true,
            Key::Tab => {
                self.focus = match self.focus {
                    Focus::Layers => Focus::Files,
                    Focus::Files => Focus::Layers,
                };
                self.fit();
            }
            Key::Char('[') => self.choose(self.layers.at.saturating_sub(1)),
            Key::Char(']') => self.choose(self.layers.at + 1),
            Key::Char('/') => {
                self.typing = true;
                self.shown = Shown::Files;
                self.focus = Focus::Files;
                self.fit();
            }
            Key::Char('s') => {
                self.sort = match self.sort {
                    Sort::Name => Sort::Size,
                    Sort::Size => Sort::Name,
                };
                self.arrange();
            }
            Key::Char('c') => {
                self.only_changes = !self.only_changes;
                self.arrange();
            }
            Key::Char('w') => {
                self.shown = match self.shown {
                    Shown::Files => Shown::Wasted,
                    Shown::Wasted => Shown::Files,
                };
                self.focus = Focus::Files;
                self.fit();
            }
            Key::Char('-') => self.fold_all(false),
            Key::Char('+' | '=') => self.fold_all(true),
            _ => match (self.focus, self.shown) {
                (Focus::Layers, _) => self.layers_key(key),
                (Focus::Files, Shown::Files) => self.files_key(key),
                (Focus::Files, Shown::Wasted) => self.wasted_key(key),
            },
        }
    }

    fn typed(&mut self, key: Key) {
        let mut filter = std::mem::take(&mut self.filter);
        match key {
            Key::Enter | Key::Tab | Key::Up | Key::Down | Key::PageUp | Key::PageDown => {
                self.typing = false;
                self.filter = filter;
                if key != Key::Enter && key != Key::Tab {
                    self.files_key(key);
                }
                return;
            }
            Key::Escape => {
                self.typing = false;
                filter.clear();
            }
            Key::Empty => filter.clear(),
            // An empty line has nothing to take back: that ends it.
            Key::Backspace => self.typing = filter.pop().is_some(),
            Key::Char(c) => filter.push(c),
            _ => {}
        }
        self.set_filter(filter);
    }

    fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.open_filtered.fill(true);
        self.arrange();
        self.find();
    }

    /// Goes to the first line that the filter wants, unless it wants this one.
    fn find(&mut self) {
        let (Some(filter), Some(contents)) = (Filter::parse(&self.filter), self.contents()) else {
            return;
        };
        let wanted = |node: &NodeId| {
            let path = contents.tree.path(*node);
            filter.matches(path.as_os_str().as_encoded_bytes())
        };
        if self
            .rows
            .get(self.files.at)
            .is_none_or(|node| !wanted(node))
            && let Some(at) = self.rows.iter().position(wanted)
        {
            self.files.at = at;
            self.fit();
        }
    }

    fn layers_key(&mut self, key: Key) {
        let page = self.places().map_or(0, |p| lines(p.layers));
        let mut cursor = self.layers;
        if cursor.moved(key, self.outline.layers.len() + 1, page) {
            self.choose(cursor.at);
        } else if matches!(key, Key::Enter | Key::Right | Key::Char('l' | ' ')) {
            self.focus = Focus::Files;
            self.fit();
        }
    }

    fn choose(&mut self, layer: usize) {
        let layer = layer.min(self.outline.layers.len());
        if layer != self.layers.at {
            self.layers.at = layer;
            self.fit();
            self.look();
        }
    }

    fn files_key(&mut self, key: Key) {
        let page = self.places().map_or(0, |p| lines(p.files));
        if self.files.moved(key, self.rows.len(), page) {
            return;
        }
        let Some(node) = self.node() else {
            return;
        };
        let open = self.is_open(node) && self.has_below(node);
        match key {
            Key::Enter | Key::Char(' ') => self.fold(node, !open),
            Key::Right | Key::Char('l') if open => {
                self.files.moved(Key::Down, self.rows.len(), page);
            }
            Key::Right | Key::Char('l') => self.fold(node, true),
            Key::Left | Key::Char('h') if open => self.fold(node, false),
            Key::Left | Key::Char('h') => {
                let parent = self.contents().and_then(|c| c.tree.parent(node));
                let mut above = self.rows[..self.files.at].iter();
                if let Some(at) = above.rposition(|above| Some(*above) == parent) {
                    self.files.at = at;
                    self.fit();
                }
            }
            _ => {}
        }
    }

    fn wasted_key(&mut self, key: Key) {
        let page = self.places().map_or(0, |p| lines(p.files));
        let len = self.contents().map_or(0, |c| c.waste.paths.len());
        if !self.wasted.moved(key, len, page) && key == Key::Enter {
            self.show_wasted();
        }
    }

    /// Goes to the wasted path in the tree, to the layer that removed it where
    /// one did.
    fn show_wasted(&mut self) {
        let Some(contents) = self.contents() else {
            return;
        };
        let Some(wasted) = contents.waste.paths.get(self.wasted.at) else {
            return;
        };
        let (node, removed) = (wasted.node, wasted.is_removed(&contents.tree));
        let newest = contents.tree.versions(node).next();
        let mut above = Vec::new();
        let mut here = node;
        while let Some(parent) = contents.tree.parent(here) {
            above.extend(contents.tree.place(parent));
            here = parent;
        }
        self.shown = Shown::Files;
        self.filter.clear();
        self.only_changes = false;
        for place in above {
            self.open[place] = true;
        }
        self.layers.at = match newest {
            Some((layer, _)) if removed => layer + 1,
            _ => 0,
        };
        self.look();
        self.select(node);
    }

    fn folds(&self) -> &[bool] {
        match self.filter.is_empty() {
            true => &self.open,
            false => &self.open_filtered,
        }
    }

    fn folds_mut(&mut self) -> &mut Vec<bool> {
        match self.filter.is_empty() {
            true => &mut self.open,
            false => &mut self.open_filtered,
        }
    }

    fn fold(&mut self, node: NodeId, open: bool) {
        let place = self.contents().and_then(|c| c.tree.place(node));
        if let Some(place) = place.filter(|_| self.has_below(node)) {
            self.folds_mut()[place] = open;
            self.arrange();
        }
    }

    fn fold_all(&mut self, open: bool) {
        self.folds_mut().fill(open);
        self.arrange();
    }

    /// Another layer is chosen.
    fn look(&mut self) {
        let layer = self.layer();
        if let Progress::Done(contents) = &self.progress {
            self.view = View::default();
            self.view = View::of(&contents.tree, layer);
        }
        self.arrange();
    }

    /// Makes the lines anew, and stays at the entry.
    fn arrange(&mut self) {
        let node = self.node();
        let Progress::Done(contents) = &self.progress else {
            return;
        };
        // There may be millions: only the old ones or the new ones are there.
        self.rows = Vec::new();
        let filter = Filter::parse(&self.filter);
        let wanted = Wanted {
            sort: self.sort,
            only_changes: self.only_changes,
            filter: filter.as_ref(),
            open: self.folds(),
        };
        let (rows, count) = rows::rows(&contents.tree, &self.view, &wanted);
        (self.rows, self.count) = (rows, count);
        if let Some(node) = node {
            self.select(node);
        }
        self.fit();
    }

    /// Goes to `node`, or to what is shown of what leads to it.
    fn select(&mut self, node: NodeId) {
        let Some(contents) = self.contents() else {
            return;
        };
        let above = std::iter::successors(Some(node), |n| contents.tree.parent(*n));
        let above: HashSet<NodeId> = above.filter(|n| *n != Tree::ROOT).collect();
        if let Some(at) = self.rows.iter().rposition(|node| above.contains(node)) {
            self.files.at = at;
        }
        self.fit();
    }

    /// Brings all cursors into their lists and onto the screen.
    fn fit(&mut self) {
        let places = self.places().unwrap_or_default();
        let wasted = self.contents().map_or(0, |c| c.waste.paths.len());
        let layers = self.outline.layers.len() + 1;
        self.layers.fit(layers, lines(places.layers));
        self.files.fit(self.rows.len(), lines(places.files));
        self.wasted.fit(wasted, lines(places.files));
    }
}
