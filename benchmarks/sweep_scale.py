"""What the driver of a large sweep costs: the real driver, ledger and records; trials that only take time and report.

    python benchmarks/sweep_scale.py [--trials 10000] [--gpus 500] [--seconds 2] [--ledger postgresql+psycopg://...]

Hosts and cluster are made up, in the driver's own process: a trial holds a GPU for a while and then says what a formula
makes of its settings. Everything else is what `ftcluster sweep` runs: successive halving over proposals of a sampler,
every decision written to the ledger, every trial's records to its spool. Busy time is what the driver did not spend
waiting for trials. There is no peer: others do not write down what they decide. The last line is one JSON object; its
`ratio` is the target of 2 ms per report over what was measured.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from ftcluster.cluster.host import Arrival
from ftcluster.cluster.placement import NodeRoom, Resources, Where, together
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.trial import TrialReport
from ftcluster.demo.world import provide
from ftcluster.ledger.process import this_process
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.models.tiny import create_tiny_model
from ftcluster.sweep.driver import Driver
from ftcluster.sweep.hosts import HostPool, Shape
from ftcluster.sweep.launch import register
from ftcluster.sweep.plan import SweepPlan, make_plan
from ftcluster.sweep.specification import read_sweep
from ftcluster.training.worker import Job, Outcome

TARGET = 2.0  # milliseconds of the driver per report
EACH = 8  # GPUs of a node
SHAPE = Shape(Resources(1, 1))


@dataclass(eq=False)
class Stretch:
    """A trial on a GPU."""

    job: Job
    ends: float

    def __lt__(self, other: Stretch) -> bool:
        return self.ends < other.ends


class MadeUpHost:
    """A GPU."""

    problems, broken = (), ""
    resources = SHAPE.resources

    def __init__(self, cluster: MadeUpCluster, nodes: tuple[str, ...]) -> None:
        self.nodes, self._cluster, self._beats = nodes, cluster, 0

    def arrival(self) -> MadeUpHost:
        return self

    def submit(self, job: Job) -> Stretch:
        return self._cluster.begin(job)

    def peek(self) -> None:
        return None

    def stop(self, folder: str = "") -> None: ...

    def kill(self) -> None: ...


@dataclass
class MadeUpCluster:
    """GPUs, and how long the driver waited for them, or rested."""

    gpus: int
    seconds: float
    waited: float = 0.0
    reports: int = 0
    first: float = math.inf
    memory: int = 0  # bytes at the first report
    _running: list[Stretch] = field(default_factory=list)
    _free: int = 0

    def begin(self, job: Job) -> Stretch:
        self.first = min(self.first, time.perf_counter())
        # Some take longer than others, so that they do not all report at once.
        stretch = Stretch(job, time.perf_counter() + self.seconds * (0.75 + (hash(job.folder) % 512) / 1024))
        heapq.heappush(self._running, stretch)
        return stretch

    def leaving(self) -> dict[str, float]:
        return {}

    def suitable(self, _: Resources) -> list[NodeRoom]:
        return [NodeRoom(f"node-{number:03}", 64, EACH) for number in range(math.ceil(self.gpus / EACH))]

    def where(self, wanted: Resources, excluded: frozenset[str]) -> Where:
        return Where(together(self.suitable(wanted), wanted), None, excluded)

    def start(self, resources: Resources, factory: Callable[[], Any], jobs: int, where: Where) -> MadeUpHost:  # noqa: ARG002
        self._free += 1
        return MadeUpHost(self, (f"node-{(self._free - 1) // EACH:03}",))

    def wait(self, handles: list[Any], timeout: float) -> list[Any]:
        came_up = [handle for handle in handles if isinstance(handle, MadeUpHost)]
        if came_up or not self._running:
            return came_up
        left = self._running[0].ends - time.perf_counter()
        if left > 0:
            self.rest(min(left, timeout))
        ended = []
        while self._running and self._running[0].ends <= time.perf_counter():
            ended.append(heapq.heappop(self._running))
        return ended

    def rest(self, seconds: float) -> None:
        """Wait, and remember that nothing was done meanwhile."""
        began = time.perf_counter()
        time.sleep(seconds)
        self.waited += time.perf_counter() - began

    def result(self, handle: Any) -> Any:
        if isinstance(handle, MadeUpHost):
            return Arrival(1)
        if not self.reports:
            self.memory = _memory()
        self.reports += 1
        return Outcome(report=_report(handle.job))


def _report(job: Job) -> TrialReport:
    rate, rank, step = job.config["optim"]["lr"], job.config["adapter"]["rank"], job.until or 0
    loss = (math.log10(rate) + 3) ** 2 + 0.1 * abs(math.log2(rank) - 3) + 5 / math.sqrt(step)
    return TrialReport(Path(job.folder).name, step, {"eval/loss": loss})


class Quiet:
    """A view that shows nothing."""

    def show(self, *_: object) -> None: ...

    def note(self, text: str) -> None:
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--gpus", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=2.0, help="that a trial takes to a rung")
    parser.add_argument("--sampler", default="qmc")
    parser.add_argument("--ledger", help="a database URL; default: SQLite in the sweep's home")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_run(Path(folder), options)))


def _run(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    plan = make_plan(*_specification(folder, options))
    cluster = MadeUpCluster(options.gpus, options.seconds)
    with Ledger.open(options.ledger or folder / "home") as ledger:
        row = register(plan, ledger)
        ledger.claim(row.name, this_process(), lambda _: False)
        began = time.perf_counter()
        drive(row, plan, ledger, cluster, options.gpus)
        took, memory = time.perf_counter() - began, _memory()
        states: dict[str, int] = {}
        for trial in ledger.runs(parent=row.name):
            states[trial.state.value] = states.get(trial.state.value, 0) + 1
    print(f"{options.trials:,} trials on {options.gpus} GPUs: {states}; {cluster.reports:,} reports in {took:.1f} s")
    busy = took - cluster.waited
    return {
        "ratio": round(TARGET / (1000 * busy / cluster.reports), 3),
        "ms_per_report": round(1000 * busy / cluster.reports, 3),
        "seconds_to_first_trial": round(cluster.first - began, 3),
        "busy_share": round(busy / took, 3),
        "mib_grown_by": round((memory - cluster.memory) / 2**20, 1),
    }


def drive(row: RunRow, plan: SweepPlan, ledger: Ledger, cluster: MadeUpCluster, most: int) -> None:
    """Run the real driver of a registered sweep to its end, with so many trials at a time on made-up hosts."""
    with HostPool(cast(Any, cluster), lambda _: object, most) as hosts:
        Driver(
            replace(plan, name=row.name),
            ledger,
            cast(Any, cluster),
            hosts,
            lambda _: SHAPE,
            [SHAPE],
            Path(row.folder),
            {},
            cast(Any, Quiet()),
            rest=cluster.rest,
        ).run()


def sums(folder: Path) -> list[str]:
    """Words of a LoRA training that nothing has to be trained for: a tiny model, and rows about sums, in ``folder``."""
    rows, model = folder / "rows.jsonl", folder / "model"
    if not model.exists():
        pairs = [{"question": f"What is {n} plus {n}?", "answer": f"It is {2 * n}."} for n in range(100)]
        rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        texts = [text for pair in pairs for text in pair.values()]
        create_tiny_model(model, texts, hidden_size=32, layers=2, heads=4, kv_heads=2, vocabulary=300)
    return ["experiment=lora_sft", "model=folder", f"model.path={model}", "data=jsonl", f"data.train=[{rows}]"]


def _specification(folder: Path, options: argparse.Namespace) -> tuple[Any, RunConfig]:
    sweep = {
        "name": "large",
        "base": [
            *sums(folder),
            "optim.duration=270 steps",
            f"home={folder / 'home'}",
        ],
        "space": {"optim.lr": "tag(log, interval(1e-5, 1e-1))", "adapter.rank": "choice(2, 4, 8, 16, 32, 64)"},
        "sampler": {"name": options.sampler},
        "pruner": {"name": "halving", "first": "10 steps", "eta": 3},
        "budget": {"trials": options.trials},
    }
    (folder / "large.yaml").write_text(json.dumps(sweep))
    spec, base = read_sweep(folder / "large.yaml", [])
    provide(base, print, lambda *_: None)
    return spec, base


def _memory() -> int:
    """Bytes at their highest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
