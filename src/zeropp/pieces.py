"""The last block and the loss in pieces of tokens, so that a micro-batch's logits are never whole.

    F    for each piece: logits, loss, and the gradients of the hidden state and of the head
    B    those gradients times the loss's

From F until B a micro-batch holds gradients as large as its hidden state and the head's parameters,
in place of its logits. As its weight gradient is made in F, the head has no W (Hsu et al., Liger
kernels, arXiv 2410.10989, section 3.2).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zeropp.runtime.auxiliary import AuxiliaryLoss
from zeropp.runtime.loss import refuse_mean
from zeropp.runtime.split import Split
from zeropp.runtime.split_rules import GradientBuffers
from zeropp.runtime.tape import Tape

TokenLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Unfinished:
    """Logits that are not made yet.

    Attributes:
        head: makes logits [n, vocabulary] of hidden states [n, width], token by token.
        module: that has all its parameters.
        hidden: [..., width].
        tokens: in a piece.

    Raises:
        ValueError: a module that normalises over tokens, in training.
    """

    head: Callable[[Tensor], Tensor]
    module: nn.Module
    hidden: Tensor
    tokens: int

    def __post_init__(self) -> None:
        for name, layer in self.module.named_modules():
            if isinstance(layer, nn.BatchNorm1d | nn.SyncBatchNorm) and layer.training:
                raise ValueError(
                    f"a head in pieces normalises over the tokens of a piece alone ({name}); leave "
                    "the head whole, or put the module into a block before"
                )

    @property
    def shape(self) -> torch.Size:
        """Of all but the vocabulary."""
        return self.hidden.shape[:-1]

    @property
    def rows(self) -> Tensor:
        """Hidden states [tokens, width]."""
        return self.hidden.flatten(0, -2)

    def whole(self) -> Tensor:
        """The logits [..., vocabulary]."""
        logits = self.head(self.rows)
        return logits.view(*self.shape, logits.shape[-1])

    def loss(self, token_loss: TokenLoss, targets: Tensor) -> Tensor:
        """The sum over all pieces of `token_loss(logits [n, vocabulary], targets [n])`, a scalar in
        fp32; `targets` [...] are as many as tokens.

        Raises:
            ValueError: other targets, or a head that would give other numbers whole, as it draws
                random numbers or changes buffers.
        """
        if targets.shape != self.shape:
            raise ValueError(
                f"targets must be of shape {list(self.shape)}, one for each token of the head in "
                f"pieces, got {list(targets.shape)}"
            )
        flat = targets.flatten()
        if torch.is_grad_enabled():
            with _token_by_token(self.module, self.hidden):
                return _sum((self, token_loss, flat), self.rows, *_trained(self.module))
        losses = (token_loss(self.head(x), t).float() for x, t in self.pieces(flat))
        return sum(losses, torch.zeros((), device=self.hidden.device))

    def pieces(self, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Hidden states and targets."""
        rows = torch.split(self.rows, self.tokens), torch.split(targets, self.tokens)
        return zip(*rows, strict=True)


class HeadInPieces(nn.Module):
    """The last block of a model, whose logits are made in pieces, by `LossInPieces`.

    Args:
        head: the block; maps [..., width] to logits [..., vocabulary], each token by itself.
        tokens: in a piece, at least 1; some hundreds keep a device busy.

    Raises:
        ValueError: `tokens` is below 1, or there is an auxiliary loss in the head, which would not
            be counted.
    """

    def __init__(self, head: nn.Module, tokens: int = 1024) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {tokens}")
        if any(isinstance(module, AuxiliaryLoss) for module in head.modules()):
            raise ValueError("a head in pieces has no AuxiliaryLoss; move it into a block before")
        self.head, self.tokens = head, tokens

    def forward(self, hidden: Tensor) -> Unfinished:
        """The logits, which are yet to be made."""
        return Unfinished(self.head, self.head, hidden, self.tokens)


