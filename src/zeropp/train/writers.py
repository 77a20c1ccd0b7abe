"""Other places to which a run's numbers go: TensorBoard's files, and Weights & Biases."""

import json
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from zeropp.ir.files import write_text
from zeropp.report.folder import TENSORBOARD, read_json
from zeropp.train.config import RunConfig

_IDENTITY = "wandb.json"  # the run's id there, with which it goes on


class Writer(Protocol):
    """Takes a step's numbers; what it raises ends it, and not the run.

    Attributes:
        name: what is said of it.
    """

    name: str

    def write(self, metrics: Mapping[str, Any], picture: Path | None) -> None:
        """One step's numbers and, where one was drawn, its picture."""

    def close(self) -> None:
        """Nothing more comes."""


def require_wandb() -> None:
    """Raise ValueError where it is not installed."""
    if find_spec("wandb") is None:
        raise ValueError("run.wandb: wandb is not installed; pip install 'zeropp[wandb]'")


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn as a curve."""
    found = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
    return {name: float(value) for name, value in found.items() if name not in ("step", "time")}


class TensorBoard:
    """Writes its files into the run's folder.

    Args:
        folder: of the run.
        step: after which it goes on; what was written of later ones is not shown.
    """

    name = "run.tensorboard"

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)
        self._hook = threading.excepthook
        threading.excepthook = self._heard

    def write(self, metrics: Mapping[str, Any], picture: Path | None) -> None:
        """A scalar a number, and the timeline as an image."""
        step, now = metrics["step"], metrics.get("time")
        for name, value in numbers_of(metrics).items():
            self._writer.add_scalar(name, value, step, walltime=now)
        if picture is not None:
            from matplotlib.image import imread

            self._writer.add_image("timeline", imread(picture), step, now, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """All is on the disk."""
        try:
            self._writer.close()
        finally:
            threading.excepthook = self._hook

    def _heard(self, failed: threading.ExceptHookArgs) -> None:
        """What ends TensorBoard's own thread, the next write raises again, and it is told then."""
        if not type(failed.thread).__module__.startswith("tensorboard."):
            self._hook(failed)


class Wandb:
    """Writes to a project there, or offline into the run's folder (WANDB_MODE=offline).

    Args:
        project: its name.
        folder: of the run, which keeps the run's id.
        config: the run's, as a table.
    """

    name = "run.wandb"

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        known = read_json(folder / _IDENTITY)
        identity = known.get("id") if isinstance(known, dict) else None
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            name=folder.name,
            dir=str(folder),
            id=identity,
            resume="allow",
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        if self._run.id != identity:
            text = json.dumps({"id": self._run.id, "project": project}) + "\n"
            write_text("run.folder", folder / _IDENTITY, text)

    def write(self, metrics: Mapping[str, Any], picture: Path | None) -> None:
        """All numbers of a step at once."""
        row: dict[str, Any] = numbers_of(metrics)
        if picture is not None:
            row["timeline"] = self._wandb.Image(str(picture))
        self._run.log(row, step=metrics["step"])

    def close(self) -> None:
        """All is handed over."""
        self._run.finish()


def makers_of(
    run: RunConfig, folder: Path, step: int, config: Mapping[str, Any]
) -> dict[str, Callable[[], Writer]]:
    """Of those that are asked for."""
    found: dict[str, Callable[[], Writer]] = {}
    if run.tensorboard:
        found[TensorBoard.name] = partial(TensorBoard, folder, step)
    if run.wandb is not None:
        found[Wandb.name] = partial(Wandb, run.wandb, folder, config)
    return found
