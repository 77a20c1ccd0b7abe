"""Weights from a folder as transformers saves it: safetensors, read in slices, by its own loader.

A rank reads of its own blocks alone, and of these its own shards; renamed and fused weights are
transformers' business.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

import zeropp.hf.loader as loader
from zeropp.hf.adapters import copied, fresh_adapters, unadapted
from zeropp.hf.cut import unwrapped
from zeropp.hf.shards import INDEX, ONE
from zeropp.runtime.ties import local_part


def config_of(folder: str | Path) -> Any:
    """The configuration in a folder's `config.json`.

    Raises:
        ValueError: no such folder, or no configuration that transformers knows.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder}: there is no config.json; name a folder that holds a model")
    with _explained(folder):
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)


def on_meta(folder: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The `...ForCausalLM` of a folder's `config.json`, its parameters of `dtype` on the meta
    device, in training mode.

    Raises:
        ValueError: no such folder, or no configuration of a decoder that transformers knows.
    """
    config = config_of(folder)
    with _explained(folder), torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    made: PreTrainedModel = model.train()
    if (Path(folder) / "generation_config.json").is_file():
        with _explained(folder):
            made.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return made


@contextmanager
def _explained(folder: str | Path) -> Iterator[None]:
    """What transformers raises of a folder as one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        line = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{folder}: transformers makes no decoder of its config.json: {line}"
        ) from error


def load(folder: str | Path, model: nn.Module, seed: int = 0) -> Callable[[int, nn.Module], None]:
    """`load` for a pipeline of `blocks(model)`, with the weights of a folder.

    Adapters of LoRA, which are not in it, start as peft starts them.

    Args:
        folder: with `model.safetensors`, or its parts and their index.
        model: on the meta device, not yet in a pipeline.
        seed: of the adapters' random numbers.

    Raises:
        ValueError: of the folder: no safetensors, a file that is missing or cut short; from the
            pipeline, of the weights: one that is missing, or of another shape.
    """
    loader.require_loader("hf.load")
    slices = dict(_slices_in(Path(folder)))
    return partial(_fill, _Folder(Path(folder), unadapted(unwrapped(model)), slices), seed)


def check(folder: str | Path, model: nn.Module) -> None:
    """Raise ValueError, as `load` and the pipeline would, for weights that do not fit the model.

    Of the files only their headers are read.
    """
    loader.require_loader("hf.check")
    slices = {name: _Promised(one) for name, one in _slices_in(Path(folder))}
    plain = unadapted(unwrapped(model))
    _converted(_Folder(Path(folder), plain, slices), plain)


class _Promised:
    """What a slice would give, on the meta device."""

    def __init__(self, given: Any) -> None:
        self._shape = given.get_shape()

    def __getitem__(self, index: Any) -> Tensor:
        return torch.empty(self._shape, device="meta")[index]


