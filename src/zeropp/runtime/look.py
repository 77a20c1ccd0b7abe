"""What a pipeline saw of its parameters when it was made, and looks at again before each step.

Stages list what they train once, split layers are told apart by what is frozen, and FSDP2 holds its
own copies; so a parameter that is replaced, frozen, unfrozen or given a hook later would be missed.
"""

from collections.abc import Sequence

import torch
from torch import nn

from zeropp.runtime.shard import require_hookless

_Seen = tuple[nn.Parameter | None, bool, torch.dtype | None, tuple[int, ...]]
_NONE: _Seen = (None, False, None, ())


class Look:
    """At the parameters of a rank, which are placed."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._seen = self._now()

    def require_unchanged(self) -> None:
        """Raise ValueError, naming it, if a parameter is not as it was."""
        now = self._now()
        for name in [*self._seen, *now]:
            before, trained, *was = self._seen.get(name, _NONE)
            after, trains, *is_now = now.get(name, _NONE)
            if after is None or before is None:
                change = "is gone" if after is None else "is new"
            elif after is not before:
                change = "was replaced"
            elif trained != trains:
                change = "was frozen" if trained else "is no longer frozen"
            elif was != is_now:
                change = "got another dtype or shape"
            else:
                require_hookless(name, after)
                continue
            raise ValueError(
                f"parameter {name} {change} since the pipeline was made; make another pipeline"
            )

    def _now(self) -> dict[str, _Seen]:
        return {
            name: (parameter, parameter.requires_grad, parameter.dtype, parameter.shape)
            for module in self._modules
            for name, parameter in module.named_parameters()
        }
