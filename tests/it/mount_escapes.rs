//! RUN's mounts as a way out: sources, targets and shared caches that are
//! links, or become links while others use them. Nothing of them may lead to
//! the host's files.

use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;

use crate::sandbox::{Ran, Sandbox};
use crate::ways::{self, Way};

/// What a directory of the host holds, to be compared.
fn listing(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.path().symlink_metadata().unwrap();
        let content = match meta.is_file() {
            true => std::fs::read_to_string(entry.path()).unwrap(),
            false => String::new(),
        };
        let (mode, uid, mtime) = (meta.mode(), meta.uid(), meta.mtime_nsec());
        all.push(format!(
            "{:?} {mode:o} {uid} {mtime} {content}",
            entry.path()
        ));
        if meta.is_dir() {
            all.extend(listing(&entry.path()));
        }
    }
    all
}

/// Builds, with everything outside in reach of whoever gets there.
struct Trial<'a> {
    s: &'a Sandbox,
    way: &'a Way,
    out: &'a Path,
}

impl Trial<'_> {
    /// Builds `file`, in which `@` stands for the directory outside, and
    /// expects that outside all is as before, whatever came of it.
    fn build(&self, file: &str) -> Ran {
        let context = self.s.path("ctx");
        let text = file.replace("@", &self.out.display().to_string());
        std::fs::write(context.join("Dockerfile"), &text).unwrap();
        std::fs::write(self.out.join("canary"), "of the host").unwrap();
        let before = listing(self.out);
        let ran = self.way.build(self.s, "ctx", &[]);
        assert_eq!(listing(self.out), before, "{}: {text}", self.way.name);
        assert!(
            !ran.stderr.contains("of the host"),
            "{}: {}",
            self.way.name,
            ran.stderr
        );
        assert!(
            matches!(ran.code, Some(0 | 1)),
            "{}: {}",
            self.way.name,
            ran.stderr
        );
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        ran
    }

    fn fails(&self, file: &str, message: &str) {
        let ran = self.build(file);
        let way = self.way.name;
        assert_eq!(ran.code, Some(1), "{way}: {file}\n{}", ran.stderr);
        assert!(
            ran.stderr.contains(message),
            "{way}: {file}\n{}",
            ran.stderr
        );
    }

    fn works(&self, file: &str) {
        let ran = self.build(file);
        assert_eq!(
            ran.code,
            Some(0),
            "{}: {file}\n{}",
            self.way.name,
            ran.stderr
        );
    }
}

