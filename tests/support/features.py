"""What users' models contain: for each feature a small model, its batch and how it is planned."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp import AuxiliaryLoss
from zeropp.ir.model import GPTConfig
from zeropp.models import gpt_blocks, init_block

H, VOCAB, SEQ, MIDDLE = 16, 23, 5, 6
Batch = list[tuple[Any, Any]]  # micro-batches: (inputs, targets)


class Residual(nn.Module):
    """A norm and two linear layers around an activation."""

    def __init__(self, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(H)
        self.up = nn.Linear(H, 2 * H, bias=bias)
        self.down = nn.Linear(2 * H, H, bias=bias)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(x))))
        return x + F.dropout(y, self.dropout, training=True)


class Twice(nn.Module):
    """One layer called twice, and its weight shared with another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(H, H), nn.Linear(H, H)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(torch.tanh(self.first(x)))))


class Adapter(nn.Module):
    """A frozen layer with a low-rank trainable correction."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(H, H)
        self.base.requires_grad_(False)
        self.a, self.b = nn.Linear(H, 2, bias=False), nn.Linear(2, H, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.base(x) + self.b(self.a(x)))


class Packed4(nn.Linear):
    """A frozen layer of 4-bit weights, two in a byte, as libraries of quantised bases have them."""

    def __init__(self) -> None:
        super().__init__(H, H, bias=False)
        whole = torch.randint(16, (H, H // 2, 2), dtype=torch.uint8)
        self.weight = nn.Parameter(whole[..., 0] + 16 * whole[..., 1], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight.dtype is torch.uint8
        pairs = torch.stack((self.weight % 16, self.weight // 16), -1).flatten(1)
        return F.linear(x, (pairs.to(x.dtype) - 7.5) / 16)


class Quantised(nn.Module):
    """A trained correction of a 4-bit layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.base = nn.LayerNorm(H), Packed4()
        self.a, self.b = nn.Linear(H, 2, bias=False), nn.Linear(2, H, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + torch.tanh(self.base(y) + self.b(self.a(y)))


class HalfFrozen(nn.Module):
    """A layer with a frozen bias, one with a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(H, H), nn.Linear(H, H)
        self.first.bias.requires_grad_(False)
        self.second.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Square(torch.autograd.Function):
    """x^2, differentiated by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Custom(nn.Module):
    """A custom autograd function with a parameter of its own, and an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(H))
        self.mix = nn.Parameter(torch.randn(H, H) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,ij->...j", Square.apply(torch.tanh(x * self.scale)), self.mix)


class Sums(nn.Module):
    """Parameters that get one and the same gradient, which is the input's too."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(SEQ, H))
        self.b = nn.Parameter(torch.randn(SEQ, H))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a + self.b


class Conv1D(nn.Module):
    """As in transformers: y = x A + c."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(H, H) / 4)
        self.bias = nn.Parameter(torch.randn(H))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).view_as(x)


Conv1D.__module__, Conv1D.__qualname__ = "transformers.pytorch_utils", "Conv1D"


class Wide(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Doubled(nn.Module):
    """A layer given another forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)
        self.layer.forward = MethodType(_doubled, self.layer)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


def _doubled(layer: nn.Linear, x: Tensor) -> Tensor:
    return 2 * F.linear(x, layer.weight, layer.bias)


class TwoStreams(nn.Module):
    """Passes on two tensors with gradient, one without, and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(H, H), nn.Linear(H, H)

    def forward(self, x: Tensor, y: Tensor, scale: Tensor, tokens: Tensor) -> Any:
        kept = (tokens % 2 == 0).unsqueeze(-1)
        return torch.tanh(self.left(y)) * scale, x + self.right(x) * kept, scale, tokens + 1


class Opening(nn.Module):
    """Makes the two streams of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, H)

    def forward(self, tokens: Tensor) -> Any:
        x = self.table(tokens)
        return x, torch.tanh(x), x.detach().abs().mean(-1, keepdim=True), tokens


class Closing(nn.Module):
    """Joins the two streams."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(H, VOCAB)

    def forward(self, x: Tensor, y: Tensor, scale: Tensor, tokens: Tensor) -> Tensor:
        return self.head(x + y * scale)


class Turn(nn.Module):
    """Complex numbers, each turned by an angle made of all."""

    def __init__(self) -> None:
        super().__init__()
        self.angle = nn.Linear(H, H)

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.exp(1j * self.angle(z.real))


class Projected(nn.Module):
    """Back to real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(H, VOCAB)

    def forward(self, z: Tensor) -> Tensor:
        return self.head(z.real + z.imag)


