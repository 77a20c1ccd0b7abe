"""Profiles as TOML.

seq_len = 4096
blocks = [["embedding", 1], ["layer", 32], ["head", 1]]     in forward order, how many of each
optimizer = 1.6e-11                                         seconds per parameter kept
assumptions = ["..."]

[device]        name, memory, peak_flops
[precision]     parameter, compute, reduce, gradient, optimizer     bytes per parameter
[parameters]    for each kind, how many parameters a block has
[trained]       for each kind that is frozen in part, how many are not
[[times]]       kind, micro_batch_size, recompute, and the fields of `Block`; one for each
                kind and setting
[inside]        the fields of `Link`; [between] likewise; either may be left out
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import tomli_w

from zeropp.ir.files import write_text
from zeropp.ir.program import Recompute
from zeropp.ir.toml_file import make, read_toml, table_of, whole
from zeropp.planner.link import Link
from zeropp.planner.profile import Block, Device, Precision, Profile, Setting


@dataclass(frozen=True)
class _Of:
    kind: str
    micro_batch_size: int
    recompute: Recompute


@dataclass(frozen=True)
class _Times(Block, _Of):
    """A block of `kind` at a setting."""


@dataclass(frozen=True, kw_only=True)
class _File:
    seq_len: int
    optimizer: float = 0.0
    blocks: tuple[tuple[str, int], ...]
    assumptions: tuple[str, ...] = ()
    device: Device
    precision: Precision = field(default_factory=Precision)
    parameters: Mapping[str, int]
    trained: Mapping[str, int] = field(default_factory=dict)
    inside: Link | None = None
    between: Link | None = None
    times: tuple[_Times, ...]


_ALIKE = [one.name for one in fields(_File) if one.name not in ("blocks", "times")]


def write_profile(profile: Profile, path: Path) -> None:
    """Write `profile`; `read_profile` reads an equal one back."""
    file = _File(
        blocks=tuple((kind, len(list(same))) for kind, same in groupby(profile.kinds)),
        times=tuple(
            _Times(kind, *setting, **vars(block))
            for setting, blocks in profile.blocks.items()
            for kind, block in blocks.items()
        ),
        **{name: getattr(profile, name) for name in _ALIKE},
    )
    write_text("output", path, tomli_w.dumps(table_of(file)))


def read_profile(path: Path) -> Profile:
    """The profile in a file.

    Raises:
        ValueError: unreadable, or the field that is missing, unknown or out of range.
    """
    return read_toml("profile", path, _from_table)


def _from_table(table: dict[str, Any]) -> Profile:
    whole("seq_len", table["seq_len"])
    file = make(_File, table)
    blocks: dict[Setting, dict[str, Block]] = {}
    for times in file.times:
        size = whole("micro_batch_size", times.micro_batch_size)
        block = Block(**{one.name: getattr(times, one.name) for one in fields(Block)})
        blocks.setdefault(Setting(size, times.recompute), {})[times.kind] = block
    return Profile(
        kinds=tuple(kind for kind, count in file.blocks for _ in range(count)),
        blocks=blocks,
        **{name: getattr(file, name) for name in _ALIKE},
    )
