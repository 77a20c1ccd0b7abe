"""Products with parameters of modules that no layer's rule fits, such as experts in one tensor.

While a micro-batch trains, such a module gives a `Weight` in the place of a parameter. A product
with it, or with a view of it, leaves its weight gradient on the tape, as a split layer does:

    F.linear(x, W[i])    x @ W[i]    torch.bmm(x, W)    F.grouped_mm(x, W, offs=ends)

All else is done to the parameter itself, and has its gradient in B, by autograd. A `Weight` has the
parameter's memory and its place in the graph, for code that looks no further.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeropp.runtime.compat import grouped_mm, is_compiled, transforming
from zeropp.runtime.split import Split, become, split_product
from zeropp.runtime.split_rules import CONV1D, LINEAR, SplitRule, batched_rule, rule_of
from zeropp.runtime.tape import Call, Recorder, autocast_of

_T: Any = Tensor
_VIEWS = {
    _T.__getitem__,
    _T.transpose,
    torch.transpose,
    _T.permute,
    _T.t,
    _T.T.__get__,
    _T.mT.__get__,
}
_PRODUCTS = {_T.__matmul__, _T.matmul, _T.mm, _T.bmm, torch.matmul, torch.mm, torch.bmm}
_PRODUCTS |= {F.linear, grouped_mm}


class Weight(Tensor):
    """A parameter, or a view of one; `plain` is the same as torch has it."""

    plain: Tensor
    called: str
    recorder: Recorder

    @classmethod
    def of(cls, plain: Tensor, called: str, recorder: Recorder) -> "Weight":
        """In the place of `plain`, a parameter of this name, or of its view."""
        made = plain.as_subclass(cls)
        made.plain, made.called, made.recorder = plain, called, recorder
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in _PRODUCTS and (made := _product(func, *args, **named)) is not None:
            return made
        made = func(*_plain(args), **_plain(named))
        if func in _VIEWS and type(args[0]) is cls and made._is_view():
            return cls.of(made, args[0].called, args[0].recorder)
        return made


def _plain(value: Any) -> Any:
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {name: _plain(one) for name, one in value.items()}
    return value.plain if isinstance(value, Weight) else value


def _product(
    func: Any, x: Any = None, w: Any = None, *more: Any, offs: Any = None, **others: Any
) -> Tensor | None:
    """x times a weight; None: it is no such product, or one that autograd is to see."""
    alone = all(other is None for other in (*more, *others.values()))
    if not alone or type(x) is not Tensor or type(w) is not Weight:
        return None
    rule = _rule(func, x, w.plain, offs) if _waits(w.plain, w.recorder) else None
    if rule is None:
        return None
    call = Call(w.called, rule, w.plain, None, autocast_of(x.device.type))
    made: Tensor = split_product(x, w.plain, None, call, w.recorder)
    return made


def _rule(func: Any, x: Tensor, w: Tensor, ends: Tensor | None) -> SplitRule | None:
    if w.dim() == 2 and ends is None:
        return LINEAR if func is F.linear else CONV1D
    grouped = ends is not None and x.dim() == 2
    known = grouped or (func is not F.linear and x.dim() == 3 and len(x) == len(w))
    own = None if ends is None else ends.clone()  # which may be changed
    return batched_rule(own) if known and w.dim() == 3 else None


def _waits(weight: Tensor, recorder: Recorder) -> bool:
    """Whether a gradient of `weight` can wait for W."""
    wanted = weight.requires_grad and torch.is_grad_enabled()
    return wanted and recorder.tape is not None and not transforming()


class SplitProducts(Split):
    """A module that gives `Weight`s."""

    def __getattr__(self, name: str) -> Any:
        """As of the module, but for parameters."""
        found: Any = super().__getattr__(name)
        if not _is_weight(found) or not _waits(found, self.split_recorder):
            return found
        return Weight.of(found, f"{self.split_name}.{name}", self.split_recorder)


def _is_weight(parameter: Any) -> bool:
    known = type(parameter) is nn.Parameter and parameter.dim() > 1 and parameter.is_contiguous()
    return known and parameter.requires_grad and parameter.is_floating_point()


def split_products(blocks: Iterable[tuple[int, nn.Module]], recorder: Recorder) -> None:
    """Let modules in numbered blocks give `Weight`s; but torch's own, and what is compiled."""
    for number, block in blocks:
        for name, module in block.named_modules(prefix=f"{number}"):
            known = type(module).__module__.startswith("torch.") or rule_of(module) is not None
            has = any(map(_is_weight, module.parameters(recurse=False)))
            if has and not known and not is_compiled(block):
                become(SplitProducts, module, name, recorder)
