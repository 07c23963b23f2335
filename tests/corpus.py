#!/usr/bin/env python3
"""Runs all recorded data against the program and counts what agrees.

usage: corpus.py SHIPLAP CORPUS_DIR [--no-builds] [--verbose]

Everything goes through the program as a user calls it: `debug parse`, `debug
word`, `debug ignore`, `debug plan`, `check --format json` and `build`. The
counts that are expected stand in EXPECTED; fewer are a regression, and more
mean that the number here is to be raised. Exits 1 on either.
"""
import argparse, itertools, json, os, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor

# kind -> how many agree
EXPECTED = {
    "parser/positive": 33,
    "parser/negative": 4,
    "shell/envVarTest": 230,
    "shell/wordsTest": 24,
    "shell/process_with_matches": 47,
    "shell/generated": 1388,
    "patterns/matches": 81,
    "patterns/errors": 2,
    "patterns/filepath_match_table": 54,
    "patterns/ignorefile": 13,
    "patterns/generated": 455,
    "lint": 36,
    "wild/parse": 280,
    "wild/lint": 280,
    "wild/config": 280,
}

# Every base image of the recorded plans has this config.
BASE = {
    "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
    "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]},
}


def load(path):
    with open(path, encoding="utf8") as f:
        return json.load(f)


