use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::layer::tar_read::raw::Raw;
use crate::layer::ustar;
use crate::sys::capability::{self, DAC_OVERRIDE};

/// Sets what directories shall have after every few of them.
fn unpack(
    tar: impl Read,
    root: &Root,
    options: &UnpackOptions<'_>,
) -> Result<Unpacked, UnpackError> {
    apply(tar, root, options, Notes::new(!options.owners), 3)
}

/// A directory with the roots in it, and one beside them that nothing may
/// touch.
struct Sandbox {
    dir: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    overlay: bool,
    /// Without `openat2`.
    walking: bool,
}

const VARIANTS: [Variant; 4] = [
    Variant {
        overlay: false,
        walking: false,
    },
    Variant {
        overlay: false,
        walking: true,
    },
    Variant {
        overlay: true,
        walking: false,
    },
    Variant {
        overlay: true,
        walking: true,
    },
];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn form(overlay: bool) -> Form {
    match overlay {
        true => Form::Overlay {
            user_xattr: !is_root(),
        },
        false => Form::Flat,
    }
}

fn options<'a>(overlay: bool) -> UnpackOptions<'a> {
    UnpackOptions {
        max_bytes: 64 << 20,
        max_entries: 100_000,
        owners: is_root(),
        devices: if is_root() {
            Devices::Create
        } else {
            Devices::Placeholder
        },
        ..UnpackOptions::new(form(overlay))
    }
}

impl Sandbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("canary"), "alive").unwrap();
        std::fs::set_permissions(out.join("canary"), PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::set_permissions(&out, PermissionsExt::from_mode(0o700)).unwrap();
        Self { dir }
    }

    fn out(&self) -> String {
        self.dir.path().join("out").to_str().unwrap().to_owned()
    }

    fn check(&self, what: &str) {
        let out = self.dir.path().join("out");
        let stat = std::fs::metadata(&out).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o700, "{what}");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1, "{what}");
        let canary = out.join("canary");
        let stat = std::fs::symlink_metadata(&canary).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.nlink()), (0o600, 1), "{what}");
        assert_eq!(std::fs::read(&canary).unwrap(), b"alive", "{what}");
    }

    fn root(&self, name: &str, walking: bool) -> Root {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let root = Root::open(&path).unwrap();
        if walking { root.walking() } else { root }
    }

    /// Applies the layers and describes the tree that they make.
    fn apply(&self, layers: &[Vec<u8>], variant: Variant) -> Result<String, String> {
        let text = |e: UnpackError| {
            let source = std::error::Error::source(&e).map(|s| format!(": {s}"));
            format!("{e}{}", source.unwrap_or_default())
        };
        let mut stack = Stack(Vec::new());
        for (n, layer) in layers.iter().enumerate() {
            let name = if variant.overlay {
                format!("layer{n}")
            } else {
                "flat".into()
            };
            let root = self.root(&name, variant.walking);
            let mut options = options(variant.overlay);
            options.lower = variant.overlay.then_some(&stack);
            unpack(&layer[..], &root, &options).map_err(text)?;
            if variant.overlay || n == 0 {
                stack.0.push(self.dir.path().join(name));
            }
        }
        Ok(stack.tree())
    }
}

/// Layer directories in overlay form, the lowest first; one flat root is a
/// stack of one.
struct Stack(Vec<PathBuf>);

impl Stack {
    fn opaque(path: &Path) -> bool {
        ["trusted.overlay.opaque", "user.overlay.opaque"]
            .iter()
            .any(|name| {
                let mut value = [0; 1];
                rustix::fs::lgetxattr(path, *name, &mut value[..]).is_ok()
            })
    }

    /// Where the entry at `path` is, what is hidden being none.
    fn locate(&self, path: &Path) -> Option<PathBuf> {
        'layers: for layer in self.0.iter().rev() {
            let mut here = layer.clone();
            let mut last = Self::opaque(&here);
            let parts: Vec<_> = path.components().collect();
            for (i, part) in parts.iter().enumerate() {
                here.push(part);
                let Ok(stat) = std::fs::symlink_metadata(&here) else {
                    if last {
                        return None;
                    }
                    continue 'layers;
                };
                let whiteout = stat.file_type().is_dir_char() && stat.rdev() == 0;
                if whiteout || (i + 1 < parts.len() && !stat.is_dir()) {
                    return None;
                }
                last |= stat.is_dir() && Self::opaque(&here);
            }
            return Some(here);
        }
        None
    }

    fn names(&self, path: &Path) -> BTreeSet<std::ffi::OsString> {
        let list = |layer: &PathBuf| {
            let list = std::fs::read_dir(layer.join(path)).ok()?;
            Some(list.map(|e| e.unwrap().file_name()).collect::<Vec<_>>())
        };
        let names = self.0.iter().filter_map(list).flatten();
        names
            .filter(|n| self.locate(&path.join(n)).is_some())
            .collect()
    }

    fn describe(&self, path: &Path, out: &mut Vec<String>) {
        let real = self.locate(path).unwrap();
        let stat = std::fs::symlink_metadata(&real).unwrap();
        let name = path
            .to_str()
            .map_or_else(|| format!("{path:?}"), str::to_owned);
        if stat.is_dir() {
            if !name.is_empty() {
                out.push(format!("{name}/"));
            }
            for child in self.names(path) {
                self.describe(&path.join(child), out);
            }
        } else if stat.is_symlink() {
            let target = std::fs::read_link(&real).unwrap();
            out.push(format!("{name}->{}", target.display()));
        } else if stat.is_file() {
            out.push(format!(
                "{name}={}",
                String::from_utf8_lossy(&std::fs::read(&real).unwrap())
            ));
        } else {
            out.push(format!("{name}!{:o}", stat.mode() >> 12));
        }
    }

    fn tree(&self) -> String {
        let mut out = Vec::new();
        self.describe(Path::new(""), &mut out);
        out.join(" ")
    }
}

