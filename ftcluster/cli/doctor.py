"""``ftcluster doctor``: is this machine ready, and the cluster it works with?"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from ftcluster.cli.arguments import ConfigDir, Home, Json, Overrides
from ftcluster.cli.output import console, notices, print_json

if TYPE_CHECKING:
    from ftcluster.cli.diagnosis import Finding

_MARKS = {"ok": "[green]ok  [/green]", "warn": "[yellow]warn[/yellow]", "fail": "[red]FAIL[/red]"}
Quick = Annotated[bool, typer.Option("--quick", help="Start nothing: no all-reduce, no look at the cluster's nodes.")]


def doctor(
    overrides: Overrides = None,
    quick: Quick = False,
    config_dir: ConfigDir = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check this machine, and the cluster if one is configured: versions, GPUs, disks, clocks, network, MLflow, Ray.

      ftcluster doctor
      ftcluster doctor cluster=ray cluster.address=10.0.0.5:6379 tracking.uri=http://mlflow:5000

    Nothing is installed or changed. Each line that is not ok says what to do. Exit code 1 if anything that is needed
    fails.
    """
    from ftcluster.cli.diagnosis import Place, diagnose
    from ftcluster.cli.ui import PORT
    from ftcluster.config.compose import compose, resolve_home
    from ftcluster.config.environment import ray_address, tracking_uri
    from ftcluster.tracking import mlflow_store

    config = compose(overrides or [], config_dir=config_dir)
    folder = home or resolve_home(config)
    store = mlflow_store.tracking_uri(folder, tracking_uri(config.tracking.uri))
    place = Place(folder.absolute(), store, ray_address(config.cluster.address), PORT, quick)
    findings = []
    with ExitStack() as stack:
        status = stack.enter_context(notices().status("")) if notices().is_terminal else None
        for finding in diagnose(place, lambda name: status.update(f"{name} ...") if status else None):
            findings.append(finding)
            if not as_json:
                _print(finding)
    if as_json:
        print_json(findings)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def _print(finding: Finding) -> None:
    from rich.markup import escape

    console().print(f"{_MARKS[finding.state]}  {finding.name:<12}  {escape(finding.detail)}", soft_wrap=True)
    if finding.remedy:
        console().print(f"{'':20}-> {escape(finding.remedy)}", soft_wrap=True)
