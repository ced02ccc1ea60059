"""One training step of K LoRA trials on one base: packed by ftcluster against PEFT, one trial after the other.

Time, operations per layer and memory for K = 1, 2, 4, ... trials of T tokens each. The peer is a PEFT model with one
adapter per trial on one base, switched with ``set_adapter``, torch's fused AdamW and gradient clipping: no process
start, no loading, nothing but steps. With ``--compiled`` its model is compiled. Weights are random; the model has the
shape asked for. On a CPU both compute in fp32, on a GPU in bf16.

    python benchmarks/packed_step.py [--trials 8] [--tokens 128] [--rows 4] [--hidden 256] [--layers 4] [--fast]
    python benchmarks/packed_step.py --device cuda --shape 0.5b --trials 32 --tokens 256 --fast [--compiled]

The last line is one JSON object; ``ratio`` is the peer's time for the largest K over ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.models.base import Base, load_base
from ftcluster.models.tiny import create_tiny_model, train_tokenizer

RANK, ALPHA, LR, CLIP = 8, 16.0, 1e-3, 1.0
_QWEN_05B = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
_LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "0.5b": (Qwen2Config, {**_QWEN_05B, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}),
    "8b": (LlamaConfig, {**_LLAMA_8B, "num_key_value_heads": 8, "vocab_size": 128256}),
}
TEXTS = [f"The quick brown fox number {number} jumps over the lazy dog." for number in range(500)]


class Counting(TorchDispatchMode):
    """Counts operations as torch dispatches them: on a GPU each would be a kernel launch or more."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8, help="the largest K")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a trial's step")
    parser.add_argument("--rows", type=int, default=4, help="rows they come in")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--fast", action="store_true", help="one product for all trials instead of exact mode")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=SHAPES, help="of a known model, instead of --hidden and --layers")
    parser.add_argument("--compiled", action="store_true", help="compile the peer's model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "m", options)
        count = 1
        while count <= options.trials:
            figures[count] = measure(model, count, options)
            print(f"K={count}: " + ", ".join(f"{name} {value:,.1f}" for name, value in figures[count].items()))
            count *= 2
    last = figures[max(figures)]
    print(
        json.dumps(
            {
                "ratio": round(last["peft_ms"] / last["packed_ms"], 2),
                "trials": max(figures),
                "tokens": options.tokens,
                "mode": "fast" if options.fast else "exact",
                "tokens_per_s": round(1000 * max(figures) * options.tokens / last["packed_ms"]),
                "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
                "model": options.shape or f"hidden {options.hidden}, {options.layers} layers",
                "peer": "PEFT, compiled" if options.compiled else "PEFT, eager",
                "figures": figures,
                "torch": torch.__version__,
                "threads": options.threads,
            }
        )
    )


def make_model(folder: Path, options: argparse.Namespace) -> Path:
    if not options.shape:
        return create_tiny_model(folder, TEXTS, hidden_size=options.hidden, layers=options.layers, vocabulary=1024)
    make_config, sizes = SHAPES[options.shape]
    config = make_config(**sizes)
    with torch.device(options.device):
        AutoModelForCausalLM.from_config(config, dtype=dtype_of(options)).save_pretrained(folder)
    train_tokenizer(TEXTS, vocabulary=1024, max_length=1024).save_pretrained(folder)
    return folder


def dtype_of(options: argparse.Namespace) -> torch.dtype:
    return torch.bfloat16 if options.device == "cuda" else torch.float32


def load(model: Path, options: argparse.Namespace) -> Base:
    return load_base(model, device=torch.device(options.device), dtype=dtype_of(options))


def measure(model: Path, count: int, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds for one step of every trial, operations per layer, milliseconds to admit and evict, MB of state."""
    engine = PackedEngine(lambda: load(model, options), Precision(dtype_of(options)), exact=not options.fast)
    engine.base  # noqa: B018 - loads it
    started = time.perf_counter()
    for slot in range(count):
        engine.open(TrialOpening(slot, slot, OptimizerSettings(clip=CLIP), AdapterSettings(RANK, ALPHA)))
    admit = (time.perf_counter() - started) / count
    batches = [rows(slot, options) for slot in range(count)]
    together = Batch.joined(batches)
    weights = {slot: batch.weight(slot) for slot, batch in enumerate(batches)}

    def packed() -> None:
        engine.forward_backward(together, weights, dict.fromkeys(range(count), (0, 0)))
        engine.step_many(dict.fromkeys(range(count), LR))

    peft = peer(model, count, batches, options)
    ours, theirs = alternately(packed, peft, options.repeats)
    layers = engine.base.model.config.num_hidden_layers
    operations = [counted(step) / layers for step in (packed, peft)]
    state = engine.memory
    started = time.perf_counter()
    for slot in range(count):
        engine.close(slot)
    evict = (time.perf_counter() - started) / count
    return {
        "packed_ms": 1000 * ours,
        "peft_ms": 1000 * theirs,
        "packed_operations_per_layer": operations[0],
        "peft_operations_per_layer": operations[1],
        "admit_ms": 1000 * admit,
        "evict_ms": 1000 * evict,
        "state_mb": state / 1e6,
    }


def rows(slot: int, options: argparse.Namespace) -> Batch:
    """Random tokens of one trial, all but the first of each row trained."""
    draw = torch.Generator().manual_seed(slot)
    length = options.tokens // options.rows
    tokens_T = torch.randint(3, 100, (length * options.rows,), generator=draw)
    weights_T = torch.ones(length * options.rows)
    weights_T[length - 1 :: length] = 0
    positions_T = torch.arange(length).repeat(options.rows)
    return Batch(tokens_T, tokens_T.roll(-1), weights_T, positions_T, (length,) * options.rows, (slot,) * options.rows)


def peer(model: Path, count: int, batches: list[Batch], options: argparse.Namespace) -> Callable[[], None]:
    """The same step written with PEFT; rows have one length, so it pads nothing."""
    base = load(model, options).model
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(base, config, adapter_name="t0")
    for slot in range(1, count):
        wrapped.add_adapter(f"t{slot}", config)
    optimizers = []
    for slot in range(count):
        wrapped.set_adapter(f"t{slot}")
        optimizers.append(torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=LR, fused=True))
    run = torch.compile(wrapped) if options.compiled else wrapped
    tokens = [batch.tokens_T.view(options.rows, -1).to(options.device) for batch in batches]

    def steps() -> None:
        for slot, optimizer in enumerate(optimizers):
            wrapped.set_adapter(f"t{slot}")
            with torch.autocast(options.device, torch.bfloat16, enabled=options.device == "cuda"):
                run(input_ids=tokens[slot], labels=tokens[slot]).loss.backward()
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], CLIP)
            optimizer.step()
            optimizer.zero_grad()

    return steps


def alternately(one: Callable[[], None], other: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median seconds of both, in turns after a warm-up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for function, found in zip((one, other), seconds, strict=True):
            started = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                found.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def counted(step: Callable[[], None]) -> int:
    """Operations of the forward pass and the optimizer; autograd runs its own below the counter."""
    with Counting() as counting:
        step()
    return counting.count


if __name__ == "__main__":
    main()
