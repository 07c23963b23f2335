//! One result, whatever isolates the steps and whatever their root
//! filesystems are made of.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::sandbox::{Ran, Sandbox, skip};

/// A user with one id of its own only.
const NOBODY_ELSE: u32 = 64_123;

const FILES: &str = r#"FROM base
RUN mkdir -p /a/b /c && echo 1 > /a/b/1 && echo 2 > /a/b/2 && ln /a/b/1 /c/hard && \
    ln -s ../a /c/link && mkfifo /c/pipe && chmod 4711 /a/b/2 && touch -d @1000000000 /a/b/old
RUN echo more >> /c/hard; rm /a/b/2; mv /a/b/1 /a/moved; mv /c /d; chmod 750 /a; cp /etc/passwd /a
RUN rm -rf /a && ln -s d /a && rm /bin/vi && chmod 700 /tmp && sed -i s/ana/eva/ /etc/passwd
RUN rm -rf /d && mkdir /d && touch /d/new && touch /etc/group
COPY Dockerfile sub /d/
WORKDIR /d/work
RUN pwd > where; rm ../Dockerfile; rmdir /root
RUN true
RUN touch /d/new && chmod 600 /d/new && ln /d/new /d/newer
RUN echo 1 >> /d/newer; mkdir -p /etc/deep/er; cat /etc/resolv.conf /etc/hosts > /dev/null
FROM base
COPY --from=0 /d /copied
RUN ls -la /copied > /dev/null && rm -r /copied/work
"#;

const USERS: &str = r#"FROM base
USER ana
RUN id -u > /tmp/id && id -g >> /tmp/id && mkdir /tmp/own && echo x > /tmp/own/x && echo $HOME > /tmp/home
RUN echo y >> /tmp/own/x
USER root
RUN cat /tmp/own/x > /root/x
"#;

const MOUNTS: &str = r#"FROM base AS other
RUN mkdir /src && echo from > /src/file
FROM base
RUN mkdir /covered && echo below > /covered/file
RUN --mount=type=bind,source=sub,target=/ctx --mount=type=bind,from=other,source=/src,target=/covered,rw \
    --mount=type=tmpfs,target=/not/there --mount=type=secret,id=s,mode=444 \
    --mount=type=secret,id=s,target=/etc/secret --mount=type=cache,target=/var/cache/x \
    --mount=type=bind,source=Dockerfile,target=/one/file \
    cat /ctx/y /covered/file /run/secrets/s /etc/secret > /out && echo z > /covered/file && \
    echo t > /not/there/t && echo c >> /var/cache/x/c && test -s /one/file
RUN cat /covered/file >> /out; for f in /ctx /not /run /etc/secret /one /var; do test ! -e $f || exit 9; done
RUN --mount=type=cache,target=/var/cache/x wc -l < /var/cache/x/c >> /out
"#;

/// Only where owners can be kept.
const OWNERS: &str = r#"FROM base
RUN mkdir /o && echo 1 > /o/1 && chown -R 7:8 /o && chown -h 9:9 /bin/vi
RUN echo 2 >> /o/1; chmod 640 /o/1; chgrp 5 /etc/passwd
"#;

struct Way {
    name: &'static str,
    args: &'static [&'static str],
    uid: u32,
}

impl Way {
    /// Builds all files in a store of its own.
    fn build(&self, s: &Sandbox, program: &PathBuf, files: &[&str]) -> Vec<String> {
        let dir = s.path(self.name);
        std::fs::create_dir(&dir).unwrap();
        chown(&dir, Some(self.uid), Some(self.uid)).unwrap();
        let run = |args: &[&str]| -> Ran {
            let mut command = Command::new(program);
            command.uid(self.uid).gid(self.uid).current_dir(&dir);
            command
                .env("HOME", &dir)
                .env("SOURCE_DATE_EPOCH", "1600000000");
            command.arg("--root").arg(dir.join("store")).args(args);
            let ran: Ran = command.output().unwrap().into();
            assert_eq!(ran.code, Some(0), "{} {args:?}\n{}", self.name, ran.stderr);
            ran
        };
        run(&["import", s.path("base.tar").to_str().unwrap(), "base"]);
        let secret = format!("id=s,src={}", s.path("secret").display());
        files
            .iter()
            .map(|file| {
                let context = s.path(file);
                let mut args = vec!["build", "-q", "--rewrite-timestamp", "--secret", &secret];
                args.extend(self.args);
                args.push(context.to_str().unwrap());
                let built = run(&args).stdout;
                let tmp = std::fs::read_dir(dir.join("store/tmp")).unwrap().count();
                assert_eq!(tmp, 0, "{}", self.name);
                format!("{file} {}", built.trim())
            })
            .collect()
    }
}

#[test]
fn every_isolation_gives_the_same_layers() {
    const NAME: &str = "every_isolation_gives_the_same_layers";
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let open = |path: PathBuf, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(s.path(""), 0o755);
    open(s.path("base.tar"), 0o644);
    std::fs::write(s.path("secret"), "hush\n").unwrap();
    open(s.path("secret"), 0o644);
    let program = s.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_shiplap"), &program).unwrap();
    let all = [
        ("files", FILES),
        ("users", USERS),
        ("mounts", MOUNTS),
        ("owners", OWNERS),
    ];
    for (name, text) in all {
        s.context(name, &[("Dockerfile", text), ("sub/y", "why\n")]);
    }
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let way = |name, args, uid| Way { name, args, uid };
    let first = way("overlay", &["--isolation=namespaces"], 0).build(&s, &program, &names);
    let mut ways = vec![
        way("directory", &["--snapshot=directory"], 0),
        way("chroot", &["--isolation=chroot"], 0),
        way("one-id", &["--isolation=namespaces"], NOBODY_ELSE),
        way(
            "one-id-directory",
            &["--isolation=namespaces", "--snapshot=directory"],
            NOBODY_ELSE,
        ),
    ];
    if crate::sandbox::has("proot") {
        ways.push(way("proot", &["--isolation=proot"], NOBODY_ELSE));
    } else {
        skip(NAME, "there is no proot to compare");
    }
    for way in ways {
        let count = if way.uid == 0 {
            names.len()
        } else {
            names.len() - 1
        };
        let built = way.build(&s, &program, &names[..count]);
        assert_eq!(built, first[..count], "{}", way.name);
    }
}
