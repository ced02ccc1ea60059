"""One training, LoRA or full, done twice: by ftcluster's engine and loop, and by transformers' Trainer with PEFT."""

from __future__ import annotations

import argparse
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset, SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.data.prepared.batches import Loader
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.data.prepared.prepare import DataSettings, prepare
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.engine.schedule import Schedule
from ftcluster.models.base import load_base
from ftcluster.models.tiny import create_tiny_model
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.loop import Parts, Progress, train
from ftcluster.training.requests import alone

BATCH, LR, CLIP, RANK, ALPHA, SEED = 16, 1e-3, 1.0, 8, 16.0, 17


@dataclass(frozen=True)
class Setting:
    """A model folder, prepared rows, and how long to train."""

    folder: Path
    model: Path
    data: PreparedData
    steps: int


@dataclass(frozen=True)
class Curve:
    """Loss per step (mean over trained tokens), speed, and tokens put through the model."""

    losses: list[float]
    steps_per_s: float
    tokens: int


def words(text: str | None, *, steps: int, rows: Path | None = None) -> argparse.ArgumentParser:
    """What both comparisons may be told; ``text`` is for their help."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = rows.name if rows else "sentences made on the spot"
    parser.add_argument("--rows", type=Path, default=rows, help=f"question/answer JSONL; default: {default}")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--fp64", action="store_true", help="also compare loss curves in double precision")
    return parser


def compare(
    options: argparse.Namespace,
    measure: Callable[[Setting], dict[str, object]],
    difference: Callable[[Setting], float],
) -> None:
    """Set up what the options say, measure, and print the report with the circumstances it was made in."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        setting = set_up(Path(folder), options.rows, options.hidden, options.layers, options.vocabulary, options.steps)
        report = measure(setting)
        if options.fp64:
            report["largest_loss_difference_fp64"] = difference(setting)
    report |= {
        "steps": options.steps,
        "threads": options.threads,
        "data": options.rows.name if options.rows else "generated",
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    print(json.dumps(report))


def set_up(folder: Path, rows: Path | None, hidden: int, layers: int, vocabulary: int, steps: int) -> Setting:
    """Make the model with a tokenizer trained on the rows, and prepare the rows."""
    if rows is None:
        rows = folder / "rows.jsonl"
        draw = random.Random(SEED)
        names = ["Anna", "Bo", "Chen", "Dora", "Emil"]
        lines = []
        for _ in range(2 * BATCH * steps + 200):
            a, b, who = draw.randint(2, 99), draw.randint(2, 99), draw.choice(names)
            more = " ".join(
                f"Then {draw.choice(names)} gives {who} {draw.randint(1, 9)} more." for _ in range(draw.randint(0, 6))
            )
            lines.append(
                {"question": f"{who} has {a} apples and buys {b}. {more}", "answer": f"{who} had {a} + {b} = {a + b}."}
            )
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [" ".join(map(str, json.loads(line).values())) for line in rows.read_text().splitlines()]
    model = create_tiny_model(
        folder / "model", texts, hidden_size=hidden, layers=layers, vocabulary=vocabulary, max_length=1024
    )
    settings = DataSettings(train=(str(rows),), format="question_answer", max_length=512, limit=BATCH * steps)
    data = prepare(settings, AutoTokenizer.from_pretrained(model), "benchmark", folder / "prepared")
    if len(data.train) < BATCH * steps:
        raise SystemExit(f"{len(data.train)} rows are too few for {steps} steps of {BATCH}; use fewer steps")
    return Setting(folder, model, data, steps)


def run_ftcluster(setting: Setting, dtype: torch.dtype, *, full: bool = False, micro_tokens: int = 0) -> Curve:
    """The engine and loop that ``ftcluster train`` runs, with its tracker, without evaluation and checkpoints."""
    kind = LocalEngine if full else PackedEngine
    engine = kind(lambda: load_base(setting.model, dtype=dtype), Precision(dtype))
    adapter = None if full else AdapterSettings(RANK, ALPHA)
    engine.open(TrialOpening(0, SEED, OptimizerSettings(clip=CLIP), adapter))
    losses: list[float] = []
    tracker = SpoolTracker(setting.folder / f"spool-{time.monotonic_ns()}")
    parts = Parts(
        engine=engine,
        slot=0,
        loader=Loader(setting.data.train, BATCH, BATCH, SEED, micro_tokens=micro_tokens),
        schedule=Schedule(LR, setting.steps, shape="constant"),
        tracker=tracker,
        evaluate=dict,
        save=lambda _: None,
        observe=lambda progress: losses.append(progress.loss),
        stopping=lambda: False,
        clock=time.perf_counter,
        evaluate_every=setting.steps + 1,
        save_every=setting.steps + 1,
        log_every=1,
    )
    started = time.perf_counter()
    progress = alone(train(parts, Progress(), setting.steps))
    seconds = time.perf_counter() - started
    tracker.close()
    return Curve(losses, setting.steps / seconds, progress.tokens)


class _Rows(Dataset[dict[str, Any]]):
    """The same documents in the order ftcluster reads them."""

    def __init__(self, setting: Setting) -> None:
        loader = Loader(setting.data.train, BATCH, BATCH, SEED)
        epochs = -(-setting.steps // loader.steps_per_epoch)
        order = [int(i) for epoch in range(epochs) for i in loader.order(epoch)]
        self._rows = [setting.data.train.get(i) for i in order]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens, trained = self._rows[index]
        labels = [int(t) if on else -100 for t, on in zip(tokens, trained, strict=True)]
        return {"input_ids": tokens.tolist(), "labels": labels}


class _InOrder(Trainer):
    """Reads rows in our order, and keeps each loss in full precision (the Trainer logs fp32)."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.detach())
        return loss

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class _Stopwatch(TrainerCallback):
    def __init__(self) -> None:
        self.started = self.ended = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()


def _loss_in_fp64(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:  # noqa: ARG001 - the Trainer's name
    logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    total = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    return total / (targets != -100).sum()


def run_trainer(setting: Setting, dtype: torch.dtype, *, full: bool = False) -> Curve:
    """transformers' Trainer, with PEFT unless ``full``, and dynamic padding, as its documentation shows it."""
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=dtype, attn_implementation="sdpa")
    torch.manual_seed(SEED)
    if not full:
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
    padded = 0

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        nonlocal padded
        width = max(len(row["input_ids"]) for row in rows)
        padded += width * len(rows)

        def pad(key: str, value: int) -> torch.Tensor:
            return torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])

        mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
        return {
            "input_ids": pad("input_ids", tokenizer.pad_token_id),
            "labels": pad("labels", -100),
            "attention_mask": mask,
        }

    watch = _Stopwatch()
    arguments = TrainingArguments(
        output_dir=str(setting.folder / "trainer"),
        per_device_train_batch_size=BATCH,
        max_steps=setting.steps,
        learning_rate=LR,
        lr_scheduler_type="constant",
        max_grad_norm=CLIP,
        weight_decay=0.0,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        seed=SEED,
        remove_unused_columns=False,
    )
    trainer = _InOrder(
        model=model,
        args=arguments,
        train_dataset=_Rows(setting),
        data_collator=collate,
        callbacks=[watch],
        # transformers computes its loss in fp32 whatever the model is; only the fp64 comparison replaces that.
        compute_loss_func=_loss_in_fp64 if dtype == torch.float64 else None,
    )
    trainer.losses = []
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [loss.item() for loss in trainer.losses]
    return Curve(losses, setting.steps / (watch.ended - watch.started), padded)
