"""What a decoder's blocks compute and keep: FLOPs, and bytes in 16 bits, from their sizes.

Per layer of a GPT with 4h in the feed-forward part, s tokens a sequence, b sequences, causal:

    F   sbh (24h + 2s)     products of activations and weights, and attention
    B   sbh (24h + 5s)     the same again; attention's backward runs its scores again (flash)
    W   24 sbh^2
    kept until B  32 sbh bytes; until W  32 sbh

(Qi et al., arXiv 2401.10241, table 1, with attention counted as causal kernels do it; Korthikanti
et al., arXiv 2205.05198, for bytes, without dropout.)
"""

from dataclasses import dataclass
from typing import Protocol

from zeropp.ir.program import Recompute

_BYTES = 2.0  # of an activation
_FP32 = 4.0


class Decoder(Protocol):
    """The sizes of a decoder; `zeropp.models.GPTConfig` has them all."""

    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def hidden(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def head_size(self) -> int: ...  # noqa: D102
    @property
    def num_kv_heads(self) -> int: ...  # noqa: D102
    @property
    def ffn_size(self) -> int: ...  # noqa: D102
    @property
    def vocab_size(self) -> int: ...  # noqa: D102
    @property
    def activation(self) -> str: ...  # noqa: D102
    @property
    def embedding_parameters(self) -> int: ...  # noqa: D102
    @property
    def layer_parameters(self) -> int: ...  # noqa: D102
    @property
    def head_parameters(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Work:
    """What one pass does: FLOPs in matrix products and in attention, and other bytes moved."""

    products: float = 0.0
    attention: float = 0.0
    moved: float = 0.0

    def plus(self, other: "Work") -> "Work":
        """Both, one after the other."""
        return Work(
            self.products + other.products,
            self.attention + other.attention,
            self.moved + other.moved,
        )


@dataclass(frozen=True)
class Kept:
    """Bytes of one micro-batch: from F until B, from B until W, and while a pass runs."""

    until_backward: float
    until_weight: float
    workspace: float = 0.0


class Layer:
    """One decoder layer at a number of sequences of a length.

    Args:
        shape: the model's sizes.
        sequences: b.
        seq_len: s.
        flash: attention in blocks, which keeps no scores and skips the masked half.
    """

    def __init__(self, shape: Decoder, sequences: int, seq_len: int, flash: bool = True) -> None:
        self._tokens = float(sequences * seq_len)
        self._hidden = float(shape.hidden)
        self._qkv = self._hidden + 2.0 * shape.num_kv_heads * shape.head_size
        self._ffn = float(shape.ffn_size)
        self._inner = self._ffn * (2 if shape.activation == "swiglu" else 1)
        self._flash = flash
        self._full_attention = 4.0 * self._tokens * seq_len * self._hidden  # two products
        self._scores = float(sequences * shape.heads) * seq_len * seq_len * _BYTES

    @property
    def _products(self) -> float:
        """FLOPs of the layer's products in F; in B and W they are as many each."""
        weights = self._hidden * (self._qkv + self._hidden + self._inner + self._ffn)
        return 2.0 * self._tokens * weights

    @property
    def _attention(self) -> float:
        return self._full_attention * (0.5 if self._flash else 1.0)

    @property
    def _elementwise(self) -> float:
        """Bytes that norms, residuals, positions and the activation function move in F."""
        widths = 10 * self._hidden + 2 * self._qkv + self._inner + self._ffn
        scores = 0.0 if self._flash else 4 * self._scores
        return widths * self._tokens * _BYTES + scores

    @property
    def model_flops(self) -> float:
        """Of F, B and W, with attention in full, as MFU is usually counted."""
        return 3 * (self._products + self._full_attention)

    def forward(self) -> Work:
        """What F does."""
        return Work(self._products, self._attention, self._elementwise)

    def backward(self, recompute: Recompute) -> Work:
        """What B does, with what it runs again."""
        own = Work(
            self._products, self._attention * (2.5 if self._flash else 2.0), 2 * self._elementwise
        )
        if recompute is Recompute.FULL:
            return own.plus(self.forward())
        return own.plus(Work(moved=self._elementwise)) if recompute is not Recompute.NONE else own

    def weight(self) -> Work:
        """What W does."""
        return Work(products=self._products)

    def kept(self, recompute: Recompute) -> Kept:
        """What the layer keeps; what B runs again it needs as workspace."""
        h, qkv = self._hidden, self._qkv
        scores = 0.0 if self._flash else self._scores
        everything = self._bytes(5 * h + qkv + self._inner + self._swiglu + self._ffn) + scores
        products = self._bytes(4 * h + qkv + self._inner)
        inputs = self._bytes(h)
        kept = {Recompute.NONE: everything, Recompute.SELECTIVE: products, Recompute.FULL: inputs}
        until_weight = self._bytes(h + qkv + 2 * h + h + self._inner + self._ffn + h)
        return Kept(kept[recompute], until_weight, everything - kept[recompute])

    @property
    def _swiglu(self) -> float:
        """Width of silu(gate), which a gated feed-forward part keeps."""
        return self._ffn if self._inner > self._ffn else 0.0

    def _bytes(self, width: float) -> float:
        return width * self._tokens * _BYTES


class Embedding:
    """The token table: rows in F, and rows added to its gradient in W."""

    def __init__(self, shape: Decoder, sequences: int, seq_len: int) -> None:
        self._size = float(sequences * seq_len) * shape.hidden * _BYTES

    def forward(self) -> Work:
        """Read rows, write them."""
        return Work(moved=2 * self._size)

    def weight(self) -> Work:
        """Read the output's gradient, add it to rows of the sums in fp32."""
        return Work(moved=self._size * (1 + 2 * _FP32 / _BYTES))

    def kept(self) -> Kept:
        """The output's gradient until W."""
        return Kept(0.0, self._size)


class Head:
    """Final norm, linear layer over the vocabulary, and the loss in fp32."""

    def __init__(self, shape: Decoder, sequences: int, seq_len: int) -> None:
        self._tokens = float(sequences * seq_len)
        self._hidden, self._vocabulary = float(shape.hidden), float(shape.vocab_size)

    @property
    def _products(self) -> float:
        return 2.0 * self._tokens * self._hidden * self._vocabulary

    @property
    def _logits(self) -> float:
        return self._tokens * self._vocabulary

    @property
    def model_flops(self) -> float:
        """Of F, B and W."""
        return 3 * self._products

    def forward(self) -> Work:
        """The product, a copy in fp32, and log-softmax."""
        return Work(self._products, moved=self._logits * (2 * _BYTES + 3 * _FP32))

    def backward(self) -> Work:
        """Softmax's gradient, its copy in 16 bits, and the product."""
        return Work(self._products, moved=self._logits * (2 * _BYTES + 3 * _FP32))

    def weight(self) -> Work:
        """The product."""
        return Work(self._products)

    def kept(self) -> Kept:
        """Log-probabilities in fp32 until B, then the logits' gradient; inputs all along."""
        inputs = self._tokens * self._hidden * _BYTES
        return Kept(
            2 * inputs + self._logits * _FP32,
            inputs + self._logits * _BYTES,
            self._logits * _FP32,
        )
