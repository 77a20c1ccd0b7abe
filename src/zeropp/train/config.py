"""The configuration of a training run: frozen, validated, read from TOML and dotted overrides."""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import tomli_w

from zeropp.ir.files import write_text
from zeropp.ir.model import SIZES, GPTConfig
from zeropp.ir.numbers import Amount, Count, Positive, Seed, Share, Size, Steps, check_numbers
from zeropp.ir.toml_file import make, read_toml, table_of
from zeropp.plan import Plan
from zeropp.planner import SavedPlan, read_plan

AUTO = "auto"
DEMO_PLAN = Plan(pp_size=2, num_chunks=2, num_microbatches=8)
Backend = Literal["off", "inductor", "aot_eager"]  # of torch.compile


@dataclass(frozen=True)
class ModelConfig:
    """Which model to train: a GPT with fresh weights, or one of Hugging Face transformers."""

    size: str = "toy"
    """A named size: toy, gpt2-124m, 1.5b, 6.2b, 14.6b, llama-8b."""
    layers: Size | None = None
    """Decoder layers; None: those of the named size."""
    tied: bool | None = None
    """Whether the head's weight is the token table's; None: as in the named size."""
    hf: str | None = None
    """A folder with a decoder of Hugging Face transformers, config.json and safetensors, in place
    of a GPT."""
    head_tokens: Size | None = None
    """Tokens in a piece in which its logits and their loss are made, so that they are never whole;
    None: whole. For vocabularies of 100,000 tokens and more."""
    lora: Size | None = None
    """Rank of LoRA's adapters, which alone are trained then; None: all weights are."""
    lora_alpha: Size | None = None
    """Their effect is multiplied by this over the rank; None: twice the rank."""
    lora_targets: tuple[str, ...] = ()
    """Layers that get one, such as q_proj v_proj, or all-linear; without it, as peft chooses."""

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"model.size must be one of {', '.join(SIZES)}, got {self.size!r}")
        check_numbers(self, "model.")
        if self.hf is not None and (self.size, self.layers, self.tied) != ("toy", None, None):
            raise ValueError("model.size, layers and tied are of a GPT; leave model.hf or them out")
        if self.head_tokens is not None and self.hf is None:
            raise ValueError("model.head_tokens is of a model that model.hf names; leave it out")
        if self.lora is not None and self.hf is None:
            raise ValueError("model.lora: adapters go into trained weights; name them by model.hf")
        if self.lora is None and (self.lora_alpha, self.lora_targets) != (None, ()):
            raise ValueError("model.lora_alpha, lora_targets: add model.lora, the adapters' rank")

    def gpt(self) -> GPTConfig:
        """The full shape."""
        named = SIZES[self.size]
        layers = named.layers if self.layers is None else self.layers
        tied = named.tied if self.tied is None else self.tied
        return dataclasses.replace(named, layers=layers, tied=tied)


@dataclass(frozen=True)
class DataConfig:
    """Which text to learn; bytes are tokens, where it is not of tokens already."""

    path: str | None = None
    """Text, .jsonl, .parquet, or a folder of such; what `zeropp tokenize` made, other .ds files of
    datatrove, or .bin; None: the Python standard library's sources."""
    field: str | None = None
    """Of .jsonl and .parquet, the field that holds the text; None: messages, prompt and completion,
    or text, whichever a record has."""
    eval_sets: tuple[str, ...] = ()
    """Further text or tokens to evaluate on, each as name=path."""
    seq_len: Size = 128
    """Tokens in a sequence."""
    micro_batch_size: Size = 2
    """Sequences in a micro-batch."""

    def __post_init__(self) -> None:
        check_numbers(self, "data.")
        names = [one.partition("=")[0] for one in self.eval_sets]
        for one, name in zip(self.eval_sets, names, strict=True):
            if not name.isidentifier() or not one.partition("=")[2] or names.count(name) > 1:
                raise ValueError(f"data.eval_sets must be name=path, each name once, got {one!r}")


