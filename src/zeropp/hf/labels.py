"""The loss of a decoder as transformers counts it, and its tokens."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeropp.hf.cut import along, quiet, unwrapped
from zeropp.hf.seam import Seam, StandIn, find_layers
from zeropp.pieces import Unfinished

IGNORED = -100  # a label that does not count


def loss(model: nn.Module) -> Callable[..., Tensor]:
    """The `loss_fn` of a pipeline of `blocks(model)`: `(logits, labels)` -> sum over tokens.

    Labels [samples, tokens] are the tokens themselves, as transformers takes them: the loss shifts
    them, and leaves out those that are -100. Experts are balanced where the model's configuration
    has `output_router_logits`, each micro-batch by itself, weighted by its tokens.

    Raises:
        ValueError: transformers computes another loss for this model.
    """
    inner = unwrapped(model)
    if not _is_of_next_token(inner):
        raise ValueError(
            f"hf.loss: {type(inner).__name__} has another loss than that of the next token; give "
            "the pipeline a loss_fn of your own, a sum over tokens"
        )
    config = inner.config.get_text_config()
    coefficient = float(getattr(config, "router_aux_loss_coef", 0.0))

    def summed(logits: Tensor | Unfinished, *rest: Tensor) -> Tensor:
        *balance, labels = rest
        found = cross_entropy(logits, labels)
        for unbalanced in balance:
            found = found + coefficient * unbalanced * count_tokens(labels)
        return found

    return summed


def cross_entropy(logits: Tensor | Unfinished, labels: Tensor) -> Tensor:
    """Of logits [samples, tokens, vocabulary], made or to be made in pieces, with the labels of the
    next token; a sum, in fp32.
    """
    following = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]
    if isinstance(logits, Unfinished):
        return logits.loss(_of_tokens, following)
    return _of_tokens(logits.flatten(0, -2), following.flatten())


def _of_tokens(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")


def count_tokens(labels: Tensor) -> Tensor:
    """By how many tokens the Trainer of transformers divides: `num_items_in_batch`."""
    return (labels[..., 1:] != IGNORED).sum()


def _is_of_next_token(model: Any) -> bool:
    """Whether the model's own code, with random logits from its head, makes our loss of them."""
    shell = Seam(model).shell()[0]
    path, head = find_layers(model)[0], model.get_output_embeddings()
    whole = along(model, path, shell, keep=True)
    name = next(name for name, module in model.named_modules() if module is head)
    above, _, own = name.rpartition(".")
    for child, real in model.named_children():
        if child not in (path.split(".")[0], name.split(".")[0]):
            whole._modules[child] = StandIn(real, shell.config.hidden_size)
    whole.get_submodule(above)._modules[own] = _Head(head, head.weight.shape[0])
    whole.__dict__["config"] = quiet(model)
    labels = torch.arange(3, 13).view(2, 5) % head.weight.shape[0]
    with torch.no_grad():
        found = whole(input_ids=labels, labels=labels, use_cache=False)
    wanted = cross_entropy(found.logits, labels) / count_tokens(labels)
    return bool(torch.isclose(found.loss.float(), wanted, rtol=1e-4))


class _Head(StandIn):
    """In the place of a head: logits that mean nothing, but differ."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden [samples, tokens, ...] -> [samples, tokens, vocabulary]."""
        shape = *hidden.shape[:2], self._width
        return (torch.arange(math.prod(shape)) % 7).view(shape).to(hidden.dtype)
