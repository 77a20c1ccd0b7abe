"""transformers' own loader, by which weights come in and go out; all of it is there from 5.24 on.

What else `zeropp.hf` does works without it.
"""

import transformers

try:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        convert_and_load_state_dict_in_model,
        rename_source_key,
        revert_weight_conversion,
    )
    from transformers.distributed.sharding_utils import DtensorShardOperation
    from transformers.modeling_utils import LoadStateDictConfig
except ImportError:
    _THERE = False
else:
    _THERE = True

__all__ = [
    "DtensorShardOperation",
    "LoadStateDictConfig",
    "WeightConverter",
    "WeightRenaming",
    "convert_and_load_state_dict_in_model",
    "get_model_conversion_mapping",
    "rename_source_key",
    "require_loader",
    "revert_weight_conversion",
]


def require_loader(asked: str) -> None:
    """Raise ValueError, naming the version that is wanted for what is `asked`."""
    if not _THERE:
        raise ValueError(
            f"{asked}: it needs transformers 5.24 or later, this is {transformers.__version__}; "
            "pip install 'transformers>=5.24,<6'"
        )
