# The images of the operator and the agent, for amd64 and arm64:
#
#     docker build --target operator -t holdfast/operator:v0.1.0 .
#     docker build --target agent -t holdfast/agent:v0.1.0 .
#
# or with `buildah build` and the same words; for several architectures add --platform linux/amd64,linux/arm64. The
# programs are cross-compiled on the builder's own architecture, without emulation. `make images` takes the last stages
# alone, with programs that it has built on the machine (BINARIES=local).
#
# Each image holds one static program and its bill of materials (CycloneDX; the same list is in the program itself, as
# cargo-auditable writes it), and nothing else: no shell, no libraries, no passwd. No certificates either: the one TLS
# server that the programs speak to is the API server, whose authority comes with the service account or kubeconfig.

# The stage that the programs come from: `built`, or `local` where the build context is a folder of
# images/binaries.sh's making, with one folder in it for each architecture.
ARG BINARIES=built

FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95.0-bookworm AS builder
# rust-toolchain.toml asks for clippy and rustfmt too, which a build does not need.
ENV RUSTUP_TOOLCHAIN=1.95.0 DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang llvm libbpf-dev jq perl \
    && rm -rf /var/lib/apt/lists/*
COPY images/tools.sh /src/images/
RUN /src/images/tools.sh /usr/local/cargo
ARG TARGETARCH
# The other architecture's standard library, linker and C library.
RUN set -eu; \
    if [ "$TARGETARCH" = "$(dpkg --print-architecture)" ]; then exit 0; fi; \
    case "$TARGETARCH" in \
    amd64) machine=x86_64 gcc=gcc-x86-64-linux-gnu ;; \
    arm64) machine=aarch64 gcc=gcc-aarch64-linux-gnu ;; \
    *) echo "there are no kernel programs for $TARGETARCH" >&2; exit 1 ;; \
    esac; \
    apt-get update; \
    apt-get install -y --no-install-recommends "$gcc" "libc6-dev-$TARGETARCH-cross"; \
    rm -rf /var/lib/apt/lists/*; \
    rustup target add "$machine-unknown-linux-gnu"
COPY . /src
RUN /src/images/binaries.sh --arch "$TARGETARCH" /out

FROM scratch AS built
COPY --from=builder /out /

FROM scratch AS local
ARG TARGETARCH
COPY ${TARGETARCH} /

FROM ${BINARIES} AS binaries

FROM scratch AS operator
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="holdfast-operator" \
    org.opencontainers.image.description="Installs Holdfast's agent on every node, publishes who has which address, and reports where each policy is in force" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.vendor="Holdfast"
COPY --from=binaries /operator /
# It needs nothing of its machine but the network.
USER 65532:65532
ENTRYPOINT ["/holdfast-operator"]

FROM scratch AS agent
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="holdfast-agent" \
    org.opencontainers.image.description="Enforces Holdfast's policies in this node's kernel, and reports what is in force" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.vendor="Holdfast"
COPY --from=binaries /agent /
# Root, with the few capabilities that the pod gives it: the BPF file system is the node's root's alone (mode 0700), and
# a container runtime gives capabilities that work from the first instruction to root only.
USER 0:0
ENTRYPOINT ["/holdfast-agent"]
