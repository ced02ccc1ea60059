"""Importing packages that take seconds, such as torch and transformers, in a fifth less of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """For import statements: nothing is searched for garbage meanwhile, and what was imported not afterwards either."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if searching:
            gc.enable()
