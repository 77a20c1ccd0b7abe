"""torch's own tests of its pipelining schedules, with `ScheduleZeroPP` in the schedules' place.

Run: python scripts/torch_pipelining.py TORCH [TEST ...]; TORCH is the folder of torch's sources, of
the release that is installed. The classes ScheduleTest of its test_schedule_multiproc.py, in
`test/distributed/pipelining`, on CPU and gloo, and of test_schedule.py beside it are imported from
there; nothing is fetched, copied or changed. Needs `expecttest`, as those tests do.
docs/pipelining.md says which apply and what came out.
"""

import os
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed import pipelining

from zeropp.torch import ScheduleZeroPP

# which of our orders stands for which of torch's schedules
ORDERS: dict[str, dict[str, Any]] = {
    "Schedule1F1B": {"seam": "drain"},
    "ScheduleGPipe": {"schedule": "gpipe"},
    "ScheduleInterleaved1F1B": {"seam": "strict"},
    "ScheduleInterleavedZeroBubble": {"seam": "drain"},
    "ScheduleLoopedBFS": {"schedule": "breadth-first"},
    "ScheduleZBVZeroBubble": {"schedule": "zb-v"},
    "ScheduleDualPipeV": {"schedule": "dualpipe-v"},
}
NOT_OURS = (  # and why
    ("test_forward_only", "a schedule without backward, which is not replaced"),
    ("test_schedule_with_weight_update_mlp_e2e", "a dw_builder of its own, which is refused"),
    ("test_custom_function_callback", "wants actions that overlap F and B, which ours have not"),
    ("test_interleaved_1f1b_pre_split_flex_attention", "needs GPUs"),
    ("test_zero_bubble_schedule_errors_with_compile", "ours is refused by another error"),
    ("test_adjacency_guard", "of torch's runtime, without a schedule"),
    ("test_get_schedule_class", "the names of torch's own classes"),
    ("test_schedule_pre_split_args_kwargs_validation", "without a loss, and torch's own lines"),
)


def standing_for(name: str, order: dict[str, Any]) -> type[ScheduleZeroPP]:
    """A class of that name that makes our order."""

    def __init__(self: Any, stages: Any, *args: Any, **options: Any) -> None:  # noqa: N807
        ScheduleZeroPP.__init__(self, stages, *args, **order, **options)

    return type(name, (ScheduleZeroPP,), {"__init__": __init__})


def unchanged(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """In the place of a decorator that asks for GPUs."""
    return lambda function: function


def prepare(sources: Path) -> list[Any]:
    """torch's classes of tests, on CPU and gloo, with our schedules; also in their processes."""
    from torch.testing._internal import common_distributed, common_utils

    for name, order in ORDERS.items():
        setattr(pipelining, name, standing_for(name, order))
    common_distributed.requires_accelerator_dist_backend = unchanged
    common_distributed.skip_if_lt_x_gpu = unchanged
    common_utils.skip_but_pass_in_sandcastle_if = unchanged
    barrier = torch.distributed.barrier
    torch.distributed.barrier = lambda *args, **kwargs: barrier()
    sys.path.insert(0, str(sources / "test" / "distributed" / "pipelining"))
    import test_schedule as one_rank
    import test_schedule_multiproc as ranks

    ranks.device_type, ranks.backend = "cpu", "gloo"
    ranks.ScheduleTest.device_type = classmethod(lambda cls: "cpu")
    ranks.ScheduleTest.device = property(lambda self: torch.device("cpu"))
    return [one_rank.ScheduleTest, ranks.ScheduleTest]


def main() -> int:
    """Run what applies; 0 if all of it passes."""
    every = {name: each for each in TESTS for name in dir(each) if name.startswith("test_")}
    ours = []
    for name in sys.argv[2:] or every:
        reason = next((why for start, why in NOT_OURS if name.startswith(start)), None)
        if reason is None:
            ours.append(every[name](name))
        else:
            print(f"{name}: left out, {reason}")
    return 0 if passes(ours) else 1


def passes(tests: list[unittest.TestCase]) -> bool:
    """Run tests, those after one that fails with new processes; whether all of them pass."""
    for each in {type(test) for test in tests}:
        each.poison_pill = each._processes_spawned = False
    done = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(tests))
    left = [
        type(test)(test._testMethodName)
        for test, why in done.skipped
        if why.startswith("Previous test failed")
    ]
    return (not left or passes(left)) and done.wasSuccessful()


if len(sys.argv) < 2 or not Path(sys.argv[1], "test/distributed/pipelining").is_dir():
    sys.exit("usage: torch_pipelining.py TORCH [TEST ...]; TORCH is a folder of torch's sources")
os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = prepare(Path(sys.argv[1]))  # as well where a rank's process imports this file

if __name__ == "__main__":
    sys.exit(main())
