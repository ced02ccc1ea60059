"""What is said of a sweep's files against those that a training writes, and the bound against a count by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from training_samples import World

from ftcluster.config.compose import compose, to_dict
from ftcluster.contracts.folder import RunFolder
from ftcluster.sweep.forecast.disk import disk_at_most, disk_of, sizes_of
from ftcluster.sweep.forecast.imagined import imagine
from ftcluster.sweep.plan import SweepPlan
from ftcluster.training.bench import prepare_data
from ftcluster.training.worker import Job, Worker

Planned = Callable[..., SweepPlan]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("words", [["adapter.rank=16"], ["adapter=none"]])
def test_files_are_as_large_as_foretold(world: World, tmp_path: Path, words: list[str]) -> None:
    config = compose(world.words("optim.duration=4 steps", f"home={tmp_path}", *words))
    data = prepare_data(config)
    run = RunFolder(tmp_path / "run")
    assert Worker(1, gpus=False).run(Job(to_dict(config), str(run.path), str(data.folder), None, {})).error is None
    (saved,) = run.checkpoints.iterdir()
    foretold = sizes_of(config)
    result = run.adapter if run.adapter.is_dir() else run.model
    assert size(saved) <= foretold.checkpoint < 1.2 * size(saved)
    assert 0.9 * size(result) < foretold.result < 1.1 * size(result)
    assert foretold.early is run.adapter.is_dir()


def test_the_bound_counts_every_trial_as_far_as_its_rule_lets_it_come(planned: Planned) -> None:
    """Halving of 4 trials at steps 6, 12, 24, saved every 6 steps, 2 and the best kept: 2 trials have 1 checkpoint and
    one that is being written, one has 2 and one, the last one 3 and one."""
    plan = planned(
        {
            "space": {"optim.lr": "tag(log, interval(1e-4, 1e-3))"},
            "sampler": {"name": "random"},
            "pruner": {"name": "halving", "first": "6 steps", "eta": 2},
            "budget": {"trials": 4},
        }
    )
    assert plan.rungs == (6, 12, 24)
    assert plan.steps.save_every == 6
    found = disk_of(plan, imagine(plan))
    each = sizes_of(plan.base)
    assert found.at_most - found.in_the_end == (2 * 2 + 3 + 4) * each.checkpoint
    assert found == disk_at_most(plan)


def test_what_is_delivered_elsewhere_takes_no_room_here(planned: Planned) -> None:
    lines = {"space": {"adapter.rank": "choice(2, 4)"}, "sampler": {"name": "grid"}}
    here, elsewhere = (disk_at_most(planned(lines, *words)) for words in ([], ["tracking.uri=http://mlflow:5000"]))
    assert here.in_the_end > 1.9 * elsewhere.in_the_end
    assert here.folder == elsewhere.folder
