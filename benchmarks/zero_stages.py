"""One full fine-tuning step over several processes: the sharded engine against DeepSpeed used directly, and DDP.

For every ZeRO stage, with the same model, rows, AdamW and clipping, in fp32 (on GPUs bf16 products): milliseconds of a
step, the two taking turns in the same processes, and peak memory of a rank, each alone in fresh processes (on a CPU
what the process grew by, on a GPU what torch held). The peers are what people write by hand: ``deepspeed.initialize``
around a transformers model and its own loss, and at stage 0 torch's DistributedDataParallel. Rows have one length, so
nobody pads.

    python benchmarks/zero_stages.py [--ranks 2] [--rows 4] [--length 128] [--hidden 256] [--layers 4] [--device cuda]

The last line is one JSON object; ``ratio`` is DeepSpeed's time over ours at the stage where ours is worst.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import OptimizerSettings, TrialOpening
from ftcluster.engine.precision import Precision
from ftcluster.engine.sharded.engine import ShardedEngine
from ftcluster.engine.sharded.ranks import Ranks, Seat, rank_environment
from ftcluster.engine.sharded.settings import ShardedSettings, deepspeed_config

LR, CLIP, STAGES = 1e-4, 1.0, (0, 1, 2, 3)
TEXTS = [f"The quick brown fox number {number} jumps over the lazy dog." for number in range(500)]


class Ours:
    """A trial on the sharded engine; ``step`` is called on rank 0 alone."""

    def __init__(self, ranks: Ranks, stage: int, options: argparse.Namespace) -> None:
        from ftcluster.engine.sharded.loading import BaseSource
        from ftcluster.engine.sharded.replica import Replica

        precision = Precision(torch.float32, torch.bfloat16 if ranks.device.type == "cuda" else None)
        config = deepspeed_config(ShardedSettings(stage), precision, clip=CLIP, ranks=ranks.size)
        source = BaseSource(Path(options.model), ranks.device, torch.float32)
        self.replica = Replica(source, precision, ranks, config)
        self.replica.open(TrialOpening(0, 0, OptimizerSettings(clip=CLIP), None))
        self.engine = ShardedEngine(ranks, self)
        self.batch = rows(options, ranks.size)

    def __getattr__(self, order: str) -> Any:
        return getattr(self.replica, order)

    def work(self) -> None:
        self.engine.forward_backward(self.batch, {0: self.batch.weight(0)}, {0: (0, 0)})
        self.engine.step(0, LR)


class DeepSpeed:
    """The same by hand; ``step`` is called on every rank."""

    def __init__(self, ranks: Ranks, stage: int, options: argparse.Namespace) -> None:
        import deepspeed

        model, optimizer = model_and_optimizer(options, ranks.device)
        zero = {"stage": stage, "reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000}
        config = {
            "train_micro_batch_size_per_gpu": options.rows,
            "gradient_clipping": CLIP,
            "zero_optimization": zero,
            "steps_per_print": None,
            "torch_autocast": {"enabled": ranks.device.type == "cuda", "dtype": "bfloat16"},
        }
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self.tokens = own_rows(options, ranks)

    def work(self) -> None:
        self.engine.backward(self.engine(input_ids=self.tokens, labels=self.tokens).loss)
        self.engine.step()


class Ddp:
    """torch's own data parallelism; ``step`` is called on every rank."""

    def __init__(self, ranks: Ranks, _: int, options: argparse.Namespace) -> None:
        self.model, self.optimizer = model_and_optimizer(options, ranks.device)
        self.run = torch.nn.parallel.DistributedDataParallel(self.model)
        self.tokens, self.kind = own_rows(options, ranks), ranks.device.type

    def work(self) -> None:
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.kind == "cuda"):
            loss = self.run(input_ids=self.tokens, labels=self.tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()


WAYS: dict[str, Callable[[Ranks, int, argparse.Namespace], Any]] = {"ours": Ours, "deepspeed": DeepSpeed, "ddp": Ddp}


class Bench:
    """What every rank has: ways by name, and orders that rank 0 leads."""

    def __init__(self, ranks: Ranks, options: argparse.Namespace) -> None:
        self.ranks, self.options = ranks, options
        self.ways: dict[str, Any] = {}

    def __getattr__(self, order: str) -> Any:
        return getattr(self.ways["ours"], order)

    def make(self, names: list[str], stage: int) -> None:
        self.ways = {name: WAYS[name](self.ranks, stage, self.options) for name in names}

    def by_hand(self, name: str) -> float:
        """Seconds of a step of those that run on every rank by themselves."""
        torch.distributed.barrier()
        started = time.perf_counter()
        self.ways[name].work()
        finished(self.ranks.device)
        return time.perf_counter() - started

    def timed(self, name: str) -> float:
        """On rank 0: seconds of a step."""
        if name != "ours":
            return float(self.ranks.lead(self, "by_hand", name))
        started = time.perf_counter()
        self.ways["ours"].work()
        finished(self.ranks.device)
        return time.perf_counter() - started

    def reset_peak(self) -> None:
        if self.ranks.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")
            self.before = resident("VmRSS")

    def peak(self) -> float:
        """MB, of the rank with most."""
        here = (
            torch.cuda.max_memory_allocated() if self.ranks.device.type == "cuda" else resident("VmHWM") - self.before
        )
        return max(self.ranks.gather(here)) / 1e6


def resident(entry: str) -> int:
    found = re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def model_and_optimizer(options: argparse.Namespace, device: torch.device) -> tuple[Any, torch.optim.Optimizer]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).to(device).train()
    return model, torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)


