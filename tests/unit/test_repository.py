"""The repository keeps its own rules: sizes, shell scripts, YAML, Dockerfile, and a README that names what exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
LONGEST_FILE, LONGEST_FUNCTION = 450, 60
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SOURCES = sorted((ROOT / "ftcluster").rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "deploy").glob("*.sh"), ROOT / ".ci" / "run"])


def _run(tool: str, *words: str | Path) -> str:
    """What the tool complains about; empty when it is content."""
    done = subprocess.run([TOOLS / tool, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def test_no_source_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {source.relative_to(ROOT): len(source.read_text("utf-8").splitlines()) for source in SOURCES}
    assert lengths, "no source files were found"
    assert {file: lines for file, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = []
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    too_long.append(f"{source.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert too_long == []


def test_shell_scripts_pass_shellcheck() -> None:
    assert {"install.sh", "lock.sh", "team.sh", "run"} <= {script.name for script in SCRIPTS}
    assert _run("shellcheck", *SCRIPTS) == ""


def test_every_yaml_file_passes_yamllint() -> None:
    folders = [ROOT / name for name in ("conf", "sweeps", "deploy")]
    files = [*(file for folder in folders for file in sorted(folder.rglob("*.y*ml"))), ROOT / ".pre-commit-config.yaml"]
    assert _run("yamllint", "--strict", *files) == ""


def test_the_dockerfile_passes_hadolint() -> None:
    assert _run("hadolint", "deploy/Dockerfile") == ""


def test_what_is_imported_is_declared() -> None:
    """Not left to some other package to bring along, until one day it no longer does."""
    providers = packages_distributions()
    declared = _names(PROJECT["dependencies"])
    undeclared = {
        f"{source.relative_to(ROOT)}: {module}"
        for source in SOURCES
        for module in _imported(source) - sys.stdlib_module_names - {"ftcluster"}
        if not declared & {_canonical(provider) for provider in providers.get(module, [])}
    }
    assert undeclared == set()


def test_every_dependency_is_pinned() -> None:
    names = _names([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
    pinned = {
        _canonical(line.partition("==")[0])
        for line in (ROOT / "deploy" / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    }
    assert names - pinned == set(), "run: make lock"


def test_constraints_serve_machines_with_and_without_a_gpu() -> None:
    text = (ROOT / "deploy" / "constraints.txt").read_text("utf-8")
    assert not re.search(r"\+cpu|\+cu\d|^nvidia-(?!ml-py)|^triton", text, re.MULTILINE)


def test_the_file_map_of_the_readme_names_only_what_exists() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("no README yet")
    mentioned = re.findall(
        r"`((?:conf|deploy|docs|ftcluster|sweeps|tests|benchmarks)/[\w./-]*)`", readme.read_text("utf-8")
    )
    assert [name for name in mentioned if not (ROOT / name).exists()] == []


def _names(requirements: list[str]) -> set[str]:
    return {_canonical(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def _imported(source: Path) -> set[str]:
    """The top-level names of what a file imports, wherever in it."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.append(node.module or "")
    return {module.partition(".")[0] for module in modules}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
