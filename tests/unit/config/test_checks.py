"""Rules across fields: each broken one is a sentence with field, value and remedy, and all come at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftcluster.config.checks import check, check_files, check_sweep
from ftcluster.config.compose import compose
from ftcluster.config.schema import BudgetConfig, PrunerConfig, RunConfig, SamplerConfig, SweepConfig
from ftcluster.errors import ConfigError

OWN = ("model=folder", "model.path=/models/m", "data=jsonl", "data.train=[/rows.jsonl]")


def problems(*words: str) -> list[str]:
    try:
        check(compose([*OWN, *words]))
    except ConfigError as error:
        return error.problems
    return []


def sweep_problems(*base: str, **fields: object) -> list[str]:
    sweep = SweepConfig(**{"space": {"optim.lr": "choice(1, 2)"}, **fields})  # type: ignore[arg-type]  # any field
    try:
        check_sweep(sweep, compose([*OWN, *base]))
    except ConfigError as error:
        return error.problems
    return []


def test_a_sound_config_passes() -> None:
    assert problems() == []
    assert sweep_problems() == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optim.lr=0"], "optim.lr=0 must be above 0."),
        (["optim.lr=-1e-3"], "optim.lr=-0.001 must be above 0."),
        (["optim.warmup=1"], "optim.warmup=1 must be at least 0 and below 1."),
        (["optim.final_lr=1.5"], "optim.final_lr=1.5 must be at least 0 and at most 1."),
        (["optim.beta2=1"], "optim.beta2=1 must be at least 0 and below 1."),
        (["optim.clip=-1"], "optim.clip=-1 must be at least 0."),
        (["optim.micro_batch=0"], "optim.micro_batch=0 must be at least 1."),
        (["adapter.rank=0"], "adapter.rank=0 must be at least 1."),
        (["adapter.alpha=0"], "adapter.alpha=0 must be above 0."),
        (["adapter.dropout=1"], "adapter.dropout=1 must be at least 0 and below 1."),
        (["data.max_length=1"], "data.max_length=1 must be at least 2."),
        (["data.max_bad_rows=2"], "data.max_bad_rows=2 must be at least 0 and at most 1."),
        (["seed=-1"], "seed=-1 must be at least 0 and at most 4.29497e+09."),
        (["cluster.cpus=-1"], "cluster.cpus=-1 must be at least 0."),
        (["cluster.gpus=-2"], "cluster.gpus=-2 must be 0 or more, or -1 for one where the cluster has GPUs."),
        (["cluster.gpus=1.5"], "cluster.gpus=1.5: above 1 only whole GPUs can be reserved."),
        (
            ["optim.duration=3 weeks"],
            'optim.duration: "3 weeks" is not a duration; write "200 steps", "1e6 tokens" or "3 epochs".',
        ),
        (
            ["evaluation.every=often"],
            'evaluation.every: "often" is not a duration; write "200 steps", "1e6 tokens" or "3 epochs".',
        ),
        (
            ["engine.checkpoint_every=0 steps"],
            'engine.checkpoint_every: "0 steps" is not a duration; write "200 steps", "1e6 tokens" or "3 epochs".',
        ),
        (
            ["optim.batch_size=16", "optim.micro_batch=5"],
            "optim.batch_size=16 is no multiple of optim.micro_batch=5; optim.micro_batch=4 or optim.batch_size=15 "
            "would do.",
        ),
        (
            ["optim.schedule=cosin"],
            "optim.schedule=cosin does not exist. Did you mean cosine? Known: cosine, linear, constant.",
        ),
        (
            ["adapter=none", "optim.lora_plus=4"],
            "optim.lora_plus=4 is about an adapter and adapter=none has none; leave it out.",
        ),
        (["adapter.kind=qlora"], "adapter.kind=qlora does not exist. Did you mean lora? Known: lora, none."),
        (
            ["data.format=parquet"],
            "data.format=parquet does not exist. Known: auto, messages, sharegpt, alpaca, prompt_completion, "
            "question_answer, text, preference, labels.",
        ),
        (
            ["adapter.targets=[]"],
            "adapter.targets is empty, so nothing would be trained; use [all-linear] or [q_proj, v_proj].",
        ),
        (
            ["adapter.targets=[all-linear,q_proj]"],
            "adapter.targets=[all-linear, q_proj]: all-linear already covers the others; keep one or the other.",
        ),
        (["adapter.targets=[a,b,a]"], "adapter.targets names a more than once; name each module once."),
        (["data.train=[]"], "data.train is empty; write data.train=[rows.jsonl] with your own rows, or data=demo."),
        (
            ["data.validation_fraction=0.5", "data.test_fraction=0.5"],
            "data.validation_fraction + data.test_fraction = 1 leave no rows to train on; keep them below 1.",
        ),
        (
            ["data.format=text"],
            "objective.name=sft trains on answers and data.format=text has none; use objective=pretrain.",
        ),
        (
            ["objective=pretrain", "evaluation.generate=8"],
            "evaluation.generate=8 compares answers and objective=pretrain has none; use evaluation=loss.",
        ),
        (
            ["model.path=''"],
            "model.path is empty; write model.path=FOLDER with a Hugging Face model folder, or model=tiny.",
        ),
        (
            ["engine.device=cpu", "engine.precision=bf16"],
            "engine.precision=bf16 with engine.device=cpu is slower and less exact than fp32; use fp32.",
        ),
        (
            ["engine.device=cpu", "cluster.gpus=1"],
            "cluster.gpus=1 reserves GPUs that engine.device=cpu leaves idle; set cluster.gpus=0.",
        ),
        (
            ["engine.device=cuda", "cluster.gpus=0"],
            "engine.device=cuda needs a GPU and cluster.gpus=0 reserves none; set cluster.gpus=1.",
        ),
        (
            ["name=My_Run"],
            "name=My_Run must be lower-case letters, digits and hyphens, 63 at most, no hyphen first; "
            "for example my-run.",
        ),
        (
            ["tracking.uri=./mlruns"],
            "tracking.uri must start with sqlite:///, http(s):// or postgresql://; "
            "MLflow keeps no runs in plain files.",
        ),
        (["tracking.experiment=''"], "tracking.experiment is empty; MLflow needs the name of an experiment."),
    ],
)
def test_a_broken_rule_is_one_sentence_with_the_remedy(words: list[str], sentence: str) -> None:
    assert problems(*words) == [sentence]


def test_the_remedies_for_batch_sizes_are_themselves_sound() -> None:
    assert problems("optim.batch_size=16", "optim.micro_batch=4") == []
    assert problems("optim.batch_size=15", "optim.micro_batch=5") == []


def test_adapter_rules_do_not_bind_a_full_fine_tune() -> None:
    assert problems("adapter=none", "adapter.targets=[]") == []


def test_files_for_validation_free_the_fraction() -> None:
    words = ["data.validation=[/v.jsonl]", "data.validation_fraction=0.9", "data.test_fraction=0.9"]
    assert problems(*words) == []


def test_all_problems_come_at_once() -> None:
    found = problems("optim.lr=0", "adapter.rank=0", "optim.duration=soon", "engine.name=fast", "name=-x")
    assert len(found) == 5


# --- sweeps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"metric": "train/loss"},
            "metric=train/loss is measured on rows a trial trains on: the best value says who memorised most; "
            "never select on training loss. Use metric=eval/loss.",
        ),
        (
            {"metric": "eval/los"},
            "metric=eval/los does not exist. Did you mean eval/loss? "
            "Known: eval/loss, eval/perplexity, eval/exact_match.",
        ),
        (
            {"metric": "eval/exact_match", "direction": "maximize"},
            "metric=eval/exact_match needs generated answers; set evaluation=generate or evaluation.generate=64.",
        ),
        (
            {"direction": "maximize"},
            "direction=maximize would select the worst trial by eval/loss; use direction=minimize.",
        ),
        ({"direction": "down"}, "direction=down does not exist. Known: minimize, maximize."),
        (
            {"sampler": SamplerConfig(name="tpa")},
            "sampler.name=tpa does not exist. Did you mean tpe? Known: grid, random, qmc, tpe, gp, cmaes, nsga2.",
        ),
        ({"pruner": PrunerConfig(eta=1)}, "pruner.eta=1 must be at least 2."),
        (
            {"pruner": PrunerConfig(first="soon")},
            'pruner.first: "soon" is not a duration; write "200 steps", "1e6 tokens" or "3 epochs".',
        ),
        (
            {"pruner": PrunerConfig(threshold="high")},
            "pruner.threshold=high is no number; write a value of eval/loss.",
        ),
        (
            {"pruner": PrunerConfig("halving", every="9 steps")},
            "pruner.every=9 steps means nothing with pruner.name=halving, which goes by pruner.eta.",
        ),
        (
            {"also": {"trial/parameters": "maximize"}},
            "direction=maximize would look for the worst trial/parameters; use minimize.",
        ),
        (
            {"also": {"trial/size": "minimize"}},
            "metric=trial/size does not exist. Known: eval/loss, eval/perplexity, eval/exact_match, trial/parameters, "
            "trial/tokens_per_s.",
        ),
        (
            {"metric": "trial/parameters"},
            "metric=trial/parameters says nothing about a model's answers; name it second, as in "
            "[eval/loss, trial/parameters].",
        ),
        (
            {"also": {"trial/parameters": "minimize"}, "pruner": PrunerConfig("halving")},
            "pruner.name=halving judges by one metric, and would stop trials that are best by another; "
            "use pruner.name=none with several.",
        ),
        (
            {"sampler": SamplerConfig("cmaes")},
            "sampler.name=cmaes follows how keys go together, and the space has one; use tpe or gp.",
        ),
        (
            {
                "also": {"trial/parameters": "minimize"},
                "sampler": SamplerConfig("cmaes"),
                "space": {"seed": "1,2", "optim.lr": "interval(0.1, 1)"},
            },
            "sampler.name=cmaes follows one metric; with several use nsga2, tpe or gp.",
        ),
        (
            {"sampler": SamplerConfig("nsga2"), "pruner": PrunerConfig("median")},
            "sampler.name=nsga2 learns from finished trials; with pruner.name=median use tpe or gp.",
        ),
        (
            {"sampler": SamplerConfig("qmc", warm_start=["a"])},
            "sampler.warm_start: sampler.name=qmc learns nothing from earlier sweeps; use tpe, gp or cmaes.",
        ),
        (
            {"space": {"seed": "1,2"}, "repeats": 2},
            "space.seed: repeats gives each point seeds of its own; keep one of them.",
        ),
        (
            {"budget": BudgetConfig(money=3)},
            "budget.money=3 needs prices of an hour, such as budget.price={H100: 2.5, cpu: 0.1}.",
        ),
        ({"budget": BudgetConfig(price={"gpu": -1.0})}, "budget.price.gpu=-1 is below 0."),
        (
            {"pruner": PrunerConfig("pbt"), "space": {"adapter.rank": "4,8"}},
            "space.adapter.rank cannot change while a trial trains, as pruner.name=pbt would have it.",
        ),
        (
            {"pruner": PrunerConfig("pbt"), "repeats": 2},
            "pruner.name=pbt changes trials as they train: leave out repeats, always, when and constraints.",
        ),
        ({"repeats": 0}, "repeats=0 must be at least 1."),
        ({"budget": BudgetConfig(trials=0)}, "budget.trials=0 must be at least 1."),
        (
            {"space": {}},
            "space is empty; a sweep varies at least one key, such as optim.lr: choice(1e-4, 1e-3).",
        ),
        (
            {"space": {"cluster.cpus": "choice(1, 2)"}},
            "space.cluster.cpus does not change what a trial learns; give it once on the command line.",
        ),
        (
            {"name": "Größe"},
            "name=Größe must be lower-case letters, digits and hyphens, 63 at most, no hyphen first; for example gr-e.",
        ),
        (
            {"name": "a" * 56},
            f"name={'a' * 56} has 56 characters; a sweep's name has at most 55, since its trials are named after it.",
        ),
    ],
)
def test_a_sweep_that_cannot_be_judged_is_refused(fields: dict[str, object], sentence: str) -> None:
    assert sweep_problems(**fields) == [sentence]


def test_exact_match_is_maximised_where_answers_are_generated() -> None:
    assert sweep_problems("evaluation=generate", metric="eval/exact_match", direction="maximize") == []


def test_a_metric_needs_held_out_rows() -> None:
    assert sweep_problems("data.validation_fraction=0") == [
        "metric=eval/loss needs held-out rows; set data.validation or data.validation_fraction above 0."
    ]


# --- files -------------------------------------------------------------------------------------------------------


def file_problems(config: RunConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_files(config)
    return caught.value.problems


def test_files_that_are_there_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("")
    check_files(
        compose(["model=folder", f"model.path={tmp_path}", "data=jsonl", f"data.train=[{tmp_path}/rows.jsonl]"])
    )


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl.gz", "ROWS.XLSX", "rows.parquet", "."])
def test_every_kind_of_file_that_is_read_passes_and_so_does_a_folder_with_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).touch()
    check_files(compose(["model=folder", f"model.path={tmp_path}", "data=jsonl", f"data.train=[{tmp_path}/{name}]"]))


def test_remote_files_are_not_looked_for_on_the_disk_and_those_of_sources_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    words = ["model=folder", f"model.path={tmp_path}", "data=jsonl", "data.test=[hub:openai/gsm8k/main]"]
    check_files(compose([*words, "data.train=['s3://bucket/rows.jsonl']"]))
    config = compose([*words, f"data.sources={{own: {{files: [{tmp_path}/row.jsonl]}}}}"])
    (problem,) = file_problems(config)
    assert problem.startswith(f"data.sources.own.files: {tmp_path}/row.jsonl does not exist.")


def test_every_missing_file_is_listed_with_the_names_near_it(tmp_path: Path) -> None:
    (tmp_path / "qwen-0.5b").mkdir()
    (tmp_path / "rows.jsonl").write_text("")
    config = compose(
        [
            "model=folder",
            f"model.path={tmp_path}/qwen-0.5",
            "data=jsonl",
            f"data.train=[{tmp_path}/row.jsonl,{tmp_path}/none/x.jsonl,{tmp_path}/qwen-0.5b]",
        ]
    )
    assert file_problems(config) == [
        f"model.path={tmp_path}/qwen-0.5 is not a folder. Did you mean qwen-0.5b?",
        f"data.train: {tmp_path}/row.jsonl does not exist. Did you mean rows.jsonl?",
        f"data.train: {tmp_path}/none/x.jsonl does not exist. The folder {tmp_path}/none does not exist either.",
        f"data.train: the folder {tmp_path}/qwen-0.5b holds no data file. "
        "Known kinds: .json, .jsonl, .ndjson, .csv, .tsv, .xlsx, .parquet.",
    ]


def test_a_folder_without_config_json_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("")
    (tmp_path / "rows.txt").write_text("")
    config = compose(["model=folder", f"model.path={tmp_path}", "data=jsonl", f"data.train=[{tmp_path}/rows.txt]"])
    assert file_problems(config) == [
        f"model.path={tmp_path} has no config.json, so it is no Hugging Face model folder; "
        "it holds rows.txt, weights.bin.",
        f"data.train: {tmp_path}/rows.txt is no data file. "
        "Known kinds: .json, .jsonl, .ndjson, .csv, .tsv, .xlsx, .parquet.",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    rows.chmod(0)
    config = compose(["model=folder", f"model.path={tmp_path}", "data=jsonl", f"data.train=[{rows}]"])
    assert file_problems(config) == [f"data.train: {rows} cannot be read; change its permissions."]


def test_missing_demo_files_say_who_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-> ftcluster demo makes the demo's model and data"):
        check_files(compose([f"home={tmp_path}"]))


def test_a_space_over_how_rows_are_read_is_refused_because_trials_could_not_be_compared() -> None:
    sweep = SweepConfig(name="s", space={"data.max_length": "choice(64, 128)", "optim.lr": "choice(1e-3, 1e-4)"})
    with pytest.raises(ConfigError, match=r"space\.data\.max_length would judge trials on different rows"):
        check_sweep(sweep, RunConfig())
