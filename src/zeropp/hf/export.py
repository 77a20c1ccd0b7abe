"""A pipeline's weights as a folder that transformers reads, written by all ranks together.

One file a block, each by one of the ranks that hold it; beside its own, a rank needs no more than
the whole tensors of one block at a time.
"""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from peft import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from zeropp.hf.cut import hf_name, unwrapped
from zeropp.matrices import whole
from zeropp.runtime.agreement import together
from zeropp.runtime.mesh import data_rank, data_size, gathered
from zeropp.runtime.pipeline import Pipeline
from zeropp.runtime.ties import owner_names


def save(pipe: Pipeline, model: nn.Module, folder: str | Path) -> None:
    """Write the weights for `from_pretrained`, and the model's configuration; collective.

    Of peft's model, the adapters alone, in peft's own format. The folder is on a disk that all
    ranks see; it is written beside and renamed, so that it is whole or not there at all.

    Args:
        pipe: of `blocks(model)`.
        model: of transformers, or of peft.
        folder: a new one.

    Raises:
        ValueError: on every rank: the folder is there already, or a file cannot be written.
    """
    target, leads = Path(folder), dist.get_rank() == 0
    with _new_folder(target) as beside:
        if unwrapped(model) is model:
            wrote = gathered(_write_blocks(pipe, model, beside))
            failures = [line for _, lines in wrote for line in lines]
            files = {name: file for some, _ in wrote for name, file in some.items()}
            together(lambda: _describe(model, files, failures, beside) if leads else None)
        else:
            parts = gathered(_trained(pipe))
            adapters = {name: tensor for part in parts for name, tensor in part.items()}
            together(lambda: _write_adapters(model, adapters, beside) if leads else None)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, made by rank 0, which becomes it where no rank fails."""
    beside, leads = target.with_name(f".{target.name}.part"), dist.get_rank() == 0

    def start() -> None:
        if target.exists():
            raise ValueError(f"{target}: it is there already; name a new folder")
        shutil.rmtree(beside, ignore_errors=True)  # of one that was killed
        try:
            beside.mkdir(parents=True)
        except OSError as error:
            raise ValueError(f"{target}: cannot make it: {error.strerror}") from error

    together(lambda: start() if leads else None)
    try:
        yield beside
        together(lambda: beside.rename(target) if leads else None)
    finally:
        if leads:
            shutil.rmtree(beside, ignore_errors=True)


def _write_blocks(pipe: Pipeline, model: Any, folder: Path) -> tuple[dict[str, str], list[str]]:
    """The files that this rank wrote, by the names of weights in them, and what failed."""
    blocks = dict(pair for module in pipe.modules for pair in module.numbered)
    count = 1 + max(gathered(max(blocks)))
    others = owner_names(pipe.ties)
    files: dict[str, str] = {}
    failures: list[str] = []
    for index, block in blocks.items():
        inner: Any = block.hf
        state = {
            name: whole(tensor.detach())
            for name, tensor in inner.state_dict().items()
            if f"{index}.hf.{name}" not in others
        }
        if index % data_size(pipe.mesh) != data_rank(pipe.mesh):
            continue  # another rank, which has the same
        tensors = revert_weight_conversion(model, state)
        file = f"model-{index + 1:05d}-of-{count:05d}.safetensors"
        try:
            save_file({n: t.cpu().clone() for n, t in tensors.items()}, folder / file)
        except (OSError, SafetensorError) as error:
            failures.append(f"{folder / file}: cannot write it: {error}")
        files |= dict.fromkeys(tensors, file)
    return files, failures


def _describe(model: Any, files: Mapping[str, str], failures: list[str], folder: Path) -> None:
    """What `from_pretrained` wants beside the weights."""
    if failures:
        raise ValueError(failures[0])
    index = {"metadata": {}, "weight_map": dict(sorted(files.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), "utf-8")
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def _trained(pipe: Pipeline) -> dict[str, Tensor]:
    """What is trained of this rank's stages, whole, by the names of peft's model."""
    trained = [(name, p) for name, p in pipe.named_parameters() if p.requires_grad]
    held = {f"base_model.model.{hf_name(name)}": whole(p.detach()).cpu() for name, p in trained}
    return held if data_rank(pipe.mesh) == 0 else {}


def _write_adapters(model: Any, adapters: Mapping[str, Tensor], folder: Path) -> None:
    tensors = get_peft_model_state_dict(model, state_dict=dict(adapters))
    save_file(
        {name: t.clone() for name, t in tensors.items()}, folder / "adapter_model.safetensors"
    )
    model.peft_config[model.active_adapter].save_pretrained(folder)
