//! One result, whatever isolates the steps and whatever their root
//! filesystems are made of.

use crate::sandbox::{Ran, Sandbox};
use crate::ways::{self, Way};

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

/// What package managers do: unpack under other names and rename, replace
/// links and directories, keep lists, remove what they needed for a while.
const PACKAGES: &str = r#"FROM base
RUN --mount=type=cache,target=/var/cache/apt --mount=type=tmpfs,target=/var/tmp \
    set -e; mkdir -p /var/lib/dpkg/info /usr/share/doc/a /usr/lib/a && cd /var/tmp && \
    mkdir -p p/usr/bin p/usr/lib/a p/etc/a.d && echo code > p/usr/bin/a && chmod 755 p/usr/bin/a && \
    ln -s a p/usr/bin/b && ln p/usr/bin/a p/usr/bin/c && echo set > p/etc/a.d/conf && \
    tar -cf /var/cache/apt/a.tar -C p . && cd / && tar -xf /var/cache/apt/a.tar && \
    for i in 1 2 3 4 5 6 7 8 9; do echo $i > /usr/lib/a/lib.so.$i.new && mv /usr/lib/a/lib.so.$i.new /usr/lib/a/lib.so.$i; done && \
    ln -s lib.so.9 /usr/lib/a/lib.so && find /usr > /var/lib/dpkg/info/a.list && \
    echo 'daemon:x:2:2::/:/bin/false' >> /etc/passwd && head -c 300000 /dev/zero > /usr/lib/a/zero
RUN rm /usr/lib/a/lib.so.1 && mv /usr/lib/a /usr/lib/b && ln -s b /usr/lib/a && \
    rm /usr/bin/b && mkdir /usr/bin/b && touch /usr/bin/b/x && chmod 2775 /usr/bin/b && \
    mkdir -m 700 "/etc/with space" "/etc/Zürich" && touch "/etc/with space/$(printf 'a\nb')" && \
    touch /etc/$(head -c 200 /dev/zero | tr '\0' n) && rm -r /var/lib/dpkg/info && rm -rf /etc/a.d
RUN rm /usr/lib/a && mkdir /usr/lib/a && echo new > /usr/lib/a/lib.so && rm -r /usr/lib/b && \
    cp -a /etc/passwd /etc/passwd- && mknod /run-pipe p && chmod 1777 /usr/share/doc
"#;

impl Way {
    /// Builds all files in the way's store.
    fn images(&self, s: &Sandbox, files: &[&str]) -> Vec<String> {
        let secret = format!("id=s,src={}", s.path("secret").display());
        let build = |file: &&str| {
            let args = ["-q", "--rewrite-timestamp", "--secret", &secret];
            let mut command = self.command(s);
            command.env("SOURCE_DATE_EPOCH", "1600000000");
            let ran: Ran = command
                .args(self.words(s, file, &args))
                .output()
                .unwrap()
                .into();
            assert_eq!(ran.code, Some(0), "{} {file}\n{}", self.name, ran.stderr);
            let tmp = std::fs::read_dir(self.store(s).join("tmp"))
                .unwrap()
                .count();
            assert_eq!(tmp, 0, "{} {file}", self.name);
            format!("{file} {}", ran.stdout.trim())
        };
        files.iter().map(build).collect()
    }
}

#[test]
fn every_isolation_gives_the_same_layers() {
    const NAME: &str = "every_isolation_gives_the_same_layers";
    let Some((s, ways)) = ways::all(NAME) else {
        return;
    };
    std::fs::write(s.path("secret"), "hush\n").unwrap();
    ways::open(&s.path("secret"), 0o644);
    let all = [
        ("files", FILES),
        ("users", USERS),
        ("mounts", MOUNTS),
        ("packages", PACKAGES),
        ("owners", OWNERS),
    ];
    for (name, text) in all {
        s.context(name, &[("Dockerfile", text), ("sub/y", "why\n")]);
    }
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    // In stores of their own: the cache mount has a life of its own.
    let by_directory = ways.iter().filter_map(|way| {
        let name = match way.name {
            "namespaces" => "namespaces-directory",
            "single" => "single-directory",
            "ranges" => "ranges-directory",
            _ => return None,
        };
        let args = &["--isolation=namespaces", "--snapshot=directory"];
        let way = Way { name, args, ..*way };
        way.prepare(&s);
        Some(way)
    });
    let mut first: Option<Vec<String>> = None;
    for way in ways.iter().cloned().chain(by_directory) {
        let count = names.len() - usize::from(!way.keeps_owners());
        let built = way.images(&s, &names[..count]);
        let first = first.get_or_insert_with(|| built.clone());
        assert_eq!(built, first[..count], "{}", way.name);
    }
}
