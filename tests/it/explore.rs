//! The picture of an image: in a terminal (tmux is one), as a page, as data.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shiplap::digest::{Digest, Sha256};
use tar::EntryType;

use crate::sandbox::{Sandbox, eventually, has, skip};

const HOSTILE: &str = "a\x1b[31m<\u{202e}\n]]><!--<b>&\"'";

/// A layer: paths with a link's target or a file's size; none is a directory.
fn layer(entries: &[(&str, Option<Result<usize, &str>>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, what) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_600_000_000);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_uid(1000);
        match what {
            None => header.set_entry_type(EntryType::Directory),
            Some(Err(target)) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, path, target).unwrap();
                continue;
            }
            Some(Ok(size)) => header.set_size(*size as u64),
        }
        let size = what.map_or(0, |w| w.unwrap());
        tar.append_data(&mut header, path, &vec![b'x'; size][..])
            .unwrap();
    }
    tar.into_inner().unwrap()
}

fn put(dir: &Path, bytes: &[u8]) -> Value {
    let digest = Digest::from(Sha256::of(bytes)).to_string();
    let blob = dir.join("blobs").join(digest.replace(':', "/"));
    std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
    std::fs::write(blob, bytes).unwrap();
    json!({"digest": digest, "size": bytes.len()})
}

/// Writes a layout with an image of `layers`.
fn image(dir: &Path, layers: &[Vec<u8>]) {
    let with_type = |mut descriptor: Value, kind: &str| {
        descriptor["mediaType"] = format!("application/vnd.oci.image.{kind}").into();
        descriptor
    };
    let descriptors: Vec<Value> = layers
        .iter()
        .map(|layer| with_type(put(dir, layer), "layer.v1.tar"))
        .collect();
    let history: Vec<Value> = (1..=layers.len())
        .map(|n| json!({"created_by": format!("RUN step {n} </script>")}))
        .collect();
    let config = json!({
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {
            "type": "layers",
            "diff_ids": descriptors.iter().map(|d| &d["digest"]).collect::<Vec<_>>(),
        },
        "history": history,
    });
    let config = put(dir, &serde_json::to_vec(&config).unwrap());
    let manifest = json!({
        "schemaVersion": 2,
        "config": with_type(config, "config.v1+json"),
        "layers": descriptors,
    });
    let manifest = put(dir, &serde_json::to_vec(&manifest).unwrap());
    let index = json!({
        "schemaVersion": 2,
        "manifests": [with_type(manifest, "manifest.v1+json")],
    });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
}

/// A sandbox with `oci:image`: what its second layer adds, changes and
/// removes, and names that are up to something.
fn prepared() -> Sandbox {
    let s = Sandbox::new();
    let first = layer(&[
        ("etc", None),
        ("etc/passwd", Some(Ok(700))),
        ("old", None),
        ("old/data", Some(Ok(9000))),
        ("usr", None),
        ("usr/big.so", Some(Ok(50_000))),
    ]);
    let second = layer(&[
        ("etc/passwd", Some(Ok(800))),
        (".wh.old", Some(Ok(0))),
        (HOSTILE, Some(Ok(3))),
        ("script", None),
        ("script/<", None),
        (
            "script/</script><script>document.title='broken'",
            Some(Ok(1)),
        ),
        ("usr/link", Some(Err("big.so"))),
    ]);
    image(&s.path("image"), &[first, second]);
    s
}

/// A terminal of its own with a program in it.
struct Tmux {
    socket: PathBuf,
    dir: PathBuf,
}

