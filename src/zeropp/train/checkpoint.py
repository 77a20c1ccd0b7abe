"""Checkpoints through torch.distributed.checkpoint, under global parameter names.

Names do not depend on ranks or stages, so a checkpoint can be read in another layout.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from zeropp.runtime.pipeline import Pipeline

_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)


class _Holder(nn.Module):
    """This rank's blocks as one module, so that names stay `<block>.<parameter>`."""

    def __init__(self, pipe: Pipeline) -> None:
        super().__init__()
        for module in pipe.modules:
            for name, block in module.named_children():
                self.add_module(name, block)


def save(path: Path, pipe: Pipeline, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write model, optimizer and step; collective, on all ranks."""
    dcp_save(_state(pipe, optimizer, step), checkpoint_id=path)


def load(path: Path, pipe: Pipeline, optimizer: torch.optim.Optimizer) -> int:
    """Read a checkpoint into the pipeline and the optimizer; the step it was written at."""
    state = _state(pipe, optimizer, 0)
    dcp_load(state, checkpoint_id=path)
    holder = _Holder(pipe)
    set_model_state_dict(holder, state["model"], options=_OPTIONS)
    set_optimizer_state_dict(holder, optimizer, state["optimizer"], options=_OPTIONS)
    return int(state["step"])


def check(path: Path, blocks: list[nn.Module]) -> None:
    """Raise ValueError unless `path` holds a checkpoint of a model with these blocks."""
    try:
        metadata = FileSystemReader(path).read_metadata().state_dict_metadata
    except (OSError, ValueError) as error:
        raise ValueError(f"run.resume: no checkpoint at {path}: {error}") from error
    saved = {k.removeprefix("model."): v for k, v in metadata.items() if k.startswith("model.")}
    wanted = {
        f"{i}.{name}": p.shape for i, b in enumerate(blocks) for name, p in b.named_parameters()
    }
    for name in sorted(saved.keys() | wanted.keys()):
        held = getattr(saved.get(name), "size", None)
        if held != wanted.get(name):
            raise ValueError(
                f"run.resume: {path} is of another model: {name} is {_shape(held)} there and "
                f"{_shape(wanted.get(name))} here; use that run's [model] section"
            )


def _shape(size: torch.Size | None) -> str:
    return "absent" if size is None else str(list(size))


def _state(pipe: Pipeline, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    holder = _Holder(pipe)
    return {
        "model": get_model_state_dict(holder, options=_OPTIONS),
        "optimizer": get_optimizer_state_dict(holder, optimizer, options=_OPTIONS),
        "step": torch.tensor(step),
    }
