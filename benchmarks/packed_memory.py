"""Memory of K LoRA trials on one base, packed by ftcluster, against K processes with PEFT, one for each.

Each side is measured in fresh processes, as the memory that is the process's own (USS: shared libraries do not count)
at its peak, sampled every 10 ms while three steps are trained. The peer's K processes run one after the other, so that
the machine need not hold them all, and their peaks are added. On both sides one trial's step has T tokens in rows of
32. Weights are random; the model has the shape asked for.

    python benchmarks/packed_memory.py [--trials 8] [--tokens 128] [--hidden 1024] [--layers 12]

The last line is one JSON object; ``ratio`` is the peer's bytes over ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from peft import LoraConfig, get_peft_model

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.models.base import load_base
from ftcluster.models.tiny import create_tiny_model

RANK, ALPHA, LR, STEPS, ROW = 8, 16.0, 1e-3, 3, 32
TEXTS = [f"The quick brown fox number {number} jumps over the lazy dog." for number in range(500)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--side", choices=("packed", "peft"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"hidden_size": options.hidden, "layers": options.layers, "heads": 16, "kv_heads": 4}
        model = create_tiny_model(Path(folder) / "m", TEXTS, vocabulary=1024, **sizes)
        weights = (model / "model.safetensors").stat().st_size
        packed = in_a_process("packed", model, options)
        alone = [in_a_process("peft", model, options) for _ in range(options.trials)]
    total = sum(one["peak"] for one in alone)
    report = {
        "ratio": round(total / packed["peak"], 2),
        "packed_mb": round(packed["peak"] / 1e6),
        "peft_mb": round(total / 1e6),
        "peft_one_process_mb": round(total / len(alone) / 1e6),
        "packed_imports_mb": round(packed["before"] / 1e6),
        "peft_imports_mb": round(sum(one["before"] for one in alone) / 1e6),
        "weights_mb": round(weights / 1e6),
        "trials": options.trials,
        "tokens": options.tokens,
        "torch": torch.__version__,
    }
    print(json.dumps(report))


def in_a_process(side: str, model: Path, options: argparse.Namespace) -> dict[str, int]:
    words = ["--side", side, "--model", str(model), "--trials", str(options.trials), "--tokens", str(options.tokens)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(options: argparse.Namespace) -> dict[str, int]:
    """Own memory before anything is loaded, and at its peak."""
    torch.set_num_threads(1)
    process, most, over = psutil.Process(), [0], threading.Event()
    before = process.memory_full_info().uss

    def watch() -> None:
        while not over.is_set():
            most[0] = max(most[0], process.memory_full_info().uss)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    (train_packed if options.side == "packed" else train_peft)(options)
    over.set()
    watcher.join()
    return {"before": before, "peak": most[0]}


def rows(slot: int, tokens: int) -> Batch:
    tokens_T = torch.randint(3, 100, (tokens,), generator=torch.Generator().manual_seed(slot))
    count = tokens // ROW
    positions_T = torch.arange(ROW).repeat(count)
    weights_T = (positions_T < ROW - 1).float()
    return Batch(tokens_T, tokens_T.roll(-1), weights_T, positions_T, (ROW,) * count, (slot,) * count)


def train_packed(options: argparse.Namespace) -> None:
    engine = PackedEngine(lambda: load_base(options.model), Precision(torch.float32))
    slots = range(options.trials)
    for slot in slots:
        engine.open(TrialOpening(slot, slot, OptimizerSettings(), AdapterSettings(RANK, ALPHA)))
    batches = [rows(slot, options.tokens) for slot in slots]
    together, weights = Batch.joined(batches), {slot: batch.weight(slot) for slot, batch in enumerate(batches)}
    for step in range(STEPS):
        engine.forward_backward(together, weights, dict.fromkeys(slots, (step, 0)))
        engine.step_many(dict.fromkeys(slots, LR))


def train_peft(options: argparse.Namespace) -> None:
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_base(options.model).model, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, fused=True)
    tokens = rows(0, options.tokens).tokens_T.view(-1, ROW)
    for _ in range(STEPS):
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
