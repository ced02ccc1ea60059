"""What a process keeps warm, and what it refuses before anything is loaded."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from training_samples import World

from ftcluster.config.compose import compose
from ftcluster.config.schema import RunConfig
from ftcluster.errors import DataError, ModelError, UsageError
from ftcluster.models.tokenizer import load_tokenizer
from ftcluster.training.bench import Bench, data_lineage, engine_note, packs, prepare_data, tokenizer_id
from ftcluster.training.places import places_at_most, trials_per_host


@pytest.fixture
def config(world: World, home: Path) -> RunConfig:
    return compose([*world.words(), f"home={home}"])


def test_trials_of_one_base_share_an_engine_and_another_base_takes_its_place(config: RunConfig) -> None:
    bench = Bench()
    engine = bench.engine(config)
    assert bench.engine(replace(config, seed=3, adapter=replace(config.adapter, rank=2))) is engine
    other = bench.engine(replace(config, engine=replace(config.engine, precision="fp64")))
    assert other is not engine
    assert bench.engine(config) is not engine, "two bases at once may not fit"


def test_every_slot_is_new() -> None:
    bench = Bench()
    assert len({bench.slot() for _ in range(5)}) == 5


def test_prepared_data_is_found_again(config: RunConfig) -> None:
    assert prepare_data(config).folder == prepare_data(replace(config, seed=99)).folder


def test_the_lineage_of_data_has_the_hash_of_its_bytes(config: RunConfig) -> None:
    prepare_data(config)
    file = Path(config.data.train[0])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert data_lineage(config)[f"data.{file.name}.sha256"] == digest


def test_an_unknown_target_is_refused_without_loading_weights(config: RunConfig) -> None:
    wrong = replace(config, adapter=replace(config.adapter, targets=["q_prj"]))
    with pytest.raises(ModelError, match="no linear layer called q_prj; did you mean q_proj"):
        prepare_data(wrong)
    prepare_data(replace(wrong, adapter=replace(wrong.adapter, kind="none")))


def test_a_tokenizer_of_another_model_is_refused_without_loading_weights(
    config: RunConfig, world: World, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(world.model, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(b"never read")
    prepare_data(replace(config, model=replace(config.model, path=str(folder))))
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="the tokenizer has ids up to"):
        prepare_data(replace(config, model=replace(config.model, path=str(folder))))


def test_rows_that_cannot_be_used_are_refused_by_file_and_line(config: RunConfig, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    good = json.dumps({"question": "What?", "answer": "That."})
    rows.write_text(f"{good}\nno json\n" + f"{good}\n" * 20)
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        prepare_data(replace(config, data=replace(config.data, train=[str(rows)])))


def test_the_tokenizers_identity_covers_its_files_and_its_template_but_no_weights(world: World, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world.model, tmp_path / "model"))
    first = tokenizer_id(folder)
    assert first == tokenizer_id(world.model)
    (folder / "model.safetensors").unlink()
    assert tokenizer_id(folder) == first
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    changed = tokenizer_id(folder)
    assert changed != first
    (folder / "tokenizer.json").write_text("{}")
    assert tokenizer_id(folder) not in (first, changed)


def with_dropout(config: RunConfig, folder: Path, dropout: float) -> RunConfig:
    """The same on a base whose attention drops that share."""
    shutil.copytree(config.model.path, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"attention_dropout": dropout}))
    return replace(config, model=replace(config.model, path=str(folder)))


def test_adapters_are_packed_unless_told_otherwise_and_full_fine_tunes_never(config: RunConfig) -> None:
    assert packs(config)
    assert not packs(replace(config, engine=replace(config.engine, name="local")))
    assert not packs(replace(config, adapter=replace(config.adapter, kind="none")))


def test_a_base_with_dropout_of_its_own_trains_alone_and_packing_it_is_refused(
    config: RunConfig, tmp_path: Path
) -> None:
    dropping = with_dropout(config, tmp_path / "dropping", 0.1)
    assert not packs(dropping)
    with pytest.raises(UsageError, match=r"engine\.name: the base has dropout of its own.*\n.*use engine=auto"):
        prepare_data(replace(dropping, engine=replace(dropping.engine, name="packed")))
    assert packs(with_dropout(config, tmp_path / "still", 0.0))


def test_a_host_trains_several_trials_of_one_base_and_one_where_bases_differ(config: RunConfig) -> None:
    assert trials_per_host(config, ["optim.lr"], gpus=False) == 4
    assert trials_per_host(config, ["optim.lr"], gpus=True) == 1, "exact packs start as many kernels"
    fast = replace(config, engine=replace(config.engine, mode="fast"))
    assert trials_per_host(fast, ["optim.lr"], gpus=True) == 16
    over_two = replace(config, engine=replace(config.engine, name="packed"), cluster=replace(config.cluster, ranks=2))
    assert trials_per_host(over_two, ["optim.lr"], gpus=True) == 2, "one on each rank"
    told = replace(config, cluster=replace(config.cluster, trials_per_host=9))
    assert trials_per_host(told, ["optim.lr"], gpus=True) == 9
    for swept in ("adapter.kind", "engine.precision", "engine.threads", "model.path"):
        assert trials_per_host(told, [swept], gpus=False) == 1


def test_a_sweep_over_sharded_bases_is_told_of_packs_unless_its_trials_cannot_share_one(
    config: RunConfig, tmp_path: Path
) -> None:
    def over_two(config: RunConfig, name: str = "deepspeed", stage: int = 3) -> RunConfig:
        engine = replace(config.engine, name=name, stage=stage)
        return replace(config, engine=engine, cluster=replace(config.cluster, ranks=2))

    assert "engine=packed_zero3 trains several" in engine_note(over_two(config), sweep=True)
    quiet = [over_two(config, "packed"), over_two(config, stage=2), over_two(with_dropout(config, tmp_path / "d", 0.1))]
    assert [engine_note(each, sweep=True) for each in quiet] == ["", "", ""]
    assert engine_note(over_two(config)) == ""


def test_no_host_trains_more_trials_than_can_be_told_without_the_model(config: RunConfig) -> None:
    for mode, ranks, told in itertools.product(("exact", "fast"), (1, 2), (0, 9)):
        engine = replace(config.engine, name="packed", mode=mode)
        one = replace(config, engine=engine, cluster=replace(config.cluster, ranks=ranks, trials_per_host=told))
        assert all(trials_per_host(one, [], gpus=gpus) <= places_at_most(one) for gpus in (False, True))
