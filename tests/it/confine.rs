//! What RUN steps may do and use: networks, limits, privileges, devices, and
//! the same by way of an OCI runtime.

use std::path::Path;

use crate::sandbox::{Ran, Sandbox, has, skip};

/// Ways to run a step that this machine has.
fn rungs() -> Vec<&'static str> {
    let mut rungs = vec!["namespaces"];
    match has("runc") || Path::new("/usr/sbin/runc").exists() {
        true => rungs.push("oci"),
        false => skip("--isolation=oci", "there is no runc"),
    }
    rungs
}

/// Whether this process may make control groups of the old kind.
fn has_cgroups(test: &str) -> bool {
    let probe = Path::new("/sys/fs/cgroup/pids/shiplap-test");
    let made = std::fs::create_dir(probe).is_ok();
    let _ = std::fs::remove_dir(probe);
    if !made {
        skip(test, "no control group can be made at /sys/fs/cgroup/pids");
    }
    made
}

/// This process' own: others may run the same test.
fn parent_group() -> String {
    format!("shiplap-it-{}", std::process::id())
}

fn groups() -> Vec<String> {
    let mounts = std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    mounts
        .flat_map(|m| {
            std::fs::read_dir(m.path().join(parent_group()))
                .into_iter()
                .flatten()
                .flatten()
        })
        .filter(|e| e.path().is_dir())
        .map(|e| e.path().display().to_string())
        .collect()
}

impl Sandbox {
    /// Runs a script as the only step, whatever comes of it.
    fn step(&self, run: &str, more: &[&str]) -> Ran {
        let context = self.context(
            "step",
            &[("Dockerfile", &format!("FROM base\nRUN {run}\n"))],
        );
        let mut args = vec!["build", "--progress", "plain", "--no-cache"];
        args.extend(more);
        args.push(&context);
        self.run(&args)
    }

    /// As [`step`](Self::step), with success; the lines it printed.
    fn prints(&self, run: &str, more: &[&str]) -> Vec<String> {
        let ran = self.step(run, more);
        assert_eq!(ran.code, Some(0), "{run} {more:?}: {}", ran.stderr);
        let lines = ran.stderr.lines().filter_map(|l| {
            let (time, line) = l.strip_prefix('#')?.split_once(' ')?.1.split_once(' ')?;
            time.parse::<f64>().ok().map(|_| line.to_owned())
        });
        lines.collect()
    }
}

#[test]
fn limits_hold_and_groups_go() {
    let Some(s) = Sandbox::with_base("limits_hold_and_groups_go") else {
        return;
    };
    if !has_cgroups("limits_hold_and_groups_go") {
        return;
    }
    let parent = &format!("--cgroup-parent=/{}", parent_group());
    for rung in rungs() {
        let isolation = format!("--isolation={rung}");
        let ran = s.step(
            "head -c 60000000 /dev/zero | tail -c 60000000 > /dev/null; exit 3",
            &[&isolation, parent, "-m", "24m", "--memory-swap=24m"],
        );
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("exit code 3"), "{rung}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("Killed") || ran.stderr.contains("memory"),
            "{}",
            ran.stderr
        );
        // The shell and nine more; the bomb cannot grow, and its parts go.
        let ran = s.step(
            "i=0; while [ $i -lt 30 ]; do sleep 987 & i=$((i+1)); done; exit 4",
            &[&isolation, parent, "--pids-limit=10"],
        );
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("fork"), "{rung}: {}", ran.stderr);
        assert_eq!(groups(), Vec::<String>::new(), "{rung}");
    }
    let ran = s.step("true", &["--cgroup-parent=../../x", "-m", "24m"]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("control group"),
        "{}",
        ran.stderr
    );
    for mount in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = std::fs::remove_dir(mount.path().join(parent_group()));
    }
}

#[test]
fn what_a_step_used_is_told() {
    let Some(s) = Sandbox::with_base("what_a_step_used_is_told") else {
        return;
    };
    let file = s.path("meta.json");
    let ran = s.step("true", &["--metadata-file", file.to_str().unwrap()]);
    assert!(ran.stderr.contains("(CPU 0."), "{}", ran.stderr);
    let text = std::fs::read_to_string(file).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let step = &value["shiplap.steps"][0];
    assert_eq!(step["name"], "[2/2] RUN true");
    assert!(
        step["peakMemoryBytes"].as_u64().unwrap() > 100_000,
        "{step}"
    );
    assert!(step["cpuSeconds"].as_f64().is_some(), "{step}");
}

