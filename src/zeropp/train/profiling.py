"""`zeropp profile` on every rank: measure the GPT's blocks and the links, write the profile."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from zeropp.ir.model import GPTConfig
from zeropp.ir.program import Recompute
from zeropp.measure.blocks import Spread
from zeropp.measure.profiling import Measurement, measure, profile
from zeropp.planner.profile import Setting
from zeropp.planner.profile_file import write_profile
from zeropp.runtime.mesh import default_device
from zeropp.train.config import Backend
from zeropp.train.subject import gpt_subject


@dataclass(frozen=True)
class Wanted:
    """What to profile, and where to write it.

    Attributes:
        gpt: the model.
        seq_len: tokens in a sequence.
        micro_batch_sizes: sequences in a micro-batch, each measured.
        recompute: ways of checkpointing, each measured.
        precision: what blocks compute in.
        compile: backend of torch.compile for the blocks, or off.
        output: the profile's file.
    """

    gpt: GPTConfig
    seq_len: int
    micro_batch_sizes: tuple[int, ...]
    recompute: tuple[str, ...]
    precision: Literal["fp32", "bf16"]
    compile: Backend
    output: Path


def run_profile(wanted: Wanted) -> None:
    """Measure as one rank; the first writes and prints."""
    device, leads = default_device(), dist.get_rank() == 0
    settings = tuple(
        Setting(size, Recompute(how))
        for size in wanted.micro_batch_sizes
        for how in wanted.recompute
    )
    subject = gpt_subject(wanted.gpt, wanted.seq_len, settings, wanted.precision, wanted.compile)
    found = []
    for one in measure(subject, device):
        found.append(one)
        if leads:
            size, recompute = one.setting
            print(f"measured {one.kind}, micro-batch of {size}, recompute {recompute}", flush=True)
    made = profile(subject, found, device)
    if leads:
        write_profile(made, wanted.output)
        Console().print(_table(found))
        for name, link in (("inside a node", made.inside), ("between nodes", made.between)):
            if link is not None:
                print(f"{name}: {link.latency * 1e6:.0f} us, {link.bandwidth / 1e9:.2f} GB/s")
        print(
            f"{wanted.output}: next, "
            f"zeropp plan --profile {wanted.output} --gpus N --global-batch N"
        )


def _table(found: list[Measurement]) -> Table:
    table = Table(title="ms on the first rank, median and half the quartiles' distance; MiB held")
    for column in ("block", "size", "recompute", "F", "B", "W", "F to B", "B to W"):
        table.add_column(column, justify="right")
    for one in found:
        block = one.measured.block
        held = (f"{size / 2**20:.2f}" for size in (block.until_backward, block.until_weight))
        times = map(_milliseconds, one.measured.spreads)
        size, recompute = one.setting
        table.add_row(one.kind, str(size), str(recompute), *times, *held)
    return table


def _milliseconds(spread: Spread) -> str:
    half = (spread.high - spread.low) / 2 / spread.median
    return f"{spread.median * 1e3:.2f} ±{half:.0%}"
