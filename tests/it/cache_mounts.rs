//! Cache mounts: who has them at the same time, what they begin with, and
//! `shiplap cache`.

use std::process::{Child, Stdio};

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, eventually};

fn sandbox(test: &str) -> Option<Sandbox> {
    Sandbox::with_base(&format!("cache_mounts::{test}"))
}

/// Ways to isolate: one that mounts, and one that moves.
const RUNGS: [&str; 2] = ["--isolation=namespaces", "--isolation=chroot"];

impl Sandbox {
    fn starts(&self, name: &str, rung: &str, run: &str) -> Child {
        let context = self.context(name, &[("Dockerfile", &format!("FROM base\nRUN {run}\n"))]);
        let mut build = self.command(&self.store());
        build.args(["build", "--progress=plain", "--no-cache", rung, &context]);
        build.stdout(Stdio::piped()).stderr(Stdio::piped());
        build.spawn().unwrap()
    }

    fn runs(&self, rung: &str, run: &str) -> Ran {
        ended(self.starts("step", rung, run))
    }

    fn mounts(&self) -> Vec<Value> {
        let text = self.ok(&["cache", "ls", "--format", "json"]);
        serde_json::from_str(&text).unwrap()
    }

    fn in_use(&self) -> bool {
        self.mounts().iter().any(|m| m["in_use"] == true)
    }
}

fn ended(build: Child) -> Ran {
    build.wait_with_output().unwrap().into()
}

fn works(ran: Ran) -> String {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.stderr
}

#[test]
fn two_builds_share_or_wait_or_have_their_own() {
    let Some(s) = sandbox("two_builds_share_or_wait_or_have_their_own") else {
        return;
    };
    // Both are in it, or neither ends well.
    let meet = |mine: &str, other: &str| {
        format!(
            "--mount=type=cache,id=meet,target=/m touch /m/{mine}; n=0; \
             until test -e /m/{other}; do sleep 0.05; n=$((n+1)); test $n -lt 400 || exit 1; done"
        )
    };
    let a = s.starts("a", RUNGS[0], &meet("a", "b"));
    let b = s.starts("b", RUNGS[0], &meet("b", "a"));
    works(ended(a));
    works(ended(b));
    for rung in RUNGS {
        // Never two at a time: the second would find the first's directory.
        let alone = "--mount=type=cache,id=alone,sharing=locked,target=/m \
                     mkdir /m/in && sleep 0.5 && rmdir /m/in";
        let both = [s.starts("a", rung, alone), s.starts("b", rung, alone)];
        for build in both {
            works(ended(build));
        }
        // The second gets a new one, and the one that is free again comes first.
        let id = format!("own{}", rung.len());
        let first = format!(
            "--mount=type=cache,id={id},sharing=private,target=/m echo first > /m/who; sleep 1.5"
        );
        let first = s.starts("a", rung, &first);
        assert!(eventually(|| s.in_use()));
        let look = format!(
            "--mount=type=cache,id={id},sharing=private,target=/m ls -A /m | grep . || echo emp''ty"
        );
        assert!(works(s.runs(rung, &look)).contains("empty"), "{rung}");
        works(ended(first));
        assert!(works(s.runs(rung, &look)).contains("who"), "{rung}");
        let own = s.mounts().into_iter().filter(|m| m["id"] == id.as_str());
        let own: Vec<Value> = own.collect();
        assert!(
            own.len() == 2 && own.iter().all(|m| m["sharing"] == "private"),
            "{own:?}"
        );
    }
}

