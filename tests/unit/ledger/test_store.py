"""The ledger: names, states, owners and reports."""

import itertools
import math
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.errors import StoreError, UsageError
from ftcluster.ledger.process import Owner, is_alive, this_process
from ftcluster.ledger.store import Ledger

ELSEWHERE = Owner("elsewhere", 7, 1.0, "boot")


@pytest.fixture
def home(either):
    return either


@pytest.fixture
def sweep(ledger, row):
    """A sweep of three trials."""
    ledger.add(row("json", "sweep"))
    for number in range(3):
        ledger.add(row(f"json-{number}", "trial", parent="json", number=number))
    return ledger


# Adding and finding


def test_what_is_added_is_read_back_equal_by_another_ledger_on_the_same_file(ledger, home, row):
    full = row(
        overrides={"optim.lr": 1e-5, "adapter.targets": ["q_proj", "v_proj"], "名": "值"},
        identity="ab12",
        number=4,
        mlflow_run_id="f" * 32,
        rung=2,
        step=1_000_000_000_000,
        metrics={"eval/loss": math.inf},
        reason="because",
        owner=this_process(),
    )
    added = ledger.add(full)
    assert added == replace(full, created_at=1000.0)
    with Ledger.open(home) as other:
        assert other.get("run") == added


def test_a_taken_name_is_refused_with_a_free_one(ledger, row):
    ledger.add(row("run"))
    with pytest.raises(UsageError, match=r': there is a run "run" already\n  -> try name=run-2'):
        ledger.add(row("run"))


@pytest.mark.parametrize("name", ["", "My Run", "-run", "../run", "r" * 64, "名"])
def test_a_name_that_could_not_be_a_folder_or_job_is_refused_with_one_that_could(ledger, row, name):
    with pytest.raises(UsageError, match=r"is not a name for a run\n  -> use a-z, 0-9 and -, at most 63") as told:
        ledger.add(row(name))
    ledger.add(row(told.value.remedy.split("such as ")[1]))


@pytest.mark.parametrize(
    ("wanted", "name"),
    [("My Sweep!", "my-sweep"), ("a__b", "a-b"), ("中文 LoRA", "lora"), ("中文", "run"), ("x" * 80, "x" * 63)],
)
def test_any_text_becomes_a_name(ledger, row, wanted, name):
    assert ledger.add_with_free_name(wanted, row).name == name


def test_a_free_name_counts_up_past_those_taken_and_never_gets_too_long(ledger, row):
    names = [ledger.add_with_free_name("My run", row).name for _ in range(11)]
    assert names == ["my-run", *(f"my-run-{number}" for number in range(2, 12))]
    long = [ledger.add_with_free_name("x" * 80, row).name for _ in range(10)]
    assert long == ["x" * 63, *("x" * 61 + f"-{number}" for number in range(2, 10)), "x" * 60 + "-10"]


def test_the_row_is_made_from_the_name_it_gets(ledger, row):
    ledger.add(row("run"))
    assert ledger.add_with_free_name("run", row).folder == "runs/run-2"


def test_threads_that_want_the_same_name_get_different_ones(ledger, row):
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: ledger.add_with_free_name("run", row).name, range(24)))
    assert len(set(names)) == 24


def test_of_threads_that_want_the_same_run_one_adds_it_and_the_others_find_it(ledger, row):
    ledger.add(row("other", "sweep"))

    def same(rows):
        assert all(each.kind == "train" for each in rows)
        return next((each for each in rows if each.identity == "ab12"), None)

    def add(_):
        return ledger.add_with_free_name("run", lambda name: row(name, identity="ab12"), same)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(add, range(24)))
    assert {each.name for each in found} == {"run"}
    assert [each.name for each in ledger.runs("train")] == ["run"]


def test_a_trial_needs_a_sweep_that_exists_and_a_number_of_its_own(sweep, row):
    with pytest.raises(StoreError, match=r'there is no run "other"\n  -> `ftcluster runs` lists'):
        sweep.add(row("lost", "trial", parent="other"))
    with pytest.raises(StoreError, match=r"json-1 is number 1 of json\n  -> give each trial of a sweep its own number"):
        sweep.add(row("twice", "trial", parent="json", number=1))
    assert len(sweep.runs()) == 4


