"""``ftcluster rollback``: an alias goes back to the version before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftcluster.cli.arguments import Home, Json
from ftcluster.cli.complete import complete_run
from ftcluster.cli.output import console, print_json
from ftcluster.cli.promote import user


def rollback(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_run,
            help="Registered model, or the run or sweep it is named after.",
        ),
    ],
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

    model, uri = _model_of(reference, (home or default_home()).expanduser().absolute())
    done = roll_back(model, alias, uri=uri, by=user())
    if as_json:
        print_json(done)
        return
    run = f" ({done.run})" if done.run else ""
    console().print(f"{done.model}@{done.alias} is version {done.version}{run} again, not {done.left}", soft_wrap=True)


def _model_of(reference: str, home: Path) -> tuple[str, str]:
    """The model and its MLflow: as named, else what a run or sweep of that name is promoted to by default."""
    from ftcluster.errors import UsageError
    from ftcluster.ledger.store import Ledger
    from ftcluster.registry.candidate import default_model_name
    from ftcluster.registry.store import Registry, check_model_name
    from ftcluster.training.records import store_uri

    uri = store_uri(home, "")
    if Registry(uri).is_registered(check_model_name(reference)):
        return reference, uri
    try:
        with Ledger.open(home) as ledger:
            run = ledger.find(reference)
            config = run.config.get("base", {}) if run.kind == "sweep" else run.config
            return default_model_name(ledger, run), store_uri(home, config.get("tracking", {}).get("uri", ""))
    except UsageError:  # no run either: the registry says what it has
        return reference, uri
