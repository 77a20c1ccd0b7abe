"""The FSDP2 seam: where a stage's parameters live, and when they are gathered and reduced."""

from collections.abc import Callable, Mapping
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, share_comm_ctx

import zeropp.runtime.compat as compat
from zeropp.runtime.lane import Lane, Wait
from zeropp.runtime.mesh import as_carried
from zeropp.runtime.split_rules import GradientBuffers


class Parameters:
    """A stage's parameters, as the executor handles them: whole, where nothing is sharded."""

    def __init__(self, module: nn.Module, precision: MixedPrecisionPolicy) -> None:
        self.gradients = GradientBuffers(precision.reduce_dtype)
        self._parameters = [p for p in module.parameters() if p.requires_grad]

    def unshard(self) -> None:
        """Start gathering."""

    def wait(self) -> None:
        """Wait until gathered."""

    def reshard(self) -> None:
        """Free what was gathered."""

    def reduce(self) -> None:
        """Reduce the sums since the last time into the parameters' `.grad`, in their dtype."""
        for parameter, total in self.gradients.take().items():
            gradient = total.to(parameter.dtype)
            held = parameter.grad
            parameter.grad = gradient if held is None else held + gradient

    def trained(self) -> list[nn.Parameter]:
        """The full parameters that want a gradient; they must have been gathered once."""
        return self._parameters

    def finish(self) -> None:
        """Make every `.grad` complete, at the end of a step."""
        self.reduce()

    def drop(self) -> None:
        """Leave nothing of a step that failed, but what is in `.grad`."""
        self.gradients.take()


class ShardedParameters(Parameters):
    """Parameters sharded over the data-parallel axes of a mesh by FSDP2.

    FSDP2 shards, gathers, casts and reduces; its forward and backward hooks never fire, because
    the pipeline calls the stage's blocks itself. Gradients are summed, not averaged: the loss is
    already divided by the token count of all ranks.
    """

    def __init__(
        self,
        module: nn.Module,
        mesh: DeviceMesh,
        precision: MixedPrecisionPolicy,
        lane: Lane,
        fill: Callable[[nn.Module], None],
    ) -> None:
        sharded = fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        sharded.set_reshard_after_backward(False)
        fill(module)
        super().__init__(module, precision)
        self._module: FSDPModule = sharded
        self._lane = lane
        self._gathering: Wait | None = None
        self._full: list[nn.Parameter] | None = None
        dtype = precision.reduce_dtype
        self._lower = [p for p in module.parameters() if dtype and p.dtype != dtype]
        self._partial: dict[nn.Parameter, Tensor] = {}
        compat.prepare_sharded(sharded)

    def unshard(self) -> None:
        """Start the all-gather."""
        self._gathering = self._lane.gather(self._module)

    def wait(self) -> None:
        """Wait for the all-gather that `unshard` started."""
        if self._gathering is not None:
            self._gathering()
            self._gathering = None

    def reshard(self) -> None:
        """Free the gathered parameters."""
        self.wait()
        self._module.reshard()

    def reduce(self) -> None:
        """Start the reduce-scatter of the sums.

        Of every trained parameter, also of one that no micro-batch of this rank has used, such as
        an idle expert's: others may have, and what is reduced has to be the same on all ranks.
        """
        sums = self.gradients.take()
        for parameter in self.trained():
            if parameter not in sums:
                sums[parameter] = self.gradients.zeros(parameter)

        def start() -> None:
            self._set_aside()
            compat.reduce_sums(self._module, sums)

        self._lane.reduce(start, self._wait_for_reductions)

    def trained(self) -> list[nn.Parameter]:
        """The full parameters that want a gradient."""
        if self._full is None:
            full = compat.unsharded_parameters(self._module)
            self._full = [p for p in full if p.requires_grad]
        return self._full

    def finish(self) -> None:
        """Wait for the step's reductions."""
        self._lane.wait()
        self._wait_for_reductions()
        self._set_aside()
        for parameter, total in self._partial.items():
            parameter.grad = total.to(parameter.dtype)
        self._partial.clear()

    def drop(self) -> None:
        """Wait for what was started, and forget it."""
        self._lane.wait()
        self._wait_for_reductions()
        self._partial.clear()
        self.gradients.take()

    def _wait_for_reductions(self) -> None:
        compat.finish_reductions(self._module)

    def _set_aside(self) -> None:
        """Sum reduced shards of parameters that are kept in a lower precision than that of the
        reduction in the latter, so that the error does not grow with the number of reductions.
        """
        if not self._lower:
            return
        self._wait_for_reductions()
        for parameter in self._lower:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                held = self._partial.get(parameter)
                gradient = gradient.to(self.gradients.dtype)
                self._partial[parameter] = gradient if held is None else held + gradient