trait IsDirChar {
    fn is_dir_char(&self) -> bool;
}

impl IsDirChar for std::fs::FileType {
    fn is_dir_char(&self) -> bool {
        std::os::unix::fs::FileTypeExt::is_char_device(self)
    }
}

impl Lower for Stack {
    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        // Others would follow it.
        let links = path.ancestors().skip(1).filter_map(|p| self.locate(p));
        if links.into_iter().any(|link| link.is_symlink()) {
            return Err(Errno::LOOP.into());
        }
        let Some(real) = self.locate(path) else {
            return Ok(None);
        };
        let stat = std::fs::symlink_metadata(&real)?;
        let kind = if stat.is_dir() {
            Kind::Dir
        } else if stat.is_symlink() {
            Kind::Symlink {
                target: std::fs::read_link(&real)?,
            }
        } else {
            Kind::File { size: stat.len() }
        };
        let meta = Meta {
            mode: stat.mode() & 0o7777,
            uid: stat.uid(),
            gid: stat.gid(),
            mtime: crate::layer::Mtime {
                secs: stat.mtime(),
                nanos: stat.mtime_nsec() as u32,
            },
            xattrs: BTreeMap::new(),
        };
        let path = path.to_owned();
        Ok(Some(Entry { path, kind, meta }))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(self.locate(path).unwrap())
    }
}

fn raw() -> Raw {
    Raw::new()
}

/// Applies each case in all variants: the tree it must give, or a part of the
/// message.
fn table(cases: Vec<(&str, Vec<Raw>, Result<&str, &str>)>) {
    for (what, layers, expected) in cases {
        let layers: Vec<Vec<u8>> = layers.into_iter().map(Raw::end).collect();
        for variant in VARIANTS {
            let sandbox = Sandbox::new();
            let got = sandbox.apply(&layers, variant);
            sandbox.check(what);
            match (&got, expected) {
                (Ok(tree), Ok(expected)) => assert_eq!(tree, expected, "{what} {variant:?}"),
                (Err(e), Err(part)) => assert!(e.contains(part), "{what} {variant:?}: {e}"),
                _ => panic!("{what} {variant:?}: {got:?}"),
            }
        }
    }
}

#[test]
fn links_never_lead_out() {
    let sandbox = Sandbox::new();
    let out = sandbox.out();
    let up = format!("../../../../../../../..{out}");
    let inside = out.trim_start_matches('/');
    for target in [out.as_str(), up.as_str()] {
        let link = || raw().link("d", target);
        let cases = [
            ("same layer", vec![link().file("d/pwn", b"x")]),
            ("next layer", vec![link(), raw().file("d/pwn", b"x")]),
            ("directory", vec![link().dir("d/sub", 0o777)]),
            (
                "chain",
                vec![raw().link("e", "d").link("d", target).file("e/pwn", b"x")],
            ),
            ("canary", vec![link(), raw().file("d/canary", b"x")]),
            ("whiteout", vec![link(), raw().file("d/.wh.canary", b"")]),
            ("opaque", vec![link(), raw().file("d/.wh..wh..opq", b"")]),
            ("hard link", vec![link(), raw().hard("h", "d/canary")]),
            (
                "hard link out",
                vec![raw().hard("h", &format!("{target}/canary"))],
            ),
            (
                "hard to link",
                vec![
                    raw()
                        .link("l", &format!("{target}/canary"))
                        .hard("h", "l")
                        .file_mode("h", b"PWN", 0o4777),
                ],
            ),
            ("mode", vec![link().dir("d", 0o777)]),
            (
                "file on link",
                vec![raw().link("f", &format!("{target}/canary")).file("f", b"x")],
            ),
            (
                "swapped",
                vec![raw().dir("d", 0o500).file("d/x", b"x").link("d", target)],
            ),
            (
                "xattr",
                vec![
                    raw()
                        .pax(&[("SCHILY.xattr.user.x", b"y")])
                        .link("f", &format!("{target}/canary")),
                ],
            ),
        ];
        for (what, layers) in cases {
            let layers: Vec<Vec<u8>> = layers.into_iter().map(Raw::end).collect();
            for variant in VARIANTS {
                let sandbox = &sandbox;
                let _ = std::fs::remove_dir_all(sandbox.dir.path().join("flat"));
                for n in 0..3 {
                    let _ = std::fs::remove_dir_all(sandbox.dir.path().join(format!("layer{n}")));
                }
                let got = sandbox.apply(&layers, variant);
                sandbox.check(what);
                match what {
                    "same layer" | "next layer" | "chain" => {
                        let tree = got.unwrap();
                        assert!(
                            tree.contains(&format!("{inside}/pwn=x")),
                            "{what} {variant:?} {tree}"
                        );
                    }
                    "hard link" | "hard link out" => assert!(got.is_err(), "{what} {variant:?}"),
                    _ => drop(got.unwrap()),
                }
            }
        }
    }
}

