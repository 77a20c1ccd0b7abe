"""A GPT-style decoder as a list of blocks, so that a pipeline may cut it anywhere.

    tokens [b, s] -> TokenEmbedding -> DecoderLayer x layers -> Head -> logits [b, s, vocab]
                              each arrow: [b, s, hidden]

Queries, keys and values come from one linear layer, and so do the gate and the value of swiglu:
one large matrix product for each of F, B and W in place of two or three, one pair (input, output
gradient) kept for W, and no sum of several input gradients in B.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeropp.ir.model import GPTConfig
from zeropp.models.rotary import rotary_angles, rotate


def gpt_blocks(config: GPTConfig) -> list[nn.Module]:
    """The blocks in forward order: embedding, `layers` decoder layers, head.

    Parameters are left as torch makes them: follow with `init_block`. Under
    `torch.device("meta")` the build takes no memory.
    """
    embedding, head = TokenEmbedding(config), Head(config)
    if config.tied:
        head.linear.weight = embedding.token.weight
    return [embedding, *(DecoderLayer(config) for _ in range(config.layers)), head]


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
        self.feed_forward = SwiGLU(config) if config.activation == "swiglu" else GELU(config)

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


class GELU(nn.Module):
    """Linear, gelu in its tanh form (GPT-2), linear: [b, s, h] -> [b, s, h]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden, config.ffn_size, bias=config.bias)
        self.down = nn.Linear(config.ffn_size, config.hidden, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Widen, gelu, narrow."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """Gated feed-forward, silu(gate) x value, then linear (arXiv 2002.05202): [b, s, h] -> same."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden, 2 * config.ffn_size, bias=config.bias)
        self.down = nn.Linear(config.ffn_size, config.hidden, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Widen, gate, narrow."""
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


def _norm(config: GPTConfig) -> nn.Module:
    if config.norm == "layernorm":
        return nn.LayerNorm(config.hidden, config.norm_eps, bias=config.bias)
    return nn.RMSNorm(config.hidden, config.norm_eps)
