"""What a checkpoint holds of a pipeline and its optimizers, saved and loaded on all ranks."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from zeropp.checkpoint.files import HEADER, Header, Reader, read
from zeropp.checkpoint.folder import beside, publish
from zeropp.ir.files import write_text
from zeropp.runtime.agreement import together
from zeropp.runtime.mesh import gathered, new_name
from zeropp.runtime.pipeline import Pipeline
from zeropp.runtime.stage import StageModule
from zeropp.runtime.ties import find_ties, owner_names

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)
_PARTS = ("model", "optimizer")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Snapshot:
    """What is written of this rank: tensors, by part and key, and its own part of the header."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    header: Header


def save(path: Path, pipe: Pipeline, optimizer: Optimizers, step: int) -> None:
    """Write model, optimizers, step, and what random numbers depend on; collective, on all ranks.

    It is written beside `path` and renamed: whatever happens, what loads is all old or all new.
    Buffers are those of the first data-parallel rank; each of the others has its own statistics.
    Several optimizers share the trained parameters among them, or it is a ValueError on every rank.

    Raises:
        ValueError: on every rank: it cannot be written, or ranks were given other paths, steps,
            classes of optimizers or settings of them.
    """
    pipe.agree(f"checkpoint.save({path}, step {step})")
    require_savable(pipe, optimizer)
    write(path, snapshot(pipe, optimizer, step), new_name())


def snapshot(
    pipe: Pipeline, optimizer: Optimizers, step: int, run: Mapping[str, Any] | None = None
) -> Snapshot:
    """What is to be written of this rank, of which the tensors are the pipeline's own."""
    tensors, values = _parted(_shared(_state(pipe, optimizer), owner_names(pipe.ties)))
    header = Header(step, pipe.steps, values, _classes(pipe, optimizer), run or {})
    return Snapshot(tensors, header)


def require_savable(pipe: Pipeline, optimizer: Optimizers) -> None:
    """Raise ValueError, on every rank, where some rank's optimizers cannot be saved; collective."""
    together(partial(_require_undivided, pipe, optimizer))
    together(lambda: _require_plain(snapshot(pipe, optimizer, 0).header.values))


def write(
    path: Path,
    made: Snapshot,
    token: str,
    files: Mapping[str, str] | None = None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Write a snapshot beside `path`, then make it the checkpoint there; collective.

    Args:
        path: of the checkpoint.
        made: by every rank.
        token: the same on all ranks, and no other writer's.
        files: texts that are to lie in the checkpoint, of rank 0, by their names.
        group: of all ranks.

    Raises:
        ValueError: on every rank: it cannot be written, and all is as before.
    """
    refusal, at, header = None, beside(path, token), _whole(made.header, group)
    try:
        dcp_save(made.tensors, storage_writer=FileSystemWriter(at), process_group=group)
        if dist.get_rank() == 0:
            for name, text in {**(files or {}), HEADER: header.text()}.items():
                write_text("checkpoint", at / name, text)
            publish(at, path)
    except CheckpointException as error:
        rank, (why, _) = min(error.failures.items())
        refusal = f"rank {rank}: {why}"
    except (OSError, ValueError) as error:
        refusal = str(error)
    if refusal and dist.get_rank() == 0:
        shutil.rmtree(at, ignore_errors=True)  # which gives the space back
    if found := next(filter(None, _from_all(refusal, group)), None):
        raise ValueError(f"checkpoint {path} cannot be written: {found.splitlines()[0]}")


def _whole(own: Header, group: dist.ProcessGroup | None) -> Header:
    """The header of all ranks' parts."""
    every = _from_all(own, group)
    optimizers, values = _merged(h.optimizers for h in every), _merged(h.values for h in every)
    return replace(own, values=values, optimizers=optimizers)


def _from_all(own: _Value, group: dist.ProcessGroup | None) -> list[_Value]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own, group=group)
    return found


