"""How good a configuration a sweep finds, for how many of the grid's tokens: ftcluster against Ray Tune's ASHA.

    python benchmarks/search_quality.py [--seeds 5] [--surface NAME]...       replays what is recorded in surfaces/
    python benchmarks/search_quality.py --record NAME --data ../shared/data     trains the grid and keeps its curves
    python benchmarks/search_quality.py --live NAME --data ../shared/data       trains a sweep that halves, in earnest

A surface holds the held-out loss of every point of a grid at 27 moments of a real training. Ours is the real driver,
ledger and sampler on made-up hosts that replay it; the peer is `ray.tune` with ASHAScheduler, whose trainables replay
it. Both may have eight trials at a time, judge first after a ninth of a training, keep one of three, and begin as many
trials as the grid has points, in an order that is drawn anew for each seed.

`tokens` is what was trained, as a share of what the whole grid takes; held-out rows are not counted. `regret` is by how
much the chosen configuration, trained to its end, is worse than the best of the grid. The last line is one JSON object;
its `ratio` is the peer's tokens over ours, summed over those surfaces and seeds where both chose within 1 %.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from response_surfaces import LOOKS, METRIC, RECIPES, Surface, load, names, prepare, read_curves, record, sweep
from sweep_scale import MadeUpCluster, Stretch, drive, sums

from ftcluster.contracts.trial import TrialReport
from ftcluster.errors import TrialError
from ftcluster.ledger.process import this_process
from ftcluster.ledger.ranking import best_trial
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.launch import register
from ftcluster.sweep.plan import make_plan
from ftcluster.sweep.specification import read_sweep
from ftcluster.training.worker import Job, Outcome

GOOD, SHARE = 0.01, 0.25  # regret and tokens that a search may take at most
SLOTS = 8  # trials at a time
EACH = 8  # steps between two looks of a replayed training
STEPS = LOOKS * EACH
PEER = "Ray Tune, ASHA"


@dataclass(frozen=True)
class Rule:
    """How a sweep is made, as its file says it."""

    sampler: str
    pruner: str
    first: int = 3  # looks
    eta: int = 3
    part: float = 1.0  # of the grid's points that are tried

    def __str__(self) -> str:
        tried = "" if self.part == 1 else f", {self.part:.0%} of the points"
        return f"{self.sampler}, {self.pruner} eta {self.eta}, first {self.first}/{LOOKS}{tried}"


OURS = Rule("qmc", "halving")
RULES = (
    OURS,
    Rule("qmc", "halving", first=1),
    Rule("qmc", "halving", first=2),
    Rule("qmc", "halving", first=2, eta=2),
    Rule("qmc", "hyperband", first=1),
    Rule("qmc", "halving", part=0.75),
    Rule("tpe", "halving", part=0.75),
)


@dataclass(frozen=True)
class Found:
    """What a search chose, and what it took."""

    tokens: float
    regret: float

    @property
    def good(self) -> bool:
        return self.regret <= GOOD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--surface", action="append", choices=names(), help="only this one; may be given again")
    parser.add_argument("--record", action="append", choices=sorted(RECIPES), help="may be given again")
    parser.add_argument("--live", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, help="folder of gsm8k_train.jsonl and the others, for training")
    options = parser.parse_args()
    if (options.record or options.live) and not options.data:
        parser.error("--data says where the rows to train on are")
    with tempfile.TemporaryDirectory() as folder:
        if options.record:
            for name in options.record:
                surface = record(name, options.data, Path(folder))
                found = {"points": len(surface.points), "best": surface.best, "seconds": surface.made["seconds"]}
                print(json.dumps({"surface": name, **found}), flush=True)
        elif options.live:
            print(json.dumps(live(options.live, options.data, Path(folder))))
        else:
            print(json.dumps(compare([load(name) for name in options.surface or names()], options.seeds, Path(folder))))


# Replayed --------------------------------------------------------------------------------------------------------


def compare(surfaces: Sequence[Surface], seeds: int, folder: Path) -> dict[str, Any]:
    """Every rule and the peer on every surface, with several seeds."""
    found = {PEER: peer(surfaces, seeds)}
    _tell(PEER, found[PEER])
    for rule in RULES:
        found[str(rule)] = {s.name: [replay(s, rule, seed, folder) for seed in range(seeds)] for s in surfaces}
        _tell(str(rule), found[str(rule)])
    pairs = [
        (mine, theirs)
        for surface in surfaces
        for mine, theirs in zip(found[str(OURS)][surface.name], found[PEER][surface.name], strict=True)
    ]
    equal = [(mine.tokens, theirs.tokens) for mine, theirs in pairs if mine.good and theirs.good]
    return {
        "ratio": round(sum(theirs for _, theirs in equal) / sum(mine for mine, _ in equal), 2) if equal else None,
        "within_1_percent": _share(mine.good and mine.tokens <= SHARE for mine, _ in pairs),
        "peer_within_1_percent": _share(theirs.good for _, theirs in pairs),
        "tokens": round(statistics.median(mine.tokens for mine, _ in pairs), 4),
        "peer_tokens": round(statistics.median(theirs.tokens for _, theirs in pairs), 4),
        "worst_regret": round(max(mine.regret for mine, _ in pairs), 4),
        "peer_worst_regret": round(max(theirs.regret for _, theirs in pairs), 4),
        "surfaces": len(surfaces),
        "seeds": seeds,
    }


def _share(flags: Any) -> float:
    return round(statistics.fmean(map(float, flags)), 3)


def _tell(who: str, found: dict[str, list[Found]]) -> None:
    print(who)
    for name, each in found.items():
        tokens, regrets = [one.tokens for one in each], [one.regret for one in each]
        print(
            f"  {name:20} tokens {statistics.median(tokens):6.1%} (at most {max(tokens):.1%})   "
            f"regret {statistics.median(regrets):6.2%} (at most {max(regrets):.2%})   "
            f"within 1 %: {sum(one.good for one in each)} of {len(each)}",
            flush=True,
        )


class Replaying(MadeUpCluster):
    """Eight places whose trainings take time in steps only, and report what was recorded."""

    def __init__(self, surface: Surface, points: dict[str, int]) -> None:
        super().__init__(SLOTS, 0.0)
        self._curves, self._points = surface.curves, points
        self._now = 0
        self.reached: dict[str, int] = {}  # folder of a trial -> steps it was trained

    def begin(self, job: Job) -> Stretch:
        begun = self.reached.get(job.folder, 0)
        self.reached[job.folder] = job.until or STEPS
        stretch = Stretch(job, self._now + self.reached[job.folder] - begun)
        heapq.heappush(self._running, stretch)
        return stretch

    def wait(self, handles: list[Any], timeout: float) -> list[Any]:  # noqa: ARG002
        if came_up := [handle for handle in handles if not isinstance(handle, Stretch)]:
            return came_up
        if not self._running:
            return []
        stretch = heapq.heappop(self._running)
        self._now = int(stretch.ends)
        return [stretch]

    def result(self, handle: Any) -> Any:
        if not isinstance(handle, Stretch):
            return super().result(handle)
        name, step = Path(handle.job.folder).name, self.reached[handle.job.folder]
        loss = self._curves[self._points[name]][step // EACH - 1]
        if math.isnan(loss):
            return Outcome(error=TrialError("the loss is not a number", where=name, remedy="lower optim.lr"))
        return Outcome(report=TrialReport(name, step, {METRIC: loss}))


class Numbered(dict[str, int]):
    """The points of trials, looked up in the ledger when they are asked for first."""

    def __init__(self, ledger: Ledger, surface: Surface) -> None:
        super().__init__()
        self._ledger, self._surface = ledger, surface

    def __missing__(self, name: str) -> int:
        self[name] = self._surface.number(dict(self._ledger.get(name).overrides))
        return self[name]


def replay(surface: Surface, rule: Rule, seed: int, folder: Path) -> Found:
    """One sweep over a surface."""
    home = Path(tempfile.mkdtemp(dir=folder))
    spec, base = read_sweep(_sweep_file(surface, rule, seed, folder, home), [])
    plan = make_plan(spec, base)
    with Ledger.open(home) as ledger:
        row = register(plan, ledger)
        ledger.claim(row.name, this_process(), lambda _: False)
        cluster = Replaying(surface, Numbered(ledger, surface))
        drive(row, plan, ledger, cluster, SLOTS)
        trials = ledger.runs(parent=row.name)
    best = best_trial(trials, METRIC, "minimize", 1)
    assert best is not None, "a sweep over a surface finishes a trial"
    tokens = sum(cluster.reached.values()) / (STEPS * len(surface.points))
    return Found(tokens, surface.regret(surface.number(dict(best.overrides))))


def _sweep_file(surface: Surface, rule: Rule, seed: int, folder: Path, home: Path) -> Path:
    """A sweep over the surface's space, of a base that nothing is trained of."""
    words = (word for word in surface.made["recipe"]["words"] if word.startswith("adapter"))
    file = folder / "replayed.yaml"
    spec = {
        "name": "replayed",
        "base": [
            *sums(folder),
            "evaluation=loss",
            "optim.micro_batch=1",
            f"optim.duration={STEPS} steps",
            f"home={home}",
            *words,
        ],
        "space": surface.space,
        "variants": surface.variants,
        "sampler": {"name": rule.sampler, "seed": seed},
        "pruner": {"name": rule.pruner, "first": f"{rule.first * EACH} steps", "eta": rule.eta},
        "budget": {"trials": round(rule.part * len(surface.points))},
        "metric": METRIC,
    }
    file.write_text(json.dumps(spec))
    return file


