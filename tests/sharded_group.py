"""Groups of real processes that train together, and engines of such a group.

A process takes seconds to import everything, so they are forked from one that did. The tests' process talks to rank 0
alone, as a training loop would: it sends the name of a method, and gets its result or error.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from ftcluster.engine.sharded.ranks import Ranks, Seat, rank_environment

_PATIENCE = 120.0  # seconds; a rank that hangs is a failed test


@dataclass(frozen=True)
class Making:
    """What ``Replica`` is made of."""

    folder: Path
    dtype: torch.dtype = torch.float32
    settings: Mapping[str, Any] = field(default_factory=dict)  # of ShardedSettings
    clip: float = 0.5
    autocast: torch.dtype | None = None
    checkpointing: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)  # what a user's own DeepSpeed JSON says
    packs: bool = False  # a ``PackedReplica`` in its place
    exact: bool = True


class Group:
    """Processes that met; closed, or killed, by whoever started it."""

    def __init__(self, size: int, *, timeout: float = 60.0) -> None:
        _start_server()
        fork = get_context("forkserver")
        port = _free_port()
        self._leader, tests = fork.Pipe()
        self.processes = [
            fork.Process(target=_run, args=(Seat("127.0.0.1", port, rank, size), timeout, None if rank else tests))
            for rank in range(size)
        ]
        for process in self.processes:
            process.start()
        tests.close()
        self._made = 0

    def engine(self, making: Making) -> RemoteEngine:
        """A fresh one; those before stay until ``forget``."""
        number = self._made
        self._made += 1
        self.ask("make", number, making)
        return RemoteEngine(self, number)

    def forget(self) -> None:
        """All engines made so far."""
        self.ask("forget")

    def ask(self, order: str, *arguments: Any, patience: float = _PATIENCE) -> Any:
        """Have rank 0 lead an order; errors are raised here."""
        _send(self._leader, (order, arguments))
        if not self._leader.poll(patience):
            raise TimeoutError("the group hangs")
        kind, value = _receive(self._leader)
        if kind == "error":
            raise value
        return value

    def close(self) -> list[int | None]:
        """Exit codes."""
        _send(self._leader, None)
        for process in self.processes:
            process.join(_PATIENCE)
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def running(size: int) -> Iterator[Group]:
    """A group that must end well, as a fixture."""
    group = Group(size)
    try:
        yield group
        codes = group.close()
    finally:
        group.kill()
    assert codes == [0] * size


class RemoteEngine:
    """Every method of one of the group's sharded engines."""

    def __init__(self, group: Group, number: int) -> None:
        self._group, self.number = group, number

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._group.ask(f"{name}:{self.number}", *arguments)


def _send(connection: Connection, value: Any) -> None:
    connection.send_bytes(pickle.dumps(value))  # tensors by value; `send` would share their memory


