"""``ftcluster chat`` with a real model: for people, for scripts, and with whatever a reference can name."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import registry_samples
import torch
from registry_samples import PROMPT, Home

from ftcluster.cli import main
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.ports import AdapterSettings
from ftcluster.contracts.trial import RunState
from ftcluster.data.rows.example import Message
from ftcluster.data.text.template import Tokeniser
from ftcluster.errors import DataError, ModelError, StoreError, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.models import adapters
from ftcluster.models.base import Base, load_base
from ftcluster.models.generation import generate
from ftcluster.models.integrity import check_adapter, write_integrity
from ftcluster.models.streaming import _Pieces, stream_answer
from ftcluster.registry.conversation import Conversation
from ftcluster.registry.speaker import find_speaker, load_speaker
from ftcluster.registry.store import Registry
from ftcluster.tracking.mlflow_store import open_client, prepare_store, tracking_uri

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one run called ``other``, its adapter made by hand, and one that failed."""
    folder = tmp_path_factory.mktemp("chat")
    home = Home(folder / "home", registry_samples.talkative_base(tiny_qwen2, folder / "base"))
    config = {"model": {"path": str(home.base)}}
    with Ledger.open(home.path) as ledger:
        for name, state in ((home.other, RunState.FINISHED), ("broken", RunState.FAILED)):
            ledger.add(RunRow(name, "train", str(home.path / name), config))
            ledger.set_state(name, RunState.RUNNING)
            ledger.set_state(name, state)
    make_adapter(load_base(home.base), RunFolder(home.path / home.other).adapter)
    return home


