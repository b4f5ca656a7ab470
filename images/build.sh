#!/bin/bash
# Builds the images of the operator and the agent with buildah, from programs built on this machine: OCI archives
# target/images/holdfast-{operator,agent}-vVERSION-ARCH.tar, each with its bill of materials beside it. It takes no
# registry: the images are made from nothing but the programs. What buildah keeps goes to FOLDER/.storage, and away again.
#
#     skopeo copy oci-archive:target/images/holdfast-agent-v0.1.0-amd64.tar docker://REGISTRY/holdfast/agent:v0.1.0
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat >&2 <<'END'
usage: build.sh [--arch amd64|arm64] [--profile release|dev] [FOLDER]
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
: "${folder:=target/images}"
if [ -z "$arch" ]; then
    case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) usage ;;
    esac
fi
command -v buildah >/dev/null || { echo "build.sh: buildah is missing: install the Debian package, or run make setup" >&2; exit 1; }

version=$(sed -nE '/^\[workspace.package\]/,/^\[/s/^version = "(.*)"$/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# The time of the commit, so that the same sources give the same image.
created=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
storage=$folder/.storage
clean() { rm -rf "$storage"; }
trap clean EXIT
clean
images/binaries.sh --arch "$arch" --profile "$profile" "$storage/context/$arch"

# Storage of its own, in plain folders: it needs no overlay file system, and leaves the machine's images alone.
own_buildah() { buildah --root "$storage/root" --runroot "$storage/run" --storage-driver vfs "$@"; }
for part in operator agent; do
    name=holdfast-$part
    file=$folder/$name-v$version-$arch
    own_buildah build --quiet --isolation chroot --platform "linux/$arch" --timestamp "$created" \
        --file Dockerfile --target "$part" --build-arg BINARIES=local \
        --build-arg VERSION="$version" --build-arg REVISION="$revision" \
        --tag "$name:v$version" "$storage/context" >/dev/null
    rm -f "$file.tar"
    own_buildah push --quiet "$name:v$version" "oci-archive:$file.tar:v$version"
    install -m 0644 "$storage/context/$arch/$part/$name.cdx.json" "$file.cdx.json"
    printf '%s\n' "$file.tar"
done
