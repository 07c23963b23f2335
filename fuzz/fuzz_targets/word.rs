//! Words: nothing panics, results are bounded, and one that has nothing to
//! expand stays as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shiplap::dockerfile::word::{MAX_EXPANSION, expand, expand_body, expand_words, has_variable};

fuzz_target!(|input: (&str, &str, &str)| {
    let (text, a, b) = input;
    let lookup = |name: &str| match name {
        "A" | "a" => Some(a.to_owned()),
        "B" | "b" => Some(b.to_owned()),
        _ => None,
    };
    for escape in ['\\', '`'] {
        if let Ok(expansion) = expand(text, escape, &lookup) {
            assert!(expansion.text.len() <= MAX_EXPANSION + 2 * text.len());
            let has_names = !expansion.used.is_empty() || !expansion.unset.is_empty();
            assert!(!has_names || has_variable(text));
            if !text.contains(['$', '\'', '"', escape]) {
                assert_eq!(expansion.text, text);
            }
        }
        if let Ok(words) = expand_words(text, escape, &lookup) {
            assert!(words.iter().all(|w| !w.is_empty()));
        }
    }
    if let Ok(expansion) = expand_body(text, &lookup)
        && !text.contains(['$', '\\'])
    {
        assert_eq!(expansion.text, text);
    }
});
