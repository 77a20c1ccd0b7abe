"""What a decoder's blocks compute and keep: FLOPs, and bytes in 16 bits, from their sizes.

Per layer of a GPT with 4h in the feed-forward part, s tokens a sequence, b sequences, causal:

    F   sbh (24h + 2s)     products of activations and weights, and attention
    B   sbh (24h + 5s)     the same again; attention's backward runs its scores again (flash)
    W   24 sbh^2
    kept until B  32 sbh bytes; until W  32 sbh

(Qi et al., arXiv 2401.10241, table 1, with attention counted as causal kernels do it; Korthikanti
et al., arXiv 2205.05198, for bytes, without dropout.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from zeropp.ir.model import GPTConfig
from zeropp.ir.program import Recompute

_BYTES = 2.0  # of an activation
_FP32 = 4.0


@dataclass(frozen=True)
class DecoderShape:
    """What a decoder's blocks are made of, its layers alike.

    Attributes:
        vocab_size: tokens in the vocabulary.
        layers: decoder layers.
        hidden: width h of the residual stream.
        heads: query heads.
        queries: width of all of them.
        keys_and_values: width of both together.
        inner: width of what the first matrix of the feed-forward part gives, gates included; with
            experts, of those that a token goes through.
        ffn: width of what its last matrix takes.
        parameters: of an embedding, a layer and a head.
        trained: how many of these are not frozen; a kind that is not named: all.
        assumptions: how the numbers came about, in words.
    """

    vocab_size: int
    layers: int
    hidden: int
    heads: int
    queries: int
    keys_and_values: int
    inner: int
    ffn: int
    parameters: Mapping[str, int]
    trained: Mapping[str, int] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    @classmethod
    def of(cls, gpt: GPTConfig) -> "DecoderShape":
        """Of the demo GPT."""
        return cls(
            gpt.vocab_size,
            gpt.layers,
            gpt.hidden,
            gpt.heads,
            gpt.hidden,
            2 * gpt.num_kv_heads * gpt.head_size,
            gpt.ffn_size * (2 if gpt.activation == "swiglu" else 1),
            gpt.ffn_size,
            {
                "embedding": gpt.embedding_parameters,
                "layer": gpt.layer_parameters,
                "head": gpt.head_parameters,
            },
        )

    def share(self, kind: str) -> float:
        """What part of a block's weights has gradients."""
        return self.trained.get(kind, self.parameters[kind]) / self.parameters[kind]


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


def embedding(shape: DecoderShape, sequences: int, seq_len: int) -> Load:
    """The token table: rows in F, and rows added to its gradient, in fp32, in W."""
    size = float(sequences * seq_len) * shape.hidden * _BYTES
    share = shape.share("embedding")
    add_rows = Work(moved=size * (1 + 2 * _FP32 / _BYTES) * share)
    return Load(Work(moved=2 * size), None, add_rows, 0.0, until_weight=size * share, message=size)


def layer(
    shape: DecoderShape,
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
    tokens, h, q = float(sequences * seq_len), float(shape.hidden), float(shape.queries)
    qkv, inner, ffn = q + shape.keys_and_values, float(shape.inner), float(shape.ffn)
    scores = 0.0 if flash else float(sequences * shape.heads) * seq_len * seq_len * _BYTES

    products = 2.0 * tokens * (h * (qkv + q + inner + ffn))  # in F, and as many in B and in W
    full_attention = 4.0 * tokens * seq_len * q  # two products
    attention = full_attention * (0.5 if flash else 1.0)
    elementwise = (10 * h + 2 * qkv + inner + ffn) * tokens * _BYTES + 4 * scores
    share = shape.share("layer")
    again = {
        Recompute.NONE: Work(),
        Recompute.SELECTIVE: Work(moved=elementwise),
        Recompute.FULL: Work(products, attention, elementwise),
    }[recompute]

    silu = inner - ffn  # which a gated feed-forward part keeps
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
        weight=Work(products * share),
        until_backward=kept,
        until_weight=(h + qkv + 2 * h + h + inner + ffn + h) * tokens * _BYTES * share,
        message=h * tokens * _BYTES,
        workspace=everything - kept,
        flops=(2 + share) * products + 3 * full_attention,
    )


def head(shape: DecoderShape, sequences: int, seq_len: int) -> Load:
    """Final norm, linear layer over the vocabulary, and the loss in fp32.

    F copies the logits in fp32 for log-softmax; B copies softmax's gradient in 16 bits. Inputs are
    kept all along, log-probabilities in fp32 until B, then the logits' gradient.
    """
    tokens, hidden, vocabulary = sequences * seq_len, float(shape.hidden), float(shape.vocab_size)
    products, logits = 2.0 * tokens * hidden * vocabulary, tokens * vocabulary
    inputs = tokens * hidden * _BYTES
    moved, share = logits * (2 * _BYTES + 3 * _FP32), shape.share("head")
    return Load(
        forward=Work(products, moved=moved),
        backward=Work(products, moved=moved),
        weight=Work(products * share),
        until_backward=2 * inputs + logits * _FP32,
        until_weight=(inputs + logits * _BYTES) * share,
        message=0.0,
        workspace=logits * _FP32,
        flops=(2 + share) * products,
    )
