"""A file system of its own that tests can fill."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, size: str, *, lazily: bool = False) -> Iterator[Path]:
    """Mount a tmpfs such as ``3m`` at a new folder; needs the right to mount. ``lazily``: also while it is in use."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "ftcluster-test", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield place
    subprocess.run(["umount", *(["--lazy"] if lazily else []), str(place)], check=True)
