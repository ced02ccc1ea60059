"""``ftcluster data invert``: texts in somebody's own voice -> pairs to train on, with the help of another model."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from ftcluster.cli.arguments import Columns, DataFiles, DataFormat, Force, Json, OutFile
from ftcluster.cli.data_files import open_files, show_dropped, tell_next
from ftcluster.cli.output import console, notices, print_json
from ftcluster.cli.progress import Bar


def invert(
    files: DataFiles,
    to: OutFile,
    url: Annotated[str, typer.Option(help="Of an OpenAI-compatible API, such as http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(help="The model there.")],
    prompt: Annotated[
        str, typer.Option(metavar="NAME", help="instruction, translation, or a Jinja file of your own.")
    ] = "instruction",
    language: Annotated[str, typer.Option(help="With --prompt translation: the language of the plain version.")] = "",
    opening: Annotated[str, typer.Option(help="Put before each reply in the user turn.")] = "",
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the key.")
    ] = "OPENAI_API_KEY",
    requests_per_minute: Annotated[float, typer.Option(min=0, help="At most so many; 0: no limit.")] = 60,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a reply.")] = 120,
    retries: Annotated[int, typer.Option(min=0, help="After an error that may pass.")] = 5,
    max_tokens: Annotated[int, typer.Option(min=0, help="Of a reply; 0: the server's limit.")] = 0,
    format: DataFormat = "auto",
    columns: Columns = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make (instruction -> text) pairs of texts: another model writes the instruction, the text stays untouched.

    [bold]Examples[/bold]

      ftcluster data invert letters.jsonl --to pairs.jsonl --url http://localhost:8000/v1 --model qwen3

      ftcluster data invert letters.jsonl --to pairs.jsonl --url $URL --model large --prompt translation

    Replies are kept as they come: after Ctrl-C the same command goes on. The texts go to that URL, and nowhere else.
    """
    from ftcluster.config.environment import secret
    from ftcluster.data.curation import inversion
    from ftcluster.data.curation.endpoint import Endpoint
    from ftcluster.data.curation.replies import Replies, replies_file
    from ftcluster.errors import Interrupted

    endpoint = Endpoint(
        url, model, secret(key_variable), requests_per_minute, concurrency, timeout, retries, max_tokens=max_tokens
    )
    template = inversion.read_prompt(prompt)
    opened = open_files(files, format, columns)
    try:
        with Bar("asking") as bar:
            done = inversion.invert(
                opened, to, endpoint, template, language=language, opening=opening, force=force, progress=bar.update
            )
    except KeyboardInterrupt:
        kept = len(Replies.open(replies_file(to)).known)
        again = shlex.join(["ftcluster", *sys.argv[1:]])
        raise Interrupted(f"stopped; {kept} replies are kept in {replies_file(to)}", remedy=again) from None
    if as_json:
        print_json(done)
        return
    console().print(f"{done.rows:,} pairs are in {to}", markup=False, soft_wrap=True)
    notices().print(f"{done.asked:,} new replies, {done.known:,} were known", markup=False)
    show_dropped(done.dropped, "texts without a pair")
    tell_next(["ftcluster", "data", "check", str(to)])
