"""``ftcluster promote``: the gates, the evidence, and an alias in the model registry."""

from __future__ import annotations

import getpass
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftcluster.cli.arguments import Home, Json
from ftcluster.cli.complete import complete_run
from ftcluster.cli.output import console, notices, print_json, table

if TYPE_CHECKING:
    from ftcluster.registry.examination import Case
    from ftcluster.registry.promotion import Promotion


def promote(
    reference: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_SWEEP", autocompletion=complete_run, help="A run, or a sweep: its best trial."),
    ],
    name: Annotated[str, typer.Option(help="Registered model; default: the sweep's or run's name.")] = "",
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    force: Annotated[str, typer.Option(metavar="REASON", help="Overrule measured gates; the reason is stored.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the gates, move nothing.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Give the best adapter an alias in the model registry, if the evidence allows it. Exit code 8: a gate said no.

    [bold]Examples[/bold]

      ftcluster promote my-sweep

      ftcluster promote my-run --name assistant --dry-run

      ftcluster promote my-run --force "the old champion was trained on withdrawn data"

    The alias moves only if the run finished, its adapter is as it was saved, it beats its base on held-out rows
    and is not worse than today's champion. [bold]ftcluster rollback[/bold] moves it back.
    """
    from ftcluster.config.environment import default_home
    from ftcluster.ledger.store import Ledger
    from ftcluster.registry.examination import examine
    from ftcluster.registry.promotion import carry_out

    place = (home or default_home()).expanduser().absolute()
    with Ledger.open(place) as ledger:
        if not as_json:
            notices().print("testing on held-out rows ...")
        case = examine(ledger, reference, home=place, model_name=name, alias=alias)
    if as_json:
        _as_json(case, force, dry_run=dry_run)
        return
    _show_case(case)
    if dry_run:
        console().print("\nnothing was moved (--dry-run)")
        return
    _show_promotion(carry_out(case, force=force, by=user()), case)


def user() -> str:
    """Who is promoting, for the evidence."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        return "unknown"


def _as_json(case: Case, force: str, *, dry_run: bool) -> None:
    """The same fields whether it was promoted or refused; a refusal is an error as well."""
    from ftcluster.errors import PromotionRefused
    from ftcluster.registry.promotion import carry_out

    found: dict[str, Any] = {"run": case.run.name, "model": case.model, "alias": case.alias, "gates": case.gates}
    found["test"] = case.measurements
    try:
        promotion = None if dry_run else carry_out(case, force=force, by=user())
    except PromotionRefused:
        print_json({**found, "promotion": None})
        raise
    print_json({**found, "promotion": promotion})


def _show_case(case: Case) -> None:
    rows = [("passed" if gate.passed else "FAILED", gate.name, gate.detail) for gate in case.gates]
    table(("gate", "", "found"), rows, title=f"{case.run.name} -> {case.model}@{case.alias}")
    if case.measurements:
        console().print()
        table(("on the test rows", "loss", "exact match", "answers that end"), _scores(case.measurements))


def _scores(test: Mapping[str, Any]) -> list[tuple[object, ...]]:
    named = [(key, test[key]) for key in ("candidate", "base", "champion") if key in test]
    return [
        (f"{key} ({s['subject']})" if key != "base" else key, s["loss"], s.get("exact_match"), s.get("finished"))
        for key, s in named
    ]


def _show_promotion(promotion: Promotion, case: Case) -> None:
    from ftcluster.config.environment import home_option
    from ftcluster.registry.snippet import loading_snippet

    out = console()
    where = f"{promotion.model} version {promotion.version}"
    if not promotion.moved:
        out.print(f"\n{promotion.run} is {promotion.alias} already: {where}", soft_wrap=True)
    else:
        before = f", which was version {promotion.previous}" if promotion.previous else ""
        out.print(f"\n{promotion.run} is now {where}, {promotion.alias}{before}", soft_wrap=True)
        out.print("its evidence: tags of the version, evidence.json and test.json of its MLflow run", soft_wrap=True)
    prompt = next(iter(case.record.prompts), "Hello") if case.record else "Hello"
    out.print("\nLoad it anywhere, without ftcluster:\n")
    out.print(
        loading_snippet(
            uri=promotion.uri, model=promotion.model, alias=promotion.alias, base=promotion.base, prompt=prompt
        ),
        markup=False,
        soft_wrap=True,
    )
    start, end = f"{_tracking_variable(promotion.uri, case.home)}ftcluster", home_option(case.home)
    out.print(f"Talk to it:   {start} chat {promotion.model}@{promotion.alias}{end}", soft_wrap=True)
    if promotion.previous and promotion.moved:
        out.print(f"Move it back: {start} rollback {promotion.model}{end}", soft_wrap=True)


def _tracking_variable(uri: str, home: Path) -> str:
    """What a printed command needs to find an MLflow that only the run's config names."""
    from ftcluster.tracking.redaction import hide_url_users
    from ftcluster.training.records import store_uri

    return "" if uri == store_uri(home, "") else f"MLFLOW_TRACKING_URI={shlex.quote(hide_url_users(uri))} "
