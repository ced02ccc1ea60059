"""Real tokens per second of training: packed micro-batches against padded batches of the same rows, in turns.

ftcluster fills micro-batches with documents by best fit (``optim.micro_tokens``) and trains on streams without
padding. The peer is the loop everybody writes first: transformers with PEFT, the same rows in the same order, each
batch padded to its longest row, the same loss, optimizer, clipping and threads. Tokens of padding do not count.

    python benchmarks/packing_vs_padding.py [--rows FILE.jsonl] [--steps 30] [--rounds 3] [--micro-tokens 2048] [--fp64]

With ``--fp64`` both also train in double precision and the largest difference between their loss curves is shown. The
last line is one JSON object; ``ratio`` is ftcluster's real tokens/s over the peer's.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from ftcluster.data.prepared.batches import Loader

sys.path.insert(0, str(Path(__file__).parent))
from trainer_peer import ALPHA, BATCH, CLIP, LR, RANK, SEED, Curve, Setting, compare, run_ftcluster, words

SHARED = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_train.jsonl"


def main() -> None:
    parser = words(__doc__, steps=30, rows=SHARED if SHARED.exists() else None)
    parser.add_argument("--micro-tokens", type=int, default=2048)
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    tokens = options.micro_tokens
    compare(
        options,
        lambda setting: measure(setting, options.rounds, tokens),
        lambda setting: difference(setting, tokens),
    )


def measure(setting: Setting, rounds: int, micro_tokens: int) -> dict[str, object]:
    """Alternate both, throw the first pair away as warm-up, compare pair by pair."""
    ratios, speeds = [], []
    for number in range(rounds + 1):
        ours, theirs = run_ftcluster(setting, torch.float32, micro_tokens=micro_tokens), run_padded(setting)
        speed = [ours.tokens * curve.steps_per_s / setting.steps for curve in (ours, theirs)]  # the same real tokens
        label = f"round {number}" if number else "warm-up"
        print(f"{label}: packed {speed[0]:,.0f} tokens/s, padded {speed[1]:,.0f} tokens/s", flush=True)
        if number:
            ratios.append(speed[0] / speed[1])
            speeds.append(speed)
    loader = Loader(setting.data.train, BATCH, BATCH, SEED, micro_tokens=micro_tokens)
    efficiency = loader.efficiency()
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "packed_tokens_per_s": round(statistics.median(speed[0] for speed in speeds)),
        "padded_tokens_per_s": round(statistics.median(speed[1] for speed in speeds)),
        "efficiency_packed": round(efficiency.packed or 0.0, 3),
        "efficiency_padded": round(efficiency.padded, 3),
        "final_loss": [ours.losses[-1], theirs.losses[-1]],
    }


def difference(setting: Setting, micro_tokens: int) -> float:
    """Largest difference between the two loss curves in double precision."""
    ours = run_ftcluster(setting, torch.float64, micro_tokens=micro_tokens)
    theirs = run_padded(setting, torch.float64)
    return max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))


def run_padded(setting: Setting, dtype: torch.dtype = torch.float32) -> Curve:
    """Plain PyTorch, transformers and PEFT."""
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=dtype, attn_implementation="sdpa")
    torch.manual_seed(SEED)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora, autocast_adapter_dtype=False).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
    loader = Loader(setting.data.train, BATCH, BATCH, SEED)
    losses: list[float] = []
    slots = 0
    started = time.perf_counter()
    for step in range(setting.steps):
        epoch, index = divmod(step, loader.steps_per_epoch)
        rows = [setting.data.train.get(int(i)) for i in loader.order(epoch)[index * BATCH : (index + 1) * BATCH]]
        width = max(len(tokens) for tokens, _ in rows)
        slots += width * len(rows)
        ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
        labels = torch.full((len(rows), width), -100)
        for number, (tokens, on) in enumerate(rows):
            size, row = len(tokens), torch.from_numpy(tokens.astype("int64"))
            ids[number, :size], mask[number, :size] = row, 1
            labels[number, :size] = torch.where(torch.from_numpy(on.copy()), row, -100)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return Curve(losses, setting.steps / (time.perf_counter() - started), slots)


if __name__ == "__main__":
    main()
