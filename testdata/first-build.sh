#!/bin/sh
# Builds shiplap, then a first image with it: a base from busybox, and two
# stages on top. Needs Rust; asks no registry of images. May be run again.
#
# SHIPLAP: a program to use instead of building one
# SHIPLAP_ROOT: the store [default: target/first-build/store]
set -eu
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'first-build: %s\n' "$*" >&2; exit 1; }

say "What is needed"
missing=
# the C parts of the compression libraries need a C compiler
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
static_busybox() {
    for b in /bin/busybox /usr/bin/busybox; do
        # static: needs no libraries
        if [ -x "$b" ] && ! ldd "$b" >/dev/null 2>&1; then echo "$b"; return; fi
    done
}
[ -n "$(static_busybox)" ] || missing="$missing busybox-static"
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || fail "please install, as root: apt-get install$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q </dev/null
    # shellcheck disable=SC2086 # a list
    apt-get install -qy --no-install-recommends $missing </dev/null
fi
busybox=$(static_busybox)
[ -n "$busybox" ] || fail "there is no static busybox, although it was installed"
echo "busybox: $busybox"

if [ -z "${SHIPLAP:-}" ]; then
    say "The program"
    command -v cargo >/dev/null || fail "there is no cargo: install Rust 1.88 or newer, see https://rustup.rs"
    cargo build --release
    SHIPLAP=${CARGO_TARGET_DIR:-target}/release/shiplap
fi
"$SHIPLAP" version

work=target/first-build
rm -rf "$work/rootfs"
mkdir -p "$work/rootfs"
SHIPLAP_ROOT=${SHIPLAP_ROOT:-$PWD/$work/store}
export SHIPLAP_ROOT

say "A base image, from busybox"
root=$work/rootfs
mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/root" "$root/home"
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
tar -C "$root" --numeric-owner --owner=0 --group=0 --sort=name --mtime=@0 -cf "$work/base.tar" .
"$SHIPLAP" import "$work/base.tar" base:1 --change 'ENV PATH=/bin' --change 'CMD ["sh"]'

say "The image"
"$SHIPLAP" build -t site:1 testdata/first-build ||
    fail "the build failed$([ "$(id -u)" = 0 ] || echo "; isolated steps need root: try again as root")"

say "Its history, the newest step first"
"$SHIPLAP" history site:1
say "Its manifest, with the layers"
"$SHIPLAP" inspect --manifest site:1
say "Where it is"
"$SHIPLAP" images
echo "The store is $SHIPLAP_ROOT, an OCI image layout."
