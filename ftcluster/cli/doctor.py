"""``ftcluster doctor``: is this machine ready?"""

from __future__ import annotations

import typer

from ftcluster.cli.arguments import ConfigDir, Home, Json, Overrides
from ftcluster.cli.output import console, print_json

_MARKS = {"ok": "[green]ok  [/green]", "warn": "[yellow]warn[/yellow]", "fail": "[red]FAIL[/red]"}


def doctor(overrides: Overrides = None, config_dir: ConfigDir = None, home: Home = None, as_json: Json = False) -> None:
    """Check this machine: versions, GPUs, memory, disk, MLflow, Ray. Exit code 1 if anything fails.

      ftcluster doctor
      ftcluster doctor cluster=ray cluster.address=10.0.0.5:6379 tracking.uri=http://mlflow:5000

    Nothing is installed, started or changed. Each line that is not ok says what to do.
    """
    from rich.markup import escape

    from ftcluster.cli.diagnosis import diagnose
    from ftcluster.cli.ui import PORT
    from ftcluster.config.compose import compose, resolve_home
    from ftcluster.config.environment import ray_address, tracking_uri
    from ftcluster.tracking import mlflow_store

    config = compose(overrides or [], config_dir=config_dir)
    folder = home or resolve_home(config)
    store = mlflow_store.tracking_uri(folder, tracking_uri(config.tracking.uri))
    findings = []
    for finding in diagnose(folder, store, ray_address(config.cluster.address), PORT):
        findings.append(finding)
        if not as_json:
            console().print(f"{_MARKS[finding.state]}  {finding.name:<12}  {escape(finding.detail)}", soft_wrap=True)
            if finding.remedy:
                console().print(f"{'':20}-> {escape(finding.remedy)}", soft_wrap=True)
    if as_json:
        print_json(findings)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)
