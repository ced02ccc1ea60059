"""``ftcluster rollback``: an alias goes back to the version before."""

from __future__ import annotations

from typing import Annotated

import typer

from ftcluster.cli.arguments import Home, Json
from ftcluster.cli.output import console, print_json
from ftcluster.cli.promote import user


def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Registered model.")],
    alias: Annotated[str, typer.Option(help="The alias to move back.")] = "champion",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Move an alias back to the version before, after checking that its adapter is still what was promoted.

    [bold]Example[/bold]

      ftcluster rollback assistant

    Nothing is deleted: the version that gives way can be promoted again.
    """
    from ftcluster.config.environment import default_home
    from ftcluster.registry.rollback import roll_back
    from ftcluster.training.records import store_uri

    place = (home or default_home()).expanduser().absolute()
    done = roll_back(model, alias, uri=store_uri(place, ""), by=user())
    if as_json:
        print_json(done)
        return
    run = f" ({done.run})" if done.run else ""
    console().print(f"{done.model}@{done.alias} is version {done.version}{run} again, not {done.left}", soft_wrap=True)
