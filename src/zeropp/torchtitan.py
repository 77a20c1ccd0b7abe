"""torchtitan's pipelines in our orders and with our split; needs `zeropp[torchtitan]`.

    spec.pipelining_fn = partial(zeropp.torchtitan.pipelining_fn, zeropp={"unit_size": 4})

torchtitan makes the stages, and what is around them: activation checkpointing, FSDP2, checkpoints.
The schedule that it makes of them is replaced. Its option `pipeline_parallel_schedule` goes on
saying how the stages lie: Interleaved1F1B as a loop, ZBVZeroBubble as a vee, 1F1B one on a rank.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from zeropp.runtime.split import split_layers
from zeropp.runtime.split_rules import rule_of
from zeropp.runtime.tape import Recorder
from zeropp.torch.compat import inside_of
from zeropp.torch.schedule import ScheduleZeroPP

try:
    from torchtitan.distributed.pipeline_parallel import pipeline_llm
except ImportError as error:
    raise ImportError(
        "zeropp.torchtitan needs torchtitan 0.3; pip install 'zeropp[torchtitan]'"
    ) from error

Made = tuple[ScheduleZeroPP, list[nn.Module], bool, bool]


def pipelining_fn(
    model: nn.Module,
    *,
    zeropp: Mapping[str, Any] | None = None,
    inner: Callable[..., tuple[Any, list[nn.Module], bool, bool]] = pipeline_llm,
    **given: Any,
) -> Made:
    """For `ModelSpec.pipelining_fn`: the schedule, this rank's parts of the model, and whether it
    has the first and the last of them.

    Args:
        model: whole, as torchtitan gives it.
        zeropp: options of `ScheduleZeroPP`, which say the order and its collectives.
        inner: the model's own pipelining function.
        given: what torchtitan gives, by name.

    Raises:
        ValueError: what cannot be split, by the option that asks for it, or as `ScheduleZeroPP`.
    """
    _require_possible(given)
    given["parallelize_fn"] = _split_first(given["parallelize_fn"])
    schedule, parts, first, last = inner(model, **given)
    stages, number, loss_fn = inside_of(schedule)
    options = {"scale_grads": schedule.scale_grads} | dict(zeropp or {})
    return ScheduleZeroPP(stages, number, loss_fn, **options), parts, first, last


def _split_first(parallelize: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`parallelize_fn` of a part whose layers are split before: it puts a `forward` of its own
    around theirs, by which they would be left whole, and asks their class for arguments' names.
    """

    def parallelized(part: nn.Module, **given: Any) -> nn.Module:
        layer: Any
        for layer in part.modules():
            if rule_of(layer) is not None and hasattr(layer, "_cache_pos_arg_names"):
                layer._cache_pos_arg_names()
        split_layers(part, Recorder())
        return parallelize(part, **given)

    return parallelized


def _require_possible(given: Mapping[str, Any]) -> None:
    compiling, dims = given["compile_config"], given["parallel_dims"]
    if compiling.enable and "model" in compiling.components:
        raise ValueError(
            "compile.components: torchtitan compiles whole layers, which the split would have to "
            'stop; leave "model" out, as "loss" alone may be compiled'
        )
    for name, parallel in (("tensor", "tp"), ("context", "cp"), ("expert", "ep")):
        if getattr(dims, f"{parallel}_enabled"):
            raise ValueError(
                f"parallelism.{name}_parallel_degree: not split yet; use pipelines and data "
                "parallelism alone"
            )
    if given["parallelism"].pipeline_parallel_schedule_csv:
        raise ValueError(
            "parallelism.pipeline_parallel_schedule_csv: give the file to zeropp as its program"
        )