def place_parameters(
    modules: Mapping[int, nn.Module],
    dp_mesh: DeviceMesh | None,
    precision: MixedPrecisionPolicy,
    lane: Lane,
    fill: Callable[[nn.Module], None] = lambda module: None,
) -> dict[int, Parameters]:
    """Shard the parameters of every stage over `dp_mesh`, or keep them whole without one, and then
    `fill` what is still on the meta device. Collective.

    The stages share FSDP2's streams, and with them the buffers of collectives, of which each stage
    would otherwise keep its own.
    """
    if dp_mesh is not None:
        _start_alike(modules, dp_mesh)
    placed: dict[int, Parameters] = {}
    for stage, module in modules.items():
        if dp_mesh is None:
            fill(module)
            placed[stage] = Parameters(module, precision)
        else:
            placed[stage] = ShardedParameters(module, dp_mesh, precision, lane, fill)
    share_comm_ctx([module for module in modules.values() if isinstance(module, FSDPModule)])
    return placed


@torch.no_grad()
def _start_alike(modules: Mapping[int, nn.Module], mesh: DeviceMesh) -> None:
    """Give all ranks of the mesh what the first of them has, as DDP does; what is to be loaded, and
    buffers that are not one row of elements in memory, are left alone.
    """
    for axis, module in product(range(mesh.ndim), modules.values()):
        for tensor in (*module.parameters(), *module.buffers()):
            plain = tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_meta)
            if plain and tensor.is_contiguous():
                dist.broadcast(as_carried(tensor), group=mesh.get_group(axis), group_src=0)


def require_trainable(module: nn.Module, *, sharded: bool) -> None:
    """Raise ValueError, naming it, for a parameter that has hooks, which would never be called with
    its whole gradient, whose gradients underflow, or that FSDP2 does not shard with the others.
    """
    every = list(module.named_parameters())
    trained = [(name, parameter) for name, parameter in every if parameter.requires_grad]
    for name, parameter in trained:
        require_hookless(name, parameter)
        if parameter.dtype is torch.float16:
            raise ValueError(
                f"parameter {name} is of float16, in which the gradients of a mean over many "
                "tokens underflow; use bfloat16 or float32"
            )
        if sharded and parameter.dtype != trained[0][1].dtype:
            raise ValueError(
                f"parameter {name} is of {parameter.dtype}, {trained[0][0]} of "
                f"{trained[0][1].dtype}; the sharded parameters of a stage must be of one dtype"
            )
    for name, parameter in every if sharded else ():
        empty = parameter.requires_grad and not parameter.numel()
        if parameter.dim() == 0 or empty or not parameter.is_contiguous():
            raise ValueError(
                f"parameter {name} of shape {list(parameter.shape)} is a scalar, empty or not "
                "contiguous, which cannot be sharded; give it a shape such as [1], contiguous()"
            )


def require_hookless(name: str, parameter: nn.Parameter) -> None:
    """Raise ValueError for hooks, which sums over micro-batches do not call."""
    if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
        raise ValueError(
            f"parameter {name} has a hook; gradients are summed over micro-batches before they "
            "are its, so change .grad after the step instead"
        )


def require_followed(precision: MixedPrecisionPolicy) -> None:
    """Raise ValueError for what of FSDP2's policy a pipeline does not do."""
    if precision.output_dtype is not None or not precision.cast_forward_inputs:
        raise ValueError(
            "precision: output_dtype and cast_forward_inputs=False are not followed; cast inside "
            "of a block"
        )
    if torch.float16 in (precision.param_dtype, precision.reduce_dtype):
        raise ValueError(
            "precision: the gradients of a mean over many tokens underflow in float16; use bfloat16"
        )


def needs_sharding(dp_size: int, precision: MixedPrecisionPolicy) -> bool:
    """Whether FSDP2 has something to do: data parallelism, or a compute dtype to cast to."""
    return dp_size > 1 or precision.param_dtype is not None


def compute_dtype(precision: MixedPrecisionPolicy, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a floating-point tensor of `dtype` enters a block."""
    cast = precision.param_dtype is not None and dtype.is_floating_point
    return precision.param_dtype if cast and precision.param_dtype else dtype