#[test]
fn links_that_images_have_work() {
    let up = "../../../../../../../../../../etc/x";
    table(vec![
        (
            "many dots",
            vec![raw().link("etc/pki/cacerts", up)],
            Ok("etc/ etc/pki/ etc/pki/cacerts->../../../../../../../../../../etc/x"),
        ),
        (
            "merged usr",
            vec![
                raw()
                    .dir("usr", 0o755)
                    .dir("usr/bin", 0o755)
                    .link("bin", "usr/bin"),
                raw().file("bin/sh", b"s"),
            ],
            Ok("bin->usr/bin usr/ usr/bin/ usr/bin/sh=s"),
        ),
        (
            "same layer",
            vec![
                raw()
                    .dir("usr/bin", 0o755)
                    .link("bin", "usr/bin")
                    .file("bin/sh", b"s"),
            ],
            Ok("bin->usr/bin usr/ usr/bin/ usr/bin/sh=s"),
        ),
        (
            "var run",
            vec![
                raw()
                    .dir("var", 0o755)
                    .link("var/run", "/run")
                    .dir("run", 0o755),
                raw().file("var/run/x", b"1"),
            ],
            Ok("run/ run/x=1 var/ var/run->/run"),
        ),
        (
            "before it exists",
            vec![raw().link("var/run", "/run").file("var/run/x", b"1")],
            Ok("run/ run/x=1 var/ var/run->/run"),
        ),
        (
            "dangling",
            vec![raw().link("a", "nowhere")],
            Ok("a->nowhere"),
        ),
        (
            "rewritten",
            vec![
                raw().file("etc/passwd", b"1"),
                raw().file("etc/passwd", b"2"),
            ],
            Ok("etc/ etc/passwd=2"),
        ),
        (
            "relinked",
            vec![
                raw().file("bin/dash", b"d").link("bin/sh", "dash"),
                raw().link("bin/sh", "bash"),
            ],
            Ok("bin/ bin/dash=d bin/sh->bash"),
        ),
        (
            "lower link",
            vec![
                raw().dir("real", 0o755).link("d", "real"),
                raw().file("d/x", b"1"),
            ],
            Ok("d->real real/ real/x=1"),
        ),
        (
            "removed link",
            vec![
                raw().link("d", "/elsewhere"),
                raw().file(".wh.d", b""),
                raw().file("d/x", b"1"),
            ],
            Ok("d/ d/x=1"),
        ),
        (
            "loop",
            vec![raw().link("a", "a").file("a/x", b"1")],
            Err("symbolic links"),
        ),
        (
            "two loops",
            vec![raw().link("a", "b").link("b", "a"), raw().file("a/x", b"1")],
            Err("symbolic links"),
        ),
        (
            "link to file",
            vec![raw().file("f", b"1").link("l", "f").file("l/x", b"1")],
            Err("Not a directory"),
        ),
    ]);
    let mut chain = raw().dir("l0", 0o755);
    for n in 1..50 {
        chain = chain.link(&format!("l{n}"), &format!("l{}", n - 1));
    }
    let ok = chain.0.clone();
    table(vec![(
        "long chain",
        vec![chain.file("l49/x", b"")],
        Err("symbolic links"),
    )]);
    let layers = [Raw(ok).file("l30/x", b"").end()];
    for variant in VARIANTS {
        Sandbox::new().apply(&layers, variant).unwrap();
    }
}

#[test]
fn names_and_types_are_settled_by_the_last() {
    table(vec![
        (
            "absolute",
            vec![raw().file("/abs/f", b"1")],
            Ok("abs/ abs/f=1"),
        ),
        ("dots", vec![raw().file("../x", b"1")], Err("`..`")),
        ("root link", vec![raw().link(".", "/x")], Err("root")),
        (
            "duplicate",
            vec![raw().file("f", b"1").file("f", b"22")],
            Ok("f=22"),
        ),
        (
            "file, dir, link, file",
            vec![
                raw()
                    .file("x", b"1")
                    .dir("x", 0o755)
                    .file("x/y", b"2")
                    .link("x", "t")
                    .file("x", b"3"),
            ],
            Ok("x=3"),
        ),
        (
            "over layers",
            vec![
                raw().file("x", b"1"),
                raw().dir("x", 0o755).file("x/y", b"2"),
                raw().link("x", "t"),
                raw().file("x", b"3"),
            ],
            Ok("x=3"),
        ),
        (
            "dir on dir",
            vec![
                raw().dir("d", 0o755).file("d/a", b"1"),
                raw().dir("d", 0o700).file("d/b", b"2"),
            ],
            Ok("d/ d/a=1 d/b=2"),
        ),
        (
            "dir on link",
            vec![
                raw().dir("t", 0o755).link("d", "t"),
                raw().dir("d", 0o755).file("d/x", b"1"),
            ],
            Ok("d/ d/x=1 t/"),
        ),
        (
            "file on full dir",
            vec![
                raw().dir("d", 0o755).file("d/a", b"1"),
                raw().file("d", b"2"),
            ],
            Ok("d=2"),
        ),
        (
            "file as parent",
            vec![raw().file("f", b"1").file("f/c", b"2")],
            Ok("f/ f/c=2"),
        ),
        (
            "file as parent below",
            vec![raw().file("f", b"1"), raw().file("f/c", b"2")],
            Ok("f/ f/c=2"),
        ),
        (
            "fifo",
            vec![raw().fifo("p"), raw().fifo("q").file("p", b"1")],
            Ok("p=1 q!1"),
        ),
        (
            "name too long",
            vec![raw().pax(&[("path", &[b'n'; 256])]).file("x", b"")],
            Err("name too long"),
        ),
    ]);
}

