"""How much memory training takes, measured: the peak of a piece of work, what passes need, what is free."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.packed.engine import PackedEngine

_SLOT = 2**31 - 1  # of the trial that probes
_TELLING = 2**32  # bytes by which a process must have grown for that to tell of its tensors: 250 MiB are its libraries'
_GROUP = Path("/sys/fs/cgroup")  # limits of a container


@dataclass(frozen=True)
class Passes:
    """Bytes that a training pass holds at most, beside weights and adapters: some always, some for each token."""

    always: float
    per_token: float

    def of(self, tokens: int) -> int:
        """Of a pass of that many tokens."""
        return round(self.always + self.per_token * tokens)


def measure_passes(engine: PackedEngine, adapter: AdapterSettings, longest: int) -> Passes:
    """Two passes of a made-up trial, one three times as long as the other; ``longest`` tokens have its documents."""
    engine.open(TrialOpening(_SLOT, 0, OptimizerSettings(), adapter))
    try:
        one, three = (peak(partial(_pass, engine, count, longest), engine.base.device) for count in (1, 3))
    finally:
        engine.close(_SLOT)
    per_token = (three - one) / (2 * longest)
    return Passes(max(0.0, one - per_token * longest), max(0.0, per_token))


def _pass(engine: PackedEngine, documents: int, longest: int) -> None:
    tokens_T = torch.zeros(documents * longest, dtype=torch.int64)
    positions_T = torch.arange(longest).repeat(documents)
    batch = Batch(
        tokens_T,
        tokens_T,
        (positions_T < longest - 1).float(),
        positions_T,
        (longest,) * documents,
        (_SLOT,) * documents,
    )
    engine.forward_backward(batch, {_SLOT: float(len(tokens_T))}, {_SLOT: (0, 0)})


def peak(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors that lived at once and were made by ``work``, on the device it runs on."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    counting = Counting()
    with counting:
        work()
    return counting.most


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self.now: int = 0
        self._known: dict[int, object] = {}

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        arguments: Any = (),
        options: Any = None,
    ) -> Any:
        options = options or {}
        given = {storage._cdata for storage in _storages((arguments, options))}
        made = function(*arguments, **options)
        for storage in _storages(made):
            key = storage._cdata
            if key not in given and key not in self._known:
                self._known[key] = weakref.finalize(storage, self._freed, key, storage.nbytes())
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
        return made

    def _freed(self, key: int, size: int) -> None:
        del self._known[key]
        self.now -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def watch_memory(device: torch.device, *, warm: bool) -> Callable[[], int] | None:
    """From now on: a function that tells the most bytes held at once. For who is alone in its process.

    On a GPU those of tensors. On a CPU by how much the process grew, which says nothing once a base is loaded
    (``warm``), and little where little is trained: 0 below 4 GiB.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return partial(torch.cuda.max_memory_allocated, device)
    if warm:
        return None
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the highest moment so far is forgotten
        before = _highest()
    except (OSError, ValueError):
        return None
    return lambda: grown if (grown := _highest() - before) >= _TELLING else 0


def _highest() -> int:
    """Bytes of this process at its highest moment."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def free(device: torch.device, limit: int = 0) -> int:
    """Bytes this process may still take; ``limit`` is what it may have in all, 0 for what the machine has."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        left, used = torch.cuda.mem_get_info(device)[0] + reserved, torch.cuda.memory_allocated(device)
    else:
        left, used = min(psutil.virtual_memory().available, _left_in_group()), psutil.Process().memory_info().rss
    return int(min(left, limit - used) if limit else left)


def _left_in_group() -> int:
    """What a container has left, as far as that is known."""
    try:
        return int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such limit: the file says "max", or is not there
        return psutil.virtual_memory().total
