#!/usr/bin/env python3
"""Builds recorded cases and compares what comes out with what was recorded.

usage: corpus_integration.py SHIPLAP CASES_DIR [--only SUBSTRING] [--keep DIR] [--verbose]

CASES_DIR holds cases/*.json and ../base and ../tools. Each case is built with
SHIPLAP in a store of its own making; outcome, image config, history and the
file-system delta above the base must be the recorded ones. Known differences
stand in EXCEPTIONS with their reason. Exits 1 when a case that should agree
does not, or an exception agrees after all.
"""
import argparse, base64, gzip, hashlib, http.server, io, json, os, re, shutil, subprocess, sys, tarfile, tempfile, threading

# case id -> why it can't agree here
EXCEPTIONS = {}


def sh(*argv, **kw):
    return subprocess.run(argv, check=True, **kw)


def digest_path(layout, digest):
    return os.path.join(layout, "blobs", *digest.split(":"))


def load(layout, desc):
    with open(digest_path(layout, desc["digest"]), "rb") as f:
        return json.loads(f.read())


def entries_of(layout, desc):
    raw = open(digest_path(layout, desc["digest"]), "rb").read()
    if desc["mediaType"].endswith("gzip"):
        raw = gzip.decompress(raw)
    out = []
    tar = tarfile.open(fileobj=io.BytesIO(raw))
    for m in tar:
        path = m.name.strip("/").removeprefix("./")
        base = os.path.basename(path)
        if base == ".wh..wh..opq":
            out.append({"path": os.path.dirname(path), "type": "opaque-whiteout"})
            continue
        if base.startswith(".wh."):
            out.append({"path": os.path.join(os.path.dirname(path), base[4:]), "type": "removed"})
            continue
        kind = {
            tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.DIRTYPE: "dir",
            tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink", tarfile.FIFOTYPE: "fifo",
            tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block",
        }[m.type]
        e = {"path": path, "type": kind, "mode": "%o" % m.mode, "uid": m.uid, "gid": m.gid}
        if kind in ("symlink", "hardlink"):
            e["link"] = m.linkname
        if kind == "file":
            e["size"] = m.size
            e["content"] = tar.extractfile(m).read()
        e["mtime"] = m.mtime
        out.append(e)
    return out


def flatten(layers):
    delta = {}
    for layer in layers:
        for e in layer:
            p = e["path"]
            if e["type"] == "removed":
                for k in [k for k in delta if k == p or k.startswith(p + "/")]:
                    del delta[k]
            delta[p] = e
    return delta


def content_of(e):
    if "text" in e:
        return e["text"].encode("utf8")
    if "b64" in e:
        return base64.b64decode(e["b64"])
    return None


IGNORED = {"proc", "sys", "etc/hosts", "etc/resolv.conf"}


def compare_delta(want, got, loose):
    faults = []
    want = {e["path"].strip("/"): e for e in want or [] if e["path"].strip("/") not in IGNORED | {""}}
    got = {k: e for k, e in got.items() if k not in IGNORED | {""}}
    for p in sorted(set(want) - set(got)):
        faults.append("missing " + p)
    for p in sorted(set(got) - set(want)):
        faults.append("extra %s %s" % (got[p]["type"], p))
    for p in sorted(set(want) & set(got)):
        w, g = want[p], got[p]
        for key in ("type", "mode", "uid", "gid", "link"):
            if key in w and key != "mode" and w[key] != g.get(key):
                faults.append("%s: %s is %r, want %r" % (p, key, g.get(key), w[key]))
            if key == "mode" and key in w and w["type"] not in ("symlink",) and int(w[key], 8) != int(g.get(key, "0"), 8):
                faults.append("%s: mode is %s, want %s" % (p, g.get(key), w[key]))
        if w["type"] == "file" and not loose and g["type"] == "file":
            c = content_of(w)
            if c is not None and c != g["content"]:
                faults.append("%s: content is %r, want %r" % (p, g["content"][:200], c[:200]))
            if "sha256" in w and hashlib.sha256(g["content"]).hexdigest() != w["sha256"]:
                faults.append("%s: sha256 differs" % p)
    return faults


def ours(text):
    return text.replace("# shiplap", "# buildkit")


