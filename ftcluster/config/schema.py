"""One frozen dataclass per config group: the names, types and defaults of everything a user can set.

``compose`` fills these from ``conf/`` and overrides; ``checks`` looks across fields. Comments after a
field are what ``ftcluster config show`` and the docs say about it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """A Hugging Face model folder."""

    path: str = ""  # folder with config.json, weights and tokenizer
    revision: str = ""  # recorded with every adapter; empty: the hash of the folder's weights is used
    trust_remote_code: bool = False  # True runs Python code from the model's folder


@dataclass(frozen=True)
class SourceConfig:
    """One of several data sets that are mixed. Without weight and count every row is read once per epoch."""

    files: list[str] = field(default_factory=list)  # as data.train
    format: str = ""  # empty: data.format
    columns: dict[str, str] = field(default_factory=dict)  # empty: data.columns
    weight: float = 0.0  # its share of an epoch's rows, relative to the weights of the other sources
    count: int = 0  # its rows per epoch: they repeat where it has fewer, and rest where it has more
    limit: int = 0  # use at most N of its training rows; 0: all


@dataclass(frozen=True)
class DataConfig:
    """Training rows, how to read them, and what is held out."""

    train: list[str] = field(default_factory=list)  # files, folders, URLs, or hub:owner/name
    sources: dict[str, SourceConfig] = field(default_factory=dict)  # several data sets, mixed; instead of `train`
    validation: list[str] = field(default_factory=list)  # empty: split off the training rows
    test: list[str] = field(default_factory=list)  # empty: split off the training rows
    format: str = "auto"  # auto, or one of `ftcluster data formats`
    columns: dict[str, str] = field(default_factory=dict)  # our field -> column of the file
    template: str = "model"  # the model's own chat template | alpaca | plain | chatml | a .jinja file
    too_long: str = "drop"  # rows over max_length: drop | truncate_left | truncate_right | split
    validation_fraction: float = 0.1  # steers training: evaluation, pruning, selection
    test_fraction: float = 0.1  # read only by compare and promote
    max_length: int = 512  # tokens of a row
    max_bad_rows: float = 0.01  # share of unusable rows above which a run refuses to start
    warn: dict[str, float] = field(default_factory=dict)  # finding -> share of rows above which it is a warning
    refuse: dict[str, float] = field(default_factory=dict)  # finding -> share of rows above which no run starts
    limit: int = 0  # use only the first N usable training rows; 0: all


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained: `none` is a full fine-tune."""

    kind: str = "lora"  # lora | none
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["all-linear"])  # module names, or all-linear
    rslora: bool = False  # scale alpha/sqrt(rank) instead of alpha/rank
    dora: bool = False  # train the lengths of the weights' rows apart (DoRA); slower, one trial at a time


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the loss is over."""

    name: str = "sft"  # sft: loss on answers | pretrain: loss on every token
    loss_on: str = "answers"  # of conversations: answers | last_answer | everything


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule, and how long."""

    lr: float = 2e-4
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0  # largest gradient norm; 0: no clipping
    lora_plus: float = 1.0  # rate of an adapter's B over that of its A (LoRA+)
    schedule: str = "cosine"  # cosine | linear | constant
    warmup: float = 0.03  # share of all steps
    final_lr: float = 0.0  # share of lr at the end of cosine and linear
    duration: str = "3 epochs"  # steps, tokens or epochs
    batch_size: int = 16  # rows per optimizer step
    micro_batch: int = 16  # rows per forward; batch_size must be a multiple of it
    micro_tokens: int = 0  # tokens per forward, filled by best fit, whatever the rows; 0: micro_batch rows


