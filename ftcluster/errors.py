"""Every error a user can meet: what is wrong, where, and what to do about it.

    FtclusterError                exit 1   something of ours went wrong
    ├── UsageError                exit 2   the command line or a config is wrong
    │   └── ConfigError           exit 2   lists every problem found, not only the first
    ├── DataError                 exit 3   a data file or its rows
    ├── ModelError                exit 4   a model folder, tokenizer, adapter target
    ├── TrialError                exit 5   a trial ended without a result
    │   ├── Diverged              exit 5   loss is NaN or infinite; a retry would do the same
    │   └── BadAdapter            exit 5   the integrity gate refused what was about to be saved
    ├── StoreError                exit 6   a folder, ledger or checkpoint cannot be read or written
    ├── TrackingError             exit 7   MLflow cannot be reached or refused a request
    ├── PromotionRefused          exit 8   a gate said no
    ├── EndpointError             exit 9   a model behind a URL does not answer, or refuses
    └── Interrupted               exit 130 Ctrl-C

An error carries ``where`` (field path, file:line, GPU, node) and ``remedy`` apart from its message, so
that the command line, a job log and a JSON reply can each show them in their own way. ``retryable`` says
whether the same work could succeed on another try without a change by the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FtclusterError(Exception):
    """Base of all errors shown to users without a traceback."""

    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"\n  -> {self.remedy}" if self.remedy else ""
        return f"{place}{self.message}{hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries on Ray; keyword-only fields would be lost by default.
        return (_rebuild, (type(self), self.message, self.where, self.remedy))


def _rebuild(kind: type[FtclusterError], message: str, where: str, remedy: str) -> FtclusterError:
    error = kind.__new__(kind)
    FtclusterError.__init__(error, message, where=where, remedy=remedy)
    return error


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class UsageError(FtclusterError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A config is wrong; ``problems`` lists everything found at once."""

    def __init__(self, problems: list[str], *, where: str = "", remedy: str = "") -> None:
        self.problems = list(problems)
        listed = "\n".join(f"  - {problem}" for problem in self.problems)
        message = f"{len(problems)} problems:\n{listed}" if len(problems) > 1 else "".join(problems)
        super().__init__(message, where=where, remedy=remedy)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_config_error, (type(self), self.problems, self.where, self.remedy))


class Problems:
    """Collects the problems of several checks, so that a user hears of all of them at once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._where = self._remedy = ""

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Note the problems of a ConfigError raised inside, and go on behind the block."""
        try:
            yield
        except ConfigError as error:
            self.texts += error.problems
            self._where, self._remedy = self._where or error.where, self._remedy or error.remedy

    def refuse(self, where: str = "") -> None:
        """Raise what was noted, each text once.

        Raises:
            ConfigError: something was.
        """
        if self.texts:
            raise ConfigError(list(dict.fromkeys(self.texts)), where=where or self._where, remedy=self._remedy)


def _rebuild_config_error(kind: type[ConfigError], problems: list[str], where: str, remedy: str) -> ConfigError:
    return kind(problems, where=where, remedy=remedy)


class DataError(FtclusterError):
    """A data file, or too many of its rows, cannot be used."""

    exit_code = 3


class ModelError(FtclusterError):
    """A model folder, its tokenizer or an adapter target is wrong."""

    exit_code = 4


class TrialError(FtclusterError):
    """A trial ended without a usable result."""

    exit_code = 5


class Diverged(TrialError):
    """The loss became NaN or infinite."""


class BadAdapter(TrialError):
    """The integrity gate refused an adapter."""


class StoreError(FtclusterError):
    """A folder, ledger or checkpoint cannot be read or written."""

    exit_code = 6


class TrackingError(FtclusterError):
    """MLflow cannot be reached or refused a request; the spool keeps what was not delivered."""

    exit_code = 7
    retryable = True


class PromotionRefused(FtclusterError):
    """A promotion gate said no; the message lists each gate that did."""

    exit_code = 8


class EndpointError(FtclusterError):
    """A model behind a URL does not answer, or refuses; replies it gave before are kept."""

    exit_code = 9
    retryable = True


class Interrupted(FtclusterError):
    """The user pressed Ctrl-C; everything was put away and can be resumed."""

    exit_code = 130
