"""GPUs as the driver sees them; a machine without a driver is no error.

Where there is no GPU, a library of our own answers in the driver's place, below the real pynvml.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
from made_up_driver import MadeUpDriver

from ftcluster.cluster.health import judge, unusable_gpus
from ftcluster.cluster.inventory import Gpu, GpuProcess, GpuReading, GpuSlice, Links, RemappedRows
from ftcluster.cluster.machine import with_owners
from ftcluster.cluster.nvml import NvmlProbe

HAS_DRIVER = shutil.which("nvidia-smi") is not None
LOST = "!15"  # NVML_ERROR_GPU_IS_LOST
SOUND_GPU = Gpu(
    index=0,
    uuid="GPU-0",
    name="NVIDIA H100 80GB HBM3",
    memory_total=85_520_809_984,
    memory_used=2**30,
    compute_capability=(9, 0),
    utilization=0.37,
    temperature=41,
    temperature_limit=87,
    power=312.5,
    power_limit=700.0,
    slowdowns=("power cap",),
    uncorrectable_errors=0,
    remapped_rows=RemappedRows(),
    recovery_action=0,
    links=Links(4, 4),
    mig=False,
    processes=(),
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> MadeUpDriver:
    return MadeUpDriver(tmp_path_factory.mktemp("driver"))


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
def test_without_a_driver_there_are_no_gpus_and_one_sentence_why() -> None:
    assert NvmlProbe().read() == GpuReading(problem="no NVIDIA driver on this machine")


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
def test_without_a_driver_nothing_is_heard_and_listening_may_end() -> None:
    with NvmlProbe() as probe:
        assert probe.read().gpus == ()
    assert probe.read().gpus == ()


def test_all_that_a_driver_tells_of_two_sound_cards_is_read(driver: MadeUpDriver) -> None:
    driver.says({}, {})
    reading = driver.read()
    assert reading == GpuReading((SOUND_GPU, replace(SOUND_GPU, index=1, uuid="GPU-1")), "580.95.05")
    assert unusable_gpus(reading) == ()


def test_what_a_card_does_not_support_is_not_told_and_not_held_against_it(driver: MadeUpDriver) -> None:
    names = (
        *("MemoryInfo", "UtilizationRates", "CudaComputeCapability", "Temperature.0", "TemperatureThreshold.1"),
        *("PowerUsage", "EnforcedPowerLimit", "CurrentClocksEventReasons", "TotalEccErrors.1.0", "RemappedRows"),
        *("Field.230", "NvLinkState", "MigMode", "ComputeRunningProcesses"),
    )
    driver.says(dict.fromkeys(names))
    (gpu,) = driver.read().gpus
    assert gpu == Gpu(0, "GPU-0", "NVIDIA H100 80GB HBM3")
    assert judge(gpu).state == "ok"


@pytest.mark.parametrize(
    ("answers", "state", "reason", "remedy"),
    [
        ({"TotalEccErrors.1.0": 2}, "unusable", "2 memory errors that could not be corrected", "--gpu-reset -i 0"),
        ({"RemappedRows": "3 1 1 0"}, "unusable", "a broken row of its memory waits to be replaced", "--gpu-reset"),
        ({"RemappedRows": "0 9 0 1"}, "unusable", "no spare row was left for a broken one", "have the card replaced"),
        ({"Field.230": 4}, "unusable", "it has failed", "end what runs on this GPU, then reset it"),
        ({"PowerUsage": "!16"}, "unusable", "it does not answer: the driver says: GPU requires restart", "dmesg"),
        ({"Temperature.0": 88}, "warn", "88 degrees, it slows down at 87", "air flow"),
        ({"CurrentClocksEventReasons": 0xC8}, "warn", "hardware slowdown, hardware thermal slowdown, power", "fans"),
        ({"NvLinkState": "1 1 0 1"}, "warn", "1 of 4 NVLinks are down", "nvidia-smi nvlink --status"),
        ({"NvLinkState": "0 0 0 0"}, "ok", "", ""),
        ({"CurrentClocksEventReasons": 0x3}, "ok", "", ""),  # idle, and clocks that somebody chose
        ({"Field.230": "!3", "TotalEccErrors.1.0": "!22"}, "ok", "", ""),
    ],
)
def test_what_a_driver_tells_of_a_sick_card_reaches_the_judgement(
    driver: MadeUpDriver, answers: dict[str, object], state: str, reason: str, remedy: str
) -> None:
    driver.says(answers)
    health = judge(driver.read().gpus[0])
    assert (health.state, bool(health.reason)) == (state, bool(reason))
    assert reason in health.reason
    assert remedy in health.remedy


def test_a_card_in_mig_has_its_devices_and_their_memory(driver: MadeUpDriver) -> None:
    driver.says(
        {"MigMode": "1 1", "UtilizationRates": None, "MaxMigDeviceCount": 7},
        part_0={"UUID": "MIG-a", "MemoryInfo": "40000000000 500000000"},
        part_2={"UUID": "MIG-c"},
    )
    (gpu,) = driver.read().gpus
    assert gpu.mig is True
    assert gpu.utilization is None
    assert gpu.slices == (GpuSlice("MIG-a", 40_000_000_000, 500_000_000), GpuSlice("MIG-c"))


@pytest.mark.parametrize("answers", [{"Handle": LOST}, dict.fromkeys(("UUID", "Name", "Temperature.0"), LOST)])
def test_a_card_that_is_lost_is_listed_and_those_beside_it_are_read(
    driver: MadeUpDriver, answers: dict[str, object]
) -> None:
    driver.says(answers, {})
    lost, sound = driver.read().gpus
    assert lost.problem == "the driver says: GPU is lost"
    assert judge(lost).reason == "it does not answer: the driver says: GPU is lost"
    assert sound == replace(SOUND_GPU, index=1, uuid="GPU-1")


def test_processes_are_told_with_their_memory_where_the_driver_knows_it(driver: MadeUpDriver) -> None:
    driver.says({"ComputeRunningProcesses": f"{os.getpid()} 9000000000 4711 -1"})
    reading = driver.read()
    assert reading.gpus[0].processes == (GpuProcess(os.getpid(), 9_000_000_000), GpuProcess(4711))
    (occupied,) = unusable_gpus(with_owners(reading, ()))
    assert f"(pid {os.getpid()}, 8.4 GiB)" in occupied.reason


def test_xids_are_heard_while_somebody_listens_and_kept(driver: MadeUpDriver) -> None:
    driver.says({}, {}, driver={"Events": "0 31"})
    with driver.listening() as read:
        assert [gpu.xids for gpu in read().gpus] == [(), ()], "that was before"
        driver.says({}, {}, driver={"Events": "0 31 1 48 1 13"})
        assert [gpu.xids for gpu in read().gpus] == [(), (48, 13)]
        driver.says({}, {}, driver={"Events": "0 31 1 48 1 13 0 94"})
        first, second = read().gpus
    assert judge(first).reason == "XID 94: a memory error that was contained"
    assert judge(second).reason == "XID 48: a memory error that could not be corrected"


def test_a_card_that_is_lost_meanwhile_keeps_its_name_and_its_xid(driver: MadeUpDriver) -> None:
    driver.says({}, {})
    with driver.listening() as read:
        read()
        lost = dict.fromkeys(("Handle", "UUID"), LOST)
        driver.says(lost, {}, driver={"Events": "0 79 1 45"})
        first, second = read().gpus
    assert (first.uuid, first.xids, first.problem) == ("GPU-0", (79,), "the driver says: GPU is lost")
    assert (second.xids, judge(second).state) == ((45,), "ok")


def test_a_card_that_is_lost_before_leaves_the_others_heard(driver: MadeUpDriver) -> None:
    driver.says({"Handle": LOST}, {}, {"RegisterEvents": "!3"})
    with driver.listening() as read:
        driver.says({"Handle": LOST}, {}, {}, driver={"Events": "1 48 2 48"})
        assert [gpu.xids for gpu in read().gpus] == [(), (48,), ()]


def test_a_driver_without_events_is_read_and_left_as_it_was(driver: MadeUpDriver) -> None:
    driver.says({}, driver={"EventSet": "!3"})
    assert driver.read().gpus == (SOUND_GPU,)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"Init": "!9"}, "Driver Not Loaded"),
        ({"Init": "!18"}, "RM has detected an NVML/RM version mismatch."),
        ({"Init": "!27"}, "error 27"),  # unknown to pynvml, which asks the library
        ({"Count": "!999"}, "Unknown Error"),
    ],
)
def test_a_driver_that_does_not_answer_says_why(driver: MadeUpDriver, answers: dict[str, object], problem: str) -> None:
    driver.says({}, driver=answers)
    assert driver.read() == GpuReading(problem=f"the NVIDIA driver does not answer: {problem}")


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_DRIVER, reason="needs an NVIDIA GPU")
def test_every_gpu_has_a_uuid_memory_and_a_capability_and_is_sound() -> None:
    with NvmlProbe() as probe:
        reading = probe.read()
    assert reading.problem == ""
    assert reading.driver
    assert reading.gpus
    for gpu in reading.gpus:
        assert gpu.uuid.startswith("GPU-")
        assert gpu.memory_used is not None
        assert gpu.memory_total is not None
        assert 0 <= gpu.memory_used <= gpu.memory_total
        assert gpu.compute_capability is not None
        assert gpu.compute_capability >= (5, 0)
        assert gpu.temperature is None or 0 < gpu.temperature < 120
        assert gpu.xids == ()
        assert not [reason for reason in judge(gpu).unusable if reason.fault]
