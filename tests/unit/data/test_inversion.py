"""Texts become pairs with the help of an endpoint that fails in every way; nothing is asked twice or lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer, Turn

from ftcluster.cli import main
from ftcluster.data.curation.endpoint import Asker, Endpoint, NoReplyError
from ftcluster.data.curation.inversion import Inverted, invert, read_prompt
from ftcluster.data.curation.replies import Replies, replies_file
from ftcluster.data.rows.examples import data_files
from ftcluster.errors import DataError, EndpointError, UsageError

Write = Callable[..., str]
TEXTS = [{"text": f"Dear friend number {n}, the kettle sings and I think of you."} for n in range(12)]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def _endpoint(server: ModelServer, **options: Any) -> Endpoint:
    settings = {"requests_per_minute": 0, "timeout": 5.0, "retries": 3, "first_pause": 0.01} | options
    return Endpoint(server.url, "tiny", **settings)


def _ask(server: ModelServer, prompt: str = "Hello", **options: Any) -> str:
    async def ask() -> str:
        async with Asker(_endpoint(server, **options)) as asker:
            return await asker.ask(prompt)

    return asyncio.run(ask())


def _invert(server: ModelServer, file: str, out: Path, name: str = "instruction", **options: Any) -> Inverted:
    known = {key: options.pop(key) for key in ("language", "opening", "force") if key in options}
    return invert(data_files([file], "auto", {}), out, _endpoint(server, **options), read_prompt(name), **known)


def _pairs(out: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in rows]


# the endpoint


@pytest.mark.parametrize(
    "turn",
    [Turn(500), Turn(503), Turn(429), Turn(429, headers={"Retry-After": "0"}), Turn(drop=True), Turn(stall=0.6)],
    ids=["500", "503", "429", "429 with a wait", "closed connection", "stalled"],
)
def test_an_error_that_may_pass_is_retried(server: ModelServer, turn: Turn) -> None:
    server.turns.extend([turn, turn])
    assert _ask(server, timeout=0.3) == "ask: Hello"
    assert len(server.asked) == 3


def test_a_server_that_says_when_to_come_back_is_not_asked_before(server: ModelServer) -> None:
    server.turns.append(Turn(429, headers={"Retry-After": "1"}))
    _ask(server)
    assert server.times[1] - server.times[0] >= 1.0


def test_a_date_to_come_back_at_is_understood_and_nonsense_is_ignored(server: ModelServer) -> None:
    server.turns.extend(
        [
            Turn(503, headers={"Retry-After": "Fri, 21 Nov 2025 10:00:00 GMT"}),
            Turn(503, headers={"Retry-After": "soon"}),
        ]
    )
    assert _ask(server) == "ask: Hello"


def test_an_endpoint_that_never_works_is_given_up_with_its_last_words(server: ModelServer) -> None:
    server.usual = Turn(500, b"on fire")
    with pytest.raises(EndpointError, match="no answer after 4 tries: status 500: on fire") as caught:
        _ask(server)
    assert "replies so far are kept" in str(caught.value)


def test_a_refused_key_stops_at_once_and_is_in_no_message(server: ModelServer) -> None:
    server.usual = Turn(401, b"bad key")
    with pytest.raises(EndpointError, match="status 401: bad key") as caught:
        _ask(server, key="sk-secret")
    assert "--key-variable" in str(caught.value)
    assert "sk-secret" not in str(caught.value)
    assert "sk-secret" not in repr(_endpoint(server, key="sk-secret"))
    assert server.keys == ["Bearer sk-secret"]


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        (Turn(200, b"<html>"), "not a chat completion: <html>"),
        (Turn(200, b'{"choices": []}'), "not a chat completion"),
        (Turn(200, b"\xff\xfe" * 5), "not a chat completion"),
        (Turn(200, b'{"choices": [{"message": {"content": " "}}]}'), "the reply is empty"),
        (Turn(200, b'{"choices": [{"message": {"content": null}}]}'), "the reply is empty"),
        (Turn(200, b"[" * 5_000_000), "larger than 4 MiB"),
        (Turn(400, b"too long"), "status 400: too long"),
    ],
    ids=["html", "no choice", "bytes", "empty", "null", "endless", "refused"],
)
def test_nonsense_is_the_problem_of_one_prompt(server: ModelServer, turn: Turn, says: str) -> None:
    server.turns.append(turn)
    with pytest.raises(NoReplyError) as caught:
        _ask(server)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("status", "remedy"), [(403, "what the key may do"), (404, "/chat/completions"), (418, "--model")]
)
def test_other_refusals_stop_at_once_with_what_to_check(server: ModelServer, status: int, remedy: str) -> None:
    server.usual = Turn(status)
    with pytest.raises(EndpointError, match=f"status {status}") as caught:
        _ask(server)
    assert remedy in caught.value.remedy
    assert len(server.asked) == 1


def test_a_redirect_is_not_followed_as_it_would_take_the_key_along(server: ModelServer) -> None:
    server.usual = Turn(302, headers={"Location": "http://127.0.0.1:1/steal"})
    with pytest.raises(EndpointError, match="status 302"):
        _ask(server, key="sk-secret")
    assert len(server.asked) == 1


def test_nobody_at_the_address_is_said() -> None:
    with pytest.raises(EndpointError, match="no answer after 2 tries: ConnectError") as caught:
        _ask_at("http://127.0.0.1:9/v1")
    assert "http://127.0.0.1:9/v1/chat/completions" in str(caught.value)


def _ask_at(url: str) -> str:
    async def ask() -> str:
        async with Asker(Endpoint(url, "tiny", retries=1, first_pause=0.01)) as asker:
            return await asker.ask("Hello")

    return asyncio.run(ask())


def test_requests_are_spread_over_the_minute(server: ModelServer, write_rows: Write, tmp_path: Path) -> None:
    _invert(server, write_rows(TEXTS[:6]), tmp_path / "out.jsonl", requests_per_minute=1200, concurrency=6)
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert server.times[-1] - server.times[0] >= 0.2
    assert min(gaps) > 0.01


def test_no_more_requests_are_under_way_than_allowed(server: ModelServer, write_rows: Write, tmp_path: Path) -> None:
    server.usual = Turn(stall=0.05)
    _invert(server, write_rows(TEXTS), tmp_path / "out.jsonl", concurrency=3)
    assert server.most_at_once == 3


# the pairs


def test_texts_stay_untouched_and_their_instructions_come_before_them(
    server: ModelServer, write_rows: Write, tmp_path: Path
) -> None:
    done = _invert(server, write_rows(TEXTS), tmp_path / "out.jsonl")
    assert (done.rows, done.asked, done.known, done.dropped) == (12, 12, 0, ())
    assert [text for _, text in _pairs(done.file)] == [row["text"] for row in TEXTS]
    assert all(reply.startswith("ask: ") for reply, _ in _pairs(done.file))
    prompts = [request["messages"][0]["content"] for request in server.asked]  # in the order of their arrival
    assert all(sum(row["text"] in prompt for prompt in prompts) == 1 for row in TEXTS)
    assert {request["model"] for request in server.asked} == {"tiny"}


def test_a_translation_names_the_language_and_may_have_an_opening(
    server: ModelServer, write_rows: Write, tmp_path: Path
) -> None:
    done = _invert(
        server,
        write_rows(TEXTS[:1]),
        tmp_path / "out.jsonl",
        "translation",
        language="German",
        opening="In your words: ",
    )
    assert "plain German" in server.asked[0]["messages"][0]["content"]
    assert _pairs(done.file)[0][0].startswith("In your words: ask: ")


def test_answers_of_conversations_can_be_inverted_with_their_question_in_sight(
    server: ModelServer, write_rows: Write, tmp_path: Path
) -> None:
    _invert(server, write_rows([{"question": "Who sings?", "answer": "The kettle does."}]), tmp_path / "out.jsonl")
    assert "Who sings?" in server.asked[0]["messages"][0]["content"]
    assert _pairs(tmp_path / "out.jsonl")[0][1] == "The kettle does."


def test_the_same_prompt_is_asked_once_and_a_known_reply_never_again(
    server: ModelServer, write_rows: Write, tmp_path: Path
) -> None:
    file = write_rows([TEXTS[0], TEXTS[0], TEXTS[1]])
    first = _invert(server, file, tmp_path / "out.jsonl")
    assert (first.rows, first.asked, len(server.asked)) == (3, 2, 2)
    again = _invert(server, file, tmp_path / "out.jsonl", force=True)
    assert (again.rows, again.asked, again.known, len(server.asked)) == (3, 0, 2, 2)


def test_what_was_paid_for_survives_an_endpoint_that_breaks_down(
    server: ModelServer, write_rows: Write, tmp_path: Path
) -> None:
    server.turns.extend([Turn()] * 5)
    server.usual = Turn(503)
    out, file = tmp_path / "out.jsonl", write_rows(TEXTS)
    with pytest.raises(EndpointError, match="no answer"):
        _invert(server, file, out, concurrency=1)
    assert not out.exists()
    assert len(Replies.open(replies_file(out)).known) == 5
    server.usual = Turn()
    done = _invert(server, file, out)
    assert (done.rows, done.known, done.asked) == (12, 5, 7)


def test_a_reply_cut_short_by_a_kill_is_asked_again(server: ModelServer, write_rows: Write, tmp_path: Path) -> None:
    out, file = tmp_path / "out.jsonl", write_rows(TEXTS[:3])
    _invert(server, file, out)
    kept = replies_file(out)
    kept.write_bytes(kept.read_bytes()[:-9])
    done = _invert(server, file, out, force=True)
    assert (done.rows, done.known, done.asked) == (3, 2, 1)
    assert len(Replies.open(kept).known) == 3


def test_texts_without_a_reply_are_listed_and_the_others_written(
    server: ModelServer, write_rows: Write, tmp_path: Path
) -> None:
    server.turns.extend([Turn(200, b"<html>"), Turn(400, b"too long")])
    done = _invert(server, write_rows([*TEXTS[:4], {"text": " "}]), tmp_path / "out.jsonl", concurrency=1)
    assert done.rows == 2
    assert sorted(each.reason for each in done.dropped) == [
        "not a chat completion: <html>",
        "status 400: too long",
        "text is empty",
    ]


def test_nothing_is_asked_for_a_result_that_is_there(server: ModelServer, write_rows: Write, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        _invert(server, write_rows(TEXTS), tmp_path / "out.jsonl")
    assert server.asked == []


def test_files_without_a_text_are_an_error(server: ModelServer, write_rows: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text to invert"):
        _invert(server, write_rows([{"text": ""}, {"text": " "}]), tmp_path / "out.jsonl")


def test_prompts_are_jinja_files_that_may_use_what_is_documented(
    server: ModelServer, write_rows: Write, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.jinja"
    mine.write_text("Summarise: {{ text | upper }}")
    _invert(server, write_rows(TEXTS[:1]), tmp_path / "out.jsonl", str(mine))
    assert server.asked[0]["messages"][0]["content"].startswith("Summarise: DEAR FRIEND")
    mine.write_text("{{ author }}")
    with pytest.raises(UsageError, match="cannot be filled: 'author' is undefined"):
        _invert(server, write_rows(TEXTS[:1]), tmp_path / "other.jsonl", str(mine))
    mine.write_text("{% if %}")
    with pytest.raises(UsageError, match="is no Jinja"):
        read_prompt(str(mine))
    with pytest.raises(UsageError, match="no prompt template letters"):
        read_prompt("letters")


# the verb


def test_the_verb_takes_its_key_from_the_variable_and_prints_it_nowhere(
    server: ModelServer,
    write_rows: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    words = ["data", "invert", write_rows(TEXTS), "--to", str(tmp_path / "out.jsonl"), "--url", server.url]
    assert main([*words, "--model", "tiny", "--key-variable", "MY_KEY", "--requests-per-minute", "0", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rows"] == 12
    assert set(server.keys) == {"Bearer sk-secret"}
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"sk-secret" not in written
    assert "sk-secret" not in printed.out + printed.err


def test_ctrl_c_leaves_a_state_that_the_printed_command_goes_on_from(
    server: ModelServer, write_rows: Write, tmp_path: Path
) -> None:
    server.usual = Turn(stall=0.1)
    out = tmp_path / "out.jsonl"
    words = ["data", "invert", write_rows(TEXTS), "--to", str(out), "--url", server.url, "--model", "tiny"]
    words += ["--requests-per-minute", "0"]
    command = [sys.executable, "-m", "ftcluster", *words, "--concurrency", "1"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ})
    while len(Replies.open(replies_file(out)).known) < 3:
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=20)
    assert started.returncode == 130, told
    kept = len(Replies.open(replies_file(out)).known)
    assert 3 <= kept < 12
    assert f"stopped; {kept} replies are kept" in told
    assert "ftcluster data invert" in told
    assert not out.exists()
    server.usual = Turn()
    assert main(words) == 0
    assert len(_pairs(out)) == 12
    assert len({json.dumps(asked) for asked in server.asked}) == 12
