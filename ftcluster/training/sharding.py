"""A trial over several processes: what each of them must know, and the group that rank 0 leads.

rank 0   Group(seat) ... group.engine(sharding) ... close()
others   serve(seat): build a replica of what rank 0 names, follow it until it names another, until it closes
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed import is_initialized

from ftcluster.config.environment import set_for_libraries
from ftcluster.config.schema import RunConfig
from ftcluster.config.sharding import shards, shares_sharded
from ftcluster.engine.precision import Precision, choose_device, choose_precision, precision_of
from ftcluster.engine.sharded.engine import ShardedEngine, ShardedPackEngine
from ftcluster.engine.sharded.ranks import RankLost, Ranks, Seat, rank_environment, rank_zero
from ftcluster.engine.sharded.settings import ShardedSettings, deepspeed_config, read_own
from ftcluster.errors import ConfigError, FtclusterError
from ftcluster.models.base import quieten_deepspeed

_BY_DEVICE = ("bf16", "fp32")  # precisions that engine.precision=auto chooses from


@dataclass(frozen=True)
class Sharding:
    """What every rank needs to take its part."""

    base: str
    revision: str
    trust_remote_code: bool
    device: str  # cpu | cuda
    precision: Precision
    checkpointing: bool
    deepspeed: str  # its JSON
    packs: bool  # trials share the base, each on a rank of its own
    exact: bool
    hang_after: float  # seconds that a rank waits for another; 0: as long as it takes

    @classmethod
    def of(cls, config: RunConfig, device: torch.device, precision: Precision) -> Sharding:
        """
        Raises:
            ConfigError: settings that DeepSpeed cannot do, or that the user's own file contradicts.
        """
        return cls(
            config.model.path,
            config.model.revision,
            config.model.trust_remote_code,
            device.type,
            precision,
            config.engine.activation_checkpointing,
            json.dumps(deepspeed_of(config, precision), sort_keys=True),
            shares_sharded(config),
            config.engine.mode == "exact",
            config.cluster.hang_after,
        )


def deepspeed_of(config: RunConfig, precision: Precision | None = None) -> dict[str, Any]:
    """DeepSpeed's JSON for a config.

    Raises:
        ConfigError: settings that DeepSpeed cannot do, or that the user's own file contradicts.
    """
    engine, full = config.engine, config.adapter.kind == "none"
    precision = precision or choose_precision(engine.precision, choose_device(engine.device), full=full)
    stage = 3 if shares_sharded(config) else None if engine.stage < 0 else engine.stage
    settings = ShardedSettings(
        stage=stage,
        offload_optimizer=engine.offload_optimizer or None,
        offload_parameters=engine.offload_parameters or None,
        nvme=Path(engine.nvme) if engine.nvme else None,
        hpz=engine.hpz or None,
        own=Path(engine.deepspeed_json) if engine.deepspeed_json else None,
    )
    own = read_own(settings.own) if settings.own else None
    # Adapters are clipped by the engine itself, so trials with other limits find their base loaded.
    clip = config.optim.clip if full else 0.0
    return deepspeed_config(settings, precision, clip=clip, ranks=config.cluster.ranks, own=own)


def check_layout(config: RunConfig) -> None:
    """Refuse what DeepSpeed cannot do on any device, and a file of the user's own that contradicts the config.

    Raises:
        ConfigError: every such combination and contradiction; those of the precision only where no device's would do.
    """
    if not shards(config):
        return
    full, wanted = config.adapter.kind == "none", config.engine.precision
    refusals: list[ConfigError] = []
    for name in _BY_DEVICE if wanted == "auto" else [wanted]:
        try:
            deepspeed_of(config, precision_of(name, full=full))
        except ConfigError as error:
            refusals.append(error)
        else:
            return
    first, *others = refusals
    always = [problem for problem in first.problems if all(problem in other.problems for other in others)]
    raise ConfigError(always or first.problems, where=first.where, remedy=first.remedy)


class Group:
    """Rank 0's side. The engine it gives stays warm until another one is asked for."""

    def __init__(self, seat: Seat | None = None) -> None:
        """Without a seat, in a group of its own."""
        self._seat = seat
        self._folder: Path | None = None
        self._ranks: Ranks | None = None
        self._engine: ShardedEngine | None = None

    def engine(self, sharding: Sharding) -> ShardedEngine:
        """A new engine on all ranks, in the place of the one before.

        Raises:
            RankLost: some rank did not come, or is gone.
        """
        if self._ranks is None:
            seat = self._seat or rank_zero("127.0.0.1", 1)
            device = device_of(sharding.device, seat)
            set_for_libraries(rank_environment(device))
            self._ranks = Ranks(seat, device)
            self._ranks.stacks = self._folder
        self._dismiss()
        self._ranks.share(sharding)
        kind = ShardedPackEngine if sharding.packs else ShardedEngine
        self._engine = kind(self._ranks, _replica(sharding, self._ranks))
        return self._engine

    def watch(self, folder: Path) -> None:
        """Ranks that hang leave their stacks in this folder from now on."""
        self._folder = folder
        if self._ranks is not None:
            self._ranks.stacks = folder

    @property
    def orders(self) -> int:
        """Led so far: a sign of life."""
        return self._ranks.orders if self._ranks is not None else 0

    def close(self) -> None:
        """Let the others go, and leave with them; of a group that lost a rank nothing is left."""
        if self._ranks is not None and is_initialized():
            with suppress(RankLost):  # there is nothing left to do together
                self._dismiss()
                self._ranks.share(None)
                self._ranks.close()
        self._ranks = self._engine = None

    def _dismiss(self) -> None:
        if self._engine is not None:
            self._engine.dismiss()
            self._engine = None


def serve(seat: Seat, kind: str) -> None:
    """What a rank other than 0 does on a ``kind`` of device, until rank 0 closes the group.

    Raises:
        RankLost: rank 0 or another rank is gone.
    """
    device = device_of(kind, seat)
    set_for_libraries(rank_environment(device))
    ranks = Ranks(seat, device)
    while (sharding := ranks.share(None)) is not None:
        try:
            replica = _replica(sharding, ranks)
        except RankLost:
            raise
        except FtclusterError:  # rank 0 tells it, and what comes next may be possible
            continue
        ranks.follow(replica)
    ranks.close()


def _replica(sharding: Sharding, ranks: Ranks) -> Any:
    quieten_deepspeed()
    # These need DeepSpeed.
    from ftcluster.engine.sharded.loading import BaseSource
    from ftcluster.engine.sharded.packs import PackedReplica
    from ftcluster.engine.sharded.replica import Replica

    source = BaseSource(
        Path(sharding.base),
        ranks.device,
        sharding.precision.weights,
        revision=sharding.revision,
        trust_remote_code=sharding.trust_remote_code,
    )
    told = json.loads(sharding.deepspeed)
    kind: Any = partial(PackedReplica, exact=sharding.exact) if sharding.packs else Replica
    replica: Any = None
    problem: FtclusterError | None = None
    try:
        replica = kind(source, sharding.precision, ranks, told, checkpointing=sharding.checkpointing)
    except FtclusterError as error:
        problem = error
    ranks.assemble()  # imports may take a rank longer than it may hang
    ranks.agree(problem)
    ranks.limit(sharding.hang_after)
    return replica


def device_of(kind: str, seat: Seat) -> torch.device:
    """A rank's device: of GPUs its only one, where it was given one, else that of its number."""
    if kind != "cuda":
        return torch.device(kind)
    return torch.device("cuda", 0 if torch.cuda.device_count() == 1 else seat.rank)