def compare_image(layout, manifest_desc, want, loose):
    faults = []
    manifest = load(layout, manifest_desc)
    config = load(layout, manifest["config"])
    if (config.get("config") or {}) != (want["config"].get("config") or {}):
        faults.append("config is %s, want %s" % (json.dumps(config.get("config"), sort_keys=True), json.dumps(want["config"].get("config"), sort_keys=True)))
    for key in ("architecture", "os", "variant", "created"):
        if key in want["config"] and config.get(key) != want["config"][key]:
            faults.append("%s is %r, want %r" % (key, config.get(key), want["config"][key]))
    w = [h for h in want["config"].get("history") or []]
    g = config.get("history") or []
    g = g[len(g) - len(w):] if len(g) >= len(w) else g
    for a, b in zip(w, g):
        if ours(b.get("created_by", "")) != a.get("created_by", "") or bool(a.get("empty_layer")) != bool(b.get("empty_layer")):
            faults.append("history has %r, want %r" % (b, a))
    if len(w) != len(g):
        faults.append("history has %d entries, want %d" % (len(g), len(w)))
    layers = manifest["layers"][want["base_layers"]:]
    if len(layers) != len(want["layers"]):
        faults.append("%d layers, want %d" % (len(layers), len(want["layers"])))
    got = [entries_of(layout, d) for d in layers]
    faults += compare_delta(want.get("delta"), flatten(got), loose)
    return faults


def plat(p):
    return "/".join(x for x in (p.get("os"), p.get("architecture"), p.get("variant")) if x)


