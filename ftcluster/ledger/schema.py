"""The ledger's two tables and the frozen rows that travel outside.

Names carry a prefix, so that one PostgreSQL database can hold the ledger and MLflow, which has a ``runs``
of its own. A change here needs a migration in ``migrations/versions`` and a new ``VERSION``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import sqlalchemy as sa

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.process import Owner

VERSION = "0001"
Kind = Literal["sweep", "trial", "train"]


@dataclass(frozen=True)
class RunRow:
    """A sweep, one of its trials, or a training of its own. Times are unix seconds; 0 and None: not yet."""

    name: str  # unique; ^[a-z0-9][a-z0-9-]{0,62}$
    kind: Kind
    folder: str
    config: Mapping[str, Any]  # resolved; for a sweep its spec
    overrides: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""  # hash of the config
    parent: str | None = None  # a trial's sweep
    number: int = 0  # within the parent
    state: RunState = RunState.WAITING
    mlflow_run_id: str | None = None
    rung: int | None = None  # the newest reported
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the newest report
    reason: str = ""  # why it is in its state
    owner: Owner | None = None
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True)
class ReportRow:
    """What a run said at a rung."""

    run: str
    number: int  # of the run within its parent
    rung: int
    step: int
    metrics: Mapping[str, float]
    tokens: int
    seconds: float
    created_at: float


CHANGEABLE = frozenset(
    {"folder", "config", "overrides", "identity", "mlflow_run_id", "rung", "step", "metrics", "owner"}
)


class Json(sa.TypeDecorator[Any]):
    """JSON as text: unlike the databases' own JSON types it keeps NaN and infinity, which a metric can be."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's name
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's name
        return None if value is None else json.loads(value)


metadata = sa.MetaData()

runs = sa.Table(
    "ftcluster_runs",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("parent", sa.ForeignKey("ftcluster_runs.name")),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("config", Json, nullable=False),
    sa.Column("overrides", Json, nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("mlflow_run_id", sa.String(64), index=True),
    sa.Column("rung", sa.Integer),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("metrics", Json, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("owner", Json),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.UniqueConstraint("parent", "number", name="ftcluster_one_trial_per_number"),
)

reports = sa.Table(
    "ftcluster_reports",
    metadata,
    sa.Column("run", sa.ForeignKey("ftcluster_runs.name"), primary_key=True),
    sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("metrics", Json, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

version = sa.Table("ftcluster_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))


FIELDS = tuple(each.name for each in fields(RunRow))


def columns(row: RunRow, wanted: Sequence[str] = FIELDS) -> dict[str, Any]:
    """Fields of a row as the database takes them."""
    return {name: _COLUMNS.get(name, _as_it_is)(getattr(row, name)) for name in wanted}


def _as_it_is(value: Any) -> Any:
    return value


_COLUMNS: Mapping[str, Callable[[Any], Any]] = {
    "config": dict,
    "overrides": dict,
    "metrics": dict,
    "state": lambda state: state.value,
    "owner": lambda owner: asdict(owner) if owner else None,
}


LARGE = ("config", "overrides")
SMALL = [column for column in runs.c if column.name not in LARGE]


def run_row(row: sa.Row[Any], known: RunRow | None = None) -> RunRow:
    """A row as the database gives it; where it gives only the ``SMALL`` columns, the others are those of ``known``."""
    values = dict(row._mapping)
    if known:
        values |= {name: getattr(known, name) for name in LARGE}
    values["state"] = RunState(values["state"])
    values["owner"] = Owner(**values["owner"]) if values["owner"] else None
    return RunRow(**values)
