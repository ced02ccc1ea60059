"""Whether a trial is trained by DeepSpeed, over one process or several; and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator

from ftcluster.config.schema import EngineConfig, RunConfig

WEIGHTS = 3  # the stage that shards weights
_ONLY_SHARDED = ("stage", "offload_optimizer", "offload_parameters", "nvme", "hpz", "deepspeed_json")


def shards(config: RunConfig) -> bool:
    """``engine.name=auto`` takes DeepSpeed where a trial has several ranks; packs share a sharded base at stage 3."""
    name, ranks = config.engine.name, config.cluster.ranks
    return name == "deepspeed" or (name == "auto" and ranks > 1) or shares_sharded(config)


def shares_sharded(config: RunConfig) -> bool:
    """Whether trials train together on a base that is sharded: over ranks, or off the GPU."""
    return config.engine.name == "packed" and (config.cluster.ranks > 1 or config.engine.stage == WEIGHTS)


def sharding_problems(config: RunConfig) -> Iterator[str]:
    """Combinations that cannot work, each with its remedy."""
    engine, cluster = config.engine, config.cluster
    if cluster.ranks > 1 and not shards(config):
        yield (
            f"cluster.ranks={cluster.ranks} shards a trial and engine.name={engine.name} cannot; "
            "use engine=deepspeed, or cluster.ranks=1."
        )
    if not shards(config):
        for name in _ONLY_SHARDED:
            if getattr(engine, name) != getattr(EngineConfig(), name):
                yield f"engine.{name} is DeepSpeed's and engine.name={engine.name}; use engine=deepspeed."
    if shares_sharded(config) and engine.stage not in (-1, WEIGHTS):
        yield (
            f"engine.stage={engine.stage} leaves the base whole on every rank; "
            "use engine.stage=3 to pack over ranks, or cluster.ranks=1."
        )
    if cluster.ranks > 1 and 0 < cluster.gpus != 1:
        yield f"cluster.gpus={cluster.gpus:g} is per rank, and a rank takes one GPU or none; use cluster.gpus=1."
    if not -1 <= engine.stage <= 3:
        yield f"engine.stage={engine.stage} must be 0, 1, 2 or 3, or -1 for 2."
