"""Which numbers a run computes with."""

from __future__ import annotations

import pytest
import torch

from ftcluster.engine.precision import Precision, choose_device, choose_precision
from ftcluster.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("full", [True, False])
def test_a_cpu_computes_in_fp32_unless_told_otherwise(full: bool) -> None:
    assert choose_precision("auto", CPU, full=full) == Precision(torch.float32)
    assert choose_precision("fp64", CPU, full=full) == Precision(torch.float64)


def test_bf16_stores_a_frozen_base_in_bf16_but_trains_fp32_weights() -> None:
    assert choose_precision("bf16", CUDA, full=False) == Precision(torch.bfloat16, torch.bfloat16)
    assert choose_precision("bf16", CUDA, full=True) == Precision(torch.float32, torch.bfloat16)


def test_a_device_is_what_was_asked_for_or_what_is_there() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.gpu
def test_a_gpu_with_bf16_uses_it() -> None:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = Precision(torch.bfloat16, torch.bfloat16) if native else Precision(torch.float32)
    assert choose_precision("auto", torch.device("cuda"), full=False) == wanted


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match="torch sees no CUDA device here") as caught:
        choose_device("cuda")
    assert "engine.device=auto" in caught.value.remedy