#[test]
fn a_cache_begins_as_the_instruction_says() {
    let Some(s) = sandbox("a_cache_begins_as_the_instruction_says") else {
        return;
    };
    for rung in RUNGS {
        let file = "FROM base AS seed\nRUN mkdir -p /s/d && echo seed > /s/d/f\n\
            FROM base\n\
            RUN --mount=type=cache,target=/m,from=seed,source=/s cat /m/d/f && echo grown > /m/d/f\n\
            RUN --mount=type=cache,target=/m,from=seed,source=/s,readonly cat /m/d/f; (echo lost > /m/d/f) 2>/dev/null; true\n\
            RUN --mount=type=cache,target=/m,from=seed,source=/s cat /m/d/f\n\
            RUN --mount=type=cache,target=/o,uid=1000,gid=1001,mode=0750 stat -c '%u %g %a' /o\n\
            USER ana\n\
            RUN --mount=type=cache,target=/o,uid=1000,gid=1001,mode=0750 touch /o/f && stat -c %u /o/f\n\
            USER root\n\
            RUN --mount=type=cache,target=/p stat -c '%u %g %a' /p; ls -A /p | wc -l\n\
            RUN test ! -e /m && test ! -e /o && test ! -e /p\n";
        let context = s.context("ctx", &[("Dockerfile", file)]);
        let ran = s.build(&context, &["--no-cache", rung]);
        let lines = ran.stderr.lines().filter_map(|l| {
            let (time, line) = l.strip_prefix('#')?.split_once(' ')?.1.split_once(' ')?;
            time.parse::<f64>().ok().map(|_| line.to_owned())
        });
        let lines: Vec<String> = lines.collect();
        assert_eq!(
            lines,
            [
                "seed",
                "grown",
                "grown",
                "1000 1001 750",
                "1000",
                "0 0 755",
                "0"
            ],
            "{rung}: {}",
            ran.stderr
        );
        s.ok(&["cache", "rm", "--all"]);
    }
    let ran = s.runs(
        RUNGS[0],
        "--mount=type=cache,target=/m,from=base,source=/nothing true",
    );
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("/nothing"), "{}", ran.stderr);
}

#[test]
fn caches_are_listed_and_removed() {
    let Some(s) = sandbox("caches_are_listed_and_removed") else {
        return;
    };
    assert_eq!(s.mounts(), Vec::<Value>::new());
    works(s.runs(
        RUNGS[0],
        "--mount=type=cache,target=/a head -c 100000 /dev/zero > /a/f",
    ));
    works(s.runs(
        RUNGS[0],
        "--mount=type=cache,id=b,sharing=locked,target=/x touch /x/f",
    ));
    let mounts = s.mounts();
    assert_eq!(
        (&mounts[0]["id"], &mounts[1]["id"]),
        (&"/a".into(), &"b".into())
    );
    assert_eq!(
        (&mounts[0]["sharing"], &mounts[1]["sharing"]),
        (&"shared".into(), &"locked".into())
    );
    assert!(
        mounts[0]["bytes"].as_u64().unwrap() >= 100_000,
        "{mounts:?}"
    );
    assert_eq!(mounts[0]["in_use"], false);
    assert!(
        mounts[0]["last_used"].as_str().unwrap().ends_with('Z'),
        "{mounts:?}"
    );
    let table = s.ok(&["cache", "ls", "b"]);
    assert!(
        table.contains("locked") && table.contains("ago") && !table.contains("/a"),
        "{table}"
    );
    let df: Value = serde_json::from_str(&s.ok(&["df", "--format", "json"])).unwrap();
    assert_eq!(df["cache_mounts"]["count"], 2);
    // What a build has now stays.
    let busy = s.starts(
        "busy",
        RUNGS[0],
        "--mount=type=cache,id=b,target=/x sleep 3; test -e /x/f",
    );
    assert!(eventually(|| s.in_use()));
    let ran = s.run(&["cache", "rm", "--all"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(1), "/a\n"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("a running build has b"),
        "{}",
        ran.stderr
    );
    assert!(s.ok(&["cache", "ls"]).contains("now"));
    works(ended(busy));
    let ran = s.run(&["cache", "rm", "b", "nonsense"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    let key = s.mounts()[0]["key"].as_str().unwrap()[..12].to_owned();
    assert_eq!(s.ok(&["cache", "rm", &key]), "b");
    assert_eq!(s.mounts(), Vec::<Value>::new());
    works(s.runs(RUNGS[0], "--mount=type=cache,id=b,target=/x test ! -e /x/f"));
    s.ok(&["prune", "--all"]);
    assert_eq!(s.mounts(), Vec::<Value>::new());
}

#[test]
fn steps_side_by_side_make_mount_points_in_one_cache() {
    let Some(s) = Sandbox::with_base("steps_side_by_side_make_mount_points_in_one_cache") else {
        return;
    };
    for round in 0..4 {
        let mut file = String::new();
        let mut last = String::from("FROM base\n");
        for stage in 0..8 {
            file += &format!(
                "FROM base AS s{stage}\n\
                 RUN --mount=type=cache,id=a{round},target=/c \
                 --mount=type=cache,id=b{round},target=/c/d/e touch /c/{stage} /x\n"
            );
            last += &format!("COPY --from=s{stage} /x /x{stage}\n");
        }
        let context = s.context("ctx", &[("Dockerfile", &(file + &last))]);
        s.build(&context, &["--jobs", "8"]);
    }
}
