"""Rules across fields and files; each broken one is a sentence with the field, its value and the remedy.

``check`` needs nothing but the config, ``check_files`` looks at the disk, ``check_sweep`` at a sweep's own
fields. All of them report everything they find at once. Types and names of keys are ``values``' business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from ftcluster.config.catalog import flat
from ftcluster.config.locations import KINDS, is_remote, kind_of
from ftcluster.config.objectives import objective_problems
from ftcluster.config.schema import BudgetConfig, RunConfig, SourceConfig, SweepConfig
from ftcluster.config.sharding import sharding_problems
from ftcluster.config.suggest import did_you_mean
from ftcluster.config.thresholds import threshold_problems
from ftcluster.config.values import show
from ftcluster.errors import ConfigError
from ftcluster.units import Duration

NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}$")
LONGEST_SWEEP_NAME = 55  # a number that sets it apart and its trials' numbers come behind it, within 63
CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "data.format": (
            "auto",
            "messages",
            "sharegpt",
            "alpaca",
            "prompt_completion",
            "question_answer",
            "text",
            "preference",
            "labels",
        ),
        "data.too_long": ("drop", "truncate_left", "truncate_right", "split"),
        "adapter.kind": ("lora", "none"),
        "objective.name": ("sft", "pretrain"),
        "objective.loss_on": ("answers", "last_answer", "everything"),
        "optim.schedule": ("cosine", "linear", "constant"),
        "engine.name": ("auto", "packed", "local", "deepspeed"),
        "engine.offload_optimizer": ("", "none", "cpu", "nvme"),
        "engine.offload_parameters": ("", "none", "cpu", "nvme"),
        "engine.device": ("auto", "cpu", "cuda"),
        "engine.precision": ("auto", "fp64", "fp32", "bf16"),
        "engine.mode": ("exact", "fast"),
    }
)
TEMPLATES = ("model", "alpaca", "plain", "chatml")
SWEEP_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sampler.name": ("grid", "random", "qmc", "tpe", "gp", "cmaes", "nsga2"),
        "pruner.name": ("none", "halving", "hyperband", "median", "pbt"),
        "direction": ("minimize", "maximize"),
        "too_large": ("adapt", "cut", "refuse"),
    }
)
_WHILE_TRAINING = (
    "optim.lr",
    "optim.weight_decay",
    "optim.clip",
    "optim.final_lr",
    "optim.lora_plus",
    "adapter.dropout",
)
_TRAINING_ROWS = (
    "data",
    "train",
    "limit",
    "sources",
    "columns",
    "format",
)  # held-out rows may be the same all the same
# field -> (lowest, highest, ends that are themselves excluded)
_RANGES: Mapping[str, tuple[float, float, str]] = MappingProxyType(
    {
        "seed": (0, 2**32 - 1, ""),
        "data.validation_fraction": (0, 1, "high"),
        "data.test_fraction": (0, 1, "high"),
        "data.max_length": (2, float("inf"), ""),
        "data.max_bad_rows": (0, 1, ""),
        "data.limit": (0, float("inf"), ""),
        "adapter.rank": (1, float("inf"), ""),
        "adapter.alpha": (0, float("inf"), "low"),
        "adapter.dropout": (0, 1, "high"),
        "optim.lr": (0, float("inf"), "low"),
        "optim.weight_decay": (0, float("inf"), ""),
        "optim.beta1": (0, 1, "high"),
        "optim.beta2": (0, 1, "high"),
        "optim.eps": (0, float("inf"), "low"),
        "optim.clip": (0, float("inf"), ""),
        "optim.lora_plus": (0, float("inf"), "low"),
        "optim.warmup": (0, 1, "high"),
        "optim.final_lr": (0, 1, ""),
        "optim.batch_size": (1, float("inf"), ""),
        "optim.micro_batch": (1, float("inf"), ""),
        "optim.micro_tokens": (0, float("inf"), ""),
        "engine.threads": (0, float("inf"), ""),
        "engine.hpz": (0, float("inf"), ""),
        "cluster.ranks": (1, float("inf"), ""),
        "engine.keep_checkpoints": (1, float("inf"), ""),
        "evaluation.max_rows": (0, float("inf"), ""),
        "evaluation.generate": (0, float("inf"), ""),
        "evaluation.max_new_tokens": (1, float("inf"), ""),
        "tracking.log_every": (1, float("inf"), ""),
        "cluster.cpus": (0, float("inf"), ""),
        "cluster.max_trials": (0, float("inf"), ""),
        "cluster.trials_per_host": (0, float("inf"), ""),
        "cluster.memory_gib": (0, float("inf"), ""),
        "cluster.gpu_memory_gib": (0, float("inf"), ""),
        "cluster.storage_patience": (0, float("inf"), ""),
        "cluster.hang_after": (0, float("inf"), ""),
        "cluster.priority": (1e-3, 1e3, ""),
        "cluster.yield_after": (0, float("inf"), ""),
    }
)
_SWEEP_RANGES: Mapping[str, tuple[float, float, str]] = MappingProxyType(
    {
        "sampler.seed": (0, 2**32 - 1, ""),
        "pruner.eta": (2, float("inf"), ""),
        "pruner.startup": (1, float("inf"), ""),
        "pruner.patience": (0, float("inf"), ""),
        "pruner.improvement": (0, float("inf"), ""),
        "budget.trials": (1, float("inf"), ""),
        "budget.gpu_hours": (0, float("inf"), ""),
        "budget.hours": (0, float("inf"), ""),
        "budget.money": (0, float("inf"), ""),
        "repeats": (1, float("inf"), ""),
    }
)


def check(config: RunConfig) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: every problem found.
    """
    problems = [*_fields(config), *_data(config), *_adapter(config), *_optim(config), *_placement(config)]
    if not config.model.path:
        problems.append("model.path is empty; write model.path=FOLDER with a Hugging Face model folder, or model=tiny.")
    if config.tracking.uri and not re.match(r"^(sqlite|https?|postgresql|mysql|mssql)(\+\w+)?://", config.tracking.uri):
        problems.append(
            "tracking.uri must start with sqlite:///, http(s):// or postgresql://; MLflow keeps no runs in plain files."
        )
    if not config.tracking.experiment:
        problems.append("tracking.experiment is empty; MLflow needs the name of an experiment.")
    if problems:
        raise ConfigError(problems)


