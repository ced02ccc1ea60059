"""What a trial costs that does nothing: ftcluster's sweep against Ray Tune, on an embedded Ray each.

    python benchmarks/noop_trials.py [--trials 1000] [--slots 2] [--plain 1000]

Ours is what `ftcluster sweep` runs once data is prepared: Ray, hosts with all their imports, the driver, the ledger,
a spool and an MLflow run for each trial. Only the training is left out: a host reports one value at once. The peer is
`tune.Tuner` with a function that reports one value, first as it comes (a process per trial), then with
`reuse_actors=True`; it writes what it writes by itself. Every second from starting Ray to the last record counts on all
sides, and all have as many trials at a time. As Tune takes a second or more per trial as it comes, `--plain` lets it
make fewer of them, and its time counts for as many more. The last line is one JSON object; `ratio` is the time of Tune
as it comes over ours, `ratio_reused` that of Tune with reused actors over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from sweep_scale import sums

from ftcluster.cluster.placement import Resources
from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.config.compose import from_dict
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.errors import TrackingError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.hosts import HostPool
from ftcluster.sweep.launch import register, run_sweep
from ftcluster.sweep.opening import Opening
from ftcluster.sweep.plan import SweepPlan, make_plan
from ftcluster.sweep.specification import read_sweep
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.host import HostWorker
from ftcluster.training.records import deliver, store_uri
from ftcluster.training.session import start_records
from ftcluster.training.worker import Job, Outcome

METRIC = "eval/loss"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1, help="trials at a time; cores, by default")
    parser.add_argument("--plain", type=int, default=0, help="trials of Tune as it comes; as many, by default")
    options = parser.parse_args()
    made = options.plain or options.trials
    with tempfile.TemporaryDirectory() as folder:
        ours = run_ours(Path(folder), options.trials, options.slots)
        print(f"ftcluster: {ours.seconds:.1f} s, {ours.training:.1f} s from the first trial to the last", flush=True)
        print(
            f"           {ours.ended:.1f} s until the sweep had ended, the rest until MLflow had all of it", flush=True
        )
        reused = run_tune(Path(folder), options.trials, options.slots, reuse=True)
        print(f"Ray Tune with reused actors: {reused:.1f} s", flush=True)
        plain = run_tune(Path(folder), made, options.slots, reuse=False)
        print(f"Ray Tune: {plain:.1f} s for {made} trials", flush=True)
        plain *= options.trials / made
    report = {
        "ratio": round(plain / ours.seconds, 2),
        "ratio_reused": round(reused / ours.seconds, 2),
        "ours_s": round(ours.seconds, 1),
        "ours_until_ended_s": round(ours.ended, 1),
        "ours_first_to_last_trial_s": round(ours.training, 1),
        "tune_s": round(plain, 1),
        "tune_reused_s": round(reused, 1),
        "trials": options.trials,
        "tune_trials": made,
        "slots": options.slots,
    }
    print(json.dumps(report))


@dataclass(frozen=True)
class Took:
    """Seconds of a sweep."""

    seconds: float  # until everything was written
    ended: float  # until it said that it had ended
    training: float  # from the first trial's beginning to the end of the last


class Idle(HostWorker):
    """A host that reports as soon as it is told to train, with the records that every trial has."""

    def run(self, job: Job) -> Outcome:
        config = from_dict(job.config)
        with closing(SpoolTracker(Path(job.folder))) as tracker:
            start_records(tracker, config, dict(job.tags))
            tracker.state(RunState.RUNNING)
            values = {METRIC: config.optim.lr}
            tracker.metrics(values, 1)
        return Outcome(report=TrialReport(Path(job.folder).name, 1, values))


class Idling(Opening):
    """The cluster and hosts of a sweep, with workers that do nothing."""

    def _opened(self) -> tuple[Cluster, HostPool]:
        cluster = self._open.enter_context(Cluster())
        most = self._base.cluster.max_trials
        hosts = self._open.enter_context(HostPool(cluster, _worker, most))
        hosts.arrange((), [self._shape(cluster, self._base)] * most)
        return cluster, hosts


def _worker(_: Resources) -> Callable[[], HostWorker]:
    return lambda: Idle(1, gpus=False)


def run_ours(folder: Path, trials: int, slots: int) -> Took:
    plan = _plan(folder, trials, slots)
    home = folder / "home"
    began = time.perf_counter()
    with Ledger.open(home) as ledger:
        row = register(plan, ledger)
        with Idling(plan.base, trials, ()) as opening:
            opening.begin()
            result = run_sweep(row, plan, ledger, Console(quiet=True), opening)
        ended = time.perf_counter() - began
        if result.undelivered:
            _deliver(ledger, [row, *result.trials], home)
    took = time.perf_counter() - began
    states = {trial.state for trial in result.trials}
    assert len(result.trials) == trials, f"{len(result.trials)} trials"
    assert states == {RunState.FINISHED}, f"trials are {', '.join(states)}"
    first = min(trial.started_at or 0.0 for trial in result.trials)
    return Took(took, ended, max(trial.ended_at or 0.0 for trial in result.trials) - first)


def _deliver(ledger: Ledger, rows: Sequence[RunRow], home: Path) -> None:
    """What `ftcluster runs sync` does; as long as the sweep's own thread still delivers, it has to be asked again."""
    pending = 1
    while pending:
        try:
            _, pending = deliver(ledger, rows, home, store_uri(home, ""))
        except TrackingError:
            time.sleep(0.5)


def _plan(folder: Path, trials: int, slots: int) -> SweepPlan:
    spec = {
        "name": "idle",
        "base": [
            *sums(folder),
            "evaluation=loss",
            "optim.duration=1 steps",
            "cluster.trials_per_host=1",
            f"cluster.max_trials={slots}",
            f"home={folder / 'home'}",
        ],
        "space": {"optim.lr": "tag(log, interval(1e-5, 1e-1))"},
        "sampler": {"name": "random"},
        "budget": {"trials": trials},
        "metric": METRIC,
    }
    (folder / "idle.yaml").write_text(json.dumps(spec))
    return make_plan(*read_sweep(folder / "idle.yaml", []))


def run_tune(folder: Path, trials: int, slots: int, *, reuse: bool) -> float:
    """Seconds in all."""
    import ray
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        tune.report({"loss": config["rate"]})

    draw = random.Random(1)
    rates = [10 ** draw.uniform(-5, -1) for _ in range(trials)]
    began = time.perf_counter()
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        tuner = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space={"rate": tune.grid_search(rates)},
            tune_config=tune.TuneConfig(metric="loss", mode="min", reuse_actors=reuse),
            run_config=tune.RunConfig(storage_path=str(folder / f"tune-{reuse}"), verbose=0),
        )
        results = tuner.fit()
    finally:
        ray.shutdown()
    took = time.perf_counter() - began
    assert len(results) == trials, f"{len(results)} trials of Tune"
    assert results.num_errors == 0, f"{results.num_errors} trials of Tune failed"
    return took


if __name__ == "__main__":
    main()