class Masked(nn.Module):
    """Mixes positions by a mask and adds a table, both constants of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(H, H)

    def forward(self, x: Tensor, *, mask: Tensor, table: Tensor) -> Tensor:
        scores = (x @ x.transpose(-1, -2)).masked_fill(~mask, -1e9)
        return x + self.mix(torch.softmax(scores, -1) @ x + table)


class Segments(NamedTuple):
    """Which positions see which, as an object that is no tensor."""

    allowed: Tensor


class Packed(nn.Module):
    """Attends inside of each document of a packed row, whose positions it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.place = nn.Linear(H, H), nn.Embedding(2 * SEQ, H)

    def forward(self, x: Tensor, *, positions: Tensor, segments: Segments) -> Tensor:
        scores = (x @ x.transpose(-1, -2)).masked_fill(~segments.allowed, -1e9)
        return x + self.mix(torch.softmax(scores, -1) @ x) + torch.tanh(self.place(positions))


def documents(inputs: Tensor) -> dict[str, Tensor]:
    """Of every row, cut where a token is even: document numbers, and positions inside of each."""
    starts = (inputs % 2 == 0).long()
    starts[:, 0] = 1
    place = torch.arange(inputs.shape[1]).expand_as(inputs)
    return {"document": starts.cumsum(1), "positions": place - (place * starts).cummax(1).values}


def segments(document: Tensor) -> Segments:
    """Those of the same document, and not later."""
    same = document.unsqueeze(-1) == document.unsqueeze(-2)
    return Segments(same & torch.ones_like(same).tril())


class Expert(nn.Module):
    """Two experts behind a gate whose balance is a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.one, self.two = nn.Linear(H, 2), nn.Linear(H, H), nn.Linear(H, H)
        self.balance = AuxiliaryLoss()

    def forward(self, x: Tensor) -> Tensor:
        share = torch.softmax(self.gate(x), -1)
        x = self.balance(x, (share.flatten(0, -2).mean(0) ** 2).sum() * x[..., 0].numel())
        return x + torch.tanh(self.one(x)) * share[..., :1] + self.two(x) * share[..., 1:]


class InPlace(nn.Module):
    """Changes what it is given, what a linear layer gave, and what one was given transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.last = nn.Linear(H, 2 * H), nn.Linear(2 * H, H), nn.Linear(H, H)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(1.1)
        y = self.down(self.relu(self.up(x)))
        y += x
        z = y.transpose(0, 1).contiguous().transpose(0, 1)  # which the product copies
        return z.add_(self.last(z))


class Strided(nn.Module):
    """Gives what is not contiguous, and changes in place what it is given like that."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.layer, self.number = nn.Linear(H, H), number

    def forward(self, x: Tensor) -> Tensor:
        x = x.add_(self.layer(x)) if self.number else self.layer(x)
        turned = x.transpose(0, 1).contiguous()
        if self.number % 2:
            turned = F.pad(turned, (0, 1))[..., :-1]  # nor are they dense
        return turned.transpose(0, 1)


class Gates(nn.Module):
    """Changes products in place whose values its backward needs: by hand, and inside of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cell = nn.Linear(H, H), nn.GRU(H, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y += x
        return x + y * torch.tanh(y) + self.cell(x)[0]


class Penalised(nn.Module):
    """Adds the gradient of its own output, by its input, with a graph and without one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(H, H), nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            given = x if x.requires_grad else x.detach().requires_grad_()
            y = self.two(torch.tanh(self.one(given)))
            (slope,) = torch.autograd.grad(y.pow(2).sum(), given, create_graph=True)
            (kept,) = torch.autograd.grad(y.sum(), self.two.weight, retain_graph=True)
        return y + slope + 0.1 * kept.detach().mean(0)


class Made(nn.Module):
    """A layer run with a weight that is made in the forward, from its own and a low-rank part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)
        self.a, self.b = nn.Parameter(torch.randn(H, 2) / 4), nn.Parameter(torch.randn(2, H) / 4)

    def forward(self, x: Tensor) -> Tensor:
        made = {"weight": self.layer.weight + self.a @ self.b}
        return torch.tanh(torch.func.functional_call(self.layer, made, (x,)))