#[test]
fn networks_are_apart() {
    let Some(s) = Sandbox::with_base("networks_are_apart") else {
        return;
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Busybox's nc ends with 0 when it was connected.
    let reach = format!(
        "(nc -w 2 127.0.0.1 {port} < /dev/null > /dev/null 2>&1 && echo reached) || echo apart; \
         ip link | grep -c ' UP\\|,UP'; grep -v '^#' /etc/resolv.conf | head -1"
    );
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let dns = ["--dns", "192.0.2.77", "--add-host", "here:192.0.2.5"];
    for rung in rungs() {
        let isolation = format!("--isolation={rung}");
        let on = |network: &str| s.prints(&reach, &[&isolation, network, dns[0], dns[1]]);
        assert_eq!(on("--network=host")[0], "reached", "{rung}");
        let none = on("--network=none");
        assert_eq!(none[0], "apart", "{rung}");
        assert_eq!(none[1], "1", "{rung}: only lo");
        assert!(none[2].contains("192.0.2.77"), "{none:?}");
        for helper in ["pasta", "slirp4netns"] {
            if !Path::new("/usr/bin").join(helper).exists() {
                skip("networks_are_apart", &format!("{helper} is not installed"));
                continue;
            }
            let network = format!("--network={helper}");
            let ran = s.step(&reach, &[&isolation, &network]);
            assert_eq!(ran.code, Some(0), "{helper}: {}", ran.stderr);
            assert!(ran.stderr.contains("apart"), "{helper}: {}", ran.stderr);
            assert!(
                !ran.stderr.lines().any(|l| l.ends_with("reached")),
                "{}",
                ran.stderr
            );
        }
    }
    let hosts = s.prints(
        "cat /etc/hosts; hostname",
        &[&dns[2..], &["--hostname=h1"]].concat(),
    );
    assert!(hosts.iter().any(|l| l == "192.0.2.5\there"), "{hosts:?}");
    assert_eq!(hosts.last().unwrap(), "h1");
    let asks = "--network=host true";
    let ran = s.step(asks, &["--network=none"]);
    assert!(
        ran.stderr.contains("--allow network.host"),
        "{}",
        ran.stderr
    );
    s.prints(asks, &["--network=none", "--allow", "network.host"]);
    s.prints("--network=none true", &[]);
}

#[test]
fn privileges_are_what_the_user_says() {
    let Some(s) = Sandbox::with_base("privileges_are_what_the_user_says") else {
        return;
    };
    let status = |name: &str, more: &[&str]| {
        let lines = s.prints(&format!("grep {name} /proc/self/status"), more);
        lines[0].split_whitespace().nth(1).unwrap().to_owned()
    };
    let profile = s.path("profile.json");
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["sethostname", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#;
    std::fs::write(&profile, json).unwrap();
    let profile = format!("seccomp={}", profile.display());
    for rung in rungs() {
        let rung = format!("--isolation={rung}");
        let with = |more: &[&str]| -> Vec<String> {
            [&[rung.as_str()], more]
                .concat()
                .iter()
                .map(|s| (*s).to_owned())
                .collect()
        };
        let status = |name: &str, more: &[&str]| {
            let all = with(more);
            status(name, &all.iter().map(String::as_str).collect::<Vec<_>>())
        };
        assert_eq!(status("CapBnd", &[]), "00000000a80425fb");
        assert_eq!(status("CapEff", &["--cap-drop=ALL"]), "0000000000000000");
        let some = ["--cap-drop=all", "--cap-add=CAP_CHOWN,net_raw"];
        assert_eq!(status("CapEff", &some), "0000000000002001");
        assert_eq!(status("NoNewPrivs", &[]), "0");
        assert_eq!(
            status("NoNewPrivs", &["--security-opt=no-new-privileges"]),
            "1"
        );
        assert_eq!(status("Seccomp:", &[]), "2");
        assert_eq!(
            status("Seccomp:", &["--security-opt", "seccomp=unconfined"]),
            "0"
        );
        let refused = s.prints(
            "mkdir /x 2>&1 || true",
            &[&rung, "--security-opt", &profile],
        );
        assert!(refused[0].contains("not supported"), "{refused:?}");
        let device = s.prints(
            "echo x > /dev/a/b && stat -c %t:%T /dev/a/b",
            &[&rung, "--device=/dev/null:/dev/a/b"],
        );
        assert_eq!(device, ["1:3"]);
        let insecure = "--security=insecure grep CapEff /proc/self/status | grep -qv a80425fb";
        s.prints(insecure, &[&rung, "--allow=security.insecure"]);
    }
    let ran = s.step(
        "true",
        &["--security-opt=apparmor=x", "--security-opt=label=type:y"],
    );
    let lsm = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if !lsm.contains("apparmor") {
        assert!(
            ran.code == Some(2) && ran.stderr.contains("no AppArmor"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_runtime_that_fails_says_why() {
    let Some(s) = Sandbox::with_base("a_runtime_that_fails_says_why") else {
        return;
    };
    let ran = s.step("true", &["--isolation=oci", "--runtime=/no/such/runtime"]);
    assert!(
        ran.code == Some(2) && ran.stderr.contains("no such file"),
        "{}",
        ran.stderr
    );
    if rungs().contains(&"oci") {
        let ran = s.step("[\"/nothing\"]", &["--isolation=oci"]);
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.stderr.contains("runc says:") && ran.stderr.contains("/nothing"),
            "{}",
            ran.stderr
        );
    }
    let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    if hybrid && has("crun") {
        let ran = s.step("true", &["--runtime=crun"]);
        assert!(
            ran.code == Some(1) && ran.stderr.contains("crun says:"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn mounts_are_the_same_for_every_rung() {
    let Some(s) = Sandbox::with_base("mounts_are_the_same_for_every_rung") else {
        return;
    };
    let context = s.context(
        "mounts",
        &[
            (
                "Dockerfile",
                "FROM base AS other\nRUN mkdir /d && echo stage > /d/f && ln -s /d/f /link\n\
                 FROM base\n\
                 RUN --mount=type=bind,target=/ctx,rw --mount=type=bind,from=other,source=/link,target=/etc/one \
                 --mount=type=bind,from=other,source=d,target=/dir,rw --mount=type=tmpfs,target=/t,size=1m \
                 --mount=type=secret,id=s,target=/a/b/s,mode=0440,uid=1000,gid=1001 \
                 --mount=type=secret,id=s,env=VALUE \
                 set -e; cat /ctx/x /etc/one /dir/f > /seen; echo no > /ctx/x; echo no > /dir/f; \
                 df -k /t | tail -1 | awk '{print $2}' >> /seen; stat -c '%a %u %g' /a/b/s >> /seen; \
                 echo ${#VALUE} >> /seen; touch /t/z\n",
            ),
            ("x", "context\n"),
        ],
    );
    std::fs::write(s.path("secret"), "12345").unwrap();
    let secret = format!("id=s,src={}", s.path("secret").display());
    let mut digests = Vec::new();
    for rung in rungs() {
        let isolation = format!("--isolation={rung}");
        let more = ["--no-cache", &isolation, "--secret", &secret];
        let seen = s.file_of(&context, &more, "seen");
        assert_eq!(
            seen, "context\nstage\nstage\n1024\n440 1000 1001\n5\n",
            "{rung}"
        );
        for left in [
            "ctx",
            "etc/one",
            "dir",
            "t",
            "a",
            "proc",
            "sys",
            "dev",
            "etc/hosts",
        ] {
            assert!(!s.path("out").join(left).exists(), "{rung}: {left} is left");
        }
        let epoch = [
            "--rewrite-timestamp",
            "--source-date-epoch=1700000000",
            "-q",
        ];
        let args = [&["build"], &more[..], &epoch, &[context.as_str()]].concat();
        digests.push(s.ok(&args));
    }
    assert!(digests.windows(2).all(|d| d[0] == d[1]), "{digests:?}");
    let text = std::fs::read_to_string(s.path("mounts/x")).unwrap();
    assert_eq!(text, "context\n");
}
