use super::super::parse;
use super::super::span::LineIndex;
use super::*;

fn found(text: &str, options: &LintOptions<'_>) -> (Vec<(Rule, u32, String)>, Option<String>) {
    let index = LineIndex::new(text);
    let report = lint(&parse(text).unwrap(), options);
    let warnings = report
        .warnings
        .into_iter()
        .map(|w| (w.rule, index.line_column(w.span.start).0, w.detail))
        .collect();
    (warnings, report.error.map(|e| e.message))
}

fn rules(text: &str) -> Vec<Rule> {
    let (found, error) = found(text, &LintOptions::default());
    assert_eq!(error, None, "{text}");
    found.into_iter().map(|(rule, ..)| rule).collect()
}

/// Examples may be parts of a file.
fn whole(example: &str) -> String {
    if example.contains("FROM ") {
        example.to_owned()
    } else {
        format!("FROM alpine\n{example}")
    }
}

#[test]
fn examples_show_what_they_are_for() {
    let ignored = |path: &str| path.ends_with(".log");
    let base = |name: &str| {
        let arch = if name == "amd64/alpine" {
            "amd64"
        } else {
            "arm64"
        };
        Some(BaseImage {
            platform: Some(format!("linux/{arch}")),
            ..BaseImage::default()
        })
    };
    for info in &RULES {
        let mut options = LintOptions {
            check: info.experimental.then_some("experimental=all"),
            ..LintOptions::default()
        };
        if info.rule == Rule::InvalidBaseImagePlatform {
            options.base = Some(&base);
            options.target_platform = Some("linux/arm64");
        }
        let bad_options = LintOptions {
            ignored: Some(&ignored),
            ..options
        };
        let hits = |text: &str, options| {
            let (found, _) = found(&whole(text), options);
            found.iter().any(|(rule, ..)| *rule == info.rule)
        };
        assert!(hits(info.bad, &bad_options), "{}", info.name);
        assert!(!hits(info.good, &options), "{}", info.name);
    }
}

#[test]
fn variables_have_their_scopes() {
    for (text, expected) in [
        (
            "ARG A=1\nFROM alpine\nCOPY $A /\n",
            vec![Rule::UndefinedVar],
        ),
        ("ARG A=1\nFROM alpine\nARG A\nCOPY $A /\n", vec![]),
        ("FROM alpine\nARG A\nCOPY $A /\n", vec![]),
        ("FROM alpine AS a\nENV A=1\nFROM a\nCOPY $A /\n", vec![]),
        (
            "FROM alpine AS a\nENV A=1\nFROM alpine\nCOPY $A /\n",
            vec![Rule::UndefinedVar],
        ),
        ("FROM alpine\nENV A=1 B=$A\n", vec![Rule::UndefinedVar]),
        ("FROM alpine\nRUN echo $A\nCMD [\"$A\"]\n", vec![]),
        (
            "FROM alpine\nCOPY $PATH $TARGETARCH /\n",
            vec![Rule::UndefinedVar],
        ),
        ("FROM alpine\nARG TARGETARCH\nCOPY $TARGETARCH /\n", vec![]),
        (
            "FROM alpine\nRUN --mount=target=$A true\n",
            vec![Rule::UndefinedVar],
        ),
        (
            "FROM alpine\nCOPY <<E <<'F' /x/\n$A\nE\n$B\nF\n",
            vec![Rule::UndefinedVar],
        ),
        (
            "FROM alpine AS a\nONBUILD COPY $A /\nFROM a\nFROM a\n",
            vec![Rule::UndefinedVar; 2],
        ),
    ] {
        assert_eq!(rules(text), expected, "{text}");
    }
}

