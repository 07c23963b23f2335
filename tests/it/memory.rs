//! What commands hold in memory does not depend on the size of an image: peaks
//! for few entries and for many are compared.
//!
//! Each row of [`ROWS`] is a command. All are run one after the other on an
//! image of [`FEW`] entries and on one of [`MANY`], and the peak of each may
//! grow by no more than its row says. Such a growth, and what the program takes
//! for itself, leave a million entries below 100 MiB.

use std::path::Path;
use std::process::Command;

use shiplap::sys::process::wait_any;

use crate::sandbox::{Sandbox, has, skip};

/// Enough to fill the buffers on the way from a layer to another.
const FEW: usize = 20_000;
const MANY: usize = 70_000;
/// What a command may take for each entry, in bytes: it knows the name.
const NAMES: u64 = 90;
/// The same for one that reads entry after entry.
const NOTHING: u64 = 20;
/// Peaks of the same command differ by this much, in bytes, with how far its
/// threads are ahead of each other.
const NOISE: u64 = 5 << 20;
/// The arguments of the command that is measured, each behind this.
const SEPARATOR: char = '\u{1f}';
const COMMAND: &str = "SHIPLAP_TEST_MEASURED";

struct Row {
    /// What comes before: commands of shiplap, of the shell where they begin
    /// with `$`.
    before: &'static [&'static str],
    /// The command that is measured.
    command: &'static str,
    /// Bytes that it may take for each entry.
    each: u64,
}

const fn row(command: &'static str, each: u64) -> Row {
    Row {
        before: &[],
        command,
        each,
    }
}

/// In the words of a command, all in the test's own directory:
///
/// | word | what it is |
/// |---|---|
/// | `base` | an image of one layer with the entries |
/// | `top` | the same with a small layer more |
/// | `entries.tar` | the layer's tar: a directory `m` with a third of the files in one directory, a third in many, a third names of those |
/// | `out` | what a row makes; the next may make it anew |
const ROWS: &[Row] = &[
    row("layers top", NAMES),
    row("tree top", NAMES),
    row("ls -lR base /m", NAMES),
    row("wasted --top 0 top", NAMES),
    row("explore --format json top", NAMES),
    row("flatten top -t out", NAMES),
    row("strip top **/f*7 -t out", NAMES),
    row("strip --hard top **/f*7 -t out", NAMES),
    row("export top -o out.tar", NAMES),
    row("append base entries.tar -t out", NOTHING),
    row("recompress --compression zstd base -t out", NOTHING),
    row("save base -o saved.tar", NOTHING),
    row("verify base", NOTHING),
    // What is copied from a stage is unpacked, listed and packed again.
    Row {
        before: &[
            "$ mkdir stage",
            // The second one looks things up in what the first one made.
            "$ printf 'FROM base AS a\\nFROM scratch\\nCOPY --from=a /m /m\\nCOPY --from=a /m /m/n\\n' > stage/Dockerfile",
        ],
        command: "build -t out stage",
        each: NAMES,
    },
    Row {
        before: &[
            "$ mkdir ctx && tar -xf entries.tar -C ctx",
            "$ printf 'FROM scratch\\nCOPY m /m\\n' > ctx/Dockerfile",
        ],
        command: "build -t out ctx",
        each: NAMES,
    },
    // Every match of a pattern is an empty directory.
    Row {
        before: &[
            "$ mkdir -p dirs/m && tar -tf entries.tar | tr / - | sed s,^,dirs/m/, | xargs mkdir",
            "$ printf 'FROM scratch\\nCOPY m/* /m\\n' > dirs/Dockerfile",
        ],
        command: "build -t out dirs",
        each: NAMES,
    },
    Row {
        before: &["append base dirs/m -t dirs"],
        command: "unpack dirs dirtree",
        each: NAMES,
    },
    // The same with a file in each.
    Row {
        before: &["$ find dirs/m -mindepth 1 | sed s,$,/f, | xargs touch"],
        command: "build -t out dirs",
        each: NAMES,
    },
    row("unpack base tree", NAMES),
    row("unpack --rootless base mine", NAMES),
    row("append top tree/m -t out", NOTHING),
    Row {
        before: &["$ chmod -R u+x tree/m"],
        command: "repack tree -t out",
        each: NAMES,
    },
    // The tree is compared with what it was after each step.
    Row {
        before: &[
            "$ mkdir plain && cp /bin/busybox plain",
            "$ printf 'FROM base\\nCOPY busybox /bin/\\n' > plain/Dockerfile",
            "$ printf 'RUN [\"/bin/busybox\", \"true\"]\\n' >> plain/Dockerfile",
            "$ printf 'RUN [\"/bin/busybox\", \"chmod\", \"-R\", \"g+w\", \"/m\"]\\n' >> plain/Dockerfile",
        ],
        command: "build --isolation chroot -t out plain",
        each: NAMES,
    },
];

