"""The first signal asks to stop, the second insists."""

from __future__ import annotations

import signal

import pytest

from ftcluster.training.signals import stop_signals


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event_and_the_second_interrupts(name: signal.Signals) -> None:
    before = signal.getsignal(name)
    with stop_signals() as stop:
        assert not stop.is_set()
        signal.raise_signal(name)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(name)
    assert signal.getsignal(name) == before


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stop_signals():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) == before
