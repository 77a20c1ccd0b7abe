"""Options of `zeropp plan`: what the planner is asked, of a folder's model too."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from zeropp.ir.model import GPTConfig
from zeropp.ir.numbers import Size
from zeropp.planner.asked import Asked
from zeropp.planner.decoder import DecoderShape
from zeropp.train.choice import length_of, shape_of
from zeropp.train.config import ModelConfig


@dataclass(frozen=True)
class AskedOfFolder(Asked):
    """The same, whose model may be a folder's."""

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
