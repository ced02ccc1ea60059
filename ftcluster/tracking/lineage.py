"""Where a run came from: code, packages, machine, data; recorded as tags of the run.

Owns collecting these facts, not storing them. A fact that cannot be had is left out: a run without git or GPU
is a normal run.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ftcluster import __version__
from ftcluster.tracking.redaction import hide_url_users

_PACKAGES = ("torch", "transformers", "peft")


def lineage(files: Sequence[Path], sha256: Callable[[Path], str] | None = None) -> dict[str, str]:
    """Facts about this process as tags: ``git.commit``, ``version.torch``, ``data.train.jsonl.sha256``, ...

    ``sha256`` may remember hashes of files that did not change.
    """
    machine = {"python": platform.python_version(), "platform": platform.platform(), "host": platform.node()}
    return _git() | _versions() | machine | _gpus() | _hashes(files, sha256 or _sha256)


def _git() -> dict[str, str]:
    commit = _ask_git("rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _ask_git("status", "--porcelain", "--untracked-files=no")
    return {"git.commit": commit, "git.dirty": str(bool(changed)).lower()}


def _ask_git(*question: str) -> str:
    try:
        answer = subprocess.run(["git", *question], capture_output=True, text=True, timeout=2, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _versions() -> dict[str, str]:
    found = {"version.ftcluster": __version__}
    for package in _PACKAGES:
        try:
            found[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _gpus() -> dict[str, str]:
    # Importing torch takes seconds; a process that trains has done so already.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"gpu": ", ".join(names), "version.cuda": str(torch.version.cuda)}


def _hashes(files: Sequence[Path], sha256: Callable[[Path], str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files:
        name, number = f"data.{file.name}", 1
        while f"{name}.sha256" in found:  # files of the same name in several folders
            number += 1
            name = f"data.{file.name}.{number}"
        found[f"{name}.path"] = hide_url_users(str(file))
        try:
            found[f"{name}.sha256"] = sha256(file)
        except OSError as error:
            found[f"{name}.sha256"] = f"unreadable: {error.strerror}"
    return found


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
