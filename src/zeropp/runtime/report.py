"""Where each parameter gets its gradient: in W, in B or never, and why."""

from dataclasses import dataclass

from torch import nn

from zeropp.runtime.split_rules import rule_of


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
    if type(owner).__module__.startswith("torch.") or parameter.dim() < 2:
        return ParameterSplit(name, "B", f"{kind} is left to autograd")
    when = "W" if parameter.dim() == 3 else "B"  # experts are there for nothing but products
    return ParameterSplit(name, when, "in products without a bias W, in all other uses B")
