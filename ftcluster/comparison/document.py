"""The document around a page with figures: one HTML file that needs nothing else, with plotly and all data inside.

The page may not load anything from anywhere, and runs only the scripts that carry its nonce (Content Security
Policy), so that a prompt or answer with markup in it stays text even if an escape were forgotten. Plotly is packed
(gzip): 2.0 MB instead of 4.8, and the browser unpacks it after everything that can be read is on the screen.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from ftcluster import __version__
from ftcluster.comparison.findings import score_text, value_text
from ftcluster.pages import page_environment
from ftcluster.units import format_seconds

_HERE = "ftcluster.comparison"


def environment(package: str = _HERE, filters: Mapping[str, Callable[..., Any]] | None = None) -> Environment:
    """For templates of a package that extend ``document.html``."""
    known: dict[str, Callable[..., Any]] = {"score": score_text, "value": value_text, "duration": format_seconds}
    return page_environment([package, _HERE], {**known, **(filters or {})})


def render(templates: Environment, name: str, figures: Mapping[str, Any], made_at: float, **parts: Any) -> str:
    """A whole page as text; the same parts give the same text."""
    data = _json(figures)
    return templates.get_template(name).render(
        figures=figures,
        figure_data=data,
        plotly=_plotly(),
        nonce=hashlib.sha256(data.encode()).hexdigest()[:32],
        made_at=datetime.fromtimestamp(made_at, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        **parts,
    )


@cache
def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode("ascii"))


def _json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
