"""What a training took is measured, and calibrates what is foretold of the next one: by a real one of more than 4 GiB.

Less than that is not measured on a CPU. It is nearly all activations: of a small model with wide layers.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from programs import call
from training_samples import World

from ftcluster.config.compose import compose
from ftcluster.contracts.folder import RunFolder
from ftcluster.errors import UsageError
from ftcluster.ledger.store import Ledger
from ftcluster.models.tiny import create_tiny_model
from ftcluster.sweep.forecast.fitting import Room, fit
from ftcluster.tracking.mlflow_store import tracking_uri
from ftcluster.training.bench import prepare_data
from ftcluster.training.memory_record import MemoryRecord, read_memory

pytestmark = pytest.mark.thorough

WORDS = (
    "adapter=none",
    "engine=local",
    "engine.device=cpu",
    "optim.batch_size=16",
    "optim.micro_batch=16",
    "optim.duration=1 epochs",
    "evaluation.every=1 epochs",
    "evaluation.max_rows=1",
    "data.max_length=512",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world, draw = World(tmp_path_factory.mktemp("world")), random.Random(5)
    numbers = [" ".join(str(draw.randint(100, 999)) for _ in range(110)) for _ in range(20)]
    rows = [{"question": "Say numbers.", "answer": answer} for answer in numbers]
    world.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"hidden_size": 32, "intermediate_size": 8192, "layers": 4, "heads": 2, "kv_heads": 1, "vocabulary": 300}
    create_tiny_model(world.model, numbers, **sizes)
    return world


@pytest.fixture(scope="module")
def home(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one training, which had room. In a process that begins with nothing, as its user's does."""
    home = tmp_path_factory.mktemp("home")
    words = world.arguments(home, *WORDS, "name=one", "cluster.memory_gib=16", "engine.threads=2")
    done = subprocess.run([sys.executable, "-m", "ftcluster", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return home


@pytest.fixture(scope="module")
def record(home: Path) -> MemoryRecord:
    return read_memory(home / "one")


def plan(world: World, home: Path, log: Path) -> Any:
    told = call(["plan", *world.words(*WORDS), f"home={home}", "--gpu-memory", "64GiB", "--json"], log)
    return json.loads(told[told.index("{\n") :])


def test_what_was_foretold_and_measured_stands_in_the_folder_of_the_run_and_in_mlflow(
    home: Path, record: MemoryRecord
) -> None:
    assert (record.engine, record.device, record.precision) == ("local", "cpu", "fp32")
    assert record.measured > 2**32
    assert record.measured == pytest.approx(record.predicted, rel=0.15)
    with Ledger.open(home) as ledger:
        row = ledger.get("one")
    tags = MlflowClient(tracking_uri(home, "")).get_run(row.mlflow_run_id).data.tags
    assert tags["ftcluster.memory_predicted_bytes"] == str(record.predicted)
    assert tags["ftcluster.memory_measured_bytes"] == str(record.measured)
    assert RunFolder(home / "one").model.is_dir()


def test_a_plan_of_another_run_in_the_home_is_multiplied_by_it(
    world: World, home: Path, record: MemoryRecord, tmp_path: Path
) -> None:
    before, after = plan(world, tmp_path / "other", tmp_path / "log"), plan(world, home, tmp_path / "log")
    factor = record.measured / record.predicted
    assert before["calibration"] == {"runs": 0, "factor": 1.0}
    assert after["calibration"] == {"runs": 1, "factor": factor}
    one, other = (found["chosen"]["bytes"]["on_gpu"] for found in (before, after))
    assert other == pytest.approx(factor * one, rel=1e-6)


def test_a_launch_and_a_trial_of_a_sweep_that_fit_but_for_the_calibration_are_refused(
    world: World, home: Path, record: MemoryRecord, tmp_path: Path
) -> None:
    assert record.measured > record.predicted
    limit = f"cluster.memory_gib={(record.measured + record.predicted) / 2 / 2**30}"
    words, log = (*WORDS, "name=two", limit, "--dry-run"), tmp_path / "log"
    call(world.arguments(tmp_path / "other", *words), log)
    told = call(world.arguments(home, *words), log, UsageError.exit_code)
    assert f"(calibrated by 1 run: x{record.measured / record.predicted:.2f})" in told
    assert "cluster.memory_gib: it would take " in told
    assert "by ftcluster plan this would fit: optim.micro_batch=" in told
    fits = []
    for place in (tmp_path / "other", home):
        config = compose(world.words(*WORDS, limit, f"home={place}"))
        room = Room(round(config.cluster.memory_gib * 2**30), "cluster.memory_gib")
        fits.append(fit(config, prepare_data(config), room).fits)
    assert fits == [True, False]
