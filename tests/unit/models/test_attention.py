"""A document on a stream is read exactly as if it were alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import save_sample

from ftcluster.data.prepared.packing import best_fit
from ftcluster.errors import ModelError
from ftcluster.models import attention
from ftcluster.models.attention import (
    NAME,
    Documents,
    Rows,
    attending_by_document,
    check_isolation,
    document_attention,
)
from ftcluster.models.base import load_base

CPU = torch.device("cpu")
DECODERS = ["llama", "qwen2", "qwen3", "mistral", "qwen2_sliding", "gemma3", "gpt2", "gpt_neox", "opt"]
Load = Callable[[str], Any]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    torch.set_num_threads(1)

    @cache
    def model(architecture: str) -> Any:
        folder: Path = tmp_path_factory.mktemp("models") / architecture
        return load_base(save_sample(architecture, folder), dtype=torch.float64).model

    return model


@pytest.fixture(scope="module", params=["one by one", "as rows"], autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """The few tokens that documents of tests have would all be attended to as rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SHORT", 0 if request.param == "one by one" else 10**6)
        yield


def documents(lengths: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 320, (length,), generator=draw) for length in lengths]


@torch.no_grad()
def on_a_stream(model: Any, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    lengths = tuple(len(row) for row in rows)
    with attending_by_document(model):
        logits = model(
            input_ids=torch.cat(rows)[None],
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            use_cache=False,
            documents=Documents.of(lengths, CPU),
        ).logits[0]
    return list(logits.split(lengths))


@torch.no_grad()
def alone(model: Any, row: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=row[None], use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("architecture", DECODERS)
def test_each_document_of_a_stream_is_read_as_plain_transformers_reads_it_alone(load: Load, architecture: str) -> None:
    model = load(architecture)
    rows = documents((7, 1, 12, 2, 1))
    for row, logits in zip(rows, on_a_stream(model, rows), strict=True):
        plain = alone(model, row)
        assert plain.std() > 0.01
        assert (logits - plain).abs().max() < 1e-12 * plain.abs().max()


@pytest.mark.parametrize("architecture", DECODERS)
def test_changing_one_document_changes_no_bit_of_the_others(load: Load, architecture: str) -> None:
    model = load(architecture)
    rows, others = documents((5, 1, 9, 3)), documents((5, 1, 9, 3), seed=1)
    before = on_a_stream(model, rows)
    for changed in range(4):
        after = on_a_stream(model, [*rows[:changed], others[changed], *rows[changed + 1 :]])
        for number in range(4):
            assert torch.equal(before[number], after[number]) is (number != changed)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 14), min_size=1, max_size=7), st.integers(0, 2**31))
@pytest.mark.parametrize("architecture", ["qwen2", "mistral"])
def test_any_lengths_in_any_order_agree_with_documents_alone(
    load: Load, architecture: str, lengths: list[int], seed: int
) -> None:
    rows = documents(tuple(lengths), seed)
    for row, logits in zip(rows, on_a_stream(load(architecture), rows), strict=True):
        assert (logits - alone(load(architecture), row)).abs().max() < 1e-10


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=12), st.integers(0, 2**31))
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_documents_packed_by_best_fit_are_read_as_if_alone(
    load: Load, architecture: str, lengths: list[int], seed: int
) -> None:
    """Bins of 16 tokens: some documents fill one, others share it with many of one token."""
    model, rows = load(architecture), documents((*lengths, 16, 1), seed)
    for bin in best_fit([len(row) for row in rows], 16):
        packed = [rows[index] for index in bin]
        for row, logits in zip(packed, on_a_stream(model, packed), strict=True):
            plain = alone(model, row)
            assert (logits - plain).abs().max() < 1e-12 * plain.abs().max()


def test_gradients_of_a_document_are_those_it_has_alone(load: Load) -> None:
    model = load("mistral")
    rows = documents((6, 9, 1))
    embedding = model.get_input_embeddings().weight.requires_grad_(True)

    def gradient(batches: list[list[torch.Tensor]]) -> torch.Tensor:
        embedding.grad = None
        for batch in batches:
            lengths = tuple(len(row) for row in batch)
            with attending_by_document(model):
                logits = model(
                    input_ids=torch.cat(batch)[None],
                    position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
                    use_cache=False,
                    documents=Documents.of(lengths, CPU),
                ).logits
            logits.logsumexp(-1).sum().backward()
        grad: torch.Tensor = embedding.grad.clone()
        return grad

    together, apart = gradient([rows]), gradient([[row] for row in rows])
    embedding.requires_grad_(False)
    assert together.abs().max() > 1e-3
    assert (together - apart).abs().max() < 1e-10


