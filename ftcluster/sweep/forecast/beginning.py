"""What is looked at before a sweep is launched: whether its trials fit the GPUs there are, and its files the disk.

Nothing is trained for it. Memory is foretold only where something is known to compare it with: GPUs, or
``cluster.memory_gib``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ftcluster.config.environment import ray_address
from ftcluster.config.schema import RunConfig
from ftcluster.errors import UsageError
from ftcluster.sweep.forecast.disk import disk_at_most, refuse_full_disk
from ftcluster.sweep.forecast.fitting import Room, cards_of, fits_of, fitted, looked_at, misfits, room_of
from ftcluster.sweep.forecast.imagined import Lengths
from ftcluster.sweep.opening import Opening
from ftcluster.sweep.plan import SweepPlan


def made_ready(plan: SweepPlan, opening: Opening, tell: Callable[[str], None]) -> SweepPlan:
    """The plan of a sweep that may start, without trials that are too large; people are told which.

    Raises:
        ConfigError: the sweep refuses such trials, or nothing would be left.
        StoreError: it could fill the disk.
    """
    room = _room(plan.base, opening)
    if room.bytes:
        wrong = misfits(plan, fits_of(looked_at(plan), Lengths(), room), room)
        plan = fitted(plan, wrong)
        for misfit in wrong:
            tell(f"too large: {misfit}")
    refuse_full_disk(plan, disk_at_most(plan))
    return plan


def _room(base: RunConfig, opening: Opening) -> Room:
    """Asks the cluster where there may be GPUs."""
    wanted = base.cluster
    elsewhere = ray_address(wanted.address) or torch.cuda.is_available()
    if wanted.gpus and base.engine.device != "cpu" and elsewhere:
        try:
            resources = opening.wish(base).shape.resources
        except UsageError:  # the sweep finds out itself, and can be resumed once the cluster is there
            return Room()
        return room_of(base, resources, cards_of(resources))
    return Room(round(wanted.memory_gib * 2**30), "cluster.memory_gib")
