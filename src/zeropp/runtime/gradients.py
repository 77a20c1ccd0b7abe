"""Sums of gradients since they were last reduced, kept apart from the parameters."""

import torch
from torch import Tensor, nn


class GradientBuffers:
    """One running sum per parameter, in the dtype in which gradients are reduced.

    The buffers do not need the parameters' data, so a W may run after its stage was resharded.

    Args:
        dtype: dtype of the sums; None: each parameter's own.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self._sums: dict[nn.Parameter, Tensor] = {}

    def add(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Add a gradient of the parameter's shape, which others may hold too."""
        held = self._sums.get(parameter)
        if held is None:
            self._sums[parameter] = gradient.to(self.dtype or parameter.dtype, copy=True)
        else:
            held.add_(gradient)

    def add_product(self, parameter: nn.Parameter, left: Tensor, right: Tensor) -> None:
        """Add `left @ right`, the weight gradient of a matrix product, in place where possible."""
        held = self._sums.get(parameter)
        if held is None:
            self._sums[parameter] = (left @ right).to(self.dtype or parameter.dtype)
        elif held.dtype == left.dtype:
            held.addmm_(left, right)
        else:
            held.add_(left @ right)

    def add_rows(self, parameter: nn.Parameter, rows: Tensor, values: Tensor) -> None:
        """Add `values` [n, width] to the rows [n] of a table's gradient; rows may repeat."""
        held = self._sums.get(parameter)
        if held is None:
            held = torch.zeros_like(parameter, dtype=self.dtype or parameter.dtype)
            self._sums[parameter] = held
        held.index_add_(0, rows, values.to(held.dtype))

    @property
    def nbytes(self) -> int:
        """What the sums hold."""
        return sum(total.nbytes for total in self._sums.values())

    def take(self) -> dict[nn.Parameter, Tensor]:
        """All sums; the buffers are empty afterwards."""
        sums, self._sums = self._sums, {}
        return sums