/// Runs `test` for each way to isolate.
fn everywhere(name: &str, test: impl Fn(&Trial<'_>)) {
    let Some((s, ways)) = ways::all(name) else {
        return;
    };
    s.context("ctx", &[("Dockerfile", ""), ("sub/file", "sub\n")]);
    for way in &ways {
        // Not in /tmp, all of which an old proot needs.
        let outside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let out = outside.path();
        std::fs::create_dir_all(out.join("b/c")).unwrap();
        for empty in ["s", "b/s", "hosts", "resolv.conf", "hostname"] {
            std::fs::write(out.join(empty), "").unwrap();
        }
        for path in [
            "",
            "b",
            "b/c",
            "s",
            "b/s",
            "hosts",
            "resolv.conf",
            "hostname",
        ] {
            chown(out.join(path), Some(way.uid), Some(way.uid)).unwrap();
            ways::open(&out.join(path), 0o777);
        }
        test(&Trial { s: &s, way, out });
    }
}

#[test]
fn sources_stay_in_what_they_are_from() {
    everywhere("sources_stay_in_what_they_are_from", |t| {
        let context = t.s.path("ctx");
        let _ = std::fs::remove_file(context.join("link"));
        symlink(t.out, context.join("link")).unwrap();
        // CVE-2024-1753 and its relatives.
        let links = "FROM base AS links\nRUN ln -s / /top && ln -s ../../../../.. /up && ln -s @ /out && \
                     ln -s @/canary /file && echo inside > /mine\nFROM base\n";
        for source in ["/top", "/up", "../../..", "/top/up/top"] {
            t.works(&format!(
                "{links}RUN --mount=type=bind,from=links,source={source},target=/m,rw \
                 cat /m/mine && touch /m/BREAKOUT && test ! -e /m/@/canary\n"
            ));
        }
        for source in ["/out", "/file", "/proc/self/root", "/proc/1/root/@", "@"] {
            let ran = t.build(&format!(
                "{links}RUN --mount=type=bind,from=links,source={source},target=/m,rw \
                 cat /m/canary /m; touch /m/BREAKOUT\n"
            ));
            assert_eq!(
                ran.code,
                Some(1),
                "{}: {source}\n{}",
                t.way.name,
                ran.stderr
            );
        }
        for source in ["link", "link/canary", "../..", "sub/../../.."] {
            t.build(&format!(
                "FROM base\nRUN --mount=type=bind,source={source},target=/m,rw \
                 cat /m/canary /m /m/@/canary; touch /m/BREAKOUT\n"
            ));
        }
        // CVE-2024-9675.
        for (id, source) in [
            ("../../../../../..@", "/"),
            ("@", "/"),
            ("x", "/out"),
            ("y", "/up"),
        ] {
            t.build(&format!(
                "{links}RUN --mount=type=cache,id={id},from=links,source={source},target=/var/tmp \
                 touch /var/tmp/BREAKOUT; cat /var/tmp/canary; true\n"
            ));
        }
        t.works(
            "FROM base\nRUN --mount=type=cache,id=../../../../../..@,target=/c touch /c/BREAKOUT\n",
        );
        // A cache that held links when its steps ended.
        t.works("FROM base\nRUN --mount=type=cache,id=z,target=/c ln -s @ /c/d && ln -s @/canary /c/f\n");
        let ran = t.build(
            "FROM base\nRUN --mount=type=cache,id=z,source=d,target=/c touch /c/BREAKOUT; cat /c/canary /c/f; true\n",
        );
        assert!(matches!(ran.code, Some(0 | 1)));
        t.build("FROM base\nRUN --mount=type=cache,id=z,target=/c cat /c/f /c/d/canary; touch /c/d/BREAKOUT; true\n");
    });
}

#[test]
fn targets_stay_in_the_root() {
    everywhere("targets_stay_in_the_root", |t| {
        let links = "FROM base\nRUN ln -s @ /out && ln -s ../../../../..@ /up && mkdir -p /a/b/c\n";
        for target in ["/out", "/up/new", "/a/../../../..@/new"] {
            t.build(&format!(
                "{links}RUN --mount=type=cache,id={target},target={target} touch {target}/BREAKOUT; true\n"
            ));
            t.build(&format!(
                "{links}RUN --mount=type=bind,source=sub/file,target={target}/deep/file true\n"
            ));
        }
        // CVE-2024-23652: what was made for a mount is taken away, and the
        // command has put a link there.
        for command in [
            "rm -rf /a; mv /a /x; ln -s @ /a",
            "mv /a/b /x; ln -s @/b /a/b",
            "rm -rf /a/b; rmdir /a/b; ln -s @/b /a/b",
            "mv /etc /x; ln -s @ /etc",
        ] {
            t.build(&format!(
                "FROM base\nRUN --mount=type=cache,target=/a/b/c --mount=type=tmpfs,target=/a/b/d \
                 --mount=type=bind,source=sub/file,target=/a/s --mount=type=bind,source=sub/file,target=/a/b/s \
                 {command}; true\n"
            ));
        }
        // The other ways have the same means.
        if !["namespaces", "chroot", "runc"].contains(&t.way.name) {
            return;
        }
        for target in [
            "/",
            "/proc",
            "/proc/self/attr",
            "/dev/null",
            "/sys/fs/cgroup",
            "/etc/hosts",
            "/bin/busybox/x",
        ] {
            let ran = t.build(&format!(
                "FROM base\nRUN --mount=type=cache,target={target} true\n"
            ));
            assert!(
                !ran.stderr.contains("keeper was"),
                "{target}: {}",
                ran.stderr
            );
        }
        // What is ours in the root, with something else in its place.
        let context = t.s.path("ctx");
        for (name, target) in [("proc", "@"), ("sys", "/etc"), ("dev", "@"), ("etc", "@")] {
            let dir = context.join("links");
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir(&dir).unwrap();
            let to = target.replace("@", &t.out.display().to_string());
            symlink(to, dir.join(name)).unwrap();
            let file = format!(
                "FROM scratch\nCOPY --from=base /bin /bin\nCOPY links /\nRUN touch /{name}/x /etc/hosts; true\n"
            );
            match name {
                "etc" => drop(t.build(&file)),
                _ => t.fails(&file, "symbolic link"),
            }
        }
        for name in ["resolv.conf", "hosts", "hostname"] {
            t.build(&format!(
                "FROM base\nRUN ln -s ../../../../../../..@/{name} /etc/{name}; mkdir -p /x; ln -s @/{name} /x/{name}; mv /x/{name} /etc\n\
                 RUN echo BREAKOUT > /etc/{name}; true\n"
            ));
        }
        for n in [3, 5, 8] {
            t.build(&format!(
                "FROM base\nWORKDIR /proc/self/fd/{n}\n\
                 RUN pwd; cat canary ../canary ../..@/canary ../../../../..@/canary; touch BREAKOUT; true\n"
            ));
        }
    });
}

/// CVE-2024-23651: steps at the same time that share a cache, one of which
/// puts links into the place of directories that mounts of others go through.
#[test]
fn nobody_leads_others_astray_in_a_shared_cache() {
    everywhere("nobody_leads_others_astray_in_a_shared_cache", |t| {
        let mut file = String::from(
            "FROM base AS swap\nRUN --mount=type=cache,id=race,target=/c \
             ln -s @ /c/link; i=0; while [ $i -lt 400 ]; do mkdir -p /c/d; mv -T /c/d /c/e; \
             mv -T /c/link /c/d; mv -T /c/d /c/link; rm -rf /c/d /c/e; i=$((i+1)); done; touch /swapped\n",
        );
        let mut copies = String::from("FROM base\nCOPY --from=swap /swapped /\n");
        for n in 0..6 {
            file.push_str(&format!(
                "FROM base AS s{n}\nRUN --mount=type=cache,id=race,target=/c \
                 --mount=type=tmpfs,target=/c/d/t{n} --mount=type=bind,source=sub/file,target=/c/d/f{n} \
                 touch /c/d/t{n}/BREAKOUT; touch /done{n}\n"
            ));
            copies.push_str(&format!("COPY --from=s{n} /done{n} /\n"));
        }
        // A mount that comes to nothing by then is an error, which is fine.
        t.build(&(file + &copies));
    });
}

#[test]
fn mounts_have_no_other_options() {
    let Some(s) = Sandbox::with_base("mounts_have_no_other_options") else {
        return;
    };
    // CVE-2024-9407, and options of mount(8) that nobody may give.
    for options in [
        "type=cache,target=/x,bind-propagation=rshared",
        "type=bind,target=/x,bind-propagation=shared",
        "type=bind,target=/x,suid",
        "type=bind,target=/x,dev,exec",
        "type=bind,target=/x,lowerdir=/etc",
        "type=bind,target=/x,upperdir=/etc",
        "type=tmpfs,target=/x,mode=1777,uid=0,source=/etc",
        "type=tmpfs,target=/x,size=1m\\,lowerdir=/",
        "type=overlay,target=/x",
        "type=bind,target=/x,recursive",
        "type=devpts,target=/x",
    ] {
        let file = format!("FROM base\nRUN --mount={options} true\n");
        let context = s.context("ctx", &[("Dockerfile", &file)]);
        let ran = s.run(&["build", &context]);
        assert_eq!(ran.code, Some(1), "{options}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("Dockerfile:2"),
            "{options}: {}",
            ran.stderr
        );
    }
}
