//! Whole files: nothing panics, spans lie in the file and in order, and what
//! is printed parses to the same tree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shiplap::dockerfile::lint::{LintOptions, lint};
use shiplap::dockerfile::span::Span;
use shiplap::dockerfile::{dump, parse, print, same_but_spans};

fn check(span: Span, text: &str) {
    assert!(span.start <= span.end);
    assert!(text.get(span.start..span.end).is_some(), "{span:?}");
}

fuzz_target!(|text: &str| {
    let _ = dump(text);
    let file = match parse(text) {
        Ok(file) => file,
        Err(error) => return check(error.span, text),
    };
    let mut last = 0;
    let mut in_order = |span: Span| {
        check(span, text);
        assert!(span.start >= last);
        last = span.end;
    };
    file.global_args.iter().for_each(|i| in_order(i.span));
    for stage in &file.stages {
        in_order(stage.span);
        stage.instructions.iter().for_each(|i| in_order(i.span));
    }
    let printed = print(&file);
    let again = parse(&printed).expect("what is printed parses");
    assert!(same_but_spans(&file, &again), "{printed}");
    assert_eq!(print(&again), printed);

    let report = lint(&file, &LintOptions::default());
    report.warnings.iter().for_each(|w| check(w.span, text));
    if let Some(error) = report.error {
        check(error.span, text);
    }
});
