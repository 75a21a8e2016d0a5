#!/usr/bin/env bash
# Makes the virtual environment DIRECTORY from requirements.lock: scripts/setup.sh PYTHON DIRECTORY
#
# uv installs the lock in seconds. torch goes by pip: it carries no digest (see requirements.in), and whether its wheel is
# a CUDA or a CPU one is up to the find-links and extra indexes that pip is configured for, which uv doesn't read.
set -euo pipefail
# uv ends an interrupt with an exit status, which would look like a reason to go on with pip.
trap 'exit 130' INT
trap 'exit 143' TERM

python=$1
venv=$2
quiet=-q
terminal=
if [ -t 1 ] && [ -t 2 ]; then quiet= terminal=yes; fi  # there the installers show their own progress

phase() {  # phase WHAT COMMAND...: says what is done, and then how long it took
    local what=$1 start=$SECONDS status=0
    shift
    printf '  %s ... ' "$what"
    [ -z "$terminal" ] || echo
    "$@" || status=$?
    if [ $status -eq 0 ]; then
        echo "${terminal:+  }$((SECONDS - start)) s"
    else
        echo "  failed after $((SECONDS - start)) s"
    fi
    return $status
}

pip_setting() {  # pip_setting NAME: the value that pip would use, the environment before the files
    "$venv/bin/python" -m pip config list \
        | sed -n -e "s/^:env:\.$1='\(.*\)'$/1\1/p" -e "s/^install\.$1='\(.*\)'$/2\1/p" -e "s/^global\.$1='\(.*\)'$/3\1/p" \
        | sort | sed -n '1s/^.//p'
}

# Nothing is compiled: of 25,000 modules a run imports 7,000, and the first process that imports one leaves it compiled.
install_by_pip() {
    "$venv/bin/python" -m pip install ${quiet:+-qq} --disable-pip-version-check --no-compile "$@"
}

install_by_uv() {
    "$venv/bin/uv" pip install $quiet --python "$venv/bin/python" "$@"
}

make_environment() {
    rm -rf "$venv"
    phase "environment of $("$python" --version)" "$python" -m venv "$venv"
    sed '/^torch==/d' requirements.lock > "$venv/hashed.lock"
    awk '/^[^ #]/ {uv = /^uv==/} uv' requirements.lock > "$venv/installer.lock"
}

echo "Setting up $venv"
make_environment
packages="$(grep -c '^[^ #]' "$venv/hashed.lock") packages"
phase "$(grep -o '^uv==[^ ]*' "$venv/installer.lock") by pip" install_by_pip --no-deps --require-hashes -r "$venv/installer.lock"

# Of pip's configuration uv gets the index and the certificates. It doesn't get extra indexes: it takes a package from the
# first index that knows the name, whether or not that index has the version.
index=$(pip_setting index-url)
certificates=$(pip_setting cert)
if [ -n "$index" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"; fi
if [ -n "$certificates" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificates}"; fi
if ! phase "$packages by uv" install_by_uv --no-deps --require-hashes -r "$venv/hashed.lock"; then
    echo "  uv could not install them (its reason is above): pip does, with its own configuration, and takes minutes."
    make_environment  # pip would trust what uv may have left half done
    phase "$packages by pip" install_by_pip --no-deps --require-hashes -r "$venv/hashed.lock"
fi

phase "$(grep '^torch==' requirements.lock) by pip" install_by_pip "$(grep '^torch==' requirements.lock)"
