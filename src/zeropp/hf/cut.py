"""A decoder of Hugging Face transformers as blocks, each of which is the model with the rest cut.

    tokens -> Opening -> Layer 0 -> ... -> Layer n-1 -> Closing -> logits

`Opening` and `Closing` run the model's own forward, so embeddings and their scales, position
tables, final norms and soft caps stay its own code. A block's parameters are called `hf.` and then
as they are in the model.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from zeropp.hf.balance import Balance
from zeropp.hf.seam import NotCutError, Seam, Skipped, StandIn, as_returned, with_children
from zeropp.pieces import Unfinished


def blocks(model: nn.Module, *, head_tokens: int | None = None) -> list[nn.Module]:
    """The blocks of a `...ForCausalLM`, on any device, also meta; they share its parameters.

    The first takes tokens [samples, tokens], the last gives logits [samples, tokens, vocabulary],
    and, of a mixture of experts whose configuration has `output_router_logits`, what `hf.loss`
    needs for balancing them. Documents packed into rows are told apart by positions that start
    again, which every block takes by name: `pipe.step((tokens, labels, {"positions": ...}))`.

    Args:
        model: a decoder of transformers, or peft's model around one.
        head_tokens: in a piece of logits, which `hf.loss` then makes one after the other, so that
            those of a micro-batch are never whole; None: they are. Such a head has no W.

    Raises:
        ValueError: why this model cannot be cut: encoder and decoder, several streams between
            layers, layers that run several times.
    """
    inner = unwrapped(model)
    if not isinstance(inner, PreTrainedModel):
        raise ValueError(f"hf.blocks: wanted a model of transformers, got {type(inner).__name__}")
    if any(getattr(module, "gradient_checkpointing", False) for module in inner.modules()):
        raise ValueError(
            "hf.blocks: the model checkpoints its layers by itself; switch that off, "
            "and set recompute in the plan"
        )
    try:
        seam = Seam(inner)
        balance = Balance.of(inner, seam.layers)
        layers = [Layer(inner, seam, index, balance) for index in range(len(seam.layers))]
        return [Opening(inner, seam, balance), *layers, Closing(inner, seam, balance, head_tokens)]
    except NotCutError as why:
        raise ValueError(f"hf.blocks: {type(inner).__name__} cannot be cut: {why}") from why


def unwrapped(model: Any) -> Any:
    """The model of transformers in peft's, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hf_name(name: str) -> str:
    """The model's own name of a block's parameter, such as `3.hf.model.layers.2.mlp.up.weight`."""
    return name.split("hf.", 1)[1]


class _Between(StandIn):
    """In the place of all layers: keeps what the first is given, gives what the last gave."""

    def __init__(self, seam: Seam) -> None:
        super().__init__(seam.layers[0], 0)
        self._results = seam.results
        self.taken: Tensor | None = None
        self.given: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of layers that are elsewhere, or the input that they should get."""
        self.taken = args[0]
        return as_returned(args[0] if self.given is None else self.given, self._results)


class Opening(nn.Module):
    """All that the model does before its layers."""

    def __init__(self, model: PreTrainedModel, seam: Seam, balance: Balance | None) -> None:
        super().__init__()
        self._seam, self._balance = seam, balance
        gone = {name: Skipped() for name in seam.after}
        layers = nn.ModuleList([_Between(seam)])
        base = with_children(seam.base, {**gone, seam.name: layers}, config=quiet(seam.base))
        self.hf = along(model, seam.path, base, keep=False)
        self._path = f"{seam.path}.{seam.name}.0"

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None) -> Any:
        """Tokens [samples, tokens] -> hidden [samples, tokens, width]."""
        if tokens.is_meta:
            dtype = next(self.parameters()).dtype
            hidden = _like(self, (*tokens.shape, *self._seam.tail), dtype)
        else:
            between: Any = self.hf.get_submodule(self._path)
            given = {} if positions is None else {"position_ids": positions}
            self.hf.get_submodule(self._seam.path)(input_ids=tokens, use_cache=False, **given)
            hidden, between.taken = between.taken, None
        return hidden if self._balance is None else (hidden, *self._balance.nothing(hidden))


class Layer(nn.Module):
    """One of the model's layers."""

    def __init__(
        self, model: PreTrainedModel, seam: Seam, index: int, balance: Balance | None
    ) -> None:
        super().__init__()
        self._seam, self._index = seam, index
        self._balance = balance if balance and balance.routes(seam.layers[index]) else None
        self._path = f"{seam.path}.{seam.name}.{index}"
        layers = [m if i == index else Skipped() for i, m in enumerate(seam.layers)]
        gone = {name: Skipped() for name, _ in seam.base.named_children()}
        base = with_children(seam.base, {**gone, seam.name: nn.ModuleList(layers)})
        self.hf = along(model, seam.path, base, keep=False)

    def forward(self, hidden: Tensor, *counted: Tensor, positions: Tensor | None = None) -> Any:
        """Hidden [samples, tokens, width] -> the same."""
        if hidden.is_meta:
            out = _like(self, hidden.shape, hidden.dtype, hidden)
            if self._balance is not None:
                counted = counted[0], _like(self, counted[1].shape, counted[1].dtype, out)
            return (out, *counted) if counted else out
        args, kwargs = self._seam.calls(hidden, positions)[self._index]
        layer = self.hf.get_submodule(self._path)
        if self._balance is None:
            out = _first(layer(hidden, *args, **kwargs))
        else:
            with self._balance.watching(layer) as chosen:
                out = _first(layer(hidden, *args, **kwargs))
            counted = self._balance.added(counted, chosen)
        return (out, *counted) if counted else out


