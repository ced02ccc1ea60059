#!/usr/bin/env bash
# Installs ftcluster into a virtual environment, in the exact versions of constraints.txt.
#
# Owns: which Python, which build of torch, and whether anything has to be done at all.
# Does not own: the versions (constraints.txt, made by lock.sh) and system packages.
#
#   deploy/install.sh [--dev] [--venv DIR] [--from PATH] [--torch auto|cpu|cuda] [--constraints FILE]
#
#   --dev          also what tests and checks need
#   --from PATH    a wheel or a source folder, copied in; without it this checkout is installed editable
#   --torch        auto takes the CPU build where there is no NVIDIA GPU
#   PYTHON           environment variable: the Python to use, 3.11 or newer
#   TORCH_INDEX_URL  environment variable: the package index that torch, and torch alone, comes from
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pytorch_cpu_index=https://download.pytorch.org/whl/cpu
venv=$root/.venv
constraints=$root/deploy/constraints.txt
torch_build=auto
extras=""
source=""

fail() {
    printf 'deploy/install.sh: %s\n' "$1" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --dev) extras='[dev]' && shift && continue ;;
        --venv | --from | --torch | --constraints) [ $# -ge 2 ] || fail "$1 needs a value" ;;
        *) fail "unknown option $1; the options are --dev, --venv, --from, --torch and --constraints" ;;
    esac
    case $1 in
        --venv) venv=$2 ;;
        --from) source=$2 ;;
        --torch) torch_build=$2 ;;
        --constraints) constraints=$2 ;;
    esac
    shift 2
done
case $torch_build in auto | cpu | cuda) ;; *) fail "--torch $torch_build: it is auto, cpu or cuda" ;; esac
[ -z "$source" ] || [ -e "$source" ] || fail "--from $source: no such wheel or folder"

stamp=$venv/.ftcluster-installed
unfinished=$venv/.ftcluster-unfinished

# Everything that decides what is in the environment; a moved environment has wrong paths in its scripts.
wanted() {
    printf 'environment %s\n' "$(cd "$venv" && pwd)"
    printf 'source %s\n' "${source:-editable $root}"
    printf 'torch %s %s\n' "$torch_build" "${TORCH_INDEX_URL:-}"
    local inputs=("${BASH_SOURCE[0]}" "$constraints")
    if [ -f "$source" ]; then inputs+=("$source"); else inputs+=("${source:-$root}/pyproject.toml"); fi
    cat "${inputs[@]}" | cksum
}

# An environment with the development tools also serves those who did not ask for them.
if [ -x "$venv/bin/python" ] && [ -f "$stamp" ]; then
    if [ "$(head -n 1 "$stamp")" = 'with [dev]' ]; then extras='[dev]'; fi
    if [ "$(cat "$stamp")" = "with $extras"$'\n'"$(wanted)" ]; then exit 0; fi
fi

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, and ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true).
Install a newer one, or name it: PYTHON=/path/to/python3.12 make demo"
}

make_environment() {
    local python
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module with pip. On Debian and Ubuntu: apt-get install python3-venv"
    mkdir -p "$venv"
    echo made >"$unfinished"
    "$python" -m venv "$venv"
}

prepare_environment() {
    local made_here=no
    if [ -f "$unfinished" ]; then
        made_here=$(cat "$unfinished")
    elif [ -f "$stamp" ]; then
        # Another path is in all its scripts, or its Python is gone: nothing in it can be trusted to run.
        if [ ! -x "$venv/bin/python" ] || ! grep -qxF "environment $(cd "$venv" && pwd)" "$stamp"; then made_here=made; fi
    fi
    if [ "$made_here" = made ]; then
        say "An earlier installation in $venv is unfinished or was moved: making it anew."
        rm -rf "$venv"
    fi
    if [ -x "$venv/bin/python" ]; then
        [ -f "$unfinished" ] || echo adopted >"$unfinished"
        rm -f "$stamp"
    else
        make_environment
    fi
}

say() { printf '%s\n' "$1"; }

pip_install() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check --progress-bar off "$@"; }

has_nvidia_gpu() { [ -e /proc/driver/nvidia ] || nvidia-smi -L >/dev/null 2>&1; }

# Plain `torch` from the public index brings gigabytes of CUDA libraries on Linux. A CPU build is looked for in
# the sources pip is set up with, then in PyTorch's own index of CPU builds.
install_torch() {
    local version first_try
    version=$(sed -n 's/^torch==//p' "$constraints")
    if [ -n "${TORCH_INDEX_URL:-}" ]; then
        pip_install --no-deps --index-url "$TORCH_INDEX_URL" "torch==$version"
    elif [ "$1" = cuda ] || [ "$(uname -s)" != Linux ]; then
        return 0 # the plain build is the right one and comes with the rest
    elif first_try=$(pip_install --no-deps "torch==$version+cpu" 2>&1); then
        return 0
    elif ! pip_install --no-deps --index-url "$pytorch_cpu_index" "torch==$version+cpu"; then
        [ "$(uname -m)" != x86_64 ] || fail "no CPU build of torch $version was found. pip's own sources said:
$first_try
Set TORCH_INDEX_URL to an index that has it, or take the CUDA build with: deploy/install.sh --torch cuda"
    fi
}

install_ftcluster() {
    if [ -z "$source" ]; then
        pip_install --constraint "$constraints" --editable "$root$extras"
    else
        # pip would keep an installed wheel of the same version.
        "$venv/bin/python" -m pip uninstall --quiet --yes ftcluster 2>/dev/null
        pip_install --constraint "$constraints" "$source$extras"
    fi
}

prepare_environment
build=$torch_build
if [ "$build" = auto ]; then
    if has_nvidia_gpu; then build=cuda; else build=cpu; fi
fi
say "Installing ftcluster into $venv; the first time takes about 2 minutes."
say "  [1/2] torch ($build build)"
install_torch "$build"
say "  [2/2] transformers, ray, mlflow and the others"
install_ftcluster
printf 'with %s\n%s\n' "$extras" "$(wanted)" >"$stamp"
rm -f "$unfinished"
say "Installed."
