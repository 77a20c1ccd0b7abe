"""The engine: torch starts here; runs programs on ranks, exactly."""

from zeropp.runtime.auxiliary import AuxiliaryLoss
from zeropp.runtime.executor import Observer, Phase
from zeropp.runtime.grid import check_world_size, close_mesh, make_mesh, pipelines
from zeropp.runtime.keywords import Whole
from zeropp.runtime.mesh import data_rank, data_size, default_device
from zeropp.runtime.observers import Observers
from zeropp.runtime.outcome import StepFailedError, StepOutput
from zeropp.runtime.pipeline import Pipeline
from zeropp.runtime.report import split_report

__all__ = [
    "AuxiliaryLoss",
    "Observer",
    "Observers",
    "Phase",
    "Pipeline",
    "StepFailedError",
    "StepOutput",
    "Whole",
    "check_world_size",
    "close_mesh",
    "data_rank",
    "data_size",
    "default_device",
    "make_mesh",
    "pipelines",
    "split_report",
]
