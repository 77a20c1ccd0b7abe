"""One block as a stage calls it: what it asks for, its random numbers, and how it is run again.

    none        B finds all that autograd saves
    selective   B finds the outputs of matrix products and attention, and runs the rest again
    full        B finds the block's inputs, and runs the block again

A block is run again once for each micro-batch, with the same random numbers and with its buffers as
they were, which it then leaves as they are; what W needs is kept from then on.
"""

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from zeropp.ir.program import Recompute
from zeropp.runtime.compat import differentiating, is_compiled
from zeropp.runtime.keywords import asked_by
from zeropp.runtime.shard import compute_dtype
from zeropp.runtime.split import Called, tapped
from zeropp.runtime.tape import Recorder, autocast_of

Tensors = tuple[Tensor, ...]
_Splitting = Callable[[], AbstractContextManager[object]]
_uncompiled: _Splitting = partial(torch.compiler.set_stance, "force_eager")

_KEPT = [  # by selective recomputation
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten._grouped_mm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]


class Draw(NamedTuple):
    """What the random numbers of a forward depend on: neither on where nor on when it runs."""

    seed: int
    step: int
    microbatch: int  # its number in the whole batch, over all data-parallel ranks

    @contextmanager
    def seeding(self, index: int, inputs: tuple[Any, ...]) -> Iterator[None]:
        """Seeds the generators of the CPU and of the inputs' device meanwhile, for a block."""
        packed = struct.pack("<4q", *self, index)
        seed = int.from_bytes(blake2b(packed, digest_size=7).digest(), "little")
        generators = [torch.default_generator]
        for device in {t.get_device() for t in inputs if isinstance(t, Tensor) and t.is_cuda}:
            generators.append(torch.cuda.default_generators[device])
        states = [(generator, generator.get_state()) for generator in generators]
        for generator in generators:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


class _Trial(TorchDispatchMode):
    """Notes what recomputation would keep, with copies, and whether gradients are made inside."""

    def __init__(self, recompute: Recompute) -> None:
        super().__init__()
        self._kept = _KEPT if recompute is Recompute.SELECTIVE else ()
        self.made: list[tuple[Tensor, Tensor]] = []
        self.differentiates = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.differentiates |= differentiating()
        if func in self._kept:
            first = out[0] if isinstance(out, tuple) else out
            self.made.append((first.detach(), first.detach().clone()))
        return out