#[test]
fn every_kind_replaces_every_other() {
    let kinds: [(&str, fn(Raw) -> Raw, &str); 5] = [
        ("file", |r| r.file("x", b"1"), "a=0 x=1"),
        ("dir", |r| r.dir("x", 0o755), "a=0 x/"),
        (
            "full",
            |r| r.dir("x", 0o755).file("x/y", b"1"),
            "a=0 x/ x/y=1",
        ),
        ("link", |r| r.link("x", "a"), "a=0 x->a"),
        ("fifo", |r| r.fifo("x"), "a=0 x!1"),
    ];
    for (first, make, _) in kinds {
        for (second, replace, tree) in kinds {
            let keeps = first == "full" && (second == "dir" || second == "full");
            let tree = if keeps { "a=0 x/ x/y=1" } else { tree };
            let what = format!("{second} on {first}");
            let base = || raw().file("a", b"0");
            table(vec![
                (&what, vec![replace(make(base()))], Ok(tree)),
                (&what, vec![make(base()), replace(raw())], Ok(tree)),
            ]);
        }
        table(vec![(
            "hard",
            vec![make(raw().file("a", b"0")).hard("x", "a")],
            Ok("a=0 x=0"),
        )]);
    }
}

#[test]
fn hard_links_stay_inside_and_have_a_target() {
    table(vec![
        (
            "link",
            vec![raw().file("a", b"1").hard("b", "/a")],
            Ok("a=1 b=1"),
        ),
        (
            "clamped",
            vec![raw().file("a", b"1").hard("b", "../../a")],
            Ok("a=1 b=1"),
        ),
        (
            "over layers",
            vec![raw().file("a", b"1"), raw().hard("b", "a")],
            Ok("a=1 b=1"),
        ),
        (
            "then rewritten",
            vec![
                raw().file("a", b"1"),
                raw().hard("b", "a"),
                raw().file("a", b"2"),
            ],
            Ok("a=2 b=1"),
        ),
        (
            "through a link",
            vec![
                raw().dir("d", 0o755).file("d/a", b"1").link("l", "d"),
                raw().hard("b", "l/a"),
            ],
            Ok("b=1 d/ d/a=1 l->d"),
        ),
        (
            "to a link",
            vec![raw().link("l", "/etc/x").hard("b", "l")],
            Ok("b->/etc/x l->/etc/x"),
        ),
        (
            "to a lower link",
            vec![raw().link("l", "/etc/x"), raw().hard("b", "l")],
            Ok("b->/etc/x l->/etc/x"),
        ),
        (
            "again",
            vec![raw().file("a", b"1").hard("b", "a").hard("b", "a")],
            Ok("a=1 b=1"),
        ),
        (
            "to a directory",
            vec![raw().dir("d", 0o755).hard("h", "d")],
            Err("is a directory"),
        ),
        (
            "to a lower directory",
            vec![raw().dir("d", 0o755), raw().hard("h", "d")],
            Err("is a directory"),
        ),
        ("to itself", vec![raw().hard("h", "h")], Err("h")),
        (
            "to itself, there",
            vec![raw().file("h", b"1").hard("h", "h")],
            Err("itself"),
        ),
        (
            "to itself by a link",
            vec![raw().link("l", ".").file("h", b"1").hard("l/h", "h")],
            Err("itself"),
        ),
        (
            "forward",
            vec![raw().hard("h", "later").file("later", b"1")],
            Err("exist"),
        ),
        (
            "to a removed one",
            vec![
                raw().file("a", b"1"),
                raw().file(".wh.a", b"").hard("h", "a"),
            ],
            Err("its target a"),
        ),
        (
            "to one in a removed one",
            vec![
                raw().file("d/a", b"1"),
                raw().file(".wh.d", b""),
                raw().hard("h", "d/a"),
            ],
            Err("exist"),
        ),
        (
            "to one hidden by a file",
            vec![
                raw().file("d/a", b"1"),
                raw().file("d", b"1").hard("h", "d/a"),
            ],
            Err(""),
        ),
        (
            "to one in an opaque one",
            vec![
                raw().file("d/a", b"1"),
                raw().file("d/.wh..wh..opq", b"").hard("h", "d/a"),
            ],
            Err("exist"),
        ),
    ]);
    let sandbox = Sandbox::new();
    let root = sandbox.root("one", false);
    let layer = raw().hard("b", "usr/a").end();
    match unpack(&layer[..], &root, &options(true)) {
        Err(UnpackError::LowerLink { path, target }) => {
            assert_eq!((path, target), ("b".into(), "usr/a".into()));
        }
        other => panic!("{other:?}"),
    }
    let layer = raw().file("a", b"1").hard("b", "a").end();
    unpack(&layer[..], &root, &options(true)).unwrap();
    let stat = std::fs::metadata(sandbox.dir.path().join("one/b")).unwrap();
    assert_eq!(stat.nlink(), 2);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = || {
        raw()
            .dir("d", 0o755)
            .file("d/a", b"1")
            .file("d/e/b", b"2")
            .file("x", b"3")
    };
    table(vec![
        (
            "file",
            vec![lower(), raw().file(".wh.x", b"")],
            Ok("d/ d/a=1 d/e/ d/e/b=2"),
        ),
        (
            "directory",
            vec![lower(), raw().file(".wh.d", b"")],
            Ok("x=3"),
        ),
        (
            "nothing",
            vec![
                lower(),
                raw().file(".wh.none", b"").file("no/.wh.where", b""),
            ],
            Ok("d/ d/a=1 d/e/ d/e/b=2 no/ x=3"),
        ),
        (
            "own file after",
            vec![lower(), raw().file(".wh.x", b"").file("x", b"9")],
            Ok("d/ d/a=1 d/e/ d/e/b=2 x=9"),
        ),
        (
            "own file before",
            vec![lower(), raw().file("x", b"9").file(".wh.x", b"")],
            Ok("d/ d/a=1 d/e/ d/e/b=2 x=9"),
        ),
        (
            "own dir after",
            vec![
                lower(),
                raw().file(".wh.d", b"").dir("d", 0o755).file("d/c", b"4"),
            ],
            Ok("d/ d/c=4 x=3"),
        ),
        (
            "own dir before",
            vec![
                lower(),
                raw().dir("d", 0o755).file("d/c", b"4").file(".wh.d", b""),
            ],
            Ok("d/ d/c=4 x=3"),
        ),
        (
            "implied dir after",
            vec![lower(), raw().file(".wh.d", b"").file("d/e/c", b"4")],
            Ok("d/ d/e/ d/e/c=4 x=3"),
        ),
        (
            "implied dir before",
            vec![lower(), raw().file("d/e/c", b"4").file(".wh.d", b"")],
            Ok("d/ d/e/ d/e/c=4 x=3"),
        ),
        (
            "link after",
            vec![lower(), raw().file(".wh.d", b"").link("d", "x")],
            Ok("d->x x=3"),
        ),
        (
            "file, then dir",
            vec![lower(), raw().file("d", b"9").dir("d", 0o755)],
            Ok("d/ x=3"),
        ),
        (
            "file, then implied dir",
            vec![lower(), raw().file("d", b"9").file("d/c", b"4")],
            Ok("d/ d/c=4 x=3"),
        ),
        (
            "opaque first",
            vec![
                lower(),
                raw()
                    .dir("d", 0o755)
                    .file("d/.wh..wh..opq", b"")
                    .file("d/c", b"4"),
            ],
            Ok("d/ d/c=4 x=3"),
        ),
        (
            "opaque last",
            vec![
                lower(),
                raw()
                    .dir("d", 0o755)
                    .file("d/c", b"4")
                    .file("d/.wh..wh..opq", b""),
            ],
            Ok("d/ d/c=4 x=3"),
        ),
        (
            "opaque keeps deep ones",
            vec![
                lower(),
                raw().file("d/e/c", b"4").file("d/.wh..wh..opq", b""),
            ],
            Ok("d/ d/e/ d/e/c=4 x=3"),
        ),
        (
            "opaque root",
            vec![lower(), raw().file("d/c", b"4").file(".wh..wh..opq", b"")],
            Ok("d/ d/c=4"),
        ),
        (
            "opaque root after whiteouts",
            vec![
                lower(),
                raw().file("d/e/.wh.b", b"").file(".wh..wh..opq", b""),
            ],
            Ok("d/ d/e/"),
        ),
        (
            "whiteouts, and one of their directory",
            vec![lower(), raw().file("d/.wh.a", b"").file(".wh.d", b"")],
            Ok("d/ x=3"),
        ),
        (
            "below a link to a lower file",
            vec![lower(), raw().link("l", "x").file("l/y", b"1")],
            Err("Not a directory"),
        ),
        (
            "opaque on a file",
            vec![lower(), raw().file("x/.wh..wh..opq", b"")],
            Ok("d/ d/a=1 d/e/ d/e/b=2 x/"),
        ),
        (
            "opaque by a link",
            vec![
                lower(),
                raw().link("l", "d"),
                raw().file("l/.wh..wh..opq", b""),
            ],
            Ok("d/ l->d x=3"),
        ),
        (
            "whiteout by a link",
            vec![lower(), raw().link("l", "d"), raw().file("l/.wh.a", b"")],
            Ok("d/ d/e/ d/e/b=2 l->d x=3"),
        ),
        (
            "both",
            vec![
                lower(),
                raw()
                    .file("d/.wh.a", b"")
                    .file("d/.wh..wh..opq", b"")
                    .file("d/a", b"5"),
            ],
            Ok("d/ d/a=5 x=3"),
        ),
        (
            "forged",
            vec![lower(), raw().device(b'3', "x", 0, 0)],
            Err("0:0"),
        ),
        (
            "malformed",
            vec![lower(), raw().file("d/.wh...", b"")],
            Err("whiteout"),
        ),
    ]);
}

