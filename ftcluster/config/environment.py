"""The one module that reads environment variables, and where the package's own folders are.

    FTCLUSTER_HOME        ledger, runs and embedded MLflow; default ./runs
    FTCLUSTER_DEBUG       1: tracebacks instead of one-line errors, like --debug
    FTCLUSTER_GPU_PROBE   a file with made-up GPUs to see instead of the machine's own, for tests and dry runs
    RAY_ADDRESS           a Ray cluster to use instead of an embedded one
    RAY_API_SERVER_ADDRESS  the dashboard that jobs are sent to; else RAY_ADDRESS, where that is one
    MLFLOW_TRACKING_URI   an MLflow server or database instead of the embedded one
    CUDA_VISIBLE_DEVICES  the GPUs this process may use; Ray sets it for each of its workers

A value in a config wins over the variable. Configs themselves cannot read variables (see ``yamlfile``).
``NO_COLOR`` is honoured by rich itself.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import ftcluster

_PACKAGE = Path(ftcluster.__file__).resolve().parent


def default_home() -> Path:
    """``FTCLUSTER_HOME``, else ``./runs``; absolute, because workers run in other folders."""
    return Path(os.environ.get("FTCLUSTER_HOME") or "runs").expanduser().absolute()


def home_option(home: Path) -> str:
    """What a printed command needs to find this home again."""
    return "" if home == Path("runs").absolute() else f" --home {shlex.quote(str(home))}"


def debug_wanted() -> bool:
    """True when tracebacks are wanted."""
    return os.environ.get("FTCLUSTER_DEBUG", "") not in ("", "0")


def ray_address(configured: str = "") -> str:
    """The Ray cluster to use; empty: an embedded one."""
    return configured or os.environ.get("RAY_ADDRESS", "")


def jobs_address(named: str = "") -> str:
    """The dashboard that jobs are sent to: as named, as a variable says, or this machine's."""
    from_ray = os.environ.get("RAY_ADDRESS", "")
    shared = from_ray if from_ray.startswith(("http://", "https://")) else ""
    return named or os.environ.get("RAY_API_SERVER_ADDRESS", "") or shared or "http://127.0.0.1:8265"


def keep_ray_local() -> None:
    """Have Ray listen on 127.0.0.1 alone; it reads this when it is imported. A value of the user's own stays.

    Ray replaces a loopback address by the machine's outer one unless it believes clusters are switched off, which
    is what this variable is for on other systems.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def gpu_script() -> Path | None:
    """The file with GPUs to see instead of the machine's own, if one is named."""
    named = os.environ.get("FTCLUSTER_GPU_PROBE", "")
    return Path(named) if named else None


def visible_gpus() -> str | None:
    """What CUDA_VISIBLE_DEVICES says; None where it is not set, which means all."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def see_only_gpus(names: Sequence[str]) -> None:
    """Hide all other GPUs from this process, if CUDA has not begun in it, and from those it starts."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)


def tokenise_on_one_thread() -> None:
    """Keep the tokenizers library to one thread in a process that is one of many doing the same."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def tracking_uri(configured: str = "") -> str:
    """The MLflow store to use; empty: the embedded one."""
    return configured or os.environ.get("MLFLOW_TRACKING_URI", "")


def secret(name: str) -> str:
    """The value of a variable that the user named for a key; empty where it is not set. Never to be logged."""
    return os.environ.get(name, "")


def child_environment(**changes: str) -> dict[str, str]:
    """This process's variables with ``changes``, for a child process."""
    return {**os.environ, **changes}


def bash_completion() -> tuple[list[str], int] | None:
    """Words typed so far and which one the cursor is in, while bash asks for completions; else None."""
    if os.environ.get("_FTCLUSTER_COMPLETE") != "complete_bash":
        return None
    return os.environ.get("COMP_WORDS", "").split(), int(os.environ.get("COMP_CWORD") or 0)


def set_bash_completion(words: list[str], position: int) -> None:
    """Replace what ``bash_completion`` returned for whoever looks next."""
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(words), str(position)


def conf_folder() -> Path:
    """The shipped config groups: inside an installed package, else beside it in a checkout."""
    return _shipped("conf")


def sweeps_folder() -> Path:
    """The shipped sweep files."""
    return _shipped("sweeps")


def _shipped(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def set_for_libraries(values: Mapping[str, str]) -> None:
    """Variables that a library reads when it is imported."""
    os.environ.update(values)