impl Tmux {
    /// Runs `explore` on a screen of 100 columns and 24 lines.
    fn explore(s: &Sandbox, name: &str, environment: &str) -> Self {
        let dir = s.path(name);
        std::fs::create_dir(&dir).unwrap();
        let tmux = Self {
            socket: dir.join("socket"),
            dir,
        };
        let script = format!(
            "cd '{dir}' && stty -g > before; echo $$ > shell; echo here before; \
             {environment} '{program}' --root '{store}' explore 'oci:{image}' 2> errors; \
             echo $? > code.new; stty -g > after; mv code.new code; sleep 1000",
            dir = tmux.dir.display(),
            program = env!("CARGO_BIN_EXE_shiplap"),
            store = s.store().display(),
            image = s.path("image").display(),
        );
        tmux.run(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "24",
            &script,
        ]);
        tmux
    }

    fn run(&self, args: &[&str]) -> String {
        let out = Command::new("tmux")
            .arg("-u")
            .arg("-S")
            .arg(&self.socket)
            .args(args)
            .env_remove("TMUX")
            .env_remove("NO_COLOR")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        let mut args = vec!["send-keys"];
        args.extend(keys);
        self.run(&args);
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until the screen has `text`.
    fn shows(&self, text: &str) -> String {
        let there = eventually(|| self.screen().contains(text));
        let screen = self.screen();
        assert!(there, "no {text:?} on\n{screen}");
        screen
    }

    /// Waits for the end; the exit code, when the terminal is as it was.
    fn end(&self) -> String {
        let code = self.dir.join("code");
        assert!(eventually(|| code.exists()), "{}", self.screen());
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).unwrap();
        assert_eq!(read("before"), read("after"));
        let state = self.run(&["display", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(state.trim(), "0 1");
        let screen = self.screen();
        assert!(screen.starts_with("here before"), "{screen}");
        read("code").trim().to_owned()
    }

    /// Sends a signal to the program.
    fn kill(&self, signal: Signal) {
        let shell = std::fs::read_to_string(self.dir.join("shell")).unwrap();
        let shell = shell.trim();
        let children = format!("/proc/{shell}/task/{shell}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let pid = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

fn no_tmux(test: &str) -> bool {
    if has("tmux") {
        return false;
    }
    skip(test, "there is no tmux to be the terminal");
    true
}

#[test]
fn keys_lead_through_layers_and_files() {
    if no_tmux("keys_lead_through_layers_and_files") {
        return;
    }
    let s = prepared();
    let t = Tmux::explore(&s, "keys", "");
    let first = t.shows("entries");
    assert!(
        first.contains("2 layers") && first.contains("efficiency"),
        "{first}"
    );
    t.keys(&["Down", "Down"]);
    t.shows("Layer 2,");
    t.keys(&["Tab", "+"]);
    let all = t.shows("▾ old/");
    for row in [
        "C    800B     passwd",
        "R     9kB ▾ old/",
        "A      0B     link -> big.so",
        "*    50kB ▾ usr/",
    ] {
        assert!(all.contains(row), "{row}\n{all}");
    }
    // A name is text, whatever is in it.
    assert!(
        all.contains("a\\x1b[31m<\\u{202e}\\n]]><!--<b>&\"'"),
        "{all}"
    );
    t.keys(&["/", "pass", "Enter"]);
    let filtered = t.shows("1 match");
    assert!(
        filtered.contains("passwd") && !filtered.contains("old/"),
        "{filtered}"
    );
    t.shows("1 added, 2 changed");
    t.keys(&["Escape", "w"]);
    t.shows("Wasted: 9.7kB at 2 paths");
    t.keys(&["Enter"]);
    t.shows("path      /old/data");
    t.keys(&["?"]);
    t.shows("removed by it");
    t.keys(&["q"]);
    // Narrow and low: the side with the focus, or nothing; and back.
    t.run(&["resize-window", "-x", "40", "-y", "10"]);
    let small = t.shows("Layer 2,");
    assert!(!small.contains("2 layers"), "{small}");
    t.run(&["resize-window", "-x", "12", "-y", "4"]);
    t.shows("too small");
    t.run(&["resize-window", "-x", "100", "-y", "24"]);
    t.shows("2 layers");
    t.keys(&["q"]);
    assert_eq!(t.end(), "0");
}

#[test]
fn the_terminal_is_given_back() {
    if no_tmux("the_terminal_is_given_back") {
        return;
    }
    let s = prepared();
    for (name, key) in [("escape", "Escape"), ("interrupt", "C-c")] {
        let t = Tmux::explore(&s, name, "");
        t.shows("entries");
        t.keys(&[key]);
        assert_eq!(t.end(), "0", "{key}");
    }
    for (name, signal, code) in [
        ("term", Signal::TERM, "143"),
        ("hangup", Signal::HUP, "129"),
    ] {
        let t = Tmux::explore(&s, name, "NO_COLOR=1");
        t.shows("entries");
        // Bold and reversed are no colours, 39 and 49 are the terminal's own.
        let picture = t.run(&["capture-pane", "-p", "-e"]);
        let sequences = picture.split("\x1b[").skip(1);
        let numbers = sequences.flat_map(|s| s.split_once('m').unwrap().0.split(';'));
        for number in numbers {
            assert!(["0", "1", "7", "39", "49"].contains(&number), "{picture:?}");
        }
        t.kill(signal);
        assert_eq!(t.end(), code, "{name}");
    }
}

#[test]
fn layers_that_cant_be_read() {
    let s = prepared();
    let blobs = s.path("image/blobs/sha256");
    for blob in std::fs::read_dir(blobs).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.len() > 5000 {
            bytes[600] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let ran = s.run(&["explore", "oci:image", "--html", "page.html"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("can't read the layer sha256:"),
        "{}",
        ran.stderr
    );
    assert!(!s.path("page.html").exists());
    if no_tmux("layers_that_cant_be_read") {
        return;
    }
    let t = Tmux::explore(&s, "damaged", "");
    t.shows("can't be read:");
    t.keys(&["q"]);
    assert_eq!(t.end(), "1");
    let errors = std::fs::read_to_string(t.dir.join("errors")).unwrap();
    assert!(errors.contains("can't read the layer sha256:"), "{errors}");
}

#[test]
fn without_a_terminal_it_says_what_else_there_is() {
    let s = prepared();
    let ran = s.run(&["explore", "oci:image"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(ran.stderr.contains("no terminal"), "{}", ran.stderr);
    for other in ["tree", "--html", "--format json"] {
        assert!(ran.stderr.contains(other), "{}", ran.stderr);
    }
}

/// Entries as `tree` has them, made of the page's columns; those that are gone
/// too.
fn unfolded(data: &Value) -> Vec<Value> {
    let files = &data["files"];
    let column = |name: &str| files[name].as_array().unwrap();
    let kinds = files["kinds"].as_str().unwrap().chars();
    let mut parents: Vec<String> = Vec::new();
    let mut mtime = 0;
    let mut found = Vec::new();
    for (n, kind) in kinds.enumerate() {
        let depth = column("depths")[n].as_u64().unwrap() as usize;
        parents.truncate(depth);
        parents.push(column("names")[n].as_str().unwrap().to_owned());
        let attribute = column("attribute")[n].as_u64().unwrap() as usize;
        let attributes = &column("attributes")[attribute];
        mtime += column("mtimes")[n].as_i64().unwrap();
        let kind = match kind {
            'f' => "file",
            'd' => "directory",
            'l' => "symlink",
            other => panic!("{other}"),
        };
        let time = jiff::Timestamp::from_second(mtime).unwrap();
        let mut entry = json!({
            "path": format!("/{}", parents[1..].join("/")),
            "type": kind,
            "size": column("sizes")[n],
            "mode": format!("{:04o}", attributes[0].as_u64().unwrap()),
            "uid": attributes[1],
            "gid": attributes[2],
            "mtime": time.to_string(),
            "layer": column("layers")[n].as_u64().unwrap() + 1,
            "removed": column("gone")[n] != 0,
        });
        if let Some(target) = files["links"].get(n.to_string()) {
            entry["target"] = target.clone();
        }
        found.push(entry);
    }
    found
}

#[test]
fn the_page_has_the_same_data_and_stays_whole() {
    let s = prepared();
    s.ok(&["explore", "oci:image", "--html", "page.html"]);
    let page = std::fs::read_to_string(s.path("page.html")).unwrap();
    assert_eq!(
        s.ok(&["explore", "oci:image", "--html", "-"]),
        page.trim_end()
    );

    // No name gets out of where it belongs.
    let scripts = page.matches("<script").count();
    assert_eq!((scripts, page.matches("</script").count()), (2, 2));
    assert!(!page.contains('\x1b') && !page.contains('\u{202e}'));
    let bodies: Vec<&str> = page.split("<script").skip(1).collect();
    let inside = |body: &str| {
        let (_, rest) = body.split_once('>').unwrap();
        rest.split_once("</script>").unwrap().0.to_owned()
    };
    let (data, script) = (inside(bodies[0]), inside(bodies[1]));
    assert!(!data.contains('<'));

    // What may run is what is meant to.
    let policy = page
        .split_once("Content-Security-Policy\" content=\"")
        .unwrap()
        .1;
    let policy = policy.split_once('"').unwrap().0;
    let allowed = |text: &str| {
        use base64::Engine;
        let digest = Sha256::of(text.as_bytes()).0;
        let digest = base64::engine::general_purpose::STANDARD.encode(digest);
        format!("'sha256-{digest}'")
    };
    let style = page.split_once("<style>").unwrap().1;
    let style = style.split_once("</style>").unwrap().0;
    let expected = format!(
        "default-src 'none'; style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
        allowed(style),
        allowed(&script)
    );
    assert_eq!(policy, expected);

    // It can be read without the script.
    let text = page.split_once("<script").unwrap().0;
    assert!(text.contains("RUN step 2 &lt;/script&gt;") && text.contains("/old/data"));

    let known: Value =
        serde_json::from_str(&s.ok(&["explore", "oci:image", "--format", "json"])).unwrap();
    let expected: Vec<Value> = known["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            let mut file = file.clone();
            let fields = file.as_object_mut().unwrap();
            fields.remove("digest");
            fields.remove("changes");
            file
        })
        .collect();
    let data: Value = serde_json::from_str(&data).unwrap();
    let mut unfolded = unfolded(&data);
    assert_eq!(unfolded, expected);

    // And the finished image is what `tree` says it is.
    let tree: Value =
        serde_json::from_str(&s.ok(&["tree", "oci:image", "--format", "json"])).unwrap();
    let mut tree = tree["files"].clone();
    for file in tree.as_array_mut().unwrap() {
        let fields = file.as_object_mut().unwrap();
        fields.remove("digest");
        fields.remove("total");
        fields.insert("removed".into(), false.into());
    }
    unfolded.retain(|file| file["removed"] == false);
    assert_eq!(Value::from(unfolded), tree);
    assert_eq!(data["digest"], known["digest"]);

    // What each layer did, in steps from one entry to the next.
    let names: Vec<&Value> = known["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["path"])
        .collect();
    for (number, changes) in data["changes"].as_array().unwrap().iter().enumerate() {
        for kind in ["added", "changed", "removed"] {
            let mut at = 0;
            let listed: Vec<&Value> = changes[kind]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|step| {
                    at += step.as_u64().unwrap() as usize;
                    names.get(at).copied()
                })
                .collect();
            let did = json!({"layer": number + 1, "change": kind});
            let files = known["files"].as_array().unwrap().iter();
            let expected: Vec<&Value> = files
                .filter(|f| f["changes"].as_array().unwrap().contains(&did))
                .map(|f| &f["path"])
                .collect();
            assert_eq!(listed, expected, "{kind} {number}");
        }
    }
    let removed: Vec<&Value> = known["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["removed"] == true)
        .map(|f| &f["path"])
        .collect();
    assert_eq!(removed, ["/old", "/old/data"]);
    assert_eq!(known["waste"]["bytes"], 9700);
}
