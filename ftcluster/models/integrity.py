"""The gate every saved adapter passes: what is on disk is whole, finite, of the right shapes, and has moved.

It reads the files back rather than looking at memory, since the failures it exists for (an adapter saved
empty from sharded weights, one saved before training, a full disk) only show there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ftcluster.errors import BadAdapter
from ftcluster.models.adapters import CONFIG, WEIGHTS

FILE = "integrity.json"


@dataclass(frozen=True)
class Integrity:
    """What the gate found; stored beside the adapter and with its registry version."""

    sha256: str  # of adapter_model.safetensors
    base_revision: str
    tensors: int
    parameters: int
    bytes: int


def check_adapter(
    folder: Path, *, shapes: dict[str, tuple[int, ...]] | None = None, base_revision: str = ""
) -> Integrity:
    """Read an adapter back on the CPU and refuse it unless it is sound; ``shapes`` are the live adapter's.

    Raises:
        BadAdapter: listing everything found wrong.
    """
    problems: list[str] = []
    tensors: dict[str, torch.Tensor] = {}
    path = folder / WEIGHTS
    try:
        config = json.loads((folder / CONFIG).read_text())
        if not isinstance(config, dict) or not config.get("r") or not config.get("target_modules"):
            problems.append(f"{CONFIG} names no rank or no target modules")
    except (OSError, ValueError) as error:
        problems.append(f"{CONFIG} cannot be read: {error}")
    try:
        tensors = load_file(path, device="cpu")
    except (OSError, SafetensorError) as error:
        problems.append(f"{WEIGHTS} cannot be read: {error}")
    else:
        problems += _faults(tensors, shapes)
    if problems:
        raise BadAdapter(
            "; ".join(problems), where=str(folder), remedy="nothing was kept of this save; see the trial's log"
        )
    return Integrity(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        base_revision=base_revision,
        tensors=len(tensors),
        parameters=sum(t.numel() for t in tensors.values()),
        bytes=path.stat().st_size,
    )


def _faults(tensors: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]] | None) -> list[str]:
    if not tensors:
        return ["the adapter is empty"]
    found = [f"{name} has no elements" for name, t in tensors.items() if t.numel() == 0]
    found += [f"{name} is not finite" for name, t in tensors.items() if not torch.isfinite(t).all()]
    # B starts at zero, so a B that is still zero was never trained, whatever the loss did.
    found += [f"{name} has not moved from zero" for name, t in tensors.items() if "lora_B" in name and not t.any()]
    if shapes is not None:
        missing, extra = shapes.keys() - tensors.keys(), tensors.keys() - shapes.keys()
        found += [f"{name} is missing" for name in sorted(missing)] + [
            f"{name} is unexpected" for name in sorted(extra)
        ]
        found += [
            f"{name} has shape {tuple(tensors[name].shape)}, expected {shape}"
            for name, shape in shapes.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
    return found


def write_integrity(folder: Path, integrity: Integrity) -> None:
    """Store the gate's findings beside the adapter."""
    (folder / FILE).write_text(json.dumps(asdict(integrity), indent=2) + "\n")


def read_integrity(folder: Path) -> Integrity:
    """Findings stored beside an adapter, after checking that its file still has that hash.

    Raises:
        BadAdapter: no findings, or the file changed since.
    """
    try:
        stored = Integrity(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise BadAdapter(
            f"no integrity record ({error})", where=str(folder), remedy="save the adapter again"
        ) from error
    now = check_adapter(folder, base_revision=stored.base_revision)
    if now.sha256 != stored.sha256:
        raise BadAdapter(
            f"the file's sha256 is {now.sha256[:12]}…, recorded was {stored.sha256[:12]}…",
            where=str(folder),
            remedy="the adapter was changed after it was saved; use an intact copy",
        )
    return stored