class Closing(nn.Module):
    """All that the model does after its layers."""

    def __init__(
        self, model: PreTrainedModel, seam: Seam, balance: Balance | None, pieces: int | None
    ) -> None:
        super().__init__()
        if pieces is not None and pieces < 1:
            raise NotCutError(f"head_tokens must be at least 1, got {pieces}")
        self._seam, self._balance, self._pieces = seam, balance, pieces
        self._path = f"{seam.path}.{seam.name}.0"
        before = {name: StandIn(getattr(seam.base, name), seam.width) for name in seam.before}
        layers = nn.ModuleList([_Between(seam)])
        base = with_children(seam.base, {**before, seam.name: layers}, config=quiet(seam.base))
        self.hf = along(model, seam.path, base, keep=True)
        self.hf.__dict__["config"] = quiet(model)

    def forward(self, hidden: Tensor, *counted: Tensor) -> Any:
        """Hidden [samples, tokens, width] -> logits [samples, tokens, vocabulary]."""
        logits: Tensor | Unfinished
        if hidden.is_meta:
            head: Any = self.hf.get_output_embeddings()
            logits = _like(self, (*hidden.shape[:2], head.weight.shape[0]), hidden.dtype, hidden)
        elif self._pieces is None:
            logits = self._logits(hidden)
        else:
            logits = Unfinished(self._of_rows, self, hidden, self._pieces)
        return logits if self._balance is None else (logits, self._balance.loss(hidden, *counted))

    def _logits(self, hidden: Tensor) -> Tensor:
        between: Any = self.hf.get_submodule(self._path)
        between.given = hidden
        logits: Tensor = self.hf(inputs_embeds=self._seam.empty(hidden), use_cache=False).logits
        between.given = between.taken = None
        return logits

    def _of_rows(self, rows: Tensor) -> Tensor:
        return self._logits(rows.unsqueeze(0)).squeeze(0)


def _first(out: Any) -> Tensor:
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


def along(model: nn.Module, path: str, inner: nn.Module, *, keep: bool) -> Any:
    """A copy of `model` with `inner` at `path`, and what else it has on the way if `keep`."""
    name, _, rest = path.partition(".")
    child = along(getattr(model, name), rest, inner, keep=keep) if rest else inner
    if keep:
        return with_children(model, {name: child})
    others = {other: Skipped() for other, _ in model.named_children()}
    return with_children(model, {**others, name: child}, _parameters={}, _buffers={})


def quiet(model: Any) -> Any:
    """Its configuration, for which transformers makes no mask and balances no experts."""
    config = copy.copy(model.config)
    config._attn_implementation_internal = "none: no attention in this block"
    config.output_router_logits = False
    return config


def _like(block: nn.Module, shape: Any, dtype: torch.dtype, *inputs: Tensor) -> Tensor:
    """What a block gives on the meta device, where the model's code, which looks at values, does
    not run.
    """
    wants = any(tensor.requires_grad for tensor in (*inputs, *block.parameters()))
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=wants)
