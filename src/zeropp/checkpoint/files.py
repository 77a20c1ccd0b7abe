"""A checkpoint on disk: tensors in torch's format, and a header in JSON with all that is none.

Nothing is unpickled but torch's description of the tensors, and of that only the classes that
belong there.
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

FORMAT = 1
HEADER, METADATA = "zeropp.json", ".metadata"
_CLASSES = frozenset(
    {("torch", "Size"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict")}
    | {("pathlib", name) for name in ("PosixPath", "WindowsPath")}
    | {("pathlib._local", name) for name in ("PosixPath", "WindowsPath")}
    | {("torch.distributed.checkpoint.filesystem", "_StorageInfo")}
    | {
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    }
)


@dataclass(frozen=True)
class Header:
    """All of a checkpoint that is no tensor.

    Attributes:
        step: after how many steps it was written.
        draws: steps of the pipeline, on which random numbers depend.
        values: the optimizers' numbers, by the key that a tensor in their place would have.
        optimizers: the class of optimizer that trains a parameter, by its global name.
        run: what who saved it has added.
    """

    step: int
    draws: int
    values: Mapping[str, Any]
    optimizers: Mapping[str, str]
    run: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """As JSON, with the stamp of the format."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n"


class Reader(FileSystemReader):
    """Torch's reader, which loads nothing but what belongs into a checkpoint's description."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """What is there of every tensor.

        Raises:
            pickle.UnpicklingError: something else is.
        """
        with (Path(self.path) / METADATA).open("rb") as file:
            found = _Unpickler(file).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError("its .metadata is of no checkpoint")
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"its .metadata asks for {module}.{name}")
        return super().find_class(module, name)


def read(path: Path, what: str = "checkpoint") -> tuple[Header, Mapping[str, Any]]:
    """Its header, and of each tensor, by its key, torch's description.

    Raises:
        ValueError: begins with `what`; there is none, it is damaged, or of another format.
    """
    try:
        table = json.loads((path / HEADER).read_text(encoding="utf-8"))
        if not isinstance(table, dict) or table.pop("format", None) != FORMAT:
            raise ValueError(f"it is of another format than {FORMAT}")
        header = Header(**table)
        metadata = Reader(path).read_metadata()
        _require_whole(path, metadata)
    except Exception as error:  # of a file that is none, unpickling raises whatever it meets
        why = f"it holds no {HEADER}" if isinstance(error, FileNotFoundError) else error or "empty"
        raise ValueError(f"{what}: no checkpoint at {path}: {why}") from error
    return header, metadata.state_dict_metadata


def _require_whole(path: Path, metadata: Metadata) -> None:
    """Raise ValueError for a file of tensors that is missing or shorter than it was."""
    ends: dict[str, int] = {}
    for info in metadata.storage_data.values():
        file = str(info.relative_path)
        ends[file] = max(ends.get(file, 0), info.offset + info.length)
    for file, end in ends.items():
        held = (path / file).stat().st_size if (path / file).is_file() else 0
        if held < end:
            raise ValueError(f"{file} has {held} bytes of {end}")


def steps_in(folder: Path) -> dict[int, Path]:
    """The checkpoints that lie in a folder, by their steps, the first first."""
    names = (path.name.removeprefix("step-") for path in folder.glob("step-*"))
    steps = sorted(int(name) for name in names if name.isdecimal())
    return {step: folder / f"step-{step}" for step in steps}


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The last checkpoint of a folder that is whole, and why those after it are not."""
    refused: list[str] = []
    for path in reversed(steps_in(folder).values()):
        try:
            read(path)
            return path, refused
        except ValueError as error:
            refused.append(str(error))
    return None, refused
