//! The renderers over recorded events.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shiplap::event::{Event, Outcome, Stream};

use super::{Renderer, json::Json, plain::Plain, quiet::Quiet, tty::Tty};

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn started(id: u32, name: &str) -> Event {
    let name = name.into();
    Event::Started { id, name }
}

fn log(id: u32, line: &[u8]) -> Event {
    Event::Log {
        id,
        stream: Stream::Stdout,
        line: line.into(),
    }
}

fn progress(id: u32, done: u64) -> Event {
    Event::Progress {
        id,
        item: "sha256:0123".into(),
        done,
        total: Some(2_000_000),
    }
}

fn finished(id: u32, outcome: Outcome, seconds: f64) -> Event {
    Event::Finished {
        id,
        outcome,
        seconds,
        usage: None,
    }
}

fn warning(message: &str) -> Event {
    Event::Warning {
        rule: Some("StageNameCasing".into()),
        message: message.into(),
        line: Some(3),
    }
}

/// A build with everything in it, with milliseconds.
fn build() -> Vec<(u64, Event)> {
    vec![
        (0, started(1, "[base 1/1] FROM busy\x1bbox")),
        (10, progress(1, 500_000)),
        (20, progress(1, 700_000)),
        (30, warning("stage 'A' is upper case")),
        (31, warning("stage 'A' is upper case")),
        (6000, progress(1, 1_000_000)),
        (6100, progress(1, 2_000_000)),
        (6100, finished(1, Outcome::Done, 6.1)),
        (6100, started(2, "[build 1/2] COPY . /")),
        (6101, finished(2, Outcome::Cached, 0.001)),
        (6102, started(3, "[build 2/2] RUN make")),
        (6302, log(3, b"cc \x1b[31mmain\x1b[0m.c\x1b]0;t\x07")),
        (6400, log(3, b"\xff")),
        (6402, started(4, "[docs 1/1] RUN doc")),
        (6500, Event::Note("no space left soon".into())),
        (
            6602,
            finished(3, Outcome::Failed("exit code: 2".into()), 0.5),
        ),
        (6603, finished(4, Outcome::Cancelled, 0.2)),
    ]
}

fn show(mut renderer: impl Renderer) {
    for (at, event) in build() {
        renderer.event(Duration::from_millis(at), event);
        renderer.tick(Duration::from_millis(at));
    }
    renderer.finish(Duration::from_millis(7000));
}

#[test]
fn plain() {
    let buffer = Buffer::default();
    show(Plain::new(Box::new(buffer.clone()), true));
    insta::assert_snapshot!(buffer.text().replace('\x1b', "ESC"), @r"
    #1 [base 1/1] FROM busy\x1bbox
    #1 sha256:0123 500kB / 2MB
    warning: line 3: stage 'A' is upper case [StageNameCasing]
    #1 sha256:0123 1MB / 2MB
    #1 sha256:0123 2MB / 2MB
    #1 DONE 6.1s

    #2 [build 1/2] COPY . /
    #2 CACHED

    #3 [build 2/2] RUN make
    #3 0.200 cc ESC[31mmainESC[0m.cESC[0m
    #3 0.298 �
    #4 [docs 1/1] RUN doc
    note: no space left soon
    #3 ERROR exit code: 2

    #4 CANCELED
    ");
    let raw = Buffer::default();
    show(Plain::new(Box::new(raw.clone()), false));
    let raw = raw.0.lock().unwrap().clone();
    let kept = b"#3 0.200 cc \x1b[31mmain\x1b[0m.c\x1b]0;t\x07\n#3 0.298 \xff\n";
    assert!(raw.windows(kept.len()).any(|w| w == kept));
}

#[test]
fn json() {
    let buffer = Buffer::default();
    show(Json::new(Box::new(buffer.clone())));
    let text = buffer.text();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["type"].is_string() && value["at"].is_number());
    }
    insta::assert_snapshot!(text, @r#"
    {"at":0.0,"type":"begin","version":1}
    {"at":0.0,"id":1,"name":"[base 1/1] FROM busy\u001bbox","type":"started"}
    {"at":0.01,"done":500000,"id":1,"item":"sha256:0123","total":2000000,"type":"progress"}
    {"at":0.02,"done":700000,"id":1,"item":"sha256:0123","total":2000000,"type":"progress"}
    {"at":0.03,"line":3,"message":"stage 'A' is upper case","rule":"StageNameCasing","type":"warning"}
    {"at":6.0,"done":1000000,"id":1,"item":"sha256:0123","total":2000000,"type":"progress"}
    {"at":6.1,"done":2000000,"id":1,"item":"sha256:0123","total":2000000,"type":"progress"}
    {"at":6.1,"error":null,"id":1,"outcome":"done","seconds":6.1,"type":"finished"}
    {"at":6.1,"id":2,"name":"[build 1/2] COPY . /","type":"started"}
    {"at":6.101,"error":null,"id":2,"outcome":"cached","seconds":0.001,"type":"finished"}
    {"at":6.102,"id":3,"name":"[build 2/2] RUN make","type":"started"}
    {"at":6.302,"id":3,"stream":"stdout","text":"cc \u001b[31mmain\u001b[0m.c\u001b]0;t\u0007","type":"log"}
    {"at":6.4,"base64":"/w==","id":3,"stream":"stdout","text":"�","type":"log"}
    {"at":6.402,"id":4,"name":"[docs 1/1] RUN doc","type":"started"}
    {"at":6.5,"message":"no space left soon","type":"note"}
    {"at":6.602,"error":"exit code: 2","id":3,"outcome":"failed","seconds":0.5,"type":"finished"}
    {"at":6.603,"error":null,"id":4,"outcome":"cancelled","seconds":0.2,"type":"finished"}
    "#);
}

