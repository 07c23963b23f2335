use super::*;
use crate::layer::Meta;
use std::process::{Command, Stdio};

fn entry(path: &str, kind: Kind) -> Entry {
    let mut meta = Meta {
        mode: 0o755,
        ..Meta::default()
    };
    meta.mtime.secs = 1_600_000_000;
    Entry {
        path: path.into(),
        kind,
        meta,
    }
}

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new(), None);
    for entry in entries {
        let size = match entry.kind {
            Kind::File { size } => size,
            _ => 0,
        };
        tar.put(entry, &mut io::repeat(b'x').take(size)).unwrap();
    }
    tar.finish().unwrap()
}

#[test]
fn headers_are_plain_where_everything_fits() {
    let long = format!("{}/{}", "p".repeat(155), "n".repeat(99));
    for (path, kind) in [
        ("f", Kind::File { size: 5 }),
        ("d", Kind::Dir),
        ("", Kind::Dir),
        (long.as_str(), Kind::Fifo),
        (
            "l",
            Kind::Symlink {
                target: "t".repeat(100).into(),
            },
        ),
        ("c", Kind::Char { major: 5, minor: 1 }),
    ] {
        let blocks = match kind {
            Kind::File { .. } => 4,
            _ => 3,
        };
        let bytes = tar(&[entry(path, kind)]);
        assert_eq!(bytes.len(), blocks * BLOCK, "{path}");
        assert_eq!(&bytes[257..265], ustar::POSIX);
        // No user or group names.
        assert!(bytes[265..329].iter().all(|b| *b == 0));
    }
}

#[test]
fn extended_headers_hold_what_does_not_fit() {
    let with = |change: fn(&mut Entry)| {
        let mut entry = entry("f", Kind::Fifo);
        change(&mut entry);
        String::from_utf8_lossy(&tar(&[entry])).into_owned()
    };
    for (text, record) in [
        (with(|e| e.path = "n".repeat(101).into()), "path=nnn"),
        (with(|e| e.path = "ä".into()), "11 path=ä\n"),
        (with(|e| e.meta.uid = 0o10_000_000), "15 uid=2097152\n"),
        (with(|e| e.meta.gid = u32::MAX - 1), "18 gid=4294967294\n"),
        (
            with(|e| e.meta.mtime.nanos = 5),
            "30 mtime=1600000000.000000005\n",
        ),
        (with(|e| e.meta.mtime.secs = -5), "12 mtime=-5\n"),
        (
            with(|e| drop(e.meta.xattrs.insert(b"user.a".to_vec(), b"b".to_vec()))),
            "25 SCHILY.xattr.user.a=b\n",
        ),
    ] {
        assert!(text.contains(record), "{record}: {text}");
        assert!(text.starts_with("PaxHeaders.0/"), "{text}");
    }
    let big = Kind::File { size: 1 << 33 };
    let (_, records) = encode(&entry("big", big), Mtime::default()).unwrap();
    assert_eq!(records, b"19 size=8589934592\n");
}

#[test]
fn what_no_tar_can_hold_is_refused() {
    let put = |entry: &Entry| TarWriter::new(Vec::new(), None).put(entry, &mut io::empty());
    for path in [".wh.x", "d/.wh.x", ".wh.d/x", "../x", "/x", "d/../x"] {
        let e = put(&entry(path, Kind::Fifo)).unwrap_err();
        assert!(matches!(e, WriteError::Unrepresentable { .. }), "{path}");
    }
    let mut named = entry("f", Kind::Fifo);
    named.meta.xattrs.insert(b"user.a=b".to_vec(), Vec::new());
    assert!(put(&named).is_err());
    assert!(put(&entry("", Kind::Fifo)).is_err());
    let major = 1 << 22;
    assert!(put(&entry("c", Kind::Char { major, minor: 0 })).is_err());
    let target = PathBuf::new();
    assert!(put(&entry("l", Kind::Symlink { target })).is_err());
    let mut tar = TarWriter::new(Vec::new(), None);
    assert!(tar.whiteout(Path::new("")).is_err());
    assert!(tar.whiteout(Path::new(".wh.x")).is_err());
    for (size, len) in [(0, 1), (5, 4), (5, 6), (BUFFER, BUFFER + 1)] {
        let file = entry("f", Kind::File { size: size as u64 });
        let e = tar.put(&file, &mut &vec![0; len][..]).unwrap_err();
        assert!(matches!(e, WriteError::Length { .. }), "{size} {len}");
    }
}

