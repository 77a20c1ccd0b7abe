"""`zeropp plan`: find the fastest layout of a model on a cluster, and say why."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from zeropp.cli.verb import Verb
from zeropp.ir.files import check_output
from zeropp.ir.model import GPTConfig
from zeropp.ir.numbers import Size
from zeropp.planner import Answer, best_plan, over_unit_sizes, write_plan
from zeropp.planner.asked import Asked
from zeropp.planner.decoder import DecoderShape
from zeropp.planner.hardware import GIB
from zeropp.planner.told import as_dict, rows_of
from zeropp.show import Curve, check_picture, draw_curves
from zeropp.train.choice import length_of, shape_of
from zeropp.train.config import ModelConfig

_TB = 1e12


@dataclass(frozen=True)
class AskedOfFolder(Asked):
    """What the planner is asked, of a folder's model too."""

    hf: Annotated[str | None, tyro.conf.arg(name="model.hf")] = None
    """A folder with a decoder of Hugging Face transformers, in place of a named size."""
    lora: Annotated[Size | None, tyro.conf.arg(name="model.lora")] = None
    """Rank of LoRA's adapters, which alone are trained then; without it, all weights are."""

    @property
    def model_given(self) -> bool:
        """Whether a model is named, once."""
        if self.model is not None and self.hf is not None:
            raise ValueError("model: give one of --model, --model.hf and --profile")
        return self.model is not None or self.hf is not None

    def shape(self) -> tuple[GPTConfig | DecoderShape, int]:
        """Of the folder's model, if one is named."""
        asked = ModelConfig(hf=self.hf, lora=self.lora)
        if self.hf is None:
            return super().shape()
        length = length_of(asked, self.seq_len, "seq_len")
        return shape_of(asked), length


@dataclass(frozen=True)
class Planned(AskedOfFolder, Verb):
    """Find the fastest plan for a model, a cluster and a batch, and say why it is."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """TOML file to write the plan into."""
    explain: Path | None = None
    """Picture (.svg or .png) of what larger units trade: time, memory, communication."""
    json: bool = False
    """Print JSON."""

    def perform(self) -> int:
        """Plan, print, and write what is asked for."""
        self._check_files()
        answer = best_plan(self.problem())
        if self.json:
            print(json.dumps(as_dict(answer)))
        else:
            _print(answer)
        sys.stdout.flush()  # no file is left where nobody could be told
        if self.output is not None:
            write_plan(answer.saved, self.output)
        if self.explain is not None:
            _explain(answer, self.explain)
        return 0

    def _check_files(self) -> None:
        """Refuse files that cannot be written before anything is computed."""
        for name, path in (("output", self.output), ("explain", self.explain)):
            if path is not None:
                check_output(name, path)
        if self.output is not None and self.output.suffix != ".toml":
            raise ValueError(f"output must end in .toml, got {str(self.output)!r}")
        if self.explain is not None:
            check_picture(self.explain)


def _print(answer: Answer) -> None:
    table = Table(title=f"{answer.family} on {answer.problem.gpus} GPUs", show_header=False)
    for row in rows_of(answer):
        table.add_row(*row)
    Console().print(table)
    for reason in answer.reasons:
        print(f"- {reason}")
    if answer.problem.profile.assumptions:
        print("\nassumed:")
        for assumption in answer.problem.profile.assumptions:
            print(f"- {assumption}")
    counts = answer.counts
    print(f"\n{counts.layouts} layouts that may fit, {counts.simulated} plans simulated")


def _explain(answer: Answer, path: Path) -> None:
    points = over_unit_sizes(answer)
    found = [point.prediction for point in points]
    usable = answer.problem.usable / GIB
    curves = (
        Curve("step, s", tuple(p.step_s for p in found)),
        Curve("bubble ratio, %", tuple(100 * p.bubble_ratio for p in found)),
        Curve("peak memory, GiB", tuple(p.peak_bytes / GIB for p in found), limit=usable),
        Curve("on the wire\nper rank, TB", tuple(max(p.wire_bytes) / _TB for p in found)),
    )
    layout = answer.best.priced.layout
    draw_curves(
        f"ZeroPP with P={layout.pp_size}, V={layout.placement.num_chunks}, "
        f"{layout.dp_shard} shards, {answer.best.priced.num_microbatches} micro-batches",
        "U, micro-batches in a unit (crosses do not fit the memory)",
        [point.unit_size for point in points],
        curves,
        path,
        chosen=answer.best.order.unit_size,
        fits=[point.fits for point in points],
    )
