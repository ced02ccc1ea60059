"""Telling whether the process that owns a run still lives."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ftcluster.ledger.process import Owner, is_alive, this_process


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def owner_of(process):
    started = psutil.Process(process.pid).create_time() - psutil.boot_time()
    return replace(this_process(), pid=process.pid, started=started)


def test_this_process_is_alive_and_stays_the_same_owner():
    assert is_alive(this_process()) is True
    assert this_process() == this_process()
    assert str(this_process()) == f"process {os.getpid()} on {this_process().host}"


def test_a_killed_process_is_not_alive(child):
    owner = owner_of(child)
    assert is_alive(owner) is True
    child.kill()
    child.wait()
    assert is_alive(owner) is False


def test_a_killed_process_nobody_has_waited_for_is_not_alive(child):
    owner = owner_of(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie from here on
    assert is_alive(owner) is False


def test_another_process_under_the_same_number_is_not_the_owner(child):
    assert is_alive(replace(owner_of(child), started=0.0)) is False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux derives when a process started from the boot time")
@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_that_is_set_takes_no_run_from_its_owner(child, tmp_path, monkeypatch, seconds):
    owner = owner_of(child)
    (tmp_path / str(child.pid)).symlink_to(f"/proc/{child.pid}")
    text = Path("/proc/stat").read_text()
    boot = int(text.partition("\nbtime ")[2].split()[0])
    (tmp_path / "stat").write_text(text.replace(f"btime {boot}", f"btime {boot + seconds}"))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))  # what the kernel tells after the clock was set
    assert psutil.boot_time() == boot + seconds
    assert is_alive(owner) is True
    assert is_alive(replace(owner, started=owner.started - 3600)) is False


def test_no_process_lives_on_after_a_reboot():
    assert is_alive(replace(this_process(), boot="the boot before this one")) is False


def test_nothing_is_known_about_a_process_on_another_host():
    assert is_alive(Owner("elsewhere", 1, 0.0, "boot")) is None