def check_data(config: RunConfig) -> None:
    """Refuse what cannot work of the data alone, for verbs that need no model.

    Raises:
        ConfigError: every problem found.
    """
    if problems := [*_fields(config), *_data(config)]:
        raise ConfigError(problems)


def check_fields(config: RunConfig) -> None:
    """Refuse values that a field cannot have whatever the others are.

    Raises:
        ConfigError: every problem found.
    """
    if problems := list(_fields(config)):
        raise ConfigError(problems)


def check_sweep(sweep: SweepConfig, base: RunConfig) -> None:
    """Refuse a sweep that cannot be judged or never ends.

    Raises:
        ConfigError: every problem found.
    """
    values = flat(sweep)
    problems = [*_name("name", sweep.name), *_in_range(values, _SWEEP_RANGES), *_among(values, SWEEP_CHOICES)]
    if len(sweep.name) > LONGEST_SWEEP_NAME:
        problems.append(
            f"name={sweep.name} has {len(sweep.name)} characters; a sweep's name has at most {LONGEST_SWEEP_NAME}, "
            "since its trials are named after it."
        )
    problems += _pruner(sweep)
    problems += objective_problems(sweep, base)
    problems += _sampler(sweep)
    problems += _budget(sweep.budget)
    problems += _population(sweep) if sweep.pruner.name == "pbt" else []
    if not sweep.space:
        problems.append("space is empty; a sweep varies at least one key, such as optim.lr: choice(1e-4, 1e-3).")
    problems += [problem for key in sweep.space for problem in _swept_key(key)]
    if problems:
        raise ConfigError(problems)


