"""``ftcluster submit``: any verb as a job on a cluster, which goes on without the terminal it was sent from."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftcluster.cli.arguments import Json
from ftcluster.cli.complete import complete_command
from ftcluster.cli.output import console, notices, print_json, table
from ftcluster.errors import FtclusterError, Interrupted, UsageError

if TYPE_CHECKING:
    from ftcluster.cluster.jobs import Job, Jobs

# Where they print, listen or ask would be on the cluster.
_AT_HOME = ("chat", "submit", "ui")
_WRITING = ("demo", "sweep", "train")

Command = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="VERB [WORD]...",
        autocompletion=complete_command,
        help="What to run there, as it would be typed after ftcluster. Options of submit stand before it.",
        show_default=False,
    ),
]
Address = Annotated[
    str,
    typer.Option(
        metavar="http://HEAD:8265",
        help="The head's dashboard; default RAY_API_SERVER_ADDRESS, RAY_ADDRESS if it is one, this machine's.",
        show_default=False,
    ),
]
Detach = Annotated[bool, typer.Option("--detach", help="Print the job's name and do not follow it.")]
WorkingDir = Annotated[
    Path,
    typer.Option(metavar="FOLDER", help="The folder that travels and that the job runs in.", file_okay=False),
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A variable to set there as it is here; may be repeated. Others are not.",
        show_default=False,
    ),
]
Cpus = Annotated[float, typer.Option(min=0, help="CPUs that the command itself reserves on its node.")]
Gpus = Annotated[
    float, typer.Option(min=0, help="GPUs that the command itself reserves: train computes where it runs.")
]
Follow = Annotated[str, typer.Option(metavar="JOB", help="Follow a job that was sent before.", show_default=False)]
Stop = Annotated[str, typer.Option(metavar="JOB", help="Have a job save and end.", show_default=False)]
Listing = Annotated[bool, typer.Option("--list", help="List the cluster's jobs.")]

submit = typer.Typer(add_completion=False, rich_markup_mode="rich")


@submit.command("submit", context_settings={"allow_interspersed_args": False})
def _submit(
    command: Command = None,
    address: Address = "",
    detach: Detach = False,
    working_dir: WorkingDir = Path(),
    env: Variables = None,
    cpus: Cpus = 0.0,
    gpus: Gpus = 0.0,
    follow: Follow = "",
    stop: Stop = "",
    listing: Listing = False,
    as_json: Json = False,
) -> None:
    """Run any verb as a job on a Ray cluster and follow what it says. The job does not need this machine.

    [bold]Examples[/bold]

      ftcluster submit --address http://10.0.0.5:8265 sweep sweeps/lora.yaml home=/shared/runs

      ftcluster submit --detach --gpus 1 train experiment=lora_sft home=/shared/runs

      ftcluster submit --follow sweep-1122-093000-4f2a

    Ctrl-C ends the following and not the job; [bold]--stop JOB[/bold] ends that, saved and resumable. The exit code is
    the job's own.

    The working folder travels: configs, sweep files, small data. Hidden files, homes of runs, virtual environments and
    files above 16 MiB stay behind. Results need a folder on storage that all nodes see, so [bold]home=[/bold] must be
    named. ftcluster itself must be installed on the cluster. [bold]--env[/bold] hands on a variable such as a token;
    whoever may use the cluster's dashboard can read it there.
    """
    from ftcluster.cluster.jobs import Jobs
    from ftcluster.config.environment import jobs_address

    words = list(command or [])
    _one_thing(words, follow=follow, stop=stop, listing=listing)
    if words:
        _sensible(words, env or [])
    variables = _variables(env or [])
    jobs = Jobs(jobs_address(address))
    if listing:
        _show(jobs.all(), as_json)
    elif stop:
        _stop(jobs, stop, as_json)
    elif follow:
        _follow(jobs, follow, as_json)
    else:
        _send(jobs, words, working_dir, variables, (cpus, gpus), detach=detach, as_json=as_json)


def job_name(verb: str, moment: datetime, noise: str) -> str:
    """A name for a job that tells people what it is and when it was sent, and that no other has."""
    return f"{verb}-{moment:%m%d-%H%M%S}-{noise}"


def _one_thing(words: Sequence[str], *, follow: str, stop: str, listing: bool) -> None:
    asked = [bool(words), bool(follow), bool(stop), listing]
    if sum(asked) > 1:
        raise UsageError("a command, --follow, --stop and --list exclude each other", remedy="ftcluster submit --help")
    if not any(asked):
        raise UsageError(
            "what should the cluster run?",
            remedy="ftcluster submit sweep sweeps/lora.yaml home=/shared/runs; ftcluster submit --help has more",
        )


def _sensible(words: Sequence[str], env: Sequence[str]) -> None:
    """Refuse before anything travels what could not work there.

    Raises:
        UsageError: no such verb, one for a terminal, or results that would be lost.
    """
    from ftcluster.cli.app import VERBS
    from ftcluster.config.suggest import did_you_mean

    verb = words[0]
    if verb not in VERBS:
        raise UsageError(f"{verb} is not a verb.{did_you_mean(verb, VERBS)}", remedy=f"verbs: {', '.join(VERBS)}")
    if verb in _AT_HOME:
        raise UsageError(f"{verb} is for the terminal it is typed in", remedy=f"ftcluster {verb}, without submit")
    home = _home(words)
    if verb in _WRITING and not home and "FTCLUSTER_HOME" not in env:
        raise UsageError(
            "without a home the results would lie in the job's working folder, which the cluster deletes",
            where="home",
            remedy="home=/shared/runs, on storage that all nodes see; or --env FTCLUSTER_HOME",
        )
    if home and not Path(home).expanduser().is_absolute():
        raise UsageError(
            f"home={home} would lie in the job's working folder, which the cluster deletes",
            where="home",
            remedy="an absolute path on storage that all nodes see",
        )


def _home(words: Sequence[str]) -> str:
    """The home that a command names; its last word about it counts."""
    found = ""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        key, _, value = word.partition("=")
        if key in ("home", "--home"):
            found = value or following
    return found


def _variables(names: Sequence[str]) -> dict[str, str]:
    from ftcluster.config.environment import secret

    found = {name: secret(name) for name in names}
    if unset := [name for name, value in found.items() if not value]:
        raise UsageError(
            f"not set here: {', '.join(unset)}", where="--env", remedy="export it first; --env takes names, not values"
        )
    return found


def _send(
    jobs: Jobs,
    words: Sequence[str],
    folder: Path,
    variables: dict[str, str],
    needs: tuple[float, float],
    *,
    detach: bool,
    as_json: bool,
) -> None:
    from ftcluster.cluster.jobs import Needs
    from ftcluster.cluster.parcel import choose
    from ftcluster.units import format_bytes

    parcel = choose(folder.absolute())
    name = job_name(words[0], datetime.now(), secrets.token_hex(2))
    jobs.send(name, words, parcel, variables, Needs(*needs))
    notices().print(
        f"[bold]{name}[/bold] is on {jobs.address}; {len(parcel.files)} files, {format_bytes(parcel.size)}, of "
        f"{parcel.folder} travelled",
        soft_wrap=True,
    )
    for each in parcel.left_out:
        notices().print(f"  stayed here: {each}", markup=False, soft_wrap=True)
    if not detach:
        _follow(jobs, name, as_json)
    elif as_json:
        print_json({"job": name, "address": jobs.address, "left_out": parcel.left_out})
    else:
        console().print(name)


def _follow(jobs: Jobs, name: str, as_json: bool) -> None:
    """Show a job to its end, and end as it did."""
    stream = sys.stderr if as_json else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    at = f" --address {jobs.address}"
    try:
        job = jobs.follow(name, write)
    except KeyboardInterrupt:
        remedy = f"ftcluster submit{at} --follow {name} goes back to it; --stop {name} ends it"
        raise Interrupted(f"no longer following {name}, which goes on", remedy=remedy) from None
    except FtclusterError as error:
        if error.retryable:
            error.remedy = f"the job may go on: ftcluster submit{at} --follow {name}"
        raise
    if as_json:
        print_json(_plain(job))
    raise typer.Exit(_told_end(job))


def _told_end(job: Job) -> int:
    """The exit code for how a job ended; what its log does not tell is told here."""
    if job.state == "stopped":
        notices().print(f"{job.id} was stopped")
        return 130
    if job.state == "failed" and job.exit_code is None:  # its command never ran, or its node was lost
        notices().print(f"{job.id} failed: {job.message}", markup=False, soft_wrap=True)
        return 1
    return job.exit_code or 0


def _stop(jobs: Jobs, name: str, as_json: bool) -> None:
    was_running = jobs.stop(name)
    if as_json:
        print_json({"job": name, "was_running": was_running})
    elif was_running:
        again = f"ftcluster submit --address {jobs.address} --follow {name}"
        console().print(f"{name} was asked to save and end; {again} shows it", soft_wrap=True)
    else:
        console().print(f"{name} had ended before")


def _show(jobs: Sequence[Job], as_json: bool) -> None:
    if as_json:
        print_json([_plain(job) for job in jobs])
        return
    rows = [(job.id, job.state, _when(job.started), _when(job.ended), job.exit_code, job.command) for job in jobs]
    table(("job", "state", "started", "ended", "exit code", "command"), rows)


def _when(seconds: float | None) -> str | None:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}" if seconds else None


def _plain(job: Job) -> dict[str, object]:
    return {
        "job": job.id,
        "state": job.state,
        "exit_code": job.exit_code,
        "command": job.command,
        "started": job.started,
        "ended": job.ended,
        "message": job.message,
    }
