//! Words: nothing panics, results are bounded, and a slow model of the same
//! rules says the same.
//!
//! Input: the word, then values of `A` and `B`, parted by NUL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shiplap::dockerfile::word::{
    MAX_EXPANSION, WordProblem, expand, expand_body, expand_words, has_variable,
};
use shiplap_fuzz::word::{self, Outcome};

fuzz_target!(|input: &str| {
    let mut parts = shiplap_fuzz::parts(input);
    let text = parts.next().unwrap_or_default();
    let a = parts.next().map(str::to_owned);
    let b = parts.next().map(str::to_owned);
    let lookup = |name: &str| match name {
        "A" | "a" | "1" => a.clone(),
        "B" | "b" | "é" => b.clone(),
        _ => None,
    };
    for escape in ['\\', '`'] {
        let whole = expand(text, escape, &lookup);
        let words = expand_words(text, escape, &lookup);
        assert_eq!(whole.is_ok(), words.is_ok());
        let bounded = matches!(
            whole.as_ref().map_err(|e| &e.problem),
            Err(WordProblem::Depth | WordProblem::Size | WordProblem::PatternSize { .. })
        );
        if !bounded && let Some(model) = word::expand(text, escape, &lookup) {
            match (&model, &whole, &words) {
                (Outcome::Refused, Err(_), _) => {}
                (Outcome::Text(text, in_words), Ok(whole), Ok(words)) => {
                    assert_eq!(*text, whole.text);
                    if let Some(in_words) = in_words {
                        assert_eq!(in_words, words);
                    }
                }
                _ => panic!("{escape} {text:?}: {model:?}, {whole:?}"),
            }
        }
        if let Ok(expansion) = whole {
            assert!(expansion.text.len() <= MAX_EXPANSION + 2 * text.len());
            let has_names = !expansion.used.is_empty() || !expansion.unset.is_empty();
            assert!(!has_names || has_variable(text));
            if !text.contains(['$', '\'', '"', escape]) {
                assert_eq!(expansion.text, text);
            }
        }
        if let Ok(words) = words {
            assert!(words.iter().all(|w| !w.is_empty()));
        }
    }
    if let Ok(expansion) = expand_body(text, &lookup) {
        if !text.contains(['$', '\\']) {
            assert_eq!(expansion.text, text);
        }
        // Without quotes, a body is a word.
        if !text.contains(['\'', '"'])
            && let Ok(word) = expand(text, '\\', &lookup)
        {
            assert_eq!(expansion, word);
        }
    }
});
