"""How many trials a host trains at a time; memory may allow fewer."""

from __future__ import annotations

from collections.abc import Collection

from ftcluster.config.schema import RunConfig

# On a GPU only grouped products make packs worth while.
_PACK, _PACK_CUDA_EXACT, _PACK_CUDA_FAST = 4, 1, 16


def places_at_most(config: RunConfig) -> int:
    """As far as can be said without a look at the model, for which torch would have to be imported."""
    return config.cluster.trials_per_host or config.cluster.ranks * max(_PACK, _PACK_CUDA_EXACT, _PACK_CUDA_FAST)


def trials_per_host(config: RunConfig, swept: Collection[str], *, gpus: bool) -> int:
    """Of a sweep over ``swept``."""
    from ftcluster.training.bench import packs  # brings torch

    several_bases = any(
        key in ("adapter.kind", "adapter.dora") or key.startswith(("engine.", "model.")) for key in swept
    )
    if several_bases or not packs(config):
        return 1  # one base is enough for a host
    on_gpu = _PACK_CUDA_FAST if config.engine.mode == "fast" else _PACK_CUDA_EXACT
    return config.cluster.trials_per_host or config.cluster.ranks * (on_gpu if gpus else _PACK)
