"""Which cards must not be used, and what to do about them."""

from __future__ import annotations

import pytest

from ftcluster.cluster.health import (
    HOT,
    IDLE,
    OCCUPIED,
    RECOVERY_ACTIONS,
    XIDS,
    Unusable,
    idle_gpus,
    judge,
    unusable_gpus,
)
from ftcluster.cluster.inventory import Gpu, GpuProcess, GpuReading, Links, RemappedRows


def card(**told: object) -> Gpu:
    return Gpu(3, "GPU-d", **told)  # type: ignore[arg-type]


def test_a_card_that_tells_nothing_is_fine() -> None:
    assert judge(card()).state == "ok"
    assert (judge(card()).reason, judge(card()).remedy) == ("", "")


@pytest.mark.parametrize("xid", XIDS)
def test_these_xids_end_the_use_of_a_card(xid: int) -> None:
    health = judge(card(xids=(31, xid)))
    assert health.state == "unusable"
    assert health.reason == f"XID {xid}: {XIDS[xid]}"
    assert "nvidia-smi --gpu-reset -i 3" in health.remedy


def test_an_xid_that_a_program_caused_does_not() -> None:
    assert judge(card(xids=(13, 31, 43))).state == "ok"


@pytest.mark.parametrize("action", range(1, len(RECOVERY_ACTIONS)))
def test_what_the_driver_asks_for_is_the_remedy(action: int) -> None:
    health = judge(card(recovery_action=action, xids=(79,)))
    assert health.state == "unusable"
    assert health.remedy == f"the driver asks to: {RECOVERY_ACTIONS[action]}"


def test_an_action_of_a_newer_driver_counts_too() -> None:
    assert judge(card(recovery_action=99)).remedy == "the driver asks to: recovery action 99 of NVML"


@pytest.mark.parametrize(
    ("told", "part"),
    [
        ({"remapped_rows": RemappedRows(pending=True)}, "waits to be replaced"),
        ({"remapped_rows": RemappedRows(failed=True, pending=True)}, "no spare row"),
        ({"uncorrectable_errors": 1}, "1 memory error that"),
        ({"uncorrectable_errors": 2}, "2 memory errors that"),
        ({"problem": "GPU is lost"}, "it does not answer: GPU is lost"),
    ],
)
def test_broken_memory_and_lost_cards_are_unusable(told: dict[str, object], part: str) -> None:
    health = judge(card(**told))
    assert health.state == "unusable"
    assert part in health.reason
    assert all(reason.fault and reason.remedy for reason in health.unusable)


def test_rows_that_were_replaced_are_history() -> None:
    assert judge(card(remapped_rows=RemappedRows(corrected=3, uncorrected=1))).state == "ok"


def test_a_card_somebody_else_computes_on_is_not_used_and_not_broken() -> None:
    health = judge(card(processes=(GpuProcess(7, OCCUPIED, "python3", "ada", ours=False),)))
    assert health.state == "unusable"
    assert health.reason == "occupied by python3 of ada (pid 7, 256.0 MiB)"
    assert not any(reason.fault for reason in health.unusable)


@pytest.mark.parametrize(
    "process",
    [
        GpuProcess(7, 2**34, ours=True),
        GpuProcess(7, 2**34, ours=None),  # perhaps our own, seen from inside a container
        GpuProcess(7, OCCUPIED - 1, ours=False),  # a desktop
    ],
)
def test_our_own_unknown_and_small_processes_do_not_occupy_a_card(process: GpuProcess) -> None:
    assert judge(card(processes=(process,))).state == "ok"


def test_a_stranger_whose_memory_is_not_told_does() -> None:
    assert judge(card(processes=(GpuProcess(7, None, ours=False),))).reason == "occupied by a process (pid 7)"


def test_memory_that_nobody_seen_holds_is_a_warning() -> None:
    assert judge(card(memory_total=100, memory_used=51)).state == "warn"
    assert judge(card(memory_total=100, memory_used=50)).state == "ok"
    ours = (GpuProcess(7, 90, ours=True),)
    assert judge(card(memory_total=100, memory_used=90, processes=ours)).state == "ok"


@pytest.mark.parametrize(
    ("told", "part"),
    [
        ({"temperature": HOT}, "87 degrees"),
        ({"temperature": 80.0, "temperature_limit": 80.0}, "80 degrees, it slows down at 80"),
        ({"slowdowns": ("hardware slowdown", "power cap")}, "slowed down: hardware slowdown"),
        ({"links": Links(15, 18)}, "3 of 18 NVLinks are down"),
    ],
)
def test_what_makes_a_card_slow_is_a_warning(told: dict[str, object], part: str) -> None:
    health = judge(card(**told))
    assert health.state == "warn"
    assert part in health.reason
    assert health.remedy


def test_full_load_and_a_missing_bridge_are_normal() -> None:
    assert judge(card(slowdowns=("power cap",), links=Links(0, 4), temperature=HOT - 1)).state == "ok"


def test_the_unusable_cards_of_a_machine_are_listed_with_their_reasons() -> None:
    reading = GpuReading((Gpu(0, "GPU-a"), Gpu(1, "GPU-b", xids=(79,)), Gpu(2, "", problem="GPU is lost")))
    assert unusable_gpus(reading) == (
        Unusable(1, "GPU-b", "XID 79: the GPU has fallen off the bus"),
        Unusable(2, "", "it does not answer: GPU is lost"),
    )


def test_only_whole_sound_cards_without_work_are_idle() -> None:
    reading = GpuReading(
        (
            Gpu(0, "GPU-a", memory_used=IDLE - 1),
            Gpu(1, "GPU-b", memory_used=IDLE),
            Gpu(2, "GPU-c", recovery_action=1),
            Gpu(3, "GPU-d", mig=True),
            Gpu(4, ""),
        )
    )
    assert idle_gpus(reading) == ["GPU-a"]
