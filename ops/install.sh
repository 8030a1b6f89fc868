#!/bin/sh
# Make the virtualenv $1: the dependencies that constraints.txt pins, and Seonchak itself, editable.
set -eu
venv=$1

# Tried, not looked up: a name on PATH may be a version manager's shim for a Python that is not installed,
# and some distributions split ensurepip off.
usable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

names=${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python /usr/bin/python3}
python=
for candidate in $names; do
    if usable "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Seonchak needs Python >= 3.11 with the venv module (Debian: apt install python3-venv);" >&2
    echo "none of these is one: $names" >&2
    echo "Name one yourself: make PYTHON=/path/to/python3" >&2
    exit 1
fi

# A virtualenv that was moved, or whose Python is gone, is made again.
if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
    echo "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --constraint constraints.txt --editable '.[embedded,dev]'
