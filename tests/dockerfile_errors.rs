//! What is said of wrong Dockerfiles, as a table.

use std::fmt::Write as _;

use shiplap::dockerfile::lint::{LintOptions, lint};
use shiplap::dockerfile::span::LineIndex;
use shiplap::dockerfile::{self, ParseError};

const WRONG: &[&str] = &[
    // files
    "",
    "# only a comment\n",
    "ARG VERSION=1\n",
    "RUN make\nFROM alpine\n",
    "# escape=x\nFROM alpine\n",
    "# escape=`\n# escape=`\nFROM alpine\n",
    "# syntax=a\n# syntax=b\nFROM alpine\n",
    "FROM alpine\n\\\n",
    // instructions
    "FORM alpine\n",
    "FROM alpine\nRNU make\n",
    "FROM alpine\ncpoy a b\n",
    "FROM alpine\nRUN make\n    && make install\n",
    "FROM alpine\nRUN\u{a0}make\n",
    // FROM
    "FROM\n",
    "FROM alpine AS\n",
    "FROM alpine build\n",
    "FROM alpine AS build stage\n",
    "FROM alpine # the base\n",
    "FROM alpine AS 1st\n",
    "FROM alpine AS my/stage\n",
    "FROM --platfrom=linux/amd64 alpine\n",
    "FROM --platform linux/amd64 alpine\n",
    "FROM --platform=linux/amd64 --platform=linux/arm64 alpine\n",
    // ARG, ENV and LABEL
    "FROM alpine\nARG\n",
    "FROM alpine\nARG =1\n",
    "FROM alpine\nENV\n",
    "FROM alpine\nENV PATH\n",
    "FROM alpine\nENV =1\n",
    "FROM alpine\nENV A=1 B\n",
    "FROM alpine\nENV A=hello world\n",
    "FROM alpine\nLABEL\n",
    "FROM alpine\nLABEL a=b c\n",
    // RUN, CMD, ENTRYPOINT and SHELL
    "FROM alpine\nRUN --mnt=type=cache,target=/c make\n",
    "FROM alpine\nRUN --mount make\n",
    "FROM alpine\nRUN --mount=type=bind,from=$IMAGE,target=/x make\n",
    "FROM alpine\nRUN --mount=\\\"x make\n",
    "FROM alpine\nRUN --network=hots make\n",
    "FROM alpine\nRUN --security=none make\n",
    "FROM alpine\nRUN [\"make\", 1]\n",
    "FROM alpine\nCMD [[\"make\"]]\n",
    "FROM alpine\nCMD --help\n",
    "FROM alpine\nSHELL /bin/bash -c\n",
    "FROM alpine\nSHELL []\n",
    "FROM alpine\nRUN <<EOF\nmake\n",
    "FROM alpine\nRUN <<'EOF\nmake\nEOF\n",
    "FROM alpine\nRUN echo $((1 << 3))\n",
    // COPY and ADD
    "FROM alpine\nCOPY\n",
    "FROM alpine\nCOPY a\n",
    "FROM alpine\nADD [\"a\"]\n",
    "FROM alpine\nCOPY --form=build a b\n",
    "FROM alpine\nCOPY --unpack a b\n",
    "FROM alpine\nADD --from=build a b\n",
    "FROM alpine\nCOPY --link=maybe a b\n",
    "FROM alpine\nCOPY --chown a b\n",
    "FROM alpine\nCOPY a <<EOF\nx\nEOF\n",
    "FROM alpine\nCOPY << EOF /a\nx\nEOF\n",
    "FROM alpine\nCOPY <<A <<B /a/\nx\nA\n",
    // the others
    "FROM alpine\nEXPOSE\n",
    "FROM alpine\nVOLUME\n",
    "FROM alpine\nVOLUME [\"\"]\n",
    "FROM alpine\nVOLUME []\n",
    "FROM alpine\nUSER\n",
    "FROM alpine\nWORKDIR\n",
    "FROM alpine\nSTOPSIGNAL\n",
    "FROM alpine\nMAINTAINER\n",
    "FROM alpine\nHEALTHCHECK\n",
    "FROM alpine\nHEALTHCHECK CMD\n",
    "FROM alpine\nHEALTHCHECK NONE now\n",
    "FROM alpine\nHEALTHCHECK TCP 80\n",
    "FROM alpine\nHEALTHCHECK --intervall=5s CMD x\n",
    "FROM alpine\nHEALTHCHECK --interval=5 CMD x\n",
    "FROM alpine\nHEALTHCHECK --interval=1us CMD x\n",
    "FROM alpine\nHEALTHCHECK --retries=-1 CMD x\n",
    "FROM alpine\nONBUILD\n",
    "FROM alpine\nONBUILD ONBUILD RUN x\n",
    "FROM alpine\nONBUILD FROM alpine\n",
    "FROM alpine\nONBUILD RNU x\n",
    "FROM alpine\nONBUILD COPY a\n",
    // what shows only when variables and stages are looked at
    "FROM alpine:$VERSION AS Base\nFROM $NONE\n",
    "FROM Alpine\n",
    "FROM Scratch\n",
    "FROM alpine AS build\nFROM Build\n",
    "FROM alpine AS build\nFROM Buidl\n",
    "ARG VERSION=1\nFROM $VERSON\n",
    "ARG VERSION\nFROM $VERSION\n",
    "FROM alpine AS a\nONBUILD ENV A=${B:?}\nFROM a\n",
    "FROM --platform=linux//amd64 alpine\n",
    "FROM alpine AS a\nCOPY --from=a x y\n",
    "FROM alpine AS a\nCOPY --from=b x y\nFROM alpine AS b\n",
    "FROM alpine\nCOPY --from=1 x y\n",
    "FROM alpine\nCOPY --from=$STAGE x y\n",
    "FROM alpine\nENV A=${B\n",
    "FROM alpine\nENV A=${B:?}\n",
    "FROM alpine\nENV A='b\n",
    "FROM alpine\nENV A=${PATH:=b}\n",
    "FROM alpine\nRUN --mount=type=chache,target=/c make\n",
    "FROM alpine\nRUN --mount=type=cache,tagret=/c make\n",
    "FROM alpine\nRUN --mount=type=cache,target=/c,sharing=exclusive make\n",
    "FROM alpine\nRUN --mount=type=secret make\n",
    "FROM alpine\nEXPOSE 80/http\n",
    "FROM alpine\nEXPOSE 70000\n",
    "# check=skp=all\nFROM alpine\n",
];

