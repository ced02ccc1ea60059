"""What engines agree on about saved trials, so that a trial may go on in another engine."""

from __future__ import annotations

from pathlib import Path

from ftcluster.errors import BadAdapter
from ftcluster.models.base import Base
from ftcluster.models.integrity import read_integrity

OPTIMIZER = "optimizer.safetensors"  # "<exp_avg | exp_avg_sq | step>:<parameter>" -> tensor


def check_base(base: Base, folder: Path) -> None:
    """An adapter is nothing without the weights it was trained on.

    Raises:
        BadAdapter: it was trained on other weights than this base's.
    """
    trained_on = read_integrity(folder).base_revision
    if trained_on != base.revision:
        raise BadAdapter(
            f"the adapter was trained on base {trained_on[:12]}, this base is {base.revision[:12]}",
            where=str(folder),
            remedy=f"put the weights it was trained on back into {base.folder}",
        )
