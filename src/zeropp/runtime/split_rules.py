"""Which layers are split into B and W, and how: one rule for each kind of layer.

                 F  y             B  gx      W  adds to gA     and to gc
    LINEAR       x A^T + c        gy A       gy^T x            the sum of gy
    CONV1D       x A + c          gy A^T     x^T gy            the sum of gy
    EMBEDDING    rows x of A                 gy, to rows x
    batched_rule x A              gy A^T     x^T gy            of many A, each with its own x

W adds to sums that are kept apart from the parameters, so it can run after its stage was resharded.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GradientBuffers:
    """One running sum of gradients per parameter, since they were last reduced, in the dtype of the
    reduction; None: in each parameter's own.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self._sums: dict[nn.Parameter, Tensor] = {}

    def add(self, weight: Any, gradient: Tensor) -> None:
        """Add a gradient of a parameter, or of a view of one, which others may hold too."""
        held = self.held(weight)
        if held is None:
            self._sums[weight] = gradient.to(self._dtype_for(weight), copy=True)
        else:
            held.add_(gradient)

    def add_product(self, weight: Any, left: Tensor, right: Tensor) -> None:
        """Add `left @ right`, the weight gradient of a matrix product, in place where possible."""
        held, dtype = self.held(weight), self._dtype_for(weight)
        wide = _widens(left, right, dtype)
        if held is None:
            product = torch.mm(left, right, out_dtype=dtype) if wide else left @ right
            self._sums[weight] = product.to(dtype)
        elif wide:
            torch.addmm(held, left, right, out_dtype=dtype, out=held)
        elif dtype == left.dtype:
            held.addmm_(left, right)
        else:
            held.add_(left @ right)

    def add_rows(self, parameter: nn.Parameter, rows: Tensor, values: Tensor) -> None:
        """Add `values` [n, width] to the rows [n] of a table's gradient; rows may repeat."""
        held = self._begun(parameter)
        held.index_add_(0, rows, values.to(held.dtype))

    def held(self, weight: Any) -> Tensor | None:
        """The sum of a parameter, None before its first gradient; of a view of one, its part."""
        if weight._base is None:
            return self._sums.get(weight)
        whole = self._begun(weight._base)
        start = weight.storage_offset() - weight._base.storage_offset()
        return whole.as_strided(weight.shape, weight.stride(), start)

    def _begun(self, parameter: nn.Parameter) -> Tensor:
        """Its sum, laid out as itself."""
        total = self._sums.get(parameter)
        if total is None or total.is_sparse or total.stride() != parameter.stride():
            started = self.zeros(parameter)
            total = self._sums[parameter] = started if total is None else started.add_(total)
        return total

    def zeros(self, parameter: nn.Parameter) -> Tensor:
        """A sum of nothing."""
        return torch.zeros_like(parameter, dtype=self._dtype_for(parameter))

    def _dtype_for(self, parameter: Tensor) -> torch.dtype:
        """Complex numbers are summed as they are."""
        return parameter.dtype if parameter.is_complex() else self.dtype or parameter.dtype

    @property
    def nbytes(self) -> int:
        """What the sums hold."""
        return sum(total.nbytes for total in self._sums.values())

    def take(self) -> dict[nn.Parameter, Tensor]:
        """All sums; the buffers are empty afterwards."""
        sums, self._sums = self._sums, {}
        return sums


def _widens(left: Tensor, right: Tensor, dtype: torch.dtype) -> bool:
    """Whether products are added to wider sums in one kernel, without being rounded before."""
    low = left.dtype == right.dtype and left.dtype in (torch.bfloat16, torch.float16)
    return low and dtype is torch.float32 and left.is_cuda and torch.version.cuda is not None


@dataclass(frozen=True)
class SplitRule:
    """The three parts of a layer with one weight and, perhaps, a bias added to its output.

    Any object with these three will do. A bias's gradient, the sum of gy, is made without a rule.

    Attributes:
        forward: `(x, weight, bias)` -> y.
        input_gradient: `(gy, weight)` -> gx; only where x wants a gradient.
        add_weight_gradient: `(gradients, weight, x, gy)`, adds the weight's gradient to its sum.
    """

    forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    input_gradient: Callable[[Tensor, Tensor], Tensor]
    add_weight_gradient: Callable[[GradientBuffers, Any, Tensor, Tensor], None]


def as_rows(x: Tensor) -> Tensor:
    """As a matrix, whose columns are the last dimension."""
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def _conj(x: Tensor) -> Tensor:
    return x.conj() if x.is_complex() else x


def _no_gradient(gy: Tensor, weight: Tensor) -> Tensor:
    raise AssertionError("the indices of an embedding have no gradient")


