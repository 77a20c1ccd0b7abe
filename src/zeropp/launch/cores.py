"""On a CPU, the threads of a rank stay on its share of the machine's cores.

A thread that sends or receives for one rank and wakes on a core where another rank computes waits
there for the end of a time slice, some milliseconds, in which its own rank may stand still at a
lock that the thread holds.
"""

import os


def keep_to_own_cores(local_rank: int, local_ranks: int) -> int:
    """Bind this process, and all threads that it makes from here on, to its share; how many cores.

    It stays where it may run already, if a launcher or the user has bound it (numactl, torchrun's
    --numa-binding), if there are fewer cores than ranks, or where the system has no such calls.

    Args:
        local_rank: this process's number on this machine, from 0.
        local_ranks: how many there are, all bound alike.
    """
    every = os.cpu_count() or 1
    each = max(1, every // local_ranks)
    if not hasattr(os, "sched_setaffinity"):
        return each
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < every:
        return max(1, len(allowed) // local_ranks)
    if local_ranks <= every:
        os.sched_setaffinity(0, allowed[local_rank * each : (local_rank + 1) * each])
    return each
