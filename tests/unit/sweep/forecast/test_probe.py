"""What a probe that was killed left behind is removed by the next one, and by nobody while it lives."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.ledger.process import this_process
from ftcluster.sweep.forecast.probe import Prober


class Unused(Cluster):
    """No host is started."""

    def __init__(self) -> None: ...


def left_behind(home: Path, name: str, *, dead: bool) -> Path:
    folder = home / f".probe-{name}"
    folder.mkdir()
    owner = replace(this_process(), started=1.0) if dead else this_process()
    (folder / "owner.json").write_text(json.dumps(asdict(owner)))
    return folder


def test_only_what_nobody_uses_any_more_is_removed(tmp_path: Path) -> None:
    gone, alive = left_behind(tmp_path, "gone", dead=True), left_behind(tmp_path, "alive", dead=False)
    with Prober(Unused(), tmp_path):
        assert len(list(tmp_path.iterdir())) == 2
        assert not gone.exists()
    assert list(tmp_path.iterdir()) == [alive]