def _pruner(sweep: SweepConfig) -> Iterator[str]:
    pruner = sweep.pruner
    if pruner.first:
        yield from _duration("pruner.first", pruner.first)
    if pruner.every:
        yield from _duration("pruner.every", pruner.every)
    try:
        float(pruner.threshold or 0)
    except ValueError:
        yield f"pruner.threshold={pruner.threshold} is no number; write a value of {sweep.metric}."
    if pruner.every and pruner.name in ("halving", "hyperband"):
        yield f"pruner.every={pruner.every} means nothing with pruner.name={pruner.name}, which goes by pruner.eta."


def _population(sweep: SweepConfig) -> Iterator[str]:
    fixed = [key for key in (*sweep.space, *sweep.variants) if key not in _WHILE_TRAINING]
    yield from (f"space.{key} cannot change while a trial trains, as pruner.name=pbt would have it." for key in fixed)
    if sweep.repeats > 1 or sweep.always or sweep.when or sweep.constraints:
        yield "pruner.name=pbt changes trials as they train: leave out repeats, always, when and constraints."


def _budget(budget: BudgetConfig) -> Iterator[str]:
    if budget.money and not any(budget.price.values()):
        yield f"budget.money={budget.money:g} needs prices of an hour, such as budget.price={{H100: 2.5, cpu: 0.1}}."
    yield from (f"budget.price.{name}={price:g} is below 0." for name, price in budget.price.items() if price < 0)


def _sampler(sweep: SweepConfig) -> Iterator[str]:
    name = sweep.sampler.name
    if sweep.also and name == "cmaes":
        yield "sampler.name=cmaes follows one metric; with several use nsga2, tpe or gp."
    if name == "cmaes" and len(sweep.space) < 2:
        yield "sampler.name=cmaes follows how keys go together, and the space has one; use tpe or gp."
    if name == "nsga2" and sweep.pruner.name != "none":
        yield f"sampler.name=nsga2 learns from finished trials; with pruner.name={sweep.pruner.name} use tpe or gp."
    if sweep.sampler.warm_start and name in ("grid", "random", "qmc"):
        yield f"sampler.warm_start: sampler.name={name} learns nothing from earlier sweeps; use tpe, gp or cmaes."
    if "seed" in sweep.space and sweep.repeats > 1:
        yield "space.seed: repeats gives each point seeds of its own; keep one of them."


def _swept_key(key: str) -> Iterator[str]:
    section = key.split(".")[0]
    if section in ("name", "home", "tracking", "cluster") and key != "cluster.ranks":
        yield f"space.{key} does not change what a trial learns; give it once on the command line."
    if section == "evaluation" or (section == "data" and key.split(".")[-1] not in _TRAINING_ROWS):
        yield f"space.{key} would judge trials on different rows; run one sweep for each."


def check_files(config: RunConfig) -> None:
    """Refuse files that are not there or cannot be read.

    Raises:
        ConfigError: every problem found, with the names that are near in that folder.
    """
    problems = list(_model_folder(Path(config.model.path))) if config.model.path else []
    named = {f"data.{field}": getattr(config.data, field) for field in ("train", "validation", "test")}
    named |= {f"data.sources.{name}.files": source.files for name, source in config.data.sources.items()}
    for field, names in named.items():
        for name in names:
            problems += [] if is_remote(name) else _data_file(field, Path(name))
    if problems:
        made = Path(config.home) / "demo"
        missing_demo = any(str(made) in problem for problem in problems)
        raise ConfigError(problems, remedy="ftcluster demo makes the demo's model and data" if missing_demo else "")