#[test]
fn quiet() {
    let buffer = Buffer::default();
    show(Quiet::new(Box::new(buffer.clone())));
    insta::assert_snapshot!(buffer.text(), @r"
    [build 2/2] RUN make:
      | cc main.c
      | �
    ");
}

/// A terminal that understands what the renderer sends.
fn screen(text: &str) -> String {
    let mut rows: Vec<String> = vec![String::new()];
    let mut row = 0;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                row += 1;
                if rows.len() == row {
                    rows.push(String::new());
                }
            }
            '\r' => {}
            '\x1b' => {
                let sequence: String = chars
                    .by_ref()
                    .take_while(|c| *c != 'A' && *c != 'J')
                    .collect();
                match sequence.strip_prefix('[').unwrap() {
                    "" => {
                        rows.truncate(row + 1);
                        rows[row].clear();
                    }
                    up => row -= up.parse::<usize>().unwrap(),
                }
            }
            c => {
                rows[row].push(c);
            }
        }
    }
    rows.join("\n")
}

#[test]
fn tty_collapses_what_is_finished() {
    let buffer = Buffer::default();
    show(Tty::new(
        Box::new(buffer.clone()),
        Box::new(|| (60, 24)),
        false,
    ));
    insta::assert_snapshot!(screen(&buffer.text()), @r"
    warning: line 3: stage 'A' is upper case [StageNameCasing]
    => [base 1/1] FROM busy\x1bbox                         6.1s
    => CACHED [build 1/2] COPY . /
    note: no space left soon
    => ERROR [build 2/2] RUN make                          0.5s
       | cc main.c
       | �
       exit code: 2
    => CANCELED [docs 1/1] RUN doc
    ");
}

#[test]
fn tty_shows_what_runs() {
    let buffer = Buffer::default();
    let mut tty = Tty::new(Box::new(buffer.clone()), Box::new(|| (40, 12)), false);
    for (at, event) in build().into_iter().take(14) {
        tty.event(Duration::from_millis(at), event);
    }
    for line in 0..100_u32 {
        tty.event(
            Duration::from_millis(6410),
            log(3, line.to_string().as_bytes()),
        );
    }
    tty.tick(Duration::from_millis(7000));
    insta::assert_snapshot!(screen(&buffer.text()), @r"
    warning: line 3: stage 'A' is upper case [StageNameCasing]
    => [base 1/1] FROM busy\x1bbox     6.1s
    => CACHED [build 1/2] COPY . /
    7.0s  2 running, 2 done
    => [build 2/2] RUN make            0.9s
       | 94
       | 95
       | 96
       | 97
       | 98
       | 99
    => [docs 1/1] RUN doc              0.6s
    ");
    for id in 10..60 {
        tty.event(
            Duration::from_millis(7001),
            started(id, &"日本語".repeat(20)),
        );
    }
    assert!(tty.drawn.iter().all(|width| *width < 40));
    let before = buffer.text().len();
    tty.tick(Duration::from_millis(8000));
    let last = buffer.text().split_off(before);
    assert!(last.lines().count() < 12, "{last}");
}

#[test]
fn names_and_messages_can_t_reach_the_terminal() {
    let evil = "\x1b]52;c;aGk=\x07\u{9b}2J";
    let events = || {
        vec![
            started(1, evil),
            warning(evil),
            Event::Note(evil.into()),
            Event::Progress {
                id: 1,
                item: evil.into(),
                done: 1,
                total: None,
            },
            log(1, evil.as_bytes()),
            finished(1, Outcome::Failed(evil.into()), 0.0),
        ]
    };
    let buffer = Buffer::default();
    let out = || Box::new(buffer.clone());
    let renderers: [Box<dyn Renderer>; 4] = [
        Box::new(Plain::new(out(), true)),
        Box::new(Json::new(out())),
        Box::new(Quiet::new(out())),
        Box::new(Tty::new(out(), Box::new(|| (80, 24)), false)),
    ];
    for mut renderer in renderers {
        for event in events() {
            renderer.event(Duration::ZERO, event);
        }
        renderer.finish(Duration::ZERO);
    }
    let text = buffer.text();
    assert!(!text.contains("\x1b]") && !text.contains('\u{9b}') && !text.contains('\x07'));
}

#[test]
fn a_storm_of_logs_takes_bounded_memory() {
    let ui = super::Ui::start(super::Progress::Quiet, false).unwrap();
    let task = ui.events().start("storm");
    for _ in 0..200_000 {
        task.log(Stream::Stderr, vec![b'x'; 100]);
    }
    task.finish(Outcome::Done);
    drop(ui);
}

#[test]
fn what_a_command_used_is_told() {
    let usage = shiplap::event::Usage {
        cpu_seconds: 0.75,
        peak_memory_bytes: 12_300_000,
    };
    let events = [
        started(1, "RUN make"),
        Event::Finished {
            id: 1,
            outcome: Outcome::Done,
            seconds: 1.0,
            usage: Some(usage),
        },
    ];
    let shown = |make: &dyn Fn(Buffer) -> Box<dyn Renderer>| {
        let buffer = Buffer::default();
        let mut renderer = make(buffer.clone());
        for event in events.clone() {
            renderer.event(Duration::ZERO, event);
        }
        drop(renderer);
        buffer.text()
    };
    let plain = shown(&|b| Box::new(Plain::new(Box::new(b), false)));
    assert!(plain.contains("#1 DONE 1.0s (CPU 0.8s, 12.3MB)"), "{plain}");
    let json = shown(&|b| Box::new(Json::new(Box::new(b))));
    assert!(json.contains(r#""cpuSeconds":0.75"#), "{json}");
    assert!(json.contains(r#""peakMemoryBytes":12300000"#), "{json}");
}
