"""``deploy/install.sh`` on a project without dependencies, which builds itself: quick to install, nothing to fetch."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "ftcluster"
version = "1.2.3"
"""
BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name, info = "ftcluster-1.2.3-py3-none-any.whl", "ftcluster-1.2.3.dist-info"
    metadata = "Metadata-Version: 2.1\\nName: ftcluster\\nVersion: 1.2.3\\nProvides-Extra: dev\\n"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "deploy").mkdir(parents=True)
    shutil.copy2(ROOT / "deploy" / "install.sh", folder / "deploy")
    (folder / "deploy" / "constraints.txt").write_text("torch==2.13.0\n")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    return folder


def _install(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(project, *words), env=_variables(environment), capture_output=True, text=True)


def _command(project: Path, *words: str) -> list[str]:
    return [str(project / "deploy" / "install.sh"), "--torch", "cuda", *words]  # cuda: torch itself stays out


def _variables(changes: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHON": sys.executable, **changes}


def _imports(project: Path) -> bool:
    python = project / ".venv" / "bin" / "python"
    words = [python, "-c", "from importlib.metadata import version; assert version('ftcluster') == '1.2.3'"]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_an_old_python_is_refused_with_the_way_to_name_another(project: Path, tmp_path: Path) -> None:
    old = _script(tmp_path / "python3", '[ "$1" = --version ] && echo Python 3.9.2; exit 1')
    refused = _install(project, PYTHON=str(old))
    assert refused.returncode == 1
    assert f"Python 3.11 or newer is needed, and {old} is Python 3.9.2" in refused.stderr
    assert "PYTHON=/path/to/python3.12 make demo" in refused.stderr
    assert not (project / ".venv").exists()


def test_a_python_without_venv_is_refused_with_the_package_to_install(project: Path, tmp_path: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError('taken out, as Debian does')")
    refused = _install(project, PYTHONPATH=str(tmp_path))
    assert refused.returncode == 1
    assert "has no venv module with pip. On Debian and Ubuntu: apt-get install python3-venv" in refused.stderr
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu"], "unknown option --gpu; the options are --dev, --venv"),
        (["--venv"], "--venv needs a value"),
        (["--torch", "rocm"], "--torch rocm: it is auto, cpu or cuda"),
        (["--from", "nowhere.whl"], "--from nowhere.whl: no such wheel or folder"),
    ],
)
def test_wrong_words_are_refused(project: Path, words: list[str], message: str) -> None:
    refused = _install(project, *words)
    assert refused.returncode == 1
    assert message in refused.stderr


@pytest.mark.slow
def test_an_environment_is_filled_once_and_left_alone_until_its_inputs_change(project: Path) -> None:
    """What the user had in it stays, and so do the development tools when a later run does not ask for them."""
    subprocess.run([sys.executable, "-m", "venv", project / ".venv"], check=True)
    own = project / ".venv" / "own-file"
    own.touch()
    first = _install(project, "--dev")
    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith("Installed.\n")
    assert _imports(project)
    for words in (["--dev"], []):
        began = time.monotonic()
        again = _install(project, *words)
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
        assert time.monotonic() - began < 2
    with (project / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    assert "Installing" in _install(project).stdout
    assert _install(project, "--dev").stdout == ""
    assert own.exists()


@pytest.mark.slow
def test_an_installation_that_was_killed_and_one_that_was_moved_are_made_anew(project: Path) -> None:
    with subprocess.Popen(
        _command(project), env=_variables({}), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if "[2/2]" in line:
                os.killpg(killed.pid, signal.SIGKILL)
    assert killed.returncode != 0
    assert not _imports(project)
    repaired = _install(project)
    assert "unfinished or was moved: making it anew" in repaired.stdout
    assert _imports(project)
    moved = project.rename(project.parent / "elsewhere")
    again = _install(moved)
    assert "unfinished or was moved: making it anew" in again.stdout
    assert _imports(moved)
