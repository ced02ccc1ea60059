"""A sweep as its user runs it, on embedded Ray and SQLite MLflow, disturbed and not.

The undisturbed sweep is the oracle: after a disturbance and a resume, states, steps and metrics of every trial
equal it to the last bit, and MLflow has one run per trial and each point once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from programs import call, finish, start, wait_for
from small_disk import mounted
from sweep_outcomes import Ended, assert_told_once, outcome
from training_samples import World, make_world

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger

pytestmark = pytest.mark.slow

NAME = "small"
Undisturbed = tuple[Path, dict[str, Ended]]
SWEEP = {
    "name": NAME,
    "space": {"optim.lr": "tag(log, interval(1e-4, 3e-2))", "adapter.rank": "choice(2, 4)"},
    "sampler": {"name": "qmc", "seed": 3},
    "pruner": {"name": "halving", "first": "6 steps", "eta": 2},
    "budget": {"trials": 6},
    "metric": "eval/loss",
    "direction": "minimize",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A folder with model, data and sweep file."""
    world = make_world(tmp_path_factory.mktemp("world"))
    base = world.words("evaluation.every=4 steps")
    (world.folder / "small.yaml").write_text(json.dumps({**SWEEP, "base": base}))
    return world


def command(world: World, home: Path, *words: str) -> list[str]:
    return ["sweep", str(world.folder / "small.yaml"), "--home", str(home), *words]


def resuming(home: Path) -> list[str]:
    return ["sweep", "resume", NAME, "--home", str(home)]


def assert_as_undisturbed(home: Path, undisturbed: Undisturbed) -> None:
    assert outcome(home, NAME) == undisturbed[1]
    assert_told_once(home, NAME)


def our_processes(home: Path) -> list[psutil.Process]:
    """Processes that have something of this home open or on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = any(str(home) in word for word in process.cmdline()) or any(
                str(home) in file.path for file in process.open_files()
            )
        except psutil.Error:
            continue
        if mine and process.pid != os.getpid():
            found.append(process)
    return found


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    home, log = folder / "home", folder / "log"
    assert "best: small-" in call(command(world, home), log)
    return home, outcome(home, NAME)


def test_a_sweep_prunes_promotes_and_finishes_with_one_run_per_trial(undisturbed: Undisturbed) -> None:
    home, table = undisturbed
    assert Counter(trial.state for trial in table.values()) == {"finished": 1, "pruned": 5}
    assert sorted(trial.step for trial in table.values()) == [6, 6, 6, 12, 12, 24]
    for name, trial in table.items():
        assert [step for step, _ in trial.points["train/loss"]] == list(range(1, trial.step + 1)), name
    assert_told_once(home, NAME)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    with Ledger.open(home) as ledger:
        rows = ledger.runs(parent=NAME)
    for row in rows:
        run = client.get_run(row.mlflow_run_id)
        assert run.data.params["adapter.rank"] == str(row.overrides["adapter.rank"])
        assert {"train/loss", "eval/loss", "system/memory_mb"} <= run.data.metrics.keys()
        names = {a.path.rpartition("/")[2] for a in client.list_artifacts(run.info.run_id, "adapter")}
        assert {"adapter_config.json", "adapter_model.safetensors", "integrity.json"} <= names


def test_survivors_are_the_best_at_each_rung(undisturbed: Undisturbed) -> None:
    home, table = undisturbed
    with Ledger.open(home) as ledger:
        reports = ledger.reports("small")
    at_rung = {rung: sorted((r.metrics["eval/loss"], r.run) for r in reports if r.rung == rung) for rung in (0, 1)}
    assert {name for _, name in at_rung[0][:3]} == {name for name, trial in table.items() if trial.step >= 12}
    assert at_rung[1][0][1] == next(name for name, trial in table.items() if trial.state == "finished")


@pytest.mark.chaos
@pytest.mark.thorough
def test_where_memory_is_short_trials_wait_and_nothing_else_changes(
    world: World, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    text = call(command(world, home, "cluster.memory_gib=0.001"), log)
    assert "waits for a host that is less full: it needs " in text
    assert_as_undisturbed(home, undisturbed)


@pytest.mark.chaos
def test_ctrl_c_saves_everything_and_the_printed_command_resumes_to_the_same_result(
    world: World, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    process = start(command(world, home), log)
    wait_for(lambda: "paused" in log.read_text(), process, log)
    process.send_signal(signal.SIGINT)
    text = finish(process, log, expected=130)
    (resume,) = [line.split("-> ")[1] for line in text.splitlines() if "-> ftcluster sweep resume" in line]
    with Ledger.open(home) as ledger:
        rows = [ledger.get("small"), *ledger.runs(parent="small")]
    assert not [row.name for row in rows if row.state in (RunState.RUNNING, RunState.PAUSED)]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    statuses = {r.data.tags["ftcluster.run"]: r.info.status for r in client.search_runs([experiment.experiment_id])}
    assert statuses["small"] == "KILLED"
    assert "RUNNING" not in statuses.values()
    call(resume.split()[1:], log)
    assert_as_undisturbed(home, undisturbed)


@pytest.mark.chaos
@pytest.mark.parametrize("moment", [pytest.param("first stretch", marks=pytest.mark.thorough), "after a rung"])
def test_a_killed_driver_is_replaced_and_nothing_is_lost_or_doubled(
    world: World, tmp_path: Path, undisturbed: Undisturbed, moment: str
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    process = start(command(world, home), log)

    def reached() -> bool:
        if moment == "after a rung":
            return "pruned" in log.read_text()
        return any((home / "small").glob("*/checkpoints/step-*"))

    wait_for(reached, process, log)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while our_processes(home) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not our_processes(home), "Ray's workers outlive their driver"
    call(command(world, home, "--resume"), log)
    assert_as_undisturbed(home, undisturbed)


@pytest.mark.chaos
def test_a_killed_host_is_replaced_and_its_trial_goes_on_from_its_checkpoint(
    world: World, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    process = start(command(world, home), log)
    wait_for(lambda: any((home / "small").glob("*/checkpoints/step-*")), process, log)
    hosts = [p for p in psutil.Process(process.pid).children(recursive=True) if "_HostActor" in "".join(p.cmdline())]
    assert hosts
    hosts[0].kill()
    text = finish(process, log)
    assert "goes on from its newest checkpoint" in text
    assert_as_undisturbed(home, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 40 MB; needs the right to mount."""
    with mounted(tmp_path / "disk", "40m", lazily=True) as place:
        yield place


