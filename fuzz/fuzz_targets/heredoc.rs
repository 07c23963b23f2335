//! Directives, heredocs, continuations and triggers, put together from parts
//! so that files get past the first line.
//!
//! Input: directives, what follows `<<`, the body and the closing line, parted
//! by NUL; more parts are more heredocs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shiplap::dockerfile::ast::{Heredoc, InstructionKind, Source};
use shiplap::dockerfile::{parse, parse_trigger, print, same_but_spans};
use shiplap_fuzz::check_span;

fn check(heredoc: &Heredoc, text: &str) {
    check_span(heredoc.span, text);
    check_span(heredoc.end, text);
    assert!(heredoc.span.end <= heredoc.end.start);
    assert_eq!(heredoc.raw, text[heredoc.span.start..heredoc.span.end]);
    let close = &text[heredoc.end.start..heredoc.end.end];
    if heredoc.strip_tabs {
        assert_eq!(close.trim_start_matches('\t'), heredoc.name);
        assert!(heredoc.body.lines().all(|l| !l.starts_with('\t')));
    } else {
        assert_eq!(close, heredoc.name);
        assert_eq!(heredoc.body, heredoc.raw);
    }
}

fuzz_target!(|input: &str| {
    let mut parts = shiplap_fuzz::parts(input);
    let mut text = String::new();
    for directive in parts.next().unwrap_or_default().lines() {
        text.push_str("# ");
        text.push_str(directive);
        text.push('\n');
    }
    text.push_str("FROM scratch\n");
    let parts: Vec<&str> = parts.take(9).collect();
    for keyword in ["COPY <<", "RUN cat <<", "ONBUILD RUN <<"] {
        let mut instruction = String::from(keyword);
        let openings: Vec<&str> = parts.iter().step_by(3).copied().collect();
        instruction.push_str(&openings.join(" <<"));
        instruction.push_str(" /x\n");
        for bodies in parts.chunks(3) {
            for line in bodies.iter().skip(1) {
                instruction.push_str(line);
                instruction.push('\n');
            }
        }
        let text = format!("{text}{instruction}");
        if let Ok(file) = parse(&text) {
            let printed = print(&file);
            let again = parse(&printed).expect("what is printed parses");
            assert!(same_but_spans(&file, &again), "{printed}");
            for inner in file.stages.iter().flat_map(|s| &s.instructions) {
                match &inner.kind {
                    InstructionKind::Run(run) => {
                        run.heredocs.iter().for_each(|h| check(h, &text));
                    }
                    InstructionKind::Copy(copy) => {
                        for source in &copy.sources {
                            if let Source::Heredoc(heredoc) = source {
                                check(heredoc, &text);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        if let Ok(trigger) = parse_trigger(&instruction) {
            check_span(trigger.span, &instruction);
        }
    }
});
