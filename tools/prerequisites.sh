#!/bin/sh
# Prints the Python to make .venv with, or says which package is missing.
set -eu

missing() {
    echo "setup: $1 On Debian or Ubuntu: sudo apt install $2" >&2
    exit 1
}

cxx=${CXX:-g++}
command -v git > /dev/null || missing "git is missing." git
command -v "${cxx%% *}" > /dev/null || missing "$cxx is missing." g++
test "$($cxx -dumpversion | cut -d. -f1)" -ge 11 \
    || missing "$cxx is older than 11." "g++-12, and then: make setup CXX=g++-12"

# The first complete Python; where none is, what the first incomplete one lacks.
for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null) \
        || continue
    lacking=
    "$python" -c 'import ensurepip, venv' 2> /dev/null || lacking="python$version-venv"
    "$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
        || lacking="$lacking python$version-dev"
    test "$lacking" || { echo "$python"; exit; }
    complaint=${complaint:-"Python $version is incomplete."} packages=${packages:-$lacking}
done
missing "${complaint:-Python 3.11, 3.12 or 3.13 is missing.}" "${packages:-python3.11 python3.11-dev python3.11-venv}"
