"""Sweeps: what to try, where, and what goes on. Called as a function, ``ftcluster.sweep(...)``, it runs one.

The package has the name that users expect of that function, and Python makes it an attribute of ``ftcluster`` as soon
as anything imports a part of it. So it is callable itself, and hands over to ``ftcluster.api``, a room above this one.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run a sweep; ``help(ftcluster.api.sweep)`` tells how."""
        return import_module("ftcluster.api").sweep(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
