"""Which layout of a training is the cheapest that fits, in one stated order, or what would fit instead.

Layouts are tried in the order of what they cost in time:

1. nothing moves to main memory; then the optimizer does; then the weights do too: PCIe and the CPU are slowest.
2. passes large enough to keep a GPU busy (1,024 tokens, or what was asked for if that is less); then smaller ones.
3. ZeRO stages 0 to 2, which send no more than plain data parallelism; then stage 3, which sends half as much again
   (Rajbhandari et al. 2020, section 7).
4. without activation checkpointing; then with it, which computes the forward pass twice: a third more work.
5. the largest pass; then halves of it. Of equal ones the lowest stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ftcluster.models.memory import Footprint, Layout, Offload, Training, footprint
from ftcluster.units import format_bytes

BUSY = 1024  # tokens of a pass that keep a GPU busy
OFFLOADS: tuple[Offload, ...] = ("none", "optimizer", "parameters")
_FULL: tuple[tuple[int, Offload], ...] = (
    *((stage, "none") for stage in range(4)),
    (2, "optimizer"),
    (3, "optimizer"),
    (3, "parameters"),
)
_LORA: tuple[tuple[int, Offload], ...] = ((0, "none"), (3, "none"), (3, "parameters"))
_RESERVED, _FRAGMENTED = 2**30, 0.05  # CUDA's context and library workspaces; gaps between allocations. Assumed.
GPU_GIB = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192)  # sizes one can buy or rent
_GPUS_AT_MOST = 1024


@dataclass(frozen=True)
class Wishes:
    """What is asked for: rows of a pass of each GPU, and what the search must keep to; None leaves it free."""

    rows: int
    stage: int | None = None
    offload: Offload | None = None
    checkpointing: bool | None = None


@dataclass(frozen=True)
class Choice:
    """A layout, what it takes, and why it was taken."""

    layout: Layout
    footprint: Footprint
    reasons: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return describe(self.layout)


def room(memory: int) -> int:
    """What tensors may take of a GPU's memory."""
    return max(0, round(memory * (1 - _FRAGMENTED)) - _RESERVED)


def memory_with_room(wanted: int) -> int:
    """The memory of a GPU in which tensors may take that much; of other devices nothing is kept back."""
    return round((wanted + _RESERVED) / (1 - _FRAGMENTED))


def layouts(training: Training, gpus: int, wishes: Wishes) -> list[Layout]:
    """All that obey the wishes, cheapest first (see the module); empty if the wishes rule each other out.

    On one GPU sharding alone wins nothing, and adapters are too small to shard: both are left out unless asked for.
    """
    found = [
        Layout(gpus, stage, offload, checkpointing, rows)
        for stage, offload in (_LORA if training.adapter else _FULL)
        if gpus > 1 or stage == 0 or offload != "none" or wishes.stage == stage
        if wishes.stage in (None, stage) and wishes.offload in (None, offload)
        for checkpointing in (False, True)
        if wishes.checkpointing in (None, checkpointing)
        for rows in _fewer(wishes.rows)
    ]
    busy = min(BUSY, wishes.rows * training.length)

    def cost(layout: Layout) -> tuple[int, bool, bool, bool, int, int]:
        small = layout.rows * training.length < busy
        at = OFFLOADS.index(layout.offload)
        return at, small, layout.stage == 3, layout.checkpointing, -layout.rows, layout.stage

    return sorted(found, key=cost)


def choose(training: Training, memory: int, gpus: int, wishes: Wishes) -> Choice | None:
    """The cheapest layout for ``gpus`` GPUs of ``memory`` bytes; None if none fits."""
    passed: list[Choice] = []
    for layout in layouts(training, gpus, wishes):
        made = Choice(layout, footprint(training, layout))
        if made.footprint.on_gpu <= room(memory):
            return replace(made, reasons=tuple(_reasons(made, passed, memory)))
        passed.append(made)
    return None


