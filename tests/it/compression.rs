//! Layers in every form: the same bytes however many threads make them, and
//! what other tools make of them.

use std::path::Path;
use std::process::Command;

use crate::sandbox::{Sandbox, has, skip};

/// A context with text, with bytes that don't compress, and with many small
/// files: a few MB in three directories.
fn context(s: &Sandbox) -> String {
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    let noise: Vec<u8> = (0..3 << 20).map(|_| random()).collect();
    let words: String = (0..400_000_u64)
        .map(|n| format!("line {}\n", n * 7919 % 1_000))
        .collect();
    let dir = s.context("ctx", &[("text/words", &words)]);
    let at = |name: &str| Path::new(&dir).join(name);
    std::fs::create_dir_all(at("noise")).unwrap();
    std::fs::write(at("noise/all"), &noise).unwrap();
    for n in 0..1_500 {
        let folder = at(&format!("small/{}", n % 10));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(n.to_string()), &noise[n..n + n % 700]).unwrap();
    }
    let file = "FROM scratch AS a\nCOPY text /text\nFROM scratch AS b\nCOPY noise /noise\n\
                FROM scratch\nCOPY small /small\nCOPY --from=a / /\nCOPY --from=b / /\n";
    std::fs::write(at("Dockerfile"), file).unwrap();
    dir
}

#[test]
fn layers_are_the_same_however_many_work_on_them() {
    const NAME: &str = "layers_are_the_same_however_many_work_on_them";
    let s = Sandbox::new();
    let context = context(&s);
    let forms: [&[&str]; 5] = [
        &[],
        &["--compression", "gzip-single"],
        &["--compression", "gzip", "--compression-level", "9"],
        &["--compression", "zstd", "--compression-level", "19"],
        &["--compression", "uncompressed"],
    ];
    if !has("taskset") {
        skip(
            NAME,
            "there is no taskset: the number of cores stays as it is",
        );
    }
    let mut all = Vec::new();
    for form in forms {
        let digest = |jobs: &str, store: &str, cores: Option<&str>| {
            let shiplap = s.command(&s.path(store));
            let mut command = match cores.filter(|_| has("taskset")) {
                Some(cores) => {
                    let mut command = Command::new("taskset");
                    command.args(["-c", cores]).arg(shiplap.get_program());
                    command.args(shiplap.get_args()).current_dir(s.dir.path());
                    command
                }
                None => shiplap,
            };
            command.env("SOURCE_DATE_EPOCH", "1700000000");
            command.args(["build", "-q", "--no-cache", "--jobs", jobs]);
            let out = command.args(form).arg(&context).output().unwrap();
            assert!(
                out.status.success(),
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
            String::from_utf8(out.stdout).unwrap()
        };
        let one = digest("1", "one", Some("0"));
        assert_eq!(one, digest("1", "two", None), "{form:?}");
        assert_eq!(one, digest("8", "three", None), "{form:?}");
        assert!(!all.contains(&one), "{form:?} is a form of its own");
        all.push(one);
    }
}

/// The digests of all layers' content, unpacked by what this test trusts.
fn contents(layout: &Path) -> Vec<String> {
    let json = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]));
    let layers = manifest["layers"].as_array().unwrap().iter();
    let found: Vec<String> = layers
        .map(|layer| {
            let kind = layer["mediaType"].as_str().unwrap();
            let program = match kind.rsplit(['.', '+']).next().unwrap() {
                "gzip" => "gzip",
                "zstd" => "zstd",
                _ => "cat",
            };
            let arg = if program == "cat" { "-u" } else { "-dc" };
            let out = Command::new(program)
                .arg(arg)
                .arg(blob(layer))
                .output()
                .unwrap();
            assert!(out.status.success(), "{kind}");
            shiplap::digest::Digest::of(&out.stdout).to_string()
        })
        .collect();
    let config = json(&blob(&manifest["config"]));
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap().iter();
    let diff_ids: Vec<&str> = diff_ids.map(|d| d.as_str().unwrap()).collect();
    assert_eq!(found, diff_ids);
    found
}

/// How many bytes of each gzip blob follow its first member.
fn rests(layout: &Path) -> Vec<usize> {
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let blobs = blobs.map(|blob| std::fs::read(blob.unwrap().path()).unwrap());
    let packed = blobs.filter(|bytes| bytes.starts_with(&[0x1f, 0x8b]));
    let rest = packed.map(|bytes| {
        let mut first = flate2::bufread::GzDecoder::new(&bytes[..]);
        std::io::copy(&mut first, &mut std::io::sink()).unwrap();
        first.into_inner().len()
    });
    rest.collect()
}

#[test]
fn other_tools_take_every_form() {
    const NAME: &str = "other_tools_take_every_form";
    if !has("umoci") || !has("skopeo") || !has("zstd") {
        return skip(NAME, "umoci, skopeo or zstd is missing");
    }
    let Some(s) = Sandbox::with_base(NAME) else {
        return;
    };
    let context = context(&s);
    std::fs::write(
        Path::new(&context).join("Dockerfile"),
        "FROM base\nCOPY . /all\n",
    )
    .unwrap();
    let said = |program: &str, args: &[&str]| {
        let out = Command::new(program)
            .args(args)
            .current_dir(s.dir.path())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{program} {args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    };
    let mut before: Option<Vec<String>> = None;
    for (name, form) in [
        ("gzip", ""),
        ("single", ",compression=gzip-single,force-compression=true"),
        ("fast", ",compression-level=1,force-compression=true"),
        (
            "zstd",
            ",compression=zstd,compression-level=19,force-compression=true",
        ),
        ("plain", ",compression=uncompressed,force-compression=true"),
    ] {
        let dest = format!("type=oci,tar=false,dest={}{form}", s.path(name).display());
        s.build(&context, &["-o", &dest, "-t", "x:1"]);
        // The base's layer too has the form that was forced, and its content.
        let found = contents(&s.path(name));
        assert_eq!(
            before.get_or_insert_with(|| found.clone()),
            &found,
            "{name}"
        );
        if name == "single" {
            assert_eq!(rests(&s.path(name)), [0, 0]);
        }
        let image = format!("oci:{name}:1");
        let image = match Command::new("skopeo")
            .args(["inspect", "--raw", &image])
            .current_dir(s.dir.path())
            .output()
        {
            Ok(out) if out.status.success() => image,
            _ => format!("oci:{name}"),
        };
        // Compressed anew by another program, and back.
        said(
            "skopeo",
            &[
                "copy",
                "-q",
                "--dest-compress-format",
                "zstd",
                &image,
                &format!("oci:{name}-again"),
            ],
        );
        assert_eq!(contents(&s.path(&format!("{name}-again"))), found, "{name}");
        if name != "zstd" {
            // Debian's umoci has no zstd.
            said(
                "skopeo",
                &["copy", "-q", &image, &format!("oci:{name}-tagged:1")],
            );
            let bundle = format!("{name}-bundle");
            said(
                "umoci",
                &["unpack", "--image", &format!("{name}-tagged:1"), &bundle],
            );
            let unpacked = s.path(&bundle).join("rootfs/all");
            said("diff", &["-r", &context, unpacked.to_str().unwrap()]);
        }
    }
}