def make_adapter(base: Base, folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    parameters = adapters.attach(base, "made", AdapterSettings(rank=4, alpha=8.0), seed=3)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    adapters.save_adapter(base, "made", folder)
    base.tokenizer.save_pretrained(folder)
    write_integrity(folder, check_adapter(folder, base_revision=base.revision))


@pytest.fixture(scope="module")
def base(home: Home) -> Base:
    return load_base(home.base)


@pytest.fixture
def registry(home: Home) -> Registry:
    return Registry(tracking_uri(home.path, ""))


def tokens_of(base: Base, *turns: tuple[str, str]) -> list[int]:
    return Tokeniser(base.tokenizer).prompt([Message(role, text) for role, text in turns])


def ask(home: Home, reference: str, *words: str) -> int:
    return main(["chat", reference, "--home", str(home.path), "--max-new-tokens", "12", *words])


# Streaming and conversation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["Question 3?", "你好"])
def test_the_pieces_of_a_streamed_answer_are_the_whole_answer(base: Base, prompt: str) -> None:
    tokens = tokens_of(base, ("user", prompt))
    pieces: list[str] = []
    written = stream_answer(base, tokens, 24, pieces.append)
    assert written == generate(base, [tokens], 24)[0]
    assert len(pieces) > 1
    assert "".join(pieces).strip() == base.tokenizer.decode(written, skip_special_tokens=True).strip()


def test_half_a_character_waits_for_its_other_half(base: Base) -> None:
    pieces: list[str] = []
    stream = _Pieces(base.tokenizer, pieces.append)
    stream.put(torch.tensor([[1, 2, 3]]))  # the prompt, which is not shown
    tokens = base.tokenizer("ok 🎫!", add_special_tokens=False)["input_ids"]
    assert len(tokens) > len("ok 🎫!")  # the ticket is several tokens of this tokenizer
    for token in tokens:
        stream.put(torch.tensor([token]))
    stream.end()
    assert "".join(pieces) == "ok 🎫!"
    assert not any("\ufffd" in piece for piece in pieces)


def test_earlier_turns_are_remembered_until_they_are_reset(base: Base) -> None:
    alone = Conversation(base, max_new_tokens=8).say("b").text
    assert alone
    talk = Conversation(base, max_new_tokens=8)
    first = talk.say("a").text
    prompt = tokens_of(base, ("user", "a"), ("assistant", first), ("user", "b"))
    expected = base.tokenizer.decode(generate(base, [prompt], 8)[0], skip_special_tokens=True).strip()
    assert talk.say("b").text == expected != alone
    talk.reset()
    assert talk.say("b").text == alone


def test_an_answer_that_was_stopped_is_forgotten_with_its_question(base: Base) -> None:
    def stop(_piece: str) -> None:
        raise KeyboardInterrupt

    talk = Conversation(base, max_new_tokens=8)
    with pytest.raises(KeyboardInterrupt):
        talk.say("a", stop)
    assert talk.say("b") == Conversation(base, max_new_tokens=8).say("b")


def test_a_system_prompt_stands_before_every_turn_and_survives_a_reset(base: Base) -> None:
    talk = Conversation(base, system="Be brief.", max_new_tokens=8)
    assert Conversation(base, max_new_tokens=8).say("a") != talk.say("a")
    talk.reset()
    answer = generate(base, [tokens_of(base, ("system", "Be brief."), ("user", "a"))], 8)[0]
    expected = base.tokenizer.decode(answer, skip_special_tokens=True).strip()
    assert talk.say("a").text == expected
    talk.reset()
    assert talk.say("a").text == expected


def test_the_oldest_turns_are_forgotten_when_the_model_has_no_more_room(base: Base) -> None:
    talk = Conversation(base, max_new_tokens=64)
    long = "fox " * 60
    forgotten = [talk.say(long).forgotten for _ in range(8)]
    assert forgotten[0] == 0
    assert sum(forgotten) > 0
    assert all(count % 2 == 0 for count in forgotten)


def test_a_question_longer_than_the_model_can_read_is_refused_with_both_lengths(base: Base) -> None:
    with pytest.raises(UsageError, match=r"tokens and 64 for the answer are more than the model's 1024"):
        Conversation(base, max_new_tokens=64).say("fox " * 2000)


def test_a_model_without_chat_template_is_told_to_have_one(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(home.base, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="no chat template") as error:
        Conversation(load_base(folder)).say("a")
    assert "chat_template.jinja" in error.value.remedy


# Who is spoken to ----------------------------------------------------------------------------------------------------


def test_a_run_speaks_with_its_adapter_and_differs_from_its_base(
    home: Home, registry: Registry, base: Base, tmp_path: Path
) -> None:
    speaker = find_speaker(home.other, home.path, registry, tmp_path)
    assert (speaker.title, speaker.folder) == (home.other, home.base)
    tuned = Conversation(load_speaker(speaker), max_new_tokens=12).say(PROMPT).text
    assert tuned != Conversation(base, max_new_tokens=12).say(PROMPT).text


def test_an_adapter_folder_finds_its_base_by_itself(home: Home, registry: Registry, tmp_path: Path) -> None:
    folder = RunFolder(home.path / home.other).adapter
    by_folder = find_speaker(str(folder), home.path, registry, tmp_path)
    by_run = find_speaker(home.other, home.path, registry, tmp_path)
    assert (by_folder.folder, by_folder.adapter) == (by_run.folder, by_run.adapter)


def test_without_a_name_the_run_that_finished_last_speaks(home: Home, registry: Registry, tmp_path: Path) -> None:
    assert find_speaker("", home.path, registry, tmp_path).title == home.other
    with pytest.raises(UsageError, match="no run has finished yet"):
        find_speaker("", tmp_path, registry, tmp_path)


def test_talking_to_a_folder_makes_no_ledger(home: Home, registry: Registry, tmp_path: Path) -> None:
    assert find_speaker(str(home.base), tmp_path / "none", registry, tmp_path).folder == home.base
    assert not (tmp_path / "none").exists()


def test_a_run_that_left_nothing_is_refused_with_its_state(home: Home, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="broken is failed and left no adapter and no model"):
        find_speaker("broken", home.path, registry, tmp_path)


def test_an_unknown_name_is_refused_with_the_nearest_run(home: Home, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='there is no run "othr"') as error:
        find_speaker("othr", home.path, registry, tmp_path)
    assert "other" in error.value.remedy


def test_a_folder_that_is_not_there_is_refused_as_a_folder(home: Home, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder") as error:
        find_speaker("./gone", home.path, registry, tmp_path)
    assert (error.value.where, error.value.remedy) == ("./gone", "name a folder with a model or an adapter")


def test_an_alias_nobody_has_is_refused_with_how_to_promote(home: Home, registry: Registry, tmp_path: Path) -> None:
    for reference, shown in (("nobody@champion", "nobody@champion"), ("models:/nobody/3", "nobody/3")):
        with pytest.raises(UsageError, match=f"the registry has no {shown}") as error:
            find_speaker(reference, home.path, registry, tmp_path)
        assert "ftcluster promote RUN --name nobody; MLFLOW_TRACKING_URI names another" in error.value.remedy
        assert error.value.where == registry.uri


def test_a_version_that_ftcluster_did_not_make_is_refused(home: Home, registry: Registry, tmp_path: Path) -> None:
    prepare_store(registry.uri)
    client = open_client(registry.uri)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "file:///elsewhere", None)
    with pytest.raises(UsageError, match="foreign version 1 was not made by ftcluster"):
        find_speaker("models:/foreign/1", home.path, registry, tmp_path)


def test_an_adapter_on_a_base_that_was_changed_is_refused(home: Home, tiny_llama: Path) -> None:
    registry = Registry(tracking_uri(home.path, ""))
    speaker = find_speaker(home.other, home.path, registry, home.path)
    with pytest.raises(ModelError, match=r"the adapter was trained on base .* this base is"):
        load_speaker(replace(speaker, folder=tiny_llama))


# The command ---------------------------------------------------------------------------------------------------------


def test_once_prints_the_answer_and_nothing_else(home: Home, capsys: pytest.CaptureFixture[str], base: Base) -> None:
    expected = Conversation(base, max_new_tokens=12).say(PROMPT).text
    assert expected
    assert ask(home, home.other, "--base", "--once", PROMPT) == 0
    assert capsys.readouterr().out.strip() == expected


def test_once_as_json_says_whether_the_answer_ended(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(home, home.other, "--once", PROMPT, "--json") == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["model"] == home.other
    assert reply["tokens"] <= 12
    assert reply["finished"] is (reply["tokens"] < 12)


def test_a_talk_reads_questions_and_commands_until_quit(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PROMPT}\n\n/reset\n/dance\n{PROMPT}\n/quit\nnever read\n"))
    assert ask(home, home.other) == 0
    printed = capsys.readouterr()
    answer = Conversation(load_speaker_of(home), max_new_tokens=12).say(PROMPT).text
    assert answer
    assert printed.out.count(answer) == 2
    assert "forgotten" in printed.err
    assert "/dance is not a command" in printed.err


def load_speaker_of(home: Home) -> Base:
    return load_speaker(find_speaker(home.other, home.path, Registry(tracking_uri(home.path, "")), home.path))


def test_a_talk_as_json_answers_each_line_with_an_object(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo"))
    assert ask(home, home.other, "--json") == 0
    decoder, text = json.JSONDecoder(), capsys.readouterr().out
    replies = []
    while text.strip():
        reply, end = decoder.raw_decode(text.lstrip())
        replies.append(reply)
        text = text.lstrip()[end:]
    assert len(replies) == 2
    assert {reply["model"] for reply in replies} == {home.other}