def load(path: Path, pipe: Pipeline, optimizer: Optimizers) -> int:
    """Read a checkpoint into the pipeline and the optimizers; the step it was written at.

    Raises:
        ValueError: on every rank, before anything is changed: there is none, or names, shapes,
            classes of optimizers or what they keep differ.
    """
    pipe.agree(f"checkpoint.load({path})")
    together(partial(_require_undivided, pipe, optimizer))
    own, names = _state(pipe, optimizer), owner_names(pipe.ties)
    tensors, values = _parted(_shared(own, names))
    sizes = {key: value.shape for key, value in tensors["model"].items()}
    keys = dict.fromkeys((*_flat(tensors["optimizer"]), *values))
    parts = gathered((sizes, keys, _classes(pipe, optimizer)))
    every = [_merged(each) for each in zip(*parts, strict=True)]
    header = together(partial(_require_same, path, *every))
    try:
        dcp_load(tensors, storage_reader=Reader(path))
    except CheckpointException as error:
        rank, (why, _) = min(error.failures.items())
        raise ValueError(
            f"checkpoint: {path} is damaged: rank {rank} cannot read its part "
            f"({type(why).__name__}); take another"
        ) from error
    holder = _holder(pipe)
    model, state = (
        {key: _own(key, own[part][key], tensors[part], header, names) for key in own[part]}
        for part in _PARTS
    )
    set_model_state_dict(holder, model, options=_OPTIONS)
    if used := _used(optimizer):
        set_optimizer_state_dict(holder, used, state, options=_OPTIONS)
    pipe.steps = header.draws
    return header.step


def check(path: Path, blocks: list[nn.Module], what: str = "run.resume") -> Header:
    """The header of a checkpoint of a model with these blocks.

    Raises:
        ValueError: begins with `what`: there is none, or it is of another model.
    """
    header, metadata = read(path, what)
    tied = owner_names(find_ties(blocks, [range(len(blocks))]))
    wanted = {
        f"{i}.{name}": p.shape
        for i, b in enumerate(blocks)
        for name, p in b.state_dict(keep_vars=True).items()
        if f"{i}.{name}" not in tied
    }
    _require_shapes(what, path, _sizes(metadata), wanted)
    return header


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
        dcp_load(state, storage_reader=Reader(path))
        yield index, tensors


def _require_same(
    path: Path,
    sizes: Mapping[str, torch.Size],
    keys: Mapping[str, None],
    classes: Mapping[str, str],
) -> Header:
    """The header; ValueError where what was saved differs from what all ranks hold together."""
    header, metadata = read(path)
    _require_shapes("checkpoint", path, _sizes(metadata), sizes)
    for name in sorted(classes.keys() | header.optimizers.keys()):
        there, here = (trained.get(name, "none") for trained in (header.optimizers, classes))
        if there != here:
            raise ValueError(
                f"optimizers: the optimizer of {name} is {there} at {path} and {here} here; use "
                "that run's"
            )
    saved = {key for key in metadata if key.startswith("optimizer.")} | header.values.keys()
    for key in sorted(saved ^ keys.keys()):
        where = f"at {path} alone" if key in saved else f"here and not at {path}"
        raise ValueError(f"optimizers: {key.removeprefix('optimizer.')} is {where}")
    return header


def _require_shapes(
    what: str, path: Path, there: Mapping[str, torch.Size], here: Mapping[str, torch.Size]
) -> None:
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"{what}: {path} is of another model: {name} is {_shape(there.get(name))} there "
                f"and {_shape(here.get(name))} here; use that run's [model] section"
            )