class LossInPieces:
    """The `loss_fn` of a pipeline whose last block is a `HeadInPieces`.

    Args:
        token_loss: `(logits [n, vocabulary], targets [n])` -> the sum of n tokens' losses.
    """

    def __init__(self, token_loss: TokenLoss) -> None:
        self._token_loss, self._tested = token_loss, False

    def __call__(self, unfinished: Unfinished, targets: Tensor) -> Tensor:
        """The sum over a micro-batch; ValueError, the first time, where `token_loss` is a mean."""
        if not self._tested:
            self._tested = True
            with torch.no_grad():
                x, t = unfinished.rows[:1], targets.flatten()[:1]
                once, twice = (
                    float(self._token_loss(unfinished.head(x.repeat(n, 1)), t.repeat(n)))
                    for n in (1, 2)
                )
            refuse_mean(once, twice)
        return unfinished.loss(self._token_loss, targets)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class _Sum(torch.autograd.Function):
    """The loss, with the gradients of hidden states and parameters, which wait for its own."""

    @staticmethod
    def forward(
        ctx: Any,
        made: tuple[Unfinished, TokenLoss, Tensor],
        rows: Tensor,
        *parameters: nn.Parameter,
    ) -> Tensor:
        unfinished, token_loss, targets = made
        total = torch.zeros((), device=rows.device)
        moves = rows.requires_grad
        of_rows = torch.empty_like(rows) if moves else None
        sums = GradientBuffers(torch.float32 if _low(parameters) else None)
        start = 0
        with _adding_to(sums, unfinished.module, total):
            for x, t in unfinished.pieces(targets):
                x = x.detach().requires_grad_(moves)
                with torch.enable_grad():
                    loss = token_loss(unfinished.head(x), t).float()
                inputs = (*((x,) if moves else ()), *parameters)
                found = torch.autograd.grad(loss, inputs, allow_unused=True) if inputs else ()
                if of_rows is not None:
                    of_rows[start : start + len(x)] = 0.0 if found[0] is None else found[0]
                for parameter, more in zip(parameters, found[int(moves) :], strict=True):
                    if more is not None:
                        sums.add(parameter, more)
                total += loss.detach()
                start += len(x)
        taken = sums.take()
        ctx.held = of_rows, [taken.get(parameter) for parameter in parameters]
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_rows, sums = ctx.held
        ctx.held = None  # they are changed in place
        return None, *(None if held is None else held.mul_(grad) for held in (of_rows, *sums))


_sum: Callable[..., Tensor] = _Sum.apply


def _low(parameters: Sequence[Tensor]) -> bool:
    return any(p.dtype in (torch.bfloat16, torch.float16) for p in parameters)


@contextmanager
def _token_by_token(module: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Raise ValueError if what is done to a head makes other numbers in pieces than whole."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    random = _generators(hidden.device)
    yield
    if not all(map(torch.equal, random, _generators(hidden.device))):
        raise ValueError(
            "a head in pieces draws random numbers (dropout), which are others for pieces; leave "
            "the head whole, or put the module into a block before"
        )
    for name, buffer in module.named_buffers():
        if name not in buffers or not torch.equal(buffer, buffers[name]):
            raise ValueError(
                f"a head in pieces changes its buffer {name}, once for each piece; leave the head "
                "whole, or put the module into a block before"
            )


def _generators(device: torch.device) -> list[Tensor]:
    """The states of those that a module on this device draws from."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


@contextmanager
def _adding_to(sums: GradientBuffers, module: nn.Module, seed: Tensor) -> Iterator[None]:
    """What is split adds its weight gradients at once, in place."""
    layers = (layer for layer in module.modules() if isinstance(layer, Split))
    recorder = next((layer.split_recorder for layer in layers), None)
    if recorder is None:
        yield
        return
    tape = Tape(sums, seed)
    tape.fused = True
    inside, recorder.inside = recorder.inside, False
    try:
        with recorder.writing(tape, again=True):
            yield
    finally:
        recorder.inside = inside
