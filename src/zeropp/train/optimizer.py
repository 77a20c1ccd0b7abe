"""What learns: AdamW, or Muon for the matrices inside; at which rate; and weights averaged."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from zeropp.matrices import WholeMatrices
from zeropp.train.config import OptimConfig

_LEAST = 0.1  # of the highest rate, in the end
_AVERAGE = "average"  # in a parameter's state


class Averaged(torch.optim.Optimizer):
    """Put before an optimizer among a class's bases, and a parameter's state has its average too,
    which a step moves towards the parameter by one less `decay`.
    """

    decay = 1.0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step, then move the averages."""
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter)
                if state and _AVERAGE in state:
                    state[_AVERAGE].lerp_(parameter.detach(), 1 - self.decay)
                elif state:
                    state[_AVERAGE] = parameter.detach().clone()


def make_optimizers(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig, num_blocks: int
) -> list[torch.optim.Optimizer]:
    """The optimizers of what is trained, at no rate yet; vectors (norms, biases) are not decayed.

    Muon has the matrices of all blocks but the first and the last, at rates that suit AdamW.

    Args:
        named: parameters, by their global names.
        config: of the optimizer.
        num_blocks: of the whole model.
    """
    every = {name: parameter for name, parameter in named if parameter.requires_grad}
    inner = {
        name
        for name, parameter in every.items()
        if config.kind == "muon"
        and parameter.ndim == 2
        and 0 < int(name.partition(".")[0]) < num_blocks - 1
    }
    matrices = [every[name] for name in every if name in inner]
    rest = [every[name] for name in every if name not in inner]
    fused = bool(rest) and all(parameter.is_cuda for parameter in rest)
    settings = {"lr": 0.0, "betas": (config.beta1, config.beta2), "fused": fused}
    made: list[torch.optim.Optimizer] = [
        _of(torch.optim.AdamW, config)(_groups(rest, config), **settings)
    ]
    if config.kind == "muon":
        muon = {"lr": 0.0, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
        groups = [{"params": matrices, "weight_decay": config.weight_decay}]
        made.append(_of(torch.optim.Muon, config, WholeMatrices)(groups, **muon))
    return made


def _groups(parameters: list[nn.Parameter], config: OptimConfig) -> list[dict[str, Any]]:
    decayed = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]] or groups[:1]


def _of(kind: Any, config: OptimConfig, *before: type) -> Any:
    """The class, with averages where they are asked for, under its own name."""
    bases = (*((Averaged,) if config.average else ()), *before, kind)
    return kind if bases == (kind,) else type(kind.__name__, bases, {"decay": config.average})


@contextmanager
def averaged(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[None]:
    """Parameters are their averages in the body."""
    pairs = [
        (parameter, state[_AVERAGE])
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        if _AVERAGE in state
    ]
    _swap(pairs)
    try:
        yield
    finally:
        _swap(pairs)


@torch.no_grad()
def _swap(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for one, other in pairs:
        held = one.clone()
        one.copy_(other)
        other.copy_(held)


def learning_rate(config: OptimConfig, highest: float, step: int, steps: int) -> float:
    """The rate at `step`: up linearly, then by a schedule of `steps` in all.

    `cosine` falls to a tenth, `constant` stays, and `wsd` (warm-up, stable, decay; MiniCPM,
    arXiv 2404.06395) stays until the last `decay_share` of the steps, in which it falls linearly to
    a tenth.
    """
    if step < config.warmup:
        return highest * (step + 1) / config.warmup
    if config.schedule == "constant":
        return highest
    if config.schedule == "wsd":
        left = (steps - step) / max(1.0, config.decay_share * steps)
        return highest * (_LEAST + (1 - _LEAST) * min(1.0, max(0.0, left)))
    done = (step - config.warmup) / max(1, steps - config.warmup)
    half = (1 - _LEAST) / 2
    return highest * (_LEAST + half + half * math.cos(math.pi * min(1.0, done)))
