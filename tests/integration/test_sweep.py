"""A sweep as its user runs it, on embedded Ray and SQLite MLflow, disturbed and not.

The undisturbed sweep is the oracle: after a disturbance and a resume, states, steps and metrics of every trial
equal it to the last bit, and MLflow has one run per trial and each point once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from small_disk import mounted

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.models.tiny import create_tiny_model
from ftcluster.tracking.history import read_metrics

pytestmark = pytest.mark.slow

SWEEP = """
name: small
base:
  - experiment=lora_sft
  - model=folder
  - data=jsonl
  - data.format=question_answer
  - optim.duration=24 steps
  - optim.batch_size=4
  - optim.micro_batch=2
  - evaluation=loss
  - evaluation.every=4 steps
  - adapter.dropout=0.1
space:
  optim.lr: tag(log, interval(1e-4, 3e-2))
  adapter.rank: choice(2, 4)
sampler: {name: qmc, seed: 3}
pruner: {name: halving, first: 6 steps, eta: 2}
budget: {trials: 6}
metric: eval/loss
direction: minimize
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model, data and sweep file."""
    folder = tmp_path_factory.mktemp("sweeps")
    draw = random.Random(5)
    rows = [
        {"question": f"What is {a} plus {b}?", "answer": f"It is {a + b}."}
        for a, b in ((draw.randint(1, 99), draw.randint(1, 99)) for _ in range(200))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [" ".join(row.values()) for row in rows]
    create_tiny_model(folder / "model", texts, hidden_size=32, layers=2, heads=4, kv_heads=2, vocabulary=300)
    (folder / "small.yaml").write_text(SWEEP)
    return folder


def command(world: Path, home: Path, *words: str) -> list[str]:
    base = [f"model.path={world / 'model'}", f"data.train=[{world / 'rows.jsonl'}]"]
    return [sys.executable, "-m", "ftcluster", "sweep", str(world / "small.yaml"), *base, "--home", str(home), *words]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, as a terminal would give it, so that signals reach it alone."""
    with log.open("wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent)


def finish(process: subprocess.Popen[bytes], log: Path, expected: int = 0) -> str:
    code = process.wait(240)
    text = log.read_text()
    assert code == expected, text[-3000:]
    return text


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


Table = dict[str, tuple[str, int, dict[str, float], dict[str, list[tuple[int, float]]]]]


def outcome(home: Path, sweep: str = "small") -> Table:
    """Per trial: state, step, last metrics, and every training and held-out metric point."""
    with Ledger.open(home) as ledger:
        rows = ledger.runs(parent=sweep)
        assert ledger.get(sweep).state is RunState.FINISHED
    kept = ("train/loss", "train/lr", "train/grad_norm", "eval/loss", "eval/perplexity")
    return {
        row.name: (
            row.state.value,
            row.step,
            dict(row.metrics),
            {k: [(m.step, m.value) for m in v] for k, v in read_metrics(Path(row.folder)).items() if k in kept},
        )
        for row in rows
    }


def assert_mlflow_agrees(home: Path, sweep: str = "small") -> None:
    """One run per trial under one parent, all ended, each (metric, step) once and equal to the spool."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name(sweep)
    assert experiment is not None
    runs = {run.data.tags["ftcluster.run"]: run for run in client.search_runs([experiment.experiment_id])}
    with Ledger.open(home) as ledger:
        trials = ledger.runs(parent=sweep)
    assert len(client.search_runs([experiment.experiment_id])) == len(trials) + 1
    parent = runs.pop(sweep).info.run_id
    for trial in trials:
        run = runs.pop(trial.name)
        assert run.info.run_id == trial.mlflow_run_id
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status == "FINISHED"
        assert run.data.tags["ftcluster.state"] == trial.state.value
        assert run.data.params["adapter.rank"] == str(trial.overrides["adapter.rank"])
        assert {"train/loss", "eval/loss", "system/memory_mb"} <= run.data.metrics.keys()
        names = {a.path.rpartition("/")[2] for a in client.list_artifacts(run.info.run_id, "adapter")}
        assert {"adapter_config.json", "adapter_model.safetensors", "integrity.json"} <= names
        for name, points in read_metrics(Path(trial.folder)).items():
            there = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            assert sorted(there) == sorted((p.step, p.value) for p in points), f"{trial.name} {name}"
            assert max(Counter(step for step, _ in there).values()) == 1
    assert not runs


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
def undisturbed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table]:
    folder = tmp_path_factory.mktemp("undisturbed")
    home, log = folder / "home", folder / "log"
    text = finish(start(command(world, home), log), log)
    assert "best: small-" in text
    return home, outcome(home)


def test_a_sweep_prunes_promotes_and_finishes_with_one_run_per_trial(undisturbed: tuple[Path, Table]) -> None:
    home, table = undisturbed
    states = Counter(state for state, *_ in table.values())
    assert states == {"finished": 1, "pruned": 5}
    assert sorted(step for _, step, *_ in table.values()) == [6, 6, 6, 12, 12, 24]
    assert_mlflow_agrees(home)
    for name, (_, step, _, points) in table.items():
        assert [s for s, _ in points["train/loss"]] == list(range(1, step + 1)), name


def test_survivors_are_the_best_at_each_rung(undisturbed: tuple[Path, Table]) -> None:
    home, table = undisturbed
    with Ledger.open(home) as ledger:
        reports = ledger.reports("small")
    at_rung = {rung: sorted((r.metrics["eval/loss"], r.run) for r in reports if r.rung == rung) for rung in (0, 1)}
    assert {name for _, name in at_rung[0][:3]} == {name for name, (_, step, *_) in table.items() if step >= 12}
    assert at_rung[1][0][1] == next(name for name, (state, *_) in table.items() if state == "finished")


@pytest.mark.chaos
def test_where_memory_is_short_trials_wait_and_nothing_else_changes(
    world: Path, tmp_path: Path, undisturbed: tuple[Path, Table]
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    text = finish(start(command(world, home, "cluster.memory_gib=0.001"), log), log)
    assert "waits for a host that is less full: it needs " in text
    assert outcome(home) == undisturbed[1]
    assert_mlflow_agrees(home)


@pytest.mark.chaos
def test_ctrl_c_saves_everything_and_the_printed_command_resumes_to_the_same_result(
    world: Path, tmp_path: Path, undisturbed: tuple[Path, Table]
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
    again = [sys.executable, "-m", "ftcluster", *resume.split()[1:]]
    finish(start(again, log), log)
    assert outcome(home) == undisturbed[1]
    assert_mlflow_agrees(home)


@pytest.mark.chaos
@pytest.mark.parametrize("moment", [pytest.param("first stretch", marks=pytest.mark.thorough), "after a rung"])
def test_a_killed_driver_is_replaced_and_nothing_is_lost_or_doubled(
    world: Path, tmp_path: Path, undisturbed: tuple[Path, Table], moment: str
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
    again = [sys.executable, "-m", "ftcluster", "sweep", "resume", "small", "--home", str(home)]
    finish(start(again, log), log)
    assert outcome(home) == undisturbed[1]
    assert_mlflow_agrees(home)


@pytest.mark.chaos
def test_a_killed_host_is_replaced_and_its_trial_goes_on_from_its_checkpoint(
    world: Path, tmp_path: Path, undisturbed: tuple[Path, Table]
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    process = start(command(world, home), log)
    wait_for(lambda: any((home / "small").glob("*/checkpoints/step-*")), process, log)
    hosts = [p for p in psutil.Process(process.pid).children(recursive=True) if "_HostActor" in "".join(p.cmdline())]
    assert hosts
    hosts[0].kill()
    text = finish(process, log)
    assert "goes on from its newest checkpoint" in text
    assert outcome(home) == undisturbed[1]
    assert_mlflow_agrees(home)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 40 MB; needs the right to mount."""
    with mounted(tmp_path / "disk", "40m", lazily=True) as place:
        yield place


@pytest.mark.chaos
@pytest.mark.parametrize("patient", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_a_full_disk_stops_a_sweep_with_a_remedy_unless_it_is_emptied_soon_and_the_result_is_the_same(
    world: Path, tmp_path: Path, small_disk: Path, undisturbed: tuple[Path, Table], patient: bool
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
        again = [sys.executable, "-m", "ftcluster", "sweep", "resume", "small", "--home", str(home)]
        finish(start(again, tmp_path / "again"), tmp_path / "again")
    assert "Traceback" not in text
    assert str(home) in text
    assert outcome(home) == undisturbed[1]
    assert_mlflow_agrees(home)


@pytest.mark.chaos
def test_a_second_driver_on_the_same_sweep_is_refused_by_name(world: Path, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    words = ["budget.trials=2", "pruner.name=none", "optim.duration=100000 steps", "evaluation.every=100000 steps"]
    process = start(command(world, home, *words), log)
    wait_for(lambda: "running" in log.read_text(), process, log)
    second = [sys.executable, "-m", "ftcluster", "sweep", "resume", "small", "--home", str(home)]
    other = tmp_path / "other"
    text = finish(start(second, other), other, expected=6)
    assert "small is being run by" in text
    assert str(process.pid) in text
    process.send_signal(signal.SIGTERM)
    finish(process, log, expected=130)


@pytest.mark.chaos
def test_a_diverging_trial_fails_alone_and_full_fine_tunes_sweep_too(world: Path, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    words = ["adapter=none", "optim.lr=choice(1e-3, 1e30)", "budget.trials=2", "pruner.name=none", "sampler.name=grid"]
    (tmp_path / "full.yaml").write_text(
        SWEEP.replace("  adapter.rank: choice(2, 4)\n", "").replace("name: small", "name: full")
    )
    line = [w if not w.endswith("small.yaml") else str(tmp_path / "full.yaml") for w in command(world, home, *words)]
    text = finish(start(line, log), log)
    assert "best: full-00" in text
    with Ledger.open(home) as ledger:
        good, bad = ledger.runs(parent="full")
    assert (good.state, bad.state) == (RunState.FINISHED, RunState.FAILED)
    assert "the loss became" in bad.reason or "gradient norm became" in bad.reason
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(Path(good.folder) / "model").num_parameters() > 0
