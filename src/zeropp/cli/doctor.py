"""`zeropp doctor`: whether a cluster's ranks can be relied on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zeropp.cli.verb import Verb
from zeropp.ir.collector import loading
from zeropp.ir.files import check_output
from zeropp.ir.numbers import Size
from zeropp.ir.toml_file import table_of
from zeropp.launch import load_ranks


@dataclass(frozen=True)
class Doctor(Verb):
    """Examine local ranks or torchrun's: hosts, messages, collectives, gradients of small pipelines
    against plain PyTorch, a step against its prediction, and the watchdog; a page to read or to
    send."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A file for the page, in Markdown."""
    ranks: Size = 2
    """Local ranks to start; under torchrun, its ranks are used."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def perform(self) -> int:
        """Check what can be checked, then examine on every rank; 1 if something is wrong."""
        if self.output is not None:
            check_output("output", self.output)
        load_ranks(__name__, "zeropp.measure.doctor")
        with loading():  # torch, only now
            from zeropp.launch.ranks import run_on_ranks
            from zeropp.measure.doctor import examine

        run_on_ranks(self.ranks, self.device, examine, self.output, options=table_of(self))
        return 0
