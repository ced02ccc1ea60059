"""One installation from nothing, as the Dockerfile makes it; and a wheel in an environment without this checkout.

The first takes more than two minutes. The wheel's environment borrows the libraries of the one that runs the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from dockerfile import Build, build

pytestmark = pytest.mark.whole
ROOT = Path(__file__).resolve().parents[2]
OF_THE_WHEEL = ["pyproject.toml", "README.md", "LICENSE", "ftcluster", "conf", "sweeps"]

MODEL_AND_ROWS = """
import json
from pathlib import Path
from ftcluster.models.tiny import create_tiny_model

rows = [{"question": f"What is {n} plus {n}?", "answer": f"It is {2 * n}. 是{2 * n}。"} for n in range(100)]
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
create_tiny_model(Path("base"), [text for row in rows for text in row.values()], hidden_size=32, vocabulary=320)
"""


def _run(*words: str | Path, where: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Build:
    cache = _run(sys.executable, "-m", "pip", "cache", "dir", where=ROOT).strip()
    arguments = {"PIP_CACHE_DIR": cache, "TORCH": "auto"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_COMPILE", "1")  # what is imported gets compiled then; 24,000 other files do not
        return build(ROOT / "deploy" / "Dockerfile", ROOT, tmp_path_factory.mktemp("image"), arguments)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree, so that nothing a developer left behind gets in."""
    tree = tmp_path_factory.mktemp("tree")
    for name in OF_THE_WHEEL:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree)
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", where=tree)
    (built,) = (tree / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment that got the wheel and never saw the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    _run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", where=folder)
    python = folder / "venv" / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, where=folder)
    # No path files are read in a folder that a path file names, so what is installed there for editing is not seen.
    there = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
    (Path(there) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.mark.thorough
def test_the_dockerfile_makes_a_command_that_runs(image: Build) -> None:
    command = shutil.which(image.entry, path=image.variables()["PATH"])
    assert command is not None
    assert Path(command).is_relative_to(image.root)
    version = _run(command, "--version", where=image.inside("."), environment=image.variables())
    assert re.search(r"\d+\.\d+\.\d+", version)


@pytest.mark.thorough
def test_without_an_nvidia_gpu_no_cuda_library_is_installed(image: Build) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA GPU")
    python = image.root / "srv" / "ftcluster" / ".venv" / "bin" / "python"
    packages = json.loads(_run(python, "-m", "pip", "list", "--format=json", where=image.root))
    names = {package["name"] for package in packages}
    assert "torch" in names
    assert {name for name in names if name.startswith("nvidia-") or name == "triton"} <= {"nvidia-ml-py"}


@pytest.mark.thorough
def test_every_installed_version_is_a_pinned_one(image: Build) -> None:
    python = image.root / "srv" / "ftcluster" / ".venv" / "bin" / "python"
    pinned = set((ROOT / "deploy" / "constraints.txt").read_text("utf-8").splitlines())
    installed = _run(python, "-m", "pip", "freeze", "--exclude", "ftcluster", where=image.root).splitlines()
    assert {re.sub(r"\+.*", "", line) for line in installed} - pinned == set()


def test_the_wheel_carries_configuration_and_sweeps(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("conf", "sweeps"):
        wanted = {f"ftcluster/{file.relative_to(ROOT)}" for file in (ROOT / folder).rglob("*.yaml")}
        assert wanted
        assert wanted <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ftcluster"}


def test_an_installed_wheel_finds_its_configuration_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = _run(installed / "python", "-c", "import ftcluster; print(ftcluster.__file__)", where=tmp_path)
    assert "site-packages" in where
    groups = _run(installed / "ftcluster", "config", "groups", where=tmp_path)
    for group in (folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()):
        assert group in groups
    assert list(tmp_path.iterdir()) == []


def test_an_installed_wheel_trains_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    _run(installed / "python", "-c", MODEL_AND_ROWS, where=tmp_path)
    words = [
        "experiment=smoke",
        "model=folder",
        "model.path=base",
        "data=jsonl",
        "data.train=[rows.jsonl]",
        "home=home",
    ]
    told = json.loads(_run(installed / "ftcluster", "train", *words, "--json", where=tmp_path, environment=environment))
    assert (told["state"], told["step"]) == ("finished", 2)
    assert (Path(told["result"]) / "adapter_model.safetensors").stat().st_size > 0
