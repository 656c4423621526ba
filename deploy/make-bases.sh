#!/bin/bash
# Makes the two base images that deploy/Dockerfile names, on a machine that reaches Debian's packages and crates.io but
# no image registry. With a registry at hand nobody needs this: `docker build` fetches the bases itself.
#
# What the machine itself uses is copied in at run time: its apt sources and keys, its CA bundle, its cargo settings and
# its Rust toolchain. The result therefore works inside `docker build` wherever it works outside.
#
#   sudo deploy/make-bases.sh              both images, unless they are there
#   sudo deploy/make-bases.sh --runtime    only the one of the runtime stage, for Dockerfile.prebuilt
#   sudo deploy/make-bases.sh --force      both, anew
#
# Needs root, docker, debootstrap (installed by apt-get if missing) and, for the build base, rustc.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
suite=bookworm
mode=${1:-}
case $mode in
    '' | --runtime | --force) ;;
    *) echo "make-bases: unknown option $mode; --runtime or --force" >&2; exit 2 ;;
esac

# The names that the Dockerfile uses, so that the two can't disagree.
build_base=$(awk '$1 == "FROM" && $2 ~ /^rust:/ { print $2; exit }' "$here/Dockerfile")
runtime_base=$(awk '$1 == "FROM" && $2 ~ /^debian:/ { print $2; exit }' "$here/Dockerfile")
[ -n "$build_base" ] && [ -n "$runtime_base" ] || { echo "make-bases: no FROM rust:/debian: in $here/Dockerfile" >&2; exit 1; }

have() { docker image inspect "$1" >/dev/null 2>&1; }
if [ "$mode" != --force ] && have "$runtime_base" && { [ "$mode" = --runtime ] || have "$build_base"; }; then
    echo "make-bases: nothing to do"
    exit 0
fi
[ "$(id -u)" = 0 ] || { echo "make-bases: debootstrap needs root: run it with sudo" >&2; exit 1; }
command -v debootstrap >/dev/null || { apt-get update -q && apt-get install -y -q debootstrap; }

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

# The mirror that this machine installs from: of its deb822 sources, else of its sources.list, else debootstrap's own.
mirror=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '$1 == "URIs:" && $2 !~ /security/ { print $2; exit }')
[ -n "$mirror" ] || mirror=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }' /etc/apt/sources.list 2>/dev/null || true)
debootstrap --variant=minbase "$suite" "$root" ${mirror:+"$mirror"}

# How this machine reaches its packages, and whom it trusts.
rm -f "$root/etc/apt/sources.list"
cp -a /etc/apt/sources.list "$root/etc/apt/" 2>/dev/null || true
mkdir -p "$root/etc/apt/sources.list.d" "$root/etc/apt/apt.conf.d" "$root/usr/share/keyrings" "$root/etc/ssl/certs"
for f in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.list; do
    [ -e "$f" ] && cp "$f" "$root/etc/apt/sources.list.d/"
done
for f in /etc/apt/apt.conf.d/99*; do
    [ -e "$f" ] && cp "$f" "$root/etc/apt/apt.conf.d/"
done
cp /usr/share/keyrings/debian-archive-keyring.* "$root/usr/share/keyrings/" 2>/dev/null || true
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

tar -C "$root" -c . | docker import --change 'CMD ["bash"]' - "$runtime_base"
[ "$mode" != --runtime ] || { echo "make-bases: made $runtime_base"; exit 0; }

# The build base: a C compiler for the few crates that build C code, and this machine's toolchain at the places where
# the official image has it.
command -v rustc >/dev/null || { echo "make-bases: no rustc here to copy; $runtime_base alone was made" >&2; exit 1; }
want=${build_base#rust:}; want=${want%%-*}
version=$(rustc --version | awk '{ print $2 }')
case $version in
    "$want"*) ;;
    *) echo "make-bases: the Dockerfile wants Rust $want, this machine's rustc is $version" >&2; exit 1 ;;
esac
chroot "$root" apt-get update -q
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends gcc libc6-dev
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
mkdir -p "$root/usr/local/cargo/bin" "$root/usr/local/rustup/toolchains"
tar -C "$(rustc --print sysroot)" -c --exclude=share . | { mkdir "$root/usr/local/rustup/toolchains/this"; tar -C "$root/usr/local/rustup/toolchains/this" -x; }
for tool in rustc cargo rustdoc; do
    ln -s "/usr/local/rustup/toolchains/this/bin/$tool" "$root/usr/local/cargo/bin/$tool"
done
settings=${CARGO_HOME:-$HOME/.cargo}/config.toml
[ ! -e "$settings" ] || cp "$settings" "$root/usr/local/cargo/config.toml"
tar -C "$root" -c . | docker import \
    --change 'ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV CARGO_HOME=/usr/local/cargo' \
    --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' \
    --change 'ENV CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt' \
    --change 'CMD ["bash"]' - "$build_base"
echo "make-bases: made $build_base and $runtime_base"