fn xattrs(path: &Path) -> Vec<String> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    let list = crate::sys::xattr::xattrs(fd.as_fd()).unwrap();
    list.into_iter()
        .map(|(n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii()))
        .collect()
}

#[test]
fn attributes_are_set_and_dangerous_ones_dropped() {
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.keep", b"1"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.whiteout", b"y"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/../../etc"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.system.posix_acl_access", b"x"),
        ("mtime", b"-2.5"),
    ];
    let edit = |mode, uid| {
        move |b: &mut ustar::Block| {
            ustar::MODE.put_octal(b, mode);
            if is_root() {
                ustar::UID.put_octal(b, uid);
                ustar::GID.put_octal(b, uid + 1);
            }
        }
    };
    let layer = raw()
        .pax(records)
        .header(b'0', b"f", 0, edit(0o4755, 1000))
        .pax(records)
        .header(b'5', b"d", 0, edit(0o1500, 2000))
        .file("d/x", b"x")
        .pax(&[("SCHILY.xattr.user.x", b"y")])
        .link("l", "f")
        .end();
    for overlay in [false, true] {
        let sandbox = Sandbox::new();
        let root = sandbox.root("r", false);
        let done = unpack(&layer[..], &root, &options(overlay)).unwrap();
        assert_eq!((done.entries, done.bytes, done.skipped_xattrs), (4, 1, 13));
        let base = sandbox.dir.path().join("r");
        for (name, mode, uid) in [("f", 0o4755, 1000), ("d", 0o1500, 2000)] {
            let stat = std::fs::symlink_metadata(base.join(name)).unwrap();
            assert_eq!(stat.mode() & 0o7777, mode, "{name}");
            assert_eq!(
                (stat.mtime(), stat.mtime_nsec()),
                (-3, 500_000_000),
                "{name}"
            );
            assert_eq!(xattrs(&base.join(name)), ["user.keep=1"]);
            if is_root() {
                assert_eq!((stat.uid(), stat.gid()), (uid, uid + 1));
            }
        }
        // A directory again: attributes are replaced.
        let again = raw().dir("d", 0o755).end();
        unpack(&again[..], &root, &options(overlay)).unwrap();
        assert_eq!(xattrs(&base.join("d")), [""; 0]);
        let stat = std::fs::metadata(base.join("d")).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o755, 1_500_000_000));
    }
}

