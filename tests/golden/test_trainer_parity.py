"""ftcluster's engine and loop draw the loss curve of transformers' Trainer, in fp64 to the ninth digit."""

from __future__ import annotations

import pytest
import torch
from trainer_peer import Setting, run_ftcluster, run_trainer, set_up

pytestmark = pytest.mark.slow
STEPS = 12


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    torch.set_num_threads(1)
    return set_up(tmp_path_factory.mktemp("parity"), None, hidden=32, layers=2, vocabulary=400, steps=STEPS)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_the_loss_curve_equals_the_trainers(setting: Setting, full: bool) -> None:
    ours = run_ftcluster(setting, torch.float64, full=full)
    theirs = run_trainer(setting, torch.float64, full=full)
    assert len(ours.losses) == len(theirs.losses) == STEPS
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-9)
    assert ours.losses[-1] < ours.losses[0]
    assert ours.tokens < theirs.tokens, "the Trainer pads, a stream does not"
