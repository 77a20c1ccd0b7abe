"""Checkpoints through torch.distributed.checkpoint, under global parameter names.

Names do not depend on ranks or stages, so a checkpoint can be read in another layout; a tied
parameter is held once, with its optimizer's state and its group's numbers under its name.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
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

from zeropp.runtime.agreement import together
from zeropp.runtime.pipeline import Pipeline
from zeropp.runtime.stage import StageModule
from zeropp.runtime.ties import find_ties, owner_names

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)


def _holder(pipe: Pipeline) -> StageModule:
    """This rank's blocks as one module, so that names stay `<block>.<parameter>`."""
    stages = (module.named_children() for module in pipe.modules)
    return StageModule({int(name): block for blocks in stages for name, block in blocks})


def save(path: Path, pipe: Pipeline, optimizer: Optimizers, step: int) -> None:
    """Write model, optimizers, step, and what random numbers depend on; collective, on all ranks.

    Buffers are those of the first data-parallel rank; each of the others has its own statistics.
    Several optimizers share the trained parameters among them, or it is a ValueError on every rank.
    """
    together(partial(_require_undivided, pipe, optimizer))
    names = owner_names(pipe.ties)
    dcp_save(_shared(_state(pipe, optimizer, step), names), checkpoint_id=path)


def load(path: Path, pipe: Pipeline, optimizer: Optimizers) -> int:
    """Read a checkpoint into the pipeline and the optimizers; the step it was written at.

    The optimizers keep nothing that those saved did not, or it is a ValueError on every rank.
    """
    together(partial(_require_undivided, pipe, optimizer))
    own, names = _state(pipe, optimizer, 0), owner_names(pipe.ties)
    read = _shared(own, names)
    together(partial(_require_held, path, read))
    dcp_load(read, checkpoint_id=path)
    holder = _holder(pipe)
    model, state = (
        {key: _apart(read[part], key, _owner_key(key, names)) for key in own[part]}
        for part in ("model", "optimizer")
    )
    set_model_state_dict(holder, model, options=_OPTIONS)
    if used := _used(optimizer):
        set_optimizer_state_dict(holder, used, state, options=_OPTIONS)
    pipe.steps = int(read["draws"])
    return int(read["step"])


def check(path: Path, blocks: list[nn.Module], what: str = "run.resume") -> None:
    """Raise ValueError, which begins with `what`, unless `path` holds a checkpoint of a model with
    these blocks.
    """
    try:
        metadata = FileSystemReader(path).read_metadata().state_dict_metadata
    except Exception as error:  # of a file that is none, unpickling raises whatever it meets
        raise ValueError(f"{what}: no checkpoint at {path}: {error or 'empty'}") from error
    saved = {k.removeprefix("model."): v for k, v in metadata.items() if k.startswith("model.")}
    tied = owner_names(find_ties(blocks, [range(len(blocks))]))
    wanted = {
        f"{i}.{name}": p.shape
        for i, b in enumerate(blocks)
        for name, p in b.state_dict(keep_vars=True).items()
        if f"{i}.{name}" not in tied
    }
    for name in sorted(saved.keys() | wanted.keys()):
        held = getattr(saved.get(name), "size", None)
        if held != wanted.get(name):
            raise ValueError(
                f"{what}: {path} is of another model: {name} is {_shape(held)} there and "
                f"{_shape(wanted.get(name))} here; use that run's [model] section"
            )


def stored(
    path: Path, blocks: Sequence[nn.Module], trained: bool = False
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Of one block after the other, its tensors in a checkpoint, whole, on the CPU; collective.

    Args:
        path: a checkpoint of a model with these blocks, which any number of ranks has written.
        blocks: on the meta device.
        trained: leave out what is not trained.

    Yields:
        A block's number, and its tensors by its own names; what is tied, in the first alone.
    """
    tied = owner_names(find_ties(blocks, [range(len(blocks))]))
    for index, block in enumerate(blocks):
        tensors = {
            name: torch.empty_like(tensor, device="cpu", requires_grad=False)
            for name, tensor in block.state_dict(keep_vars=True).items()
            if f"{index}.{name}" not in tied and (tensor.requires_grad or not trained)
        }
        state = {f"model.{index}.{name}": tensor for name, tensor in tensors.items()}
        dcp_load(state, checkpoint_id=path)
        yield index, tensors


def _shape(size: torch.Size | None) -> str:
    return "absent" if size is None else str(list(size))


def _used(optimizer: Optimizers) -> list[torch.optim.Optimizer]:
    """Those that have a parameter of this rank, which may have no matrix for Muon."""
    every = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    return [one for one in every if any(group["params"] for group in one.param_groups)]


def _require_undivided(pipe: Pipeline, optimizer: Optimizers) -> None:
    """Raise ValueError for a parameter that is not in exactly one of several optimizers."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return
    times = Counter(p for one in optimizer for group in one.param_groups for p in group["params"])
    for name, parameter in pipe.named_parameters():
        if times[parameter] > 1:
            raise ValueError(f"optimizers: {name} is in several of them; give it to one")
        if parameter.requires_grad and not times[parameter]:
            raise ValueError(f"optimizers: {name} is in none of them; give it to one or freeze it")


def _require_held(path: Path, state: dict[str, Any]) -> None:
    """Raise ValueError for what the optimizers here hold and those saved did not."""
    saved = FileSystemReader(path).read_metadata().state_dict_metadata
    for key in state["optimizer"]:
        if f"optimizer.{key}" not in saved:
            name, _, held = key.partition(".")[2].rpartition(".")
            raise ValueError(
                f"optimizers: {path} holds no {held} of {name}; give every parameter to an "
                "optimizer of the class that it had there"
            )


def _state(pipe: Pipeline, optimizer: Optimizers, step: int) -> dict[str, Any]:
    holder, used = _holder(pipe), _used(optimizer)
    return {
        "model": get_model_state_dict(holder, options=_OPTIONS),
        "optimizer": get_optimizer_state_dict(holder, used, options=_OPTIONS) if used else {},
        "step": torch.tensor(step),
        "draws": torch.tensor(pipe.steps),
    }


def _shared(state: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The same with every tied parameter under its owner's name, in whatever stages it is."""
    parts = {
        part: {_owner_key(key, names): value for key, value in reversed(state[part].items())}
        for part in ("model", "optimizer")
    }
    return parts | {name: state[name] for name in ("step", "draws")}


def _apart(values: dict[str, Any], key: str, owner_key: str) -> Any:
    """The owner's value; a copy's state must not be the owner's own tensor."""
    value = values[owner_key]
    return value.clone() if key != owner_key and isinstance(value, torch.Tensor) else value


def _owner_key(key: str, names: dict[str, str]) -> str:
    """A model's key is a name, an optimizer's `state.<name>.<what>` or `param_groups...`."""
    for name, owner in names.items():
        if key == name:
            return owner
        for part in ("state", "param_groups"):
            if key.startswith(f"{part}.{name}."):
                return key.replace(name, owner, 1)
    return key
