"""A checkpoint as a folder of safetensors, in one process, one block after the other."""

from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

from zeropp import checkpoint
from zeropp.report.folder import CHECKPOINTS
from zeropp.train.choice import model_of
from zeropp.train.config import ModelConfig, read_config


class Checkpoint(NamedTuple):
    """Where one is, and of which model."""

    path: Path
    model: ModelConfig


def find_checkpoint(path: Path) -> Checkpoint:
    """The last checkpoint of the run at `path`, or the one that is there.

    Raises:
        ValueError: there is none, or no configuration of its run.
    """
    last, broken = checkpoint.newest(path / CHECKPOINTS)
    for line in broken:
        print(f"passed over: {line}")
    if last is None and not (path / checkpoint.HEADER).is_file():
        raise ValueError(f"run: no checkpoint in {path}; name a run's folder, or a checkpoint's")
    if last is None:
        checkpoint.read(path, "run")
    run = path if last is not None else path.absolute().parent.parent
    return Checkpoint(last or path, read_config(run / "config.toml").model)


def export(found: Checkpoint, folder: Path) -> str:
    """Write its weights into a new folder, or an empty one, and say what they are.

    Raises:
        ValueError: the folder holds something, a checkpoint that cannot be read, or zeropp[hf] is
            not installed.
    """
    model = model_of(found.model)
    checkpoint.check(found.path, model.blocks, "run")
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        return model.export(found.path, folder)
    except ImportError as error:  # of the GPT, which trains without it
        raise ValueError(f"export: {error}") from error
    finally:
        dist.destroy_process_group()
