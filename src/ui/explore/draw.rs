//! From what is shown to a frame. Only lines that are visible are made.

use ratatui::Frame;
use ratatui::layout::{Alignment, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};
use shiplap::layer::Kind;
use shiplap::look::{Inode, NodeId};

use super::details;
use super::picture::{Contents, one_line};
use super::places::{Focus, Places, lines};
use super::rows::{Mark, Sort};
use super::state::{Cursor, Progress, Shown, State};
use crate::ui::{entry, escape, format};

/// How things look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Theme {
    pub(crate) colors: bool,
}

/// Columns of the files' side from which on it has modes and owners.
const WITH_OWNERS: u16 = 64;
/// Columns that the depth of an entry may take.
const MOST_INDENT: usize = 40;

const HELP: &[(&str, &str)] = &[
    (
        "Up Down j k",
        "move; also PageUp, PageDown, Home (g), End (G)",
    ),
    ("Tab", "from the layers to the files and back"),
    ("[ ]", "the layer before, the next one"),
    ("Enter Space", "fold or unfold a directory"),
    ("Left Right h l", "fold and unfold, go up and down"),
    ("- +", "fold all, unfold all"),
    (
        "/",
        "filter: a part of the path, or a pattern (*.py, usr/**/doc)",
    ),
    ("c", "only what the chosen layer changed"),
    ("s", "sort by name or by size"),
    ("w", "what is wasted; Enter shows it in the tree"),
    ("Esc", "clear the filter, else quit"),
    ("q Ctrl-C", "quit"),
];

impl Theme {
    fn color(self, color: Color) -> Style {
        match self.colors {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }

    fn dim(self) -> Style {
        match self.colors {
            true => Style::new().fg(Color::DarkGray),
            false => Style::new(),
        }
    }

    /// A letter that says it without colour, and the colour.
    fn mark(self, mark: Mark) -> (&'static str, Style) {
        match mark {
            Mark::None => (" ", Style::new()),
            Mark::Below => ("*", self.dim()),
            Mark::Added => ("A", self.color(Color::Green)),
            Mark::Changed => ("C", self.color(Color::Yellow)),
            Mark::Removed => ("R", self.color(Color::Red)),
        }
    }

    fn block(self, title: String, focus: bool) -> Block<'static> {
        let style = match focus {
            true => self.color(Color::Cyan).add_modifier(Modifier::BOLD),
            false => self.dim(),
        };
        let title = Span::styled(title, Style::new().add_modifier(Modifier::BOLD));
        Block::bordered().border_style(style).title(title)
    }
}

/// Draws all of it.
pub(crate) fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let Some(places) = state.places() else {
        frame.render_widget(Paragraph::new("too small"), frame.area());
        return;
    };
    title(frame, places.title, state, theme);
    if let Some(place) = places.layers {
        layers(frame, place, state, theme);
    }
    if let Some(place) = places.files {
        match state.shown {
            Shown::Files => files(frame, place, state, theme),
            Shown::Wasted => wasted(frame, place, state, theme),
        }
    }
    if let Some(place) = places.details {
        details(frame, place, state, theme);
    }
    status(frame, places.status, state, theme);
    if state.help {
        help(frame, &places, theme);
    }
}

fn title(frame: &mut Frame<'_>, place: Rect, state: &State, theme: Theme) {
    let outline = &state.outline;
    let mut left = vec![
        Span::styled(
            format!(" {}", escape::text(&outline.name)),
            Style::new().add_modifier(Modifier::BOLD),
        ),
        Span::styled(
            format!(
                "  {}  {}",
                escape::text(&outline.platform),
                format::size(outline.size()),
            ),
            theme.dim(),
        ),
    ];
    let Some(contents) = state.contents() else {
        frame.render_widget(Line::from(left), place);
        return;
    };
    let waste = &contents.waste;
    let right = format!(
        "efficiency {:.1}%  wasted {} ",
        waste.efficiency * 100.0,
        format::size(waste.bytes)
    );
    let width = u16::try_from(right.len()).unwrap_or(u16::MAX);
    if width.saturating_mul(2) > place.width {
        left.truncate(1);
    }
    let [left_place, right_place] = split(place, width.min(place.width));
    frame.render_widget(Line::from(left), left_place);
    frame.render_widget(Line::from(right), right_place);
}

