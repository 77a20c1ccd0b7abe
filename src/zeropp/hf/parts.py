"""What a decoder consists of: its sizes, kinds of blocks, and what the planner asks of it."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from zeropp.hf.cut import unwrapped
from zeropp.hf.seam import find_layers
from zeropp.hf.weights import config_of
from zeropp.ir.model import Sizes
from zeropp.planner.decoder import DecoderShape

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def sizes(folder: str | Path) -> Sizes:
    """The sizes of the decoder in a folder.

    Raises:
        ValueError: no configuration of a model, or one that does not state them.
    """
    config = config_of(folder).get_text_config()
    layers, vocabulary = (getattr(config, n, None) for n in ("num_hidden_layers", "vocab_size"))
    if not isinstance(layers, int) or not isinstance(vocabulary, int):
        raise ValueError(f"{folder}: its config.json is of no decoder: {config.model_type}")
    return Sizes(layers + 2, vocabulary, getattr(config, "max_position_embeddings", None))


def kinds(model: nn.Module) -> tuple[str, ...]:
    """Of each of `blocks(model)`, its kind: class of the layer, its type of attention where that
    differs, and, where layers are unlike even so, how many parameters it has.
    """
    inner = unwrapped(model)
    layers = _layers(inner)
    types = getattr(inner.config.get_text_config(), "layer_types", None) or ()
    names = [type(layer).__name__ for layer in layers]
    if len(set(types)) > 1:
        names = [f"{name} {own}" for name, own in zip(names, types, strict=True)]
    unlike: dict[str, set[Any]] = defaultdict(set)
    for name, layer in zip(names, layers, strict=True):
        unlike[name].add(_signature(layer))
    named = [
        f"{name} of {_counts(layer)[0]} parameters" if len(unlike[name]) > 1 else name
        for name, layer in zip(names, layers, strict=True)
    ]
    return ("opening", *named, "closing")


def decoder_shape(model: nn.Module, blocks: Sequence[nn.Module]) -> DecoderShape:
    """What the analytic profile asks of a decoder with attention in all layers, taken as alike.

    Args:
        model: of transformers, or of peft.
        blocks: `blocks(model)`.

    Raises:
        ValueError: layers of another type, or sizes that its configuration does not state.
    """
    inner = unwrapped(model)
    config = inner.config.get_text_config()
    odd = set(getattr(config, "layer_types", None) or ()) - _ATTENTION
    stated = ("hidden_size", "num_attention_heads", "vocab_size")
    missing = [name for name in stated if not isinstance(getattr(config, name, None), int)]
    if odd or missing:
        why = f"its layers are {', '.join(sorted(odd))}" if odd else f"it states no {missing[0]}"
        raise ValueError(f"{inner.name_or_path}: {why}; measure it by `zeropp profile --model.hf`")
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    others = 2 * head * (getattr(config, "num_key_value_heads", None) or heads)
    chosen, experts, own = _experts(config)
    layers = _layers(inner)
    used = sum(_matrices(layer, chosen / experts) for layer in layers) / len(layers)
    width = max(2.0, used / hidden - 2 * head * heads - others)  # of the feed-forward part's
    gates = 2 if width > 2.5 * chosen * own else 1
    opening, *between, closing = (_counts(block) for block in blocks)
    means = [round(sum(each) / len(layers)) for each in zip(*between, strict=True)]
    parameters, trained = (
        dict(zip(("embedding", "layer", "head"), each, strict=True))
        for each in zip(opening, means, closing, strict=True)
    )
    return DecoderShape(
        config.vocab_size,
        len(layers),
        hidden,
        heads,
        head * heads,
        others,
        inner=round(width * gates / (gates + 1)),
        ffn=round(width / (gates + 1)),
        parameters=parameters,
        trained=trained,
        assumptions=(
            f"{type(inner).__name__}: {len(layers)} layers alike, {hidden} wide, attention of "
            f"{heads} heads, a feed-forward part of {round(width)} x {hidden} weights a token"
            + (f", {chosen} of {experts} experts" if experts > 1 else ""),
        ),
    )


def _layers(model: Any) -> nn.ModuleList:
    path, name = find_layers(model)
    found: nn.ModuleList = getattr(model.get_submodule(path), name)
    return found


def _signature(layer: nn.Module) -> tuple[Any, ...]:
    return tuple((n, p.shape, p.requires_grad) for n, p in layer.named_parameters())


def _counts(block: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in block.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _matrices(layer: nn.Module, share: float) -> float:
    """Weights that a token is multiplied with: of experts, which are in one tensor, a share."""
    return sum(p.numel() * (share if p.dim() > 2 else 1) for p in layer.parameters() if p.dim() > 1)


def _experts(config: Any) -> tuple[int, int, int]:
    """How many a token goes through, of how many, and how wide one is."""
    numbers = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((n for name in numbers if (n := getattr(config, name, None))), 1)
    widths = ("moe_intermediate_size", "intermediate_size")[experts == 1 :]
    own = next((n for name in widths if (n := getattr(config, name, None))), 4 * config.hidden_size)
    return (config.num_experts_per_tok if experts > 1 else 1), experts, own
