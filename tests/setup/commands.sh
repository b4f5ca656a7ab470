#!/bin/bash
# Writes docs/commands.md from what the programs say of themselves: `make generate`.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --quiet --workspace --bins
PATH=$PWD/target/$(rustc --print host-tuple)/debug:$PATH
# Defaults, not what this shell has set.
for name in $(env | sed -n 's/^\(HOLDFAST_[A-Z_]*\)=.*/\1/p'); do unset "$name"; done

help() { # COMMAND...
    echo
    echo "## \`$*\`"
    echo
    echo '```console'
    echo "$ $* --help"
    "$@" --help | sed 's/[[:space:]]*$//'
    echo '```'
}

subcommands() { # PROGRAM
    "$1" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p' | grep -vx help
}

{
    echo "# Commands"
    echo
    echo "What each program says with \`--help\`, written by \`make generate\`. Each flag with an \`[env: NAME=]\` can also be given by"
    echo "that variable. A wrong flag or variable is refused in one line that names it, with exit status 2."
    for program in holdfast-agent holdfast-operator kubectl-holdfast; do
        for command in $(subcommands "$program"); do help "$program" "$command"; done
    done
} >docs/commands.md.new
mv docs/commands.md.new docs/commands.md
