#!/bin/bash
# Builds the programs of the images, and lays them out as each image has them: FOLDER/operator and FOLDER/agent, each
# with one statically linked program and its bill of materials (CycloneDX), made from what the program itself holds.
#
# The Dockerfile's first stage and `make images` run this, on the machine's own architecture or for the other one.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat >&2 <<'END'
usage: binaries.sh [--arch amd64|arm64] [--profile release|dev] FOLDER
END
    exit 2
}

arch=
profile=release
folder=
while [ $# -gt 0 ]; do
    case $1 in
    --arch) arch=${2:-} && shift 2 || usage ;;
    --profile) profile=${2:-} && shift 2 || usage ;;
    -*) usage ;;
    *) [ -z "$folder" ] && folder=$1 && shift || usage ;;
    esac
done
[ -n "$folder" ] || usage

case $(uname -m) in
x86_64) own=amd64 ;;
aarch64) own=arm64 ;;
*) own= ;;
esac
case ${arch:=$own} in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*) usage ;;
esac
case $profile in
release) built=release ;;
dev) built=debug ;;
*) usage ;;
esac

need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || { echo "binaries.sh: $1 is missing: install $2, or run make setup" >&2; exit 1; }
}
PATH=$PWD/target/tools/bin:$PATH
need cargo-auditable "it with images/tools.sh"
need clang "the Debian package clang"
need llvm-objcopy "the Debian package llvm"
need perl "the Debian package perl"
need jq "the Debian package jq"

target=$machine-unknown-linux-gnu
variable=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$target")
# Static with glibc (.cargo/config.toml): since 2.34 its resolver reads /etc/hosts and asks the servers of
# /etc/resolv.conf without a shared library, so that an image needs no other file. These would take its place.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
if [ "$arch" != "$own" ]; then
    linker=$machine-linux-gnu-gcc
    need "$linker" "the Debian packages of the cross compiler (gcc-${machine//_/-}-linux-gnu, libc6-dev-$arch-cross)"
    export "${variable}_LINKER=$linker"
fi
packages=(-p holdfast-operator -p holdfast-agent)
if [ "$profile" = dev ]; then
    # With the features of all, as the tests have them, so that what they share is built once.
    packages=(--workspace)
fi

cargo auditable build --quiet --locked --profile "$profile" --target "$target" \
    "${packages[@]}" --bin holdfast-operator --bin holdfast-agent

for part in operator agent; do
    name=holdfast-$part
    program=${CARGO_TARGET_DIR:-target}/$target/$built/$name
    rm -rf "${folder:?}/$part"
    mkdir -p "$folder/$part"
    llvm-objcopy --strip-debug "$program" "$folder/$part/$name"
    chmod 0755 "$folder/$part/$name"
    llvm-objcopy --dump-section .dep-v0=/dev/stdout "$program" /dev/null |
        perl -MCompress::Zlib -0777 -ne 'print uncompress($_) // die "the list of dependencies cannot be read\n"' |
        jq --from-file images/sbom.jq >"$folder/$part/$name.cdx.json"
    chmod 0644 "$folder/$part/$name.cdx.json"
done