#[test]
fn implied_directories_are_told_and_leave_others_alone() {
    let base = raw()
        .dir("tmp", 0o1777)
        .dir("home", 0o700)
        .dir("home/u", 0o750)
        .end();
    let layer = raw()
        .file("tmp/x", b"1")
        .file("home/u/y", b"2")
        .file("home/u/more/y", b"2")
        .file("new/z", b"3")
        .end();
    let paths = |list: &[&str]| {
        let mut paths = Paths::default();
        list.iter()
            .for_each(|path| paths.push(Path::new(path)).unwrap());
        paths.settle().unwrap();
        paths
    };
    let state = |dir: &Path| {
        ["tmp", "home", "home/u", "new"].map(|p| {
            let stat = std::fs::metadata(dir.join(p)).unwrap();
            (stat.mode() & 0o7777, stat.mtime())
        })
    };
    let time = 1_500_000_000;
    let kept = [(0o1777, time), (0o700, time), (0o750, time), (0o755, 0)];

    let sandbox = Sandbox::new();
    let root = sandbox.root("flat", false);
    unpack(&base[..], &root, &options(false)).unwrap();
    let done = unpack(&layer[..], &root, &options(false)).unwrap();
    assert_eq!(done.implied, paths(&["home/u/more", "new"]));
    assert_eq!(state(&sandbox.dir.path().join("flat")), kept);
    // A removal is no change of the directory either.
    let gone = raw()
        .file("home/u/.wh.y", b"")
        .file("tmp/.wh..wh..opq", b"")
        .end();
    unpack(&gone[..], &root, &options(false)).unwrap();
    assert_eq!(state(&sandbox.dir.path().join("flat")), kept);

    let lower = sandbox.root("lower", false);
    unpack(&base[..], &lower, &options(true)).unwrap();
    let stack = Stack(vec![sandbox.dir.path().join("lower")]);
    let all = paths(&["", "home", "home/u", "home/u/more", "new", "tmp"]);

    let with = sandbox.root("with", false);
    let mut with_lower = options(true);
    with_lower.lower = Some(&stack);
    let done = unpack(&layer[..], &with, &with_lower).unwrap();
    assert_eq!((&done.implied, done.used_lower), (&all, true));
    assert_eq!(state(&sandbox.dir.path().join("with")), kept);

    let alone = sandbox.root("alone", false);
    let done = unpack(&layer[..], &alone, &options(true)).unwrap();
    assert_eq!((&done.implied, done.used_lower), (&all, false));
    assert_eq!(state(&sandbox.dir.path().join("alone")), [(0o755, 0); 4]);
    assert!(settle(&alone, &done.implied, &stack).unwrap());
    assert_eq!(state(&sandbox.dir.path().join("alone")), kept);

    let linked = sandbox.root("linked", false);
    let links = raw().link("home", "tmp").end();
    unpack(&links[..], &linked, &options(true)).unwrap();
    let stack = Stack(vec![sandbox.dir.path().join("linked")]);
    assert!(!settle(&alone, &done.implied, &stack).unwrap());
}

#[test]
fn links_of_lower_layers_lead_on() {
    let sandbox = Sandbox::new();
    let lower = sandbox.root("lower", false);
    let base = raw()
        .dir("usr/lib", 0o755)
        .link("lib", "usr/lib")
        .link("turn", "turn")
        .link("also", "usr/lib")
        .link("k/l", "/usr/lib")
        .end();
    unpack(&base[..], &lower, &options(true)).unwrap();
    let stack = Stack(vec![sandbox.dir.path().join("lower")]);
    let layer = raw()
        .dir("lib/new", 0o711)
        .file("lib/new/f", b"f")
        .file(".wh.lib", b"")
        .dir("lib/own", 0o711)
        .file("also/x/f", b"f")
        .file("also", b"no link any more")
        .dir("also/x/more", 0o711)
        .file("k/l/y", b"y")
        .file("k/.wh..wh..opq", b"")
        .dir("k/l/new", 0o711)
        .dir("loop", 0o755)
        .link("loop", "loop")
        .file("turn", b"no link any more")
        .file("turn/into/directories/f", b"f")
        .end();
    let mut with_lower = options(true);
    with_lower.lower = Some(&stack);
    for (name, kept) in [("few", 3), ("all", KEPT)] {
        let root = sandbox.root(name, false);
        let notes = Notes::new(false);
        apply(&layer[..], &root, &with_lower, notes, kept).unwrap();
        for path in ["usr/lib/new", "lib/own", "also/x/more", "k/l/new"] {
            let path = sandbox.dir.path().join(name).join(path);
            let stat = std::fs::symlink_metadata(path).unwrap();
            let found = (stat.mode() & 0o7777, stat.mtime());
            assert_eq!(found, (0o711, 1_500_000_000), "{name}");
        }
    }
}

