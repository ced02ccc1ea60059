"""Which GPUs a training outside Ray keeps to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftcluster.cluster.sound import keep_to_sound_gpus
from ftcluster.errors import UsageError


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of three cards one has fallen off the bus, and somebody else is on another."""
    file = tmp_path / "gpus.yaml"
    file.write_text("gpus: {GPU-a: {xids: [79]}, GPU-b: {}, GPU-c: {processes: {'1': 30000000000}}}")
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(file))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "to be restored")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    return file


def test_it_sees_sound_ones_that_nobody_else_is_on_and_tells_of_the_others() -> None:
    told = keep_to_sound_gpus(1, "auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert [note.partition(":")[0] for note in told] == ["GPU GPU-a is left out", "GPU GPU-c is left out"]
    assert "fallen off the bus" in told[0]


def test_nothing_is_hidden_where_all_are_sound(script: Path) -> None:
    script.write_text("gpus: {GPU-a: {}, GPU-b: {temperature: 91}}")
    assert keep_to_sound_gpus(2, "cuda") == []
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_more_ranks_than_sound_gpus_are_refused_with_the_reasons() -> None:
    with pytest.raises(UsageError, match="2 ranks need as many GPUs, and this machine has 1 to use; GPU GPU-a is"):
        keep_to_sound_gpus(2, "auto")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_who_set_the_variable_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-c,GPU-b")
    assert keep_to_sound_gpus(2, "auto") == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-c,GPU-b"
    with pytest.raises(UsageError, match="this machine has 2 to use"):
        keep_to_sound_gpus(3, "auto")


def test_an_engine_on_a_cpu_does_not_look() -> None:
    assert keep_to_sound_gpus(8, "cpu") == []


def test_cards_divided_by_mig_and_machines_without_any_are_left_alone(script: Path) -> None:
    script.write_text("gpus: {GPU-a: {mig: true, slices: {MIG-1: 20000000000}}}")
    assert keep_to_sound_gpus(4, "auto") == []
    script.write_text("gpus: {}")
    assert keep_to_sound_gpus(4, "auto") == []
