"""torchtitan's own Trainer on a CPU: its debug Llama, with stand-ins for what it has of GPUs.

    torchrun --nproc-per-node N tests/support/titan.py FOLDER CASE...

trains every case, a `Case` as JSON, on the text and by the tokenizer in FOLDER, and prints a line
`RESULT {...}` for each: losses and norms of all steps, and the validation's loss, at rank 0.
"""

import json
import os
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

STEPS = 5


@dataclass(frozen=True)
class Case:
    """One run, of P x D ranks.

    Attributes:
        zeropp: options of our `pipelining_fn`; None: torchtitan's own.
        lay: torchtitan's option pipeline_parallel_schedule.
    """

    D: int = 1
    zeropp: dict[str, Any] | None = None
    lay: str = "Interleaved1F1B"
    layers_per_stage: int | None = None
    chunked: bool = False
    recompute: str = "selective"
    backend: str = "spmd_types"
    low: bool = False
    validates: bool = True
    page: bool = False  # by the configuration that the page shows
    options: dict[str, Any] = field(default_factory=dict)  # of compile, or parallelism

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


class Device(types.SimpleNamespace):
    """What torchtitan asks of torch.cuda."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name, lambda *args, **kwargs: None)


def stand_in() -> None:
    """Before torchtitan is imported any further."""
    from torchtitan.tools import utils

    utils.device_type = "cpu"
    utils.device_module = Device(
        current_device=lambda: 0,
        device_count=lambda: 1,
        memory_stats=lambda *args: {},
        get_device_name=lambda *args: "CPU",
        get_device_properties=lambda *args: types.SimpleNamespace(total_memory=2**34),
    )
    barrier = dist.barrier
    dist.barrier = lambda *args, device_ids=None, **kwargs: barrier(*args, **kwargs)
    from torchtitan.models.common import attention
    from torchtitan.models.common.decoder import Decoder

    attention.FlexAttention.forward = _attention
    Decoder.get_attention_masks = lambda *args, **kwargs: None


def _attention(
    self: Any,
    q_BLNH: Any,
    k_BLNH: Any,
    v_BLNH: Any,
    *,
    attention_masks: Any = None,
    scale: Any = None,
    enable_gqa: bool = False,
    **unused: Any,
) -> Any:
    heads = (x.transpose(1, 2) for x in (q_BLNH, k_BLNH, v_BLNH))
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(*heads, is_causal=True, scale=scale, enable_gqa=enable_gqa).transpose(1, 2)


def summing(parallelize: Callable[..., Any]) -> Callable[..., Any]:
    """gloo has no mean, nor a sum that multiplies."""

    def made(*args: Any, **kwargs: Any) -> Any:
        model = parallelize(*args, **kwargs)
        for module in model.modules():
            if hasattr(module, "set_force_sum_reduction_for_comms"):
                module.set_force_sum_reduction_for_comms(True)
        return model

    return made


def config_of(case: Case, folder: Path) -> Any:
    from torchtitan.components.loss import CrossEntropyLoss
    from torchtitan.distributed.activation_checkpoint import FullAC
    from torchtitan.models.llama3.config_registry import llama3_debugmodel

    import zeropp.torchtitan

    if case.page:
        import mine

        config = mine.with_zeropp()
    else:
        config = llama3_debugmodel()
    spec, parallelism, training = config.model_spec, config.parallelism, config.training
    spec.parallelize_fn = summing(spec.parallelize_fn)
    if case.zeropp is not None and not case.page:
        spec.pipelining_fn = partial(zeropp.torchtitan.pipelining_fn, zeropp=case.zeropp)
    if not case.chunked:
        config.loss = CrossEntropyLoss.Config(global_vocab_size=2048)
    config.hf_assets_path = str(folder / "tokenizer")
    validator = config.validator
    for loader in (config.dataloader, validator.dataloader):
        loader.dataset, loader.dataset_path = "c4_test", str(folder / "text")
    training.local_batch_size, training.seq_len, training.steps = 4, 32, STEPS
    training.mixed_precision_param = "bfloat16" if case.low else "float32"
    training.disable_cuda_graphs = True
    parallelism.pipeline_parallel_degree = 2
    parallelism.data_parallel_shard_degree = case.D
    parallelism.pipeline_parallel_schedule = case.lay
    parallelism.pipeline_parallel_layers_per_stage = case.layers_per_stage
    parallelism.spmd_backend = case.backend
    validator.enable, validator.freq, validator.steps = case.validates, STEPS, 2
    config.checkpoint.enable = False
    config.debug.seed = 1
    config.dump_folder = str(folder / "out")
    if case.recompute != "selective":
        config.activation_checkpoint = FullAC.Config() if case.recompute == "full" else None
    for name, value in case.options.items():
        part, _, option = name.partition(".")
        setattr(getattr(config, part), option, value)
    return config


def run(case: Case, folder: Path) -> dict[str, Any]:
    """Of rank 0: what is logged, losses being averaged over the ranks that have them."""
    from torchtitan.components.metrics import MetricsProcessor

    from zeropp.runtime.split import SplitLayer

    found: dict[str, Any] = {"losses": [], "norms": [], "validation": []}

    def log(self: Any, step: int, loss: float, most: float, norm: float, **more: Any) -> None:
        found["losses"].append(loss)
        found["norms"].append(norm)

    def log_validation(self: Any, loss: float, *more: Any, **named: Any) -> None:
        found["validation"].append(loss)

    MetricsProcessor.log, MetricsProcessor.log_validation = log, log_validation
    try:
        trainer = config_of(case, folder).build()
        layers = [layer for part in trainer.model_parts for layer in part.modules()]
        found["split"] = sum(isinstance(layer, SplitLayer) for layer in layers)
        trainer.train()
        trainer.close()
    except (ValueError, RuntimeError) as error:
        found["refused"] = f"{type(error).__name__}: {error}"
    return found


def main() -> None:
    folder, *cases = sys.argv[1:]
    torch.set_num_threads(1)
    stand_in()
    for text in cases:
        found = run(Case(**json.loads(text)), Path(folder))
        line = f"RESULT {os.environ['RANK']} {json.dumps(found)}\n"
        print(line, end="", flush=True)  # in one piece, since ranks share the pipe
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