class Cases:
    def __init__(self, shiplap, corpus, work):
        self.shiplap, self.work = shiplap, work
        sys.path.insert(0, os.path.join(corpus, "..", "tools"))
        sys.dont_write_bytecode = True
        import materialize
        self.materialize = materialize.main
        self.root = os.path.join(work, "store")
        base = os.path.join(work, "base")
        sh("sh", os.path.join(corpus, "..", "base", "mkbase.sh"), base, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        tar = os.path.join(work, "base.tar")
        sh("tar", "--numeric-owner", "--owner=0", "--group=0", "--mtime=@1700000000", "-C", base, "-cf", tar, ".")
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        for name, cmd in (("busybox", '["sh"]'), ("alpine", '["/bin/sh"]')):
            # As the recorded one it is there for two platforms; no case runs
            # anything on the second, so it has the same files.
            names = [name + ":" + arch for arch in ("amd64", "arm64")]
            for platform in names:
                self.run("import", "--platform", "linux/" + platform.split(":")[1],
                         "--change", "ENV " + path, "--change", "CMD " + cmd, tar, platform)
            self.run("index", "create", name + ":latest", *names)
        for tag in ("stable", "stable-musl", "1.36"):
            self.run("tag", "busybox:latest", "busybox:" + tag)

    def run(self, *argv):
        r = subprocess.run([self.shiplap, "--root", self.root, *argv], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if r.returncode != 0:
            raise SystemExit("shiplap %s: %s" % (" ".join(argv), r.stderr))

    def build(self, path):
        case = json.load(open(path))
        out = os.path.join(self.work, "case")
        shutil.rmtree(out, ignore_errors=True)
        os.makedirs(out)
        server = None
        text = json.dumps(case)
        if case.get("http"):
            server, host = serve({k.replace("http://@HTTP@", ""): v for k, v in case["http"].items()})
            path = os.path.join(out, "case.json")
            open(path, "w").write(text.replace("@HTTP@", host))
            case = json.load(open(path))
        m = self.materialize(path, out)
        o = case["options"]
        context = m.get("context") or out + "/empty"
        os.makedirs(context, exist_ok=True)
        argv = [self.shiplap, "--root", self.root, "build", "--progress", "plain",
                "-f", os.path.join(m.get("dockerfile_dir") or context, case["dockerfile_name"])]
        for k, v in (o.get("build_args") or {}).items():
            argv += ["--build-arg", "%s=%s" % (k, v)]
        for k, v in (o.get("labels") or {}).items():
            argv += ["--label", "%s=%s" % (k, v)]
        if o.get("platform"):
            argv += ["--platform", o["platform"]]
        if o.get("target"):
            argv += ["--target", o["target"]]
        if "no-cache" in o:
            argv += ["--no-cache"]
        for k, v in m["secrets"].items():
            argv += ["--secret", "id=%s,src=%s" % (k, v)]
        for k, v in m["named"].items():
            argv += ["--build-context", "%s=%s" % (k, v)]
        for k, v in (o.get("named_contexts") or {}).items():
            argv += ["--build-context", "%s=%s" % (k, v)]
        if any((e.get("attrs") or {}).get("rewrite-timestamp") == "true" for e in o.get("exports") or []):
            argv += ["--rewrite-timestamp"]
        layout = out + "/layout"
        argv += ["-o", "type=oci,tar=false,dest=" + layout]
        local = None
        if any(e["type"] == "local" for e in o.get("exports") or []):
            local = out + "/local"
            argv += ["-o", "type=local,dest=" + local]
        argv.append(context)
        try:
            r = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, errors="replace")
        except subprocess.TimeoutExpired:
            return ["timed out"]
        finally:
            if server:
                server.shutdown()
        want = case["expect"]
        if want["status"] != "success":
            if r.returncode != 1:
                return ["exit code %d, want 1\n%s" % (r.returncode, r.stderr[-1500:])]
            return []
        if r.returncode != 0:
            return ["exit code %d\n%s" % (r.returncode, r.stderr[-1500:])]
        return self.compare(case, layout, local)

    def compare(self, case, layout, local):
        want = case["expect"].get("image")
        faults = []
        loose = "same-paths" in json.dumps(case.get("roundtrip", ""))
        if want:
            index = json.load(open(layout + "/index.json"))
            descs = index["manifests"]
            if len(descs) == 1 and "index" in descs[0]["mediaType"]:
                descs = load(layout, descs[0])["manifests"]
            images = [i for i in want["images"] if (i.get("platform") or {}).get("os") != "unknown"]
            got = {}
            for d in descs:
                c = load(layout, load(layout, d)["config"])
                got[plat(d.get("platform") or c)] = d
            for i in images:
                p = plat(i.get("platform") or {}) or next(iter(got), "")
                if p not in got and len(got) == 1 and len(images) == 1:
                    p = next(iter(got))
                if p not in got:
                    faults.append("no image for %s, only %s" % (p, list(got)))
                    continue
                faults += compare_image(layout, got[p], i, loose)
        for e in case["expect"].get("exported") or []:
            if e["type"] == "local" and local:
                faults += compare_local(local, e["entries"])
        return faults


def compare_local(root, entries):
    faults = []
    for e in entries:
        p = os.path.join(root, e["path"])
        if e["path"].split("/")[0] in ("proc", "sys") or e["path"].endswith("provenance.json") or e["path"].endswith("sbom.spdx.json"):
            continue
        if not os.path.lexists(p):
            faults.append("local: missing " + e["path"])
            continue
        st = os.lstat(p)
        if e["type"] not in ("symlink",) and "mode" in e and int(e["mode"], 8) != st.st_mode & 0o7777:
            faults.append("local: %s has mode %o, want %s" % (e["path"], st.st_mode & 0o7777, e["mode"]))
        c = content_of(e)
        if e["type"] == "file" and c is not None and open(p, "rb").read() != c:
            faults.append("local: %s: content is %r, want %r" % (e["path"], open(p, "rb").read()[:200], c[:200]))
    return faults


def serve(spec):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            f = spec.get(self.path)
            if f is None:
                self.send_error(404)
                return
            body = base64.b64decode(f["body_b64"])
            self.send_response(200)
            for k, v in (f.get("headers") or {}).items():
                self.send_header(k, v if isinstance(v, str) else v[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
        do_HEAD = do_GET

        def log_message(self, *a):
            pass

    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s, "127.0.0.1:%d" % s.server_address[1]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("shiplap")
    ap.add_argument("corpus")
    ap.add_argument("--only", default="")
    ap.add_argument("--keep")
    ap.add_argument("--verbose", action="store_true")
    a = ap.parse_args()
    if os.geteuid() != 0:
        print("skipped: recorded cases restore owners and run steps, which needs root here")
        return 0
    if not shutil.which("busybox"):
        print("skipped: the recorded cases' base image is made of busybox-static, which is not installed")
        return 0
    work = a.keep or tempfile.mkdtemp(prefix="shiplap-corpus-")
    os.makedirs(work, exist_ok=True)
    passed, failed, excused = 0, [], []
    try:
        cases = Cases(os.path.abspath(a.shiplap), os.path.abspath(a.corpus), work)
        names = sorted(f for f in os.listdir(os.path.join(a.corpus, "cases")) if f.endswith(".json") and a.only in f)
        for name in names:
            ident = name[:-5]
            faults = cases.build(os.path.join(a.corpus, "cases", name))
            if ident in EXCEPTIONS:
                excused.append(ident)
                if not faults:
                    failed.append(ident)
                    print("AGREES AFTER ALL", ident)
            elif faults:
                failed.append(ident)
                print("FAIL", ident)
                for f in faults[:40 if a.verbose else 6]:
                    print("    " + f.replace("\n", "\n    "))
            else:
                passed += 1
    finally:
        if not a.keep:
            shutil.rmtree(work, ignore_errors=True)
    print("recorded cases: %d agree, %d differ, %d excused" % (passed, len(failed), len(excused)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
