"""The whole product in minutes: make a model, sweep, compare, promote, and use the result without ftcluster.

Every step is what the verb of the same name does; nothing here is special to the demo but its order.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ftcluster.comparison.compare import Compared, compare
from ftcluster.comparison.table import render
from ftcluster.config.environment import home_option
from ftcluster.demo.plain import plain_exact_match
from ftcluster.demo.world import make_base, make_texts, make_untrained
from ftcluster.errors import TrialError
from ftcluster.ledger.store import Ledger
from ftcluster.registry.promotion import Promotion, promote
from ftcluster.sweep.launch import SweepResult, register, run_sweep
from ftcluster.sweep.opening import Opening
from ftcluster.sweep.plan import make_plan
from ftcluster.sweep.specification import read_sweep
from ftcluster.training.loop import Progress
from ftcluster.units import format_seconds

SWEEP = "tool_calls"
MODEL = "tool-calls"


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured on test prompts no run was trained or chosen on; matches are shares from 0 to 1."""

    sweep: str
    champion: str
    base_exact_match: float
    champion_exact_match: float
    plain_exact_match: float  # by transformers and PEFT alone
    page: Path
    seconds: float


def run_demo(home: Path, console: Console, observe: Callable[[Progress, int], None]) -> DemoResult:
    """Run the main job from nothing to a promoted adapter.

    Raises:
        FtclusterError: whatever a step raises; what was done stays and a second run goes on from there.
    """
    started = time.monotonic()

    def heading(number: int, text: str) -> None:
        elapsed = format_seconds(time.monotonic() - started)
        console.print(f"\n[bold]{number}. {text}[/bold] [dim]({elapsed})[/dim]", soft_wrap=True)

    heading(1, "A tiny Qwen2 model, made here and pre-trained by a full fine-tune on generated text")
    make_untrained(home / "demo")
    make_texts(home / "demo")
    make_base(home, observe)
    with Ledger.open(home) as ledger:
        heading(2, "A sweep of LoRA trials that turn sentences into tool calls, on Ray")
        result = _sweep(home, ledger, console)
        heading(3, "The best trials and the base on the same test prompts")
        found = compare(ledger, [result.name], home=home, top=3, now=time.time())
        console.print(render(found.comparison, console.width))
        heading(4, "The best adapter into the model registry")
        promotion = promote(ledger, result.name, home=home, model_name=MODEL, by="ftcluster demo")
        console.print(f"{promotion.run} is {promotion.model} version {promotion.version}, alias {promotion.alias}")
        heading(5, "The champion, loaded by plain transformers and PEFT")
        plain = _plain(promotion, found)
    shown = _result(result, found, plain, time.monotonic() - started)
    _farewell(shown, home, console)
    return shown


def _sweep(home: Path, ledger: Ledger, console: Console) -> SweepResult:
    spec, base = read_sweep(SWEEP, [f"home={home}"])
    with Opening(base, spec.budget.trials, spec.space) as opening:
        opening.begin()
        plan = make_plan(spec, base)
        return run_sweep(register(plan, ledger), plan, ledger, console, opening)


def _plain(promotion: Promotion, found: Compared) -> float:
    record = next(c.record for c in found.comparison.contenders if c.name == promotion.run)
    if record is None:
        raise TrialError(f"{promotion.run} has no test record", remedy="run ftcluster compare again")
    return plain_exact_match(promotion, record)


def _result(result: SweepResult, found: Compared, plain: float, seconds: float) -> DemoResult:
    best, base = found.comparison.best, found.comparison.base
    if best is None or best.record is None or base is None:
        raise TrialError("the comparison has no test records", remedy=f"ftcluster compare {result.name}")
    return DemoResult(
        sweep=result.name,
        champion=best.name,
        base_exact_match=base.exact_match,
        champion_exact_match=best.record.exact_match,
        plain_exact_match=plain,
        page=found.page,
        seconds=seconds,
    )


def _farewell(result: DemoResult, home: Path, console: Console) -> None:
    option = home_option(home)
    console.print(
        f"\n[bold green]Test prompts answered exactly: base {result.base_exact_match:.0%}, "
        f"champion {result.champion_exact_match:.0%}, the same adapter in plain transformers + PEFT "
        f"{result.plain_exact_match:.0%}[/] [dim]({format_seconds(result.seconds)} in all)[/dim]\n",
        soft_wrap=True,
    )
    lines = {
        "report": str(result.page),
        "adapter": str(home / result.sweep / result.champion / "adapter"),
        "MLflow": f"ftcluster ui{option}",
        "talk to it": f"ftcluster chat {MODEL}@champion{option}",
        "all trials": f"ftcluster runs {result.sweep}{option}",
        "another sweep": f"ftcluster sweep {SWEEP}{option} budget.trials=12",
        "your own data": "ftcluster train experiment=lora_sft model=folder model.path=DIR data=jsonl data.train=[FILE]",
    }
    for name, text in lines.items():
        console.print(f"  {name:14} {text}", markup=False, highlight=False, soft_wrap=True)
    if sys.prefix != sys.base_prefix:
        console.print(f"  (ftcluster is {Path(sys.prefix) / 'bin' / 'ftcluster'})", highlight=False, soft_wrap=True)
