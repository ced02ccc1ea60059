"""``ftcluster demo``: the main job on a tiny model."""

from __future__ import annotations

from ftcluster.cli.arguments import Home, Json
from ftcluster.cli.output import console, notices, print_json
from ftcluster.cli.progress import TrainingBar
from ftcluster.config.environment import default_home


def demo(
    home: Home = None,
    as_json: Json = False,
) -> None:
    """See all of it work on a tiny model: pre-train, sweep, compare, promote, use. No GPU, no download, 4 minutes."""
    from ftcluster.demo.run import run_demo

    place = (home or default_home()).expanduser().absolute()
    with TrainingBar() as training:
        result = run_demo(place, notices() if as_json else console(), training.observe)
    if as_json:
        print_json(result)
