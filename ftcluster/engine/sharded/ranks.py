"""A group of processes that train together, one per device: rank 0 leads, the others follow.

Rank 0 is told what to do by a training loop, as any engine is. It hands each call on, and every rank makes it on its
own part; so loop, tracker and checkpoints know of one process only. Owns the group, the handing on, and what becomes
of an error on one rank. Does not start processes: host, port, rank and size are arguments.

    rank 0   lead(order) --broadcast--> carry out --------> agree: did all succeed? --> result, or the first error
    rank 1   follow()    <------------- carry out --------> agree                   --> wait for the next order

An error that is told (a user's, a full disk) leaves the group whole: every rank reaches the agreement. Any other leaves
some ranks inside a collective that never ends. So the rank that met it notes it in the store, and leaves the group:
its connections close, the collectives of the others fail, and they find the note.

Followers wait for their next order as long as it takes. Within an order nobody waits for another rank longer than the
limit: then it notes where it waited, and leaves as well. Rank 0 names those that noted nothing, and ``watch`` has
written down the stacks of all that run. With NCCL torch itself ends a process whose collective takes longer.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections import deque
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import _abort_process_group, _set_pg_timeout, _world

from ftcluster.engine.sharded.notes import Heard, Notes, place
from ftcluster.engine.sharded.pace import WINDOW, Stint
from ftcluster.engine.sharded.waits import WAITS
from ftcluster.engine.sharded.watch import Watch, wrote
from ftcluster.engine.shortage import is_shortage, leave_word
from ftcluster.errors import FtclusterError, TrialError, first_line
from ftcluster.units import format_seconds

_FOREVER = timedelta(days=365)  # a warm group may wait for its next trial as long as it likes
_PARTING = timedelta(seconds=10)  # all are idle then, and answer at once
_STOP = "stop"
_TOLD = (FtclusterError, ValueError, OSError)  # raised outside collectives, or on every rank alike
# How gloo says that another rank is gone, or has not come.
_LOST = ("gloo/transport", "Connection", "pair closure", "monitoredBarrier")
_TIMED_OUT = ("Timed out waiting", "monitoredBarrier")
_REMEDY = "the trial goes on from its newest checkpoint in another group"


class RankLost(TrialError):
    """A process of the group is gone or hangs; the same trial can go on from its checkpoint in another group."""

    retryable = True


@dataclass(frozen=True)
class Seat:
    """A process's place in a group, and where the group meets: an address of rank 0's machine.

    ``listening`` is the descriptor of a socket there, in rank 0's process alone; -1: torch opens one.
    """

    host: str
    port: int
    rank: int
    size: int
    listening: int = -1

    def of(self, rank: int) -> Seat:
        """Another rank's."""
        return replace(self, rank=rank, listening=-1)


def rank_zero(host: str, size: int) -> Seat:
    """Rank 0's seat, at a port that is its own from now on, and at this address of its machine alone.

    Torch by itself would listen on all addresses, at a port that was free a moment ago.

    Raises:
        OSError: it cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        listener = socket.create_server(("", 0), family=family)  # others know the machine by an address it has not
    port = listener.getsockname()[1]
    return Seat(host, port, 0, size, listener.detach())


def rank_environment(device: torch.device) -> dict[str, str]:
    """Variables that DeepSpeed reads in a rank's process; whoever starts the process sets them before."""
    return {"LOCAL_RANK": str(device.index or 0), "DS_ACCELERATOR": device.type}