@dataclass(frozen=True)
class EngineConfig:
    """How it is computed."""

    name: str = (
        "auto"  # auto: packed for adapters, deepspeed for several ranks, else local | packed | local | deepspeed
    )
    device: str = "auto"  # auto | cpu | cuda
    precision: str = "auto"  # auto: bf16 where the device has it, else fp32 | fp64 | fp32 | bf16
    mode: str = "exact"  # of packed trials: exact, each as if alone, to the bit | fast, one product for all
    activation_checkpointing: bool = False  # compute activations again instead of keeping them: less memory, slower
    stage: int = -1  # of DeepSpeed's ZeRO: 0-3; -1: 2, or what deepspeed_json says
    offload_optimizer: str = ""  # where DeepSpeed keeps masters and moments: none | cpu | nvme; empty: none
    offload_parameters: str = ""  # where stage 3 keeps a rank's share of the weights: none | cpu | nvme; empty: none
    nvme: str = ""  # folder on a fast local disk, for offload to nvme
    hpz: int = 0  # ranks that hold a whole copy of stage 3's weights between them; 0: all ranks one copy
    deepspeed_json: str = ""  # a DeepSpeed JSON file of your own, for everything not said here
    threads: int = 0  # CPU threads; 0: what the trial was given
    keep_checkpoints: int = 2  # newest ones kept, beside the one with the lowest held-out loss
    checkpoint_every: str = ""  # duration; empty: at every evaluation


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on held-out rows while training."""

    every: str = "1 epochs"  # duration; the last step is always evaluated
    max_rows: int = 256  # rows of the validation split; 0: all
    generate: int = 0  # answers written per evaluation; 0: loss only
    max_new_tokens: int = 64


@dataclass(frozen=True)
class TrackingConfig:
    """Where MLflow is."""

    uri: str = ""  # empty: SQLite below `home`
    experiment: str = "ftcluster"
    log_every: int = 1  # optimizer steps between training metrics


@dataclass(frozen=True)
class ClusterConfig:
    """Where trials run and what each of them reserves."""

    address: str = ""  # empty: RAY_ADDRESS, else an embedded Ray on this machine
    cpus: float = 1.0  # per host (per rank, where a trial has several); trials that train together share them
    gpus: float = -1.0  # per host or rank, fractions allowed; -1: one where the cluster has GPUs, else none
    ranks: int = 1  # processes a trial is sharded over, each with a GPU or a share of the CPUs
    gpu_type: str = ""  # part of the name of the GPUs to use, such as H100; empty: any
    gpu_memory_gib: float = 0.0  # memory that each GPU has at least; 0: any
    hang_after: float = 1800.0  # seconds without a sign of life after which a rank or host is ended; 0: never
    priority: float = 1.0  # of a sweep among others on the cluster: with 2 it gets twice the share of one with 1
    yield_after: float = 300.0  # seconds a trial may go on where another sweep's share begins, then it saves and waits
    storage_patience: float = 120.0  # seconds to wait for storage that fails before giving up; it can be resumed
    max_trials: int = 0  # at once; 0: as many as fit
    trials_per_host: int = 0  # LoRA trials on one base at a time, at most; 0: per rank 4 on CPUs, 1 on GPUs, fast 16
    memory_gib: float = 0.0  # what a host may use (of GPU memory, where it has a GPU); 0: whatever is free


@dataclass(frozen=True)
class RunConfig:
    """Everything about one run."""

    name: str = ""  # empty: made from the experiment's name
    seed: int = 17
    home: str = ""  # ledger, runs, embedded MLflow; empty: FTCLUSTER_HOME, else ./runs
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(frozen=True)
class SamplerConfig:
    """Who proposes trials."""

    name: str = "tpe"  # grid | random | qmc | tpe | gp | cmaes | nsga2
    seed: int = 17
    warm_start: list[str] = field(default_factory=list)  # earlier sweeps of the same home to learn from


@dataclass(frozen=True)
class PrunerConfig:
    """Who stops trials early."""

    name: str = "none"  # none | halving | hyperband | median | pbt
    first: str = ""  # training before the first judgement; empty: total / eta / eta, a ninth (docs/search.md)
    eta: int = 3  # halving, hyperband: 1 of eta trials goes on at each rung, and trains eta times longer
    every: str = ""  # none, median, pbt: duration between judgements after the first; empty: as long as the first
    startup: int = 4  # median: trials that must have come before one that is stopped
    threshold: str = ""  # value of the metric beyond which a trial is stopped, whatever the others do; empty: none
    patience: int = 0  # judgements without an improvement after which a trial is done; 0: it trains to its end
    improvement: float = 0.0  # by how much the metric has to improve for that


@dataclass(frozen=True)
class BudgetConfig:
    """When the sweep is over; whatever is reached first."""

    trials: int = 8  # points that the sampler proposes
    gpu_hours: float = 0.0  # of all hosts together; 0: no limit
    hours: float = 0.0  # since the sweep began, breaks included; 0: no limit
    money: float = 0.0  # in the unit of `price`; 0: no limit
    price: dict[str, float] = field(default_factory=dict)  # of an hour: part of a GPU's name, or gpu or cpu -> price


@dataclass(frozen=True)
class SweepConfig:
    """A sweep file."""

    name: str = ""
    base: list[str] = field(default_factory=list)  # overrides that every trial shares
    space: dict[str, Any] = field(default_factory=dict)  # key or group -> Hydra override grammar
    variants: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # a key of your own -> option -> overrides
    when: dict[str, str] = field(default_factory=dict)  # key of the space -> condition without which it is left alone
    constraints: list[str] = field(default_factory=list)  # what must hold for every trial, such as "optim.lr < 1e-3"
    always: dict[str, list[str]] = field(default_factory=dict)  # name -> overrides of a trial that is trained first
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    repeats: int = 1  # trials of each point, with seeds of their own; their mean is what counts
    too_large: str = "adapt"  # trials that do not fit their GPUs: adapt (smaller passes, else cut) | cut | refuse
    metric: str = "eval/loss"
    direction: str = "minimize"  # minimize | maximize
    also: dict[str, str] = field(default_factory=dict)  # further objectives: metric -> minimize | maximize
