"""Tensors as safetensors: one file a block, an index, and a folder that is whole or not there."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from zeropp.ir.files import explained, require_new
from zeropp.runtime.agreement import together
from zeropp.runtime.mesh import gathered

INDEX, ONE = "model.safetensors.index.json", "model.safetensors"
States = Iterable[tuple[int, Mapping[str, Tensor]]]  # of blocks, by number, their tensors


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, made by rank 0, which becomes it where no rank fails; collective.

    Raises:
        ValueError: on every rank: there is something at `target`, or it cannot be made.
    """
    beside, leads = target.with_name(f".{target.name}.part"), dist.get_rank() == 0

    def start() -> None:
        require_new("folder", target)
        shutil.rmtree(beside, ignore_errors=True)  # of one that was killed
        with explained("folder: cannot make", target):
            beside.mkdir(parents=True)

    together(lambda: start() if leads else None)
    try:
        yield beside
        together(lambda: beside.rename(target) if leads else None)
    finally:
        if leads:
            shutil.rmtree(beside, ignore_errors=True)


def write_shards(
    states: States,
    count: int,
    folder: Path,
    renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> None:
    """Write the blocks that each rank has, and their index; collective.

    Args:
        states: one at a time is held.
        count: of all blocks.
        folder: where all ranks write.
        renamed: makes of a block's tensors those that are written.

    Raises:
        ValueError: on every rank: a file cannot be written.
    """
    files: dict[str, str] = {}
    failures = []
    for index, state in states:
        file = f"model-{index + 1:05d}-of-{count:05d}.safetensors"
        tensors = renamed(state)
        files |= dict.fromkeys(tensors, file)
        try:
            write_tensors(tensors, folder / file)
        except ValueError as error:  # the other ranks still gather with this one
            failures.append(str(error))
        del state, tensors
    wrote = gathered((files, failures))

    def describe() -> None:
        for _, lines in wrote:
            if lines:
                raise ValueError(lines[0])
        named = {name: file for some, _ in wrote for name, file in some.items()}
        index = {"metadata": {}, "weight_map": dict(sorted(named.items()))}
        with written(folder):
            (folder / INDEX).write_text(json.dumps(index, indent=2), "utf-8")

    together(lambda: describe() if dist.get_rank() == 0 else None)


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """One file; ValueError if it cannot be written."""
    own = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
    with written(file):
        save_file(own, file, metadata={"format": "pt"})


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What stands in the way of writing as a ValueError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot write it: {error}") from error
