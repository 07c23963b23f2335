//! COPY of what is no plain file, and sources that are out to do harm.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sandbox::{Sandbox, skip};
use crate::straight::layers;

#[test]
fn special_files_are_copied_as_they_are() {
    const NAME: &str = "special_files_are_copied_as_they_are";
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let text = "FROM base\nCOPY d /d\nRUN [ -p /d/fifo ] && stat -c '%n %h %a' /d/* > /seen\n";
    let files = [
        ("Dockerfile", text),
        ("d/a", "A"),
        ("d/suid", "S"),
        ("d/x", "X"),
        ("d/sticky/y", "Y"),
    ];
    let context = s.context("ctx", &files);
    let dir = Path::new(&context).join("d");
    std::fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
    let mode = |name: &str, mode: u32| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(dir.join(name), mode).unwrap();
    };
    mode("suid", 0o6755);
    mode("sticky", 0o1777);
    let fifo = rustix::fs::FileType::Fifo;
    let place = rustix::fs::CWD;
    rustix::fs::mknodat(place, dir.join("fifo"), fifo, 0o644.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    std::fs::File::create(dir.join("sparse"))
        .unwrap()
        .set_len(3 << 20)
        .unwrap();
    let set = |name: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(dir.join("x"), name, value, flags).is_ok()
    };
    let capability = [&b"\x01\0\0\x02\0\x20"[..], &[0; 14]].concat();
    let has_xattrs = set("user.note", b"kept") && set("security.capability", &capability);
    if !has_xattrs {
        skip(
            NAME,
            "no attributes on this file system; the rest is tested",
        );
    }
    let mut found = layers(&s, &context, &[]).swap_remove(0);
    for line in &mut found {
        // Its zeros, which are written out.
        let short = line.split("\\0").next().unwrap_or_default().to_owned();
        if line.starts_with("d/sparse") {
            assert_eq!(line.matches("\\0").count(), 3 << 20);
            *line = short;
        }
    }
    let attributes = match has_xattrs {
        true => format!(
            " security.capability={:?} user.note=\"kept\"",
            String::from_utf8_lossy(&capability)
        ),
        false => String::new(),
    };
    let x = format!("d/x 644 0:0 \"X\"{attributes}");
    let expected = [
        "d/ 755 0:0",
        "d/a 644 0:0 \"A\"",
        "d/b 644 0:0 -> d/a",
        "d/fifo 644 0:0 fifo",
        "d/sparse 644 0:0 \"",
        "d/sticky/ 1777 0:0",
        "d/sticky/y 644 0:0 \"Y\"",
        "d/suid 6755 0:0 \"S\"",
        &x,
    ];
    assert_eq!(found, expected);
    let seen = s.file_of(&context, &[], "seen");
    for line in [
        "/d/a 2 644",
        "/d/b 2 644",
        "/d/suid 1 6755",
        "/d/sticky 2 1777",
    ] {
        assert!(seen.lines().any(|l| l == line), "{line}: {seen}");
    }
    // A socket is nothing that an image can have, named or met on the way.
    let context = s.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY d/socket /\n")]);
    let ran = s.run(&["build", &context]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("\"d/socket\" not found"),
        "{}",
        ran.stderr
    );
}

#[test]
fn special_files_of_a_stage() {
    let Some(s) = Sandbox::with_base("special_files_of_a_stage") else {
        return;
    };
    let text = "FROM base AS a\n\
                RUN mkdir /x && mknod /x/null c 1 3 && mkfifo /x/p && echo 1 > /x/f && ln /x/f /x/g && chmod 4711 /x/f\n\
                FROM base\nCOPY --from=a /x /y\nRUN ls -l /y | cut -c1-10 > /seen\n";
    let context = s.context("ctx", &[("Dockerfile", text)]);
    let found = layers(&s, &context, &[]).swap_remove(0);
    let expected = [
        "y/ 755 0:0",
        "y/f 4711 0:0 \"1\\n\"",
        "y/g 4711 0:0 -> y/f",
        "y/null 644 0:0 device",
        "y/p 644 0:0 fifo",
    ];
    assert_eq!(found, expected);
    let seen = s.file_of(&context, &[], "seen");
    assert!(
        seen.contains("crw-r--r--") && seen.contains("prw-r--r--"),
        "{seen}"
    );
}