fn error(text: &str) -> Option<ParseError> {
    match dockerfile::parse(text) {
        Err(error) => Some(error),
        Ok(file) => lint(&file, &LintOptions::default()).error,
    }
}

#[test]
fn wrong_files_are_explained() {
    let mut out = String::new();
    for text in WRONG {
        let Some(error) = error(text) else {
            panic!("nothing is said of {text:?}");
        };
        assert!(error.span.start <= error.span.end && error.span.end <= text.len());
        let (line, column) = LineIndex::new(text).line_column(error.span.start);
        let there = text.get(error.span.start..error.span.end).unwrap();
        writeln!(
            out,
            "{text:?}\n  {line}:{column} {}\n  at {there:?}",
            error.message
        )
        .unwrap();
        if let Some(hint) = &error.hint {
            writeln!(out, "  hint: {hint}").unwrap();
        }
        out.push('\n');
    }
    insta::assert_snapshot!(out);
}

#[test]
fn a_line_has_a_limit() {
    let text = format!("FROM alpine\nRUN {}\n", "x".repeat(65_532));
    let error = dockerfile::parse(&text).unwrap_err();
    assert_eq!(error.message, "the line is longer than 65535 bytes");
    let text = format!("FROM alpine\nRUN {}\n", "x".repeat(65_531));
    assert!(dockerfile::parse(&text).is_ok());
}

#[test]
fn a_file_has_a_limit() {
    let text = |count: usize| format!("FROM a\n{}", "USER x\n".repeat(count));
    assert!(dockerfile::parse(&text(99_999)).is_ok());
    let error = dockerfile::parse(&text(100_000)).unwrap_err();
    assert!(error.message.contains("more than 100000 instructions"));
    assert_eq!(
        LineIndex::new(&text(100_000))
            .line_column(error.span.start)
            .0,
        100_001
    );
}
