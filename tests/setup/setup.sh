#!/bin/bash
# What `make setup` does: everything the build and the tests need that cargo does not bring. It does nothing, quickly,
# where all is there already. Needs Debian, cargo and Go; root only while a Debian package is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
TOOLS=$PWD/target/tools
declare -A UPDATED=()

step() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}
. tests/setup/debian.sh
. tests/setup/helm.sh
. tests/setup/monitoring.sh

# Debian packages: the compiler of the kernel programs, what builds images, QEMU and what goes into its guests, the container runtimes.
PACKAGES=(
    clang llvm libbpf-dev bpftool gcc libc6-dev make
    buildah perl
    qemu-system-x86 seabios cpio kmod busybox-static xz-utils zstd
    crun runc iproute2 util-linux jq python3
)

install_packages() {
    local missing=() package status
    declare -A installed=()
    while read -r package status; do installed[$package]=$status; done < <(
        dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${PACKAGES[@]}" 2>/dev/null || true
    )
    for package in "${PACKAGES[@]}"; do
        [ "${installed[$package]:-}" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" -eq 0 ] || fail "not root, so install these yourself: apt-get install ${missing[*]}"
    step "installing Debian packages: ${missing[*]}"
    apt-get update -qq || fail "apt-get update failed (see above)"
    local log=$TOOLS/packages.log
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" \
        </dev/null >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "apt-get install failed; the whole log is in $log"
    fi
}

# kube-apiserver and its siblings, from the Go modules that tests/tools/go.mod names.
build_kubernetes() {
    local bin=$TOOLS/bin stamp wanted version log name
    command -v go >/dev/null || fail "Go is missing (it builds kube-apiserver); install Go $(sed -n 's/^go //p' tests/tools/go.mod) or newer"
    stamp=$TOOLS/kubernetes.stamp
    wanted=$(cat tests/tools/go.mod tests/tools/go.sum tests/setup/setup.sh <(go env GOVERSION) | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        local complete=yes
        for name in $(sed -nE 's#^\s+k8s.io/kubernetes/cmd/##p' tests/tools/go.mod); do [ -x "$bin/$name" ] || complete=; done
        [ -n "$complete" ] && return
    fi
    mkdir -p "$bin"
    log=$TOOLS/kubernetes.log
    version=$(cd tests/tools && go list -m -f '{{.Version}}' k8s.io/kubernetes) || fail "go cannot read tests/tools/go.mod (see above)"
    step "building kube-apiserver, kube-controller-manager, kube-scheduler and kubectl $version (about four minutes on two cores the first time)"
    (cd tests/tools && go build -v -trimpath -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$version" \
        -o "$bin/" tool) >"$log" 2>&1 &
    local build=$!
    show_progress "$build" "$log" &
    local progress=$!
    if ! wait "$build"; then
        kill "$progress" 2>/dev/null || true
        tail -n 20 "$log" >&2
        fail "building Kubernetes failed; the whole log is in $log"
    fi
    wait "$progress" || true
    printf '%s' "$wanted" >"$stamp"
}

# A line every 15 seconds while process PID writes one line to LOG for each package that it has compiled.
show_progress() { # PID LOG
    local began=$SECONDS
    while kill -0 "$1" 2>/dev/null; do
        sleep 1
        if [ $(((SECONDS - began) % 15)) -eq 0 ]; then
            step "  $((SECONDS - began)) s, $(wc -l <"$2") packages compiled"
        fi
    done
}

# Debian's etcd, newer than that of Debian 12, which lacks what kube-apiserver wants for consistent reads from its cache.
fetch_etcd() {
    [ -x "$TOOLS/bin/etcd" ] && return
    local unpacked=$TOOLS/etcd.new
    rm -rf "$unpacked"
    debian_unpack trixie etcd-server "$unpacked"
    mkdir -p "$TOOLS/bin"
    mv "$unpacked/usr/bin/etcd" "$TOOLS/bin/etcd"
    rm -rf "$unpacked"
}

# Debian's kernel VERSION from SUITE: target/tools/kernels/VERSION/{vmlinuz,release,lib/modules/RELEASE}. The file
# `release` is written last, and is what tells a complete kernel.
fetch_kernel() { # VERSION SUITE
    local kernel=$TOOLS/kernels/$1 new=$TOOLS/kernels/$1.new release
    [ -s "$kernel/release" ] && return
    rm -rf "$kernel" "$new"
    debian_unpack "$2" linux-image-cloud-amd64 "$new" "linux-image-$1\.[0-9][^ ]*-cloud-amd64"
    [ -d "$new/lib" ] || { mkdir -p "$new/lib" && mv "$new/usr/lib/modules" "$new/lib/modules"; }
    release=$(ls "$new/lib/modules")
    mv "$new/boot/vmlinuz-$release" "$new/vmlinuz"
    rm -rf "$new/boot" "$new/usr"
    depmod -b "$new" "$release" || fail "depmod failed for $release"
    mv "$new" "$kernel"
    printf '%s\n' "$release" >"$kernel/release"
}

mkdir -p "$TOOLS"
exec 9>"$TOOLS/setup.lock"
flock --nonblock 9 || { step "waiting for another set-up of this tree" && flock 9; }
[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || fail "the tests need Debian on amd64 (for the kernels that QEMU boots)"
command -v cargo >/dev/null || fail "cargo is missing; install Rust by rustup (rust-toolchain.toml names the version)"
install_packages
fetch_kernel 5.10 bullseye
fetch_kernel 6.1 bookworm
fetch_kernel 6.12 trixie
fetch_etcd
build_kubernetes
build_helm
fetch_monitoring_crds
fetch_prometheus
build_dashboard_check
images/tools.sh "$TOOLS"
rm -rf "$TOOLS/apt"
step "done"