def test_runs_are_listed_by_kind_parent_and_state(sweep, row):
    sweep.add(row("alone"))
    sweep.set_state("json-2", RunState.RUNNING)

    def names(**conditions):
        return [run.name for run in sweep.runs(**conditions)]

    assert names() == ["json", "json-0", "json-1", "json-2", "alone"]
    assert names(kind="train") == ["alone"]
    assert names(parent="json") == ["json-0", "json-1", "json-2"]
    assert names(parent="json", states=[RunState.WAITING]) == ["json-0", "json-1"]
    assert names(states=set()) == []


def test_trials_are_listed_by_number_whenever_they_were_added(ledger, row):
    ledger.add(row("s", "sweep"))
    for number in (10, 2, 1):
        ledger.add(row(f"s-{number}", "trial", parent="s", number=number))
    assert [run.number for run in ledger.runs(parent="s")] == [1, 2, 10]


def test_a_run_is_found_by_name_by_mlflow_id_and_by_the_only_beginning(sweep, row):
    sweep.add(row("alpaca", mlflow_run_id="0123abcd"))
    assert sweep.find("json-1").name == "json-1"
    assert sweep.find("0123abcd").name == "alpaca"
    assert sweep.find("alp").name == "alpaca"


def test_a_beginning_shared_by_a_sweep_and_its_trials_means_the_sweep(sweep):
    assert sweep.find("js").name == "json"
    assert sweep.find("json").name == "json"


def test_a_reference_to_several_runs_lists_them(sweep, row):
    sweep.add(row("jsonl"))
    with pytest.raises(UsageError, match=r'^"js" could be json, jsonl\n  -> write more of the name$'):
        sweep.find("js")
    for number in range(12):
        sweep.add(row(f"many-{number:02}"))
    with pytest.raises(UsageError, match=r"many-08, many-09, \.\.\.\n"):
        sweep.find("many")


def test_an_unknown_reference_names_the_nearest_runs(sweep):
    with pytest.raises(UsageError, match=r'^there is no run "jsom"\n  -> did you mean json'):
        sweep.find("jsom")
    for reference in ("%", "_", "", "quite different"):
        with pytest.raises(UsageError, match=r"there is no run .*\n  -> `ftcluster runs` lists what there is"):
            sweep.find(reference)


# States


def test_a_run_carries_its_state_its_reason_and_its_times(ledger, row):
    ledger.add(row())  # at 1000
    running = ledger.set_state("run", RunState.RUNNING, mlflow_run_id="abc", folder="elsewhere")
    assert (running.state, running.started_at, running.ended_at) == (RunState.RUNNING, 1001.0, None)
    paused = ledger.set_state("run", RunState.PAUSED, reason="waits for others")
    assert (paused.reason, paused.started_at) == ("waits for others", 1001.0)
    assert ledger.set_state("run", RunState.RUNNING).reason == ""
    ended = ledger.set_state("run", RunState.FAILED, reason="loss is NaN")
    assert (ended.started_at, ended.ended_at, ended.reason) == (1001.0, 1004.0, "loss is NaN")
    assert (ended.mlflow_run_id, ended.folder) == ("abc", "elsewhere")
    assert ledger.get("run") == ended


def test_staying_in_a_state_keeps_its_reason_and_its_end(ledger, row):
    ledger.add(row())
    ledger.set_state("run", RunState.RUNNING)
    ended = ledger.set_state("run", RunState.KILLED, reason="Ctrl-C")
    later = ledger.set_state("run", RunState.KILLED, mlflow_run_id="abc")
    assert later == replace(ended, mlflow_run_id="abc")


@pytest.mark.parametrize("end", [RunState.FINISHED, RunState.PRUNED, RunState.KILLED, RunState.FAILED])
def test_an_ended_run_does_not_go_on(ledger, row, end):
    ledger.add(row())
    ledger.set_state("run", RunState.RUNNING)
    ended = ledger.set_state("run", end)
    with pytest.raises(StoreError, match=rf"run is {end} and cannot become running\n  -> a failed run can be reopened"):
        ledger.set_state("run", RunState.RUNNING)
    with pytest.raises(StoreError, match=f"run is {end} and cannot become running"):
        ledger.claim("run", this_process(), is_alive)
    assert ledger.get("run") == ended


