"""Running ranks from a verb: their failure or a signal becomes the command's exit status."""

import sys
from collections.abc import Callable
from typing import Any


def run_on_ranks(ranks: int, device: str, function: Callable[..., None], *args: Any) -> None:
    """Run the ranks; exit with 1 if one fails, with 128 + the signal if stopped by one."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from zeropp.launch.ranks import launch

    try:
        launch(ranks, device, function, *args)
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except SignalException as stopped:
        print("zeropp: stopped", file=sys.stderr)
        raise SystemExit(128 + stopped.sigval) from None
