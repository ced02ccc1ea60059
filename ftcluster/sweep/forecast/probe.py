"""A few real steps of each kind of trial, on hosts of the cluster as the sweep would start them.

    hosts start                     -> how long that takes, with imports and the base
    a step, then a few more         -> what a step takes, alone on its host; the first one warms up
    what is around them             -> what loading, evaluating and saving take
    the same in all places at once  -> what trials cost each other that share a host; once for each shape of hosts

Several hosts are probed at a time, since those of a node may get in each other's way. They train in a folder of their
own, which is removed, if need be by the next one who probes; nothing of it reaches the ledger or MLflow.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Self

from ftcluster.cluster.host import Host
from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.config.compose import to_dict
from ftcluster.config.schema import RunConfig
from ftcluster.errors import UsageError, first_line
from ftcluster.ledger.process import Owner, is_alive, this_process
from ftcluster.sweep.hosts import Shape
from ftcluster.sweep.workers import worker
from ftcluster.tracking.history import read_metrics
from ftcluster.training.worker import Job, Outcome

HOSTS = 4  # probed at a time, at most
_ENOUGH = 0.5  # seconds of steps that are timed, at least
_STEPS = 10  # that are timed, at most
_PATIENCE = 300.0  # seconds until a host must have come up
_NEVER = "1000000000 steps"
_PREFIX, _OWNER = ".probe-", "owner.json"


@dataclass(frozen=True)
class Timing:
    """Seconds that trials of a kind take. ``steps`` are those of a step on each host that was probed."""

    steps: tuple[float, ...]
    tokens: float = 0.0  # of a step, of those that were timed
    together: float = 0.0  # in which as many trials as a host has places for make one step each
    places: int = 1
    evaluation: float = 0.0
    saving: float = 0.0
    opening: float = 0.0  # of a stretch, before its first step

    @property
    def step(self) -> float:
        return fmean(self.steps)

    def stretch(self, steps: float, evaluations: int, saves: int, beside: int) -> float:
        """With so many trials on the host, this one too; between one trial and all places a line is drawn."""
        share = (beside - 1) / (self.places - 1) if self.places > 1 else 0.0
        round_of_all = self.step + (self.together - self.step) * share if self.places > 1 else self.step * beside
        around = self.opening + evaluations * self.evaluation + saves * self.saving
        return steps * round_of_all + beside * around

    def scaled(self, factor: float) -> Timing:
        """Of steps that take so many times as long."""
        return replace(self, steps=tuple(factor * each for each in self.steps), together=factor * self.together)


@dataclass(frozen=True)
class Told:
    """What a probe of a kind came to; without a timing, why not."""

    timing: Timing | None
    problem: str = ""


@dataclass(frozen=True)
class _Ended:
    """A probing stretch; ``seconds`` of the whole of it."""

    outcome: Outcome
    seconds: float


class Prober:
    """Use as a context manager: its hosts and its folder end with it."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self._cluster, self._home = cluster, home
        self._hosts: list[Host] = []
        self._shape: Shape | None = None
        self._count = 0
        self._arrived = 0.0  # seconds until the hosts of this shape had come up
        self._crowd: tuple[float, int] | None = None  # of this shape: seconds together over those alone, and places
        self.start_up: dict[Shape, float] = {}  # seconds until the slowest host of a shape trains at full speed

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True, exist_ok=True)
        for left in self._home.glob(f"{_PREFIX}*"):
            with suppress(OSError, ValueError, TypeError):
                if is_alive(Owner(**json.loads((left / _OWNER).read_text("utf-8")))) is False:
                    shutil.rmtree(left)
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._home))
        (self._folder / _OWNER).write_text(json.dumps(asdict(this_process())), "utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_hosts()
        shutil.rmtree(self._folder, ignore_errors=True)

    def room(self, shape: Shape) -> int:
        """How many hosts of a shape fit on the cluster.

        Raises:
            UsageError: not even one.
        """
        return self._cluster.room(shape.resources)

    def time(self, config: RunConfig, prepared: str, total: int, shape: Shape, hosts: int) -> Told:
        """Probe a kind of trial whose training takes ``total`` steps, on so many hosts.

        Raises:
            UsageError: no host comes up.
        """
        self._start_hosts(shape, hosts)
        full, lean = _quiet(config), _quiet(config, evaluates=False)

        def job(config: RunConfig, until: int, folder: Path) -> Job:
            return Job(to_dict(config), str(folder), prepared, min(until, total), {})

        folders = [self._new_folder() for _ in self._hosts]
        places = list(zip(self._hosts, folders, strict=True))
        cold = self._run([(host, job(lean, 1, folder)) for host, folder in places])
        if problem := _problem(cold):
            return Told(None, problem)
        more = max(1, min(_STEPS, round(_ENOUGH / max(_seconds(cold[0]), 1e-3)), total - 1))
        warm = self._run([(host, job(full, 1 + more, folder)) for host, folder in places])
        if problem := _problem(warm):
            return Told(None, problem)
        timing = _alone(cold, warm, folders, min(1 + more, total))
        if self._crowd is None:
            slow = max(each.seconds - _seconds(each) for each in cold)
            self.start_up[shape] = self._arrived + max(0.0, slow - timing.opening - timing.saving)
            several = [(host, self._new_folder()) for host in self._hosts for _ in range(shape.places)]
            self._crowd = self._together(timing, [(host, job(lean, 1 + more, folder)) for host, folder in several])
        times, count = self._crowd
        return Told(replace(timing, together=times * timing.step, places=count))

    def _together(self, timing: Timing, jobs: Sequence[tuple[Host, Job]]) -> tuple[float, int]:
        """How many times as long as one trial alone takes all of a host take for a step each, and how many those are:
        memory may not do for as many as there are places."""
        if len(jobs) == len(self._hosts):
            return 1.0, 1
        done = [each.outcome.report for each in self._run(jobs) if each.outcome.report is not None]
        count = round(len(done) / len(self._hosts))
        if count < 2:
            return 1.0, 1
        return count * fmean(report.seconds / max(report.step, 1) for report in done) / timing.step, count

    # Hosts -----------------------------------------------------------------------------------------------------------

    def _start_hosts(self, shape: Shape, count: int) -> None:
        if self._shape == shape:
            return
        self._end_hosts()
        self._shape, self._crowd = shape, None
        resources, began = shape.resources, time.monotonic()
        self._hosts = [self._cluster.start(resources, worker(resources), shape.places) for _ in range(count)]
        waiting = {host.arrival(): host for host in self._hosts}
        while waiting and time.monotonic() - began < _PATIENCE:
            for handle in self._cluster.wait(list(waiting), 1.0):
                host = waiting.pop(handle)
                if self._cluster.result(handle).problems:  # of its GPUs; the sweep would not use it either
                    self._hosts.remove(host)
                    host.kill()
        if not self._hosts or waiting:
            raise UsageError(
                f"no host for a probe came up within {_PATIENCE:.0f} seconds",
                where="cluster",
                remedy="`ftcluster cluster status` tells what others use; --dry-run needs no host",
            )
        self.start_up[shape] = self._arrived = time.monotonic() - began

    def _end_hosts(self) -> None:
        for host in self._hosts:
            with suppress(Exception):  # its node may be gone
                host.kill()
        self._hosts, self._shape = [], None

    def _run(self, jobs: Sequence[tuple[Host, Job]]) -> list[_Ended]:
        """All of them at once, to their ends.

        Raises:
            HostLostError: a host dies meanwhile.
        """
        began = time.monotonic()
        handles: list[Any] = [host.submit(job) for host, job in jobs]
        ended: dict[Any, _Ended] = {}
        while len(ended) < len(handles):
            for handle in self._cluster.wait([each for each in handles if each not in ended], 1.0):
                ended[handle] = _Ended(self._cluster.result(handle), time.monotonic() - began)
        return [ended[handle] for handle in handles]

    def _new_folder(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count}"


def _quiet(config: RunConfig, *, evaluates: bool = True) -> RunConfig:
    """As it is trained for a probe: evaluated at the end of a stretch only, then as it will be or hardly at all."""
    measured = replace(config.evaluation, every=_NEVER)
    return replace(
        config,
        evaluation=measured if evaluates else replace(measured, max_rows=1, generate=0),
        tracking=replace(config.tracking, log_every=1),
        engine=replace(config.engine, checkpoint_every="", keep_checkpoints=1),
    )


def _alone(cold: Sequence[_Ended], warm: Sequence[_Ended], folders: Sequence[Path], until: int) -> Timing:
    """What one trial on a host takes; of a training of a single step that step has to do."""
    steps, tokens, evaluations, rests = [], [], [], []
    for first, then, folder in zip(cold, warm, folders, strict=True):
        count = max(1, until - 1)
        seconds = (_seconds(then) - _seconds(first)) if until > 1 else _seconds(first)
        steps.append(max(seconds, 1e-6) / count)
        tokens.append((_tokens(then) - _tokens(first)) / count if until > 1 else _tokens(first))
        evaluations.append(_evaluation(folder, until))
        rests.append(max(0.0, then.seconds - seconds - evaluations[-1]))
    around = fmean(rests) / 2  # what is written is read again
    return Timing(tuple(steps), fmean(tokens), evaluation=fmean(evaluations), saving=around, opening=around)


def _evaluation(folder: Path, step: int) -> float:
    """Seconds between the records of a step and those of the evaluation behind it, on the clock of their host."""
    found = read_metrics(folder)
    trained = [point.timestamp_ms for point in found.get("train/loss", ()) if point.step == step]
    measured = [point.timestamp_ms for point in found.get("eval/loss", ()) if point.step == step]
    return max(0, measured[-1] - trained[-1]) / 1000 if trained and measured else 0.0


def _seconds(ended: _Ended) -> float:
    return ended.outcome.report.seconds if ended.outcome.report else 0.0


def _tokens(ended: _Ended) -> int:
    return ended.outcome.report.tokens if ended.outcome.report else 0


def _problem(ended: Sequence[_Ended]) -> str:
    return next((first_line(each.outcome.error) for each in ended if each.outcome.error), "")
