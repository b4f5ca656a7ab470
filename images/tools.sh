#!/bin/bash
# Installs what images/binaries.sh needs of cargo's own into FOLDER/bin: cargo-auditable, which writes the list of
# dependencies into each program that it builds. Quick where it is there already.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: tools.sh FOLDER" >&2; exit 2; }
# Without optimisation: it does little, and is built sooner.
exec cargo install --locked --quiet --debug --root "$1" cargo-auditable@0.7.7