def require_right(
    name: str, rule: SplitRule, own: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> None:
    """Raise ValueError if a user's rule does not make `own` of x, as its layer does, or if its
    gradients, in double precision, are not autograd's.
    """
    given, w = _precise(x), nn.Parameter(_precise(weight))
    b = None if bias is None else _precise(bias)
    with torch.enable_grad():
        y = rule.forward(given.requires_grad_(given.is_floating_point()), w, b)
        gy = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y).to(y.dtype)
        inputs = [t for t in (given, w) if t.requires_grad]
        *wanted_x, wanted_w = torch.autograd.grad(y, inputs, gy)
    sums, found = GradientBuffers(None), {"forward": (y, own)}
    with torch.no_grad():
        rule.add_weight_gradient(sums, w, given, gy)
        found["add_weight_gradient"] = sums.take().get(w, gy.new_zeros(())), wanted_w
        for wanted in wanted_x:
            found["input_gradient"] = rule.input_gradient(gy, w), wanted
    for part, (got, wanted) in found.items():
        allowed = 1e-2 if part == "forward" else 1e-6  # the layer's own is in its dtype
        if got.shape != wanted.shape or _error(got, wanted) > allowed:
            raise ValueError(
                f"{name}: its split_rule's {part} gives other numbers than the layer by itself"
            )


def _precise(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm().clamp_min(1e-12))


LINEAR = SplitRule(
    F.linear,
    lambda gy, weight: gy @ _conj(weight),
    lambda gradients, weight, x, gy: gradients.add_product(
        weight, as_rows(gy).t(), _conj(as_rows(x))
    ),
)
CONV1D = SplitRule(
    lambda x, weight, bias: F.linear(x, weight.t(), bias),
    lambda gy, weight: gy @ _conj(weight.t()),
    lambda gradients, weight, x, gy: gradients.add_product(
        weight, _conj(as_rows(x).t()), as_rows(gy)
    ),
)


def batched_rule(ends: Tensor | None) -> SplitRule:
    """Of several matrices, each with one of a batch x, or with its own rows of x, up to `ends`."""
    grouped = partial(F.grouped_mm, offs=ends)
    times: Callable[..., Tensor] = torch.matmul if ends is None else grouped
    return SplitRule(
        lambda x, weight, _: times(x, weight),
        lambda gy, weight: times(gy, weight.mT),
        lambda gradients, weight, x, gy: gradients.add(weight, times(x.mT, gy)),
    )


@cache
def embedding_rule(padding: int | None, scale: float = 1.0, rounded: bool = False) -> SplitRule:
    """Of a table, of which the row `padding` is not trained, and whose rows are scaled, `rounded`:
    by what the scale is in their dtype.
    """

    def scaled(rows: Tensor) -> Tensor:
        own = float(torch.tensor(scale, dtype=rows.dtype)) if rounded else scale
        return rows if scale == 1.0 else rows * own

    def add_rows(gradients: GradientBuffers, weight: nn.Parameter, x: Tensor, gy: Tensor) -> None:
        rows, values = x.flatten(), scaled(as_rows(gy))
        if padding is not None:
            values = values.masked_fill((rows == padding).unsqueeze(-1), 0)
        gradients.add_rows(weight, rows, values)

    return SplitRule(lambda x, weight, _: scaled(F.embedding(x, weight)), _no_gradient, add_rows)


def rule_of(layer: nn.Module) -> SplitRule | None:
    """The rule that fits `layer`, or None if its gradients are left to autograd, in B.

    Subclasses that compute something else are left whole, and so are layers given a `forward` of
    their own, those whose weight is no parameter (made by a parametrization, say) or is frozen, so
    that they have no W. A layer of your own is split by giving it a `split_rule` attribute.
    """
    weight = layer._parameters.get("weight")
    if weight is None or not weight.requires_grad or "forward" in vars(layer):
        return None
    own: SplitRule | None = getattr(layer, "split_rule", None)
    return known_rule(layer) if own is None else own


_SCALED = re.compile(r"transformers\.models\..*ScaledWordEmbedding$")  # by `embed_scale`


def known_rule(layer: nn.Module) -> SplitRule | None:
    """Ours, of layers that are split without having been given one."""
    kind = type(layer)
    if isinstance(layer, nn.Linear):
        return LINEAR if kind.forward is nn.Linear.forward else None
    if f"{kind.__module__}.{kind.__qualname__}" == "transformers.pytorch_utils.Conv1D":
        return CONV1D
    scales = _SCALED.match(f"{kind.__module__}.{kind.__qualname__}")
    if isinstance(layer, nn.Embedding) and (scales or kind.forward is nn.Embedding.forward):
        whole = layer.max_norm is not None or layer.sparse or layer.scale_grad_by_freq
        given: Any = getattr(layer, "embed_scale", 1.0) if scales else 1.0
        scale = getattr(layer, "scalar_embed_scale", given) if scales else given  # or on meta
        rule = embedding_rule(layer.padding_idx, float(scale), isinstance(given, Tensor))
        return None if whole else rule
    return None
