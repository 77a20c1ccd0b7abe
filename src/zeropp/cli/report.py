"""`zeropp report`: a page about runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeropp.cli.verb import Verb
from zeropp.ir.files import check_output
from zeropp.report.page import write_report


@dataclass(frozen=True)
class Report(Verb):
    """Write one HTML page about runs, finished or not: curves, memory, timelines, plan, differences
    of configuration, environment. It needs no network."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The runs' folders."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The page."""

    def perform(self) -> int:
        """Read the folders, and write the page whole or not at all."""
        if not self.runs:
            raise ValueError("runs must name a run's folder, such as runs/demo")
        check_output("output", self.output)
        write_report(self.runs, self.output)
        print(f"{self.output}: open it in a browser")
        return 0
