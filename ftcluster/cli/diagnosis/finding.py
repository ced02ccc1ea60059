"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """``fail``: something that is needed does not work. ``remedy`` says what to do about what is not ok."""

    name: str
    state: State
    detail: str
    remedy: str = ""
