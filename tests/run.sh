#!/bin/sh
# Does all the set-up and runs all tests. Asks nothing; fails when anything
# fails. As root it installs what is missing; otherwise it says what is, and
# the tests that need it are skipped.
set -u
cd "$(dirname "$0")/.." || exit 1

say() { printf '\n== %s\n' "$*"; }
failed=

say "What the tests use"
missing=
need() { command -v "$1" >/dev/null || missing="$missing $2"; }
# system directories, for users whose PATH has none of them
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
need cc "gcc libc6-dev"
# the fuzz targets are linked with it
need c++ g++
need busybox busybox-static
need skopeo skopeo
need umoci umoci
need runc runc
need crun crun
need docker-registry docker-registry
need htpasswd apache2-utils
need mmdebstrap mmdebstrap
need newuidmap uidmap
need proot proot
need git git
need tmux tmux
need strace strace
need python3 python3
need openssl openssl
need unshare util-linux
need mkfs.btrfs btrfs-progs
if [ -z "$missing" ]; then
    echo "all there"
elif [ "$(id -u)" = 0 ]; then
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list
    { apt-get update -q && apt-get install -qy --no-install-recommends $missing; } </dev/null ||
        { echo "could not install:$missing" >&2; failed="$failed set-up"; }
else
    echo "missing, and only root can install it:$missing"
    echo "tests that need it are skipped"
fi
[ "$(id -u)" = 0 ] || echo "not root: tests that need it are skipped"

say "The static program, for tests in containers"
host=$(rustc -vV | sed -n 's/^host: //p')
static=${CARGO_TARGET_DIR:-target}/static
# with --target the flags are not for build scripts
if RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --bin shiplap --target "$host" --target-dir "$static" </dev/null; then
    SHIPLAP_STATIC=$(cd "$static/$host/debug" && pwd)/shiplap
    export SHIPLAP_STATIC
else
    failed="$failed static-program"
fi

say "cargo test"
cargo test --all-targets </dev/null || failed="$failed cargo-test"

corpus=../shared/corpus
if [ -d "$corpus" ]; then
    say "Recorded data"
    cargo build --bin shiplap </dev/null &&
        python3 tests/corpus.py "${CARGO_TARGET_DIR:-target}/debug/shiplap" "$corpus" </dev/null ||
        failed="$failed recorded-data"
else
    say "Recorded data: skipped, there is no $corpus"
fi

say "Result"
if [ -n "$failed" ]; then
    echo "FAILED:$failed"
    exit 1
fi
echo "all passed"
