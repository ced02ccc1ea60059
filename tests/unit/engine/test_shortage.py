"""Which errors mean that memory was not enough, and what an error no longer holds."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ftcluster.engine.shortage import forget_word, is_shortage, leave_word, let_go, word_left
from ftcluster.errors import TrialError

TOO_MUCH = 2**60


def caught(work: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - what it is, is what is tested
        work()
    return raised.value


def test_real_refusals_are_known() -> None:
    assert is_shortage(caught(lambda: torch.empty(TOO_MUCH, dtype=torch.uint8)))
    assert is_shortage(caught(lambda: bytearray(TOO_MUCH)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("unable to mmap 16 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        TrialError("RuntimeError: DefaultCPUAllocator: can't allocate memory", where="rank 1"),
        TrialError("MemoryError: MemoryError", where="rank 3"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_those_of_devices_and_of_other_ranks_too(error: BaseException) -> None:
    assert is_shortage(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.ENOSPC, "No space left on device"),
        TrialError("a step of several trials failed half-way: out of memory"),
        ValueError("out of memory"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_others_are_not(error: BaseException) -> None:
    assert not is_shortage(error)


def test_an_error_holds_nothing_of_its_frames_any_more() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        try:
            raise RuntimeError("first")
        except RuntimeError as error:
            raise ValueError("second") from error

    error = caught(work)
    assert held[0]() is not None
    let_go(error)
    assert held[0]() is None


def test_a_rank_leaves_word_until_it_is_forgotten(tmp_path: Path) -> None:
    assert word_left(tmp_path) == ""
    leave_word(tmp_path, 3, torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB."))
    assert word_left(tmp_path) == "rank 3: CUDA out of memory."
    forget_word(tmp_path)
    assert word_left(tmp_path) == ""
    leave_word(tmp_path / "gone", 1, MemoryError())
    assert word_left(tmp_path / "gone") == ""