#[test]
fn budgets_stop_bombs() {
    let sandbox = Sandbox::new();
    let limited = |max_bytes, max_entries| UnpackOptions {
        max_bytes,
        max_entries,
        ..options(false)
    };
    let root = sandbox.root("r", false);
    let sparse = Raw::new()
        .pax(&[
            ("GNU.sparse.size", b"9223372036854775807"),
            ("GNU.sparse.map", b""),
        ])
        .file("s", b"")
        .end();
    let big = raw().file("f", &[1; 5000]).end();
    let many = (0..50)
        .fold(raw(), |r, n| r.file(&format!("f{n}"), b""))
        .end();
    let padded = [raw().file("f", b"").end(), vec![0; 50_000]].concat();
    for (what, layer, options) in [
        ("sparse", &sparse, limited(1 << 30, 10)),
        ("file", &big, limited(4000, 10)),
        ("entries", &many, limited(1 << 30, 49)),
        ("headers", &many, limited(10_000, 1000)),
        ("padding", &padded, limited(10_000, 10)),
    ] {
        let e = unpack(&layer[..], &root, &options).unwrap_err();
        assert!(e.to_string().contains("allowed"), "{what}: {e}");
    }
    unpack(&many[..], &root, &limited(1 << 20, 50)).unwrap();
    // Holes are not written.
    let hole = Raw::new()
        .pax(&[
            ("GNU.sparse.size", b"50000000"),
            ("GNU.sparse.map", b"1000000,3"),
        ])
        .file("s", b"abc")
        .end();
    unpack(&hole[..], &root, &options(false)).unwrap();
    let stat = std::fs::metadata(sandbox.dir.path().join("r/s")).unwrap();
    assert_eq!(stat.len(), 50_000_000);
    assert!(stat.blocks() < 100, "{}", stat.blocks());
}

#[test]
fn deep_and_long_paths() {
    let deep = vec!["d"; 600].join("/");
    let long = vec!["n".repeat(250); 20].join("/");
    for path in [deep, long] {
        let file = format!("{path}/f");
        let layer = raw()
            .pax(&[("path", file.as_bytes())])
            .file("x", b"1")
            .end();
        for overlay in [false, true] {
            let sandbox = Sandbox::new();
            let root = sandbox.root("r", false);
            unpack(&layer[..], &root, &options(overlay)).unwrap();
            remove::remove(root.fd(), OsStr::new(&path[..path.find('/').unwrap()])).unwrap();
        }
    }
}

#[test]
fn devices_are_devices_or_told_of() {
    let layer = raw()
        .device(b'3', "null", 1, 3)
        .device(b'4', "sda", 8, 0)
        .end();
    let sandbox = Sandbox::new();
    let root = sandbox.root("r", false);
    let placeholder = UnpackOptions {
        devices: Devices::Placeholder,
        ..options(false)
    };
    let done = unpack(&layer[..], &root, &placeholder).unwrap();
    assert_eq!(done.placeholders, [PathBuf::from("null"), "sda".into()]);
    let stat = std::fs::metadata(sandbox.dir.path().join("r/null")).unwrap();
    assert!(stat.is_file() && stat.len() == 0);
    if !is_root() {
        return;
    }
    unpack(&layer[..], &root, &options(false)).unwrap();
    let stat = std::fs::metadata(sandbox.dir.path().join("r/sda")).unwrap();
    assert_eq!(
        (stat.mode(), stat.rdev()),
        (0o060_644, rustix::fs::makedev(8, 0))
    );
}

#[test]
fn owners_can_be_left_alone() {
    let edit = |b: &mut ustar::Block| ustar::UID.put_octal(b, 12345);
    let layer = raw().header(b'0', b"f", 0, edit).end();
    let sandbox = Sandbox::new();
    let root = sandbox.root("r", false);
    let keep = UnpackOptions {
        owners: false,
        ..options(false)
    };
    assert_eq!(unpack(&layer[..], &root, &keep).unwrap().skipped_owners, 1);
}

/// The file system may give a directory the inode of one that was removed.
#[test]
fn notes_are_of_the_place_that_a_directory_has() {
    let edit = |b: &mut ustar::Block| ustar::UID.put_octal(b, 12345);
    for round in 0..3 {
        let mut layer = raw();
        for n in 0..20 {
            let name = |what: &str| format!("{n}/{what}");
            layer = layer.dir(&format!("{n}"), 0o755).dir(&name("a"), 0o755);
            layer = layer.header(b'0', name("a/f").as_bytes(), 0, edit);
            layer = match round {
                0 => layer.file(&name("a"), b""),
                1 => layer.link(&name("a"), "x"),
                _ => layer.fifo(&name("a")),
            };
            layer = layer.dir(&name("b"), 0o755);
            layer = layer.header(b'0', name("b/g").as_bytes(), 0, edit);
        }
        let sandbox = Sandbox::new();
        let root = sandbox.root("r", false);
        let keep = UnpackOptions {
            owners: false,
            devices: Devices::Placeholder,
            ..options(false)
        };
        let done = unpack(&layer.end()[..], &root, &keep).unwrap();
        let owner = |path: String| {
            let mut meta = Meta::default();
            let mut kind = Kind::File { size: 0 };
            done.notes.correct(Path::new(&path), &mut kind, &mut meta);
            meta.uid
        };
        for n in 0..20 {
            assert_eq!(owner(format!("{n}/b/g")), 12345);
            assert_eq!(owner(format!("{n}/a/g")), 0);
        }
    }
}

#[test]
fn the_root_is_locked_last() {
    for overlay in [false, true] {
        let sandbox = Sandbox::new();
        let root = sandbox.root("r", false);
        let layer = raw().dir(".", 0o111).file("f", b"1").end();
        let done = unpack(&layer[..], &root, &options(overlay)).unwrap();
        assert!(done.implied.is_empty());
        let stat = std::fs::metadata(sandbox.dir.path().join("r")).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o111);
        std::fs::set_permissions(
            sandbox.dir.path().join("r"),
            PermissionsExt::from_mode(0o700),
        )
        .unwrap();
    }
}

/// Does it where modes of files count.
fn without_privilege<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        // Without CAP_DAC_READ_SEARCH too.
        let held = capability::permitted().unwrap();
        capability::set(held & !(DAC_OVERRIDE | 1 << 2)).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[test]
