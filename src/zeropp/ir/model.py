"""The shape of a GPT-style decoder, validated once, and named sizes; no torch, for planning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

Positions = Literal["learned", "rotary"]
Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "swiglu"]
_MOST_LAYERS, _LARGEST = 10_000, 10**9


class Sizes(NamedTuple):
    """Of any model that is trained."""

    num_blocks: int
    vocab_size: int
    seq_len: int | None  # tokens in the longest sequence; None: no limit is known


@dataclass(frozen=True)
class GPTConfig:
    """Sizes and parts of one decoder.

    Attributes:
        vocab_size: tokens in the vocabulary.
        seq_len: the longest sequence, in tokens; shorter ones work too.
        layers: decoder layers.
        hidden: width h of the residual stream.
        heads: query heads.
        kv_heads: key and value heads, each shared by heads / kv_heads query heads (grouped-query
            attention, arXiv 2305.13245); None: as many as `heads`.
        ffn: inner width of the feed-forward part; None: 4h for gelu, and for swiglu 8/3 h rounded
            up to a multiple of 64, which holds as many parameters (arXiv 2002.05202, section 2).
        positions: a learned table, or rotary (arXiv 2104.09864).
        norm: LayerNorm or RMSNorm, before attention, before the feed-forward part and at the end.
        activation: gelu (tanh form, as GPT-2) or swiglu.
        bias: whether linear layers (except the head) and LayerNorm have a bias.
        tied: whether the head's weight is the token table's (arXiv 1608.05859).
        rope_theta: base of the rotary wavelengths.
        norm_eps: added to the variance in a norm.

    Raises:
        ValueError: a size below 1, sizes that do not divide, an unknown part, or a number that is
            not above 0.
    """

    vocab_size: int
    seq_len: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int | None = None
    ffn: int | None = None
    positions: Positions = "learned"
    norm: Norm = "layernorm"
    activation: Activation = "gelu"
    bias: bool = True
    tied: bool = False
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_division()
        for name, choices in (
            ("positions", get_args(Positions)),
            ("norm", get_args(Norm)),
            ("activation", get_args(Activation)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be {' or '.join(choices)}, got {getattr(self, name)!r}"
                )
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0:
                raise ValueError(f"{name} must be a finite number above 0, got {value}")

    def _check_sizes(self) -> None:
        optional = ("kv_heads", "ffn")
        for name in ("vocab_size", "seq_len", "layers", "hidden", "heads", *optional):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
            if value > (most := _MOST_LAYERS if name == "layers" else _LARGEST):
                raise ValueError(f"{name} must be at most {most}, got {value}")

    def _check_division(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden must be a multiple of heads ({self.heads}), got {self.hidden}; "
                f"use hidden {_multiple_above(self.hidden, self.heads)} or other heads"
            )
        if self.heads % self.num_kv_heads:
            raise ValueError(
                f"kv_heads must divide heads ({self.heads}), got {self.kv_heads}; "
                "leave it out for one key and value head per query head"
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(
                f"hidden / heads must be even with rotary positions, got {self.head_size}; "
                "change heads or hidden, or use learned positions"
            )

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads, with the default filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def ffn_size(self) -> int:
        """Inner width of the feed-forward part, with the default filled in."""
        if self.ffn is not None:
            return self.ffn
        if self.activation == "gelu":
            return 4 * self.hidden
        return _multiple_above(-(-8 * self.hidden // 3), 64)

    @property
    def num_blocks(self) -> int:
        """Embedding, layers, head: the length of `gpt_blocks(self)`."""
        return self.layers + 2

    @property
    def num_parameters(self) -> int:
        """Parameters of all blocks; a tied table counts once."""
        layers = self.layers * self.layer_parameters
        twice = self.hidden * self.vocab_size if self.tied else 0
        return self.embedding_parameters + layers + self.head_parameters - twice

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the first block: token table, and position table if it is learned."""
        rows = self.vocab_size + (self.seq_len if self.positions == "learned" else 0)
        return rows * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        key_value = 2 * self.num_kv_heads * self.head_size
        inner = (2 if self.activation == "swiglu" else 1) * self.ffn_size
        weights = self.hidden * (self.hidden + key_value + self.hidden + inner + self.ffn_size)
        biases = (self.hidden + key_value) + self.hidden + inner + self.hidden
        return weights + (biases if self.bias else 0) + 2 * self._norm_parameters

    @property
    def head_parameters(self) -> int:
        """Parameters of the last block: final norm and linear head."""
        return self._norm_parameters + self.hidden * self.vocab_size

    @property
    def _norm_parameters(self) -> int:
        return self.hidden * (2 if self.norm == "layernorm" and self.bias else 1)


def _multiple_above(value: int, of: int) -> int:
    return -(-value // of) * of


# Embeddings are untied here, so where a name stems from a tied model, `num_parameters` is larger by
# the head's vocab_size x hidden: gpt2-124m holds 163 M, 1.5b 1.64 G, 6.2b 6.46 G, 14.6b 14.99 G.
_GPT2_VOCAB = 50_304  # 50,257 padded to a multiple of 128

# Grattafiori et al. 2024, arXiv 2407.21783, table 3.
_LLAMA_8B = GPTConfig(
    vocab_size=128_256,
    seq_len=8192,
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    ffn=14_336,
    positions="rotary",
    norm="rmsnorm",
    activation="swiglu",
    bias=False,
    rope_theta=500_000.0,
)

SIZES: Mapping[str, GPTConfig] = MappingProxyType(
    {
        # Bytes as tokens; F, B and W of 16 x 128 tokens take 0.3 to 0.4 s on one CPU thread. Rotary
        # positions, because it learns far faster with them than with a table.
        "toy": GPTConfig(256, 128, layers=8, hidden=128, heads=4, positions="rotary", bias=False),
        # Radford et al. 2019, table 2.
        "gpt2-124m": GPTConfig(_GPT2_VOCAB, 1024, layers=12, hidden=768, heads=12),
        # Qi et al. 2023 (zero bubble), arXiv 2401.10241, table 3.
        "1.5b": GPTConfig(_GPT2_VOCAB, 1024, layers=22, hidden=2304, heads=24),
        "6.2b": GPTConfig(_GPT2_VOCAB, 1024, layers=30, hidden=4096, heads=32),
        "14.6b": GPTConfig(_GPT2_VOCAB, 1024, layers=46, hidden=5120, heads=40),
        "llama-8b": _LLAMA_8B,
        "llama-70b": replace(_LLAMA_8B, layers=80, hidden=8192, heads=64, ffn=28_672),
    }
)
