"""What is done when memory runs out in a pass: smaller micro-batches of the same batch, or words that help.

The batch of a step stays what it is, so a result changes by rounding and by which dropout masks are drawn. What was
tried stands in the run's ``memory.json``: another process that goes on with the run begins with what fits.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ftcluster.config.schema import RunConfig
from ftcluster.config.sharding import shares_sharded
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.engine.shortage import forget_word
from ftcluster.errors import TrialError, first_line
from ftcluster.training.memory_record import change_memory, read_memory

HALVINGS = 2  # of a run's micro-batches, at most


class Halved(RankLost):
    """Memory ran out in a group of ranks, which ends with it; the next one begins with smaller micro-batches."""


def in_use(config: RunConfig, folder: Path) -> RunConfig:
    """The config with the micro-batch that fitted, where its own did not."""
    record = read_memory(folder)
    if not record.halved:
        return config
    return _with(config, record.micro_batch, record.micro_tokens)


def smaller(config: RunConfig, widest: int, longest: int) -> RunConfig | None:
    """The config with micro-batches of half the size at most; None where they cannot be made smaller.

    ``widest`` and ``longest`` are tokens of the largest micro-batch, and of the longest row.
    """
    optim = config.optim
    if optim.micro_tokens:
        tokens = max(longest, min(optim.micro_tokens, widest) // 2)
        return _with(config, optim.micro_batch, tokens) if tokens < min(optim.micro_tokens, widest) else None
    if optim.micro_batch <= (1 if shares_sharded(config) else config.cluster.ranks):  # a row for each rank
        return None
    rows = next(rows for rows in range(optim.micro_batch // 2, 0, -1) if optim.batch_size % rows == 0)
    return _with(config, rows, 0)


def halve(config: RunConfig, folder: Path, widest: int, longest: int) -> RunConfig | None:
    """``smaller``, remembered in the run's folder; None also once it was done often enough."""
    forget_word(folder)
    record = read_memory(folder)
    made = smaller(config, widest, longest) if record.halved < HALVINGS else None
    if made:
        optim = made.optim
        change_memory(folder, halved=record.halved + 1, micro_batch=optim.micro_batch, micro_tokens=optim.micro_tokens)
    return made


def in_words(config: RunConfig) -> str:
    """A micro-batch as the command line says it."""
    name = "micro_tokens" if config.optim.micro_tokens else "micro_batch"
    return f"optim.{name}={getattr(config.optim, name)}"


def does_not_fit(config: RunConfig, folder: Path, error: BaseException) -> TrialError:
    """What people are told in the end."""
    from ftcluster.training.foretelling import advice

    tried = read_memory(folder).halved
    often = f", after halving it {'once' if tried == 1 else f'{tried} times'}" if tried else ""
    told = f"out of memory with {in_words(config)}{often}: {first_line(error)}"
    return TrialError(told, where=folder.name, remedy=advice(config))


def _with(config: RunConfig, micro_batch: int, micro_tokens: int) -> RunConfig:
    return replace(config, optim=replace(config.optim, micro_batch=micro_batch, micro_tokens=micro_tokens))
