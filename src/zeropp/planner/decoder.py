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

from zeropp.ir.model import GPTConfig
from zeropp.ir.program import Recompute

_BYTES = 2.0  # of an activation
_FP32 = 4.0


@dataclass(frozen=True)
class Work:
    """What one pass does: FLOPs in matrix products and in attention, and other bytes moved."""

    products: float = 0.0
    attention: float = 0.0
    moved: float = 0.0


@dataclass(frozen=True)
class Load:
    """What a block does in F, B and W of one micro-batch, and the bytes that it keeps."""

    forward: Work
    backward: Work | None  # with what it runs again; None: there is no B
    weight: Work
    until_backward: float
    until_weight: float
    message: float
    workspace: float = 0.0
    flops: float = 0.0  # with attention in full, as MFU is usually counted


def embedding(shape: GPTConfig, sequences: int, seq_len: int) -> Load:
    """The token table: rows in F, and rows added to its gradient, in fp32, in W."""
    size = float(sequences * seq_len) * shape.hidden * _BYTES
    add_rows = Work(moved=size * (1 + 2 * _FP32 / _BYTES))
    return Load(Work(moved=2 * size), None, add_rows, 0.0, until_weight=size, message=size)


def layer(
    shape: GPTConfig,
    sequences: int,
    seq_len: int,
    recompute: Recompute = Recompute.NONE,
    *,
    flash: bool = True,
) -> Load:
    """One decoder layer; what its B runs again it needs as workspace.

    Args:
        shape: the model's sizes.
        sequences: b.
        seq_len: s.
        recompute: what B runs again.
        flash: attention in blocks, which keeps no scores and skips the masked half.
    """
    tokens, h, ffn = float(sequences * seq_len), float(shape.hidden), float(shape.ffn_size)
    qkv = h + 2.0 * shape.num_kv_heads * shape.head_size
    gated = shape.activation == "swiglu"
    inner = ffn * (2 if gated else 1)
    scores = 0.0 if flash else float(sequences * shape.heads) * seq_len * seq_len * _BYTES

    products = 2.0 * tokens * (h * (qkv + h + inner + ffn))  # in F, and as many in B and in W
    full_attention = 4.0 * tokens * seq_len * h  # two products
    attention = full_attention * (0.5 if flash else 1.0)
    elementwise = (10 * h + 2 * qkv + inner + ffn) * tokens * _BYTES + 4 * scores
    again = {
        Recompute.NONE: Work(),
        Recompute.SELECTIVE: Work(moved=elementwise),
        Recompute.FULL: Work(products, attention, elementwise),
    }[recompute]

    silu = ffn if gated else 0.0  # which a gated feed-forward part keeps
    everything = (5 * h + qkv + inner + silu + ffn) * tokens * _BYTES + scores
    kept = {
        Recompute.NONE: everything,
        Recompute.SELECTIVE: (4 * h + qkv + inner) * tokens * _BYTES,
        Recompute.FULL: h * tokens * _BYTES,
    }[recompute]
    return Load(
        forward=Work(products, attention, elementwise),
        backward=Work(
            products + again.products,
            attention * (2.5 if flash else 2.0) + again.attention,
            2 * elementwise + again.moved,
        ),
        weight=Work(products),
        until_backward=kept,
        until_weight=(h + qkv + 2 * h + h + inner + ffn + h) * tokens * _BYTES,
        message=h * tokens * _BYTES,
        workspace=everything - kept,
        flops=3 * (products + full_attention),
    )


def head(shape: GPTConfig, sequences: int, seq_len: int) -> Load:
    """Final norm, linear layer over the vocabulary, and the loss in fp32.

    F copies the logits in fp32 for log-softmax; B copies softmax's gradient in 16 bits. Inputs are
    kept all along, log-probabilities in fp32 until B, then the logits' gradient.
    """
    tokens, hidden, vocabulary = sequences * seq_len, float(shape.hidden), float(shape.vocab_size)
    products, logits = 2.0 * tokens * hidden * vocabulary, tokens * vocabulary
    inputs = tokens * hidden * _BYTES
    moved = logits * (2 * _BYTES + 3 * _FP32)
    return Load(
        forward=Work(products, moved=moved),
        backward=Work(products, moved=moved),
        weight=Work(products),
        until_backward=2 * inputs + logits * _FP32,
        until_weight=inputs + logits * _BYTES,
        message=0.0,
        workspace=logits * _FP32,
        flops=3 * products,
    )