def rows(options: argparse.Namespace, ranks: int) -> Batch:
    """Random tokens, all but the last of each row trained."""
    count, length = options.rows * ranks, options.length
    tokens_T = torch.randint(3, 250, (count * length,), generator=torch.Generator().manual_seed(5))
    weights_T = torch.ones(count * length)
    weights_T[length - 1 :: length] = 0
    positions_T = torch.arange(length).repeat(count)
    return Batch(tokens_T, tokens_T.roll(-1), weights_T, positions_T, (length,) * count, (0,) * count)


def own_rows(options: argparse.Namespace, ranks: Ranks) -> torch.Tensor:
    whole = rows(options, ranks.size).tokens_T.view(-1, options.length)
    return whole[ranks.rank :: ranks.size].to(ranks.device)


def of_rank(seat: Seat, options: argparse.Namespace, orders: Connection | None) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # DeepSpeed's log
    torch.set_num_threads(options.threads)
    ranks = Ranks(seat, torch.device(options.device, seat.rank if options.device == "cuda" else None))
    bench = Bench(ranks, options)
    if orders is None:
        ranks.follow(bench)
    else:
        while (order := orders.recv()) is not None:
            name, *arguments = order
            orders.send(bench.timed(*arguments) if name == "timed" else ranks.lead(bench, name, *arguments))
        ranks.dismiss()
    ranks.close()


class Group:
    """Processes as many as ranks; this one talks to rank 0."""

    def __init__(self, options: argparse.Namespace) -> None:
        fork = get_context("forkserver")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.orders, theirs = fork.Pipe()
        seats = [Seat("127.0.0.1", port, rank, options.ranks) for rank in range(options.ranks)]
        self.processes = [
            fork.Process(target=of_rank, args=(seat, options, None if seat.rank else theirs)) for seat in seats
        ]
        for process in self.processes:
            process.start()
        theirs.close()

    def ask(self, *order: Any) -> Any:
        self.orders.send(order)
        return self.orders.recv()

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self.orders.send(None)
        for process in self.processes:
            process.join(60)
            process.kill()


def measure(stage: int, options: argparse.Namespace) -> dict[str, float]:
    names = ["ours", "deepspeed", *(["ddp"] if stage == 0 else [])]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    figures: dict[str, float] = {}
    with Group(options) as group:
        group.ask("make", names, stage)
        for number in range(options.repeats + 2):
            for name in names if number % 2 else names[::-1]:
                taken = group.ask("timed", name)
                if number >= 2:
                    seconds[name].append(taken)
    for name in names:
        figures[f"{name}_ms"] = 1000 * statistics.median(seconds[name])
        with Group(options) as group:
            group.ask("reset_peak")
            group.ask("make", [name], stage)
            for _ in range(3):
                group.ask("timed", name)
            figures[f"{name}_peak_mb"] = group.ask("peak")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ranks", 2), ("rows", 4), ("length", 128), ("hidden", 256), ("layers", 4), ("repeats", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=1, help="of each rank on a CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--stages", type=int, nargs="+", choices=STAGES, default=STAGES)
    options = parser.parse_args()
    from ftcluster.models.tiny import create_tiny_model

    os.environ.update(rank_environment(torch.device(options.device)), OMP_NUM_THREADS=str(options.threads))
    forkserver.set_forkserver_preload(["ftcluster.engine.sharded.replica"])
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        options.model = str(
            create_tiny_model(
                Path(folder) / "m", TEXTS, hidden_size=options.hidden, layers=options.layers, vocabulary=1024
            )
        )
        for stage in options.stages:
            figures[stage] = measure(stage, options)
            print(f"stage {stage}: " + ", ".join(f"{name} {value:,.1f}" for name, value in figures[stage].items()))
    ratios = {stage: found["deepspeed_ms"] / found["ours_ms"] for stage, found in figures.items()}
    made = {
        "ratio": round(min(ratios.values()), 3),
        "ratios": {stage: round(ratio, 3) for stage, ratio in ratios.items()},
        "ranks": options.ranks,
        "tokens_per_rank": options.rows * options.length,
        "model": f"hidden {options.hidden}, {options.layers} layers",
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "figures": figures,
        "torch": torch.__version__,
        "threads": options.threads,
    }
    print(json.dumps(made))


if __name__ == "__main__":
    main()
