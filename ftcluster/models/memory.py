"""How many bytes a training takes on each GPU: arithmetic over counts, before any weight is loaded.

    on a GPU = weights + gradients + optimizer + adapter + buffers + the larger of (a pass, a step)

What a full fine-tune holds all the time, for P numbers on N GPUs with weights of w bytes each, w = 2 in bf16, follows
ZeRO (Rajbhandari et al. 2020, section 3); AdamW has fp32 masters and two moments, so 16 bytes for each number in bf16:

    stage       weights   gradients   optimizer     sent for each step
    0           w P       w P         12 P          2 P numbers
    1           w P       w P         12 P / N      2 P
    2           w P       w P / N     12 P / N      2 P
    3           w P / N   w P / N     12 P / N      3 P

Weights that are fp32 (w = 4, as under autocast) are their own masters: 8 P of optimizer. At stages 1 and 2, and in main
memory, DeepSpeed keeps masters apart all the same. With LoRA a frozen base has neither gradients nor optimizer state;
stage 3 shards the base, and the adapter lies whole on every GPU.

A pass holds what its layers keep for their gradients (Korthikanti et al. 2022 count it for GPT: a line in the tokens,
since attention keeps no scores), and for a moment what one layer, or the head, needs to compute them. The numbers of
those lines come from outside; see ``training.rehearsal``. ``parallel`` chooses between layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, Literal

from transformers.modeling_layers import GradientCheckpointingLayer

from ftcluster.models.size import parameters
from ftcluster.models.targets import linear_layers

Offload = Literal["none", "optimizer", "parameters"]

# Numbers in DeepSpeed's buffers: reduce_bucket_size and allgather_bucket_size as our engine sets them (two of the first
# where sending overlaps with computing); stage3_max_live_parameters and sub_group_size are DeepSpeed's defaults.
BUCKET, BUCKETS, LIVE, SUBGROUP = 50_000_000, 3, 1_000_000_000, 1_000_000_000


STEP = 8  # numbers that a step of AdamW over tables of adapters makes for each of theirs; a test measures it

_TRIALS = 4096  # beside each other, at most


@dataclass(frozen=True)
class Numbers:
    """A model's numbers by kind; tied ones count once."""

    embedding: int
    linear: int  # of the linear layers that adapters may hang on
    head: int  # 0 where it is the embedding
    other: int  # norms, biases, positions
    layers: int
    widest: int  # of the largest part that ZeRO-3 must have whole: a decoder layer, the embedding or the head
    vocabulary: int
    hidden: int  # inputs of the head

    @property
    def total(self) -> int:
        return self.embedding + self.linear + self.head + self.other


def count(model: Any) -> Numbers:
    """Of a model, or its skeleton."""
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings()
    tied = output is None or output.weight is embedding
    head = 0 if tied else output.weight.numel()
    linear = sum(layer.weight.numel() for _, layer in linear_layers(model))
    layers = [parameters(layer) for layer in decoder_layers(model)]
    return Numbers(
        embedding=embedding.numel(),
        linear=linear,
        head=head,
        other=parameters(model) - embedding.numel() - linear - head,
        layers=len(layers),
        widest=max([*layers, embedding.numel(), head]),
        vocabulary=(embedding if tied else output.weight).shape[0],
        hidden=(embedding if tied else output.weight).shape[1],
    )


