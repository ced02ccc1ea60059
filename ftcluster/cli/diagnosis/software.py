"""Checks of what is installed: Python, packages, DeepSpeed, and whether torch fits the GPUs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcluster.cli.diagnosis.finding import Finding
from ftcluster.cluster.inventory import GpuReading, TorchBuild
from ftcluster.cluster.machine import installed_version

_IMPORT_SECONDS = 180.0  # a first import may compile something


def python() -> Finding:
    """Which Python this is; a wrong version cannot get this far."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", "ok", f"{version} at {sys.prefix}")


def packages(distribution: str = "ftcluster") -> Iterator[Finding]:
    """Installed versions against the ranges this package declares; below them are known faults and holes."""
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "warn", f"{distribution} is not installed here", "pip install -e . in the checkout")
        return
    wanted = [Requirement(text) for text in declared]
    missing = []
    for requirement in (item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})):
        version = installed_version(requirement.name)
        if not version:
            missing.append(Finding(requirement.name, "fail", "not installed", f'pip install "{requirement}"'))
        elif not requirement.specifier.contains(version, prereleases=True):
            detail = f"{version}, needs {requirement.specifier}"
            missing.append(Finding(requirement.name, "fail", detail, f'pip install "{requirement}"'))
    shown = ("torch", "transformers", "peft", "ray", "mlflow")
    found = ", ".join(f"{name} {installed_version(name)}" for name in shown if installed_version(name))
    yield from missing or [Finding("packages", "ok", found)]


def torch_matches(build: TorchBuild, reading: GpuReading) -> Finding:
    """Whether this torch can use these GPUs."""
    name, detail = "torch build", f"{build.version}, {f'CUDA {build.cuda}' if build.cuda else 'CPU only'}"
    answering = [gpu for gpu in reading.gpus if not gpu.problem]
    if not answering:
        return Finding(name, "ok", detail)
    if not build.cuda:
        return Finding(
            name, "fail", f"{detail}, but there are GPUs", "install a CUDA build: see pytorch.org/get-started"
        )
    if not build.usable_gpus:
        remedy = "install a torch build for an older CUDA, or a newer driver; check CUDA_VISIBLE_DEVICES"
        return Finding(name, "fail", f"{detail}; driver {reading.driver} lets it use no GPU", remedy)
    majors = {architecture.rpartition("_")[2].rstrip("af")[:-1] for architecture in build.architectures}
    strange = {gpu.name for gpu in answering if gpu.compute_capability and str(gpu.compute_capability[0]) not in majors}
    if strange:
        return Finding(
            name, "fail", f"{detail}; not built for {', '.join(sorted(strange))}", "install a torch build for this GPU"
        )
    return Finding(name, "ok", f"{detail}, {build.usable_gpus} GPUs usable")


def deepspeed(build: TorchBuild, *, start: bool, module: str = "deepspeed") -> Iterator[Finding]:
    """Whether DeepSpeed can be imported, in a process of its own, and fits torch; only trials over GPUs need it."""
    name, version = "DeepSpeed", installed_version(module)
    if not version:
        yield Finding(name, "ok", "not installed; only training sharded over several GPUs needs it")
        return
    if start and (problem := _import_problem([sys.executable, "-c", f"import {module}"])):
        remedy = f"python -c 'import {module}' tells more; install it again against the torch that is here"
        yield Finding(name, "warn", f"{version} cannot be imported: {problem}", remedy)
        return
    if strange := _compiled_for_another(build, module):
        words = "--force-reinstall --no-deps --no-cache-dir --no-build-isolation"
        yield Finding(name, "warn", f"{version}, {strange}", f"pip install {words} {module}=={version}")
    else:
        yield Finding(name, "ok", version)
    if absent := [tool for tool in ("g++", "ninja") if not shutil.which(tool)]:
        remedy = f"install {' and '.join(absent)}: the first start compiles operations"
        yield Finding(name, "warn", f"{' and '.join(absent)} not found on PATH", remedy)


def _compiled_for_another(build: TorchBuild, module: str) -> str:
    """What its ready-made operations were compiled for, if not for this torch: then they refuse to be loaded.

    Its installer wrote that down. Operations that are compiled at their first use fit by themselves.
    """
    told = _installers_note(module)
    ready = [operation for operation, made in told.get("installed_ops", {}).items() if made]
    torch, cuda = (str(told.get("torch_info", {}).get(key, "")) for key in ("version", "cuda_version"))
    fits = _release(torch) == _release(build.version) and (not build.cuda or _release(cuda) == _release(build.cuda))
    if not ready or fits:
        return ""
    here = f"torch {build.version}{f' and CUDA {build.cuda}' if build.cuda else ''}"
    return f"{', '.join(ready)} compiled for torch {torch} and CUDA {cuda}; here is {here}"


def _installers_note(module: str) -> Mapping[str, Any]:
    """Empty where it was not built here; read without importing the package, which takes seconds."""
    spec = importlib.util.find_spec(module)
    for folder in (spec and spec.submodule_search_locations) or ():
        note = Path(folder) / "git_version_info_installed.py"
        if note.is_file():
            return runpy.run_path(str(note))
    return {}


def _release(version: str) -> list[str]:
    """Major and minor."""
    return version.split(".")[:2]


def _import_problem(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it takes more than {_IMPORT_SECONDS:g} seconds"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else ""