/// `place` with `right` columns taken off.
fn split(place: Rect, right: u16) -> [Rect; 2] {
    let left = place.width - right;
    [
        Rect {
            width: left,
            ..place
        },
        Rect {
            x: place.x + left,
            width: right,
            ..place
        },
    ]
}

/// The visible part of a list of `len`, as lines that `line` makes.
fn list<'a>(
    frame: &mut Frame<'_>,
    place: Rect,
    block: Block<'a>,
    (cursor, len): (Cursor, usize),
    focus: bool,
    mut line: impl FnMut(usize) -> Line<'a>,
) {
    let last = cursor.top.saturating_add(lines(Some(place))).min(len);
    let text: Vec<Line<'_>> = (cursor.top..last)
        .map(|at| {
            let chosen = at == cursor.at;
            let mut line = line(at);
            line.spans
                .insert(0, (if chosen { ">" } else { " " }).into());
            match (chosen, focus) {
                (true, true) => {
                    // One bar, to the border.
                    for span in &mut line.spans {
                        span.style = Style::new();
                    }
                    let width = usize::from(place.width.saturating_sub(2));
                    let rest = width.saturating_sub(line.width());
                    line.push_span(" ".repeat(rest));
                    line.style(Modifier::REVERSED)
                }
                (true, false) => line.style(Modifier::BOLD),
                (false, _) => line,
            }
        })
        .collect();
    frame.render_widget(Paragraph::new(text).block(block), place);
}

fn layers(frame: &mut Frame<'_>, place: Rect, state: &State, theme: Theme) {
    let outline = &state.outline;
    let focus = state.focus == Focus::Layers;
    let title = match outline.layers.len() {
        1 => " 1 layer ".to_owned(),
        n => format!(" {n} layers "),
    };
    let count = outline.layers.len() + 1;
    let width = count.to_string().len();
    let digests = place.width >= 60;
    let block = theme.block(title, focus);
    list(frame, place, block, (state.layers, count), focus, |at| {
        let Some((number, layer)) = at
            .checked_sub(1)
            .and_then(|n| Some((n, outline.layers.get(n)?)))
        else {
            let size = format::size(outline.size());
            return Line::from(format!("{:>width$} {size:>7} 100% the whole image", "all"));
        };
        let share = format!("{:.0}%", outline.share(number) * 100.0);
        let mut spans = vec![Span::from(format!(
            "{at:>0$} {1:>7} {share:>4} ",
            width.max(3),
            format::size(layer.size)
        ))];
        if digests {
            let hex = layer.digest.split_once(':').map_or("", |(_, hex)| hex);
            let short: String = hex.chars().take(12).collect();
            spans.push(Span::styled(format!("{short:12} "), theme.dim()));
        }
        let instruction = one_line(&layer.instruction);
        spans.push(escape::text(&instruction).into_owned().into());
        Line::from(spans)
    });
}

