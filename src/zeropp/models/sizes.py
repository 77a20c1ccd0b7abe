"""Named sizes, from a toy for a laptop to Llama 3 70B.

Embeddings are untied here, so where a name stems from a tied model, `num_parameters` is larger by
the head's vocab_size x hidden: gpt2-124m holds 163 M, 1.5b 1.64 G, 6.2b 6.46 G, 14.6b 14.99 G.
"""

from collections.abc import Mapping
from types import MappingProxyType

from zeropp.models.config import GPTConfig

_GPT2_VOCAB = 50_304  # 50,257 padded to a multiple of 128

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
        # Grattafiori et al. 2024, arXiv 2407.21783, table 3.
        "llama-8b": GPTConfig(
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
        ),
        "llama-70b": GPTConfig(
            vocab_size=128_256,
            seq_len=8192,
            layers=80,
            hidden=8192,
            heads=64,
            kv_heads=8,
            ffn=28_672,
            positions="rotary",
            norm="rmsnorm",
            activation="swiglu",
            bias=False,
            rope_theta=500_000.0,
        ),
    }
)