def test_a_run_does_not_finish_before_it_ran(ledger, row):
    ledger.add(row())
    with pytest.raises(StoreError, match=r"run is waiting and cannot become finished\n  -> run it first"):
        ledger.set_state("run", RunState.FINISHED)


def test_what_a_run_is_cannot_be_changed(ledger, row):
    ledger.add(row())
    with pytest.raises(TypeError, match=r"colour, kind cannot be changed; these can: config, folder, identity"):
        ledger.set_state("run", RunState.RUNNING, kind="sweep", colour="red")
    assert ledger.get("run").state is RunState.WAITING


def test_a_failed_run_can_be_reopened_and_no_other(ledger, row):
    ledger.add(row())
    with pytest.raises(StoreError, match=r"run is waiting, not failed\n  -> only failed runs are run again"):
        ledger.reopen("run")
    ledger.claim("run", this_process(), is_alive)
    ledger.set_state("run", RunState.FAILED, reason="out of memory")
    again = ledger.reopen("run")
    assert (again.state, again.reason, again.owner, again.ended_at) == (RunState.WAITING, "", None, None)
    assert ledger.get("run") == again


@pytest.mark.parametrize(
    "act",
    [
        lambda ledger: ledger.get("lost"),
        lambda ledger: ledger.set_state("lost", RunState.RUNNING),
        lambda ledger: ledger.reopen("lost"),
        lambda ledger: ledger.claim("lost", this_process(), is_alive),
        lambda ledger: ledger.record(TrialReport("lost", 1, {}), 0),
    ],
)
def test_an_unknown_run_is_told_with_the_place_of_the_ledger(ledger, act):
    told = f'{ledger.place}: there is no run "lost"\n  -> `ftcluster runs` lists'
    with pytest.raises(StoreError, match=re.escape(told)):
        act(ledger)


# Owners


DRIVER = (
    "import sys\n"
    "from ftcluster.ledger.process import is_alive, this_process\n"
    "from ftcluster.ledger.store import Ledger\n"
    "with Ledger.open(sys.argv[1]) as ledger:\n"
    "    ledger.claim('json', this_process(), is_alive)\n"
    "    print('claimed', flush=True)\n"
    "    sys.stdin.readline()"
)


