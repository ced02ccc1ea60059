"""``ftcluster train``: what is refused before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcluster.cli import main


def test_more_ranks_than_sound_gpus_are_refused_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpus.yaml").write_text("gpus: {GPU-a: {xids: [79]}, GPU-b: {}}")
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(tmp_path / "gpus.yaml"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    home = tmp_path / "home"
    assert main(["train", "experiment=lora_sft", "engine=zero3", "cluster.ranks=2", "--home", str(home)]) == 2
    told = capsys.readouterr().err
    assert "2 ranks need as many GPUs, and this machine has 1 to use" in told
    assert "GPU-a is left out: XID 79: the GPU has fallen off the bus" in told
    assert not home.exists()
