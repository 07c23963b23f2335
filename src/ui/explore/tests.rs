//! Keys to state, state to screen; and the page.

use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use shiplap::image::media_type::Compression;
use shiplap::layer::index::LayerIndex;
use shiplap::layer::pile::Spools;
use tar::EntryType;

use super::draw::{Theme, draw};
use super::picture::{Contents, Layer, Outline, one_line};
use super::places::Focus;
use super::state::{Key, Shown, State};

/// What is at a path: a directory (none), a file's bytes, or a link's target.
enum Put<'a> {
    Dir,
    File(usize),
    Link(&'a str),
}

fn layer(entries: &[(&str, Put<'_>)]) -> Arc<LayerIndex> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, put) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_600_000_000);
        header.set_uid(1000);
        header.set_gid(100);
        let (kind, mode, size) = match put {
            Put::Dir => (EntryType::Directory, 0o755, 0),
            Put::File(size) => (EntryType::Regular, 0o4755, *size),
            Put::Link(_) => (EntryType::Symlink, 0o777, 0),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        let data = vec![b'x'; size];
        match put {
            Put::Link(target) => tar.append_link(&mut header, path, target).unwrap(),
            _ => tar.append_data(&mut header, path, &data[..]).unwrap(),
        }
    }
    let tar = std::io::Cursor::new(tar.into_inner().unwrap());
    Arc::new(LayerIndex::make(tar, Compression::Uncompressed).unwrap())
}

fn outline(layers: usize) -> Outline {
    let layer = |n: usize| Layer {
        digest: format!("sha256:{}", n.to_string().repeat(64)),
        diff_id: format!("sha256:{}", "d".repeat(64)),
        size: 1000 * (n as u64 + 1),
        instruction: format!("RUN step {n} \x1b[31m<b>\n # buildkit"),
    };
    Outline {
        name: "app:1".into(),
        digest: format!("sha256:{}", "a".repeat(64)),
        platform: "linux/amd64".into(),
        created: Some("2020-09-13T12:26:40Z".into()),
        layers: (0..layers).map(layer).collect(),
    }
}

/// Two layers: the second adds, changes and removes.
fn contents() -> Contents {
    let first = layer(&[
        ("etc", Put::Dir),
        ("etc/passwd", Put::File(700)),
        ("usr", Put::Dir),
        ("usr/lib", Put::Dir),
        ("usr/lib/big.so", Put::File(50_000)),
        ("usr/lib/a.py", Put::File(10)),
        ("old", Put::Dir),
        ("old/data", Put::File(9_000)),
    ]);
    let second = layer(&[
        ("etc/passwd", Put::File(800)),
        ("etc/e\x1b[31m</script>", Put::File(5)),
        (".wh.old", Put::File(0)),
        ("usr/link", Put::Link("lib/big.so")),
    ]);
    Contents::of(&[first, second], Spools::default(), usize::MAX).unwrap()
}

fn state(size: (u16, u16)) -> State {
    let mut state = State::new(outline(2), size);
    state.done(contents());
    state
}

fn press(state: &mut State, keys: &str) {
    for c in keys.chars() {
        state.key(match c {
            '⏎' => Key::Enter,
            '⇥' => Key::Tab,
            '⎋' => Key::Escape,
            '↓' => Key::Down,
            '→' => Key::Right,
            '←' => Key::Left,
            '⌫' => Key::Backspace,
            c => Key::Char(c),
        });
    }
}

fn screen(state: &State, size: (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    let theme = Theme { colors: true };
    terminal.draw(|frame| draw(frame, state, theme)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = (0..size.1).map(|y| {
        let line: String = (0..size.0).map(|x| buffer[(x, y)].symbol()).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Names of the lines of the tree, two spaces for each level.
fn names(state: &State) -> Vec<String> {
    let tree = &state.contents().unwrap().tree;
    let rows = state.rows.iter();
    rows.map(|node| {
        let name = String::from_utf8_lossy(tree.name(*node)).into_owned();
        format!("{}{name}", "  ".repeat(tree.depth(*node) - 1))
    })
    .collect()
}

#[test]
fn the_layers_are_there_before_the_files() {
    let size = (80, 20);
    let mut state = State::new(outline(2), size);
    assert!(state.read(1500) && !state.read(1500));
    insta::assert_snapshot!(screen(&state, size));
    state.failed("can't read the layer\ncaused by \x1b[2J".into());
    let shown = screen(&state, size);
    assert!(
        shown.contains("can't be read:") && shown.contains("\\x1b[2J"),
        "{shown}"
    );
}

#[test]
fn a_layer_with_what_it_did() {
    let size = (110, 24);
    let mut state = state(size);
    press(&mut state, "↓↓+⇥↓");
    insta::assert_snapshot!(screen(&state, size));
}

#[test]
fn one_side_where_both_have_no_room() {
    let size = (40, 16);
    let mut state = state(size);
    let layers = screen(&state, size);
    press(&mut state, "⇥");
    insta::assert_snapshot!(format!("{layers}\n{}", screen(&state, size)));
}

#[test]
fn any_size_is_drawn() {
    let mut state = state((80, 24));
    press(&mut state, "+");
    for keys in ["", "⇥", "w", "?", "?w/e", "⎋↓↓"] {
        press(&mut state, keys);
        for width in [0, 1, 10, 16, 17, 39, 69, 70, 71, 200] {
            for height in [0, 1, 4, 5, 6, 7, 13, 15, 16, 23, 60] {
                state.resized((width, height));
                screen(&state, (width, height));
            }
        }
    }
}

#[test]
fn folding_and_moving() {
    let mut state = state((80, 24));
    assert_eq!(names(&state), ["etc", "usr"]);
    press(&mut state, "⇥↓→");
    assert_eq!(names(&state), ["etc", "usr", "  lib", "  link"]);
    // Right again goes in, left goes up and folds.
    press(&mut state, "→ ");
    assert_eq!(state.rows.len(), 6);
    press(&mut state, "↓←");
    assert_eq!(state.files.at, 2);
    press(&mut state, "←←");
    assert_eq!(state.files.at, 1);
    press(&mut state, "←+");
    assert_eq!(state.rows.len(), 9);
    press(&mut state, "G");
    assert_eq!(state.files.at, 8);
    // What is folded away leaves its directory chosen.
    press(&mut state, "-");
    assert_eq!((state.files.at, state.rows.len()), (1, 2));
}

#[test]
fn filtering_sorting_and_changes() {
    let mut state = state((80, 24));
    press(&mut state, "/*.py");
    assert_eq!(names(&state), ["usr", "  lib", "    a.py"]);
    assert!(state.typing && state.focus == Focus::Files);
    assert_eq!((state.count, state.files.at), (1, 2));
    press(&mut state, "⌫⌫⌫⌫PASS");
    assert!(names(&state).is_empty());
    press(&mut state, "⌫⌫⌫⌫pass⏎");
    assert_eq!(names(&state), ["etc", "  passwd"]);
    // Folds while there is a filter are of their own.
    press(&mut state, "g⏎");
    assert_eq!(names(&state), ["etc"]);
    press(&mut state, "⎋");
    assert_eq!(
        (names(&state), state.quit),
        (vec!["etc".into(), "usr".into()], false)
    );
    press(&mut state, "s");
    assert_eq!(names(&state), ["usr", "etc"]);
    press(&mut state, "s]]c+");
    let changed = [
        "etc",
        "  e\x1b[31m<",
        "    script>",
        "  passwd",
        "old",
        "  data",
        "usr",
        "  link",
    ];
    assert_eq!(names(&state), changed);
    press(&mut state, "⎋");
    assert!(state.quit);
}

#[test]
fn what_is_wasted_leads_to_the_tree() {
    let size = (100, 20);
    let mut state = state(size);
    press(&mut state, "w");
    insta::assert_snapshot!(screen(&state, size));
    press(&mut state, "⏎");
    let contents = state.contents().unwrap();
    assert_eq!(state.shown, Shown::Files);
    assert_eq!(state.layer(), Some(1));
    let path = contents.tree.path(state.node().unwrap());
    assert_eq!(path.to_str(), Some("old/data"));
    press(&mut state, "w⎋");
    assert!(state.shown == Shown::Files && !state.quit);
}

#[test]
fn an_image_without_layers_and_keys_before_the_files() {
    let size = (80, 24);
    let mut state = State::new(outline(0), size);
    press(&mut state, "↓⇥↓→← ⏎+-sc]w⏎/x⏎⎋");
    state.done(Contents::of(&[], Spools::default(), 0).unwrap());
    press(&mut state, "↓⇥↓→← ⏎+-sc]w⏎/x⏎⎋");
    assert!(screen(&state, size).contains("nothing"));
    state.key(Key::Interrupt);
    assert!(state.quit);
}

#[test]
fn without_colours_the_letters_remain() {
    let size = (110, 24);
    let mut state = state(size);
    press(&mut state, "↓↓+");
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    let theme = Theme { colors: false };
    terminal.draw(|frame| draw(frame, &state, theme)).unwrap();
    let cells = &terminal.backend().buffer().content;
    let plain = ratatui::style::Color::Reset;
    assert!(cells.iter().all(|c| c.fg == plain && c.bg == plain));
    let shown = screen(&state, size);
    for mark in ["A -rws", "C -rws", "R drwx", "* drwx"] {
        assert!(shown.contains(mark), "{mark}\n{shown}");
    }
}

#[test]
fn instructions_on_one_line() {
    for (raw, shown) in [
        ("/bin/sh -c #(nop)  CMD [\"sh\"]", "CMD [\"sh\"]"),
        ("/bin/sh -c apt-get  update", "RUN apt-get update"),
        ("RUN /bin/sh -c a \\\n  b # buildkit", "RUN a \\ b"),
        ("COPY . / # shiplap", "COPY . /"),
        ("", ""),
    ] {
        assert_eq!(one_line(raw), shown);
    }
}
