"""LoRA's adapters, by peft: put into a model on the meta device, left out of it again, started.

A layer that is adapted holds what it was before, frozen, and two small matrices, which are trained.
"""

import copy
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from zeropp.hf.seam import with_children


def adapt(model: nn.Module, rank: int, alpha: int, targets: Sequence[str] = ()) -> nn.Module:
    """The model in peft's, with adapters on the meta device; all else is frozen.

    Args:
        model: a decoder of transformers.
        rank: of the adapters' matrices.
        alpha: their effect is multiplied by alpha / rank.
        targets: names of the layers that get one, or `all-linear`; none: those that peft knows for
            this type of model.

    Raises:
        ValueError: peft knows none, or there are no layers of such a name.
    """
    names: Any = "all-linear" if list(targets) == ["all-linear"] else list(targets) or None
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=names, task_type=peft.TaskType.CAUSAL_LM
    )
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what peft sets right by itself
            adapted: nn.Module = peft.get_peft_model(model, config, low_cpu_mem_usage=True)
    except ValueError as error:
        line = str(error).split("\n")[0]
        raise ValueError(f"targets: {line}; name layers, or all-linear") from error
    return adapted


def unadapted(module: Any) -> Any:
    """A copy without adapters, which shares all parameters that it has."""
    inner = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    children = {
        name: unadapted(child) for name, child in inner._modules.items() if child is not None
    }
    return with_children(inner, children) if children else inner


def fresh_adapters(part: nn.Module, seed: int) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """The adapters' parameters, and what peft starts them with, whole, on the CPU.

    That depends on the seed and on an adapter's name in the model, and not on who holds it.
    """
    for path, module in part.named_modules():
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            twin = copied(layer, _on_the_cpu)
            with torch.random.fork_rng([]):
                torch.manual_seed(random.Random(f"adapter {seed} {path}").getrandbits(32))
                for name in layer.active_adapters:
                    twin.reset_lora_parameters(name, init_lora_weights=True)
            fresh = dict(twin.named_parameters())
            for name, parameter in layer.named_parameters():
                if not name.startswith("base_layer."):
                    yield parameter, fresh[name].detach()


def _on_the_cpu(parameter: nn.Parameter) -> Tensor:
    """Room for what is trained, and none for what is frozen."""
    device = "cpu" if parameter.requires_grad else "meta"
    return torch.empty(parameter.shape, dtype=parameter.dtype, device=device)


def copied(part: nn.Module, parameter: Callable[[nn.Parameter], Tensor]) -> Any:
    """The same modules, with the same buffers, and something for each parameter."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in part.buffers()}
    for own in part.parameters():
        memo[id(own)] = nn.Parameter(parameter(own), own.requires_grad)
    return copy.deepcopy(part, memo)
