"""``Ledger``: the truth about sweeps, trials and trainings, their states and their reports.

Every method is one transaction, so what it wrote is there for every other process, also after a kill; those for several
runs write all of it or nothing. Rows come and go as frozen values. The ledger decides nothing about a sweep; it only
refuses what cannot be true: a name used twice, an ended run that goes on, a report counted twice, two drivers on one
sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import sqlalchemy as sa

from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.errors import StoreError, UsageError
from ftcluster.ledger import names, opening, schema, states
from ftcluster.ledger.failures import failures
from ftcluster.ledger.process import Owner
from ftcluster.ledger.schema import Kind, ReportRow, RunRow

Liveness = Callable[[Owner], bool | None]  # None: cannot be told from here
Known = Mapping[str, RunRow]  # by name
NOTHING: Known = MappingProxyType({})
_HELD = (RunState.RUNNING, RunState.PAUSED)
_RUNS = schema.runs.c
_REPORTS = schema.reports.c


class Ledger:
    """An open ledger; a context manager. Threads may share it."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._writer = opening.writer(engine)
        self._clock = clock
        self.place = opening.place(engine.url)

    @classmethod
    def open(
        cls, url_or_home: str | Path, *, clock: Callable[[], float] = time.time, patience: float = opening.PATIENCE
    ) -> Ledger:
        """Open the ledger of a home folder (``<home>/ledger.db``) or a database URL; create or upgrade it.

        ``patience`` is how many seconds to wait for another writer.

        Raises:
            StoreError: it cannot be reached or written, or was written by a newer ftcluster.
        """
        return cls(opening.connect(opening.database_url(url_or_home), patience), clock)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with failures(self.place), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with failures(self.place), self._writer.begin() as connection:
            yield connection

    # Runs --------------------------------------------------------------------------------------------------------

    def add(self, row: RunRow) -> RunRow:
        """Write a new run; returns it with its time of creation.

        Raises:
            UsageError: not a name, or a name that is taken.
            StoreError: the number within the parent is taken, or there is no such parent.
        """
        return self.add_all([row])[0]

    def add_all(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """``add`` for several, all of them or none."""
        for row in rows:
            names.check_name(row.name)
        with self._writing() as connection:
            for taken in _rows(connection, [row.name for row in rows]):
                free = names.free(connection, taken)
                raise UsageError(f'there is a run "{taken}" already', where=self.place, remedy=f"try name={free}")
            return self._insert(connection, rows)

    def add_with_free_name(
        self,
        wanted: str,
        make: Callable[[str], RunRow],
        same: Callable[[Sequence[RunRow]], RunRow | None] | None = None,
    ) -> RunRow:
        """Add what ``make`` makes of a name nobody has yet, made from any text; two processes never get the same.

        ``"My Sweep!"`` becomes ``my-sweep``, then ``my-sweep-2``. Where ``same`` finds one among all of its kind,
        oldest first, that is returned and nothing added; of several processes at once one adds, the others find it.

        Raises:
            StoreError: the number within the parent is taken, or there is no such parent.
        """
        with self._writing() as connection:
            row = make(names.free(connection, wanted))
            if same is not None:
                alike = sa.select(schema.runs).where(_RUNS.kind == row.kind).order_by(_RUNS.created_at, _RUNS.name)
                if (found := same([schema.run_row(each) for each in connection.execute(alike)])) is not None:
                    return found
            return self._insert(connection, [row])[0]

    def _insert(self, connection: sa.Connection, rows: Sequence[RunRow]) -> list[RunRow]:
        for parent in dict.fromkeys(row.parent for row in rows if row.parent is not None):
            if not connection.scalar(sa.select(_RUNS.name).where(_RUNS.name == parent)):
                raise _unknown(parent, self.place)
            numbers = [row.number for row in rows if row.parent == parent]
            same = sa.and_(_RUNS.parent == parent, _RUNS.number.in_(numbers))
            for other, number in connection.execute(sa.select(_RUNS.name, _RUNS.number).where(same)):
                remedy = "give each trial of a sweep its own number"
                raise StoreError(f"{other} is number {number} of {parent}", where=self.place, remedy=remedy)
        rows = [replace(row, created_at=self._clock()) for row in rows]
        connection.execute(schema.runs.insert(), [schema.columns(row) for row in rows])
        return rows

    def get(self, name: str) -> RunRow:
        """The run of exactly this name.

        Raises:
            StoreError: there is none.
        """
        with self._reading() as connection:
            return self._existing(connection, name)

    def find(self, reference: str) -> RunRow:
        """The run a user means by a name, the beginning of one, or an MLflow run id.

        Raises:
            UsageError: none, with the nearest names, or several, with their names.
        """
        with self._reading() as connection:
            return names.found(connection, reference)

    def runs(
        self, kind: Kind | None = None, parent: str | None = None, states: Collection[RunState] | None = None
    ) -> list[RunRow]:
        """Runs that meet every given condition, oldest first; those of a parent by their number."""
        query = sa.select(schema.runs)
        if kind is not None:
            query = query.where(_RUNS.kind == kind)
        if parent is not None:
            query = query.where(_RUNS.parent == parent).order_by(_RUNS.number)
        if states is not None:
            query = query.where(_RUNS.state.in_(sorted(states)))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(_RUNS.created_at, _RUNS.name))
            return [schema.run_row(row) for row in rows]

    def _existing(self, connection: sa.Connection, name: str) -> RunRow:
        return self._all_existing(connection, [name])[0]

    def _all_existing(self, connection: sa.Connection, wanted: Sequence[str], known: Known = NOTHING) -> list[RunRow]:
        """In the order of ``wanted``."""
        found = _rows(connection, wanted, known)
        for name in wanted:
            if name not in found:
                raise _unknown(name, self.place)
        return [found[name] for name in wanted]

    # States ------------------------------------------------------------------------------------------------------

    def set_state(self, name: str, state: RunState, *, reason: str = "", **changes: Any) -> RunRow:
        """Move a run to a state, or leave it there, and change other fields of its row with it.

        Raises:
            StoreError: no such run, or a state that cannot follow the present one.
            TypeError: not a field of ``RunRow`` that can change.
        """
        with self._writing() as connection:
            before = self._existing(connection, name)
            return _update(connection, [before], [self._changed(before, state, reason, **changes)])[0]

    def set_states(self, states: Sequence[tuple[str, RunState, str]], known: Known = NOTHING) -> list[RunRow]:
        """``set_state`` for several, all of them or none: names, states, reasons.

        ``known``: rows as they were read before, of which nobody else changes configs or overrides. These are most of
        a row and are not read again.
        """
        with self._writing() as connection:
            before = self._all_existing(connection, [name for name, _, _ in states], known)
            changes = zip(before, states, strict=True)
            return _update(connection, before, [self._changed(row, state, why) for row, (_, state, why) in changes])

    def remember_mlflow(self, ids: Mapping[str, str]) -> None:
        """Write down under which id MLflow knows each run, by its name; nothing else of it is touched."""
        if ids:
            with self._writing() as connection:
                for name, run_id in ids.items():
                    connection.execute(schema.runs.update().where(_RUNS.name == name).values(mlflow_run_id=run_id))

    def ended_without_mlflow(self) -> dict[str, str]:
        """Folders by name of the runs that ended, and whose id in MLflow nobody wrote down."""
        ended = [state for state in RunState if state.ended]
        wanted = sa.select(_RUNS.name, _RUNS.folder).where(_RUNS.state.in_(ended), _RUNS.mlflow_run_id.is_(None))
        with self._reading() as connection:
            return {row.name: row.folder for row in connection.execute(wanted)}

    def edit(self, name: str, change: Callable[[RunRow], Mapping[str, Any]]) -> RunRow:
        """Give a run the config that ``change`` makes of it; nobody else changes it meanwhile.

        Raises:
            StoreError: no such run.
        """
        with self._writing() as connection:
            row = self._existing(connection, name)
            return _update(connection, [row], [replace(row, config=change(row))])[0]

    def reopen(self, name: str) -> RunRow:
        """Put a failed run, or a sweep that has ended, back among the waiting ones.

        Raises:
            StoreError: no such run, or it did not fail.
        """
        with self._writing() as connection:
            row = self._existing(connection, name)
            if row.state is not RunState.FAILED and not (row.kind == "sweep" and row.state.ended):
                remedy = "only failed runs are run again; start a new one"
                raise StoreError(f"{name} is {row.state}, not failed", where=self.place, remedy=remedy)
            again = replace(row, state=RunState.WAITING, reason="", owner=None, ended_at=None)
            return _update(connection, [row], [again])[0]

    def claim(self, name: str, owner: Owner, is_alive: Liveness) -> RunRow:
        """Make ``owner`` the one that runs this run, unless another lives; an owner nobody can check counts as living.

        Raises:
            StoreError: no such run, it has ended, or another process has it.
        """
        with self._writing() as connection:
            row = self._existing(connection, name)
            held = row.state in _HELD and row.owner is not None and row.owner != owner
            if held and row.owner is not None and is_alive(row.owner) is not False:
                remedy = f"wait for it, or stop it on {row.owner.host} with: kill {row.owner.pid}"
                if is_alive(row.owner) is None:
                    remedy += "; if that host is gone for good, resume with --take-over"
                raise StoreError(f"{name} is being run by {row.owner}", where=self.place, remedy=remedy)
            return _update(connection, [row], [self._changed(row, RunState.RUNNING, "", owner=owner)])[0]

    def reap(self, is_alive: Liveness, tell: Callable[[RunRow, str], bool] = lambda *_: True) -> list[RunRow]:
        """Mark runs interrupted whose process is gone; a run without owner has that of its parent.

        ``tell`` gets each such run and the reason before it is marked; False leaves it for the next reaper.
        """
        with self._writing() as connection:
            held = connection.execute(sa.select(schema.runs).where(_RUNS.state.in_(_HELD)))
            reaped = []
            for row in [schema.run_row(each) for each in held]:
                owner = row.owner or (row.parent and self._existing(connection, row.parent).owner)
                if owner and is_alive(owner) is False:
                    reason = f"{owner} ended without a word"
                    if not tell(row, reason):
                        continue
                    changed = self._changed(row, RunState.INTERRUPTED, reason)
                    reaped += _update(connection, [row], [changed])
            return reaped

    def _changed(self, row: RunRow, state: RunState, reason: str, **changes: Any) -> RunRow:
        if not states.allowed(row.state, state):
            remedy = "a failed run can be reopened, any other end is final" if row.state.ended else "run it first"
            raise StoreError(f"{row.name} is {row.state} and cannot become {state}", where=self.place, remedy=remedy)
        if fixed := sorted(set(changes) - schema.CHANGEABLE):
            raise TypeError(f"{', '.join(fixed)} cannot be changed; these can: {', '.join(sorted(schema.CHANGEABLE))}")
        now = self._clock()
        stays = row.state is state
        return replace(
            row,
            **changes,
            state=state,
            reason=reason or (row.reason if stays else ""),
            started_at=now if state is RunState.RUNNING and row.started_at is None else row.started_at,
            ended_at=now if state.ended and not stays else row.ended_at,
        )

    # Reports -----------------------------------------------------------------------------------------------------

    def record(self, report: TrialReport, rung: int) -> bool:
        """Write what a run said at a rung; False, and nothing changed, if it was recorded before.

        Raises:
            StoreError: no such run.
        """
        with self._writing() as connection:
            row = self._existing(connection, report.name)
            new = self._record(connection, [(report, rung)])
            _update(connection, [row], [_knowing(row, *each) for each in new] or [row])
            return bool(new)

    def pause_all(self, reports: Sequence[tuple[TrialReport, int]], known: Known = NOTHING) -> list[RunRow]:
        """``record`` for several runs, all of them or none; each waits at its rung. ``known``: as of ``set_states``.

        Raises:
            StoreError: no such run, or one that has ended.
        """
        with self._writing() as connection:
            before = self._all_existing(connection, [report.name for report, _ in reports], known)
            new = {report.name: (report, rung) for report, rung in self._record(connection, reports)}
            told = [_knowing(row, *new[row.name]) if row.name in new else row for row in before]
            return _update(connection, before, [self._changed(row, RunState.PAUSED, "") for row in told])

    def _record(
        self, connection: sa.Connection, reports: Sequence[tuple[TrialReport, int]]
    ) -> list[tuple[TrialReport, int]]:
        """Those that had not been recorded."""
        told = sa.select(_REPORTS.run, _REPORTS.rung).where(_REPORTS.run.in_([report.name for report, _ in reports]))
        known = {(run, rung) for run, rung in connection.execute(told)}
        new = [(report, rung) for report, rung in reports if (report.name, rung) not in known]
        now = self._clock()
        values = [
            {
                "run": report.name,
                "rung": rung,
                "step": report.step,
                "metrics": dict(report.metrics),
                "tokens": report.tokens,
                "seconds": report.seconds,
                "created_at": now,
            }
            for report, rung in new
        ]
        if values:
            connection.execute(schema.reports.insert(), values)
        return new

    def reports(self, name: str) -> list[ReportRow]:
        """All reports of a run and of its trials, by trial number and rung."""
        query = (
            sa.select(schema.reports, _RUNS.number)
            .join_from(schema.reports, schema.runs, _REPORTS.run == _RUNS.name)
            .where(sa.or_(_RUNS.name == name, _RUNS.parent == name))
            .order_by(_RUNS.number, _RUNS.name, _REPORTS.rung)
        )
        with self._reading() as connection:
            return [ReportRow(**row._mapping) for row in connection.execute(query)]


