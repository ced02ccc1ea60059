"""GPUs from a file: defaults, faults written while something runs, and every mistake told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcluster.cluster.health import judge
from ftcluster.cluster.inventory import GpuProcess, GpuSlice, Links, RemappedRows
from ftcluster.cluster.nvml import NvmlProbe
from ftcluster.cluster.probe import chosen_probe
from ftcluster.cluster.scripted import ScriptedProbe
from ftcluster.errors import ConfigError


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "gpus.yaml"


def test_a_card_without_a_word_is_healthy_and_idle(script: Path) -> None:
    script.write_text("gpus: {GPU-a: {}, GPU-b: {}}")
    reading = ScriptedProbe(script).read()
    assert [(gpu.index, gpu.uuid) for gpu in reading.gpus] == [(0, "GPU-a"), (1, "GPU-b")]
    assert all(judge(gpu).state == "ok" for gpu in reading.gpus)
    assert reading.gpus[0].links == Links(18, 18)


def test_json_is_read_as_well(script: Path) -> None:
    script.write_text('{"driver": "1.2", "gpus": {"GPU-a": {"xids": [79], "processes": {"12": 34}}}}')
    reading = ScriptedProbe(script).read()
    assert reading.driver == "1.2"
    assert reading.gpus[0].xids == (79,)
    assert reading.gpus[0].processes == (GpuProcess(12, 34),)


def test_everything_can_be_said(script: Path) -> None:
    script.write_text("gpus: {GPU-a: {remapped_rows: {pending: true}, mig: true, slices: {MIG-x: 5}, links: [1, 2]}}")
    (gpu,) = ScriptedProbe(script).read().gpus
    assert gpu.remapped_rows == RemappedRows(pending=True)
    assert gpu.slices == (GpuSlice("MIG-x", 5, 0),)
    assert gpu.links == Links(1, 2)


def test_a_silent_reading_is_none_and_a_lost_card_tells_nothing(script: Path) -> None:
    script.write_text("gpus: {GPU-a: {silent: [power, links]}, GPU-b: {problem: GPU is lost}}")
    quiet, lost = ScriptedProbe(script).read().gpus
    assert (quiet.power, quiet.links) == (None, None)
    assert quiet.temperature is not None
    assert (lost.problem, lost.memory_total) == ("GPU is lost", None)


def test_a_fault_can_be_written_while_something_runs(script: Path) -> None:
    probe = ScriptedProbe(script)
    script.write_text("gpus: {GPU-a: {}}")
    assert judge(probe.read().gpus[0]).state == "ok"
    script.write_text("gpus: {GPU-a: {xids: [94]}}")
    assert judge(probe.read().gpus[0]).state == "unusable"


def test_a_machine_without_gpus_has_its_reason(script: Path) -> None:
    script.write_text("problem: no NVIDIA driver on this machine")
    reading = ScriptedProbe(script).read()
    assert (reading.gpus, reading.problem) == ((), "no NVIDIA driver on this machine")


def test_every_mistake_is_told(script: Path) -> None:
    script.write_text("gpus:\n  GPU-a: {temprature: 3}\n  GPU-b: {power: much}\n")
    with pytest.raises(ConfigError) as caught:
        ScriptedProbe(script).read()
    text = str(caught.value)
    assert f"{script}:2: gpus.GPU-a.temprature is not a known key." in text
    assert "gpus.GPU-b.power=much: expected a number, got text." in text


def test_values_that_no_card_has_are_told(script: Path) -> None:
    script.write_text("gpus: {GPU-a: {silent: [powr], links: [1], processes: {me: 1}}}")
    with pytest.raises(ConfigError) as caught:
        ScriptedProbe(script).read()
    assert caught.value.problems == [
        "gpus.GPU-a.silent: powr is no reading. Did you mean power?",
        "gpus.GPU-a.processes: me is no process id.",
        "gpus.GPU-a.links: expected two numbers.",
    ]
    assert str(script) in str(caught.value)


def test_the_environment_chooses_the_probe(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTCLUSTER_GPU_PROBE", raising=False)
    assert isinstance(chosen_probe(), NvmlProbe)
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(script))
    assert isinstance(chosen_probe(), ScriptedProbe)
