"""A host trains what several callers send at once, and each result is what a worker of its own would have made."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_samples import World

from ftcluster.config.compose import compose, to_dict
from ftcluster.errors import Diverged, StoreError, TrialError
from ftcluster.training.bench import prepare_data
from ftcluster.training.host import HostWorker
from ftcluster.training.worker import Job, Worker

RANKS = (2, 3, 8)


def job(world: World, folder: Path, rank: int, *more: str, until: int | None = 6) -> Job:
    config = compose(world.words(f"adapter.rank={rank}", "optim.lr=1e-3", f"home={world.folder / 'home'}", *more))
    prepared = str(prepare_data(config).folder)
    return Job(to_dict(config), str(folder), prepared, until, {})


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_stretches_that_share_a_host_end_with_the_bits_they_have_alone(world: World, tmp_path: Path) -> None:
    host = HostWorker(1, gpus=False)
    jobs = [job(world, tmp_path / f"pack-{rank}", rank) for rank in RANKS]
    with ThreadPoolExecutor(len(jobs)) as callers:
        together = list(callers.map(host.run, jobs))
    for rank, outcome in zip(RANKS, together, strict=True):
        alone = Worker(1, gpus=False).run(job(world, tmp_path / f"alone-{rank}", rank))
        assert outcome.error is None
        assert outcome.report is not None
        assert alone.report is not None
        assert outcome.report.metrics == alone.report.metrics
        assert weights(tmp_path / f"pack-{rank}") == weights(tmp_path / f"alone-{rank}")


def test_one_that_diverges_ends_alone(world: World, tmp_path: Path) -> None:
    host = HostWorker(1, gpus=False)
    jobs = [job(world, tmp_path / "good", 2), job(world, tmp_path / "bad", 2, "optim.lr=1e30")]
    with ThreadPoolExecutor(2) as callers:
        good, bad = callers.map(host.run, jobs)
    assert isinstance(bad.error, Diverged)
    Worker(1, gpus=False).run(job(world, tmp_path / "alone", 2))
    assert good.error is None
    assert weights(tmp_path / "good") == weights(tmp_path / "alone")


class Unreadable(Mapping[str, Any]):
    """A config that cannot be read, whatever is asked of it."""

    def __init__(self, why: BaseException) -> None:
        self._why = why

    def __getitem__(self, key: str) -> Any:
        raise self._why

    def __iter__(self) -> Iterator[str]:
        raise self._why

    def __len__(self) -> int:
        raise self._why


def test_a_failure_nobody_could_write_down_is_a_value_and_leaves_the_others_alone(world: World, tmp_path: Path) -> None:
    host = HostWorker(1, gpus=False)
    good, bad = job(world, tmp_path / "good", 2), Job(Unreadable(RuntimeError("why")), str(tmp_path / "no"), "", 1, {})
    with ThreadPoolExecutor(2) as callers:
        fine, failed = callers.map(host.run, (good, bad))
    assert fine.report is not None
    assert isinstance(failed.error, TrialError)
    assert failed.error.where == str(tmp_path / "no")
    assert "No such file or directory" in failed.error.message
    assert failed.error.remedy == "resume it once that is mended"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that it ends is the point
def test_nobody_waits_for_a_thread_that_has_ended_and_the_next_job_gets_another(world: World, tmp_path: Path) -> None:
    host = HostWorker(1, gpus=False)
    with pytest.raises(SystemExit):
        host.run(Job(Unreadable(SystemExit("a library ends the process")), str(tmp_path / "no"), "", 1, {}))
    assert host.peek().progress == {}
    assert host.run(job(world, tmp_path / "next", 2)).report is not None


def test_the_same_folder_sent_twice_is_trained_once_and_both_callers_are_told(world: World, tmp_path: Path) -> None:
    host = HostWorker(1, gpus=False)
    with ThreadPoolExecutor(2) as callers:
        outcomes = list(callers.map(host.run, [job(world, tmp_path / "one", 2)] * 2))
    assert sorted(outcome.report is not None for outcome in outcomes) == [False, True]
    assert [type(outcome.error) for outcome in outcomes if outcome.error] == [StoreError]


def test_asked_to_stop_all_of_them_save_and_say_so(world: World, tmp_path: Path) -> None:
    host = HostWorker(1, gpus=False)
    host.stop()
    jobs = [replace(job(world, tmp_path / f"{rank}", rank), until=None) for rank in RANKS]
    with ThreadPoolExecutor(len(jobs)) as callers:
        outcomes = list(callers.map(host.run, jobs))
    assert [outcome.stopped for outcome in outcomes] == [True] * 3
    assert {outcome.report.step for outcome in outcomes if outcome.report} == {1}
    assert host.peek().progress == {}


@pytest.mark.parametrize("words", [(), ("adapter=none", "optim.lr=1e-3")], ids=["packed", "full"])
def test_every_pass_and_every_token_of_an_answer_is_a_sign_of_life(
    world: World, tmp_path: Path, words: tuple[str, ...]
) -> None:
    host = HostWorker(1, gpus=False)
    assert host.peek().beats == 0
    assert host.run(job(world, tmp_path / "losses", 2, *words, until=4)).report is not None
    losses = host.peek().beats
    assert losses >= 4 * 2  # two micro-batches a step
    asked = ("evaluation.generate=1", "evaluation.max_new_tokens=7")
    assert host.run(job(world, tmp_path / "answers", 2, *words, *asked, until=4)).report is not None
    assert host.peek().beats - losses >= 4 * 2 + 2


def test_a_training_that_hangs_is_still_asked_and_tells_where(world: World, tmp_path: Path) -> None:
    host, going_on, hung = HostWorker(1, gpus=False), threading.Event(), threading.Event()
    made = job(world, tmp_path / "one", 2)
    engine = host._worker.bench.engine(host._worker.config(made))

    def a_library_that_hangs(*_: object) -> None:
        hung.set()
        going_on.wait()

    engine.base.model.base_model.register_forward_hook(a_library_that_hangs)
    with ThreadPoolExecutor(1) as callers:
        outcome = callers.submit(host.run, made)
        assert hung.wait(60)
        beats = host.peek().beats
        host.dump(str(tmp_path))
        assert host.peek().beats == beats
        going_on.set()
        assert outcome.result().report is not None
    assert host.peek().beats > beats
    text = (tmp_path / "rank-0.stacks").read_text()
    assert "in a_library_that_hangs" in text
    assert "in _serve" in text


def test_one_that_does_not_fit_beside_the_others_is_sent_back_with_the_reason(world: World, tmp_path: Path) -> None:
    host = HostWorker(1, gpus=False)
    tight = "cluster.memory_gib=0.001"
    jobs = [job(world, tmp_path / f"tight-{rank}", rank, tight, until=None) for rank in RANKS]
    with ThreadPoolExecutor(len(jobs)) as callers:
        outcomes = list(callers.map(host.run, jobs))
    taken = [outcome for outcome in outcomes if outcome.report]
    refused = [outcome for outcome in outcomes if not outcome.report]
    assert taken, "alone it is always taken in"
    assert refused
    assert all("for passes of" in outcome.refused and outcome.error is None for outcome in refused)
    again = host.run(jobs[outcomes.index(refused[0])])
    assert again.report is not None
