"""How HTML pages are made of templates: every value is escaped, a missing one is an error, assets stand inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


def page_environment(package: str, filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """For the templates of a package; in them ``asset(name)`` is a style sheet or script of ours, as it stands."""
    loader = PackageLoader(package)
    environment = Environment(
        loader=loader,
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters)
    environment.globals["asset"] = lambda name: Markup(loader.get_source(environment, name)[0])
    return environment
