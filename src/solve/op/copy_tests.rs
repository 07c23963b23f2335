use super::*;
use crate::context::ignore::Ignore;
use crate::context::local::LocalTree;
use crate::context::select::select;
use crate::layer::Change;
use crate::solve::op::archive::ArchiveWriter;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

/// Makes files from `path`, `path/`, `path -> target`, each with ` 0mode`.
fn make(dir: &Path, files: &[&str]) {
    for file in files {
        let (file, mode) = match file.rsplit_once(" 0") {
            Some((file, mode)) => (file, u32::from_str_radix(mode, 8).unwrap()),
            None => (*file, if file.ends_with('/') { 0o755 } else { 0o644 }),
        };
        if let Some((link, target)) = file.split_once(" -> ") {
            symlink(target, dir.join(link)).unwrap();
            continue;
        }
        if let Some((link, target)) = file.split_once(" = ") {
            std::fs::hard_link(dir.join(target), dir.join(link)).unwrap();
            continue;
        }
        let path = dir.join(file);
        if file.ends_with('/') {
            std::fs::create_dir_all(&path).unwrap();
        } else {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, file).unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

struct Case {
    src: tempfile::TempDir,
    root: tempfile::TempDir,
    options: CopyOptions,
    parents: bool,
    exclude: Vec<&'static str>,
    workdir: &'static str,
}

fn case(src: &[&str], root: &[&str]) -> Case {
    let case = Case {
        src: tempfile::tempdir().unwrap(),
        root: tempfile::tempdir().unwrap(),
        options: CopyOptions {
            chown: None,
            chmod: None,
            link: false,
            several: false,
            created: Mtime { secs: 7, nanos: 0 },
        },
        parents: false,
        exclude: Vec::new(),
        workdir: "/",
    };
    make(case.src.path(), src);
    make(case.root.path(), root);
    case
}

impl Case {
    fn changes(&self, sources: &[&str], dest: &str) -> Result<Vec<Change>, CopyError> {
        let tree: Arc<dyn Tree> = Arc::new(LocalTree::open(self.src.path(), None).unwrap());
        let exclude = Ignore::from_patterns(&self.exclude).unwrap();
        let sources = sources.iter().map(|source| {
            let new_file = &tempfile::tempfile;
            let mut selection = select(&*tree, source, self.parents, &exclude, new_file).unwrap();
            let contents =
                Arc::new(Contents::of(tree.clone(), &mut selection, &tempfile::tempfile).unwrap());
            Source::tree(contents, selection)
        });
        let root = LocalTree::open(self.root.path(), None).unwrap();
        let workdir = Path::new(self.workdir);
        let sources: Vec<Source> = sources.collect();
        let options = CopyOptions {
            several: sources.len() > 1,
            ..self.options.clone()
        };
        let mut plan = plan(
            sources,
            dest,
            workdir,
            Arc::new(root),
            &options,
            &tempfile::tempfile,
        )?;
        let fault = plan.fault();
        let changes: io::Result<Vec<Change>> = plan.by_ref().collect();
        changes.map_err(|_| fault.take().unwrap())
    }

    fn run(&self, sources: &[&str], dest: &str) -> String {
        match self.changes(sources, dest) {
            Ok(changes) => show(changes),
            Err(e) => format!("error: {e}"),
        }
    }
}

/// `path` of a file, `path/` of a directory, and where it isn't the usual one
/// the mode, the owner and the content.
fn show(changes: Vec<Change>) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut before: Option<PathBuf> = None;
    for change in changes {
        let Change::Put(entry, content) = change else {
            panic!("only additions");
        };
        assert!(before.is_none_or(|b| b < entry.path), "path order");
        before = Some(entry.path.clone());
        let mut text = entry.path.to_str().unwrap().to_owned();
        let usual = match &entry.kind {
            Kind::Dir => {
                text.push('/');
                0o755
            }
            Kind::Symlink { target } => {
                text += &format!("->{}", target.display());
                0o777
            }
            Kind::Hardlink { target } => {
                text += &format!("={}", target.display());
                0o644
            }
            _ => 0o644,
        };
        if entry.meta.mode != usual {
            text += &format!("({:o})", entry.meta.mode);
        }
        if (entry.meta.uid, entry.meta.gid) != (0, 0) {
            text += &format!("[{}:{}]", entry.meta.uid, entry.meta.gid);
        }
        let bytes = match content {
            Content::None => None,
            Content::Bytes(b) => Some(String::from_utf8(b.to_vec()).unwrap()),
            Content::Open(_) => panic!("a file that nothing checks"),
            Content::Read(open) => {
                let mut text = String::new();
                open().unwrap().read_to_string(&mut text).unwrap();
                Some(text)
            }
        };
        if let Some(bytes) = bytes {
            let name = entry.path.file_name().unwrap().to_str().unwrap();
            if bytes != name {
                text += &format!("<{bytes}>");
            }
        }
        out.push(text);
    }
    out.join(" ")
}

#[test]
fn destinations() {
    let src = [
        "f",
        "g",
        "d/x",
        "d/sub/y 0600",
        "d/sub/ 0700",
        "l -> f",
        "d/in -> x",
    ];
    let root = [
        "etc/",
        "etc/conf",
        "etc/dir/",
        "srv/ 0711",
        "to -> /etc",
        "away -> ../../etc/new",
        "file",
        "tmp/ 01777",
    ];
    let table: &[(&[&str], &str, &str, &str)] = &[
        (&["f"], "/", "/", "f"),
        (&["f"], "/", ".", "f"),
        (&["f"], "/", "/n", "n<f>"),
        (&["f"], "/", "/n/", "n/ n/f"),
        (&["f"], "/", "n/m", "n/ n/m<f>"),
        (&["f"], "/w", "m", "w/ w/m<f>"),
        (&["f"], "/w", "", "w/ w/f"),
        (&["f"], "/w/v", "..", "w<f>"),
        (&["f"], "/w/v", "../../../..", "f"),
        (&["f"], "/", "/etc", "etc/ etc/f"),
        (&["f"], "/", "/etc/conf", "etc/ etc/conf<f>"),
        (&["f"], "/", "/tmp/q/", "tmp/(1777) tmp/q/ tmp/q/f"),
        (&["f"], "/", "/n/.", "n/ n/f"),
        (&["l"], "/", "/n/", "n/ n/l<f>"),
        (&["f"], "/", "/to/", "etc/ etc/f"),
        (&["f"], "/to", "x", "etc/ etc/x<f>"),
        (&["f"], "/", "/away", "etc/ etc/new<f>"),
        (
            &["d"],
            "/",
            "/n",
            "n/ n/in->x n/sub/(700) n/sub/y(600)<d/sub/y> n/x<d/x>",
        ),
        (
            &["d"],
            "/",
            "/",
            "in->x sub/(700) sub/y(600)<d/sub/y> x<d/x>",
        ),
        (&["f", "g"], "/", "/n/", "n/ n/f n/g"),
        (&["f", "g"], "/", "/etc", "etc/ etc/f etc/g"),
        (
            &["f", "d"],
            "/",
            "n/",
            "n/ n/f n/in->x n/sub/(700) n/sub/y(600)<d/sub/y> n/x<d/x>",
        ),
        (&["nothing*"], "/", "/n/", ""),
        (
            &["?"],
            "/",
            "/n/",
            "n/ n/f n/g n/in->x n/l<f> n/sub/(700) n/sub/y(600)<d/sub/y> n/x<d/x>",
        ),
        (
            &["f", "g"],
            "/",
            "/n",
            "error: with more than one source the destination \"/n\" must be a directory and end with a /",
        ),
        (
            &["f"],
            "/",
            "/file/",
            "error: cannot create \"/file\": \"/file\" is not a directory",
        ),
        (
            &["f"],
            "/",
            "/file/x/y",
            "error: cannot create \"/file/x\": \"/file\" is not a directory",
        ),
        (
            &["d"],
            "/",
            "/file",
            "error: cannot copy a directory onto \"/file\", which is not a directory",
        ),
    ];
    let mut case = case(&src, &root);
    for (sources, workdir, dest, expected) in table {
        case.workdir = workdir;
        assert_eq!(
            case.run(sources, dest),
            *expected,
            "{sources:?} {workdir} {dest}"
        );
    }
}

#[test]
fn conflicts_and_merging() {
    let case = case(
        &[
            "d/a/",
            "d/a/x",
            "d/b",
            "e/b/",
            "e/b/z",
            "d/c/ 0700",
            "d/c/w",
        ],
        &[
            "r/b/",
            "r/b/keep",
            "s/a",
            "t/c/ 0711",
            "u/",
            "u/a -> /t",
            "v/",
            "v/b -> /s/a",
        ],
    );
    for (source, dest, expected) in [
        (
            "d",
            "/r",
            "error: cannot copy a file onto the directory \"/r/b\"",
        ),
        (
            "d",
            "/s",
            "error: cannot copy a directory onto \"/s/a\", which is not a directory",
        ),
        (
            "d",
            "/u",
            "error: cannot copy a directory onto \"/u/a\", which is not a directory",
        ),
        ("e", "/r", "r/ r/b/ r/b/z<e/b/z>"),
        (
            "d",
            "/t",
            "t/ t/a/ t/a/x<d/a/x> t/b<d/b> t/c/(700) t/c/w<d/c/w>",
        ),
        // A link below the destination is replaced, not followed.
        (
            "d",
            "/v",
            "v/ v/a/ v/a/x<d/a/x> v/b<d/b> v/c/(700) v/c/w<d/c/w>",
        ),
        ("d/b", "/v/", "v/ v/b<d/b>"),
    ] {
        assert_eq!(case.run(&[source], dest), expected, "{source} {dest}");
    }
    assert_eq!(
        case.run(&["d", "e"], "/n/"),
        "error: cannot copy a directory onto \"/n/b\", which is not a directory"
    );
}

#[test]
fn matches_of_patterns() {
    let case = case(
        &[
            "d/a/f",
            "d/a/g",
            "d/b/f 0600",
            "d/b/h",
            "e/f",
            "e/g/in",
            "e/h",
            "e/i -> h",
            "e/j",
            "k/a/",
            "k/b/",
            "k/c",
            "k/d/",
            "k/e/",
            "x/1/p",
            "x/1/q = x/1/p",
            "x/1/s/t",
            "x/1/v",
            "x/1/w = x/1/v",
            "x/2/p 0600",
            "x/2/r = x/2/p",
            "x/2/s/ 0700",
            "x/2/s/u",
            "y/1/p/in",
            "y/2/p",
            "z/1/p",
            "z/2/p/in",
        ],
        &["etc/", "etc/f/", "file"],
    );
    for (source, dest, expected) in [
        // Empty directories make the destination, and go nowhere themselves.
        ("k/[ab]", "/n", "n/"),
        ("k/*", "/n", "n/ n/c<k/c>"),
        ("k/[ab]", "/etc", ""),
        (
            "k/[ab]",
            "/file",
            "error: cannot copy a directory onto \"/file\", which is not a directory",
        ),
        // Of one name the last counts.
        ("d/*/*", "/n/", "n/ n/f(600)<d/b/f> n/g<d/a/g> n/h<d/b/h>"),
        ("d/*/f", "/n", "n(600)<d/b/f>"),
        ("d/*/f", "/file", "file(600)<d/b/f>"),
        // Files before and behind directories and links.
        (
            "e/*",
            "/n/",
            "n/ n/f<e/f> n/h<e/h> n/i<e/h> n/in<e/g/in> n/j<e/j>",
        ),
        (
            "e/[fj]",
            "/etc/",
            "error: cannot copy a file onto the directory \"/etc/f\"",
        ),
        (
            "e/*",
            "/n",
            "error: cannot copy a directory onto \"/n\", which is not a directory",
        ),
        (
            "e/[g-j]",
            "/n",
            "n/ n/h<e/h> n/i<e/h> n/in<e/g/in> n/j<e/j>",
        ),
        // What is in directories is merged; names of one file stay that in each.
        (
            "x/*",
            "/n",
            "n/ n/p(600)<x/2/p> n/q<x/1/p> n/r=n/p(600) n/s/(700) n/s/t<x/1/s/t> n/s/u<x/2/s/u> n/v<x/1/v> n/w=n/v",
        ),
        (
            "y/*",
            "/n",
            "error: cannot copy a file onto the directory \"/n/p\"",
        ),
        (
            "z/*",
            "/n",
            "error: cannot copy a directory onto \"/n/p\", which is not a directory",
        ),
    ] {
        assert_eq!(case.run(&[source], dest), expected, "{source} {dest}");
    }
}

#[test]
fn owners_and_modes() {
    let mut case = case(
        &["f", "d/x 04755", "d/l -> x", "d/sub/"],
        &["etc/ 0711", "l -> etc"],
    );
    case.options.chown = Some((5, 6));
    for (source, dest, expected) in [
        ("f", "/n/m/f", "n/[5:6] n/m/[5:6] n/m/f[5:6]"),
        (
            "d",
            "/etc",
            "etc/(711) etc/l->x[5:6] etc/sub/[5:6] etc/x(4755)[5:6]<d/x>",
        ),
    ] {
        assert_eq!(case.run(&[source], dest), expected, "{source} {dest}");
    }
    case.options.chown = None;
    case.options.chmod = Some(Chmod::parse("770").unwrap());
    // --link has no effect with --chmod: the link at the destination is seen.
    case.options.link = true;
    for (source, dest, expected) in [
        ("f", "/p/s/f", "p/(770) p/s/(770) p/s/f(770)"),
        (
            "d",
            "/l/",
            "etc/(711) etc/l->x etc/sub/(770) etc/x(770)<d/x>",
        ),
    ] {
        assert_eq!(case.run(&[source], dest), expected, "{source} {dest}");
    }
    case.options.chmod = Some(Chmod::parse("u=rwX,go=").unwrap());
    assert_eq!(
        case.run(&["d"], "/q"),
        "q/(700) q/l->x q/sub/(700) q/x(700)<d/x>"
    );
    case.options.chmod = None;
    assert_eq!(case.run(&["f"], "/l/f"), "l/ l/f");
    assert_eq!(case.run(&["f"], "/etc/"), "etc/ etc/f");
}

#[test]
fn parents() {
    let mut case = case(
        &["a/ 0711", "a/b/ 0700", "a/b/x", "a/y", "a/b/c/"],
        &["a/ 0750", "o/a/ 01777"],
    );
    case.parents = true;
    for (source, dest, expected) in [
        ("a/b/x", "/n/", "n/ n/a/(711) n/a/b/(700) n/a/b/x<a/b/x>"),
        ("a/./b/x", "/n", "n/ n/b/(700) n/b/x<a/b/x>"),
        ("a/none*", "/n/", "n/"),
        ("a/b/x", "/", "a/(711) a/b/(700) a/b/x<a/b/x>"),
        ("./a/*/c", "/o", "o/ o/a/(711) o/a/b/(700) o/a/b/c/"),
    ] {
        assert_eq!(case.run(&[source], dest), expected, "{source} {dest}");
    }
    case.exclude = vec!["a/b"];
    assert_eq!(case.run(&["a"], "/n/"), "n/ n/a/(711) n/a/y<a/y>");
}

#[test]
fn hard_links() {
    let case = case(&["d/b", "d/a/", "d/a/z = d/b", "d/c = d/b", "e/b"], &[]);
    assert_eq!(
        case.run(&["d"], "/n/"),
        "n/ n/a/ n/a/z<d/b> n/b=n/a/z n/c=n/a/z"
    );
    // What replaces one name leaves the others what they were.
    assert_eq!(
        case.run(&["d", "e"], "/n/"),
        "n/ n/a/ n/a/z<d/b> n/b<e/b> n/c=n/a/z"
    );
    assert_eq!(case.run(&["d/b", "d/c"], "/n/"), "n/ n/b<d/b> n/c<d/b>");
}

fn file(name: &str) -> Source {
    Source::File(Single {
        name: name.into(),
        body: Body::Bytes(name.as_bytes().into()),
        size: name.len() as u64,
        mode: 0o644,
        mtime: Mtime::default(),
    })
}

#[test]
fn single_files() {
    let case = case(&[], &["d/"]);
    let run = |sources, dest| match plan(
        sources,
        dest,
        Path::new("/w"),
        Arc::new(LocalTree::open(case.root.path(), None).unwrap()),
        &case.options,
        &tempfile::tempfile,
    ) {
        Ok(changes) => show(changes.map(Result::unwrap).collect()),
        Err(e) => format!("error: {e}"),
    };
    assert_eq!(run(vec![file("EOF")], "single"), "w/ w/single<EOF>");
    assert_eq!(
        run(vec![file("EOF"), file("EOF2")], "double/"),
        "w/ w/double/ w/double/EOF w/double/EOF2"
    );
    assert_eq!(run(vec![file("EOF")], "/d"), "d/ d/EOF");
    for bad in ["", ".", "..", "../x", "/x", "a/b", "a\0b"] {
        let out = run(vec![file(bad)], "/d/");
        assert!(
            out.ends_with("can't be the name of a file"),
            "{bad:?}: {out}"
        );
    }
}

/// The content of each file is its path.
fn archive(entries: Vec<Entry>) -> Archive {
    let cancel = crate::event::Cancel::new();
    let mut aside = ArchiveWriter::new(&tempfile::tempfile, &cancel);
    for entry in entries {
        let place = aside.bytes(entry.path.as_os_str().as_bytes());
        aside.push(&entry, place).unwrap();
    }
    aside.finish().unwrap()
}

#[test]
fn archives() {
    let case = case(
        &[],
        &["etc/", "lib -> usr/lib", "usr/lib/", "old/", "old/x"],
    );
    let entry = |path: &str, kind: Kind, mode: u32| Entry {
        path: path.into(),
        kind,
        meta: Meta {
            mode,
            ..Meta::default()
        },
    };
    let file = |path: &str| {
        entry(
            path,
            Kind::File {
                size: path.len() as u64,
            },
            0o644,
        )
    };
    let run = |entries: Vec<Entry>, dest: &str| match plan(
        vec![Source::Archive(archive(entries))],
        dest,
        Path::new("/"),
        Arc::new(LocalTree::open(case.root.path(), None).unwrap()),
        &case.options,
        &tempfile::tempfile,
    ) {
        Ok(changes) => show(changes.map(Result::unwrap).collect()),
        Err(e) => format!("error: {e}"),
    };
    assert_eq!(run(vec![file("x")], "/n"), "n/ n/x");
    assert_eq!(
        run(vec![entry("lib", Kind::Dir, 0o700), file("lib/so")], "/"),
        "lib/(700) lib/so<lib/so>"
    );
    assert_eq!(
        run(vec![file("lib/so")], "/"),
        "usr/ usr/lib/ usr/lib/so<lib/so>"
    );
    assert_eq!(
        run(vec![entry("", Kind::Dir, 0o711), file("x")], "/etc"),
        "etc/(711) etc/x"
    );
    assert_eq!(run(vec![file("old")], "/"), "old");
    assert_eq!(
        run(vec![entry("etc", Kind::Dir, 0o700), file("etc/a")], "/"),
        "etc/(700) etc/a<etc/a>"
    );
    let link = |target: &str| Kind::Hardlink {
        target: target.into(),
    };
    assert_eq!(
        run(vec![file("b"), entry("a", link("b"), 0)], "/n/"),
        "n/ n/a<b> n/b=n/a"
    );
    // The way to what a link names may change between two links.
    let symlink = |target: &str| Kind::Symlink {
        target: target.into(),
    };
    assert_eq!(
        run(
            vec![
                file("a/f"),
                file("b/f"),
                file("b/g"),
                entry("1", link("a/f"), 0),
                entry("2", link("a/f"), 0),
                entry("a", symlink("b"), 0o777),
                entry("3", link("a/f"), 0),
                entry("b/f", symlink("g"), 0o777),
                entry("4", link("a/f"), 0),
                entry("5", link("c/../b/g"), 0),
                entry("c", symlink("/n/b/d/e"), 0o777),
                file("b/d/e/h"),
                file("b/d/b/g"),
                entry("6", link("c/../b/g"), 0),
            ],
            "/n/"
        ),
        "n/ n/1<a/f> n/2=n/1 n/3<b/f> n/4<b/g> n/5=n/4 n/6<b/d/b/g> n/a->b n/b/ n/b/d/ \
         n/b/d/b/ n/b/d/b/g=n/6 n/b/d/e/ n/b/d/e/h<b/d/e/h> n/b/f->g n/b/g=n/4 \
         n/c->/n/b/d/e"
    );
    assert!(run(vec![entry("a", link("../etc/passwd"), 0)], "/n/").starts_with("error"));
    assert_eq!(
        run(
            vec![
                entry(
                    "l",
                    Kind::Symlink {
                        target: "/etc".into()
                    },
                    0o777
                ),
                file("l/f")
            ],
            "/n"
        ),
        "etc/ etc/f<l/f> n/ n/l->/etc"
    );
}

/// What is spilled and what is not come to the same: archives of many entries,
/// in no order, with replaced names and links, with and without a filler that
/// pushes each of them into a run of its own.
#[test]
fn long_archives_are_as_short_ones() {
    let file = |path: String| Entry {
        kind: Kind::File {
            size: path.len() as u64,
        },
        path: path.into(),
        meta: Meta {
            mode: 0o644,
            ..Meta::default()
        },
    };
    let entry = |path: &str, kind: Kind| Entry {
        kind,
        ..file(path.to_owned())
    };
    let dir = |path: &str| entry(path, Kind::Dir);
    let link = |path: &str, target: &str| {
        entry(
            path,
            Kind::Symlink {
                target: target.into(),
            },
        )
    };
    let name = |path: &str, target: &str| {
        entry(
            path,
            Kind::Hardlink {
                target: target.into(),
            },
        )
    };
    let plain = |path: &str| file(path.to_owned());
    let story = || {
        vec![
            dir("a"),
            plain("a/one"),
            plain("a/b/two"),
            // A directory with all in it gives way to a file, and comes again.
            plain("a/b"),
            dir("a/b"),
            plain("a/b/three"),
            link("l", "a"),
            plain("l/four"),
            dir("l"),
            plain("l/five"),
            name("z", "a/one"),
            name("0", "z"),
            plain("a/one"),
            link("out", "/etc"),
            plain("out/six"),
            plain("keep/seven"),
        ]
    };
    let run = |filler: usize| {
        let case = case(&[], &["etc/ 0711", "n/", "n/keep/ 0700", "n/keep/old"]);
        let mut entries = Vec::new();
        for (round, entry) in story().into_iter().enumerate() {
            entries.push(entry);
            let fill = |n| file(format!("f{}/r{round}-{n}", n % 3));
            entries.extend((0..filler).map(fill));
        }
        let changes = plan(
            vec![Source::Archive(archive(entries))],
            "/n",
            Path::new("/"),
            Arc::new(LocalTree::open(case.root.path(), None).unwrap()),
            &case.options,
            &tempfile::tempfile,
        );
        let changes: Vec<Change> = changes.unwrap().map(Result::unwrap).collect();
        let (fillers, rest): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(|c| {
            c.path().starts_with("n/f0") || c.path().to_str().unwrap().contains("/r")
        });
        assert!(fillers.len() >= 16 * filler);
        let rest = rest.into_iter();
        show(
            rest.filter(|c| !c.path().to_str().unwrap().starts_with("n/f"))
                .collect(),
        )
    };
    let short = run(0);
    assert_eq!(
        short,
        "etc/(711) etc/six<out/six> n/ n/0<a/one> n/a/(644) n/a/b/(644) n/a/b/three<a/b/three> \
         n/a/four<l/four> n/a/one<a/one> n/keep/(700) n/keep/seven<keep/seven> n/l/(644) \
         n/l/five<l/five> n/out->/etc(644) n/z=n/0"
    );
    assert_eq!(run(3_000), short);
}

#[test]
fn linked_files_of_sources_around_an_archive_are_not_one() {
    let case = case(&["d/a", "d/b = d/a", "e/c", "e/d = e/c"], &[]);
    let tree: Arc<dyn Tree> = Arc::new(LocalTree::open(case.src.path(), None).unwrap());
    let source = |path| {
        let none = Ignore::default();
        let selection = select(&*tree, path, false, &none, &tempfile::tempfile).unwrap();
        let contents = Contents::unhashed(tree.clone(), &selection);
        Source::tree(Arc::new(contents), selection)
    };
    let changes = plan(
        vec![
            source("d"),
            Source::Archive(archive(Vec::new())),
            source("e"),
        ],
        "/n/",
        Path::new("/"),
        Arc::new(Empty),
        &case.options,
        &tempfile::tempfile,
    );
    let changes = changes.unwrap().map(Result::unwrap).collect();
    assert_eq!(show(changes), "n/ n/a<d/a> n/b=n/a n/c<e/c> n/d=n/c");
}

#[test]
fn changed_files_are_noticed() {
    let case = case(&["f", "g", "h"], &[]);
    let changes = case.changes(&["f", "g", "h"], "/n/").unwrap();
    std::fs::write(case.src.path().join("f"), "longer than before").unwrap();
    std::fs::remove_file(case.src.path().join("g")).unwrap();
    symlink("/etc/passwd", case.src.path().join("g")).unwrap();
    std::fs::rename(case.src.path().join("h"), case.src.path().join("i")).unwrap();
    let mut seen = 0;
    for change in changes {
        if let Change::Put(_, Content::Read(open)) = change {
            assert!(open().is_err());
            seen += 1;
        }
    }
    assert_eq!(seen, 3);
}

#[test]
fn targets() {
    for (dest, workdir, path, is_dir) in [
        ("", "/w", "w", true),
        (".", "/w", "w", true),
        ("./", "/w", "w", true),
        ("a", "/w", "w/a", false),
        ("/a/b/", "/w", "a/b", true),
        ("/a/./b/.", "/w", "a/b", true),
        ("../..", "/w", "", false),
    ] {
        let target = Target::parse(dest, Path::new(workdir));
        assert_eq!(
            (target.path.to_str().unwrap(), target.is_dir),
            (path, is_dir),
            "{dest}"
        );
    }
}
