"""Random compositions of odd blocks, and random plans for them."""

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from support import features as f
from support.features import Feature, H
from zeropp.plan import Plan


class Apply(nn.Module):
    """A linear layer, and a function of what was given and of what it makes."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(H, H), function

    def forward(self, x: Tensor, *_: Any) -> Any:
        return self.function(x, self.layer(x))


class Doubles(nn.Module):
    """Computes in double precision inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(F.linear(x.double(), self.layer.weight.double())).float()


class Spectrum(nn.Module):
    """Goes through complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.fft.fft(torch.complex(x, torch.tanh(self.turn(x))), dim=-1)
        return x + torch.view_as_real(z).mean(-1) / H


class Attention(nn.Module):
    """torch's own, which uses the weights of a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(H, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    """Weights that are no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(H, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cell(x)[0]


class Checkpointed(f.Residual):
    """Runs itself again in its backward."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class Normed(nn.Module):
    """A weight made of two by a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = parametrizations.weight_norm(nn.Linear(H, H))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.layer(x))


class Idle(nn.Module):
    """Holds a layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(H, H), nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.used(x))


class Gained(nn.Module):
    """A single number, and a convolution along the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.conv = nn.Parameter(torch.ones(1)), nn.Conv1d(H, H, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.conv(x.transpose(1, 2)).transpose(1, 2)


def _frozen() -> nn.Module:
    return f.Residual().requires_grad_(False)


ODD: dict[str, Callable[[], nn.Module]] = {
    "residual": f.Residual,
    "without bias": lambda: f.Residual(bias=False),
    "twice": f.Twice,
    "adapter": f.Adapter,
    "half frozen": f.HalfFrozen,
    "frozen": _frozen,
    "custom function": f.Custom,
    "Conv1D": f.Conv1D,
    "subclass": lambda: f.Wide(H, H),
    "kept subclass": lambda: f.Kept(H, H),
    "own forward": f.Doubled,
    "in place": f.InPlace,
    "inner gradients": f.Penalised,
    "made weights": f.Made,
    "routed": f.Routed,
    "one by one": f.OneByOne,
    "counting": f.Counting,
    "codebook": f.Codebook,
    "hooked": f.Hooked,
    "containers": f.Nested,
    "auxiliary": f.Expert,
    "keyword inputs": f.Masked,
    "double": Doubles,
    "complex": Spectrum,
    "attention": Attention,
    "recurrent": Recurrent,
    "checkpointed": Checkpointed,
    "parametrized": Normed,
    "idle": Idle,
    "gain and convolution": Gained,
    "view": lambda: Apply(lambda x, y: y.transpose(0, 1).contiguous().transpose(0, 1)),
    "expanded": lambda: Apply(lambda x, y: x + y.mean(1, keepdim=True).expand_as(y)),
    "detached branch": lambda: Apply(lambda x, y: x.detach() * torch.sigmoid(y) + x),
    "relu in place": lambda: Apply(lambda x, y: F.relu(y, inplace=True) + x),
    "input first": lambda: Apply(lambda x, y: x.add_(y)),
    "tuple of views": lambda: Apply(lambda x, y: y.chunk(2, -1)[0].repeat(1, 1, 2) + x),
    "with None": lambda: Apply(lambda x, y: (torch.tanh(y), None)),
    "two tensors": lambda: Apply(lambda x, y: (torch.tanh(y), y.detach())),
}
_GIVE_SEVERAL = ("with None", "two tensors")


class First(nn.Module):
    """Gives the first of what it is given to another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, *_: Any) -> Any:
        return self.inner(x)


def blocks_of(seed: int) -> list[nn.Module]:
    """A model of six odd blocks, of which one object may come again."""
    chosen = random.Random(seed)
    middles: list[nn.Module] = []
    several = False  # whether the block before gives more than one thing
    for name in chosen.choices(sorted(ODD), k=f.MIDDLE):
        repeats = bool(middles) and not several and chosen.random() < 0.1
        repeats = repeats and not isinstance(middles[-1], f.Expert)  # whose last loss alone is kept
        if repeats:
            middles.append(middles[-1])
        elif several:
            middles.append(First(ODD["residual" if name == "keyword inputs" else name]()))
        else:
            middles.append(ODD[name]())
        several = not repeats and name in _GIVE_SEVERAL
    return [nn.Embedding(f.VOCAB, H), *middles, First(nn.Linear(H, f.VOCAB))]


def feature_of(seed: int) -> Feature:
    """The model, its batch and what of it is run again."""
    chosen = random.Random(seed + 10**6)
    torch.manual_seed(0)
    masked = any(isinstance(block, f.Masked) for block in blocks_of(seed))
    uneven = not masked and chosen.random() < 0.3
    return Feature(
        f"seed {seed}",
        lambda: blocks_of(seed),
        f.ragged if uneven else f.even,
        f.masks if masked else dict,
        {"recompute": chosen.choice(("none", "none", "selective", "full"))},
    )


def plan_of(seed: int, world_size: int) -> Plan:
    """Of so many ranks."""
    chosen = random.Random(seed + 2 * 10**6)
    pp = chosen.choice([p for p in (1, 2, 4) if world_size % p == 0])
    chunks = chosen.choice((1, 2))
    batch = chosen.randint(1, 5)
    names = ("zeropp", "zeropp", "breadth-first", "zb-v") if chunks == 2 else ("zeropp", "zb-h1")
    name = chosen.choice(names)
    unit = chosen.randint(1, batch) if name == "zeropp" else None
    shard = chosen.choice(("unit", "step", "microbatch"))
    data = world_size // pp
    return Plan(pp, chunks, batch, name, unit, dp_shard=data, shard=shard, max_resident=1)
