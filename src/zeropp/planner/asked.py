"""What is asked of the planner: a model and a cluster by names, or a measured profile."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from zeropp.ir.model import SIZES, GPTConfig
from zeropp.ir.numbers import Positive, Size
from zeropp.ir.toml_file import make, read_toml
from zeropp.planner.analytic import Efficiency, Hardware, analytic_profile
from zeropp.planner.decoder import DecoderShape
from zeropp.planner.hardware import GIB, GPUS, usual_inside
from zeropp.planner.problem import Problem
from zeropp.planner.profile import Profile
from zeropp.planner.profile_file import read_profile


@dataclass(frozen=True)
class Asked:
    """Which model, on which devices, with which batch."""

    gpus: Size
    """GPUs, all of which are used."""
    global_batch: Size
    """Sequences in a step, over all GPUs."""
    model: str | None = None
    """A named size (toy, gpt2-124m, 1.5b, 6.2b, 14.6b, llama-8b, llama-70b), or a TOML file with
    the fields of GPTConfig."""
    profile: Path | None = None
    """A measured profile (TOML), in place of a model and named hardware."""
    seq_len: Size | None = None
    """Tokens in a sequence; without it, the model's longest, at most 2048 with model.hf."""
    gpus_per_node: Size = 8
    """GPUs that share a node."""
    gpu: str = "A100-80G"
    """A100-40G, A100-80G, A800-80G, H100-80G, H800-80G, H200, H20, L40S, RTX3090 or RTX4090."""
    inside: str | None = None
    """Link inside a node: nvlink, pcie3, pcie4, pcie5, or GB/s; without it, nvlink or pcie4."""
    between: str = "ib-200"
    """One network card: ib-100 to ib-800, eth-1 to eth-400 (Gbit/s), or a number of GB/s."""
    cards: Size | None = None
    """Network cards of a node; without it, one for each GPU with ib, else one."""
    memory: Positive | None = None
    """GiB of each GPU that a plan may use; without it, 92 % of what the GPU has."""
    split: tuple[int, ...] | None = None
    """Blocks in each stage, embedding and head included; without it, balanced."""
    micro_batch_sizes: tuple[Size, ...] = (1, 2, 4, 8)
    """Sequences in a micro-batch that are tried."""
    no_flash: bool = False
    """Keep attention's scores in memory."""
    efficiency: Efficiency = field(default_factory=Efficiency)
    """Shares of nominal rates that are reached."""

    def problem(self) -> Problem:
        """What the planner is asked.

        Raises:
            ValueError: both or neither of model and profile, or a field out of range.
        """
        if self.model_given == (self.profile is not None):
            raise ValueError("model: give one of --model, --model.hf and --profile")
        profile = read_profile(self.profile) if self.profile is not None else self._analytic()
        if self.profile is not None and self.seq_len not in (None, profile.seq_len):
            raise ValueError(
                f"seq_len: the profile is of sequences of {profile.seq_len} tokens, "
                f"got {self.seq_len}; leave it out"
            )
        memory = None if self.memory is None else self.memory * GIB
        return Problem(
            profile, self.gpus, self.gpus_per_node, self.global_batch, memory, self.split
        )

    @property
    def model_given(self) -> bool:
        """Whether a model is named."""
        return self.model is not None

    def shape(self) -> tuple[GPTConfig | DecoderShape, int]:
        """Of the model, and how many tokens a sequence has."""
        shape = self.named()
        seq_len = self.seq_len if self.seq_len is not None else shape.seq_len
        if not 1 <= seq_len <= shape.seq_len:
            raise ValueError(
                f"seq_len must be from 1 to the model's {shape.seq_len}, got {seq_len}"
            )
        return shape, seq_len

    def named(self) -> GPTConfig:
        """The GPT that is named."""
        return model_shape(self.model or "")

    def _analytic(self) -> Profile:
        shape, seq_len = self.shape()
        sizes = self.micro_batch_sizes
        if not sizes:
            raise ValueError("micro_batch_sizes must list a size")
        inside = self.inside or usual_inside(self.gpu)
        name = next(known for known in GPUS if known.lower() == self.gpu.lower())
        hardware = Hardware(name, inside, self.between, self.gpus_per_node, self.cards)
        return analytic_profile(
            shape,
            hardware,
            seq_len,
            sorted(set(sizes)),
            flash=not self.no_flash,
            efficiency=self.efficiency,
        )


def model_shape(model: str) -> GPTConfig:
    """The named size, or what a TOML file says.

    Raises:
        ValueError: neither, or a field of the file that is unknown, missing or out of range.
    """
    if model in SIZES:
        return SIZES[model]
    path = Path(model)
    if path.suffix != ".toml":
        names = ", ".join(SIZES)
        raise ValueError(f"model must be one of {names}, or a .toml file; got {model!r}")
    return read_toml("model", path, partial(make, GPTConfig))
