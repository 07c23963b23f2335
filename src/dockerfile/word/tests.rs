use super::*;

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "HOST" => "build.example.org",
        "DIR" => "/srv/app/data",
        "NONE" => "",
        "PAIR" => "left right",
        "GRÜN" => "ja",
        _ => return None,
    };
    Some(value.to_owned())
}

fn text(word: &str) -> Result<String, WordProblem> {
    expand(word, '\\', &lookup)
        .map(|e| e.text)
        .map_err(|e| e.problem)
}

#[test]
fn words_expand() {
    for (word, expected) in [
        ("", ""),
        ("plain", "plain"),
        ("$HOST", "build.example.org"),
        ("${HOST}:80", "build.example.org:80"),
        ("'$HOST'", "$HOST"),
        ("\"$HOST\"", "build.example.org"),
        ("\\$HOST", "$HOST"),
        ("\"\\$HOST \\x\"", "$HOST \\x"),
        ("a\\", "a"),
        ("$", "$"),
        ("$/", "$/"),
        ("$1$@x", "x"),
        ("$GRÜN!", "ja!"),
        ("${NONE-d}|${NONE:-d}|${MISSING-d}", "|d|d"),
        ("${NONE+d}|${NONE:+d}|${MISSING+d}|${HOST:+d}", "d|||d"),
        ("${HOST:?gone}${NONE?gone}", "build.example.org"),
        ("${A:-${B:-$HOST}}", "build.example.org"),
        ("${DIR#*/}|${DIR##*/}", "srv/app/data|data"),
        ("${DIR%/*}|${DIR%%/*}", "/srv/app|"),
        ("${DIR/a/A}|${DIR//a/A}", "/srv/App/data|/srv/App/dAtA"),
        ("${DIR//\\//:}", ":srv:app:data"),
        ("${HOST%.???}", "build.example"),
        ("${PAIR/ /$NONE}", "leftright"),
        ("${HOST//?/x}", "xxxxxxxxxxxxxxxxx"),
    ] {
        assert_eq!(text(word).as_deref(), Ok(expected), "{word}");
    }
}

#[test]
fn wrong_words_say_why() {
    for (word, expected) in [
        ("'a", WordProblem::OpenQuote('\'')),
        ("\"a", WordProblem::OpenQuote('"')),
        ("${", WordProblem::OpenBrace),
        ("${HOST", WordProblem::OpenBrace),
        ("${HOST:-a", WordProblem::OpenBrace),
        ("${}", WordProblem::NoName),
        ("${HOST/a}", WordProblem::NoReplacement),
        ("${HOST=a}", WordProblem::Operator("=".into())),
        ("${HOST:=a}", WordProblem::Operator(":=".into())),
        ("${HOST#a\\b}", WordProblem::Pattern("a\\b".into())),
    ] {
        assert_eq!(text(word), Err(expected), "{word}");
    }
    let error = expand("${MISSING:?set it}", '\\', &lookup).unwrap_err();
    assert_eq!(
        error.to_string(),
        "can't expand \"${MISSING:?set it}\": the variable MISSING is required: set it"
    );
    assert_eq!(error.unset, ["MISSING"]);
}

#[test]
fn another_escape_character_leaves_backslashes_alone() {
    let got = expand("C:\\dir`$HOST\\$HOST", '`', &lookup).unwrap();
    assert_eq!(got.text, "C:\\dir$HOST\\build.example.org");
}

#[test]
fn names_are_reported() {
    let got = expand("$B$HOST$A$B${HOST}", '\\', &lookup).unwrap();
    assert_eq!(got.used, ["HOST"]);
    assert_eq!(got.unset, ["B", "A"]);
}

#[test]
fn splitting_happens_after_expansion() {
    for (word, expected) in [
        ("$PAIR x", vec!["left", "right", "x"]),
        ("\"$PAIR\" x", vec!["left right", "x"]),
        ("  a\\ b  ", vec!["a b"]),
        ("$MISSING", vec![]),
    ] {
        assert_eq!(
            expand_words(word, '\\', &lookup).unwrap(),
            expected,
            "{word}"
        );
    }
}

#[test]
fn bodies_keep_their_quotes() {
    let got = expand_body("'$HOST' \"$NONE\" \\$HOST it's\n", &lookup).unwrap();
    assert_eq!(got.text, "'build.example.org' \"\" $HOST it's\n");
}

#[test]
fn growth_is_bounded() {
    let big = "x".repeat(1 << 16);
    let word = "$V".repeat(1000);
    let error = expand(&word, '\\', &|_: &str| Some(big.clone())).unwrap_err();
    assert_eq!(error.problem, WordProblem::Size);
    let error = expand("${V//x/$V}", '\\', &|_: &str| Some(big.clone())).unwrap_err();
    assert_eq!(error.problem, WordProblem::Size);
    let deep = "${a:-".repeat(100_000);
    let error = expand(&deep, '\\', &lookup).unwrap_err();
    assert_eq!(error.problem, WordProblem::Depth);
}

#[test]
fn heredoc_words_keep_everything() {
    assert_eq!(
        heredoc_words("RUN cat <<  'a b' 3<<-\"$X\" >f").unwrap(),
        ["RUN", "cat", "<<  'a b'", "3<<-\"$X\"", ">f"]
    );
    assert_eq!(heredoc_words("RUN echo it's <<EOF"), None);
}

#[test]
fn variables_are_seen() {
    for (text, expected) in [
        ("a$b", true),
        ("${b}", true),
        ("$1", true),
        ("$", false),
        ("a$/b", false),
        ("a$.$b", true),
    ] {
        assert_eq!(has_variable(text), expected, "{text}");
    }
}
