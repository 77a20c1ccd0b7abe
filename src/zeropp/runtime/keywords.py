"""What blocks are given by name: constants of a step, parts of its batch, and what is made of them.

A block asks for it by a keyword-only argument of its `forward`, on whatever stage it is.

    constants   tensors that no micro-batch changes; pipeline rank 0 gives them, and they are sent
                once a step to the other ranks
    the batch's tensors [samples, ...], such as positions, that are cut with it; every rank has them
    derived     objects of any kind, such as a mask for attention, that a function makes of these,
                on each rank that needs one, once for each micro-batch

None of them travels from stage to stage, and none gets a gradient.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.runtime.compat import end_group, host_group
from zeropp.runtime.inputs import Microbatch
from zeropp.runtime.mesh import PP, as_carried, own_pipeline
from zeropp.runtime.shard import compute_dtype


class Whole(NamedTuple):
    """A constant that is meant to be one, though it has as many rows as the batch has samples."""

    tensor: Tensor


Constants = Mapping[str, Tensor | Whole]
Derived = Mapping[str, Callable[..., Any]]
Seeding = Callable[[int, tuple[Any, ...]], AbstractContextManager[None]]
_FIRST = -2  # number of the first that is derived; below it those of no block


class Named(Mapping[str, Any]):
    """What blocks may ask for with one micro-batch: tensors, and, if asked for, what functions make
    of them, whose arguments are such names; `seeding`, by number, lets all ranks draw the same.
    """

    def __init__(self, tensors: Mapping[str, Tensor], derived: Derived, seeding: Seeding) -> None:
        self.tensors, self._derived, self._seeding = tensors, derived, seeding
        self._made: dict[str, Any] = dict(tensors)

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            function, number = self._derived[name], sorted(self._derived).index(name)
            asked = {one: self[one] for one in inspect.signature(function).parameters}
            with self._seeding(_FIRST - number, tuple(self.tensors.values())):
                self._made[name] = function(**asked)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors.keys() | self._derived.keys())

    def __len__(self) -> int:
        return len(self.tensors.keys() | self._derived.keys())


def asked_by(block: nn.Module) -> dict[str, bool]:
    """What `block` asks for by name, and whether it has to have each."""
    parameters = inspect.signature(type(block).forward).parameters.values()
    return {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}


class Keywords:
    """Finds what blocks are given by name, floats in the dtype that they compute in;
    constants are those of a pipeline's first rank. ValueError: what is derived no block asks for.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        derived: Derived,
        mesh: DeviceMesh,
        device: torch.device,
        precision: MixedPrecisionPolicy,
    ) -> None:
        asked = [asked_by(block) for block in blocks]
        names = {name for own in asked for name in own}
        for name in derived.keys() - names:
            raise ValueError(f"derived: no block asks for {name} (a keyword-only argument)")
        required = {name for own in asked for name, must in own.items() if must}
        arguments = {
            a for function in derived.values() for a in inspect.signature(function).parameters
        }
        self._given = (names | arguments) - derived.keys()
        self._required = (required | arguments) - derived.keys()
        self._derived, self._device, self._precision = derived, device, precision
        self._mesh, self._leads = mesh, mesh.get_local_rank(PP) == 0
        self._hosts: dist.ProcessGroup | None = None

    def require_own(self, constants: Constants | None, microbatches: Sequence[Microbatch]) -> None:
        """Raise ValueError if what is given by name is not what the blocks ask for.

        Of constants the pipeline's first rank alone decides.
        """
        cut = set(microbatches[0].keywords)
        given = set(constants or {}) if self._leads else self._required - cut
        if given & cut or (given | cut) - self._given or self._required - given - cut:
            wanted, got = (", ".join(sorted(n)) or "none" for n in (self._given, given | cut))
            raise ValueError(
                f"constants: the blocks ask for {wanted} (keyword-only arguments of forward), "
                f"the step was given {got}; each once, as a constant or in the batch"
            )
        samples = sum(m.inputs[0].shape[0] for m in microbatches)
        for name, constant in (constants or {}).items() if self._leads else ():
            rows = () if isinstance(constant, Whole) else constant.shape[:1]
            if len(microbatches) > 1 and rows == (samples,):
                raise ValueError(
                    f"constants: {name} has as many rows as the batch has samples, {samples}; to "
                    f"be cut with it, pass it as (inputs, targets, {{'{name}': ...}}), to be given "
                    "whole to every micro-batch, as zeropp.Whole(...)"
                )

    def share(self, constants: Constants | None) -> dict[str, Tensor]:
        """What the first rank gave, on every rank; no communication where no block asks."""
        if not self._given:
            return {}
        given = {n: c.tensor if isinstance(c, Whole) else c for n, c in (constants or {}).items()}
        header: list[Any] = [{name: (t.shape, t.dtype) for name, t in given.items()}]
        self._hosts = self._hosts or host_group(own_pipeline(self._mesh), "constants", self._device)
        dist.broadcast_object_list(
            header, group=self._hosts or self._mesh.get_group(PP), group_src=0
        )
        return {name: self._shared(given.get(name), *spec) for name, spec in header[0].items()}

    def _shared(self, given: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if self._leads and given is not None:
            tensor = given.detach().to(self._device, non_blocking=True).contiguous()
        else:
            tensor = torch.empty(shape, dtype=dtype, device=self._device)
        dist.broadcast(as_carried(tensor), group=self._mesh.get_group(PP), group_src=0)
        return self._cast(tensor)

    def named(
        self, microbatch: Microbatch, constants: Mapping[str, Tensor], seeding: Seeding
    ) -> Named:
        """What blocks may ask for with a micro-batch."""
        own = {
            name: self._cast(tensor.to(self._device, non_blocking=True))
            for name, tensor in microbatch.keywords.items()
        }
        return Named({**constants, **own}, self._derived, seeding)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(compute_dtype(self._precision, tensor.dtype))

    def close(self) -> None:
        """Destroy the group of the hosts."""
        end_group(self._hosts)
        self._hosts = None
