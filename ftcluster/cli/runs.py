"""``ftcluster runs``: what was started and what became of it; one of them in detail; deliver what MLflow is missing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ftcluster.cli.arguments import Home, Json
from ftcluster.cli.complete import complete_run
from ftcluster.cli.output import console, notices, print_json, table
from ftcluster.config.environment import default_home, home_option
from ftcluster.contracts.trial import RunState
from ftcluster.errors import TrackingError
from ftcluster.units import format_seconds

if TYPE_CHECKING:
    from ftcluster.ledger.schema import RunRow
    from ftcluster.ledger.store import Ledger
    from ftcluster.report.selection import Chosen, Wanted

_RESUMABLE = (RunState.INTERRUPTED, RunState.FAILED)


class _ListOrVerb(TyperGroup):
    """``runs`` and ``runs SWEEP`` mean ``runs list``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


runs = typer.Typer(
    cls=_ListOrVerb,
    add_completion=False,
    rich_markup_mode="rich",
    help="List runs and sweeps, show one, deliver what MLflow is missing: ftcluster runs [SWEEP].",
)


_Sweep = Annotated[
    str,
    typer.Argument(metavar="[SWEEP]", autocompletion=complete_run, help="List its trials.", show_default=False),
]
_Limit = Annotated[
    int | None,
    typer.Option(
        min=0, help="The newest so many, or the first by --sort; 0: all.", show_default="20, or all trials of a sweep"
    ),
]