@pytest.fixture
def driver(sweep, home):  # noqa: ARG001 - the sweep has to be there
    """Another process that drives the sweep."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "claimed\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_driver_is_refused_with_the_name_of_the_first(sweep, driver):
    with pytest.raises(
        StoreError, match=rf"json is being run by process {driver.pid} on .*\n  -> .* kill {driver.pid}"
    ):
        sweep.claim("json", this_process(), is_alive)
    assert sweep.get("json").owner.pid == driver.pid


def test_a_sweep_whose_driver_was_killed_can_be_claimed(sweep, driver):
    driver.kill()
    driver.wait()
    claimed = sweep.claim("json", this_process(), is_alive)
    assert (claimed.owner, claimed.state) == (this_process(), RunState.RUNNING)


def test_the_owner_can_claim_again_and_an_interrupted_run_is_anybodys(sweep):
    sweep.claim("json", ELSEWHERE, is_alive)
    assert sweep.claim("json", ELSEWHERE, is_alive).owner == ELSEWHERE
    sweep.set_state("json", RunState.INTERRUPTED, reason="Ctrl-C")
    claimed = sweep.claim("json", this_process(), is_alive)
    assert (claimed.owner, claimed.reason) == (this_process(), "")


def test_an_owner_on_another_host_counts_as_alive(sweep):
    sweep.claim("json", ELSEWHERE, is_alive)
    with pytest.raises(StoreError, match=r"json is being run by process 7 on elsewhere\n  -> .*stop it on elsewhere"):
        sweep.claim("json", this_process(), is_alive)


def test_only_one_of_many_claims_at_once_is_granted(sweep):
    def claim(pid):
        try:
            return sweep.claim("json", replace(ELSEWHERE, pid=pid), lambda _: True).owner.pid
        except StoreError:
            return None

    with ThreadPoolExecutor(8) as threads:
        granted = [pid for pid in threads.map(claim, range(100, 116)) if pid is not None]
    assert granted == [sweep.get("json").owner.pid]


def test_reaping_interrupts_what_a_killed_driver_left_running_and_nothing_else(sweep, driver, row):
    sweep.set_state("json-0", RunState.RUNNING)  # without owner of its own: that of its sweep
    sweep.set_state("json-1", RunState.RUNNING, owner=this_process())
    sweep.add(row("far"))
    sweep.claim("far", ELSEWHERE, is_alive)
    sweep.add(row("orphan"))
    sweep.set_state("orphan", RunState.RUNNING)  # nobody is known to own it
    assert sweep.reap(is_alive) == []

    driver.kill()
    driver.wait()
    assert sorted(run.name for run in sweep.reap(is_alive)) == ["json", "json-0"]
    for name in ("json", "json-0"):
        assert sweep.get(name).state is RunState.INTERRUPTED
        assert sweep.get(name).reason == f"process {driver.pid} on {this_process().host} ended without a word"
    assert {run.name for run in sweep.runs(states=[RunState.RUNNING])} == {"json-1", "far", "orphan"}
    assert sweep.reap(is_alive) == []


def test_a_clock_that_goes_backwards_changes_no_order_and_takes_no_lease(home, row):
    hours = itertools.count(100, -1)
    with Ledger.open(home, clock=lambda: 3600.0 * next(hours)) as ledger:
        ledger.add(row("json", "sweep"))
        ledger.claim("json", ELSEWHERE, is_alive)
        for number in range(3):
            ledger.add(row(f"json-{number}", "trial", parent="json", number=number))
            ledger.set_state(f"json-{number}", RunState.RUNNING)
        for rung in range(3):
            ledger.record(TrialReport("json-1", 50 * (rung + 1), {"eval/loss": 0.5}), rung)
        with pytest.raises(StoreError, match="json is being run by process 7 on elsewhere"):
            ledger.claim("json", this_process(), is_alive)
        assert [run.name for run in ledger.runs(parent="json")] == ["json-0", "json-1", "json-2"]
        assert [report.rung for report in ledger.reports("json")] == [0, 1, 2]
        assert (ledger.get("json-1").rung, ledger.get("json-1").step) == (2, 150)
        ended = ledger.set_state("json-1", RunState.FINISHED)
        assert ended.created_at > ended.started_at > ended.ended_at
        with pytest.raises(StoreError, match="json-1 is finished and cannot become running"):
            ledger.set_state("json-1", RunState.RUNNING)


def test_a_paused_trial_of_a_dead_process_is_reaped_too(sweep):
    sweep.set_state("json-0", RunState.RUNNING, owner=replace(this_process(), boot="an earlier boot"))
    sweep.set_state("json-0", RunState.PAUSED)
    assert [run.name for run in sweep.reap(is_alive)] == ["json-0"]


# Reports


def test_a_report_is_kept_once_and_becomes_what_is_known_of_the_run(sweep):
    report = TrialReport("json-1", 50, {"eval/loss": 0.5}, tokens=1000, seconds=2.5)
    assert sweep.record(report, 0) is True
    assert sweep.record(replace(report, metrics={"eval/loss": 0.1}), 0) is False
    (kept,) = sweep.reports("json")
    assert (kept.run, kept.number, kept.rung, kept.step) == ("json-1", 1, 0, 50)
    assert (kept.metrics, kept.tokens, kept.seconds) == ({"eval/loss": 0.5}, 1000, 2.5)
    run = sweep.get("json-1")
    assert (run.rung, run.step, run.metrics) == (0, 50, {"eval/loss": 0.5})


def test_a_late_report_of_an_earlier_rung_does_not_hide_the_newer_one(sweep):
    sweep.record(TrialReport("json-0", 100, {"eval/loss": 0.4}), 1)
    sweep.record(TrialReport("json-0", 50, {"eval/loss": 0.9}), 0)
    assert (sweep.get("json-0").rung, sweep.get("json-0").metrics) == (1, {"eval/loss": 0.4})
    assert [report.rung for report in sweep.reports("json")] == [0, 1]


def test_reports_come_by_trial_number_and_rung_for_a_sweep_and_for_one_run(sweep):
    for name, rung in (("json-2", 0), ("json-0", 1), ("json-0", 0)):
        sweep.record(TrialReport(name, 50 * (rung + 1), {"eval/loss": math.nan}), rung)
    assert [(report.number, report.rung) for report in sweep.reports("json")] == [(0, 0), (0, 1), (2, 0)]
    assert [report.rung for report in sweep.reports("json-0")] == [0, 1]
    assert all(math.isnan(report.metrics["eval/loss"]) for report in sweep.reports("json"))


# Durability


def test_a_killed_process_loses_nothing_it_was_told_is_written(home):
    script = (
        "import itertools, sys\n"
        "from ftcluster.contracts.trial import TrialReport\n"
        "from ftcluster.ledger.schema import RunRow\n"
        "from ftcluster.ledger.store import Ledger\n"
        "ledger = Ledger.open(sys.argv[1])\n"
        "for number in itertools.count():\n"
        "    name = ledger.add(RunRow(f'run-{number}', 'train', 'f', {'text': 'x' * 3000})).name\n"
        "    ledger.record(TrialReport(name, 1, {'eval/loss': 0.5}), 0)\n"
        "    print(name, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(home)], stdout=subprocess.PIPE, text=True)
    told = [process.stdout.readline().strip() for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    told += process.communicate()[0].split()
    with Ledger.open(home) as ledger:
        written = [run.name for run in ledger.runs() if run.rung == 0]
        assert told == written[: len(told)]
        assert len(written) <= len(told) + 1
        assert all(len(ledger.reports(name)) == 1 for name in told)


# Several at once


def test_several_runs_are_added_or_none(sweep, row):
    more = [row(f"json-{number}", "trial", parent="json", number=number) for number in (3, 4)]
    with pytest.raises(UsageError, match='there is a run "json-0" already'):
        sweep.add_all([*more, row("json-0", "trial", parent="json", number=9)])
    with pytest.raises(StoreError, match="json-1 is number 1 of json"):
        sweep.add_all([*more, row("json-5", "trial", parent="json", number=1)])
    assert len(sweep.runs(parent="json")) == 3
    added = sweep.add_all(more)
    assert sweep.runs(parent="json")[3:] == added


def test_several_states_are_set_or_none(sweep):
    names = ["json-2", "json-0"]
    rows = sweep.set_states([(name, RunState.RUNNING, "") for name in names])
    assert rows == [sweep.get(name) for name in names]
    with pytest.raises(StoreError, match='there is no run "nobody"'):
        sweep.set_states([("json-0", RunState.PAUSED, ""), ("nobody", RunState.PAUSED, "")])
    with pytest.raises(StoreError, match="json-1 is waiting and cannot become finished"):
        sweep.set_states([("json-0", RunState.FAILED, "x"), ("json-1", RunState.FINISHED, "")])
    sweep.set_states([("json-0", RunState.FAILED, "it broke"), ("json-2", RunState.FINISHED, "")])
    assert [(run.state.value, run.reason, run.ended_at is None) for run in sweep.runs(parent="json")] == [
        ("failed", "it broke", False),
        ("waiting", "", True),
        ("finished", "", False),
    ]


def test_several_reports_are_recorded_once_and_their_runs_wait(sweep):
    sweep.set_states([(f"json-{number}", RunState.RUNNING, "") for number in range(2)])
    first = [(TrialReport(f"json-{number}", 5, {"eval/loss": 1.0}, 7, 2.0), 0) for number in range(2)]
    with pytest.raises(StoreError, match="json-2 is waiting and cannot become paused"):
        sweep.pause_all([*first, (TrialReport("json-2", 5, {}), 0)])
    assert sweep.reports("json") == []
    assert sweep.pause_all(first[:1]) == [sweep.get("json-0")]
    again = [(replace(first[0][0], metrics={"eval/loss": 9.0}), 0), first[1]]
    sweep.pause_all(again)
    told = [(report.run, report.step, report.metrics, report.tokens) for report in sweep.reports("json")]
    assert told == [("json-0", 5, {"eval/loss": 1.0}, 7), ("json-1", 5, {"eval/loss": 1.0}, 7)]
    assert [(run.state.value, run.rung, run.step) for run in sweep.runs(parent="json")[:2]] == [("paused", 0, 5)] * 2
