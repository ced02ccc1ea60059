"""One trial as people train it today: a process of its own with TRL's SFTTrainer and PEFT. Run by sweep_makespan.py.

    python benchmarks/trl_trial.py TRIAL.json

``TRIAL.json`` names the model, the tokenised rows (``input_ids`` and ``completion_mask``, in the order they are to be
read), the settings, the step to stop at, and where to write the result and the Trainer's own checkpoint. Prints
nothing; the result is a JSON file with seconds of start-up and training and the held-out loss.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class InOrder(SFTTrainer):
    """Reads the rows in their order, as the other side of the comparison does."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Until(TrainerCallback):
    """Stops at a step, and notes when training began and ended."""

    def __init__(self, step: int) -> None:
        self.step, self.began, self.ended = step, 0.0, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.time()

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        if state.global_step >= self.step:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.time()


def held_out_loss(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """Nats per trained token, row by row."""
    model.eval()
    loss = weight = 0.0
    with torch.no_grad():
        for row in rows:
            tokens = torch.tensor([row["input_ids"]])
            trained = torch.tensor(row["completion_mask"][1:]).bool()
            each = torch.nn.functional.cross_entropy(model(tokens).logits[0, :-1], tokens[0, 1:], reduction="none")
            loss += float(each[trained].double().sum())
            weight += int(trained.sum())
    return loss / weight


def main() -> None:
    started = psutil.Process().create_time()
    trial = json.loads(Path(sys.argv[1]).read_text())
    rows = json.loads(Path(trial["rows"]).read_text())
    until = Until(trial["until"])
    torch.manual_seed(trial["seed"])
    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(trial["model"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(trial["model"]),
        train_dataset=Dataset.from_list(rows["train"]),
        peft_config=LoraConfig(
            r=trial["rank"], lora_alpha=trial["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[until],
        args=SFTConfig(
            output_dir=trial["folder"],
            per_device_train_batch_size=trial["batch"],
            max_steps=trial["steps"],
            learning_rate=trial["lr"],
            lr_scheduler_type="cosine",
            warmup_steps=trial["warmup"],
            max_grad_norm=1.0,
            weight_decay=0.0,
            seed=trial["seed"],
            logging_steps=10,
            save_strategy="no",
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
    )
    trainer.train(resume_from_checkpoint=trial["resume"] or None)
    result = {
        "startup_s": until.began - started,
        "training_s": until.ended - until.began,
        "eval_loss": held_out_loss(trainer.model, rows["validation"]),
        "total_s": time.time() - started,
    }
    Path(trial["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