def decoder_layers(model: Any) -> list[Any]:
    """In their order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@dataclass(frozen=True)
class Line:
    """Bytes: some always, some for each token."""

    always: float
    per_token: float

    def of(self, tokens: int) -> int:
        return round(self.always + self.per_token * tokens)

    def plus(self, other: Line, times: float = 1.0) -> Line:
        """Their sum, ``other`` taken that many times."""
        return Line(self.always + times * other.always, self.per_token + times * other.per_token)


@dataclass(frozen=True)
class Head:
    """The way from hidden states to losses, all tokens carrying loss.

    ``chunk`` is how many logits are held at a time (``objectives.cross_entropy.head_losses``); 0: all of them.
    """

    vocabulary: int
    hidden: int
    width: int  # bytes of a number in products
    chunk: int = 0
    gradient: int = 0  # bytes of a number of its weight's gradient, 0 if frozen
    copy: int = 0  # bytes of a number of its weight's copy under autocast, 0 without
    dropped: int = 0  # bytes of other weights' copies, which live until the logits are there
    tied: bool = False  # its weight is the embedding's

    def at_most(self, tokens: int) -> int:
        """What it makes that lives at once."""
        weight, states = self.vocabulary * self.hidden, self._states(tokens)
        wide = max(4, self.width)  # losses are computed in fp32 at least
        narrow = self.width if self.width < 4 else 0
        if self.chunk:
            rows = max(1, self.chunk // self.vocabulary)
            # logits and their logarithms, and from the second chunk on those of the chunk before
            held = 2 * wide + 2 * narrow if tokens <= rows else 3 * wide + narrow
            return held * min(tokens, rows) * self.vocabulary + 4 * states  # theirs and their gradients, twice each
        # log-probabilities, their gradient and that of the logits; then the gradient of the weight
        backwards = 3 * wide * tokens * self.vocabulary
        product = (wide + narrow) * tokens * self.vocabulary + self.gradient * weight
        forwards = self.dropped + narrow * tokens * self.vocabulary
        return max(backwards, product, forwards) + self.copy * weight + (states if self.gradient else 0)

    def afterwards(self, tokens: int) -> int:
        """What stays while the layers below compute their gradients."""
        tied = self.gradient * self.vocabulary * self.hidden if self.tied else 0  # waits for the embedding's share
        return tied + (self._states(tokens) if self.chunk else 0)

    def embedding(self, tokens: int) -> int:
        """What the embedding's gradient takes at the very end."""
        return self.gradient * self.vocabulary * self.hidden + self._states(tokens) if self.gradient else 0

    def _states(self, tokens: int) -> int:
        return tokens * self.hidden * self.width


@dataclass(frozen=True)
class Passes:
    """Bytes that forward and backward passes make; ``kept`` between the two, ``peak`` at most without the head's."""

    kept: Line
    peak: Line
    head: Head

    def of(self, tokens: int) -> tuple[int, int]:
        """Activations and logits at the highest moment, which is either at the head or in a layer."""
        at_head = self.kept.of(tokens), self.head.at_most(tokens)
        below = max(self.peak.of(tokens), self.head.embedding(tokens)) + self.head.afterwards(tokens)
        return at_head if sum(at_head) >= below else (below, 0)


@dataclass(frozen=True)
class Layout:
    """How a training lies on GPUs: each computes ``rows`` documents in a pass."""

    gpus: int = 1
    stage: int = 0
    offload: Offload = "none"
    checkpointing: bool = False
    rows: int = 1

    @property
    def sharded(self) -> bool:
        """Whether DeepSpeed is needed."""
        return self.gpus > 1 or self.stage > 0 or self.offload != "none"


@dataclass(frozen=True)
class Training:
    """What is trained, as far as memory goes."""

    numbers: Numbers
    weight: int  # bytes of a number of the weights
    product: int  # bytes of a number in products, as which ZeRO-3 collects weights
    length: int  # tokens of the longest document
    passes: Callable[[Layout], Passes]
    adapter: int = 0  # numbers of a LoRA adapter; 0: every weight is trained
    adapter_state: int = 0  # bytes of an adapter with its gradients and moments
    calibration: float = 1.0  # what earlier trainings took over what was predicted of them