class Autocast(nn.Module):
    """Computes a part of itself in bf16, and a part of that not."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.full, self.after = (nn.Linear(H, H) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            y = torch.tanh(self.low(x))
            with torch.autocast(x.device.type, enabled=False):
                y = torch.tanh(self.full(y.float()))
            y = self.after(y)
        return x + y.float()


class Routed(nn.Module):
    """Experts of which most tokens, and whole ranks, use only some."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(H, H) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        chosen = int(x.detach().abs().sum() * 1e3) % 4
        return x + torch.tanh(self.experts[chosen](x))


class Experts(nn.Module):
    """Experts in one parameter for each of their two products; none chooses the last of them."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.randn(3, H))
        self.up = nn.Parameter(torch.randn(4, 2 * H, H) / 4)
        self.down = nn.Parameter(torch.randn(4, H, 2 * H) / 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        share, chosen = torch.softmax(F.linear(rows, self.router), -1).max(-1)
        return x + (self.through(rows, chosen) * share.unsqueeze(-1)).view_as(x)

    def through(self, rows: Tensor, chosen: Tensor) -> Tensor:
        """Expert after expert, as transformers does it, by either kind of product."""
        made = torch.zeros_like(rows)
        for expert in chosen.unique():
            own = (chosen == expert).nonzero()[:, 0]
            y = torch.tanh(F.linear(rows[own], self.up[expert]))
            made.index_add_(0, own, y @ self.down[expert].T)
        return made


class Grouped(Experts):
    """The rows of each in one product with all."""

    def through(self, rows: Tensor, chosen: Tensor) -> Tensor:
        order = chosen.argsort(stable=True)
        ends = torch.bincount(chosen, minlength=4).cumsum(0, dtype=torch.int32)
        y = torch.tanh(F.grouped_mm(rows[order], self.up.transpose(-2, -1), offs=ends))
        return F.grouped_mm(y, self.down.mT, offs=ends)[order.argsort()]


class Batched(Experts):
    """All rows through every expert, as a batch, of which those that were chosen count."""

    def through(self, rows: Tensor, chosen: Tensor) -> Tensor:
        y = torch.tanh(torch.bmm(rows.expand(4, *rows.shape), self.up.mT)) @ self.down.mT
        return torch.einsum("ent,ne->nt", y, F.one_hot(chosen, 4).to(y.dtype))


class Everyway(Experts):
    """Uses the parameters in products, and in other ways, which autograd has to see."""

    def through(self, rows: Tensor, chosen: Tensor) -> Tensor:
        y = torch.einsum("nh,eth->net", rows, self.up).mean(1) + F.linear(rows, self.up[1] * 2)
        y = torch.tanh(
            y + F.linear(rows, self.up[0]) + F.linear(rows, self.up[2], rows[0, 0].tile(32))
        )
        down = [self.down[0], *self.down.unbind()[1:]]
        return super().through(rows, chosen) + sum(y @ one.t() for one in down)


class Inside(Experts):
    """Adds gradients of products with experts, by their input and by their parameter."""

    def through(self, rows: Tensor, chosen: Tensor) -> Tensor:
        with torch.enable_grad():
            given = rows if rows.requires_grad else rows.detach().requires_grad_()
            y = torch.tanh(F.linear(given, self.up[1])) @ self.down[2].T
            (slope,) = torch.autograd.grad(y.pow(2).sum(), given, create_graph=True)
            (kept,) = torch.autograd.grad(y.sum(), self.up, retain_graph=True)
        return y + 0.1 * torch.tanh(slope) + 0.1 * torch.tanh(kept.detach()[1].mean(0))


class HalfTrained(Experts):
    """Of which one parameter is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.up.requires_grad_(False)


class OneByOne(nn.Module):
    """Calls a layer with vectors, by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(H, H), nn.Embedding(3, H)

    def forward(self, x: Tensor) -> Tensor:
        rows = [torch.tanh(self.layer(input=row)) for row in x.flatten(0, -2)]
        return torch.stack(rows).view_as(x) + self.table(torch.tensor(1, device=x.device))


class Counting(nn.Module):
    """A normalisation with statistics, a counter, and a memory that it projects and moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(H), nn.Linear(H, H)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("memory", torch.ones(H))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.memory = 0.9 * self.memory + 0.1 * x.detach().flatten(0, -2).mean(0)
        y = self.norm(x.flatten(0, -2)).view_as(x)
        return x + torch.tanh(self.layer(y) * self.memory) / self.count.clone()


