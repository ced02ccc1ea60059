"""The report for programs: its numbers, without curves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ftcluster.report.findings import Setting, SweepReport
from ftcluster.report.sentences import sentences


def summary(report: SweepReport) -> dict[str, Any]:
    """Plain values, ready for JSON; settings in order of rank."""
    comparison, used = report.comparison, report.usage
    return {
        "sweep": comparison.title,
        "state": report.state,
        "reason": report.reason,
        "metric": comparison.metric,
        "direction": comparison.direction,
        "verdict": [sentence.replace("\u00a0", " ") for sentence in sentences(report)],
        "settings": [_setting(setting) for setting in report.settings],
        "influence": {
            "step": report.rung.step,
            "trials": report.influence.trials,
            "needed": report.influence.needed,
            "explained": report.influence.explained,
            "parameters": [
                asdict(share) | {"matters": share.matters, "negligible": share.negligible}
                for share in report.influence.shares
            ],
        },
        "pruned": [asdict(alike) for alike in report.pruned],
        "failed": [asdict(alike) for alike in report.failed],
        "steps": report.steps,
        "steps_without_stopping": report.steps_whole or None,
        "cluster": {
            "hosts_at_once": used.most,
            "utilisation": used.utilisation,
            "busy_host_seconds": used.busy,
            "available_host_seconds": used.available,
            "host_hours": used.host_hours,
            "gpu_hours": used.gpu_hours,
            "gpu_hour_price": used.price or None,
            "money": used.money,
        },
        "foretold": asdict(report.foretold) if report.foretold else None,
    }


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "parameters": dict(setting.parameters),
        "mean": setting.mean,
        "low": setting.low,
        "high": setting.high,
        "trials": [
            {"name": trial.name, "state": trial.state, "step": trial.step, "value": trial.score}
            for trial in setting.trials
        ],
    }