def _fields(config: RunConfig) -> Iterator[str]:
    values = flat(config)
    yield from _name("name", config.name)
    yield from _in_range(values, _RANGES)
    yield from _among(values, CHOICES)
    yield from _durations(config)


def _name(field: str, value: str) -> Iterator[str]:
    if value and not NAME.match(value):
        advice = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:63] or "my-run"
        yield (
            f"{field}={value} must be lower-case letters, digits and hyphens, 63 at most, no hyphen first; "
            f"for example {advice}."
        )


def _in_range(values: Mapping[str, object], ranges: Mapping[str, tuple[float, float, str]]) -> Iterator[str]:
    for key, (low, high, excluded) in ranges.items():
        value = values[key]
        assert isinstance(value, int | float)
        too_low = value <= low if excluded == "low" else value < low
        too_high = value >= high if excluded == "high" else value > high
        if too_low or too_high:
            lowest = f"above {low:g}" if excluded == "low" else f"at least {low:g}"
            highest = "" if high == float("inf") else f" and {'below' if excluded == 'high' else 'at most'} {high:g}"
            yield f"{key}={value:g} must be {lowest}{highest}."


def _among(values: Mapping[str, object], choices: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for key, known in choices.items():
        value = str(values[key])
        if value not in known:
            yield f"{key}={value} does not exist.{did_you_mean(value, known)} Known: {', '.join(known)}."


def _duration(field: str, text: str) -> Iterator[str]:
    try:
        Duration.parse(text)
    except ValueError as error:
        yield f"{field}: {error}."


def _durations(config: RunConfig) -> Iterator[str]:
    yield from _duration("optim.duration", config.optim.duration)
    yield from _duration("evaluation.every", config.evaluation.every)
    if config.engine.checkpoint_every:
        yield from _duration("engine.checkpoint_every", config.engine.checkpoint_every)


def _data(config: RunConfig) -> Iterator[str]:
    data = config.data
    if not data.train and not data.sources:
        yield "data.train is empty; write data.train=[rows.jsonl] with your own rows, or data=demo."
    if data.train and data.sources:
        yield "data.train and data.sources are both given; name every file in data.sources, and leave data.train=[]."
    for name, source in data.sources.items():
        yield from _source(f"data.sources.{name}", source)
    weighted = [name for name, source in data.sources.items() if source.weight]
    if weighted and len(weighted) < len(data.sources):
        others = ", ".join(name for name in data.sources if name not in weighted)
        yield f"data.sources: {', '.join(weighted)} with a weight, {others} without; give every source one, or none."
    if data.template not in TEMPLATES and not data.template.endswith(".jinja"):
        near, known = did_you_mean(data.template, TEMPLATES), ", ".join(TEMPLATES)
        yield f"data.template={data.template} does not exist.{near} Known: {known}, or a .jinja file of your own."
    yield from threshold_problems("data.warn", data.warn)
    yield from threshold_problems("data.refuse", data.refuse)
    taken = (0 if data.validation else data.validation_fraction) + (0 if data.test else data.test_fraction)
    if taken >= 1:
        yield f"data.validation_fraction + data.test_fraction = {taken:g} leave no rows to train on; keep them below 1."
    if config.objective.name == "sft" and data.format == "text":
        yield "objective.name=sft trains on answers and data.format=text has none; use objective=pretrain."
    if config.objective.name == "pretrain" and config.evaluation.generate:
        yield (
            f"evaluation.generate={config.evaluation.generate} compares answers and objective=pretrain has none; "
            "use evaluation=loss."
        )


def _source(field: str, source: SourceConfig) -> Iterator[str]:
    if not source.files:
        yield f"{field}.files is empty; write {field}.files=[rows.jsonl]."
    if source.weight and source.count:
        yield f"{field} has a weight, which is a share of the epoch, and a count, which is a number of rows; keep one."
    for name in ("weight", "count", "limit"):
        if getattr(source, name) < 0:
            yield f"{field}.{name}={getattr(source, name):g} must be at least 0."


def _adapter(config: RunConfig) -> Iterator[str]:
    adapter = config.adapter
    if adapter.kind != "lora":
        return
    if not adapter.targets:
        yield "adapter.targets is empty, so nothing would be trained; use [all-linear] or [q_proj, v_proj]."
    if "all-linear" in adapter.targets and len(adapter.targets) > 1:
        yield f"adapter.targets={show(adapter.targets)}: all-linear already covers the others; keep one or the other."
    twice = sorted({name for name in adapter.targets if adapter.targets.count(name) > 1})
    if twice:
        yield f"adapter.targets names {', '.join(twice)} more than once; name each module once."


def _optim(config: RunConfig) -> Iterator[str]:
    if config.optim.lora_plus != 1 and config.adapter.kind == "none":
        yield f"optim.lora_plus={config.optim.lora_plus:g} is about an adapter and adapter=none has none; leave it out."
    batch, micro = config.optim.batch_size, config.optim.micro_batch
    if 0 < config.optim.micro_tokens < config.data.max_length:
        yield (
            f"optim.micro_tokens={config.optim.micro_tokens} cannot hold a row of data.max_length="
            f"{config.data.max_length} tokens; it must be at least as large."
        )
    if config.optim.micro_tokens == 0 and batch >= 1 and micro >= 1 and batch % micro:
        below = [size for size in range(1, batch + 1) if batch % size == 0]
        nearest = min(below, key=lambda size: abs(size - micro))
        yield (
            f"optim.batch_size={batch} is no multiple of optim.micro_batch={micro}; "
            f"optim.micro_batch={nearest} or optim.batch_size={max(1, round(batch / micro)) * micro} would do."
        )


def _placement(config: RunConfig) -> Iterator[str]:
    engine, cluster = config.engine, config.cluster
    yield from sharding_problems(config)
    if engine.name == "packed" and config.adapter.kind == "none":
        yield "engine.name=packed trains adapters on a shared base and adapter=none changes the base; use engine=auto."
    if engine.device == "cpu" and engine.precision == "bf16":
        yield "engine.precision=bf16 with engine.device=cpu is slower and less exact than fp32; use fp32."
    if cluster.gpus < 0 and cluster.gpus != -1:
        yield f"cluster.gpus={cluster.gpus:g} must be 0 or more, or -1 for one where the cluster has GPUs."
    if cluster.gpus > 1 and cluster.gpus != int(cluster.gpus):
        yield f"cluster.gpus={cluster.gpus:g}: above 1 only whole GPUs can be reserved."
    if engine.device == "cpu" and cluster.gpus > 0:
        yield f"cluster.gpus={cluster.gpus:g} reserves GPUs that engine.device=cpu leaves idle; set cluster.gpus=0."
    if engine.device == "cuda" and cluster.gpus == 0:
        yield "engine.device=cuda needs a GPU and cluster.gpus=0 reserves none; set cluster.gpus=1."


def _model_folder(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield f"model.path={folder} is not a folder.{_near(folder)}"
    elif not (folder / "config.json").is_file():
        names = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        yield f"model.path={folder} has no config.json, so it is no Hugging Face model folder; it holds {names}."


def _data_file(field: str, file: Path) -> Iterator[str]:
    if file.is_dir():
        if not any(kind_of(entry) for entry in file.iterdir()):
            yield f"{field}: the folder {file} holds no data file. Known kinds: {', '.join(KINDS)}."
    elif not file.is_file():
        yield f"{field}: {file} does not exist.{_near(file)}"
    elif not kind_of(file):
        yield f"{field}: {file} is no data file. Known kinds: {', '.join(KINDS)}."
    elif not os.access(file, os.R_OK):
        yield f"{field}: {file} cannot be read; change its permissions."


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" The folder {folder} does not exist either."
    return did_you_mean(path.name, [entry.name for entry in folder.iterdir()])
