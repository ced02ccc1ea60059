"""ftcluster: fine-tuning sweeps on a cluster, compared in MLflow, promoted to the registry.

In notebooks: ``ftcluster.sweep(...)``, ``open_sweep``, ``train``, ``runs_dataframe``; see ``ftcluster.api``. Nothing of
it is imported before it is used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_API = ("open_sweep", "runs_dataframe", "train")


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(import_module("ftcluster.api"), name)
    if name == "sweep":  # a package that can be called
        return import_module("ftcluster.sweep")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_API, "sweep"})
