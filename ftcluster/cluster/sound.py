"""The GPUs of a training that nobody placed: those of this machine that are sound and nobody else's.

A host on Ray looks after the GPUs that it was given; a training outside Ray would take the first ones, whatever is
wrong with them or running on them.
"""

from __future__ import annotations

from ftcluster.cluster.health import judge
from ftcluster.cluster.machine import read_gpus
from ftcluster.cluster.probe import chosen_probe
from ftcluster.cluster.telemetry import allowed_gpus
from ftcluster.config.environment import see_only_gpus, visible_gpus
from ftcluster.errors import UsageError


def keep_to_sound_gpus(ranks: int, device: str) -> list[str]:
    """See no others from now on, in this process and those it starts; what is left out, and why.

    Whoever sets CUDA_VISIBLE_DEVICES has chosen. Nothing is chosen among cards that are divided by MIG, for an engine
    on a CPU, and where no driver tells of GPUs.

    Raises:
        UsageError: there are fewer than ``ranks``.
    """
    visible = visible_gpus()
    if device == "cpu" or visible == "":
        return []
    gpus = allowed_gpus(read_gpus(chosen_probe()).gpus, visible)
    if not gpus or any(gpu.slices for gpu in gpus):
        return []
    found = [(gpu, judge(gpu)) for gpu in gpus]
    sound = [gpu for gpu, health in found if not health.unusable or visible is not None]
    left_out = [
        f"GPU {gpu.uuid or gpu.index} is left out: {health.reason}" for gpu, health in found if gpu not in sound
    ]
    if len(sound) < ranks:
        raise UsageError(
            "; ".join([f"{ranks} ranks need as many GPUs, and this machine has {len(sound)} to use", *left_out]),
            where="cluster.ranks",
            remedy="ask for fewer, set CUDA_VISIBLE_DEVICES to use some all the same, or set engine.device=cpu",
        )
    if left_out:
        see_only_gpus([gpu.uuid or str(gpu.index) for gpu in sound])
    return left_out
