#!/usr/bin/env bash
# build_free_threaded_python.sh - builds a CPython without the GIL from Debian's sources.
# SPDX-License-Identifier: BSD-3-Clause
#
#   tools/build_free_threaded_python.sh FOLDER
#
# installs it as FOLDER/bin/python3, with pip, and prints its version. A Python that is already
# there is kept. Neither Debian packages nor pip provide one. Needs root and Debian 12 or newer.
# It changes the system only by installing a compiler and the libraries that CPython needs, from the
# system's own release. Sources come from newer releases, via apt's mirror. Apt verifies them, and
# keeps their lists in a scratch folder.
set -euo pipefail

# Release and source package, the best first: mirrors do not have everything that they list.
readonly candidates=(forky/python3.14 forky/python3.13 trixie/python3.13)
readonly build_dependencies=(
    gcc libbz2-dev libc6-dev libffi-dev liblzma-dev libsqlite3-dev libssl-dev make pkg-config
    xz-utils zlib1g-dev
)

describe() {
    "$1" -m pip --version > /dev/null && # installed last
        "$1" -c 'import sys, sysconfig
assert sysconfig.get_config_var("Py_GIL_DISABLED") == 1
print(sys.executable, sys.version)'
}

find_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1
}

# fetch_source RELEASE PACKAGE: the upstream tarball, into the scratch folder.
fetch_source() {
    cat > "$scratch/apt/debian.sources" << EOF
Types: deb-src
URIs: $mirror
Suites: $1
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
    (cd "$scratch" &&
        export APT_CONFIG="$scratch/apt/apt.conf" &&
        apt-get update --quiet=2 &&
        apt-get source --quiet=2 --download-only --only-source "$2")
}

main() {
    local prefix=$1
    if [[ -x $prefix/bin/python3 ]] && describe "$prefix/bin/python3"; then
        return
    fi
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet=2
    apt-get install --quiet=2 --no-install-recommends "${build_dependencies[@]}" > /dev/null
    mirror=$(find_mirror)
    mkdir -p "$scratch/apt/lists/partial" "$scratch/apt/cache" "$scratch/source"
    cat > "$scratch/apt/apt.conf" << EOF
Dir::Etc::SourceList "$scratch/apt/debian.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$scratch/apt/lists";
Dir::Cache "$scratch/apt/cache";
APT::Sandbox::User "root"; # the scratch folder is root's
EOF
    local candidate
    for candidate in "${candidates[@]}"; do
        if fetch_source "${candidate%/*}" "${candidate#*/}"; then
            break
        fi
        echo "not served: $candidate" >&2
    done
    tar --extract --file "$scratch"/python3.*.orig.tar.xz --directory "$scratch/source" \
        --strip-components 1
    cd "$scratch/source"
    {
        ./configure --prefix="$prefix" --disable-gil --with-ensurepip=install
        make --jobs "$(nproc)"
        make install
    } > "$scratch/build.log" 2>&1 || {
        tail -n 50 "$scratch/build.log" >&2
        exit 1
    }
    describe "$prefix/bin/python3"
}

main "$(realpath --canonicalize-missing "${1:?usage: $0 FOLDER}")"
