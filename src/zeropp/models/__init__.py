"""One GPT-style decoder as a list of blocks; sizes and counts need no torch."""

from typing import TYPE_CHECKING, Any

from zeropp.ir.model import SIZES, GPTConfig

if TYPE_CHECKING:
    from zeropp.models.gpt import gpt_blocks, init_block


def __getattr__(name: str) -> Any:
    """Import torch only when modules are asked for: planning reads sizes alone."""
    if name not in ("gpt_blocks", "init_block"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zeropp.models import gpt

    return getattr(gpt, name)


__all__ = ["SIZES", "GPTConfig", "gpt_blocks", "init_block"]
