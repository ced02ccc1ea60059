"""Override words and YAML files become one strict, frozen config."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.config import words
from ftcluster.config.compose import compose, from_dict, override, resolve_home, to_dict
from ftcluster.config.schema import RunConfig, SourceConfig
from ftcluster.errors import ConfigError


def refused(*given_words: str, config_dir: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(given_words, config_dir=config_dir)
    text = str(caught.value)
    for wording in ("MissingConfigException", "ConfigCompositionException", "defaults list", "OmegaConf", "struct"):
        assert wording not in text
    return text


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


# --- what words do -----------------------------------------------------------------------------------------------


def test_no_words_give_the_defaults_of_conf() -> None:
    config = compose([])
    assert (config.adapter.kind, config.objective.name, config.optim.duration) == ("lora", "sft", "3 epochs")


def test_a_word_beats_its_group_and_a_group_beats_the_default_whatever_their_order() -> None:
    config = compose(["optim.lr=0.25", "optim=adamw_fast"])
    assert config.optim.lr == 0.25
    assert config.optim.duration == compose(["optim=adamw_fast"]).optim.duration != compose([]).optim.duration


def test_the_last_of_two_words_for_one_key_wins() -> None:
    assert compose(["optim.lr=1", "optim.lr=2"]).optim.lr == 2.0


def test_numbers_are_read_as_their_field_wants_them() -> None:
    config = compose(["optim.lr=1e-3", "adapter.alpha=32", "data.limit=1e3", "name=007"])
    assert (config.optim.lr, config.adapter.alpha, config.data.limit, config.name) == (0.001, 32.0, 1000, "007")
    assert isinstance(config.adapter.alpha, float)
    assert isinstance(config.data.limit, int)


def test_one_text_where_a_list_is_wanted_is_a_list_of_one() -> None:
    assert compose(["adapter.targets=q_proj"]).adapter.targets == ["q_proj"]


def test_file_names_may_be_chinese_or_hold_spaces_and_equals_signs() -> None:
    config = compose(["data.train=[数据/训练.jsonl,a b=c.jsonl,'x,y.jsonl']"])
    names = [str(Path(path).relative_to(Path.cwd())) for path in config.data.train]
    assert names == ["数据/训练.jsonl", "a b=c.jsonl", "x,y.jsonl"]


def test_a_path_may_hold_parentheses_and_quotes() -> None:
    for path in ("/models/qwen (copy)", '/data/"a" (b)', "/数据 (1)/a=b", "/a, b/c(d"):
        assert compose([f"model.path={path}"]).model.path == path


def test_columns_take_any_name_as_key() -> None:
    config = compose(["data.columns={prompt: 问题, system: a}", "data.columns.answer=reply"])
    assert config.data.columns == {"prompt": "问题", "system": "a", "answer": "reply"}


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_plain_numbers_are_what_hydra_reads_in_them(number: float) -> None:
    read, grammar = words.parse(f"optim.lr={number!r}"), words._parser().parse_override(f"x={number!r}")
    assert (type(read.value), read.value, read.text) == (type(grammar.value()), grammar.value(), repr(number))


@pytest.mark.parametrize(("text", "value"), [("01", "01"), ("1.", 1.0), (".5", 0.5), ("1_000", 1000), ("+3", 3)])
def test_numbers_in_other_forms_are_left_to_the_grammar(text: str, value: object) -> None:
    assert words.parse(f"optim.lr={text}").value == value


def test_a_reference_follows_the_value_it_names() -> None:
    assert compose(["tracking.experiment=${name}", "name=mine"]).tracking.experiment == "mine"


def test_relative_paths_mean_the_folder_they_were_written_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose(["home=out", "model=folder", "model.path=m", "data=jsonl", "data.train=[t.jsonl]"])
    assert config.home == str(tmp_path / "out")
    assert config.model.path == str(tmp_path / "m")
    assert config.data.train == [str(tmp_path / "t.jsonl")]


def test_home_comes_from_the_environment_when_no_word_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTCLUSTER_HOME", str(tmp_path))
    assert compose([]).home == str(tmp_path) == str(resolve_home(RunConfig()))
    assert compose([]).model.path == str(tmp_path / "demo" / "base")
    assert resolve_home(compose(["home=/elsewhere"])) == Path("/elsewhere")


# --- what is refused ---------------------------------------------------------------------------------------------


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    assert refused("optim.rl=1") == "optim.rl is not a known key. Did you mean optim.lr or optim.clip?"
    assert "Did you mean optim.lr?" in refused("optm.lr=1")
    assert "Did you mean optim.lr?" in refused("lr=1")


def test_the_names_other_trainers_use_lead_to_ours() -> None:
    text = refused("learning_rate=1e-4", "lora_r=8", "num_train_epochs=3", "model_name_or_path=x")
    for ours in ("optim.lr", "adapter.rank", "optim.duration", "model.path"):
        assert f"Did you mean {ours}?" in text


def test_an_unknown_option_lists_those_there_are() -> None:
    assert refused("model=tinny") == (
        "model=tinny: model has no such option. Did you mean tiny? Options: folder, tiny."
    )


def test_a_path_given_for_a_group_shows_how_to_give_ones_own() -> None:
    assert "write data=jsonl data.train=[my/rows.jsonl]." in refused("data=my/rows.jsonl")
    assert "write model=folder model.path=./qwen." in refused("model=./qwen")


def test_a_wrong_type_says_what_was_expected_and_what_was_given() -> None:
    text = refused("optim.lr=abc", "adapter.rank=2.5", "adapter.rslora=1", "seed=null", "data.columns=3", "name=true")
    assert text.splitlines() == [
        "6 problems:",
        "  - name=true: expected text, got true or false.",
        "  - seed=null: expected a whole number, got nothing.",
        "  - data.columns=3: expected pairs such as {a: b}, got a whole number.",
        "  - adapter.rank=2.5: expected a whole number, got a fraction.",
        "  - adapter.rslora=1: expected true or false, got a whole number.",
        "  - optim.lr=abc: expected a number, got text.",
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_must_be_finite(value: str) -> None:
    assert f"optim.lr={value}: expected a number, got {value}, which is not finite." in refused(f"optim.lr={value}")


def test_keys_are_neither_added_nor_removed() -> None:
    assert refused("+x=1") == '"+x=1": keys are neither added nor removed; write it without "+".'
    assert refused("~optim.lr") == '"~optim.lr": keys are neither added nor removed; write it without "~".'
    assert "++optim.lr" in refused("++optim.lr=1")


def test_a_word_without_a_value_shows_what_a_word_is() -> None:
    assert "is not an override; write key=value, such as optim.lr=1e-3" in refused("lora_sft")


def test_an_open_bracket_says_what_is_missing() -> None:
    text = refused("data.train=[a, b")
    assert '"data.train=[a, b": the value cannot be read; close brackets and quotes' in text
    assert "-> put quotes around the text" in text


def test_several_values_belong_to_a_sweep() -> None:
    assert refused("optim.lr=1e-3,1e-4") == (
        "optim.lr=1e-3,1e-4: several values make a sweep; give one, or use ftcluster sweep."
    )


def test_a_group_takes_one_option() -> None:
    assert "choose one option, evaluation=NAME" in refused("evaluation={every: 1 steps}")
    assert "choose one option, model=NAME" in refused("model=[tiny,folder]")


def test_a_reference_that_leads_nowhere_or_in_a_circle_is_named() -> None:
    assert "model.path: a ${...} reference cannot be followed" in refused("model.path=${optim.rl}")
    assert "reference cannot be followed" in refused("model.path=${model.path}")


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("hydra.run.dir=/tmp", "own settings are fixed"),
        ("optim._target_=os.system", "config never names code to run"),
        ("model.path=${oc.env:HOME}", "${oc.env:HOME} is not allowed"),
        ("model.path=${oc.decode:x}", "is not allowed"),
        ("model.path='${oc.env:${name}}'", "is not allowed"),
        ("data.columns={a: '${oc.env:HOME}'}", "is not allowed"),
    ],
)
def test_words_cannot_act(word: str, why: str) -> None:
    assert why in refused(word)


def test_all_problems_come_at_once() -> None:
    text = refused("oops", "optm.lr=1", "model=tinny", "optim.lr=fast", "adapter.rank=1,2", "optm.lr=1")
    assert text.splitlines() == [
        "5 problems:",
        '  - "oops" is not an override; write key=value, such as optim.lr=1e-3 or model=tiny.',
        "  - adapter.rank=1,2: several values make a sweep; give one, or use ftcluster sweep.",
        "  - model=tinny: model has no such option. Did you mean tiny? Options: folder, tiny.",
        "  - optm.lr is not a known key. Did you mean optim.lr?",
        "  - optim.lr=fast: expected a number, got text.",
    ]


# --- the user's own folder ---------------------------------------------------------------------------------------


def test_the_users_folder_adds_groups_and_experiments_and_comes_first(tmp_path: Path) -> None:
    write(tmp_path, "optim/slow.yaml", "lr: 1e-6\n")
    write(tmp_path, "adapter/lora.yaml", "rank: 99\n")
    write(
        tmp_path,
        "experiment/mine.yaml",
        "# @package _global_\ndefaults:\n  - override /optim: slow\n  - override /adapter: lora\nseed: 5\n",
    )
    config = compose(["experiment=mine"], config_dir=tmp_path)
    assert (config.optim.lr, config.adapter.rank, config.seed) == (1e-6, 99, 5)


def test_the_users_config_yaml_replaces_ours(tmp_path: Path) -> None:
    write(tmp_path, "config.yaml", "defaults:\n  - _self_\n  - model: folder\nmodel:\n  path: /m\nseed: 4\n")
    config = compose([], config_dir=tmp_path)
    assert (config.seed, config.optim) == (4, RunConfig().optim)


def test_an_unknown_key_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, "optim/slow.yaml", "# slow\nlr: 1e-6\nwarmpu: 0.1\n")
    text = refused("optim=slow", config_dir=tmp_path)
    assert text == f"{file}:3: optim.warmpu is not a known key. Did you mean optim.warmup?"


def test_a_wrong_type_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, "experiment/mine.yaml", "# @package _global_\noptim:\n  lr: fast\n")
    text = refused("experiment=mine", config_dir=tmp_path)
    assert text == f"{file}:3: optim.lr=fast: expected a number, got text."


def test_a_key_with_a_dot_in_a_file_is_told_to_nest(tmp_path: Path) -> None:
    write(tmp_path, "experiment/mine.yaml", "# @package _global_\noptim.lr: 1e-3\n")
    assert "optim.lr must be written nested" in refused("experiment=mine", config_dir=tmp_path)


def test_a_value_left_open_in_a_file_must_be_given(tmp_path: Path) -> None:
    write(tmp_path, "model/mine.yaml", "path: ???\n")
    assert refused("model=mine", config_dir=tmp_path) == "model.path has no value yet; write model.path=..."
    assert compose(["model=mine", "model.path=/m"], config_dir=tmp_path).model.path == "/m"


def test_a_defaults_list_that_names_what_is_not_there_says_so(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "experiment/mine.yaml",
        "# @package _global_\ndefaults:\n  - override /modle: tiny\n  - override /optim: adam\n",
    )
    text = refused("experiment=mine", config_dir=tmp_path)
    assert f"{file}:2: modle is not a config group. Did you mean model?" in text
    assert f"{file}:2: optim has no option adam; it has adamw, adamw_fast." in text


def test_a_defaults_list_must_be_a_list(tmp_path: Path) -> None:
    write(tmp_path, "experiment/mine.yaml", "# @package _global_\ndefaults: tiny\n")
    assert "defaults must be a list" in refused("experiment=mine", config_dir=tmp_path)


def test_files_that_do_not_fit_together_are_told_apart_from_wrong_words(tmp_path: Path) -> None:
    write(tmp_path, "experiment/mine.yaml", "# @package _global_\ndefaults:\n  - /optim: adamw\n  - nothere\n")
    text = refused("experiment=mine", config_dir=tmp_path)
    assert text.startswith("the YAML files do not fit together: ")
    assert "-> look at the `defaults:` lists in your config folder" in text


def test_a_missing_config_folder_is_named(tmp_path: Path) -> None:
    assert refused(config_dir=tmp_path / "nope") == f"{tmp_path / 'nope'}: the config folder does not exist."


def test_an_unsafe_file_is_refused_before_anything_is_composed(tmp_path: Path) -> None:
    write(tmp_path, "model/evil.yaml", "_target_: os.system\npath: ${oc.env:HOME}\n")
    text = refused("model=tiny", config_dir=tmp_path)
    assert "line 1: _target_ is not allowed; config never names code to run." in text
    assert "line 2: ${oc.env:HOME} is not allowed" in text


# --- changing one key, many times --------------------------------------------------------------------------------


def test_override_changes_what_it_names_and_nothing_else() -> None:
    base = compose([])
    changed = override(base, ["optim.lr=1e-5", "adapter.targets=[q_proj]"])
    assert (changed.optim.lr, changed.adapter.targets) == (1e-5, ["q_proj"])
    assert override(changed, [f"optim.lr={base.optim.lr}", "adapter.targets=[all-linear]"]) == base


def test_override_is_as_strict_as_compose() -> None:
    base = compose([])
    for word, why in {
        "optm.lr=1": "Did you mean optim.lr?",
        "optim.lr=abc": "expected a number",
        "optim.lr=1,2": "several values make a sweep",
        "adapter=none": "a group is chosen when a config is composed",
        "optim=1": "a group is chosen when a config is composed",
    }.items():
        with pytest.raises(ConfigError, match=why.replace("?", r"\?")):
            override(base, [word])


def test_override_equals_composing_with_the_word_added() -> None:
    assert override(compose(["experiment=lora_sft"]), ["optim.lr=1e-4"]) == compose(
        ["experiment=lora_sft", "optim.lr=1e-4"]
    )


# --- plain values ------------------------------------------------------------------------------------------------


def test_a_config_survives_json() -> None:
    config = compose(["experiment=lora_sft", "data.columns={prompt: 问题}"])
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_from_dict_fills_defaults_and_refuses_the_rest() -> None:
    assert from_dict({}) == RunConfig()
    with pytest.raises(ConfigError) as caught:
        from_dict({"sed": 1, "optim": {"lr": []}, "model": "tiny", "data": {"train": [1]}})
    assert caught.value.problems == [
        "sed is not a known key. Did you mean seed?",
        "optim.lr=[]: expected a number, got a list.",
        "model=tiny: expected a section with the keys path, revision, trust_remote_code.",
    ]


def test_composing_from_several_threads_gives_each_its_own(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / str(number), "optim/own.yaml", f"lr: {number + 1}\n")
    found: dict[int, float] = {}

    def work(number: int) -> None:
        found[number] = compose(["optim=own"], config_dir=tmp_path / str(number)).optim.lr

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}


def test_composing_the_same_choices_again_takes_less_than_30_ms() -> None:
    compose(["experiment=lora_sft"])

    def seconds(number: int) -> float:
        start = time.process_time()
        compose(["experiment=lora_sft", f"seed={number}"])
        return time.process_time() - start

    assert min(map(seconds, range(5))) < 0.03


def test_data_sources_are_named_by_the_user_and_typed_by_us() -> None:
    config = compose(["data.sources.math={files: [/m.jsonl], weight: 1}", "data.sources.chat.files=[/c.jsonl]"])
    assert config.data.sources["math"] == SourceConfig(files=["/m.jsonl"], weight=1.0)
    assert config.data.sources["chat"].files == ["/c.jsonl"]
    assert refused("data.sources.math.wait=2").startswith("data.sources.math.wait is not a known key.")
    assert refused("data.sources.math={wait: 2}").startswith("data.sources.math.wait is not a known key.")
    assert refused("data.sources=3") == "data.sources=3: expected sections by name, such as {my_name: {...}}."
    assert refused("data.sources.a.weight=much") == "data.sources.a.weight=much: expected a number, got text."


def test_remote_data_stays_as_it_was_written() -> None:
    config = compose(["data.train=[s3://bucket/rows.jsonl, hub:owner/name, near.jsonl]"])
    assert config.data.train[:2] == ["s3://bucket/rows.jsonl", "hub:owner/name"]
    assert config.data.train[2] == str(Path("near.jsonl").absolute())