#[test]
fn peaks_do_not_grow_with_the_entries() {
    if !has("sh") {
        skip("peaks_do_not_grow_with_the_entries", "there is no sh");
        return;
    }
    let steps = rustix::process::geteuid().is_root() && Path::new("/bin/busybox").exists();
    if !steps {
        skip(
            "a row of peaks_do_not_grow_with_the_entries",
            "steps take root and /bin/busybox (busybox-static) here",
        );
    }
    let rows = ROWS.iter();
    let rows: Vec<&Row> = rows
        .filter(|row| steps || !row.command.contains("--isolation"))
        .collect();
    let [few, many] = [FEW, MANY].map(|entries| peaks(&rows, entries));
    let mut wrong = Vec::new();
    for ((row, few), many) in rows.iter().zip(few).zip(many) {
        let most = row.each * (MANY - FEW) as u64 + NOISE;
        if many > few + most {
            wrong.push(format!(
                "{}: {} KiB with {FEW} entries, {} KiB with {MANY}",
                row.command,
                few >> 10,
                many >> 10
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The peaks of the rows' commands on an image of so many entries, in bytes.
fn peaks(rows: &[&Row], entries: usize) -> Vec<u64> {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("entries.tar"), tar(entries)).unwrap();
    std::fs::write(sandbox.path("small.tar"), tar(2)).unwrap();
    sandbox.ok(&["import", "entries.tar", "base"]);
    sandbox.ok(&["append", "base", "small.tar", "-t", "top"]);
    let peak = |row: &&Row| {
        for line in row.before {
            match line.strip_prefix('$') {
                Some(line) => {
                    let mut shell = Command::new("sh");
                    let shell = shell.args(["-c", line]).current_dir(sandbox.dir.path());
                    assert!(shell.status().unwrap().success(), "{line}");
                }
                None => drop(sandbox.ok(&line.split(' ').collect::<Vec<_>>())),
            }
        }
        let words: Vec<&str> = row.command.split(' ').collect();
        measure(
            sandbox.dir.path(),
            &sandbox.command(&sandbox.store()),
            &words,
        )
    };
    rows.iter().map(peak).collect()
}

/// Runs `command` with `words`; its peak in bytes.
///
/// A process begins with the peak of the one that starts it, and this one has
/// done much: so another one of this program does it.
fn measure(dir: &Path, command: &Command, words: &[&str]) -> u64 {
    let program = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let program = program.map(|word| word.to_str().unwrap());
    let words: Vec<&str> = program.chain(words.iter().copied()).collect();
    let mut other = Command::new(std::env::current_exe().unwrap());
    other
        .args(["--ignored", "--exact", "--nocapture", "memory::measured"])
        .env(COMMAND, words.join(&String::from(SEPARATOR)))
        .current_dir(dir);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    let output = other.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let peak = text.lines().find_map(|line| line.strip_prefix("peak: "));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let peak = peak.unwrap_or_else(|| panic!("{words:?}\n{text}\n{stderr}"));
    peak.parse().unwrap()
}

#[test]
#[ignore = "the process that a command is measured from"]
#[allow(clippy::print_stdout, reason = "for the test that started it")]
#[allow(clippy::zombie_processes, reason = "wait_any waits for it")]
fn measured() {
    let words = std::env::var(COMMAND).unwrap_or_default();
    let mut words = words.split(SEPARATOR);
    let mut command = Command::new(words.next().unwrap());
    let child = command.args(words).stdout(std::process::Stdio::null());
    let child = child.spawn().unwrap();
    let (ended, how) = wait_any(true).unwrap().unwrap();
    assert_eq!(u32::try_from(ended.id()), Ok(child.id()));
    assert_eq!(how.code, Some(0));
    println!("\npeak: {}", how.peak_memory_bytes);
}

/// A layer; see [`ROWS`].
fn tar(entries: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: String, kind: tar::EntryType, link: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        match link {
            "" => tar.append_data(&mut header, name, &[][..]).unwrap(),
            _ => tar.append_link(&mut header, name, link).unwrap(),
        }
    };
    let (dir, file) = (tar::EntryType::Directory, tar::EntryType::Regular);
    put("m".into(), dir, "");
    put("m/flat".into(), dir, "");
    for n in 0..entries / 3 {
        put(format!("m/flat/f{n:07}"), file, "");
    }
    for n in 0..entries / 3 {
        if n % 100 == 0 {
            put(format!("m/d{:05}", n / 100), dir, "");
        }
        let name = format!("m/d{:05}/f{n:07}", n / 100);
        put(name.clone(), file, "");
        put(format!("{name}.link"), tar::EntryType::Link, &name);
    }
    tar.into_inner().unwrap()
}