def test_the_model_has_its_own_attention_back_afterwards_even_after_an_error(load: Load) -> None:
    model = load("llama")
    with attending_by_document(model):
        assert model.config._attn_implementation == NAME
    with pytest.raises(ZeroDivisionError), attending_by_document(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"


def test_places_and_sources_are_inverse_to_each_other() -> None:
    #  stream   a0 a1 | b0 | c0 c1 c2     rows of 3:  a0 a1 .  |  b0 .  .  |  c0 c1 c2
    found = Rows.of((2, 1, 3), CPU)
    assert (found.count, found.longest) == (3, 3)
    assert found.places_T.tolist() == [0, 1, 3, 6, 7, 8]
    assert found.sources_BL.tolist() == [0, 1, 0, 2, 2, 2, 3, 4, 5]
    assert found.sources_BL[found.places_T].tolist() == list(range(6))


def test_attention_without_documents_or_with_capped_scores_is_refused() -> None:
    query = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="needs the keyword `documents`"):
        document_attention(torch.nn.Identity(), query, query, query, None)
    with pytest.raises(ValueError, match="Identity caps attention scores"):
        document_attention(
            torch.nn.Identity(), query, query, query, None, softcap=50.0, documents=Documents.of((3,), CPU)
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", DECODERS)
def test_decoders_of_attention_layers_pass_the_isolation_check_in_any_precision(
    load: Load, architecture: str, dtype: torch.dtype
) -> None:
    check_isolation(copy.deepcopy(load(architecture)).to(dtype), CPU)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("lfm2", "Lfm2ForCausalLM lets documents of one stream see each other"),
        ("bert", "BertLMHeadModel reads a document on a stream otherwise than alone"),
        ("falcon", "FalconForCausalLM cannot be trained on streams of documents"),
        ("stablelm", "StableLmForCausalLM cannot be trained on streams of documents: document attention needs"),
    ],
)
def test_models_that_would_mix_documents_are_refused(load: Load, architecture: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        check_isolation(load(architecture), CPU)
    assert "such as Llama" in caught.value.remedy


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("bloom", "BloomForCausalLM"), ("gemma2", "Gemma2ForCausalLM"), ("mamba", "MambaForCausalLM")],
)
def test_models_with_an_attention_of_their_own_are_refused_at_loading(load: Load, architecture: str, name: str) -> None:
    with pytest.raises(ModelError, match=f"{name} brings an attention of its own, which cannot be replaced") as caught:
        load(architecture)
    assert "such as Llama" in caught.value.remedy


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("head", [8, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_part_has_the_bits_it_has_alone_whatever_lengths_others_have(
    dtype: torch.dtype, head: int, window: int | None
) -> None:
    parts = [(7, 5), (40, 3, 23), (1,), (5, 31)]
    draw = torch.Generator().manual_seed(1)
    sizes = [sum(lengths) for lengths in parts]
    streams = [torch.randn(1, sum(sizes), heads, head, generator=draw).to(dtype) for heads in (4, 2, 2, 4)]

    def attended(stream: list[torch.Tensor], documents: Any) -> list[torch.Tensor]:
        inputs = [each.clone().requires_grad_(True) for each in stream[:3]]
        found, _ = document_attention(
            torch.nn.Identity(),
            *(each.transpose(1, 2) for each in inputs),
            None,
            sliding_window=window,
            documents=documents,
        )
        return [found.detach(), *torch.autograd.grad(found, inputs, stream[3])]

    together = attended(streams, [Documents.of(lengths, CPU) for lengths in parts])
    for number, lengths in enumerate(parts):
        alone = attended([each.split(sizes, 1)[number].clone() for each in streams], Documents.of(lengths, CPU))
        assert all(torch.equal(t.split(sizes, 1)[number], a) for t, a in zip(together, alone, strict=True))


def test_a_value_that_is_part_of_a_fused_product_does_not_keep_all_of_it() -> None:
    fused = torch.randn(1, 50, 3 * 8, requires_grad=True) * 1
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        query, key, value = (part.unsqueeze(1) for part in fused.chunk(3, -1))
        document_attention(torch.nn.Identity(), query * 1, key * 1, value, None, documents=Documents.of((40, 10), CPU))
    assert fused.untyped_storage()._cdata not in {tensor.untyped_storage()._cdata for tensor in kept}