fn directories_that_links_led_to_have_their_modes_and_times() {
    let layer = raw()
        .dir("d", 0o500)
        .link("l", "d")
        .dir("l/a", 0o500)
        .file("l/a/f", b"f")
        .link("k/m/x", "/d")
        .dir("k/m/x/b", 0o000)
        .link("again", "d/a")
        .dir("again/c", 0o511)
        .file("l", b"no link any more")
        .file("k", b"no directory any more")
        .file("again", b"no link any more")
        // It takes the place of the link that its path leads through.
        .link("h/own", "../h")
        .dir("h/own/own", 0o711)
        .file("h/own/own/f", b"f")
        .end();
    for (variant, limited) in VARIANTS.into_iter().flat_map(|v| [(v, false), (v, true)]) {
        let sandbox = Sandbox::new();
        let root = sandbox.root("r", variant.walking);
        let work = || unpack(&layer[..], &root, &options(variant.overlay)).unwrap();
        match limited {
            true => without_privilege(work),
            false => work(),
        };
        let top = sandbox.dir.path().join("r");
        for (path, mode) in [
            ("d", 0o500),
            ("d/a", 0o500),
            ("d/b", 0),
            ("d/a/c", 0o511),
            ("h/own", 0o711),
        ] {
            let stat = std::fs::metadata(top.join(path)).unwrap();
            let found = (stat.mode() & 0o7777, stat.mtime());
            assert_eq!(found, (mode, 1_500_000_000), "{path} {variant:?}");
            std::fs::set_permissions(top.join(path), PermissionsExt::from_mode(0o700)).unwrap();
        }
        assert!(top.join("h/own/own/f").is_file(), "{variant:?}");
    }
}

/// Directories are left and come back to; some keep their owner out.
#[test]
fn many_directories_have_their_modes_and_times() {
    let modes = [0o755, 0o500, 0o000, 0o2770, 0o111];
    let name = |n: usize| format!("d/{}/{n}", n % 4);
    let mut layer = raw().dir("d", 0o555);
    for n in 0..4 {
        layer = layer.dir(&format!("d/{n}"), 0o511);
    }
    for round in 0..2 {
        for n in 0..40 {
            let time = format!("{}", 1000 + n);
            layer = match round {
                0 => layer
                    .pax(&[("mtime", time.as_bytes()), ("gid", b"50")])
                    .dir(&name(n), modes[n % 5]),
                _ => layer.file(&format!("{}/implied/f", name(n)), b"1"),
            };
        }
    }
    let layer = layer.end();
    for variant in VARIANTS {
        let sandbox = Sandbox::new();
        let root = sandbox.root("r", variant.walking);
        let done =
            without_privilege(|| unpack(&layer[..], &root, &options(variant.overlay)).unwrap());
        let mut implied: Vec<PathBuf> = (0..40).map(|n| name(n).into()).collect();
        implied.iter_mut().for_each(|path| path.push("implied"));
        implied.extend(variant.overlay.then(PathBuf::new));
        implied.sort();
        assert!(done.implied.iter().eq(implied), "{variant:?}");
        // The deepest last, so that all can be looked at and removed.
        let top = sandbox.dir.path().join("r");
        let mut expected = vec![("d".to_owned(), 0o555, 1_500_000_000)];
        expected.extend((0..4).map(|n| (format!("d/{n}"), 0o511, 1_500_000_000)));
        expected.extend((0..40).map(|n| (name(n), modes[n % 5] as u32, 1000 + n as i64)));
        expected.extend((0..40).map(|n| (format!("{}/implied", name(n)), 0o755, 0)));
        for (path, mode, time) in expected {
            let stat = std::fs::metadata(top.join(&path)).unwrap();
            let found = (stat.mode() & 0o7777, stat.mtime());
            assert_eq!(found, (mode, time), "{path} {variant:?}");
            let group = if (1000..2000).contains(&time) { 50 } else { 0 };
            assert!(!is_root() || stat.gid() == group, "{path} {}", stat.gid());
            std::fs::set_permissions(top.join(&path), PermissionsExt::from_mode(0o700)).unwrap();
        }
    }
}

#[test]
fn a_cut_layer_is_an_error() {
    let whole = raw()
        .dir("d", 0o755)
        .file("d/f", &[b'x'; 600])
        .link("l", "d")
        .end();
    for cut in (1..whole.len() - 512).step_by(37) {
        let sandbox = Sandbox::new();
        let root = sandbox.root("r", false);
        let done = unpack(&whole[..cut], &root, &options(false));
        // Between two entries, or behind a file's content.
        let between = cut % 512 == 0 || (1624..2048).contains(&cut);
        assert_eq!(done.is_err(), !between, "{cut}");
    }
}

/// Someone swaps a directory and a link out of the root while files are
/// written below it.
#[test]
fn a_racing_swap_does_not_lead_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    for walking in [false, true] {
        let sandbox = Sandbox::new();
        let root = sandbox.root("r", walking);
        let base = sandbox.dir.path().join("r");
        std::fs::create_dir(base.join("a")).unwrap();
        std::os::unix::fs::symlink(sandbox.out(), base.join("b")).unwrap();
        let mut layer = raw();
        for n in 0..1500 {
            layer = layer.file(&format!("a/f{n}"), b"x");
            // Removing a link drops the cached directories.
            layer = layer.link("t", "x");
        }
        let layer = layer.end();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let dir = File::open(&base).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    let _ = rustix::fs::renameat_with(&dir, "a", &dir, "b", flags);
                }
            });
            let _ = unpack(&layer[..], &root, &options(false));
            stop.store(true, Ordering::Relaxed);
        });
        sandbox.check("race");
    }
}

mod round_trip;
