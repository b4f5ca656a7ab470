# `make help` lists the targets. Each does its own set-up.
.DEFAULT_GOAL := help
.PHONY: help setup demo build test test-unit test-controlplane test-vm test-node fmt check generate images

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: ## install what the build and the tests need; quick when nothing is missing
	@bash tests/setup/setup.sh

demo: setup ## show Holdfast at work on this machine: API server, operator, agent, a policy, what it refuses (needs root)
	cargo build --workspace --bins
	@target/$$(rustc --print host-tuple)/debug/demo $(ARGS)

build: setup ## build the operator and the agent
	cargo build

test: setup ## run every test
	cargo test --workspace --no-fail-fast

test-unit: setup ## run the tests that need no kernel and no control plane
	cargo test --no-fail-fast
	cargo test -p holdfast-tests --lib --test pipes

test-controlplane: setup ## run the tests against a real kube-apiserver and etcd
	cargo test -p holdfast-tests --no-fail-fast --test controlplane --test corpus --test 'operator*' --test 'chart*' --test end_to_end --test monitoring --test images --test 'plugin*' --test surface --test docs --test documents --test kubelet --test install

test-vm: setup ## run the tests on Debian's kernels in QEMU
	cargo test -p holdfast-tests --no-fail-fast --test vm --test scenarios_vm --test cost_vm

test-node: setup ## run the tests on this machine's own kernel (needs root)
	cargo test -p holdfast-tests --no-fail-fast --test kernel_oracle --test node

fmt: ## format the sources
	cargo fmt --all

check: setup ## formatting, lints, and that generated files are up to date
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo run --quiet -p holdfast-crds --bin crdgen -- --check

generate: setup ## write the generated files: the CRDs, the tables of the documents, what the programs say of themselves, what the chart renders
	cargo run --quiet -p holdfast-crds --bin crdgen
	HOLDFAST_UPDATE=1 cargo test --quiet -p holdfast-tests --test chart
	bash tests/setup/commands.sh

images: setup ## build the images of the operator and the agent: OCI archives in target/images
	@images/build.sh
