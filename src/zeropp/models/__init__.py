"""One GPT-style decoder as a list of blocks; sizes and counts need no torch."""

from typing import TYPE_CHECKING, Any

from zeropp.ir.model import SIZES, GPTConfig

if TYPE_CHECKING:
    from zeropp.models.gpt import gpt_blocks
    from zeropp.models.init import init_block


def __getattr__(name: str) -> Any:
    """Import torch only when modules are asked for: planning reads sizes alone."""
    if name == "gpt_blocks":
        from zeropp.models.gpt import gpt_blocks

        return gpt_blocks
    if name == "init_block":
        from zeropp.models.init import init_block

        return init_block
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["SIZES", "GPTConfig", "gpt_blocks", "init_block"]