class Block:
    """A block of a stage, by its number in the model; `shares`: a parameter, with another one."""

    def __init__(
        self,
        index: int,
        module: nn.Module,
        recorder: Recorder | None = None,
        recompute: Recompute = Recompute.NONE,
        shares: bool = False,
    ) -> None:
        self.index, self.module, self._shares = index, module, shares
        self._names = frozenset(asked_by(module))
        self._recorder, self._recompute = recorder or Recorder(), recompute
        self._tried = not shares and recompute is not Recompute.SELECTIVE
        self._in_place: bool | None = None  # whether it changes its inputs; None: not known yet
        self._buffers = [(m, name) for m in module.modules() for name in m._buffers]
        self._changing: list[_Place] | None = None  # the buffers that it changes
        self._written = set[_Place]()  # those that it changes in place, where it runs once
        self._compiled = is_compiled(module)
        self._calls: dict[Any, tuple[Called, ...] | None] = {}  # of forwards, by what went in

    def __call__(self, inputs: Tensors, named: Mapping[str, Any], draw: Draw | None) -> Any:
        """What the block makes of tensors, and of what it asks for by name.

        Args:
            draw: seeds the generators meanwhile; None: they go on, as in evaluation.
        """
        asked = {name: named[name] for name in self._names if name in named}
        if draw is not None and not self._tried:
            self._try(inputs, asked)
        splitting = self._splitting(inputs, asked)
        if draw is None or self._recompute is Recompute.NONE:
            with nullcontext() if draw is None else self._apart():
                return self._run(inputs, asked, draw, splitting)
        selective = partial(create_selective_checkpoint_contexts, _KEPT)
        contexts = selective if self._recompute is Recompute.SELECTIVE else noop_context_fn
        return checkpoint(
            self._twice(asked, draw, splitting),
            *inputs,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=contexts,
        )

    def _run(
        self,
        inputs: Tensors,
        asked: dict[str, Any],
        draw: Draw | None,
        splitting: _Splitting = nullcontext,
    ) -> Any:
        recorder = self._recorder
        outer, recorder.inside = recorder.inside, True
        try:
            seeding = nullcontext() if draw is None else draw.seeding(self.index, inputs)
            with seeding, splitting():
                return self.module(*inputs, **asked)
        finally:
            recorder.inside = outer

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """What it writes into buffers goes into copies: autograd may have saved them, for a B that
        comes after the next F.
        """
        for (module, name), copy in () if self._compiled else _cloned(self._written):
            module._buffers[name] = copy
        seen = {place: _seen(place) for place in self._buffers}
        yield
        for place, (was, version) in seen.items():
            if _seen(place)[0] == was and _seen(place)[1] != version:
                self._written.add(place)

    def _splitting(self, inputs: Tensors, asked: dict[str, Any]) -> _Splitting:
        """How a compiled block runs: split at the calls that are known for such inputs."""
        if not self._compiled or self._recorder.tape is None:
            return nullcontext
        tensors = [t for t in (*inputs, *asked.values()) if isinstance(t, Tensor)]
        given = ((t.shape, t.dtype, t.requires_grad) for t in tensors)
        devices = sorted({tensor.device.type for tensor in tensors})
        key = *given, *map(autocast_of, devices), self.module.training
        if key not in self._calls:
            return partial(self._learning, key)
        calls = self._calls[key]
        return _uncompiled if calls is None else partial(tapped, calls, self._recorder)

    @contextmanager
    def _learning(self, key: Any) -> Iterator[None]:
        """A forward that tells of its calls; None of what compiled code cannot be trusted with."""
        recorder, seen = self._recorder, [_seen(place) for place in self._buffers]
        recorder.odd, recorder.calls = False, list[Called]()
        try:
            with _uncompiled():
                yield
            odd = recorder.odd or seen != [_seen(place) for place in self._buffers]
            self._calls[key] = None if odd else tuple(recorder.calls)
        finally:
            recorder.calls = None

    def _try(self, inputs: Tensors, asked: dict[str, Any]) -> None:
        """Run the block once, leaving nothing, to see whether selective recomputation can keep
        what it would: products must not change in place, which torch sees only where versions tell
        of it, nor be needed before B, by a gradient made inside.

        Raises:
            ValueError: it makes gradients inside, which would miss other uses of its parameters.
        """
        self._tried = True
        apart = self._recorder.writing(None, again=True)
        with _Trial(self._recompute) as trial, _buffers_as(_cloned(self._buffers)), apart:
            self._run(_copies(inputs), asked, Draw(0, 0, 0))
        if trial.differentiates and self._shares:
            raise ValueError(
                f"block {self.index} takes gradients in its forward, and shares a parameter with "
                "another block, which they would not reach; give it parameters of its own"
            )
        same = all(torch.equal(made, copy) for made, copy in trial.made)
        if self._recompute is Recompute.SELECTIVE and (trial.differentiates or not same):
            self._recompute = Recompute.FULL

    def _twice(
        self, asked: dict[str, Any], draw: Draw, splitting: _Splitting
    ) -> Callable[..., Any]:
        """The block as checkpointing runs it, first in F, then in B."""
        before: list[tuple[_Place, Tensor]] | None = None
        copies = self._in_place is not False  # in both, as copies may lie otherwise

        def run(*inputs: Any) -> Any:
            nonlocal before
            if before is not None:
                apart = tuple(map(_detached, inputs))  # from hooks, which F has put there
                with _buffers_as(before):
                    given = _copies(apart) if copies else apart
                    return self._run(given, asked, draw, splitting)
            before = _cloned(self._buffers if self._changing is None else self._changing)
            try:
                outputs = self._first(inputs, asked, draw, splitting)
            except RuntimeError as error:
                if "support saved tensor hooks" not in str(error):
                    raise
                raise ValueError(f"block {self.index}: torch.func needs recompute none") from error
            if self._changing is None:  # batch norm changes statistics without a new version
                now = dict(_cloned([place for place, _ in before]))
                self._changing = [p for p, b in before if p not in now or not now[p].equal(b)]
            return outputs

        return run

    def _first(
        self, inputs: tuple[Any, ...], asked: dict[str, Any], draw: Draw, splitting: _Splitting
    ) -> Any:
        """F of what will run again, which learns what the block changes."""
        given = _copies(inputs) if self._in_place is not False else inputs
        tensors = [one for one in given if isinstance(one, Tensor)]
        versions = [tensor._version for tensor in tensors]
        seen = [_seen(place) for place in self._buffers]
        outputs = self._run(given, asked, draw, splitting)
        wrote = any(t._version != v for t, v in zip(tensors, versions, strict=True))
        changed = [p for p, s in zip(self._buffers, seen, strict=True) if _seen(p) != s]
        if self._changing is None:
            self._in_place = wrote
        elif (wrote and not self._in_place) or not set(changed) <= set(self._changing):
            what = "its input" if wrote and not self._in_place else "a buffer"
            raise ValueError(
                f"block {self.index} changes {what} in some forwards only, so it cannot be run "
                f"again; use recompute none"
            )
        return outputs


