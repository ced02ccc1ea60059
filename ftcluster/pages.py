"""How HTML pages are made of templates: every value is escaped, a missing one is an error, assets stand inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


def page_environment(packages: Sequence[str], filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """For the templates of packages, the first that has one; ``asset(name)`` in them is a file as it stands."""
    loader = ChoiceLoader([PackageLoader(package) for package in packages])
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