@runs.command("list")
def list_runs(
    reference: _Sweep = "",
    state: Annotated[list[RunState] | None, typer.Option(help="Only those in this state; may be repeated.")] = None,
    limit: _Limit = None,
    everything: Annotated[bool, typer.Option("--all", help="Also the trials of all sweeps.")] = False,
    expression: Annotated[
        str, typer.Option("--filter", metavar="EXPRESSION", help="Only those of which it is true; see the examples.")
    ] = "",
    sort: Annotated[str, typer.Option(metavar="KEY", help="The smallest first: a metric or any other key.")] = "",
    reverse: Annotated[bool, typer.Option("--reverse", help="The largest first.")] = False,
    columns: Annotated[str, typer.Option(metavar="KEY,KEY", help="What to show of each.")] = "",
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write them to a .csv or .parquet file, with all their keys.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List sweeps and trainings, newest last, or the trials of a sweep.

    [bold]Examples[/bold]

      ftcluster runs

      ftcluster runs my-sweep --state failed --state interrupted

      ftcluster runs my-sweep --sort eval/loss --columns name,eval/loss,optim.lr,adapter.rank

      ftcluster runs --all --filter 'eval/loss < 2 and state == finished and adapter.rank >= 8' --export good.csv

    Keys are name, kind, sweep, state, step, took_s, age_s and a few more, metrics such as eval/loss, and those of the
    config, such as optim.lr. Expressions know + - * / and or not in, and texts in quotes.
    """
    from ftcluster.report.frames import check_export
    from ftcluster.report.frames import export as write_table
    from ftcluster.report.selection import Wanted

    if export:
        check_export(export)
    keys = tuple(filter(None, (key.strip() for key in columns.split(","))))
    most = limit if limit is not None else 0 if reference else 20
    wanted = Wanted(tuple(state or ()), expression, sort, reverse, most, keys)
    found, nothing = _chosen(_place(home), reference, wanted, everything=everything)
    if export:
        write_table(found.records, export, keys)
        notices().print(f"{len(found.rows)} runs written to {export}", markup=False, soft_wrap=True)
    if as_json:
        now = time.time()
        print_json(found.narrowed if keys else [_plain(row, now) for row in found.rows])
    elif not found.rows:
        console().print(nothing)
    elif not export:
        _show_list(found, reference)


def _chosen(place: Path, reference: str, wanted: Wanted, *, everything: bool) -> tuple[Chosen, str]:
    """The runs to list, and what to say where there are none."""
    from ftcluster.ledger.store import Ledger
    from ftcluster.report.selection import choose
    from ftcluster.training.records import reap

    with Ledger.open(place) as ledger:
        reap(ledger)
        every = [] if reference else ledger.runs()
        rows = _listed(ledger, reference) if reference else [r for r in every if everything or r.kind != "trial"]
        found = choose(rows, wanted, every, time.time())
    if rows:
        return found, "none of which that is true" if wanted.expression else "none in that state"
    return found, f"{reference} has no trials" if reference else "no runs yet; ftcluster demo makes some"


def _show_list(found: Chosen, reference: str) -> None:
    if found.columns:
        table(found.columns, [[_text(value) for value in one.values()] for one in found.narrowed])
    else:
        title = f"trials of {found.rows[0].parent}" if reference and found.rows[0].parent else ""
        names = ("name", "kind", "state", "step", "metrics", "age", "took", "why")
        now, setting = time.time(), [found.sort] if "." in found.sort else []  # metrics and the rest are there
        cells = [
            (*_cells(row, found.ended.get(row.name, ""), now), *(_text(one.get(key)) for key in setting))
            for row, one in zip(found.rows, found.records, strict=True)
        ]
        table((*names, *setting), cells, title=title)
    if found.left_out:
        notices().print(f"{found.left_out} {'' if found.sort else 'older '}ones are not shown; --limit 0 shows all")


@runs.command("show")
def show_run(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="RUN", autocompletion=complete_run, help="A name, the beginning of one, or an MLflow id."
        ),
    ],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Everything about one run: state, folder, what its config changes, MLflow id, how to go on with it."""
    from ftcluster.contracts.folder import RunFolder
    from ftcluster.ledger.store import Ledger
    from ftcluster.training.records import reap

    place = _place(home)
    with Ledger.open(place) as ledger:
        reap(ledger)
        row = ledger.find(reference)
        reports = ledger.reports(row.name) if row.kind != "sweep" else []
    now = time.time()
    details = _plain(row, now) | {
        "data": RunFolder(Path(row.folder)).read_facts().get("prepared"),
        "settings": _settings(row),
        "reports": [{"step": report.step, "metrics": report.metrics} for report in reports],
        "next": _next(row, place),
    }
    if as_json:
        print_json(details)
        return
    settings, reported = details.pop("settings"), details.pop("reports")
    details |= {"age_s": f"{_ago(now - row.created_at)} ago", "took_s": format_seconds(_took(row, now))}
    names = {"age_s": "made", "took_s": "took", "mlflow_run_id": "MLflow run"}
    lines = [
        (names.get(key, key), _text(value)) for key, value in details.items() if value not in (None, "", {}, [], 0)
    ]
    table(("", row.name), lines[1:])
    table(("setting", "value"), [(key, _text(value)) for key, value in settings.items()], title="\nwhat it sets")
    if reported:
        table(("step", "metrics"), [(r["step"], _metrics(r["metrics"])) for r in reported], title="\nwhat it reported")


@runs.command("sync")
def sync(home: Home = None, as_json: Json = False) -> None:
    """Deliver what MLflow is missing. Exit code 7 if it cannot be reached; nothing is lost then."""
    from ftcluster.ledger.store import Ledger
    from ftcluster.training.records import reap

    place = _place(home)
    with Ledger.open(place) as ledger:
        reap(ledger)
        stores: dict[str, list[RunRow]] = {}
        for row in ledger.runs():
            stores.setdefault(_store(row, place), []).append(row)
        found = [_deliver(ledger, rows, place, uri) for uri, rows in stores.items()]
    if as_json:
        print_json(found)
    for one in found if not as_json else ():
        console().print(_told(one), soft_wrap=True)
    if problems := [one["error"] for one in found if one["error"]]:
        raise TrackingError("; ".join(problems), remedy="start the server, then run this again; the records are kept")


def _deliver(ledger: Ledger, rows: Sequence[RunRow], home: Path, uri: str) -> dict[str, Any]:
    from ftcluster.tracking.projector import Projector
    from ftcluster.tracking.redaction import hide_url_users
    from ftcluster.training.records import deliver, to_project

    projector = Projector(uri, home)
    waiting = sum(projector.pending(to_project(row)) for row in rows)
    points, left, error = 0, waiting, ""
    if waiting:
        try:
            points, left = deliver(ledger, rows, home, uri)
        except TrackingError as failure:
            error = failure.message
            left = sum(projector.pending(to_project(row)) for row in rows)
    found = {"mlflow": hide_url_users(uri), "runs": len(rows), "records": waiting - left, "metric_points": points}
    return found | {"pending": left, "error": error}


def _told(one: Mapping[str, Any]) -> str:
    if not one["records"] and not one["pending"]:
        return f"{one['mlflow']}: up to date, {one['runs']} runs"
    text = f"{one['mlflow']}: delivered {one['records']:,} records, {one['metric_points']:,} of them metric points"
    return f"{text}; {one['pending']:,} still wait" if one["pending"] else text


def _place(home: Path | None) -> Path:
    return (home or default_home()).expanduser().absolute()


def _store(row: RunRow, home: Path) -> str:
    from ftcluster.training.records import store_uri

    config = row.config.get("base", {}) if row.kind == "sweep" else row.config
    return store_uri(home, config.get("tracking", {}).get("uri", ""))


def _listed(ledger: Ledger, reference: str) -> list[RunRow]:
    row = ledger.find(reference)
    return ledger.runs(parent=row.name) if row.kind == "sweep" else [row]


def _cells(row: RunRow, ended: str, now: float) -> tuple[object, ...]:
    from rich.text import Text

    colours = {RunState.FINISHED: "green", RunState.PRUNED: "yellow", RunState.RUNNING: "cyan", RunState.PAUSED: "cyan"}
    return (
        row.name,
        row.kind,
        Text(row.state.value, colours.get(row.state, "red" if row.state is not RunState.WAITING else "")),
        ended or row.step,
        _metrics(row.metrics),
        _ago(now - row.created_at),
        format_seconds(_took(row, now)),
        row.reason.split("\n")[0],
    )


def _took(row: RunRow, now: float) -> float:
    """Seconds from start to end, to now while it goes on; NaN when it never ran or when it stopped is not known."""
    end = row.ended_at or (now if row.state in (RunState.RUNNING, RunState.PAUSED) else None)
    return end - row.started_at if end and row.started_at else float("nan")


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _metrics(values: Mapping[str, float]) -> str:
    """The held-out ones; perplexity says the same as loss."""
    shown: Iterable[tuple[str, float]] = ((n, v) for n, v in values.items() if n != "eval/perplexity")
    return ", ".join(f"{name.removeprefix('eval/')} {value:.4g}" for name, value in shown)


def _plain(row: RunRow, now: float) -> dict[str, Any]:
    return {
        "name": row.name,
        "kind": row.kind,
        "sweep": row.parent,
        "state": row.state.value,
        "reason": row.reason,
        "step": row.step,
        "metrics": dict(row.metrics),
        "age_s": round(now - row.created_at, 1),
        "took_s": round(_took(row, now), 1),
        "folder": row.folder,
        "mlflow_run_id": row.mlflow_run_id,
    }


def _settings(row: RunRow) -> dict[str, Any]:
    """What a run's config changes: a trial against its sweep, a training against the defaults, a sweep's own spec."""
    from ftcluster.comparison.findings import flat_config
    from ftcluster.config.compose import to_dict
    from ftcluster.config.schema import RunConfig

    if row.kind == "sweep":
        return {key: value for key, value in row.config.get("spec", {}).items() if key != "name"}
    if row.kind == "trial":
        return dict(row.overrides)
    defaults = flat_config(to_dict(RunConfig()))
    return {key: value for key, value in flat_config(row.config).items() if value != defaults.get(key)}


def _next(row: RunRow, home: Path) -> str:
    option = home_option(home)
    if row.state in _RESUMABLE:
        sweep = row.name if row.kind == "sweep" else row.parent
        return f"ftcluster sweep resume {sweep}{option}" if sweep else f"ftcluster train --resume {row.name}{option}"
    if row.state is RunState.FINISHED:
        verb = "compare" if row.kind == "sweep" else "chat"
        return f"ftcluster {verb} {row.name}{option}"
    return ""


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