#[test]
fn a_file_that_grows_is_not_followed() {
    let s = Sandbox::new();
    let context = s.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY f /\n")]);
    let path = Path::new(&context).join("f");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::fs::write(&path, vec![b'y'; 1 << 20]).unwrap();
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write;
            let mut file = std::fs::File::options().append(true).open(&path).unwrap();
            while !stop.load(order) && file.metadata().unwrap().len() < 200 << 20 {
                file.write_all(&[b'y'; 1 << 16]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let ran = s.run(&["build", "-t", "x", &context]);
        stop.store(true, order);
        ran
    });
    // Taken as it was, or refused: never half of it.
    match ran.code {
        Some(0) => {}
        _ => assert!(ran.stderr.contains("f changed while"), "{}", ran.stderr),
    }
}

#[test]
fn patterns_do_not_run_away() {
    let s = Sandbox::new();
    let deep = "d/".repeat(60);
    let context = s.context("ctx", &[(&format!("{deep}f"), "")]);
    std::os::unix::fs::symlink(".", Path::new(&context).join("loop")).unwrap();
    std::os::unix::fs::symlink("..", Path::new(&context).join("d/up")).unwrap();
    let stars = "*/".repeat(60) + "*";
    let loops = "loop/".repeat(30) + "d";
    let began = Instant::now();
    for (sources, works) in [
        (stars.as_str(), true),
        ("--parents **/**/**/**/**/**/**/**/**/*", true),
        ("--parents **/f", true),
        (&loops, true),
        ("[", false),
        ("a[", false),
        ("[a-", false),
        ("--parents []a]", false),
        ("--exclude=[ .", false),
    ] {
        s.context(
            "ctx",
            &[("Dockerfile", &format!("FROM scratch\nCOPY {sources} /o/\n"))],
        );
        let ran = s.run(&["build", "-t", "x", &context]);
        assert_eq!(ran.code == Some(0), works, "{sources}: {}", ran.stderr);
        if !works {
            assert!(ran.stderr.contains("an open or empty"), "{}", ran.stderr);
        }
    }
    // Far above what a busy machine takes, far below 2^60 paths.
    assert!(began.elapsed() < Duration::from_secs(120));
}

#[test]
fn exclusions_stay_below_their_source() {
    let s = Sandbox::new();
    let files = [
        ("keep/a", "a"),
        ("src/a", "a"),
        ("src/b/c", "c"),
        ("src/k.md", "k"),
    ];
    s.context("ctx", &files);
    let names = |excludes: &str| -> Vec<String> {
        let text = format!("FROM scratch\nCOPY {excludes} src /d\n");
        let context = s.context("ctx", &[("Dockerfile", &text)]);
        // Nothing is below a first layer here.
        let out = s.path("tree");
        let _ = std::fs::remove_dir_all(&out);
        let dest = format!("type=local,dest={}", out.display());
        s.build(&context, &["-o", &dest]);
        let mut found: Vec<String> = ["a", "b", "b/c", "k.md"]
            .into_iter()
            .filter(|name| out.join("d").join(name).exists())
            .map(str::to_owned)
            .collect();
        found.sort();
        found
    };
    assert_eq!(names("--exclude=*.md --exclude=b"), ["a"]);
    assert_eq!(names("--exclude=b/../k.md"), ["a", "b", "b/c"]);
    // What would lead out of the source takes nothing away, here or there.
    let all = ["a", "b", "b/c", "k.md"];
    assert_eq!(names("--exclude=../keep --exclude=../src/a"), all);
    assert_eq!(names("--exclude=/../../a"), all);
    assert!(Path::new(&s.path("ctx/keep/a")).exists());
}
