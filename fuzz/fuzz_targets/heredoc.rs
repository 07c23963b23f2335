//! Directives, heredocs, continuations and triggers, put together from parts
//! so that files get past the first line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shiplap::dockerfile::{parse, parse_trigger, print, same_but_spans};

fuzz_target!(|parts: (Vec<&str>, bool, &str, &str, &str)| {
    let (directives, is_copy, opening, body, end) = parts;
    let mut text = String::new();
    for directive in directives {
        text.push_str("# ");
        text.push_str(directive);
        text.push('\n');
    }
    text.push_str("FROM scratch\n");
    let keyword = if is_copy { "COPY <<" } else { "RUN cat <<" };
    let instruction = format!("{keyword}{opening} /x\n{body}\n{end}\n");
    text.push_str(&instruction);
    if let Ok(file) = parse(&text) {
        let printed = print(&file);
        let again = parse(&printed).expect("what is printed parses");
        assert!(same_but_spans(&file, &again), "{printed}");
    }
    if let Ok(trigger) = parse_trigger(&instruction) {
        assert!(trigger.span.end <= instruction.len());
    }
});
