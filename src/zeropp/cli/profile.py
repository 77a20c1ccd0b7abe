"""`zeropp profile`: measure a model's blocks and the links between ranks, for the planner."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zeropp.cli.verb import Verb
from zeropp.ir.collector import loading
from zeropp.ir.files import check_output
from zeropp.ir.numbers import Size
from zeropp.ir.program import Recompute
from zeropp.ir.toml_file import table_of
from zeropp.launch import load_ranks
from zeropp.planner.profile import Setting
from zeropp.train.choice import checked_model_of, length_of, module_of
from zeropp.train.config import Backend, ModelConfig


@dataclass(frozen=True)
class Profiled(Verb):
    """Measure what blocks and links take, on local ranks or on torchrun's, all at once."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("profile.toml")
    """TOML file to write, which `zeropp plan --profile` reads."""
    model: ModelConfig = field(default_factory=ModelConfig)
    seq_len: Size | None = None
    """Tokens in a sequence; without it, the model's longest, at most 2048 with model.hf."""
    micro_batch_sizes: tuple[Size, ...] = (1, 2, 4)
    """Sequences in a micro-batch, each measured."""
    recompute: tuple[str, ...] = ("none",)
    """Ways of checkpointing, each measured: none, selective, full."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What blocks compute in."""
    compile: Backend = "off"
    """Backend of torch.compile for every block, as the training will use."""
    ranks: Size = 2
    """Local ranks to start; under torchrun, its ranks are used."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def check(self) -> None:
        """Raise ValueError for what cannot be measured."""
        if not self.micro_batch_sizes:
            raise ValueError("micro_batch_sizes must list a size")
        if not self.recompute or not set(self.recompute) <= set(Recompute):
            names = ", ".join(Recompute)
            raise ValueError(f"recompute must be of {names}, got {list(self.recompute)}")
        if self.output.suffix != ".toml":
            raise ValueError(f"output must be a .toml file, got {str(self.output)!r}")
        check_output("output", self.output)

    def perform(self) -> int:
        """Check, then measure on every rank."""
        self.check()
        load_ranks(__name__, "zeropp.train.measuring", module_of(self.model))
        length = length_of(self.model, self.seq_len, "seq_len")
        with loading():  # torch, only now
            from zeropp.launch.ranks import run_on_ranks
            from zeropp.train.measuring import run_profile

        checked_model_of(self.model)  # or why it is none
        sizes = self.micro_batch_sizes
        settings = tuple(Setting(s, Recompute(how)) for s in sizes for how in self.recompute)
        what = self.output, self.model, length, settings, self.precision, self.compile
        run_on_ranks(self.ranks, self.device, run_profile, *what, options=table_of(self))
        return 0