def _sizes(metadata: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {k.removeprefix("model."): v.size for k, v in metadata.items() if k.startswith("model.")}


def _shape(size: torch.Size | None) -> str:
    return "absent" if size is None else str(list(size))


def _holder(pipe: Pipeline) -> StageModule:
    """This rank's blocks as one module, so that names stay `<block>.<parameter>`."""
    stages = (module.named_children() for module in pipe.modules)
    return StageModule({int(name): block for blocks in stages for name, block in blocks})


def _all(optimizer: Optimizers) -> Sequence[torch.optim.Optimizer]:
    return [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer


def _used(optimizer: Optimizers) -> list[torch.optim.Optimizer]:
    """Those that have a parameter of this rank, which may have no matrix for Muon."""
    return [one for one in _all(optimizer) if any(group["params"] for group in one.param_groups)]


def _classes(pipe: Pipeline, optimizer: Optimizers) -> dict[str, str]:
    """Of each parameter that an optimizer here has, by its owner's name, the optimizer's class."""
    names, found = owner_names(pipe.ties), {}
    for one in _all(optimizer):
        held = {parameter for group in one.param_groups for parameter in group["params"]}
        for name, parameter in pipe.named_parameters():
            if parameter in held:
                found[names.get(name, name)] = type(one).__name__
    return found


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


def _require_plain(values: Mapping[str, Any]) -> None:
    """Raise ValueError for what an optimizer holds that is neither tensor nor JSON."""
    for key, value in values.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(
                f"optimizers: {key.removeprefix('optimizer.')} is of {type(value).__name__}, which "
                "no checkpoint holds; keep tensors, numbers and words"
            ) from error


def _state(pipe: Pipeline, optimizer: Optimizers) -> dict[str, dict[str, Any]]:
    holder, used = _holder(pipe), _used(optimizer)
    return {
        "model": get_model_state_dict(holder, options=_OPTIONS),
        "optimizer": get_optimizer_state_dict(holder, used, options=_OPTIONS) if used else {},
    }


def _shared(
    state: Mapping[str, dict[str, Any]], names: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """The same with every tied parameter under its owner's name, in whatever stages it is."""
    return {
        part: {_owner_key(key, names): value for key, value in reversed(state[part].items())}
        for part in _PARTS
    }


def _parted(
    state: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by part, and the optimizers' other values by the keys that tensors would have."""
    tensors = {
        part: {key: value for key, value in state[part].items() if isinstance(value, Tensor)}
        for part in _PARTS
    }
    rest = {k: v for k, v in state["optimizer"].items() if k not in tensors["optimizer"]}
    return tensors, dict(zip(_flat(rest), rest.values(), strict=True))


def _flat(keys: Iterable[str]) -> list[str]:
    return [f"optimizer.{key}" for key in keys]


def _merged(parts: Iterable[Mapping[str, _Value]]) -> dict[str, _Value]:
    """All ranks' parts; ValueError where two have something else under one name."""
    found: dict[str, tuple[int, _Value]] = {}
    for rank, part in enumerate(parts):
        for key, value in part.items():
            first, known = found.setdefault(key, (rank, value))
            if value != known:
                raise ValueError(
                    f"optimizers: {key.removeprefix('optimizer.')} is {known} on rank {first} and "
                    f"{value} on rank {rank}; give all ranks the same"
                )
    return {key: value for key, (_, value) in found.items()}


def _own(
    key: str, here: Any, tensors: Mapping[str, Tensor], header: Header, names: Mapping[str, str]
) -> Any:
    """What was saved for `key`, which holds `here`; a copy's state must not be the owner's own."""
    owner = _owner_key(key, names)
    if owner in tensors:
        return tensors[owner] if key == owner else tensors[owner].clone()
    value = header.values[f"optimizer.{owner}"]
    return tuple(value) if isinstance(here, tuple) else value


def _owner_key(key: str, names: Mapping[str, str]) -> str:
    """A model's key is a name, an optimizer's `state.<name>.<what>` or `param_groups...`."""
    for name, owner in names.items():
        if key == name:
            return owner
        for part in ("state", "param_groups"):
            if key.startswith(f"{part}.{name}."):
                return key.replace(name, owner, 1)
    return key