class Codebook(nn.Module):
    """Means of what went in, moved in place, by which it also multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)
        self.register_buffer("means", torch.randn(4, H) / 4)

    def forward(self, x: Tensor) -> Tensor:
        self.means.lerp_(x.detach().flatten(0, -2).mean(0), 0.1)
        return x + torch.tanh(self.layer(x)) @ self.means.T @ self.means


class Hooked(nn.Module):
    """Doubles the gradient of what it was given, and gives what has no memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda gradient: 2 * gradient)
        return (x + torch.tanh(self.layer(x))).mean(1, keepdim=True).expand_as(x)


class Padded(nn.Module):
    """A table with a row that is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, H, padding_idx=3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


class Kept(nn.Linear):
    """A subclass that keeps its parent's forward."""


class Nested(nn.Module):
    """Passes tuples and None from block to block, as long as they are of one stage."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"a": nn.Linear(H, H), "b": nn.Linear(H, H)})

    def forward(self, x: Tensor) -> Tensor:
        parts = {name: torch.tanh(layer(x)) for name, layer in self.inner.items()}
        first, second = torch.stack((parts["a"], parts["b"])).unbind()
        return first.transpose(0, 1).contiguous().transpose(0, 1) + second.expand_as(x)[..., :]


def loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def stack(
    middle: Callable[[], nn.Module], tokens: bool = True, middles: int = MIDDLE
) -> list[nn.Module]:
    first = nn.Embedding(VOCAB, H) if tokens else nn.Linear(H, H)
    return [first, *(middle() for _ in range(middles)), nn.Linear(H, VOCAB)]


def gpt(**parts: Any) -> list[nn.Module]:
    config = GPTConfig(VOCAB, SEQ, layers=MIDDLE, hidden=H, heads=2, **parts)
    blocks = gpt_blocks(config)
    for index, block in enumerate(blocks):
        init_block(block, config, index, seed=7)
        for parameter in block.parameters():  # no zeros: every gradient must matter
            parameter.data += 0.02 * torch.randn(parameter.shape)
    return blocks


def compiled(blocks: list[nn.Module]) -> list[nn.Module]:
    for block in blocks:
        block.compile(backend="aot_eager")
    return blocks


def even(count: int, generator: torch.Generator, tokens: bool = True) -> Batch:
    return [_pair(2, SEQ, generator, tokens) for _ in range(count)]


def ragged(count: int, generator: torch.Generator) -> Batch:
    """Micro-batches of other lengths, the last of one sample."""
    sizes = [(2, 3 + m % 4) for m in range(count - 1)] + [(1, SEQ)]
    return [_pair(*size, generator, True) for size in sizes]


def _pair(samples: int, length: int, generator: torch.Generator, tokens: bool) -> tuple[Any, Any]:
    targets = torch.randint(VOCAB, (samples, length), generator=generator)
    if tokens:
        return torch.randint(VOCAB, (samples, length), generator=generator), targets
    return torch.randn(samples, length, H, generator=generator), targets


@dataclass(frozen=True, eq=False)
class Feature:
    """A model to compare; its stages may be as many as its MIDDLE + 2 blocks."""

    name: str
    blocks: Callable[[], list[nn.Module]]
    batch: Callable[[int, torch.Generator], Batch] = even
    constants: Callable[[], dict[str, Tensor]] = dict
    plan: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    evaluates: bool = False
    compiled: bool = False
    precision: MixedPrecisionPolicy | None = None
    tolerance: float = 1e-5  # relative, fp32: the order of sums differs, nothing else
    keywords: Callable[[Tensor], dict[str, Tensor]] = lambda inputs: {}  # of a micro-batch
    derived: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def named(self, inputs: Tensor) -> dict[str, Any]:
        """What blocks are given by name with a micro-batch, found without the engine."""
        given: dict[str, Any] = {**self.constants(), **self.keywords(inputs)}
        for name, make in self.derived.items():
            given[name] = make(**{k: given[k] for k in inspect.signature(make).parameters})
        return given


def _floats(count: int, generator: torch.Generator) -> Batch:
    return even(count, generator, tokens=False)


def masks() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(SEQ, H, generator=generator)
    return {"mask": torch.ones(SEQ, SEQ, dtype=torch.bool).tril(), "table": table}


_FULL, _SELECTIVE = {"recompute": "full"}, {"recompute": "selective"}

GPT = Feature("GPT", lambda: gpt())
GPT_NO_BIAS = Feature("GPT without bias", lambda: gpt(bias=False))
GPT_BF16 = Feature(
    "GPT in bf16, reduced in fp32",
    lambda: [block.to(torch.bfloat16) for block in gpt()],
    precision=MixedPrecisionPolicy(reduce_dtype=torch.float32),
    tolerance=8e-3,  # what a REDUCE gives is rounded to bf16
)
CLIPPED = Feature("GPT, 3 clipped AdamW steps", lambda: gpt(), steps=3)

FEATURES = (
    Feature("linear layers with bias", lambda: stack(Residual)),
    Feature("linear layers without bias", lambda: stack(lambda: Residual(bias=False))),
    Feature("layer used twice, shared weight", lambda: stack(Twice)),
    Feature("adapters on frozen layers", lambda: stack(Adapter)),
    Feature("adapters on frozen 4-bit layers", lambda: stack(Quantised)),
    Feature("frozen weight or bias", lambda: stack(HalfFrozen)),
    Feature("custom function, einsum", lambda: stack(Custom)),
    Feature("parameters with one gradient", lambda: stack(Sums)),
    Feature("Conv1D of transformers", lambda: stack(Conv1D)),
    Feature("subclass, left whole", lambda: stack(lambda: Wide(H, H))),
    Feature("input without gradient", lambda: stack(Residual, tokens=False), _floats),
    Feature("checkpointing, selective", lambda: stack(Residual), plan=_SELECTIVE),
    Feature("checkpointing, full", lambda: stack(Residual), plan=_FULL),
    Feature("several tensors, integers", lambda: [Opening(), *_streams(), Closing()]),
    Feature("complex numbers between stages", lambda: _turns()),
    Feature("constants of the step", lambda: stack(Masked), constants=masks),
    Feature(
        "documents packed into rows, by positions and masks",
        lambda: stack(Packed),
        batch=ragged,
        keywords=documents,
        derived={"segments": segments},
    ),
    Feature("lengths differ, small last micro-batch", lambda: stack(Residual), ragged),
    Feature("auxiliary losses", lambda: stack(Expert)),
    Feature("auxiliary losses, recomputed", lambda: stack(Expert), plan=_FULL),
    Feature("evaluation between two steps", lambda: stack(Residual), evaluates=True),
    GPT,
    Feature("GPT, rotary, grouped, swiglu", lambda: gpt(**_LLAMA)),
    Feature("module objects used again", lambda: _repeated()),
    Feature("a layer used by every stage", lambda: _albert()),
    Feature("changes in place", lambda: stack(InPlace)),
    Feature("changes in place what is not contiguous", lambda: _strided()),
    Feature("changes in place, recomputed", lambda: stack(InPlace), plan=_FULL),
    Feature("changes in place, selective", lambda: stack(Gates), plan=_SELECTIVE),
    Feature("gradients inside a block", lambda: stack(Penalised)),
    Feature("gradients inside a block, selective", lambda: stack(Penalised), plan=_SELECTIVE),
    Feature("weights made in the forward", lambda: stack(Made)),
    Feature("autocast inside a block", lambda: stack(Autocast), tolerance=5e-3),
    Feature("experts used by some ranks only", lambda: stack(Routed)),
    Feature("experts in one parameter, in a loop", lambda: stack(Experts)),
    Feature("experts in one parameter, recomputed", lambda: stack(Experts), plan=_FULL),
    Feature("experts in one parameter, grouped", lambda: stack(Grouped)),
    Feature("experts in one parameter, selective", lambda: stack(Grouped), plan=_SELECTIVE),
    Feature("experts in one parameter, batched", lambda: stack(Batched)),
    Feature("experts in one parameter, in every way", lambda: stack(Everyway)),
    Feature("experts in one parameter, half frozen", lambda: stack(HalfTrained)),
    Feature("experts in one parameter, tied", lambda: _tied_experts()),
    Feature("experts in one parameter, gradients inside", lambda: stack(Inside)),
    Feature("vectors, keyword calls", lambda: stack(OneByOne)),
    Feature("buffers that change", lambda: stack(Counting)),
    Feature("buffers that change, recomputed", lambda: stack(Counting), plan=_FULL),
    Feature("buffers that change, selective", lambda: stack(Counting), plan=_SELECTIVE),
    Feature("buffers that change and are multiplied by", lambda: stack(Codebook)),
    Feature("hooks on inputs", lambda: stack(Hooked)),
    Feature("hooks on inputs, recomputed", lambda: stack(Hooked), plan=_FULL),
    Feature("hooks on inputs, selective", lambda: stack(Hooked), plan=_SELECTIVE),
    Feature("a row that is padding", lambda: [Padded(), *stack(Residual)[1:]]),
    Feature("subclass that keeps its forward", lambda: stack(lambda: Kept(H, H))),
    Feature("views and containers inside a block", lambda: stack(Nested)),
    Feature("targets of which some are ignored", lambda: stack(Residual), lambda *a: _some(*a)),
    Feature("no valid target at all", lambda: stack(Residual), lambda *a: _none(*a)),
    Feature("GPT, tied embeddings", lambda: gpt(tied=True)),
    Feature("GPT, tied, 3 clipped AdamW steps", lambda: gpt(tied=True), steps=3),
    CLIPPED,
    Feature("compiled GPT, 3 clipped AdamW steps", lambda: compiled(gpt()), steps=3, compiled=True),
    Feature(
        "compiled, auxiliary losses, recomputed",
        lambda: compiled(stack(Expert)),
        plan=_FULL,
        compiled=True,
    ),
    Feature("compiled, experts in one parameter", lambda: compiled(stack(Batched)), compiled=True),
)

_KINDS: dict[str, Callable[[], nn.Module]] = {
    "bias": Residual,
    "no bias": lambda: Residual(bias=False),
    "shared and twice": Twice,
    "adapter": Adapter,
    "half frozen": HalfFrozen,
    "custom function": Custom,
    "Conv1D": Conv1D,
    "subclass": lambda: Wide(H, H),
    "own forward": Doubled,
}


def kind_of(name: str, tokens: bool) -> Feature:
    """Two layers of one kind, fed with tokens or with numbers that want no gradient."""
    return Feature(
        f"{name}, {'tokens' if tokens else 'numbers'}",
        lambda: stack(_KINDS[name], tokens, middles=2),
        even if tokens else _floats,
    )


KINDS = tuple(kind_of(name, tokens) for name in _KINDS for tokens in (True, False))

_LLAMA: dict[str, Any] = {
    "kv_heads": 1,
    "positions": "rotary",
    "norm": "rmsnorm",
    "activation": "swiglu",
    "bias": False,
}


def _tied_experts() -> list[nn.Module]:
    """The first and the last with the same down-projections, others with their own."""
    blocks = stack(Experts)
    blocks[-2].down = blocks[1].down
    return blocks


def _turns() -> list[nn.Module]:
    return [nn.Embedding(VOCAB, H), *(Turn() for _ in range(MIDDLE)), Projected()]


def _streams() -> list[nn.Module]:
    return [TwoStreams() for _ in range(MIDDLE)]


def _strided() -> list[nn.Module]:
    strided = [Strided(number) for number in range(MIDDLE)]
    return [nn.Embedding(VOCAB, H), *strided, nn.Linear(H, VOCAB)]


def _repeated() -> list[nn.Module]:
    tanh = nn.Tanh()
    return [nn.Embedding(VOCAB, H), *(nn.Linear(H, H), tanh) * 3, nn.Linear(H, VOCAB)]


def _albert() -> list[nn.Module]:
    layer = Residual()
    return [nn.Embedding(VOCAB, H), *(layer for _ in range(MIDDLE)), nn.Linear(H, VOCAB)]


def _some(count: int, generator: torch.Generator) -> Batch:
    """Micro-batches in which most targets do not count, in one none does."""
    batch = even(count, generator)
    for number, (_, targets) in enumerate(batch):
        targets[:, number % SEQ :] = -100
    return batch


def _none(count: int, generator: torch.Generator) -> Batch:
    batch = even(count, generator)
    for _, targets in batch:
        targets.fill_(-100)
    return batch