fn files(frame: &mut Frame<'_>, place: Rect, state: &State, theme: Theme) {
    let focus = state.focus == Focus::Files;
    let mut title = match state.layer() {
        None => " Files".to_owned(),
        Some(layer) => format!(" Layer {}", layer + 1),
    };
    if state.only_changes && state.layer().is_some() {
        title.push_str(", changes");
    }
    if state.sort == Sort::Size {
        title.push_str(", by size");
    }
    let Some(contents) = state.contents() else {
        let text = match &state.progress {
            Progress::Failed(why) => format!("can't be read:\n{}", escape::lines(why)),
            Progress::Reading { done, of } => format!(
                "reading layers … {} / {}",
                format::size(*done),
                format::size(*of)
            ),
            Progress::Done(_) => String::new(),
        };
        let text = Paragraph::new(text).wrap(Wrap { trim: false });
        title.push(' ');
        frame.render_widget(text.block(theme.block(title, focus)), place);
        return;
    };
    title.push_str(&match state.count {
        1 => ", 1 entry ".to_owned(),
        n => format!(", {n} entries "),
    });
    let block = theme.block(title, focus);
    let owners = place.width >= WITH_OWNERS;
    let len = state.rows.len();
    if len == 0 {
        frame.render_widget(Paragraph::new("  nothing").block(block), place);
        return;
    }
    list(frame, place, block, (state.files, len), focus, |at| {
        let node = state.rows[at];
        line(state, contents, node, owners, theme)
    });
}

/// One line of the tree.
fn line(
    state: &State,
    contents: &Contents,
    node: NodeId,
    owners: bool,
    theme: Theme,
) -> Line<'static> {
    let tree = &contents.tree;
    let mark = state.view.mark(node);
    let (letter, style) = theme.mark(mark);
    let inode = details::inode(contents, &state.view, node);
    let mut spans = vec![Span::styled(letter, style), " ".into()];
    if owners {
        let attributes = inode.as_ref().map_or_else(
            || " ".repeat(22),
            |i| format!("{} {:11} ", entry::mode(i), entry::owner(i)),
        );
        spans.push(Span::styled(attributes, theme.dim()));
    }
    let size = format::size(state.view.size(tree, node));
    let fold = match (state.has_below(node), state.is_open(node)) {
        (false, _) => "  ",
        (true, true) => "▾ ",
        (true, false) => "▸ ",
    };
    let indent = (tree.depth(node).saturating_sub(1))
        .saturating_mul(2)
        .min(MOST_INDENT);
    spans.push(format!("{size:>7} {:indent$}{fold}", "").into());
    let name = String::from_utf8_lossy(tree.name(node));
    let mut name = escape::text(&name).into_owned();
    let directory = inode.as_ref().is_some_and(Inode::is_dir);
    if directory {
        name.push('/');
    }
    let style = match (mark, directory) {
        (Mark::None | Mark::Below, true) => theme.color(Color::Blue),
        (Mark::None | Mark::Below, false) => Style::new(),
        _ => style,
    };
    spans.push(Span::styled(name, style));
    if let Some(Kind::Symlink { target } | Kind::Hardlink { target }) =
        inode.as_ref().map(|i| &i.kind)
    {
        let target = target.to_string_lossy();
        let target = format!(" -> {}", escape::text(&target));
        spans.push(Span::styled(target, theme.dim()));
    }
    Line::from(spans)
}

fn wasted(frame: &mut Frame<'_>, place: Rect, state: &State, theme: Theme) {
    let focus = state.focus == Focus::Files;
    let Some(contents) = state.contents() else {
        return files(frame, place, state, theme);
    };
    let paths = &contents.waste.paths;
    let title = format!(
        " Wasted: {} at {} paths ",
        format::size(contents.waste.bytes),
        paths.len()
    );
    let block = theme.block(title, focus);
    if paths.is_empty() {
        frame.render_widget(Paragraph::new("  nothing").block(block), place);
        return;
    }
    list(
        frame,
        place,
        block,
        (state.wasted, paths.len()),
        focus,
        |at| {
            let Some(wasted) = paths.get(at) else {
                return Line::default();
            };
            let (letter, style) = theme.mark(match wasted.is_removed(&contents.tree) {
                true => Mark::Removed,
                false => Mark::Changed,
            });
            let path = contents.tree.path(wasted.node);
            let path = path.to_string_lossy();
            Line::from(vec![
                Span::styled(letter, style),
                format!(
                    " {:>7} {:>3}× /{}",
                    format::size(wasted.bytes),
                    wasted.files,
                    escape::text(&path)
                )
                .into(),
            ])
        },
    );
}