class Ranks:
    """This process's membership of a group; there is one group in a process at a time."""

    def __init__(self, seat: Seat, device: torch.device, *, timeout: timedelta = timedelta(minutes=30)) -> None:
        """Meet the others; every rank must come. ``timeout`` is for meeting, and the first limit of a wait.

        Raises:
            RankLost: the others did not come, or the port is taken.
        """
        self.rank, self.size, self.device = seat.rank, seat.size, device
        self._folder = ""
        self.orders = 0  # led so far: a sign of life
        self.stints: deque[Stint] = deque(maxlen=WINDOW)  # this rank's, of the newest passes
        self._meeting = timeout
        self._passes: list[int] = []  # tokens of the passes of this order
        self._doing, self._began = "meeting", time.monotonic()  # the newest order
        self._watch = Watch(seat.rank)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            listening = seat.listening if seat.listening >= 0 else None
            store = TCPStore(seat.host, seat.port, seat.size, self.leads, timeout, master_listen_fd=listening)
            dist.init_process_group(
                backend,
                store=PrefixStore("group", store),
                rank=seat.rank,
                world_size=seat.size,
                timeout=timeout,
            )
            # Beside NCCL another group is needed; two of gloo's, used in turns, cost more than their work.
            world = dist.distributed_c10d.GroupMember.WORLD
            self._control: Any = world if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
            self.hosts: list[str] = self.gather(socket.gethostname())
        except (dist.DistError, RuntimeError) as error:
            raise RankLost(
                f"rank {seat.rank} of {seat.size} did not meet the others: {first_line(error)}",
                where=f"{seat.host}:{seat.port}",
                remedy="start every rank with the same host and a free port of rank 0's machine",
            ) from error
        self._notes = Notes(store, seat.rank, seat.size)
        self._limit = timeout
        self._bounded = (0, timeout)  # how many groups have which limit
        self._bound()
        WAITS.install()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def limit(self, seconds: float) -> None:
        """How long a rank may wait for another within an order, from now on; 0: as long as it takes."""
        self._limit = timedelta(seconds=seconds) if seconds else _FOREVER
        self._watch.limit = seconds

    def total(self, values: Tensor) -> Tensor:
        """Add up in place over all ranks, all of which must call it."""
        if not values.is_cuda:
            dist.all_reduce(values)
            return values
        # What was queued before is this rank's own work, what comes now is waiting; the host sees neither by itself.
        torch.cuda.current_stream().synchronize()
        began = time.perf_counter()
        dist.all_reduce(values)
        torch.cuda.current_stream().synchronize()
        WAITS.seconds += time.perf_counter() - began
        return values

    def spread(self, values: Tensor, source: int) -> None:
        """One rank's values on all, in place; every rank must call it."""
        dist.broadcast(values, source)

    def share(self, value: Any) -> Any:
        """Rank 0's value; every rank must call it. The others wait for it as long as it takes.

        Raises:
            RankLost: a process of the group is gone.
        """
        box = [value if self.leads else None]
        self._bound()
        try:
            if not self.leads:
                _set_pg_timeout(_FOREVER, self._control)
            dist.broadcast_object_list(box, src=0, group=self._control)
            if not self.leads:
                _set_pg_timeout(self._limit, self._control)
        except RuntimeError as error:
            self._leave(error)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order; every rank must call it."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def assemble(self) -> None:
        """Wait for all ranks before they do something new, as long as they had to meet; every rank must call it.

        Raises:
            RankLost: one did not come.
        """
        self.stints.clear()
        try:
            dist.monitored_barrier(self._control, self._meeting)
        except RuntimeError as error:
            self._leave(error)

    def agree(self, own: FtclusterError | None) -> None:
        """Raise what went wrong on any rank, on all of them; every rank must call it."""
        if errors := self._agree(own):
            raise own if own is not None else _of_rank(*errors[0])

    def worked(self, tokens: int) -> None:
        """Tell that this order is a pass, and of how many tokens on this rank: what its time is compared by."""
        self._passes.append(tokens)

    def lead(self, target: object, order: str, *arguments: Any) -> Any:
        """On rank 0: have each rank call this method of its own target; rank 0's result.

        Raises:
            RankLost: a process of the group is gone, or does not answer.
            TrialError: another rank failed; rank 0's own errors come as they are.
        """
        if not dist.is_initialized():
            raise RankLost("the group is gone", where=f"rank {self.rank}", remedy="start another one")
        self.orders += 1
        with self._watched(order):
            self.share((order, arguments, self._folder))
            return self._carry_out(target, order, arguments)

    def follow(self, target: object) -> None:
        """On the others: call what rank 0 leads, until it dismisses."""
        while True:
            order, arguments, self._folder = self.share(None)
            if order == _STOP:
                return
            with self._watched(order):
                self._carry_out(target, order, arguments)

    def dismiss(self) -> None:
        """On rank 0: let the others return from ``follow``; the group stays."""
        self.share((_STOP, (), ""))

    def close(self) -> None:
        """Leave together; every rank must call it. A process that just ends may be aborted by what is left running."""
        if dist.is_initialized():
            with suppress(RuntimeError):  # whoever does not come is ended by who started it
                dist.monitored_barrier(self._control, _PARTING)
            self._part()

    def _watched(self, order: str) -> AbstractContextManager[None]:
        self._doing, self._began = order, time.monotonic()
        return self._watch.over(order, self.stacks)

    @property
    def stacks(self) -> Path | None:
        """The folder for what all ranks write down when they hang; rank 0 says which."""
        return Path(self._folder) if self._folder else None

    @stacks.setter
    def stacks(self, folder: Path | None) -> None:
        self._folder = str(folder or "")

    def _carry_out(self, target: object, order: str, arguments: tuple[Any, ...]) -> Any:
        result, own = None, None
        self._passes.clear()
        self._bound()
        began, waited = time.perf_counter(), WAITS.seconds
        try:
            result = getattr(target, order)(*arguments)
        except _TOLD as error:
            own = error
        except Exception as error:
            self._leave(error)
        if self._passes:
            seconds = time.perf_counter() - began - (WAITS.seconds - waited)
            self.stints.append(Stint(seconds, sum(self._passes)))
        try:
            errors = self._agree(own)
        except RuntimeError as error:
            self._leave(error)
        if errors and self.leads:
            raise own if own is not None else _of_rank(*errors[0])
        return result

    def _agree(self, own: Exception | None) -> list[tuple[int, Exception]]:
        """Errors by rank; next to nothing where there is none: one number is one message, more would be several."""
        failed = torch.tensor([int(own is not None)])
        dist.all_reduce(failed, op=dist.ReduceOp.MAX, group=self._control)
        if not failed.item():
            return []
        return [(rank, error) for rank, error in enumerate(self.gather(own)) if error is not None]

    def _bound(self) -> None:
        """Set all groups' limits, if need be; those that DeepSpeed made meanwhile came with torch's own."""
        if self._bounded == (now := (len(_world.pg_map), self._limit)):
            return
        self._bounded = now
        for group in _world.pg_map:
            _set_pg_timeout(self._limit, group)

    def _leave(self, error: Exception) -> NoReturn:
        """Note why, unless another rank did, and close all connections.

        Raises:
            RankLost: no rank failed, but one is gone or did not come.
            TrialError: what another rank noted; this rank's own error comes as it is.
        """
        if isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST):
            too_long = any(word in str(error) for word in _TIMED_OUT)
            heard = self._notes.wait_in_vain(place(error), too_long=too_long, listen=self.leads)
        else:
            if self.stacks and not self.leads and is_shortage(error):
                leave_word(self.stacks, self.rank, error)
            heard = Heard(failure=self._notes.fail(error))
        self._part(lost=True)
        failure = heard.failure
        if not failure:
            raise self._lost(error, heard) from error
        if failure["rank"] == self.rank:
            raise error
        told = f"{failure['kind']}: {failure['text']}"
        if failure["kind"] == "OutOfMemoryError":
            raise torch.OutOfMemoryError(f"rank {failure['rank']}: {told}") from error
        raise TrialError(told, where=f"rank {failure['rank']}", remedy="see the log of that rank") from error

    def _lost(self, error: Exception, heard: Heard) -> RankLost:
        """Who is missing, as far as this rank can tell: only rank 0 waits to hear of all."""
        silent = heard.silent(self.size) if self.leads else []
        named = ", ".join(f"rank {rank} on {self.hosts[rank]}" for rank in silent)
        if not heard.too_long:
            return RankLost(f"a process of the group is gone: {named or first_line(error)}", remedy=_REMEDY)
        limit = format_seconds(self._limit.total_seconds())
        if not silent:
            waited = ", ".join(f"rank {rank} in {where}" for rank, where in sorted(heard.waited.items()))
            return RankLost(f"the ranks waited for one another for {limit} in {self._doing}: {waited}", remedy=_REMEDY)
        told = f"{named} did not answer for {limit} in {self._doing}"
        if not self.stacks:
            return RankLost(told, remedy=_REMEDY)
        if not all(wrote(self.stacks, rank, time.monotonic() - self._began) for rank in silent):
            told += "; it wrote down no stacks: stopped, or its machine is gone"
        return RankLost(told, where=str(self.stacks / "rank-*.stacks"), remedy=_REMEDY)

    def _part(self, *, lost: bool = False) -> None:
        """Close all connections; DeepSpeed must not find its groups of before in the next group of this process."""
        self._watch.close()
        self._control = None  # connections close with the last one who knows them
        if lost and self.device.type == "cuda" and dist.is_initialized():
            _abort_process_group()  # to close NCCL's in order takes the others, who may be in a collective
        if not dist.is_initialized():
            return
        deepspeed = sys.modules.get("deepspeed")
        if deepspeed is not None and deepspeed.comm.is_initialized():
            deepspeed.comm.destroy_process_group()
        else:
            dist.destroy_process_group()


def _of_rank(rank: int, error: Exception) -> FtclusterError:
    """Another rank's error, with its place."""
    if isinstance(error, FtclusterError):
        error.where = f"rank {rank}: {error.where}" if error.where else f"rank {rank}"
        return error
    return TrialError(
        f"{type(error).__name__}: {first_line(error)}", where=f"rank {rank}", remedy="see the log of that rank"
    )
