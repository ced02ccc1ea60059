"""Trials that lose their hosts."""

from __future__ import annotations

from typing import Any, cast

from ftcluster.sweep.losses import RETRIES, Losses

HERE = frozenset({"node-1"})


def host() -> Any:
    return cast(Any, object())


def test_a_trial_may_lose_a_host_of_its_own_so_often_and_no_more() -> None:
    losses = Losses()
    for _ in range(RETRIES):
        assert losses.lost("a", host(), HERE, shared=False)
    assert not losses.lost("a", host(), HERE, shared=False)
    assert losses.lost("b", host(), HERE, shared=False)


def test_losses_together_count_against_nobody_and_make_all_of_them_suspects() -> None:
    losses, shared = Losses(), host()
    for _ in range(RETRIES + 2):
        assert losses.lost("a", shared, HERE, shared=True)
    assert losses.lost("b", shared, HERE, shared=False)  # the last one to tell of it
    assert losses.suspects("a")
    assert losses.suspects("b")
    assert not losses.suspects("c")


def test_the_node_of_the_last_loss_is_avoided() -> None:
    losses = Losses()
    losses.lost("a", host(), HERE, shared=False)
    losses.lost("a", host(), frozenset({"node-2"}), shared=False)
    assert losses.avoids("a") == {"node-2"}
    assert losses.avoids("b") == frozenset()