#[test]
fn names_are_suggested() {
    let text = "ARG VERSION=1\nFROM alpine:$VERSIN\nARG SOURCE=.\nCOPY $SOUCE /\n";
    let (found, _) = found(text, &LintOptions::default());
    let details: Vec<&str> = found.iter().map(|(_, _, d)| d.as_str()).collect();
    assert_eq!(
        details[1..],
        [
            "FROM argument 'VERSIN' is not declared (did you mean VERSION?)",
            "Usage of undefined variable '$SOUCE' (did you mean $SOURCE?)",
        ][..details.len() - 1]
    );
}

#[test]
fn files_that_cannot_be_built_say_so() {
    for (text, expected) in [
        (
            "ARG A\nFROM $A\n",
            "the base image's name `$A` comes out empty",
        ),
        (
            "FROM Alpine\n",
            "`Alpine` is neither a stage nor an image's name",
        ),
        (
            "FROM --platform=x alpine\n",
            "--platform `x` is no platform",
        ),
        (
            "FROM alpine AS a\nCOPY --from=a x y\n",
            "the stage a takes files from itself",
        ),
        (
            "FROM alpine AS a\nCOPY --from=b x y\nFROM alpine AS b\n",
            "a takes files from a stage that comes after it",
        ),
        (
            "FROM alpine\nCOPY --from=7 x y\n",
            "there is no stage number 7",
        ),
        (
            "FROM alpine\nCOPY --from=$A x y\n",
            "--from can't have variables: `$A`",
        ),
        (
            "FROM alpine\nEXPOSE 80/x\n",
            "`80/x` is no port to expose: the protocol must be tcp, udp or sctp",
        ),
        (
            "FROM alpine\nENV A=${B:?none}\n",
            "can't expand \"${B:?none}\": the variable B is required: none",
        ),
        (
            "FROM alpine\nRUN --mount=tpye=bind x\n",
            "--mount has no key `tpye`",
        ),
        (
            "# check=skip\nFROM alpine\n",
            "the check option `skip` has no value",
        ),
    ] {
        let (_, error) = found(text, &LintOptions::default());
        assert_eq!(error.as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn only_needed_stages_count_where_asked_for() {
    let text =
        "FROM alpine AS a\nCOPY $A /\nFROM alpine AS b\nCOPY $B /\nFROM b\nCOPY --from=0 x y\n";
    let lines = |options: &LintOptions<'_>| -> Vec<u32> {
        found(text, options)
            .0
            .iter()
            .map(|(_, line, _)| *line)
            .collect()
    };
    assert_eq!(lines(&LintOptions::default()), [2, 4]);
    let target = |target| LintOptions {
        target: Some(target),
        ..LintOptions::default()
    };
    assert_eq!(lines(&target("B")), [4]);
    assert_eq!(lines(&target("2")), [2, 4]);
    let (_, error) = found(text, &target("c"));
    assert_eq!(error.as_deref(), Some("there is no stage `c`"));
}

#[test]
fn comments_and_options_silence() {
    let text = "FROM alpine\n# check=skip=UndefinedVar\nCOPY $A /\nCOPY $B /\n";
    assert_eq!(rules(text), [Rule::UndefinedVar]);
    let options = LintOptions {
        check: Some("skip=all;error=true"),
        ..LintOptions::default()
    };
    assert_eq!(found(text, &options).0, []);
    let failing = lint(
        &parse("# check=error=true\nFROM alpine as b\n").unwrap(),
        &LintOptions::default(),
    );
    assert!(failing.fails);
}

#[test]
fn doubling_values_are_stopped() {
    let mut text = String::from("FROM alpine\nENV a=xx\n");
    text.push_str(&"ENV a=$a$a\n".repeat(64));
    let (_, error) = found(&text, &LintOptions::default());
    assert!(error.is_some());
    let mut text = String::from("FROM alpine\nENV a=xx\n");
    text.push_str(&"ENV a=$a$a\n".repeat(18));
    text.push_str(&"ENV b=$a\n".repeat(10_000));
    let (_, error) = found(&text, &LintOptions::default());
    assert_eq!(
        error.as_deref(),
        Some("the file's variables expand to too much text")
    );
}
