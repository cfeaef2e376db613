#!/bin/sh
# `make env`: a virtual environment in .venv that holds exactly what requirements.lock names, and slavc itself on top.
# It does nothing when that is so already, goes on where it was interrupted, and starts anew when the lock has changed.
set -u
cd "$(dirname "$0")/.." || exit 1
lock=requirements.lock
newest=3.13 oldest=3.11            # the Pythons that the lock has been tried with
gigabytes=8                        # 7 for the environment, the rest for unpacking

stop() { printf 'make env: %s\n' "$1" >&2; exit 1; }

supported() {
    "$1" -c "import sys; sys.exit(not ($(echo $oldest | tr . ,)) <= sys.version_info[:2] <= ($(echo $newest | tr . ,)))" 2>/dev/null
}

works() { supported .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }
anew() { echo "$1: making .venv anew."; rm -rf .venv; }

if [ -e .venv ] && ! works; then anew "The Python in .venv does not run, lacks pip, or is not $oldest to $newest"; fi
if [ -e .venv/made ] && [ "$(head -n 1 .venv/made)" != "$(cksum <$lock)" ]; then anew "$lock is not what .venv was made from"; fi

if [ ! -e .venv ]; then
    python=
    for name in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        if command -v "$name" >/dev/null && supported "$name"; then python=$name; break; fi
    done
    [ -n "$python" ] || stop "no Python $oldest to $newest was found${PYTHON:+ as $PYTHON}: install one (Debian: apt-get install python3 python3-venv), or say where yours is: make env PYTHON=/path/to/python3"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || stop "$python has no venv module: install it (Debian: apt-get install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))"
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge $gigabytes ] || stop "$free GB of disk are free here, and the environment needs $gigabytes: free some, or clone to another disk"
    "$python" -m venv .venv || stop "$python could not make .venv (above is why)"
fi

progress() {                       # pip's log stays in .venv/pip.log; a terminal sees one line that counts
    awk -v total="${total-}" -v tty="$([ -t 1 ] && echo 1)" '
        { print > log_file; fflush(log_file) }
        /^Collecting / { if (tty) printf "\r%3d of at most %d  %-60s", ++n, total, substr($2, 1, 60) }
        /^Installing collected/ { if (tty) printf "\r%-80s\r", ""; print "All are here; unpacking." }' log_file=.venv/pip.log
}
pip_install() {
    { .venv/bin/python -m pip install --no-deps --no-build-isolation --no-input --disable-pip-version-check "$@" 2>&1; echo "exit $?"; } | progress
    [ "$(tail -n 1 .venv/pip.log)" = "exit 0" ] && return
    grep -q -E 'Retrying \(Retry\(total=0|Max retries exceeded|Read timed out' .venv/pip.log &&
        stop "the package index cannot be reached: connect to a network (behind a proxy: export HTTPS_PROXY=...), then repeat; what was fetched is kept"
    grep -q 'No space left' .venv/pip.log &&
        stop "the disk is full: free $gigabytes GB here and 4 GB where pip keeps its cache, then repeat"
    grep -v '^exit' .venv/pip.log | tail -n 5 >&2
    stop "pip could not install what $lock names (above; the whole log: .venv/pip.log)"
}
if [ ! -e .venv/made ]; then
    total=$(grep -c '^[^ #].*==' $lock)
    echo "Installing $total packages of $lock for $(.venv/bin/python -V) into .venv: 7 GB, several minutes."
    # First what installs and builds, so that nothing from outside the lock takes part.
    awk '/^[^ #]/ { keep = /^(pip|setuptools|wheel)==/ } keep' $lock >.venv/first.lock
    pip_install --quiet --require-hashes -r .venv/first.lock
    pip_install --require-hashes -r $lock
fi
pip_install --quiet -e .
cksum <$lock >.venv/made
echo "The environment is ready: source .venv/bin/activate"
