"""What makes two runs the same run: a canonical form of their config, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ftcluster.config.schema import RunConfig
from ftcluster.config.values import to_dict

# Where a run is kept, shown and placed does not change what it computes.
_OUTSIDE = ("name", "home", "tracking", "cluster")


def identity(config: RunConfig, plain: Mapping[str, Any] | None = None) -> str:
    """sha256 over everything that decides the result; equal for equal configs on every machine and Python.

    ``plain``: what ``to_dict`` makes of it, where that is known.
    """
    return hashlib.sha256(canonical(config, plain).encode()).hexdigest()


def canonical(config: RunConfig, plain: Mapping[str, Any] | None = None) -> str:
    """JSON with sorted keys and no spaces; paths below ``home`` start with ``${home}``, so that a home can move."""
    content = {key: value for key, value in (plain or to_dict(config)).items() if key not in _OUTSIDE}
    portable = _portable(content, config.home.rstrip("/"))
    return json.dumps(portable, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _portable(value: Any, home: str) -> Any:
    if isinstance(value, dict):
        return {key: _portable(item, home) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, home) for item in value]
    inside = home and isinstance(value, str) and value.startswith(f"{home}/")
    return "${home}" + value[len(home) :] if inside else value