fn details(frame: &mut Frame<'_>, place: Rect, state: &State, theme: Theme) {
    let node = match (state.focus, state.shown, state.contents()) {
        (Focus::Files, Shown::Files, _) => state.node(),
        (Focus::Files, Shown::Wasted, Some(contents)) => {
            let path = contents.waste.paths.get(state.wasted.at);
            path.map(|wasted| wasted.node)
        }
        _ => None,
    };
    let (title, fields) = match (node, state.contents(), state.layer()) {
        (Some(node), Some(contents), _) => (" Entry ", details::entry(contents, &state.view, node)),
        (_, contents, Some(layer)) => (" Layer ", details::layer(state, contents, layer)),
        (_, contents, None) => (" Image ", details::image(state, contents)),
    };
    let text: Vec<Line<'_>> = fields
        .into_iter()
        .map(|(name, value)| {
            Line::from(vec![
                Span::styled(format!("{name:9} "), theme.color(Color::Cyan)),
                escape::text(&value).into_owned().into(),
            ])
        })
        .collect();
    let text = Paragraph::new(text).wrap(Wrap { trim: false });
    frame.render_widget(text.block(theme.block(title.to_owned(), false)), place);
}

fn status(frame: &mut Frame<'_>, place: Rect, state: &State, theme: Theme) {
    let filter = escape::text(&state.filter);
    let line = if state.typing {
        Line::from(format!(
            " filter: {filter}█  {} match, Enter keeps it, Esc clears it",
            state.count
        ))
    } else if !state.filter.is_empty() {
        Line::from(format!(
            " filter: {filter}  {} match, Esc clears it",
            state.count
        ))
    } else {
        let keys = [
            ("?", "help"),
            ("q", "quit"),
            ("Tab", "side"),
            ("/", "filter"),
            ("c", "changes"),
            ("s", "sort"),
            ("w", "wasted"),
            ("-+", "fold"),
        ];
        let spans = keys.into_iter().flat_map(|(key, what)| {
            [
                Span::styled(format!(" {key}"), Style::new().add_modifier(Modifier::BOLD)),
                Span::styled(format!(" {what} "), theme.dim()),
            ]
        });
        Line::from(spans.collect::<Vec<_>>())
    };
    frame.render_widget(line, place);
}

fn help(frame: &mut Frame<'_>, places: &Places, theme: Theme) {
    let screen = frame.area();
    let body = Rect {
        y: places.title.bottom(),
        height: screen.height - 2,
        ..screen
    };
    let width = body.width.min(84);
    let height = body.height.min(HELP.len() as u16 + 7);
    let place = Rect::new(
        body.x + (body.width - width) / 2,
        body.y + (body.height - height) / 2,
        width,
        height,
    );
    let mut text: Vec<Line<'_>> = HELP
        .iter()
        .map(|(keys, what)| {
            Line::from(vec![
                Span::styled(
                    format!(" {keys:15}"),
                    Style::new().add_modifier(Modifier::BOLD),
                ),
                (*what).into(),
            ])
        })
        .collect();
    text.push(Line::default());
    for mark in [Mark::Added, Mark::Changed, Mark::Removed, Mark::Below] {
        let (letter, style) = theme.mark(mark);
        let what = match mark {
            Mark::Added => "added by the chosen layer",
            Mark::Changed => "changed by it",
            Mark::Removed => "removed by it",
            _ => "changes are below",
        };
        text.push(Line::from(vec![
            Span::styled(format!(" {letter:15}"), style),
            what.into(),
        ]));
    }
    frame.render_widget(Clear, place);
    let block = theme
        .block(" Keys ".into(), true)
        .title_alignment(Alignment::Left);
    frame.render_widget(Paragraph::new(text).block(block), place);
}
