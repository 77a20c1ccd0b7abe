"""`zeropp export`: a run's weights for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeropp.cli.verb import Verb
from zeropp.ir.collector import loading
from zeropp.ir.files import require_new


@dataclass(frozen=True)
class Export(Verb):
    """Write a run's weights as a folder of safetensors: a model of Hugging Face transformers as one
    that from_pretrained reads, its adapters for peft, and the GPT under global names."""

    run: tyro.conf.Positional[Path]
    """The run's folder, of which the last checkpoint is taken, or a checkpoint's."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The new folder."""

    def perform(self) -> int:
        """Find the checkpoint, and write what it holds."""
        require_new("output", self.output)
        with loading():  # torch, only now
            from zeropp.train.export import export, find_checkpoint

        found = find_checkpoint(self.run)
        what = export(found, self.output)
        print(f"{self.output}: {found.path}, {what}")
        return 0
