"""A group of processes that train together, one per device: rank 0 leads, the others follow.

Rank 0 is told what to do by a training loop, as any engine is. It hands each call on, and every rank makes it on its
own part; so loop, tracker and checkpoints know of one process only. Owns the group, the handing on, and what becomes
of an error on one rank. Does not start processes: host, port, rank and size are arguments.

    rank 0   lead(order) --broadcast--> carry out --------> agree: did all succeed? --> result, or the first error
    rank 1   follow()    <------------- carry out --------> agree                   --> wait for the next order

An error that is told (a user's, a full disk) leaves the group whole: every rank reaches the agreement. Any other leaves
some ranks inside a collective that never ends. So the rank that met it notes it in the store, and leaves the group:
its connections close, the collectives of the others fail, and they find the note.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from ftcluster.errors import FtclusterError, TrialError

_FOREVER = timedelta(days=365)  # a warm group may wait for its next trial as long as it likes
_NOTE = "failure"
_STOP = "stop"
_TOLD = (FtclusterError, ValueError, OSError)  # raised outside collectives, or on every rank alike


class RankLost(TrialError):
    """A process of the group is gone; the same trial can go on from its checkpoint in another group."""

    retryable = True


@dataclass(frozen=True)
class Seat:
    """A process's place in a group, and where the group meets: an address of rank 0's machine."""

    host: str
    port: int
    rank: int
    size: int


def rank_environment(device: torch.device) -> dict[str, str]:
    """Variables that DeepSpeed reads in a rank's process; whoever starts the process sets them before."""
    return {"LOCAL_RANK": str(device.index or 0), "DS_ACCELERATOR": device.type}


class Ranks:
    """This process's membership of a group; there is one group in a process at a time."""

    def __init__(self, seat: Seat, device: torch.device, *, timeout: timedelta = timedelta(minutes=30)) -> None:
        """Meet the others; every rank must come. ``timeout`` is for meeting, and for a collective of a call.

        Raises:
            RankLost: the others did not come, or the port is taken.
        """
        self.rank, self.size, self.device = seat.rank, seat.size, device
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            self._store = TCPStore(seat.host, seat.port, seat.size, seat.rank == 0, timeout)
            dist.init_process_group(
                backend,
                store=PrefixStore("group", self._store),
                rank=seat.rank,
                world_size=seat.size,
                timeout=timeout,
            )
            self._control = dist.new_group(backend="gloo", timeout=_FOREVER)
        except (dist.DistError, RuntimeError) as error:
            raise RankLost(
                f"rank {seat.rank} of {seat.size} did not meet the others: {_line(error)}",
                where=f"{seat.host}:{seat.port}",
                remedy="start every rank with the same host and a free port of rank 0's machine",
            ) from error

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Add up in place over all ranks, all of which must call it."""
        dist.all_reduce(values)
        return values

    def share(self, value: Any) -> Any:
        """Rank 0's value; every rank must call it."""
        box = [value if self.leads else None]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order; every rank must call it."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def lead(self, target: object, order: str, *arguments: Any) -> Any:
        """On rank 0: have each rank call this method of its own target; rank 0's result.

        Raises:
            RankLost: a process of the group is gone.
            TrialError: another rank failed; rank 0's own errors come as they are.
        """
        if not dist.is_initialized():
            raise RankLost("the group is gone", where=f"rank {self.rank}", remedy="start another one")
        try:
            self.share((order, arguments))
        except RuntimeError as error:
            self._leave(error)
        return self._carry_out(target, order, arguments)

    def follow(self, target: object) -> None:
        """On the others: call what rank 0 leads, until it dismisses."""
        while True:
            try:
                order, arguments = self.share(None)
            except RuntimeError as error:
                self._leave(error)
            if order == _STOP:
                return
            self._carry_out(target, order, arguments)

    def dismiss(self) -> None:
        """On rank 0: let the others return from ``follow``; the group stays."""
        self.share((_STOP, ()))

    def close(self) -> None:
        """Leave together; every rank must call it. A process that just ends may be aborted by what is left running."""
        if dist.is_initialized():
            dist.barrier(group=self._control)
            dist.destroy_process_group()

    def _carry_out(self, target: object, order: str, arguments: tuple[Any, ...]) -> Any:
        result, own = None, None
        try:
            result = getattr(target, order)(*arguments)
        except _TOLD as error:
            own = error
        except Exception as error:
            self._leave(error)
        try:
            errors = self._agree(own)
        except RuntimeError as error:
            self._leave(error)
        if errors and self.leads:
            raise own if own is not None else _of_rank(*errors[0])
        return result

    def _agree(self, own: Exception | None) -> list[tuple[int, Exception]]:
        """Errors by rank; next to nothing where there is none."""
        failed = torch.tensor([int(own is not None)])
        dist.all_reduce(failed, op=dist.ReduceOp.MAX, group=self._control)
        if not failed.item():
            return []
        return [(rank, error) for rank, error in enumerate(self.gather(own)) if error is not None]

    def _leave(self, error: Exception) -> NoReturn:
        """Note why, unless another rank did, and close all connections.

        Raises:
            RankLost: no rank noted anything, and this one only lost its connections.
            TrialError: what another rank noted; this rank's own error comes as it is.
        """
        broken = "Connection" in str(error) or isinstance(error, dist.DistError)
        note = {} if broken else {"rank": self.rank, "kind": type(error).__name__, "text": _line(error)}
        try:
            found = json.loads(self._store.compare_set(_NOTE, "", json.dumps(note)) if note else self._noted())
        except (RuntimeError, ValueError):  # rank 0, where the store is, is gone
            found = note
        if dist.is_initialized():
            dist.destroy_process_group()
        if not found:
            remedy = "the trial goes on from its newest checkpoint in another group"
            raise RankLost(f"a process of the group is gone: {_line(error)}", remedy=remedy) from error
        if found["rank"] == self.rank:
            raise error
        told = f"{found['kind']}: {found['text']}"
        if found["kind"] == "OutOfMemoryError":
            raise torch.OutOfMemoryError(f"rank {found['rank']}: {told}") from error
        raise TrialError(told, where=f"rank {found['rank']}", remedy="see the log of that rank") from error

    def _noted(self) -> bytes | str:
        return self._store.get(_NOTE) if self._store.check([_NOTE]) else "{}"


def _of_rank(rank: int, error: Exception) -> FtclusterError:
    """Another rank's error, with its place."""
    if isinstance(error, FtclusterError):
        error.where = f"rank {rank}: {error.where}" if error.where else f"rank {rank}"
        return error
    return TrialError(
        f"{type(error).__name__}: {_line(error)}", where=f"rank {rank}", remedy="see the log of that rank"
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