def _fewer(rows: int) -> list[int]:
    """Divisors of a number, so that micro-batches stay equal: itself, then each time half at most."""
    at_most_half = next((size for size in range(rows // 2, 0, -1) if rows % size == 0), 0)
    return [rows, *(_fewer(at_most_half) if at_most_half else [])]


def _reasons(made: Choice, passed: Sequence[Choice], memory: int) -> Iterator[str]:
    """What cheaper layouts would have needed, one sentence for each way in which this one saves memory."""
    layout = made.layout
    ways: dict[str, Callable[[Layout], bool]] = {
        "without main memory": lambda other: other.offload == "none" and layout.offload != "none",
        f"with a stage below {layout.stage}": lambda other: other.stage < layout.stage,
        "without activation checkpointing": lambda other: layout.checkpointing and not other.checkpointing,
        "with more rows in a pass": lambda other: other.rows > layout.rows,
    }
    if not passed:
        yield "nothing has to be saved, so this is the fastest way"
    for words, saves in ways.items():
        if needs := [other.footprint.on_gpu for other in passed if saves(other.layout)]:
            can = format_bytes(room(memory))
            yield f"{words} it takes {format_bytes(min(needs))} at least, and {can} of a GPU can be used"


def describe(layout: Layout) -> str:
    """In a few words."""
    words = [f"ZeRO-{layout.stage}"] if layout.sharded else ["one GPU on its own"]
    if layout.offload != "none":
        words.append({"optimizer": "optimizer in main memory", "parameters": "weights in main memory"}[layout.offload])
    if layout.checkpointing:
        words.append("activation checkpointing")
    words.append(f"{layout.rows} {'row' if layout.rows == 1 else 'rows'} in a pass of each GPU")
    return ", ".join(words)


def what_would_fit(training: Training, memory: int, gpus: int, wishes: Wishes) -> list[str]:
    """Changes of one thing each with which the training fits; empty if none of them is enough."""
    found = [_more_gpus, _larger_gpus, _free_hand, _shorter_rows, _smaller_rank]
    return [text for way in found if (text := way(training, memory, gpus, wishes))]


def _more_gpus(training: Training, memory: int, gpus: int, wishes: Wishes) -> str:
    more = gpus
    while (more := 2 * more) <= _GPUS_AT_MOST:
        # the same rows for each step, on more GPUs
        rows = max(1, -(-wishes.rows * gpus // more))
        if made := choose(training, memory, more, replace(wishes, rows=rows)):
            return f"{more} GPUs of {format_bytes(memory)}: {made.words}"
    return ""


def _larger_gpus(training: Training, memory: int, gpus: int, wishes: Wishes) -> str:
    for size in GPU_GIB:
        if size * 2**30 > memory and (made := choose(training, size * 2**30, gpus, wishes)):
            what = "a GPU" if gpus == 1 else f"{gpus} GPUs"
            return f"{what} of {size} GiB: {made.words}"
    return ""


def _free_hand(training: Training, memory: int, gpus: int, wishes: Wishes) -> str:
    free = Wishes(wishes.rows)
    made = choose(training, memory, gpus, free) if wishes != free else None
    return f"the same GPUs, left to choose: {made.words}" if made else ""


def _shorter_rows(training: Training, memory: int, gpus: int, wishes: Wishes) -> str:
    length = training.length
    while (length := length // 2) >= 64:
        if made := choose(replace(training, length=length), memory, gpus, wishes):
            return f"data.max_length={length}: {made.words}"
    return ""


def _smaller_rank(training: Training, memory: int, gpus: int, wishes: Wishes) -> str:
    for parts in (2, 4, 8, 16):
        smaller = replace(training, adapter=training.adapter // parts, adapter_state=training.adapter_state // parts)
        if smaller.adapter and (made := choose(smaller, memory, gpus, wishes)):
            return f"adapter.rank divided by {parts}: {made.words}"
    return ""
