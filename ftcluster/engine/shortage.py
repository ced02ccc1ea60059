"""Memory that is not enough: how it shows, on whichever device, and how to let go of what was held meanwhile."""

from __future__ import annotations

import errno
import gc
import traceback
from contextlib import suppress
from pathlib import Path

import torch

from ftcluster.errors import TrialError, first_line

# Libraries raise plain RuntimeErrors; another rank's error arrives as the text of a TrialError.
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "bad_alloc",
    "ALLOC_FAILED",
    "MemoryError",
)


_WORD = "shortage-of-rank-{}"  # a file in the run's folder


class StepUndone(TrialError):
    """A pass of several trials ran out of memory half-way; each begins its step again, without gradients."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error means that memory was not enough, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    of_rank = isinstance(error, TrialError) and error.where.startswith("rank ")
    return (of_rank or isinstance(error, RuntimeError)) and any(word in str(error) for word in _WORDS)


def let_go(error: BaseException) -> None:
    """Empty the frames of an error: they hold a pass's activations, whose memory the next pass may need."""
    link: BaseException | None = error
    while link:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def give_back() -> None:
    """Return what nobody holds any more, so that it can be had in other sizes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def leave_word(folder: Path, rank: int, error: BaseException) -> None:
    """Write down in a run's folder that memory was not enough on a rank: rank 0 may never come to hear of it.

    Within a collective of NCCL's it waits on the GPU for a rank that is gone, until somebody ends its process.
    """
    with suppress(OSError):  # without it the trial is begun again as it was
        (folder / _WORD.format(rank)).write_text(first_line(error))


def word_left(folder: Path) -> str:
    """What a rank of an earlier group left word of; empty: none did."""
    return next((f"rank {file.name.rpartition('-')[2]}: {file.read_text()}" for file in _words_left(folder)), "")


def forget_word(folder: Path) -> None:
    """Once something was done about it."""
    for file in _words_left(folder):
        file.unlink(missing_ok=True)


def _words_left(folder: Path) -> list[Path]:
    return sorted(folder.glob(_WORD.format("*")))
