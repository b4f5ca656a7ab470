# Sourced by setup.sh. Fetches packages of another Debian suite than the machine's own, and unpacks them without
# installing: kernels that only QEMU boots, and etcd, whose package would start a service.
#
# Which mirror to ask, and by which key to trust it, is read from the machine's own apt sources. Lists, caches and the
# rewritten sources live under target/tools/apt, so the machine's apt configuration stays as it was.

# The stanza or line of the machine's apt sources that brings its own release, with SUITE in place of it.
debian_source() { # SUITE
    local codename entry file number
    codename=$(. /etc/os-release && echo "${ID:-}:${VERSION_CODENAME:-}")
    case $codename in
    debian:?*) codename=${codename#debian:} ;;
    *) fail "Debian is needed (to fetch the test kernels by apt), and this is $codename" ;;
    esac
    entry=$(apt-get indextargets --format '$(SOURCESENTRY)' 'Identifier: Packages' 'Component: main' \
        "Release: $codename" | head -n 1)
    [ -n "$entry" ] || fail "apt knows no list of $codename main: check 'apt-get update' and /etc/apt/sources.list*"
    file=${entry%:*} number=${entry##*:}
    case $file in
    *.sources) awk -v RS= -v n="$number" 'NR == n' "$file" | sed -E "/^#/d; /^Suites:/s/.*/Suites: $1/" ;;
    *) sed -n "${number}p" "$file" | sed -E "s/(\s)$codename(\s)/\1$1\2/" ;;
    esac
}

# apt-get or apt-cache with the lists of SUITE alone.
debian_apt() { # SUITE COMMAND ARGS...
    local root=$TOOLS/apt/$1 command=$2
    shift 2
    "$command" -o Dir::State="$root/state" -o Dir::State::status="$root/status" -o Dir::Cache="$root/cache" \
        -o Dir::Etc::sourcelist="$root/sources/none.list" -o Dir::Etc::sourceparts="$root/sources" \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=false -o Acquire::Languages=none \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Retries=3 "$@"
}

# Reads the package lists of SUITE.
debian_update() { # SUITE
    local root=$TOOLS/apt/$1 source
    rm -rf "$root"
    mkdir -p "$root"/{state/lists/partial,cache/archives/partial,sources}
    : >"$root/status"
    source=$(debian_source "$1")
    case $source in
    deb*) printf '%s\n' "$source" >"$root/sources/suite.list" ;;
    *) printf '%s\n' "$source" >"$root/sources/suite.sources" ;;
    esac
    step "reading the package lists of Debian $1"
    debian_apt "$1" apt-get update -qq || fail "apt-get update of Debian $1 failed (see above)"
}

# Downloads PACKAGE of SUITE and unpacks it into DIRECTORY. A package that is only a name for the newest
# version (linux-image-cloud-amd64) is followed to what it depends on when FOLLOW is given.
debian_unpack() { # SUITE PACKAGE DIRECTORY [FOLLOW]
    local suite=$1 package=$2 directory=$3 download
    [ -d "$TOOLS/apt/$suite" ] && [ -n "${UPDATED[$suite]:-}" ] || { debian_update "$suite" && UPDATED[$suite]=1; }
    if [ -n "${4:-}" ]; then
        package=$(debian_apt "$suite" apt-cache depends --no-recommends --no-suggests "$package" |
            sed -nE "s/^ *Depends: ($4)\$/\1/p" | head -n 1)
        [ -n "$package" ] || fail "Debian $suite: $2 depends on nothing like $4"
    fi
    download=$(mktemp -d "$TOOLS/apt/$suite/download.XXXXXX")
    step "downloading $package from Debian $suite"
    (cd "$download" && debian_apt "$suite" apt-get download -qq "$package") || fail "cannot download $package of Debian $suite"
    mkdir -p "$directory"
    dpkg-deb -x "$download"/*.deb "$directory" || fail "cannot unpack $package"
    rm -rf "$download"
}