@pytest.mark.chaos
@pytest.mark.parametrize("patient", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_a_full_disk_stops_a_sweep_with_a_remedy_unless_it_is_emptied_soon_and_the_result_is_the_same(
    world: World, tmp_path: Path, small_disk: Path, undisturbed: Undisturbed, patient: bool
) -> None:
    home, log = small_disk / "home", tmp_path / "log"
    process = start(command(world, home, *([] if patient else ["cluster.storage_patience=0"])), log)
    wait_for(lambda: any((home / "small").glob("*/checkpoints/step-*")), process, log)
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 16_384)
    if patient:
        wait_for(lambda: "trying again for 2:00" in log.read_text(), process, log)
        ballast.unlink()
        text = finish(process, log)
    else:
        text = finish(process, log, expected=6)
        ballast.unlink()
        call(resuming(home), tmp_path / "again")
    assert "Traceback" not in text
    assert str(home) in text
    assert_as_undisturbed(home, undisturbed)


@pytest.mark.thorough
def test_storage_that_is_gone_for_a_minute_is_waited_for_and_the_result_is_the_same(
    world: World, tmp_path: Path, small_disk: Path, undisturbed: Undisturbed
) -> None:
    """Another, empty file system stands in its place, on which nothing can be written; what is open stays so."""
    home, log = small_disk / "home", tmp_path / "log"
    process = start(command(world, home), log)
    wait_for(lambda: any((home / "small").glob("*/checkpoints/step-*")), process, log)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=4k", "ftcluster-test", str(small_disk)], check=True)
    try:
        wait_for(lambda: "trying again for 2:00" in log.read_text(), process, log)
        time.sleep(60)
        assert process.poll() is None
    finally:
        subprocess.run(["umount", "--lazy", str(small_disk)], check=True)
    assert "Traceback" not in finish(process, log)
    assert_as_undisturbed(home, undisturbed)


@pytest.mark.thorough
@pytest.mark.chaos
def test_a_second_driver_on_the_same_sweep_is_refused_by_name(world: World, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    words = ["budget.trials=2", "pruner.name=none", "optim.duration=100000 steps", "evaluation.every=100000 steps"]
    process = start(command(world, home, *words), log)
    wait_for(lambda: "running" in log.read_text(), process, log)
    text = call(resuming(home), tmp_path / "other", expected=6)
    assert "small is being run by" in text
    assert str(process.pid) in text
    process.send_signal(signal.SIGTERM)
    finish(process, log, expected=130)
    text = call(command(world, home, *words), tmp_path / "again", expected=2)
    assert "small is the same sweep and is interrupted" in text
    assert "--resume goes on with it, --new begins another one" in text


@pytest.mark.chaos
def test_a_diverging_trial_fails_alone_and_full_fine_tunes_sweep_too(world: World, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    sweep = {
        "name": "full",
        "base": world.words("adapter=none", "optim.duration=8 steps"),
        "space": {"optim.lr": "choice(1e-3, 1e30)"},
        "sampler": {"name": "grid"},
        "budget": {"trials": 2},
    }
    (tmp_path / "full.yaml").write_text(json.dumps(sweep))
    text = call(["sweep", str(tmp_path / "full.yaml"), "--home", str(home)], log)
    assert "best: full-00" in text
    with Ledger.open(home) as ledger:
        good, bad = ledger.runs(parent="full")
    assert (good.state, bad.state) == (RunState.FINISHED, RunState.FAILED)
    assert "the loss became" in bad.reason or "gradient norm became" in bad.reason
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(Path(good.folder) / "model").num_parameters() > 0
