"""Commands as jobs of a Ray cluster (Ray Jobs): sent to its head over HTTP, followed, stopped and listed.

A job is ``ftcluster`` itself, run on the cluster by the shell of its head or of a node that has what the job asks for.
Whoever may talk to that port may run anything on the cluster; nothing here opens it to anybody.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import re
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftcluster import __version__
from ftcluster.cluster.parcel import Parcel
from ftcluster.config.environment import set_for_libraries
from ftcluster.errors import FtclusterError, UsageError

# Ray kills a job that was asked to stop after 3 seconds; a sweep has a minute to save its trials, and then MLflow.
_GRACE = 120
_PATIENCE = 10.0  # seconds for the head's first answer
_BREAKS = 60.0  # seconds without an answer after which following ends; the job goes on
_PAUSE = 1.0
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")
# They tell people of uploads and closed connections.
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_REMEDY = (
    "--address http://HEAD:8265 names the head's dashboard; from outside its network: ssh -L 8265:127.0.0.1:8265 HEAD. "
    "`ray start --head` starts one unless it is told not to"
)


class OutOfTouchError(FtclusterError):
    """The cluster does not answer any more; jobs on it may go on."""

    retryable = True


@dataclass(frozen=True)
class Job:
    """What the cluster knows of a job; times are seconds since 1970."""

    id: str
    state: str  # pending, running, succeeded, failed or stopped
    command: str
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    message: str = ""  # why it failed, where its own words do not tell
    heading: str = ""  # what Ray writes into its log before it begins

    @property
    def over(self) -> bool:
        """Whether it has come to an end."""
        return self.state in ("succeeded", "failed", "stopped")


@dataclass(frozen=True)
class Needs:
    """What a job's own process reserves on a node; hosts of a sweep reserve theirs themselves."""

    cpus: float = 0.0
    gpus: float = 0.0


class Jobs:
    """The jobs of one cluster.

    Raises:
        UsageError: nobody answers at ``address``, or not the dashboard of a Ray cluster.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        if problem := _mute(self.address):
            raise UsageError(problem, where=self.address, remedy=_REMEDY)
        set_for_libraries({"RAY_API_SERVER_ADDRESS": self.address})  # else Ray prefers RAY_ADDRESS to what it is given
        from ray.job_submission import JobSubmissionClient

        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._asking():
            self._client = JobSubmissionClient(self.address)

    def send(
        self,
        name: str,
        words: Sequence[str],
        parcel: Parcel,
        variables: Mapping[str, str] | None = None,
        needs: Needs | None = None,
    ) -> None:
        """Have ``ftcluster WORDS`` run in a folder with the parcel's files; returns once the cluster has taken it.

        ``variables`` are set for the job and its hosts. The cluster keeps them beside the job, in plain text.
        """
        needs = needs or Needs()
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(_GRACE), **(variables or {})}
        with TemporaryDirectory(prefix="ftcluster-") as folder, self._asking(name):
            parcel.unfold(Path(folder))
            place = {"working_dir": folder} if parcel.files else {}
            self._client.submit_job(
                entrypoint=entrypoint(words),
                submission_id=name,
                runtime_env={"env_vars": environment, **place},
                metadata={"command": shlex.join(words), "ftcluster": __version__},
                entrypoint_num_cpus=needs.cpus or None,
                entrypoint_num_gpus=needs.gpus or None,
            )

    def get(self, name: str) -> Job:
        """One job.

        Raises:
            UsageError: there is none of this name.
            OutOfTouchError: the cluster does not answer.
        """
        with self._asking(name):
            return _job(self._client.get_job_info(checked(name)))

    def all(self) -> list[Job]:
        """Those that were sent as jobs, by this program or another, the newest first."""
        with self._asking():
            found = [_job(each) for each in self._client.list_jobs() if each.submission_id]
        return sorted(found, key=lambda job: job.started or 0.0, reverse=True)

    def stop(self, name: str) -> bool:
        """Ask a job to save and end, which it may take two minutes for; False: it had ended before."""
        with self._asking(name):
            return bool(self._client.stop_job(checked(name)))

    def follow(self, name: str, write: Callable[[str], None]) -> Job:
        """Hand on what a job says, from its beginning, until it is over; breaks of the connection are bridged.

        Raises:
            UsageError: there is no such job.
            OutOfTouchError: the cluster has not answered for a minute.
        """
        job, told, silent_since = self.get(name), 0, None
        while True:
            try:
                told = asyncio.run(self._tail(job, told, write))
                job = self.get(name)
                silent_since = None
            except OutOfTouchError:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > _BREAKS:
                    raise
            if job.over:
                return job
            time.sleep(_PAUSE)

    async def _tail(self, job: Job, told: int, write: Callable[[str], None]) -> int:
        """Ray starts from the beginning each time; ``told`` characters are known. Returns how many are now."""
        seen = 0
        async for text in self._said(job.id):
            seen += len(text)
            if (fresh := min(seen - told, len(text))) > 0:
                write(text[-fresh:].replace(job.heading, "", 1))
        return max(seen, told)

    async def _said(self, name: str) -> AsyncIterator[str]:
        """A job's log as it grows; a connection that breaks ends it early, and the job's state tells which it was."""
        import aiohttp

        try:
            async for text in self._client.tail_job_logs(name):
                yield text
        except (aiohttp.ClientError, OSError, RuntimeError):
            return

    @contextmanager
    def _asking(self, name: str = "") -> Iterator[None]:
        """Tell in our words what Ray's client raises."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise UsageError(
                "the cluster wants a token",
                where=self.address,
                remedy="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on the cluster",
            ) from error
        except RuntimeError as error:
            raise self._refused(str(error), name) from error
        except OSError as error:  # also those of its HTTP library
            raise OutOfTouchError(
                "the cluster does not answer any more",
                where=self.address,
                remedy="what runs on it may go on; try again",
            ) from error

    def _refused(self, text: str, name: str) -> FtclusterError:
        if "status code 404" in text:
            return UsageError(
                f"no job {name} on this cluster",
                where=self.address,
                remedy=f"ftcluster submit --address {self.address} --list",
            )
        if "No available agent" in text:
            return FtclusterError(
                "the head's agent, which starts jobs, does not answer",
                where=self.address,
                remedy="try again once the head is up; beside another Ray cluster on that machine it needs a port "
                "of its own: ray start --head --dashboard-agent-listen-port 52366",
            )
        lines = [line for line in text.splitlines() if line.strip()]
        return FtclusterError(f"the cluster refused: {lines[-1] if lines else text}", where=self.address)