@dataclass(frozen=True)
class OptimConfig:
    """What learns, and at which rate."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon: torch's Muon for the matrices between the first and the last block, AdamW for what is
    left."""
    lr: Positive | None = None
    """The highest rate; None: 4e-3 for fresh weights, 2e-5 for those of model.hf, 2e-4 for its
    adapters."""
    warmup: Count = 30
    """Steps of linear warm-up."""
    schedule_steps: Steps | None = None
    """Steps over which the rate falls; None: run.steps when the run began, which may stop earlier
    or later."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After a linear warm-up: falls to a tenth; stays and then falls (wsd); or stays."""
    decay_share: Share = 0.2
    """Of wsd, the share of the steps in which the rate falls."""
    accumulate: Size = 1
    """Batches whose gradients make one step."""
    beta1: Share = 0.9
    beta2: Share = 0.95
    average: Share = 0.0
    """Of each weight an exponential average is kept, which this much of it stays a step, such as
    0.999; 0: none. Evaluated beside the weights, and kept in checkpoints."""
    weight_decay: Amount = 0.1
    """Of matrices; norms and biases have none."""
    clip: Positive = 1.0
    """Largest gradient norm."""

    def __post_init__(self) -> None:
        check_numbers(self, "optim.")


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and how long it takes."""

    name: str = "demo"
    """Folder below `folder`."""
    folder: str = "runs"
    steps: Steps = 200
    """After how many it stops; the learning rate falls over optim.schedule_steps."""
    eval_every: Steps = 50
    """Steps between validation losses."""
    save_every: Count = 100
    """Steps between checkpoints, which are written while training goes on; one is also written at
    the end, and on SIGTERM, SIGINT and SIGUSR1. 0: then alone."""
    save_minutes: Positive | None = None
    """Minutes after which one is written in any case."""
    keep_last: Size = 2
    """How many checkpoints are kept, the latest."""
    keep_every: Count = 0
    """Those of every so many steps are kept for good; 0: none."""
    check_every: Count = 50
    """Steps between looks at whether copies of parameters are equal, where there are any, which is
    also done before each checkpoint; 0: never."""
    stop_after: Size = 10
    """Steps in a row with gradients that are not finite, which are skipped, until the run ends."""
    timeout: Positive = 600.0
    """Seconds that one action may take before all ranks say where they are and end."""
    elastic: bool = False
    """Fit [parallel] to the number of ranks that torchrun has; sequences in a step stay."""
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    """What blocks compute in; parameters, sums and reductions of gradients are fp32."""
    compile: Backend = "off"
    """Backend of torch.compile for every block; the first steps then take longer."""
    adapt_every: Count = 0
    """Steps after which measured times may change the order; 0: never."""
    adapt_gain: float = 0.02
    """The least share of a step's time that such a change must save, by prediction."""
    resume: str | None = None
    """auto: go on from the run's last whole checkpoint, or begin if there is none, which is also
    what a restart by torchrun does; or a checkpoint's folder, such as runs/a/checkpoints/step-9."""
    deterministic: bool = False
    """Let torch use nothing that gives another last bit when it is run again."""
    profile: Count = 0
    """Steps, from the third on, that torch's profiler watches; a trace for each rank lies in the
    run's profile folder then. 0: none."""
    tensorboard: bool = False
    """Write the metrics, and timelines as images, for TensorBoard too: RUN/tensorboard."""
    wandb: str | None = None
    """A project of Weights & Biases to which they go, too; WANDB_MODE=offline keeps them here."""
    sample: Count = 160
    """Tokens of text to generate at the end."""

    def __post_init__(self) -> None:
        check_numbers(self, "run.")
        if not 0 < self.adapt_gain < 1:
            raise ValueError(f"run.adapt_gain must be above 0 and below 1, got {self.adapt_gain}")
        plain = self.name.isprintable() and self.name == self.name.strip() != ".."
        if not plain or not self.name or Path(self.name).name != self.name:
            raise ValueError(f"run.name must be a plain folder name, got {self.name!r}")
        if not self.folder or not self.folder.isprintable():
            raise ValueError(f"run.folder must be a path of a folder, got {self.folder!r}")
        if self.wandb == "":
            raise ValueError("run.wandb must be a project's name, got ''; or leave it out")
        if self.resume == "":
            raise ValueError("run.resume must be a checkpoint's folder, got ''; or leave it out")


@dataclass(frozen=True)
class Config:
    """Everything that decides a training run."""

    plan: str | None = None
    """A file that `zeropp plan -o` wrote, in place of [parallel] and the micro-batch's size; auto:
    measure, plan, then train, with as many ranks and as large a batch as [parallel] says."""
    program: str | None = None
    """A program file, such as `zeropp generate --program -o` writes: it says placement, number of
    micro-batches, order, sharding policy and cut, [parallel] only over how many ranks it shards."""
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    parallel: Plan = DEMO_PLAN
    optim: OptimConfig = field(default_factory=OptimConfig)

    def check(self) -> None:
        """Raise ValueError for what only shows when the parts meet."""
        if self.plan is not None and self.program is not None:
            raise ValueError("program: a plan makes its own program; leave out plan or program")
        if self.program is not None and self.run.adapt_every:
            raise ValueError("run.adapt_every: a program file runs as it is; leave one of them out")
        if self.plan not in (None, AUTO) and self.parallel != DEMO_PLAN:
            raise ValueError("parallel: the plan file decides; leave out --parallel options")

    def saved_plan(self) -> SavedPlan:
        """The plan file's content, or what [parallel] says; that too until `auto` is planned.

        Raises:
            ValueError: a plan file that cannot be read.
        """
        if self.plan in (None, AUTO):
            return SavedPlan(self.parallel, self.data.micro_batch_size)
        return read_plan(Path(str(self.plan)))

    @property
    def highest_rate(self) -> float:
        """Of the optimizer, with the default filled in."""
        if self.optim.lr is not None:
            return self.optim.lr
        return 4e-3 if self.model.hf is None else 2e-5 if self.model.lora is None else 2e-4

    @property
    def folder(self) -> Path:
        """Where the run's files lie."""
        return Path(self.run.folder) / self.run.name


def read_config(path: Path) -> Config:
    """The configuration in a TOML file; fields that it leaves out keep their defaults.

    Raises:
        ValueError: unreadable, or a section or field that does not exist or cannot be used.
    """
    return read_toml("config", path, partial(make, Config))


def write_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as TOML; `read_config` reads it back."""
    table = table_of(config)
    table["optim"]["lr"] = config.highest_rate
    if config.plan not in (None, AUTO):
        del table["parallel"]  # the plan file decides
    write_text("run.folder", path, tomli_w.dumps(table))
