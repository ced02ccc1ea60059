"""Trials that lose their hosts."""

from __future__ import annotations

from typing import Any, cast

from ftcluster.sweep.losses import RETRIES, Losses

HERE = frozenset({"node-1"})
THERE = {"node-1", "node-2"}


def host() -> Any:
    return cast(Any, object())


def lost(losses: Losses, trial: str, where: Any = None, checkpoint: int = -1, *, shared: bool = False) -> bool:
    return losses.lost(trial, where or host(), HERE, checkpoint, shared=shared, there=THERE)


def test_a_trial_may_lose_a_host_of_its_own_so_often_and_no_more() -> None:
    losses = Losses()
    for _ in range(RETRIES):
        assert lost(losses, "a")
    assert not lost(losses, "a")
    assert lost(losses, "b")


def test_only_losses_from_one_checkpoint_count() -> None:
    losses = Losses()
    for step in range(20, 20 * (RETRIES + 3), 20):
        assert lost(losses, "a", checkpoint=step)
    for _ in range(RETRIES - 1):
        assert lost(losses, "a", checkpoint=step)
    assert not lost(losses, "a", checkpoint=step)


def test_losses_together_count_against_nobody_and_make_all_of_them_suspects() -> None:
    losses, together = Losses(), host()
    for _ in range(RETRIES + 2):
        assert lost(losses, "a", together, shared=True)
    assert lost(losses, "b", together)  # the last one to tell of it
    assert losses.suspects("a")
    assert losses.suspects("b")
    assert not losses.suspects("c")


def test_who_came_to_the_end_of_a_stretch_or_to_a_newer_checkpoint_is_suspected_no_more() -> None:
    losses, together = Losses(), host()
    for trial in ("a", "b", "c"):
        lost(losses, trial, together, 20, shared=True)
    losses.came_further("a")
    lost(losses, "b", checkpoint=40)
    lost(losses, "c", checkpoint=20)
    assert [losses.suspects(trial) for trial in ("a", "b", "c")] == [False, False, True]


def test_nobody_on_a_node_that_went_is_suspected_but_its_loss_counts() -> None:
    losses = Losses()
    for _ in range(RETRIES):
        assert losses.lost("a", host(), HERE, -1, shared=True, there={"node-2"})
        assert not losses.suspects("a")
    assert not losses.lost("a", host(), HERE, -1, shared=True, there={"node-2"})


def test_the_node_of_the_last_loss_is_avoided() -> None:
    losses = Losses()
    lost(losses, "a")
    losses.lost("a", host(), frozenset({"node-2"}), -1, shared=False, there=THERE)
    assert losses.avoids("a") == {"node-2"}
    assert losses.avoids("b") == frozenset()
