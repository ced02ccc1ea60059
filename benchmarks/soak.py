"""Many small trials whose driver and hosts are killed again and again, against an undisturbed twin of the same sweep.

    python benchmarks/soak.py [--trials 1000] [--seed 1] [--every 20]

Who is killed, and when, is drawn from the seed: the driver, or one of the hosts, every so many seconds on average. The
same command then goes on with the sweep. In the end five things are looked at, each of which must hold:

    I1  every trial ended, once, in the state in which its twin ended
    I2  its metrics are its twin's, to the bit, in its records and in MLflow, each (name, step) once
    I3  no process of the sweep, no trial and no MLflow run is left running
    I4  its adapter has its twin's bytes: nothing was loaded that was saved by halves
    I5  the same adapter is promoted

The last line is one JSON object; `ratio` is the twin's time over that of the sweep that was killed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from programs import Program, call, end_all, start
from sweep_outcomes import Ended, assert_told_once, outcome
from training_samples import make_world

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger

NAME = "soak"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills, on average")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        words = ["sweep", str(_sweep_file(place, options.trials)), "--resume", "--home"]
        twin, home, log = place / "twin", place / "home", place / "log"
        began = time.perf_counter()
        soak([*words, str(twin)], log, random.Random(options.seed), math.inf)
        undisturbed = time.perf_counter() - began
        print(f"the twin took {undisturbed:.0f} s", flush=True)
        try:
            began = time.perf_counter()
            killed = soak([*words, str(home)], log, random.Random(options.seed), options.every)
            disturbed = time.perf_counter() - began
        finally:
            end_all()
        print(f"killed drivers and hosts: {killed}; it took {disturbed:.0f} s", flush=True)
        held = checks(home, twin, place)
    for name, problem in held.items():
        print(f"{name}: {problem or 'holds'}")
    report = {
        "ratio": round(undisturbed / disturbed, 3),
        "held": not any(held.values()),
        "trials": options.trials,
        **{f"killed_{who}": count for who, count in killed.items()},
        "twin_s": round(undisturbed, 1),
        "killed_s": round(disturbed, 1),
        "seed": options.seed,
    }
    print(json.dumps(report))
    return 1 if any(held.values()) else 0


def _sweep_file(folder: Path, trials: int) -> Path:
    world = make_world(folder)
    sweep = {
        "name": NAME,
        "base": world.words("optim.duration=18 steps", "evaluation.every=6 steps", "tracking.log_every=3"),
        "space": {"optim.lr": "tag(log, interval(1e-4, 3e-2))", "adapter.rank": "choice(2, 4, 8)"},
        "sampler": {"name": "qmc", "seed": 3},
        "pruner": {"name": "halving", "first": "2 steps", "eta": 3},
        "budget": {"trials": trials},
    }
    file = folder / "soak.yaml"
    file.write_text(json.dumps(sweep))
    return file


def soak(words: list[str], log: Path, draw: random.Random, every: float) -> dict[str, int]:
    """Run the sweep to its end, and kill what the dice say, every so many seconds or never; how many of whom."""
    killed = {"drivers": 0, "hosts": 0}
    process = start(words, log)
    while True:
        until = time.monotonic() + every * draw.expovariate(1)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        if (code := process.poll()) == 0:
            return killed
        if code is not None:
            raise SystemExit(f"the sweep ended with {code}:\n{log.read_text()[-3000:]}")
        if draw.random() < 0.5 and (hosts := _hosts(process)):
            draw.choice(hosts).kill()
            killed["hosts"] += 1
            continue
        process.kill()
        process.wait(60)
        killed["drivers"] += 1
        process = start(words, log)


def _hosts(process: Program) -> list[psutil.Process]:
    below = psutil.Process(process.pid).children(recursive=True)
    return sorted((one for one in below if "_HostActor" in "".join(one.cmdline())), key=lambda one: one.pid)


def checks(home: Path, twin: Path, folder: Path) -> dict[str, str]:
    """What does not hold, by number; empty: it does."""
    mine, theirs = outcome(home, NAME), outcome(twin, NAME)
    return {
        "I1": _differences(mine, theirs, "state", "step"),
        "I2": _differences(mine, theirs, "metrics", "points") or _told(home),
        "I3": _left(home),
        "I4": _differences(mine, theirs, "weights"),
        "I5": _promoted(home, twin, folder),
    }


def _differences(mine: dict[str, Ended], theirs: dict[str, Ended], *fields: str) -> str:
    if mine.keys() != theirs.keys():
        return f"{len(mine)} trials instead of {len(theirs)}"
    others = [name for name in mine if any(getattr(mine[name], f) != getattr(theirs[name], f) for f in fields)]
    return f"{len(others)} trials differ in {' or '.join(fields)}: {', '.join(others[:5])}" if others else ""


def _told(home: Path) -> str:
    try:
        assert_told_once(home, NAME)
    except AssertionError as error:
        return f"MLflow: {error}"
    return ""


def _left(home: Path) -> str:
    with Ledger.open(home) as ledger:
        running = [row.name for row in ledger.runs() if not row.state.ended or row.state is RunState.RUNNING]
    deadline = time.monotonic() + 60
    while (left := _processes(home)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return ", ".join([*running, *left])


def _processes(home: Path) -> list[str]:
    """Processes with a file of the sweep open."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(home) in file.path for file in process.open_files()):
                found.append(f"process {process.pid}")
        except psutil.Error:
            continue
    return found


def _promoted(home: Path, twin: Path, folder: Path) -> str:
    found: list[dict[str, Any]] = []
    for place in (home, twin):
        file = folder / f"promoted-{place.name}"
        words = ["promote", NAME, "--force", "soak", "--json", "--home", str(place)]
        text = call(words, file)
        found.append(json.loads(text[text.index("{") :])["promotion"])
    mine, theirs = ((one["run"], one["evidence"]["adapter"]["sha256"]) for one in found)
    return "" if mine == theirs else f"{mine} instead of {theirs}"


if __name__ == "__main__":
    sys.exit(main())
