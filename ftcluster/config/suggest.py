"""Names near to what somebody typed, for every "did you mean" of the project."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

# What other trainers call our fields; too far apart in letters for a string distance to find.
_FOREIGN_NAMES = {
    "learning_rate": "optim.lr",
    "epochs": "optim.duration",
    "num_train_epochs": "optim.duration",
    "num_epochs": "optim.duration",
    "max_steps": "optim.duration",
    "steps": "optim.duration",
    "per_device_train_batch_size": "optim.micro_batch",
    "gradient_accumulation_steps": "optim.batch_size",
    "train_batch_size": "optim.batch_size",
    "warmup_ratio": "optim.warmup",
    "lr_scheduler_type": "optim.schedule",
    "max_grad_norm": "optim.clip",
    "lora_r": "adapter.rank",
    "r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "target_modules": "adapter.targets",
    "use_rslora": "adapter.rslora",
    "use_dora": "adapter.dora",
    "model_name_or_path": "model.path",
    "base_model": "model.path",
    "dataset": "data.train",
    "train_file": "data.train",
    "max_seq_length": "data.max_length",
    "cutoff_len": "data.max_length",
    "output_dir": "home",
    "eval_steps": "evaluation.every",
    "save_steps": "engine.checkpoint_every",
    "bf16": "engine.precision",
}


def nearest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Known names that look like ``word``, best first; a dotted name is also found by its last part."""
    tail = word.rpartition(".")[2].lower()
    doubt = 0.15 if "." in word else 0.05  # a like last part says less where the section was given too
    scores: dict[str, float] = {}
    for name in set(known):
        last = name.rpartition(".")[2].lower()
        likeness = max(_likeness(word.lower(), name.lower()), _likeness(tail, last) - doubt)
        scores[name] = 2.0 if _FOREIGN_NAMES.get(tail) == name else likeness
    best = max(scores.values(), default=0.0)
    near = [name for name, score in scores.items() if score >= max(0.6, best - 0.1)]
    return sorted(near, key=lambda name: (-scores[name], name))[:limit]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean a, b or c?`` with a leading space, or nothing where no name is near."""
    names = nearest(word, known)
    return f" Did you mean {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}?" if names else ""
