#!/bin/sh
# Prints the Python to make .venv with, or says which package is missing.
set -eu

missing() {
    echo "setup: $1 On Debian or Ubuntu: sudo apt install $2" >&2
    exit 1
}

command -v git > /dev/null || missing "git is missing." git
command -v g++ > /dev/null || missing "g++ is missing." g++
test "$(g++ -dumpversion | cut -d. -f1)" -ge 11 || missing "g++ is older than 11." g++-12

for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        "$python" -c 'import ensurepip, venv' 2> /dev/null \
            || missing "Python $version has no venv." "python$version-venv"
        "$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
            || missing "Python $version has no headers." "python$version-dev"
        echo "$python"
        exit
    fi
done
missing "Python 3.11, 3.12 or 3.13 is missing." "python3.11 python3.11-dev python3.11-venv"
