"""One chat template from preparation to chat: ``data.template`` of a run is what its result is taught and asked in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training_samples import World, make_world
from transformers import AutoTokenizer

from ftcluster.cli import main
from ftcluster.comparison.gather import gather
from ftcluster.contracts.folder import RunFolder
from ftcluster.data.prepared.folder import open_prepared
from ftcluster.data.rows.example import Message
from ftcluster.data.text.chat_template import template_text
from ftcluster.data.text.template import Tokeniser
from ftcluster.evaluation.record import TestLimits
from ftcluster.ledger.store import Ledger
from ftcluster.models.tokenizer import load_tokenizer
from ftcluster.registry.speaker import find_speaker, load_speaker
from ftcluster.registry.store import Registry
from ftcluster.tracking.mlflow_store import tracking_uri

pytestmark = pytest.mark.slow
ALPACA = template_text("alpaca")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def home(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an adapter and a full fine-tune, both on Alpaca's template, which the model's own is not."""
    home = tmp_path_factory.mktemp("home")
    short = ["data.template=alpaca", "optim.duration=4 steps", "evaluation=generate", "evaluation.generate=2"]
    for kind in ("lora", "none"):
        words = world.arguments(home, *short, "evaluation.every=2 steps", f"adapter={kind}", f"name={kind}")
        assert main(words) == 0
    return home


def test_the_data_is_written_with_the_template(world: World, home: Path) -> None:
    prepared = open_prepared(Path(RunFolder(home / "lora").read_facts()["prepared"]))
    assert prepared.chat_template == ALPACA
    tokenizer = load_tokenizer(world.model)
    text = str(tokenizer.decode(prepared.train.get(0)[0]))
    assert text.startswith("Below is an instruction that describes a task.")
    assert "### Response:\nIt is" in text
    assert text.endswith("<|im_end|>")


def test_results_carry_the_template_for_whoever_loads_them(home: Path) -> None:
    for folder in (RunFolder(home / "lora").adapter, RunFolder(home / "none").model):
        assert AutoTokenizer.from_pretrained(folder).chat_template == ALPACA


@pytest.mark.parametrize("reference", ["lora", "none", "adapter folder"])
def test_chat_asks_a_result_as_it_was_taught(home: Path, tmp_path: Path, reference: str) -> None:
    adapter = RunFolder(home / "lora").adapter
    name = str(adapter) if reference == "adapter folder" else reference
    speaker = find_speaker(name, home, Registry(tracking_uri(home, "")), tmp_path)
    prompt = Tokeniser(load_speaker(speaker, "cpu").tokenizer).prompt([Message("user", "What is 1 plus 2?")])
    asked = str(AutoTokenizer.from_pretrained(adapter).decode(prompt))
    assert asked.endswith("### Instruction:\nWhat is 1 plus 2?\n\n### Response:\n")


def test_base_and_runs_are_compared_in_the_same_template(home: Path) -> None:
    with Ledger.open(home) as ledger:
        found = gather(ledger, ["lora"], limits=TestLimits(rows=4, answers=2, max_new_tokens=4))
    (contender,) = found.contenders
    assert contender.record is not None
    assert found.base is not None
    assert contender.record.weights == found.base.weights
    assert all(weight > 0 for weight in found.base.weights)


def test_a_changed_template_file_is_another_preparation(world: World, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    folders = set()
    for mark in ("", "!"):
        file.write_text(f"{{% for m in messages %}}{{{{ m.content + '{mark}' + eos_token }}}}{{% endfor %}}")
        words = world.arguments(tmp_path / "home", f"data.template={file}", "--dry-run", "--json")
        assert main(words) == 0
        folders = {path.name for path in (tmp_path / "home" / "prepared").iterdir() if path.is_dir()}
    assert len(folders) == 2


def test_a_broken_template_file_stops_a_run_before_it_starts(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}\n{{ m.content }")
    assert main(world.arguments(tmp_path / "home", f"data.template={file}")) == 3
    assert f"{file}:2: the chat template is not valid Jinja" in capsys.readouterr().err
    assert not (tmp_path / "home" / "prepared").exists()


def test_a_run_on_tool_calls_trains_and_is_asked_with_its_tools(world: World, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}
    rows = []
    for number in range(40):
        call = {"function": {"name": "add", "arguments": json.dumps({"a": number})}}
        turns = [
            {"role": "user", "content": f"{number}?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
        rows.append({"messages": turns, "tools": [tool]})
    file = tmp_path / "tools.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"data.train=[{file}]", "optim.duration=2 steps", "evaluation=generate", "evaluation.generate=2", "name=t"]
    words += ["evaluation.every=2 steps", "data.max_length=1024"]
    assert main(world.arguments(tmp_path / "home", *words)) == 0
    prepared = open_prepared(Path(RunFolder(tmp_path / "home" / "t").read_facts()["prepared"]))
    question = prepared.held_out("validation")[0]
    assert question.tools == (tool,)
    assert question.reference.startswith('<tool_call>\n{"name": "add", "arguments": {"a": ')
    assert [cut.reason for cut in prepared.report.cut] == [
        "tools and calls written as text, as the chat template knows none"
    ]