def _receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Replicas:
    """What all ranks have: replicas by number. ``step:3`` is a method's name, that of replica 3."""

    def __init__(self, ranks: Any) -> None:
        self.ranks = ranks
        self.by_number: dict[int, Any] = {}
        self._engines: dict[int, Any] = {}

    def __getattr__(self, order: str) -> Any:
        name, _, number = order.partition(":")
        return getattr(self.by_number[int(number)], name)

    def make(self, number: int, making: Making) -> None:
        from ftcluster.engine.sharded.loading import BaseSource
        from ftcluster.engine.sharded.packs import PackedReplica
        from ftcluster.engine.sharded.replica import Replica
        from ftcluster.engine.sharded.settings import ShardedSettings, deepspeed_config

        precision = _precision(making)
        settings = ShardedSettings(**making.settings)
        config = deepspeed_config(settings, precision, clip=making.clip, ranks=self.ranks.size, own=making.own)
        source = BaseSource(making.folder, torch.device("cpu"), making.dtype)
        made: Any = partial(PackedReplica, exact=making.exact) if making.packs else Replica
        self.by_number[number] = made(source, precision, self.ranks, config, checkpointing=making.checkpointing)

    def engine(self, number: int) -> Any:
        """Rank 0's: the one that leads all replicas of this number."""
        from ftcluster.engine.sharded.engine import ShardedEngine, ShardedPackEngine
        from ftcluster.engine.sharded.packs import PackedReplica

        if number not in self._engines:
            replica = self.by_number[number]
            kind = ShardedPackEngine if isinstance(replica, PackedReplica) else ShardedEngine
            self._engines[number] = kind(_Leading(self, number), replica)
        return self._engines[number]

    def forget(self) -> None:
        self.by_number.clear()
        self._engines.clear()

    def share_of(self, number: int, slot: int) -> list[tuple[int, int]]:
        """Elements of weights that a rank holds between passes, and those of the whole model, by rank."""
        return self._share(self.by_number[number]._trials[slot].parameters.values())

    def share_of_base(self, number: int) -> list[tuple[int, int]]:
        """The same of a frozen base."""
        return self._share(list(self.by_number[number].base.model.parameters()))

    def _share(self, parameters: Collection[Any]) -> list[tuple[int, int]]:
        here = sum(parameter.numel() + parameter.ds_tensor.numel() for parameter in parameters)
        return self.ranks.gather((here, sum(parameter.ds_numel for parameter in parameters)))

    def load(self, making: Making) -> list[tuple[int, int, int, int]]:
        """By rank: bytes of the model, of its largest tensor, and at most while weights come; tensors it reads."""
        from ftcluster.engine.memory import Counting
        from ftcluster.engine.sharded import loading
        from ftcluster.engine.sharded.settings import ShardedSettings, deepspeed_config

        config = deepspeed_config(ShardedSettings(stage=3), _precision(making), clip=1.0, ranks=self.ranks.size)
        counting, reads, plain = Counting(), list[str](), (loading._shard, loading.read_tensor)

        def shard(*arguments: Any) -> None:
            with counting:
                plain[0](*arguments)

        loading._shard = shard
        loading.read_tensor = lambda path, name: reads.append(name) or plain[1](path, name)
        try:
            base = loading.BaseSource(making.folder, torch.device("cpu"), making.dtype).sharded(config)
        finally:
            loading._shard, loading.read_tensor = plain
        sizes = [parameter.ds_numel * making.dtype.itemsize for parameter in base.model.parameters()]
        return self.ranks.gather((sum(sizes), max(sizes), counting.most, len(reads)))

    def save_sharded_adapter(self, making: Making, folder: Path) -> None:
        """What others do: an adapter inside the model that stage 3 shards, saved as if it were whole."""
        from ftcluster.contracts.ports import AdapterSettings
        from ftcluster.engine.sharded.partitioned import run_by_deepspeed
        from ftcluster.engine.sharded.settings import ShardedSettings, deepspeed_config
        from ftcluster.models import adapters
        from ftcluster.models.base import load_base

        base = load_base(making.folder)
        made = adapters.attach(base, "slot0", AdapterSettings(4, 8.0), 3)
        settings = ShardedSettings(stage=3)
        config = deepspeed_config(settings, _precision(making), clip=1.0, ranks=self.ranks.size, own=making.own)
        run_by_deepspeed(base.model, config, torch.optim.AdamW(made.values()))
        if self.ranks.leads:
            adapters.save_adapter(base, "slot0", folder)

    def fail(self, rank: int, wait: bool) -> None:
        """An error that nobody expects, on one rank; ``wait``: the others are in a collective by then."""
        if self.ranks.rank == rank:
            raise RuntimeError("it broke")
        if wait:
            self.ranks.total(torch.zeros(1))

    def limit(self, seconds: float, stacks: Path | None = None) -> None:
        """How long ranks may wait for one another in the orders that follow, and where they leave their stacks."""
        self.ranks.limit(seconds)
        self.ranks.stacks = stacks

    def freeze(self, rank: int) -> None:
        """Neither dead nor alive."""
        if self.ranks.rank == rank:
            os.kill(os.getpid(), signal.SIGSTOP)
        self.ranks.total(torch.zeros(1))

    def sleep(self, rank: int, seconds: float) -> None:
        """One rank comes late."""
        if self.ranks.rank == rank:
            time.sleep(seconds)
        self.ranks.total(torch.zeros(1))

    def sleep_at_the_end(self, rank: int, seconds: float) -> None:
        """With nothing to wait for but the agreement."""
        if self.ranks.rank == rank:
            time.sleep(seconds)

    def slow_down(self, rank: int, number: int, slot: int, seconds: float) -> None:
        """From now on, this rank needs longer for each layer of a trial's model; what was before is forgotten."""
        self.ranks.assemble()
        if self.ranks.rank == rank:
            model = self.by_number[number]._trials[slot].base.model
            for layer in model.base_model.layers:
                layer.register_forward_pre_hook(lambda *_: time.sleep(seconds))

    def break_off(self, number: int) -> None:
        """From now on, a layer fails on rank 0 in training."""
        if self.ranks.leads:

            def fail(*_: object) -> None:
                raise RuntimeError("it broke")

            self.by_number[number].base.model.base_model.layers[1].register_forward_pre_hook(fail)

    def let_documents_meet(self) -> None:
        """From now on, a check of a model finds something wrong with it."""
        from ftcluster.engine.sharded import packs
        from ftcluster.errors import ModelError

        def refuse(*_: object) -> None:
            raise ModelError("documents of one stream see each other")

        packs.check_sharded_isolation = refuse

    def die(self, rank: int) -> None:
        if self.ranks.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        self.ranks.total(torch.zeros(1))


def _precision(making: Making) -> Any:
    from ftcluster.engine.precision import Precision

    return Precision(making.dtype, making.autocast)


class _Leading:
    """The group as one engine sees it: its orders carry the number of its replica."""

    def __init__(self, replicas: Replicas, number: int) -> None:
        self._replicas, self._number = replicas, number

    @property
    def size(self) -> int:
        return self._replicas.ranks.size

    @property
    def hosts(self) -> Any:
        return self._replicas.ranks.hosts

    def lead(self, _: Any, order: str, *arguments: Any) -> Any:
        return self._replicas.ranks.lead(self._replicas, f"{order}:{self._number}", *arguments)


def _start_server() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, value in rank_environment(torch.device("cpu")).items():
            patch.setenv(name, value)
        forkserver.set_forkserver_preload(["ftcluster.engine.sharded.replica", "ftcluster.engine.sharded.packs"])
        forkserver.ensure_running()


def _run(seat: Seat, timeout: float, tests: Connection | None) -> None:
    """What each process does; rank 0 has ``tests``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # DeepSpeed's log
    torch.set_num_threads(1)
    ranks = Ranks(seat, torch.device("cpu"), timeout=timedelta(seconds=timeout))
    replicas = Replicas(ranks)
    if tests is None:
        ranks.follow(replicas)
    else:
        while (asked := _receive(tests)) is not None:
            _send(tests, _answer(replicas, *asked))
        ranks.dismiss()
    ranks.close()


def _answer(replicas: Replicas, order: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    name, _, number = order.partition(":")
    try:
        if not number:
            return "answer", replicas.ranks.lead(replicas, order, *arguments)
        engine = replicas.engine(int(number))
        return "answer", getattr(engine, name)(*arguments)
    except Exception as error:
        error.add_note(traceback.format_exc())
        return "error", error
