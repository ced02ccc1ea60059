"""The training core on a machine that has torch, transformers and PEFT, but no Ray, MLflow, DeepSpeed or Optuna."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from importlib.machinery import PathFinder

ABSENT = {"ray", "mlflow", "deepspeed", "optuna", "plotly"}
there = PathFinder.find_spec
hidden = lambda name, *rest: None if name.partition(".")[0] in ABSENT else there(name, *rest)
PathFinder.find_spec = staticmethod(hidden)  # some libraries call it on an instance
from ftcluster.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_training_runs_to_its_end_and_keeps_its_records_for_later(tmp_path: Path) -> None:
    words = ["train", "experiment=smoke", "name=alone", "--home", str(tmp_path / "home")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "home/alone/adapter/adapter_model.safetensors").is_file()
    assert "records are not in MLflow yet" in done.stdout