def _rows(connection: sa.Connection, wanted: Sequence[str], known: Known = NOTHING) -> dict[str, RunRow]:
    """Those that there are, by name; of ``known`` ones only what may have changed is read."""
    found: dict[str, RunRow] = {}
    new, old = [name for name in wanted if name not in known], [name for name in wanted if name in known]
    for columns, some in ((schema.runs.c, new), (schema.SMALL, old)):
        rows = connection.execute(sa.select(*columns).where(_RUNS.name.in_(some))) if some else ()
        found |= {row.name: schema.run_row(row, known.get(row.name)) for row in rows}
    return found


def _update(connection: sa.Connection, before: Sequence[RunRow], after: Sequence[RunRow]) -> list[RunRow]:
    """Write what differs: the configs of thousands of trials, again at each step of theirs, would be most of it."""
    changes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for old, new in zip(before, after, strict=True):
        values = schema.columns(new, [field for field in schema.FIELDS if getattr(old, field) != getattr(new, field)])
        if values:
            changes.setdefault(tuple(values), []).append({**values, "of": new.name})
    for fields, rows in changes.items():
        statement = schema.runs.update().where(_RUNS.name == sa.bindparam("of"))
        connection.execute(statement.values({field: sa.bindparam(field) for field in fields}), rows)
    return list(after)


def _knowing(row: RunRow, report: TrialReport, rung: int) -> RunRow:
    """A run with what it said at a rung, unless it said more before."""
    if row.rung is not None and rung <= row.rung:
        return row
    return replace(row, rung=rung, step=report.step, metrics=report.metrics)


def _unknown(name: str, place: str) -> StoreError:
    return StoreError(f'there is no run "{name}"', where=place, remedy="`ftcluster runs` lists what there is")
