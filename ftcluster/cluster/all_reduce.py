"""A real all-reduce between two processes: whether ranks can talk to each other here, and how fast.

Every rank is a process of its own, started with this module as its program, since torch keeps one process group per
process and a failed collective may end it. All ranks meet over gloo; where each has a GPU of its own they go on with
NCCL. torch is imported in the ranks only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any

from ftcluster.config.environment import child_environment

WORLD = 2
_ELEMENTS = 8 * 2**20  # fp32: 32 MiB, large enough for the bandwidth and not the latency to count
_ROUNDS = 4  # the first one sets up connections and does not count
_PATIENCE = 30  # seconds for the other rank to appear


@dataclass(frozen=True)
class Meeting:
    """Where ranks meet (a torch init method), which of them this one is, and the UUID of the GPU it may use."""

    place: str
    rank: int
    gpu: str = ""


@dataclass(frozen=True)
class Result:
    """How it went; ``seconds`` is the fastest round."""

    backend: str = ""
    device: str = ""
    size: int = 0  # bytes that every rank gave
    seconds: float = 0.0
    problem: str = ""

    @property
    def bandwidth(self) -> float:
        """Bytes a second over the link; each of n ranks sends and receives 2 (n - 1) / n of the data."""
        return 2 * (WORLD - 1) / WORLD * self.size / self.seconds if self.seconds else 0.0


def between_two_processes(gpus: Sequence[str], timeout: float) -> Result:
    """Both ranks on this machine, on two of ``gpus`` (UUIDs) if there are as many."""
    own = gpus[:WORLD] if len(gpus) >= WORLD else [""] * WORLD
    with TemporaryDirectory(prefix="ftcluster-") as folder:
        meetings = [Meeting(f"file://{folder}/meeting", rank, gpu) for rank, gpu in enumerate(own)]
        results = finish([start(meeting) for meeting in meetings], timeout)
    return next((result for result in results if result.problem), results[0])


def start(meeting: Meeting) -> subprocess.Popen[str]:
    """Start one rank; ``finish`` must be given it."""
    words = [sys.executable, "-m", "ftcluster.cluster.all_reduce", json.dumps(asdict(meeting))]
    seeing = child_environment(CUDA_VISIBLE_DEVICES=meeting.gpu)
    return subprocess.Popen(words, env=seeing, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(ranks: Sequence[subprocess.Popen[str]], timeout: float) -> list[Result]:
    """The results of started ranks; none of them outlives ``timeout`` seconds."""
    end = time.monotonic() + timeout
    try:
        return [_result(rank, max(end - time.monotonic(), 0.0), timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def _result(rank: subprocess.Popen[str], left: float, timeout: float) -> Result:
    try:
        told, errors = rank.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        return Result(problem=f"the ranks did not come together within {timeout:g} seconds")
    if rank.returncode:
        lines = [line for line in errors.splitlines() if line.strip()]
        return Result(problem=lines[-1] if lines else f"a rank ended with exit code {rank.returncode}")
    return Result(**json.loads(told.splitlines()[-1]))


def take_part(meeting: Meeting, elements: int = _ELEMENTS, rounds: int = _ROUNDS) -> Result:
    """Be one rank. Every rank must call this, with the same numbers."""
    from torch import distributed

    distributed.init_process_group(
        "gloo",
        init_method=meeting.place,
        rank=meeting.rank,
        world_size=WORLD,
        timeout=timedelta(seconds=_PATIENCE),
    )
    try:
        result = _measure_best(elements, rounds)
        distributed.barrier()  # all ranks; without it one that is done early may take the connection with it
        return result
    finally:
        distributed.destroy_process_group()


def _measure_best(elements: int, rounds: int) -> Result:
    """Over NCCL if every rank sees a GPU, else over gloo. All ranks must reach this."""
    import torch
    from torch import distributed

    fitting = torch.tensor([int(torch.cuda.is_available())])
    distributed.all_reduce(fitting, distributed.ReduceOp.MIN)  # so that all ranks take the same way
    if not fitting.item():
        return replace(_measure(torch.device("cpu"), None, elements, rounds), backend="gloo")
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    group = distributed.new_group(backend="nccl")
    return replace(_measure(device, group, elements, rounds), backend="nccl")


def _measure(device: Any, group: Any, elements: int, rounds: int) -> Result:
    import torch
    from torch import distributed

    seconds = []
    for number in range(rounds):
        numbers = torch.ones(elements, device=device)
        _settle(device)
        distributed.barrier()
        started = time.perf_counter()
        distributed.all_reduce(numbers, group=group)
        _settle(device)
        seconds.append(time.perf_counter() - started)
        if float(numbers.min()) != WORLD or float(numbers.max()) != WORLD:
            raise ValueError(f"round {number} of the all-reduce gave a wrong sum")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Result(device=name, size=4 * elements, seconds=min(seconds[1:]))


def _settle(device: Any) -> None:
    """CUDA works behind our back; a clock is read when it is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    print(json.dumps(asdict(take_part(Meeting(**json.loads(sys.argv[1]))))))