# The peer --------------------------------------------------------------------------------------------------------


def peer(surfaces: Sequence[Surface], seeds: int) -> dict[str, list[Found]]:
    """Ray Tune, on a Ray of its own with eight places; its trainables replay the curves as a trial of ours does."""
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    import ray

    ray.init(address="local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return {s.name: [_asha(s, seed, folder) for seed in range(seeds)] for s in surfaces}
    finally:
        ray.shutdown()


def _asha(surface: Surface, seed: int, folder: str) -> Found:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    class Replayed(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any], curves: list[list[float]]) -> None:
            self.curves, self.curve = curves, curves[config["point"]]

        def step(self) -> dict[str, float]:
            loss = self.curve[self.iteration]
            return {"loss": math.inf if math.isnan(loss) else loss}

        def save_checkpoint(self, _: str) -> None: ...

        def reset_config(self, config: dict[str, Any]) -> bool:
            self.curve = self.curves[config["point"]]
            return True

    order = list(range(len(surface.points)))
    random.Random(seed).shuffle(order)
    ended = tune.run(
        tune.with_parameters(Replayed, curves=surface.curves),
        config={"point": tune.grid_search(order)},
        metric="loss",
        mode="min",
        scheduler=ASHAScheduler(max_t=LOOKS, grace_period=OURS.first, reduction_factor=OURS.eta),
        max_concurrent_trials=SLOTS,
        reuse_actors=True,
        storage_path=folder,
        verbose=0,
    )
    looks = sum(trial.last_result["training_iteration"] for trial in ended.trials)
    tokens = looks / (LOOKS * len(surface.points))
    return Found(tokens, surface.regret(ended.get_best_trial().config["point"]))


