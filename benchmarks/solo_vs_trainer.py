"""Steps per second of one LoRA run: ftcluster against transformers' Trainer with PEFT, in turns in one process.

Same model, same rows in the same order, same batch size, optimizer, clipping and threads. The Trainer pads each
batch to its longest row, as it does for everybody; ftcluster trains on padding-free streams and computes logits
only where a token carries loss. Start-up (loading, tokenising) is outside the clock on both sides.

    python benchmarks/solo_vs_trainer.py [--rows FILE.jsonl] [--steps 60] [--rounds 3] [--threads 2] [--fp64]

With ``--fp64`` both run once in double precision and the largest difference between their loss curves is shown
too. The last line is one JSON object; ``ratio`` is ftcluster's steps/s over the Trainer's.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from trainer_peer import Curve, Setting, compare, run_ftcluster, run_trainer, words


def main() -> None:
    options = words(__doc__, steps=60).parse_args()
    compare(options, lambda setting: measure(setting, options.rounds), difference)


def measure(setting: Setting, rounds: int) -> dict[str, object]:
    """Alternate both, throw the first pair away as warm-up, compare pair by pair."""
    pairs: list[tuple[Curve, Curve]] = []
    for number in range(rounds + 1):
        pair = (run_ftcluster(setting, torch.float32), run_trainer(setting, torch.float32))
        ours, theirs = pair
        label = f"round {number}" if number else "warm-up"
        print(
            f"{label}: ftcluster {ours.steps_per_s:.2f} steps/s, Trainer {theirs.steps_per_s:.2f} steps/s", flush=True
        )
        if number:
            pairs.append(pair)
    ratios = [ours.steps_per_s / theirs.steps_per_s for ours, theirs in pairs]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        "ftcluster_steps_per_s": round(statistics.median(p[0].steps_per_s for p in pairs), 3),
        "trainer_steps_per_s": round(statistics.median(p[1].steps_per_s for p in pairs), 3),
        "real_tokens_per_step": round(pairs[0][0].tokens / len(pairs[0][0].losses)),
        "padded_tokens_per_step": round(pairs[0][1].tokens / len(pairs[0][1].losses)),
        "final_loss": [pairs[0][0].losses[-1], pairs[0][1].losses[-1]],
    }


def difference(setting: Setting) -> float:
    """Largest difference between the two loss curves in double precision."""
    started = time.perf_counter()
    ours, theirs = run_ftcluster(setting, torch.float64), run_trainer(setting, torch.float64)
    largest = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
    print(
        f"fp64: largest difference {largest:.2e} over {len(ours.losses)} steps, {time.perf_counter() - started:.0f} s"
    )
    return largest


if __name__ == "__main__":
    main()
