"""What ranks have when they are forked: loaded once, by a process that runs nothing."""

import signal

from zeropp.ir.collector import loading

signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is the launcher's, which tells them

with loading():
    import torch._dynamo  # by the first optimizer
    import torch.distributed.tensor.debug  # by the end of the first mesh  # noqa: F401

    import zeropp.runtime  # noqa: F401
