use super::*;
use crate::layer::{Change, Content, Entry};

fn listing(changes: &[&str]) -> Arc<Listing> {
    let mut listing = Listing::default();
    for text in changes {
        let put = |path: &str, kind: Kind, uid: u32| {
            let meta = Meta {
                mode: 0o700,
                uid,
                ..Meta::default()
            };
            let entry = Entry {
                path: path.into(),
                kind,
                meta,
            };
            Change::Put(entry, Content::None)
        };
        let change = if let Some(path) = text.strip_prefix("- ") {
            Change::Whiteout(path.into())
        } else if let Some(path) = text.strip_prefix("! ") {
            Change::Opaque(path.into())
        } else if let Some((path, target)) = text.split_once(" -> ") {
            let target = target.into();
            put(path, Kind::Symlink { target }, 1)
        } else if let Some(path) = text.strip_suffix('/') {
            put(path, Kind::Dir, u32::try_from(changes.len()).unwrap())
        } else {
            put(text, Kind::File { size: 0 }, 1)
        };
        assert!(listing.add(&change), "{text}");
    }
    assert!(listing.settle());
    Arc::new(listing)
}

/// What is found: `d` and its owner, `f`, `l`, or `-`.
fn show(tree: &Layered, path: &str) -> String {
    match tree.lookup(Path::new(path), false).unwrap() {
        None => "-".into(),
        Some(node) => match node.kind {
            Kind::Dir => format!("d{}", node.meta.uid),
            Kind::Symlink { .. } => "l".into(),
            _ => "f".into(),
        },
    }
}

#[test]
fn upper_layers_hide_lower_ones() {
    let tree = Layered::new(
        vec![
            listing(&[
                "a/", "a/x", "a/y", "b/", "b/z", "c", "d/", "d/e/", "d/e/f", "s -> a",
            ]),
            listing(&[
                "a/n", "- a/x", "b/", "! b", "b/new", "c/", "c/in", "- d/e", "q/r",
            ]),
        ],
        None,
    )
    .unwrap()
    .unwrap();
    for (path, expected) in [
        ("", "d0"),
        // Implied in the upper layer, so it is as below.
        ("a", "d10"),
        ("a/n", "f"),
        ("a/x", "-"),
        ("a/y", "f"),
        ("b", "d9"),
        ("b/z", "-"),
        ("b/new", "f"),
        ("c", "d9"),
        ("c/in", "f"),
        ("d", "d10"),
        ("d/e", "-"),
        ("d/e/f", "-"),
        ("q", "d0"),
        ("q/r", "f"),
        ("s", "l"),
        ("s/n", "f"),
        ("s/../a/y", "f"),
        ("c/in/no", "-"),
        ("none/../a", "d10"),
    ] {
        assert_eq!(show(&tree, path), expected, "{path}");
    }
    let resolve = |path: &str| tree.resolve(Path::new(path)).unwrap();
    assert_eq!(resolve("/s/new/dir"), Path::new("a/new/dir"));
    assert_eq!(resolve("/none"), Path::new("none"));
}

#[test]
fn a_directory_over_a_link_is_for_unpacking() {
    let lower = listing(&["usr/", "usr/lib/", "lib -> usr/lib"]);
    for upper in [&["lib/x"][..], &["lib/sub/x"], &["- lib/x"], &["! lib"]] {
        let made = Layered::new(vec![lower.clone(), listing(upper)], None).unwrap();
        assert!(made.is_none(), "{upper:?}");
    }
    let tree = Layered::new(vec![lower, listing(&["lib/", "lib/x"])], None);
    assert_eq!(show(&tree.unwrap().unwrap(), "lib/x"), "f");
}

#[test]
fn directories_below_listings() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
    std::fs::write(dir.path().join("usr/lib/x"), "x").unwrap();
    std::os::unix::fs::symlink("usr/lib", dir.path().join("lib")).unwrap();
    let merged = || Merged::new(vec![dir.path().to_owned()]).unwrap();
    let tree = Layered::new(vec![listing(&["etc/", "etc/f"])], Some(merged()));
    let tree = tree.unwrap().unwrap();
    assert_eq!(show(&tree, "lib/x"), "f");
    assert_eq!(
        tree.resolve(Path::new("lib/y")).unwrap(),
        Path::new("usr/lib/y")
    );
    assert_eq!(show(&tree, "etc/f"), "f");
    let mut text = String::new();
    let mut file = tree.open(Path::new("lib/x")).unwrap();
    io::Read::read_to_string(&mut file, &mut text).unwrap();
    assert_eq!(text, "x");
    // The directory that took the link's place hides what it led to.
    let tree = Layered::new(vec![listing(&["lib/", "lib/y"])], Some(merged()));
    let tree = tree.unwrap().unwrap();
    assert_eq!(show(&tree, "lib/y"), "f");
    assert_eq!(show(&tree, "lib/x"), "-");
}