class Kinds:
    def __init__(self, shiplap, corpus, work):
        self.shiplap, self.corpus, self.work = shiplap, corpus, work
        self.base = self.write("base.json", json.dumps(BASE))
        self.serial = itertools.count()

    def path(self, *parts):
        return os.path.join(self.corpus, *parts)

    def write(self, name, text):
        path = os.path.join(self.work, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode("utf8"))
        return path

    def run(self, *argv, stdin=b""):
        env = dict(os.environ, HOME=self.work, SHIPLAP_ROOT=os.path.join(self.work, "store"))
        r = subprocess.run([self.shiplap, *argv], capture_output=True, input=stdin, env=env)
        if r.returncode not in (0, 1):
            return None, r.stderr.decode("utf8", "replace")
        return r.returncode, r.stdout.decode("utf8", "replace")

    # Each kind yields (what, function that gives None or a fault).

    def parser_positive(self):
        for name in sorted(os.listdir(self.path("parser/positive"))):
            d = self.path("parser/positive", name)
            yield name, lambda d=d: self.same(("debug", "parse", d + "/Dockerfile"), open(d + "/result", encoding="utf8").read())

    def parser_negative(self):
        for name in sorted(os.listdir(self.path("parser/negative"))):
            f = self.path("parser/negative", name, "Dockerfile")
            yield name, lambda f=f: None if self.run("debug", "parse", f)[0] == 1 else "is not refused"

    def same(self, argv, want):
        code, got = self.run(*argv)
        return None if (code, got) == (0, want) else "exit %s\n  got  %r\n  want %r" % (code, got, want)

    def word(self, word, env, escape, want, split=False):
        """`want` is a text, a list of words, or None for an error."""
        argv = ["debug", "word"] + (["--words"] if split else []) + ["--escape", escape, "--", word]
        code, got = self.run(*argv, *env)
        if want is None:
            return None if code == 1 else "exit %s, want an error: %r" % (code, got)
        lines = want if split else [want]
        want = "".join(line + "\n" for line in lines)
        return None if (code, got) == (0, want) else "exit %s\n  got  %r\n  want %r" % (code, got, want)

    def shell_env(self):
        data = load(self.path("shell/envVarTest.json"))
        for c in data["cases"]:
            if c["platform"] == "windows":
                yield c["word"], lambda: None
                continue
            yield c["word"], lambda c=c: self.word(c["word"], data["env"], "\\", None if c["error"] else c["expected"])

    def shell_words(self):
        for c in load(self.path("shell/wordsTest.json")):
            want = None if c["error"] else c["expected"] or []
            yield c["input"], lambda c=c, want=want: self.word(c["input"], c["env"], "\\", want, split=True)

    def shell_matches(self):
        for c in load(self.path("shell/process_with_matches.json")):
            env = ["%s=%s" % kv for kv in (c["env"] or {}).items()]
            yield c["word"], lambda c=c, env=env: self.word(c["word"], env, "\\", None if c["error"] else c["expected"])

    def shell_generated(self):
        for c in load(self.path("shell/generated.json")):
            one = None if c["error"] else c["result"]
            many = None if c["words_error"] else c["words"] or []
            yield c["word"], lambda c=c, one=one: self.word(c["word"], c["env"], c["escape"], one)
            yield c["word"], lambda c=c, many=many: self.word(c["word"], c["env"], c["escape"], many, split=True)

    def ignore(self, content, verdicts):
        """`verdicts` is {path: ignored}, or None for an error."""
        file = self.write("ignore/%d" % next(self.serial), content)
        paths = list(verdicts or {"x": None})
        code, got = self.run("debug", "ignore", file, stdin="".join(p + "\n" for p in paths).encode("utf8"))
        if verdicts is None:
            return None if code == 1 else "exit %s, want an error" % code
        want = "".join("%s\t%s\n" % ("ignored" if verdicts[p] else "kept", p) for p in paths)
        return None if (code, got) == (0, want) else "exit %s\n  got  %r\n  want %r" % (code, got, want)

    def patterns_matches(self):
        for c in load(self.path("patterns/matches.json")):
            text = "".join(p + "\n" for p in c["patterns"])
            yield text, lambda c=c, text=text: self.ignore(text, {c["path"]: c["match"]})

    def patterns_errors(self):
        for c in load(self.path("patterns/errors.json")):
            yield str(c["patterns"]), lambda c=c: self.ignore("".join(p + "\n" for p in c["patterns"]), None)

    def patterns_table(self):
        for c in load(self.path("patterns/filepath_match_table.json")):
            want = None if c["oracle"] == "error" else {c["path"]: c["oracle"]}
            # an empty line is no pattern, and a line can't hold every path
            if not c["pattern"].strip() or not c["path"]:
                yield c["pattern"], lambda: None
                continue
            yield c["pattern"], lambda c=c, want=want: self.ignore(c["pattern"] + "\n", want)

    def patterns_file(self):
        """The file and its patterns, one by one, mean the same."""
        for c in load(self.path("patterns/ignorefile.json")):
            yield c["content"], lambda c=c: self.same_ignore(c)

    def same_ignore(self, c):
        paths = "".join(p + "\n" for p in ["a", "foo", "bar", "foo/bar", "test1", "inverted/abs/path", "lastfile"]).encode()
        plain = "".join(p + "\n" for p in c["patterns"])
        answers = []
        for text in (c["content"], plain):
            file = self.write("ignorefile/%d" % next(self.serial), text)
            answers.append(self.run("debug", "ignore", file, stdin=paths))
        same = answers[0][0] == answers[1][0] and (answers[0][0] != 0 or answers[0][1] == answers[1][1])
        if not same or ("error" in c and (answers[0][0] == 1) != (c["error"] is not None)):
            return "got %r, and for its patterns %r" % tuple(answers)

    def patterns_generated(self):
        for c in load(self.path("patterns/generated.json")):
            yield c["dockerignore"], lambda c=c: self.ignore(c["dockerignore"], None if c["error"] else c["matches"])

    @staticmethod
    def warnings(found):
        return sorted((w["rule"], w["line"], w["detail"]) for w in found or [])

    def check(self, argv, want, fails):
        code, got = self.run("check", "--format", "json", *argv)
        if code is None:
            return got
        got = json.loads(got)
        found = self.warnings(got["warnings"])
        if found != self.warnings(want):
            return "got  %s\n  want %s" % (found, self.warnings(want))
        if (got["error"] is not None) != fails:
            return "error is %r" % got["error"]
        bad = bool(found) or fails
        return None if code == int(bad) else "exit %s" % code

    def lint(self):
        for c in load(self.path("lint/cases.json")):
            yield c["id"], lambda c=c: self.lint_case(c)

    def lint_case(self, c):
        d = "lint/" + c["id"]
        self.write(d + "/Dockerfile", c["dockerfile"])
        if c["dockerignore"] is not None:
            self.write(d + "/.dockerignore", c["dockerignore"])
        argv = []
        for k, v in c["frontend_attrs"].items():
            if k.startswith("build-arg:"):
                argv += ["--build-arg", "%s=%s" % (k.removeprefix("build-arg:"), v)]
            elif k == "target":
                argv += ["--target", v]
        oracle = c.get("oracle_check_mode", {})
        want = oracle.get("warnings", c.get("warnings_check_mode", c["warnings"]))
        # that warnings are errors is said by the exit code alone
        fails = "build_error" in oracle and "lint violation" not in oracle["build_error"]
        return self.check([*argv, os.path.join(self.work, d)], want, fails)

    def wild(self, kind):
        for name in sorted(os.listdir(self.path("wild/files"))):
            oracle = self.path("wild/oracle-" + kind, name + ".json")
            if os.path.exists(oracle):
                yield name, self.path("wild/files", name), oracle

    def wild_parse(self):
        for name, file, oracle in self.wild("parse"):
            yield name, lambda file=file, oracle=oracle: self.parse_case(file, load(oracle))

    def parse_case(self, file, oracle):
        if "error" in oracle:
            return None if self.run("debug", "parse", file)[0] == 1 else "is not refused"
        return self.same(("debug", "parse", file), oracle["dump"].rstrip("\n") + "\n")

    def wild_lint(self):
        for name, file, oracle in self.wild("lint"):
            yield name, lambda file=file, oracle=oracle: self.wild_lint_case(file, load(oracle))

    def wild_lint_case(self, file, oracle):
        return self.check(["-f", file, self.path("wild/files") + "/../oracle-lint"], oracle["warnings"], "build_error" in oracle)

    def wild_config(self):
        for name, file, oracle in self.wild("config"):
            yield name, lambda file=file, oracle=oracle: self.plan_case(file, load(oracle))

    def plan_case(self, file, want):
        code, got = self.run("debug", "plan", "-f", file, "--platform", "linux/amd64", "--base-config", self.base)
        if "error" in want:
            return None if code == 1 else "is not refused: %s" % want["error"]
        if code != 0:
            return "exit %s: %s" % (code, got)
        got = json.loads(got)
        if got["config"] != want["config"]:
            return "config\n  got  %s\n  want %s" % (got["config"], want["config"])
        history = [(h["created_by"].replace("# shiplap", "# buildkit"), bool(h.get("empty_layer"))) for h in got["history"]]
        recorded = [(h["created_by"], bool(h.get("empty_layer"))) for h in want["history"] or []]
        return None if history == recorded else "history\n  got  %s\n  want %s" % (history, recorded)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("shiplap")
    ap.add_argument("corpus")
    ap.add_argument("--no-builds", action="store_true", help="leave the recorded builds out")
    ap.add_argument("--verbose", action="store_true", help="show every difference")
    a = ap.parse_args()
    shiplap, corpus = os.path.abspath(a.shiplap), os.path.abspath(a.corpus)
    failed = False
    with tempfile.TemporaryDirectory(prefix="shiplap-corpus-") as work, ThreadPoolExecutor(4) as pool:
        k = Kinds(shiplap, corpus, work)
        kinds = {
            "parser/positive": k.parser_positive, "parser/negative": k.parser_negative,
            "shell/envVarTest": k.shell_env, "shell/wordsTest": k.shell_words,
            "shell/process_with_matches": k.shell_matches, "shell/generated": k.shell_generated,
            "patterns/matches": k.patterns_matches, "patterns/errors": k.patterns_errors,
            "patterns/filepath_match_table": k.patterns_table, "patterns/ignorefile": k.patterns_file,
            "patterns/generated": k.patterns_generated, "lint": k.lint,
            "wild/parse": k.wild_parse, "wild/lint": k.wild_lint, "wild/config": k.wild_config,
        }
        for kind, cases in kinds.items():
            cases = list(cases())
            results = list(pool.map(lambda case: case[1](), cases))
            faults = [(what, fault) for (what, _), fault in zip(cases, results) if fault is not None]
            agree = len(cases) - len(faults)
            print("%-30s %4d of %d agree" % (kind, agree, len(cases)), flush=True)
            for what, fault in faults if a.verbose else faults[:5]:
                print("  %s: %s" % (what.strip()[:120], fault[:2000]))
            if agree != EXPECTED[kind]:
                failed = True
                print("  %d were expected%s" % (EXPECTED[kind], "" if agree < EXPECTED[kind] else "; raise the number"))
    if not a.no_builds:
        here = os.path.dirname(os.path.abspath(__file__))
        r = subprocess.run([sys.executable, os.path.join(here, "corpus_integration.py"), shiplap, os.path.join(corpus, "integration")])
        failed |= r.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
