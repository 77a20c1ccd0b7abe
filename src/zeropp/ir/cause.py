"""Why a rank's compute stream is idle."""

from enum import StrEnum


class Cause(StrEnum):
    """What it waits for."""

    RAMP = "ramp"  # before its first action
    PEER = "peer"  # an input from another rank is not there
    GATHER = "gather"  # the stage's parameters are not there
    MEMORY = "memory"  # the same, and their gather had to wait until another stage was freed
    REDUCE = "reduce"  # after its last action, until its gradients are reduced
    TAIL = "tail"  # after that, until the last rank ends
    OPTIMIZER = "optimizer"  # the optimizer's step
    HOST = "host"  # messages are sent and posted; measured: whatever runs the program
