#!/usr/bin/env bash
# Writes constraints.txt anew: the newest versions that pyproject.toml allows, as one clean installation chose them.
#
# torch keeps its version, because install.sh has to know it beforehand; to move it, edit its line and run this again.
# The CPU build of torch is installed and its build name (+cpu) left out, so that one file serves machines with
# and without a GPU: CUDA libraries are chosen by torch's own exact requirements.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

grep '^torch==' "$here/constraints.txt" >"$scratch/torch.txt"
"$here/install.sh" --dev --venv "$scratch/venv" --torch cpu --constraints "$scratch/torch.txt"
{
    echo '# Made by deploy/lock.sh; do not edit, except the version of torch.'
    "$scratch/venv/bin/python" -m pip freeze --exclude-editable | sed 's/+cpu$//'
} >"$scratch/constraints.txt"
mv "$scratch/constraints.txt" "$here/constraints.txt"
