"""Weights as a folder for transformers, or adapters as one for peft, by all ranks together.

Of a pipeline, one file a block, each by one of the ranks that hold it; beside its own, a rank needs
no more than the whole tensors of one block at a time.
"""

import copy
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from peft import get_peft_model_state_dict
from torch import Tensor, nn

import zeropp.hf.loader as loader
from zeropp.hf.cut import hf_name, unwrapped
from zeropp.hf.shards import States, new_folder, write_shards, write_tensors, written
from zeropp.matrices import whole
from zeropp.runtime.agreement import together
from zeropp.runtime.mesh import data_rank, data_size, gathered, greatest
from zeropp.runtime.pipeline import Pipeline
from zeropp.runtime.ties import owner_names

_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*")
_VOCABULARY = ("vocab.*", "merges.txt", "*.model", "*.tiktoken")


def save(pipe: Pipeline, model: nn.Module, folder: str | Path) -> None:
    """Write the weights for `from_pretrained`, and the model's configuration; collective.

    Of peft's model, the adapters alone, in peft's own format. The tokenizer's files are copied,
    where the model came from a folder that has some. The new folder is on a disk that all ranks
    see; it is written beside and renamed, so that it is whole or not there at all.

    Args:
        pipe: of `blocks(model)`.
        model: of transformers, or of peft.
        folder: a new one, or an empty one.

    Raises:
        ValueError: on every rank: the folder is there already, or a file cannot be written.
    """
    pipe.agree(f"hf.save({folder})")
    if unwrapped(model) is model:
        (last,) = greatest(max(i for module in pipe.modules for i, _ in module.numbered))
        _save_weights(_whole_blocks(pipe), 1 + last, model, Path(folder))
    else:
        parts = gathered(_trained(pipe))
        trained = {name: tensor for part in parts for name, tensor in part.items()}
        _save_adapters(trained, model, Path(folder))


def save_states(states: States, count: int, model: nn.Module, folder: str | Path) -> None:
    """The same of a model that is in no pipeline, such as a checkpoint's; collective.

    Args:
        states: of each of `blocks(model)`, its tensors by the block's names; of peft's model, at
            least those that are trained.
        count: of all blocks.
        model: of transformers, or of peft; its own values are not looked at.
        folder: a new one, or an empty one.

    Raises:
        ValueError: on every rank: the folder is there already, or a file cannot be written.
    """
    named = ((i, {hf_name(name): t for name, t in state.items()}) for i, state in states)
    if unwrapped(model) is model:
        _save_weights(named, count, model, Path(folder))
    else:
        own = {name: p.requires_grad for name, p in unwrapped(model).named_parameters()}
        trained = {n: t for _, state in named for n, t in state.items() if own.get(n)}
        _save_adapters(trained, model, Path(folder))


def _save_weights(states: States, count: int, model: Any, folder: Path) -> None:
    loader.require_loader("hf.save")
    with new_folder(folder) as beside:
        write_shards(states, count, beside, partial(loader.revert_weight_conversion, model))
        together(lambda: _describe(model, beside) if dist.get_rank() == 0 else None)


def _whole_blocks(pipe: Pipeline) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Those that this rank writes, by the model's names; all of its shards' ranks make each."""
    others = owner_names(pipe.ties)
    for index, block in (pair for module in pipe.modules for pair in module.numbered):
        inner: Any = block.hf
        state = {
            name: whole(tensor.detach())
            for name, tensor in inner.state_dict().items()
            if f"{index}.hf.{name}" not in others
        }
        if index % data_size(pipe.mesh) == data_rank(pipe.mesh):
            yield index, state


def _describe(model: Any, folder: Path) -> None:
    """What `from_pretrained` wants beside the weights."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    with written(folder):
        config.save_pretrained(folder)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        _copy_tokenizer(model, folder)


def _copy_tokenizer(model: Any, folder: Path) -> None:
    for pattern in (*_TOKENIZER, *_VOCABULARY):
        for file in Path(model.name_or_path or folder).glob(pattern):
            if file.is_file():
                shutil.copy(file, folder)


def _trained(pipe: Pipeline) -> dict[str, Tensor]:
    """What is trained of this rank's stages, whole, by the model's names."""
    trained = [(name, p) for name, p in pipe.named_parameters() if p.requires_grad]
    held = {hf_name(name): whole(p.detach()).cpu() for name, p in trained}
    return held if data_rank(pipe.mesh) == 0 else {}


def _save_adapters(trained: Mapping[str, Tensor], model: Any, folder: Path) -> None:
    with new_folder(folder) as beside:
        together(lambda: _write_adapters(trained, model, beside) if dist.get_rank() == 0 else None)


def _write_adapters(trained: Mapping[str, Tensor], model: Any, folder: Path) -> None:
    named = {f"base_model.model.{name}": tensor for name, tensor in trained.items()}
    tensors = get_peft_model_state_dict(model, state_dict=named)
    write_tensors(tensors, folder / "adapter_model.safetensors")
    with written(folder):
        model.peft_config[model.active_adapter].save_pretrained(folder)
        _copy_tokenizer(unwrapped(model), folder)
