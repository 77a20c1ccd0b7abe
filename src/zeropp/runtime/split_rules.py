"""Which layers are split into B and W, and how: one rule for each kind of layer."""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from zeropp.runtime.gradients import GradientBuffers


class SplitRule(Protocol):
    """The three parts of a layer with one weight and, perhaps, a bias added to its output."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output."""

    def input_gradient(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        """B's part."""

    def add_weight_gradient(
        self, gradients: GradientBuffers, weight: nn.Parameter, x: Tensor, grad_output: Tensor
    ) -> None:
        """W's part."""


@dataclass(frozen=True)
class LinearRule:
    """y = x A^T + c, as `nn.Linear`."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, weight, bias)

    def input_gradient(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        """gy A."""
        return grad_output @ weight

    def add_weight_gradient(
        self, gradients: GradientBuffers, weight: nn.Parameter, x: Tensor, grad_output: Tensor
    ) -> None:
        """Add gy^T x."""
        gradients.add_product(weight, grad_output.flatten(0, -2).t(), x.flatten(0, -2))


@dataclass(frozen=True)
class TransposedRule:
    """y = x A + c, as the `Conv1D` of GPT-2 in transformers."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, weight.t(), bias)

    def input_gradient(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        """gy A^T."""
        return grad_output @ weight.t()

    def add_weight_gradient(
        self, gradients: GradientBuffers, weight: nn.Parameter, x: Tensor, grad_output: Tensor
    ) -> None:
        """Add x^T gy."""
        gradients.add_product(weight, x.flatten(0, -2).t(), grad_output.flatten(0, -2))


@dataclass(frozen=True)
class EmbeddingRule:
    """Rows of a table, as `nn.Embedding`; its input never wants a gradient."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Indices [...] -> [..., width]."""
        return F.embedding(x, weight)

    def input_gradient(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        """Never asked for.

        Raises:
            ValueError: indices have no gradient.
        """
        raise ValueError("the indices of an embedding have no gradient")

    def add_weight_gradient(
        self, gradients: GradientBuffers, weight: nn.Parameter, x: Tensor, grad_output: Tensor
    ) -> None:
        """Add gy to the rows that were looked up."""
        gradients.add_rows(weight, x.flatten(), grad_output.flatten(0, -2))


def rule_of(layer: nn.Module) -> SplitRule | None:
    """The rule that fits `layer`, or None if its gradients are left to autograd, in B.

    Subclasses are left whole, and layers given a `forward` of their own, since they may compute
    something else; so are layers whose weight is frozen, which have no W. A layer of your own is
    split by giving it a `split_rule` attribute.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
        return None
    if "forward" in vars(layer):
        return None
    own: SplitRule | None = getattr(layer, "split_rule", None)
    if own is not None:
        return own
    kind = type(layer)
    if kind is nn.Linear:
        return LinearRule()
    if kind is nn.Embedding:
        plain = layer.max_norm is None and layer.padding_idx is None
        special = layer.sparse or layer.scale_grad_by_freq
        return EmbeddingRule() if plain and not special else None
    if f"{kind.__module__}.{kind.__qualname__}" == "transformers.pytorch_utils.Conv1D":
        return TransposedRule()
    return None


@dataclass(frozen=True)
class ParameterSplit:
    """Where one parameter gets its gradient.

    Attributes:
        name: as in `named_parameters`.
        when: `W`, `B` or `never`.
        reason: why.
    """

    name: str
    when: str
    reason: str


def split_report(module: nn.Module) -> list[ParameterSplit]:
    """For every parameter of `module`, whether its gradient is made in W, in B or never."""
    owners: dict[nn.Parameter, nn.Module] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            if rule_of(layer) is not None or parameter not in owners:
                owners[parameter] = layer
    return [_describe(name, p, owners[p]) for name, p in module.named_parameters()]


def _describe(name: str, parameter: nn.Parameter, owner: nn.Module) -> ParameterSplit:
    kind = type(owner).__name__
    if not parameter.requires_grad:
        return ParameterSplit(name, "never", "frozen")
    if rule_of(owner) is not None:
        return ParameterSplit(name, "W", f"{kind} is split")
    return ParameterSplit(name, "B", f"{kind} is left to autograd")
