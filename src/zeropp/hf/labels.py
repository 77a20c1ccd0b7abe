"""The loss of a decoder as transformers counts it, and its tokens."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from zeropp.hf.cut import unwrapped

IGNORED = -100  # a label that does not count


def loss(model: nn.Module) -> Callable[..., Tensor]:
    """The `loss_fn` of a pipeline of `blocks(model)`: `(logits, labels)` -> sum over tokens.

    Labels [samples, tokens] are the tokens themselves, as transformers takes them: the loss shifts
    them, and leaves out those that are -100. Experts are balanced where the model's configuration
    has `output_router_logits`, each micro-batch by itself, weighted by its tokens.
    """
    config = unwrapped(model).config.get_text_config()
    coefficient = float(getattr(config, "router_aux_loss_coef", 0.0))

    def summed(logits: Tensor, *rest: Tensor) -> Tensor:
        *balance, labels = rest
        found = cross_entropy(logits, labels)
        for unbalanced in balance:
            found = found + coefficient * unbalanced * count_tokens(labels)
        return found

    return summed


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of logits [samples, tokens, vocabulary] with the labels of the next token; a sum, in fp32."""
    following = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]
    return F.cross_entropy(
        logits.float().flatten(0, -2), following.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def count_tokens(labels: Tensor) -> Tensor:
    """By how many tokens the Trainer of transformers divides: `num_items_in_batch`."""
    return (labels[..., 1:] != IGNORED).sum()