/// Other programs see the same entries; a program that is missing is skipped.
#[test]
fn other_programs_read_it() {
    let mut odd = entry("dir/ä\n=", Kind::File { size: 3 });
    odd.meta.uid = 3_000_000;
    odd.meta.mtime = Mtime {
        secs: -2,
        nanos: 500_000_000,
    };
    odd.meta.xattrs.insert(b"user.k".to_vec(), b"v".to_vec());
    let long = "l".repeat(300);
    let bytes = tar(&[
        entry("dir", Kind::Dir),
        odd,
        entry("dir/plain", Kind::File { size: 1000 }),
        entry(
            "hard",
            Kind::Hardlink {
                target: "dir/plain".into(),
            },
        ),
        entry(
            &format!("dir/{}", "n".repeat(200)),
            Kind::Symlink {
                target: long.into(),
            },
        ),
        entry("tty", Kind::Char { major: 5, minor: 1 }),
    ]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let script = "
import sys, tarfile
t = tarfile.open(sys.argv[1])
for m in t:
    print(ascii(m.name), m.type.decode(), oct(m.mode), m.uid, m.size, m.mtime, ascii(m.linkname)[:8],
          m.pax_headers.get('SCHILY.xattr.user.k'))
";
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .arg(file.path())
            .stdin(Stdio::null())
            .env("LC_ALL", "C.UTF-8")
            .output();
        match output {
            Ok(o) => {
                assert!(
                    o.status.success(),
                    "{program}: {}",
                    String::from_utf8_lossy(&o.stderr)
                );
                Some(String::from_utf8(o.stdout).unwrap())
            }
            Err(_) => None,
        }
    };
    if let Some(seen) = run("python3", &["-c", script]) {
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[0], "'dir' 5 0o755 0 0 1600000000 '' None");
        assert_eq!(lines[1], "'dir/\\xe4\\n=' 0 0o755 3000000 3 -1.5 '' v");
        assert_eq!(lines[2], "'dir/plain' 0 0o755 0 1000 1600000000 '' None");
        assert_eq!(lines[3], "'hard' 1 0o755 0 0 1600000000 'dir/pla None");
        assert!(
            lines[4].starts_with("'dir/nnnn") && lines[4].contains(" 2 "),
            "{seen}"
        );
        assert!(lines[5].starts_with("'tty' 3 "), "{seen}");
        assert_eq!(lines.len(), 6);
    }
    if let Some(seen) = run("tar", &["-tf"]) {
        assert_eq!(seen.lines().count(), 6, "{seen}");
        assert!(seen.starts_with("dir/\ndir/ä\\n=\n"), "{seen}");
    }
}

/// The `tar` crate, which shares no code with us, sees the same.
#[test]
fn a_second_reader_agrees() {
    let bytes = tar(&[
        entry("d", Kind::Dir),
        entry(&format!("d/{}", "n".repeat(150)), Kind::File { size: 700 }),
        entry("h", Kind::Hardlink { target: "d".into() }),
    ]);
    let mut archive = ::tar::Archive::new(&bytes[..]);
    let seen: Vec<(PathBuf, u64)> = archive
        .entries()
        .unwrap()
        .map(|e| {
            let e = e.unwrap();
            (e.path().unwrap().into_owned(), e.size())
        })
        .collect();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[1].0, Path::new(&format!("d/{}", "n".repeat(150))));
    assert_eq!(seen[1].1, 700);
}