class _Folder:
    """The tensors in a folder, and what a model calls them."""

    def __init__(self, path: Path, model: PreTrainedModel, slices: Mapping[str, Any]) -> None:
        self.path, self.model, self.slices = path, model, slices
        mapping = loader.get_model_conversion_mapping(model)
        self.mapping = mapping
        renamings = [one for one in mapping if isinstance(one, loader.WeightRenaming)]
        converters = [one for one in mapping if isinstance(one, loader.WeightConverter)]
        whole, prefix = model.state_dict(), model.base_model_prefix
        self.source = {
            loader.rename_source_key(name, renamings, converters, prefix, whole)[0]: name
            for name in self.slices
        }
        places: dict[nn.Parameter, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            places.setdefault(parameter, []).append(name)
        self._also = {name: names for names in places.values() for name in names}

    def tied(self, name: str, like: Tensor) -> Tensor:
        """This rank's part of a parameter that is in the files under another of its names.

        Raises:
            ValueError: it is there under none.
        """
        for other in self._also.get(name, ()):
            if other in self.source:
                return _part(self.slices[self.source[other]], like)
        raise ValueError(
            f"{self.path}: it holds no {name} {list(like.shape)}; take the weights of a "
            f"{type(self.model).__name__} of this configuration"
        )


def _slices_in(path: Path) -> Iterator[tuple[str, Any]]:
    """By name, read when they are indexed; raise ValueError, naming the file, for what is not there
    or not whole.
    """
    index = path / INDEX
    if index.is_file():
        try:
            files: Mapping[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{index}: it is no index of safetensors; copy it again") from error
    elif (path / ONE).is_file():
        files = dict.fromkeys(_opened(path / ONE).keys(), ONE)
    else:
        pickled = sorted(p.name for p in path.glob("*.bin")) or sorted(
            p.name for p in path.glob("*.pt*")
        )
        instead = f" but {pickled[0]}, a pickle, which can run any code" if pickled else ""
        raise ValueError(
            f"{path}: it holds no {ONE}{instead}; save the model by transformers' save_pretrained"
        )
    for file in sorted(set(files.values())):
        opened = _opened(path / file)
        there = frozenset(opened.keys())
        for name, own in files.items():
            if own == file:
                if name not in there:
                    raise ValueError(f"{path / file}: it lacks {name}; copy it again")
                yield name, opened.get_slice(name)


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise ValueError(f"{file}: it is missing, though the index names it; copy it again")
    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        raise ValueError(
            f"{file}: it is cut short or no safetensors ({error}); copy it again"
        ) from error


def _part(given: Any, like: Tensor) -> Tensor:
    """Of a tensor or a slice of a file, what this rank holds of a parameter."""
    if isinstance(like, DTensor):
        given = loader.DtensorShardOperation(like).shard_tensor(given)
    part: Tensor = given[...]
    return part


def _fill(folder: _Folder, seed: int, index: int, block: Any) -> None:
    """Fill a block, whose parameters may be sharded; frozen ones stay frozen."""
    part = unadapted(block.hf)
    _make_buffers(folder.model, part)
    made = _converted(folder, part)
    for name, tensor in part.state_dict(keep_vars=True).items():
        local_part(tensor).copy_(local_part(made[name]))
    for parameter, fresh in fresh_adapters(block.hf, seed):
        local_part(parameter).copy_(_part(fresh, parameter))


def _converted(folder: _Folder, part: nn.Module) -> dict[str, Tensor]:
    """What the folder holds for a part of the model, by its names; raise ValueError if it does not
    fit.
    """
    tensors: dict[str, Tensor] = part.state_dict(keep_vars=True)
    shell = copied(part, lambda tensor: tensor)
    device = str(next(iter(tensors.values())).device)
    mapping: Any = copy.deepcopy(folder.mapping)
    config = loader.LoadStateDictConfig(weight_mapping=mapping, device_map={"": device})
    with _silent():
        found, _ = loader.convert_and_load_state_dict_in_model(shell, dict(folder.slices), config)
    for name, there, wanted in sorted(found.mismatched_keys):
        raise ValueError(f"{folder.path}: {name} is {list(there)}, wanted {list(wanted)}")
    for name, why in found.conversion_errors.items():
        raise ValueError(f"{folder.path}: {name} cannot be made of what is there: {why}")
    made: dict[str, Tensor] = shell.state_dict(keep_vars=True)
    missing = (name for name in tensors if name in found.missing_keys)
    return made | {name: folder.tied(name, tensors[name]) for name in missing}


def _make_buffers(model: Any, part: nn.Module) -> None:
    """What is saved nowhere: transformers makes it where it would initialise the weights."""
    shell = copied(part, lambda own: torch.empty(own.shape, dtype=own.dtype, device="meta"))
    with torch.random.fork_rng([]):
        for module in shell.modules():
            if module._buffers:
                model._init_weights(module)
    made = dict(shell.named_buffers())
    for name, buffer in part.named_buffers():
        buffer.copy_(made[name])


@contextmanager
def _silent() -> Iterator[None]:
    """Without a progress bar for every block."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
