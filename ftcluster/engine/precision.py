"""What numbers are made of: the dtype of the weights and of the matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ftcluster.errors import UsageError


@dataclass(frozen=True)
class Precision:
    """``weights`` is the dtype of the base; adapters and their optimizer state are fp32 at least."""

    weights: torch.dtype
    autocast: torch.dtype | None = None

    @property
    def name(self) -> str:
        """As a config says it."""
        return "bf16" if self.autocast else {torch.float32: "fp32", torch.float64: "fp64"}[self.weights]


def choose_device(wanted: str) -> torch.device:
    """``auto`` is CUDA where torch sees it.

    Raises:
        UsageError: CUDA is asked for and torch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        remedy = "engine.device=auto takes what there is; ftcluster doctor says what torch sees"
        raise UsageError("torch sees no CUDA device here", where="engine.device=cuda", remedy=remedy)
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device, *, full: bool) -> Precision:
    """``auto`` is bf16 products where the device has them natively, fp32 elsewhere.

    A full fine-tune keeps fp32 weights under bf16 products; a frozen base is stored in bf16.
    """
    if wanted == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        wanted = "bf16" if native else "fp32"
    return precision_of(wanted, full=full)


def precision_of(wanted: str, *, full: bool) -> Precision:
    """Of ``bf16``, ``fp32`` or ``fp64``, on any device."""
    if wanted == "bf16":
        return Precision(torch.float32 if full else torch.bfloat16, torch.bfloat16)
    return Precision({"fp32": torch.float32, "fp64": torch.float64}[wanted])