_Place = tuple[nn.Module, str]  # of a buffer


def _seen(place: _Place) -> tuple[int, int]:
    """Which tensor a buffer is, and how often it was changed."""
    buffer = place[0]._buffers[place[1]]
    return id(buffer), -1 if buffer is None else buffer._version


def _cloned(places: Collection[_Place]) -> list[tuple[_Place, Tensor]]:
    """The buffers that are there."""
    return [((m, n), b.clone()) for m, n in places if (b := m._buffers[n]) is not None]


def _copies(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.clone() if isinstance(one, Tensor) else one for one in inputs)


def _detached(x: Any) -> Any:
    return x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x


@contextmanager
def _buffers_as(before: list[tuple[_Place, Tensor]]) -> Iterator[None]:
    """Other tensors in the place of buffers, which keep their versions for what autograd saved."""
    now = [(module, name, module._buffers[name]) for (module, name), _ in before]
    for (module, name), value in before:
        module._buffers[name] = value.clone()
    try:
        yield
    finally:
        for module, name, buffer in now:
            module._buffers[name] = buffer


def buffers_kept(module: nn.Module) -> AbstractContextManager[None]:
    """Buffers are afterwards as they were."""
    return _buffers_as(_cloned([(m, name) for m in module.modules() for name in m._buffers]))


def run_blocks(
    blocks: Sequence[Block],
    inputs: Tensors,
    named: Mapping[str, Any],
    precision: MixedPrecisionPolicy,
    draw: Draw | None = None,
) -> Tensors:
    """Feed tensors through blocks; a block that returns a tuple feeds the next one's arguments.

    Floating-point inputs are cast to the dtype in which blocks compute; those by name are already.
    """
    if precision.param_dtype is not None:
        inputs = tuple(tensor.to(compute_dtype(precision, tensor.dtype)) for tensor in inputs)
    for block in blocks:
        outputs: Any = block(inputs, named, draw)
        inputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return inputs


def require_tensors(block: Block, outputs: Tensors) -> None:
    """Raise ValueError unless the block, which ends a stage, gave what can travel."""
    if not all(isinstance(output, Tensor) for output in outputs):
        kinds = ", ".join(type(output).__name__ for output in outputs)
        raise ValueError(
            f"block {block.index} ends a stage and gives {kinds}; what travels to the next stage "
            "must be a tensor or a tuple of tensors"
        )