@dataclass(frozen=True)
class Footprint:
    """Bytes by kind on each GPU; ``host`` is main memory for each GPU."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    adapter: int = 0
    activations: int = 0
    logits: int = 0
    buffers: int = 0
    step: int = 0  # what the optimizer's step takes for itself, when no activations are there
    host: int = 0

    @property
    def resident(self) -> int:
        """What is there between passes."""
        return self.weights + self.gradients + self.optimizer + self.adapter + self.buffers

    @property
    def on_gpu(self) -> int:
        """The most at any time."""
        return self.resident + max(self.activations + self.logits, self.step)

    def times(self, factor: float) -> Footprint:
        """Every part of it larger or smaller by as much."""
        return self if factor == 1 else Footprint(*(round(factor * size) for size in astuple(self)))


def footprint(training: Training, layout: Layout, tokens: int = 0) -> Footprint:
    """Predict the bytes of a layout; ``tokens`` of a pass, where that is less than so many of the longest rows."""
    activations, logits = training.passes(layout).of(tokens or layout.rows * training.length)
    made = _lora if training.adapter else _full
    return made(training, layout, activations, logits).times(training.calibration)


def _full(training: Training, layout: Layout, activations: int, logits: int) -> Footprint:
    total, width, wide = training.numbers.total, training.weight, max(4, training.weight)
    weights, gradients, states = (_share(total, layout, stage) for stage in (3, 2, 1))
    masters = layout.stage in (1, 2) or width < 4 or layout.offload != "none"
    optimizer, host = states * (2 + masters) * wide, 0
    if layout.offload != "none":  # gradients follow, bucket by bucket, as fp32
        host, optimizer, gradients = optimizer + gradients * wide, 0, 0
    if layout.offload == "parameters":
        host, weights = host + weights * width, 0
    flattened = min(states, SUBGROUP) * wide if layout.stage and layout.offload == "none" else 0
    return Footprint(
        weights * width,
        gradients * width,
        optimizer,
        activations=activations,
        logits=logits,
        buffers=_exchanged(total, layout) * width + _gathered(training, layout),
        step=flattened,
        host=host,
    )


def _lora(training: Training, layout: Layout, activations: int, logits: int) -> Footprint:
    weights = _share(training.numbers.total, layout, 3) * training.weight
    away = layout.offload == "parameters"
    return Footprint(
        weights=0 if away else weights,
        adapter=training.adapter_state,
        activations=activations,
        logits=logits,
        buffers=_exchanged(training.adapter, layout) * 4 + _gathered(training, layout),
        step=STEP * 4 * training.adapter,
        host=weights if away else 0,
    )


def _share(numbers: int, layout: Layout, since: int) -> int:
    """What a GPU has of numbers that are sharded from a stage on."""
    return -(-numbers // layout.gpus) if layout.stage >= since else numbers


def _exchanged(numbers: int, layout: Layout) -> int:
    """Numbers in buffers of what GPUs send each other."""
    return BUCKETS * min(numbers, BUCKET) if layout.gpus > 1 else 0


def _gathered(training: Training, layout: Layout) -> int:
    """Bytes of weights that ZeRO-3 has whole, for the layers at work and those that come next."""
    if layout.stage < 3:
        return 0
    return min(training.numbers.total, max(training.numbers.widest, LIVE)) * training.product


def trials_beside(training: Training, room: int, tokens: int, *, checkpointing: bool) -> int:
    """How many LoRA trials fit beside each other on one GPU: base + K x adapter state + the widest pass they share.

    Tables of adapters double when they are full (``engine.packed.bank``), the old ones beside the new ones for a
    moment between passes; so the answer is a power of two, or 0.
    """
    base = training.numbers.total * training.weight
    room = round(room / training.calibration)
    one, together = training.adapter_state, sum(training.passes(Layout(checkpointing=checkpointing)).of(tokens))
    fitting, trials = 0, 1
    while trials <= _TRIALS:
        growing, stepping = one * (trials // 2), STEP * 4 * training.adapter * trials
        if base + one * trials + max(growing, stepping, together) > room:
            break
        fitting, trials = trials, 2 * trials
    return fitting