# Live ------------------------------------------------------------------------------------------------------------


def live(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """A sweep that halves, trained by `ftcluster sweep` on Ray, against the grid that was recorded likewise."""
    surface, recipe = load(name), RECIPES[name]
    words = prepare(recipe, data, folder)
    began = time.perf_counter()
    pruner = {"name": OURS.pruner, "first": f"{OURS.first * recipe.epochs / LOOKS:.12f} epochs", "eta": OURS.eta}
    curves = dict(read_curves(sweep(recipe, words, folder, "halved", pruner)))
    seconds = time.perf_counter() - began
    finished = {point: end for point, curve in curves.items() if (end := curve[-1]) is not None}
    chosen = min(finished, key=lambda point: finished[point])
    number = surface.number(json.loads(chosen))
    tokens = sum(value is not None for curve in curves.values() for value in curve) / (LOOKS * len(surface.points))
    apart = max(
        abs(value - surface.curves[surface.number(json.loads(point))][look])
        for point, curve in curves.items()
        for look, value in enumerate(curve)
        if value is not None
    )
    return {
        "ratio": round(1 / tokens, 2),
        "tokens": round(tokens, 4),
        "regret": round(surface.regret(number), 5),
        "points": len(surface.points),
        "largest_difference_from_the_grids_curves": apart,
        "seconds": round(seconds, 1),
        "seconds_grid": surface.made["seconds"],
        "chosen": surface.points[number],
    }


if __name__ == "__main__":
    main()
