"""Takes the pictures of the README: the comparison report of a finished sweep, and MLflow's own comparison of it.

    python benchmarks/screenshots.py HOME SWEEP [--out docs/images]

``HOME/SWEEP/comparison.html`` must be there (``ftcluster compare SWEEP`` writes it). MLflow is started on a free
port of 127.0.0.1 on the home's own store and ended afterwards. Needs Chromium, and a font with Chinese
characters where answers are Chinese (fonts-noto-cjk on Debian).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Page, sync_playwright

from ftcluster.config.environment import child_environment
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.mlflow_store import artifact_root, open_client, tracking_uri

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTH = 1280
START_SECONDS = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("sweep")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--chromium", default="", help="its path; default: the one on PATH")
    asked = parser.parse_args()
    chromium = asked.chromium or next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if not chromium:
        print("no Chromium on PATH; name one with --chromium", file=sys.stderr)
        return 2
    asked.out.mkdir(parents=True, exist_ok=True)
    with Ledger.open(asked.home) as ledger:
        sweep = ledger.find(asked.sweep)
        trials = ledger.runs(parent=sweep.name)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        report(browser, Path(sweep.folder) / "comparison.html", asked.out)
        with mlflow_server(asked.home.absolute()) as url:
            mlflow(browser, url, trials, asked.out)
        browser.close()
    for picture in sorted(asked.out.glob("*.png")):
        print(f"{picture}  {picture.stat().st_size / 1024:.0f} KiB")
    return 0


def report(browser: Browser, file: Path, out: Path) -> None:
    """One picture per part of the report; answers from where the models disagree."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 900})
    page.goto(file.absolute().as_uri())
    for part in ("trials", "curves", "parameters", "answers"):
        tab = page.locator(f"#tab-{part}")
        if not tab.count():
            continue
        tab.click()
        if part == "answers" and (disagree := page.locator("[data-view=disagree]")).count():
            disagree.click()
        settle(page, "main")
        page.screenshot(path=out / f"report-{part}.png", full_page=part in ("trials", "parameters"))
    page.close()


def mlflow(browser: Browser, url: str, trials: list[RunRow], out: Path) -> None:
    """Charts of the sweep's trials, and MLflow's page that compares them, both without its side panel."""
    ids = [trial.mlflow_run_id for trial in trials if trial.mlflow_run_id]
    experiment = open_client(url).get_run(ids[0]).info.experiment_id
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    mode = "workflowType=machine_learning"
    page.goto(f"{url}/#/experiments/{experiment}/runs?{mode}&compareRunsMode=CHART")
    page.locator("button[data-component-id*=runnamecellrenderer]").first.click(timeout=60_000)  # the sweep opens
    page.get_by_text(trials[0].name, exact=True).first.wait_for(timeout=60_000)
    page.locator(".main-svg").first.wait_for(timeout=60_000)
    settle(page, "body")
    page.screenshot(path=out / "mlflow-charts.png")
    chosen, within = quote(json.dumps(ids)), quote(json.dumps([experiment]))
    page.goto(f"{url}/#/compare-runs?runs={chosen}&experiments={within}&{mode}")
    page.get_by_text("Parallel Coordinates Plot").first.wait_for(timeout=60_000)
    settle(page, "body")
    page.screenshot(path=out / "mlflow-compare.png")
    page.close()


def settle(page: Page, selector: str) -> None:
    """Until what is inside has not changed for half a second: figures are drawn after the page has loaded."""
    page.wait_for_function(
        """(selector) => new Promise((done) => {
            let timer = setTimeout(() => done(true), 500);
            const watcher = new MutationObserver(() => {
                clearTimeout(timer);
                timer = setTimeout(() => { watcher.disconnect(); done(true); }, 500);
            });
            watcher.observe(document.querySelector(selector), { childList: true, subtree: true, attributes: true });
        })""",
        arg=selector,
        timeout=60_000,
    )


@contextmanager
def mlflow_server(home: Path) -> Iterator[str]:
    """MLflow on the home's embedded store, in a process group of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = tracking_uri(home, "")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", artifact_root(store) or ""]
    server = subprocess.Popen(
        command,
        env=child_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_healthy(server, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def wait_until_healthy(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"MLflow did not start at {url}")


if __name__ == "__main__":
    sys.exit(main())