def entrypoint(words: Sequence[str]) -> str:
    """The shell's program for a job. It becomes the command, so that signals and exit codes are the command's."""
    missing = "echo 'ftcluster is not installed where the job runs: pip install it on every node' >&2; exit 127"
    other = f'echo "warning: the cluster has $here; this job was sent by ftcluster {__version__}" >&2'
    return "\n".join(
        [
            f"here=$(ftcluster --version) || {{ {missing}; }}",
            f'[ "$here" = "ftcluster {__version__}" ] || {other}',
            f"exec ftcluster {shlex.join(words)}",
        ]
    )


def checked(name: str) -> str:
    """The name of a job, which becomes part of a URL.

    Raises:
        UsageError: it could not be one.
    """
    if not _ID.match(name):
        raise UsageError(f"{name!r} is no name of a job", remedy="ftcluster submit --list shows them")
    return name


def _mute(address: str) -> str:
    """Why what listens at an address is no dashboard. Ray's own client would wait for ever where nothing is said."""
    if not address.startswith(("http://", "https://")):
        return "this is no address of a dashboard, which begins with http://"
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=_PATIENCE) as reply:
            return "" if b"ray_version" in reply.read(10_000) else "what answers there is no Ray dashboard"
    except urllib.error.HTTPError as error:
        return "" if error.code in (401, 403) else f"what answers there is no Ray dashboard: {error}"
    except http.client.HTTPException:  # it speaks something else
        return "what answers there is no Ray dashboard"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"no Ray dashboard answers there: {getattr(reason, 'strerror', None) or reason}"


def _job(details: Any) -> Job:
    known = details.metadata or {}
    return Job(
        id=details.submission_id or details.job_id or "",
        state=str(getattr(details.status, "value", details.status)).lower(),
        command=known.get("command", details.entrypoint.splitlines()[-1] if details.entrypoint else ""),
        started=_seconds(details.start_time),
        ended=_seconds(details.end_time),
        exit_code=details.driver_exit_code,
        message="" if details.driver_exit_code is not None else details.message or "",
        heading=f"Running entrypoint for job {details.submission_id}: {details.entrypoint}\n",
    )


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
