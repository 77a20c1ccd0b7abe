"""Folders of a small Llama, in several files, that something is wrong with."""

import json
from pathlib import Path
from typing import Any


def _missing(folder: Path) -> str:
    """A part of the weights."""
    first = sorted(folder.glob("*.safetensors"))[1]
    first.unlink()
    return f"{first.name}: it is missing, though the index names it"


def _cut_short(folder: Path) -> str:
    first = sorted(folder.glob("*.safetensors"))[1]
    first.write_bytes(first.read_bytes()[:-100])
    return f"{first.name}: it is cut short or no safetensors"


def _pickled(folder: Path) -> str:
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    return "it holds no model.safetensors but pytorch_model.bin, a pickle"


def _changed(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | values), "utf-8")


def _of_other_shapes(folder: Path) -> str:
    _changed(folder, intermediate_size=48)
    return "model.layers.0.mlp.down_proj.weight is [32, 64], wanted [32, 48]"


def _of_more_layers(folder: Path) -> str:
    _changed(folder, num_hidden_layers=5, layer_types=None)
    return "it holds no model.layers.4"


def _of_another_architecture(folder: Path) -> str:
    _changed(folder, model_type="gpt_neox")
    return "it holds no gpt_neox"


def _of_nothing_known(folder: Path) -> str:
    _changed(folder, model_type="perceptron")
    return "transformers makes no decoder of its config.json"


def _without_configuration(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "there is no config.json"


def _of_a_bad_index(folder: Path) -> str:
    (folder / "model.safetensors.index.json").write_text("{}", "utf-8")
    return "it is no index of safetensors"


BAD = [
    *(_missing, _cut_short, _pickled, _of_other_shapes, _of_more_layers),
    *(_of_another_architecture, _of_nothing_known, _without_configuration, _of_a_bad_index),
]
