"""What the layers of a decoder are called with, learnt by running its own forward without them.

Rotary angles, masks, positions are made by the model's code, before its layers. That code is run
once for each shape, with a recorder in the place of every layer and a stand-in for every other
part that has parameters; no family of models is known by name here.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel

Call = tuple[tuple[Any, ...], dict[str, Any]]  # of a layer, beside the hidden state


class NotCutError(ValueError):
    """A model cannot be cut between its layers."""


class Skipped(nn.Module):
    """In the place of what another block does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first argument."""
        return args[0] if args else next(iter(kwargs.values()))


class _Known:
    """A module, which is not copied with what refers to it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Known":
        return self


class StandIn(nn.Module):
    """In the place of a part: has its attributes, and gives a hidden state that means nothing."""

    def __init__(self, real: nn.Module, width: int) -> None:
        super().__init__()
        self._known, self._width = _Known(real), width
        self.noise: torch.Generator | None = None  # None: zeros
        self.device = torch.device("cpu")  # where it is asked to be

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Of the shape of an embedding, or, of what is no embedding, the first argument."""
        x = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        if x is None:
            raise NotCutError(f"{type(self._known.module).__name__} is called without a tensor")
        if x.is_floating_point() and not isinstance(self._known.module, nn.Embedding):
            return x
        shape = *x.shape[:2], self._width
        if self.noise is None:
            return torch.zeros(shape, device=x.device)
        return torch.rand(shape, generator=self.noise).to(x.device)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(self.__dict__["_known"].module, name)
            if isinstance(value, Tensor) and value.is_meta:  # some look where a weight is
                value = torch.zeros((), dtype=value.dtype, device=self.device).expand(value.shape)
            return value


class _Recorder(StandIn):
    """In the place of a layer: keeps what it is called with."""

    def __init__(self, real: nn.Module, results: int) -> None:
        super().__init__(real, 0)
        self.call: Call | None = None
        self.results = results

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not args:
            raise NotCutError("a layer is not given its hidden state by position")
        self.call = args[1:], kwargs
        return as_returned(args[0], self.results)


def as_returned(hidden: Tensor, results: int) -> Any:
    """As a layer returns it: alone, or as the first of a tuple of so many."""
    return (hidden, *(None,) * (results - 1)) if results else hidden


def with_children(module: nn.Module, children: Mapping[str, nn.Module], **attributes: Any) -> Any:
    """A copy of `module` that shares everything but these children and attributes."""
    clone = copy.copy(module)
    own: dict[str, Any] = {"_modules": {**module._modules, **children}}
    own |= {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
    clone.__dict__.update(own | attributes)
    return clone


def find_layers(model: PreTrainedModel) -> tuple[str, str]:
    """The path of the module that runs the layers, and the name of its list of them."""
    kinds = set(model._no_split_modules or ())
    number = model.config.get_text_config().num_hidden_layers
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == number
        and all(
            isinstance(m, GradientCheckpointingLayer) or type(m).__name__ in kinds for m in module
        )
    ]
    if len(found) != 1:
        raise NotCutError(f"it has {len(found)} lists of {number} layers, wanted 1: {found}")
    path, _, name = found[0].rpartition(".")
    if not path or model.get_output_embeddings() is None:
        raise NotCutError("it gives no logits over a vocabulary; take its ...ForCausalLM")
    return path, name


class Seam:
    """The layers of a model, and what each is called with; shared by all blocks of a process.

    Attributes:
        path: of the base model, which runs the layers.
        name: of its list of layers.
        layers: the list.
        width: of the hidden state.
        tail: sizes of the hidden state beyond [samples, tokens].
        results: how many values a layer returns, in a tuple; 0: the hidden state alone.
        before: children of the base model that run before the layers.
        after: those that run after them.

    Raises:
        NotCutError: why the model cannot be cut.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self.path, self.name = find_layers(model)
        self.base = model.get_submodule(self.path)
        self.layers: Any = getattr(self.base, self.name)
        self.width = int(model.config.get_text_config().hidden_size)
        if next(self.base.parameters(recurse=False), None) is not None:
            raise NotCutError("its base model has parameters of its own")
        self._device = torch.device("meta")
        self._by_shape: dict[Any, list[Call]] = {}
        self._latest: tuple[Tensor, list[Call]] | None = None
        self._parts = {n: self._part(m) for n, m in self.base.named_children() if n != self.name}
        self.results = 0
        self._move(torch.device("cpu"))
        self.before, self.after = self._tried()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Seam":
        return self

    def calls(self, hidden: Tensor, positions: Tensor | None) -> list[Call]:
        """What every layer is called with beside a hidden state like this one.

        Args:
            hidden: [samples, tokens, ...].
            positions: [samples, tokens], which start again with each document; None: 0, 1, ...
        """
        self._move(hidden.device)
        empty = self.empty(hidden)
        if positions is None:
            key = hidden.shape[:2], hidden.dtype
            if key not in self._by_shape:
                self._by_shape[key] = self._run(inputs_embeds=empty)
            return self._by_shape[key]
        if self._latest is None or self._latest[0] is not positions:
            self._latest = positions, self._run(inputs_embeds=empty, position_ids=positions)
        return self._latest[1]

    def empty(self, hidden: Tensor) -> Tensor:
        """An embedding of no tokens in particular."""
        return hidden.new_zeros(*hidden.shape[:2], self.width)

    def _part(self, real: nn.Module) -> nn.Module:
        """Of the base model: the real one if it has no parameters, or one that stands in for it."""
        if next(real.parameters(), None) is not None:
            return StandIn(real, self.width)
        return copy.deepcopy(real).eval()  # no dropout, which would draw random numbers

    def _tried(self) -> tuple[frozenset[str], frozenset[str]]:
        """Parts that run before and after the layers, of a model that can be cut there."""
        calls, why = None, ""
        for self.results in (0, 2, 3, 1):
            try:
                calls, seen = self._two_runs()
                break
            except NotCutError:
                raise
            except Exception as error:  # whatever the model's code makes of such a result
                why = why or f"{type(error).__name__}: {error}"
        if calls is None:
            raise NotCutError(f"its base model does not run without its layers: {why}")
        names = [f"{self.name}.{i}" for i in range(len(self.layers))]
        if [name for name in seen if name in names] != names:
            raise NotCutError("its layers do not run once each, in their order")
        first, last = seen.index(names[0]), seen.index(names[-1])
        before, after = frozenset(seen[:first]), frozenset(seen[last + 1 :])
        parts = {name for name, part in self._parts.items() if isinstance(part, StandIn)}
        odd = before & after | set(seen[first:last]) - set(names) | parts - before - after
        if odd:
            raise NotCutError(
                f"{', '.join(sorted(odd))} runs between its layers, or both before and after them, "
                "or not at all"
            )
        return before, after

    def _two_runs(self) -> tuple[list[Call], list[str]]:
        """With random embeddings: what differs between layers' arguments depends on the tokens."""
        stand_ins = [part for part in self._parts.values() if isinstance(part, StandIn)]
        noise, tokens = torch.Generator(), torch.zeros(1, 3, dtype=torch.int64)
        for part in stand_ins:
            part.noise = noise
        try:
            order: list[str] = []
            first = self._run(order, input_ids=tokens)
            second = self._run(input_ids=tokens)
        finally:
            for part in stand_ins:
                part.noise = None
        for index, pair in enumerate(zip(first, second, strict=True)):
            for one, other in zip(*map(_tensors, pair), strict=True):
                if one.shape != other.shape or not torch.equal(one, other):
                    raise NotCutError(
                        f"its layer {index} is given more than the hidden state of the one before"
                    )
        return first, order

    def _run(self, order: list[str] | None = None, **inputs: Tensor) -> list[Call]:
        """One forward of the base model without its layers; `order` gets what was called."""
        shell, recorders = self.shell()
        hooks = [
            part.register_forward_pre_hook(lambda _m, _a, name=name: order.append(name))
            for name, part in shell.named_modules()
            if order is not None and isinstance(part, StandIn)
        ]
        try:
            with torch.no_grad(), _disable_current_modes():  # which recompute what they see
                hidden = shell(**inputs, use_cache=False).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        given = next(iter(inputs.values()))
        if hidden.shape[:2] != given.shape[:2]:
            raise TypeError("its layers return something else")
        self.tail = tuple(hidden.shape[2:])
        calls = [recorder.call for recorder in recorders if recorder.call is not None]
        if len(calls) < len(recorders):
            raise NotCutError("its layers do not run once each, in their order")
        return calls

    def shell(self) -> tuple[Any, list["_Recorder"]]:
        """The base model without parameters, and what is in the place of its layers."""
        recorders = [_Recorder(layer, self.results) for layer in self.layers]
        children = {**self._parts, self.name: nn.ModuleList(recorders)}
        return with_children(self.base, children), recorders

    def _move(self, device: torch.device) -> None:
        """Parts without parameters go where the layers are; those on meta are filled."""
        if self._device == device:
            return
        for part in self._parts.values():
            if isinstance(part, StandIn):
                part.device = device
            if any(buffer.is_meta for buffer in part.buffers()):
                part.to_empty(device=device)
                for module in part.modules():
                    self._model._init_weights(module)
            else:
                part.to(device)
        self._device, self._latest = device, None
        self._by_shape.clear()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
