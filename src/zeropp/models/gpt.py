"""A GPT-style decoder as a list of blocks, so that a pipeline may cut it anywhere; fresh weights.

    tokens [b, s] -> TokenEmbedding -> DecoderLayer x layers -> Head -> logits [b, s, vocab]
                              each arrow: [b, s, hidden]

Queries, keys and values come from one linear layer, and so do the gate and the value of swiglu:
one large matrix product for each of F, B and W in place of two or three, one pair (input, output
gradient) kept for W, and no sum of several input gradients in B.
"""

import math
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zeropp.ir.model import GPTConfig

_STD = 0.02
_RESIDUAL_OUTPUTS = ("attention.out", "feed_forward.down")


def gpt_blocks(config: GPTConfig) -> list[nn.Module]:
    """The blocks in forward order: embedding, `layers` decoder layers, head.

    Parameters are left as torch makes them: follow with `init_block`. Under
    `torch.device("meta")` the build takes no memory.
    """
    with _NoneOnMeta():
        embedding, head = TokenEmbedding(config), Head(config)
        layers = [DecoderLayer(config) for _ in range(config.layers)]
    if config.tied:
        head.linear.weight = embedding.token.weight
    return [embedding, *layers, head]


class _NoneOnMeta(TorchFunctionMode):
    """`torch.nn.init` sets nothing on the meta device, for which torch would load its compiler."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(function, "__module__", "") == nn.init.__name__ and given["tensor"].is_meta:
            return given["tensor"]
        return function(*args, **given)


class TokenEmbedding(nn.Module):
    """Token table, plus position table where positions are learned: int [b, s] -> [b, s, h].

    Raises:
        ValueError: in forward, a sequence longer than `seq_len`.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.seq_len = config.seq_len
        self.token = nn.Embedding(config.vocab_size, config.hidden)
        self.position = (
            nn.Embedding(config.seq_len, config.hidden) if config.positions == "learned" else None
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed each token, and its position where that is learned."""
        length = tokens.shape[1]
        if length > self.seq_len:
            raise ValueError(
                f"seq_len is {self.seq_len}, got a sequence of {length} tokens; "
                "cut the sequence or raise seq_len"
            )
        embedded: Tensor = self.token(tokens)
        if self.position is None:
            return embedded
        return embedded + self.position(torch.arange(length, device=tokens.device))


class DecoderLayer(nn.Module):
    """Norm, attention, norm, feed-forward, each half around a residual: [b, s, h] -> [b, s, h]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = _norm(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """Add what attention, then the feed-forward part, makes of the normed stream."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Head(nn.Module):
    """Final norm and linear head without bias: [b, s, h] -> logits [b, s, vocab]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm = _norm(config)
        self.linear = nn.Linear(config.hidden, config.vocab_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Score every token of the vocabulary as the next one."""
        return self.linear(self.norm(x))


class Attention(nn.Module):
    """Causal self-attention with grouped key and value heads: [b, s, h] -> [b, s, h]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.grouped = config.num_kv_heads < config.heads
        self.rope_theta = config.rope_theta if config.positions == "rotary" else None
        key_width = config.num_kv_heads * config.head_size
        self.widths = (config.hidden, key_width, key_width)
        self.qkv = nn.Linear(config.hidden, sum(self.widths), bias=config.bias)
        self.out = nn.Linear(config.hidden, config.hidden, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mix each position with those before it."""
        q, k, v = (
            part.unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for part in self.qkv(x).split(self.widths, dim=-1)
        )
        if self.rope_theta is not None:
            angles = rotary_angles(x.shape[1], self.head_size, self.rope_theta, x.device)
            q, k = rotate(q, *angles), rotate(k, *angles)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, activation, linear: [b, s, h] -> [b, s, h].

    The activation is gelu in its tanh form (GPT-2), or silu(gate) x value (arXiv 2002.05202).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gated = config.activation == "swiglu"
        inner = (2 if self.gated else 1) * config.ffn_size
        self.up = nn.Linear(config.hidden, inner, bias=config.bias)
        self.down = nn.Linear(config.ffn_size, config.hidden, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Widen, activate, narrow."""
        if not self.gated:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


def _norm(config: GPTConfig) -> nn.Module:
    if config.norm == "layernorm":
        return nn.LayerNorm(config.hidden, config.norm_eps, bias=config.bias)
    return nn.RMSNorm(config.hidden, config.norm_eps)


def rotary_angles(
    length: int, head_size: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and pair, each [length, head_size / 2] in fp32.

    Each pair of a head's features turns by an angle that grows with position (Su et al. 2021, arXiv
    2104.09864, section 3.2.2); feature i is paired with i + head_size/2, as in Llama's published
    weights. Angles are computed where they are used: no buffer can be left unfilled after a build
    on meta, and none loses precision when a model is cast to bf16.
    """
    pairs = torch.arange(0, head_size, 2, device=device, dtype=torch.float32)
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = torch.outer(positions, theta ** (-pairs / head_size))
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [..., length, head_size] by the angles of its positions; dtype and shape stay."""
    left, right = heads.float().chunk(2, dim=-1)
    turned = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
    return turned.to(heads.dtype)


@torch.no_grad()
def init_block(block: nn.Module, config: GPTConfig, index: int, seed: int) -> None:
    """Fill every parameter of block number `index` of `gpt_blocks(config)`, in place.

    The head's weight is left alone where it is the token table's.

    As GPT-2: weights normal with deviation 0.02, the two linear layers that write into the residual
    stream scaled by 1 / sqrt(2 layers), norms 1, biases 0 (Radford et al. 2019, section 2.3).
    Values depend on `seed`, `index` and the config only, wherever and in whatever order blocks are
    placed: they are drawn on the CPU in fp32, then copied to the parameter's device and dtype.

    Raises:
        ValueError: `index` is outside the list, a parameter is still on meta or is sharded, or a
            module is none of linear, embedding and norm.
    """
    if not 0 <= index < config.num_blocks:
        raise ValueError(f"index must be from 0 to {config.num_blocks - 1}, got {index}")
    # torch's CPU generator keeps the low 32 bits of its seed, so the pair is hashed, not packed
    hashed = random.Random(f"block {seed} {index}").getrandbits(32)
    generator = torch.Generator().manual_seed(hashed)
    for name, module in block.named_modules():
        own = dict(module.named_parameters(recurse=False))
        for kind, parameter in own.items():
            if parameter.is_meta:
                raise ValueError(
                    f"block: {name}.{kind} is on meta; call block.to_empty(device=...) first"
                )
        if config.tied and isinstance(block, Head) and isinstance(module, nn.Linear):
            continue
        if isinstance(module, nn.Linear | nn.Embedding):
            scale = 1 / math.sqrt(2 * config.layers) if name.endswith(_RESIDUAL_OUTPUTS) else 1.0
            fresh = torch.empty(module.weight.shape)
            module.weight.copy_(fresh.normal_(0.0, _STD * scale, generator=generator))
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            own["weight"].fill_(1.0)
        elif own:
            raise ValueError(
                f"block: {name} is a {type(module).__name__}, which init_block does not know; "
                "initialise it yourself"
            )
        if "bias" in own:
            own["bias"].zero_()
