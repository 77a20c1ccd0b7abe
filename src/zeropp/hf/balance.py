"""The loss by which transformers balances experts, summed over layers that lie on several stages.

It multiplies, for each expert, the share of tokens that chose it with its mean probability, both
over all layers of a micro-batch. So both are counted layer by layer and ride along with the hidden
state (Fedus et al., Switch Transformers, eq. 4; `load_balancing_loss_func` of transformers).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zeropp.hf.seam import NotCutError


@dataclass(frozen=True)
class Balance:
    """Of a model's experts.

    Attributes:
        router: class of the modules that choose experts.
        output: which of their outputs are the logits.
        experts: how many there are to choose from.
        chosen: how many each token chooses.
        layers: how many layers have a router.
    """

    router: type[nn.Module]
    output: int
    experts: int
    chosen: int
    layers: int

    @classmethod
    def of(cls, model: Any, layers: nn.ModuleList) -> "Balance | None":
        """What balances the model's experts, if its configuration asks for that."""
        config = model.config.get_text_config()
        if not getattr(config, "output_router_logits", False):
            return None
        named = getattr(type(model), "_can_record_outputs", None) or {}
        recorded = named.get("router_logits")
        router = getattr(recorded, "target_class", recorded)
        if not isinstance(router, type) or not hasattr(model, "num_experts"):
            raise NotCutError(
                "output_router_logits is set, and where its routers are is not known; unset it, "
                "or balance by a loss of your own"
            )
        output = getattr(recorded, "index", 0)
        number, chosen = int(model.num_experts), int(model.num_experts_per_tok)
        found = cls(router, output, number, chosen, layers=0)
        return replace(found, layers=sum(map(found.routes, layers)))

    def routes(self, layer: nn.Module) -> bool:
        """Whether the layer has a router."""
        return any(isinstance(module, self.router) for module in layer.modules())

    def nothing(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Before any layer: how often each expert was chosen, and the sum of its probabilities."""
        zeros = torch.zeros(self.experts, device=hidden.device)
        return zeros, zeros.clone()

    @contextmanager
    def watching(self, layer: nn.Module) -> Iterator[list[Tensor]]:
        """The logits of the layer's routers meanwhile."""
        seen: list[Tensor] = []
        hooks = [
            module.register_forward_hook(lambda _m, _i, out: seen.append(self._logits(out)))
            for module in layer.modules()
            if isinstance(module, self.router)
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def _logits(self, output: Any) -> Tensor:
        logits: Tensor = output[self.output] if isinstance(output, tuple) else output
        return logits.reshape(-1, self.experts)

    def added(self, counted: Sequence[Tensor], logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """With those of one layer."""
        counts, sums = counted
        for one in logits:
            odds = torch.softmax(one, dim=-1)
            chosen = odds.topk(self.chosen, dim=-1).indices.flatten()
            counts = counts + torch.bincount(chosen, minlength=self.experts).to(counts.dtype)
            sums = sums + odds.float().sum(0)
        return counts, sums

    def loss(self, hidden: Tensor, counts: Tensor, sums: Tensor) -> Tensor:
        """Scalar, fp32."""
        rows = hidden.shape[0] * hidden.shape[1] * self.layers
        return (counts / rows * (sums / rows)).sum().float() * self.experts
