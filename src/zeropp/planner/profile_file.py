"""Profiles as TOML.

seq_len = 4096
blocks = [["embedding", 1], ["layer", 32], ["head", 1]]     in forward order, how many of each
optimizer = 1.6e-11                                         seconds per parameter kept
assumptions = ["..."]

[device]        name, memory, peak_flops
[precision]     parameter, compute, reduce, gradient, optimizer     bytes per parameter
[parameters]    for each kind, how many parameters a block has
[[times]]       kind, micro_batch_size, recompute, and the fields of `Block`; one for each
                kind and setting
[inside]        the fields of `Link`; [between] likewise; either may be left out
"""

import dataclasses
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from zeropp.ir.program import Recompute
from zeropp.ir.toml_file import fields_of, read_toml
from zeropp.planner.link import Link
from zeropp.planner.profile import Block, Device, Precision, Profile, Setting

_Part = TypeVar("_Part")
_FIELDS = frozenset(
    {"seq_len", "blocks", "optimizer", "assumptions", "device", "precision", "parameters"}
    | {"times", "inside", "between"}
)


def write_profile(profile: Profile, path: Path) -> None:
    """Write `profile`; `read_profile` reads an equal one back."""
    path.write_text(tomli_w.dumps(_as_table(profile)), encoding="utf-8")


def read_profile(path: Path) -> Profile:
    """The profile in a file.

    Raises:
        ValueError: unreadable, or the field that is missing, unknown or out of range.
    """
    return read_toml("profile", path, _from_table)


def _as_table(profile: Profile) -> dict[str, Any]:
    runs = [[kind, len(list(same))] for kind, same in groupby(profile.kinds)]
    links = {"inside": profile.inside, "between": profile.between}
    return {
        "seq_len": profile.seq_len,
        "optimizer": profile.optimizer,
        "blocks": runs,
        "assumptions": list(profile.assumptions),
        "device": dataclasses.asdict(profile.device),
        "precision": dataclasses.asdict(profile.precision),
        "parameters": dict(profile.parameters),
        **{name: dataclasses.asdict(link) for name, link in links.items() if link is not None},
        "times": [
            {
                "kind": kind,
                "micro_batch_size": setting.micro_batch_size,
                "recompute": str(setting.recompute),
                **dataclasses.asdict(block),
            }
            for setting, blocks in profile.blocks.items()
            for kind, block in blocks.items()
        ],
    }


def _from_table(table: dict[str, Any]) -> Profile:
    if unknown := sorted(table.keys() - _FIELDS):
        raise ValueError(f"unknown field {unknown[0]}; use {', '.join(sorted(_FIELDS))}")
    blocks: dict[Setting, dict[str, Block]] = {}
    for times in map(dict, table["times"]):
        kind, size = times.pop("kind"), times.pop("micro_batch_size")
        setting = Setting(_whole("micro_batch_size", size), _recompute(times.pop("recompute")))
        blocks.setdefault(setting, {})[kind] = _part(Block, "times", times)
    links = {name: table[name] for name in ("inside", "between") if name in table}
    return Profile(
        device=_part(Device, "device", table["device"]),
        seq_len=_whole("seq_len", table["seq_len"]),
        kinds=tuple(kind for kind, count in table["blocks"] for _ in range(count)),
        parameters=table["parameters"],
        blocks=blocks,
        precision=_part(Precision, "precision", table.get("precision", {})),
        optimizer=float(table.get("optimizer", 0.0)),
        assumptions=tuple(table.get("assumptions", ())),
        **{name: _part(Link, name, link) for name, link in links.items()},
    )


def _part(kind: type[_Part], name: str, table: dict[str, Any]) -> _Part:
    values = fields_of(kind, table, f"{name}.")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error


def _recompute(name: str) -> Recompute:
    if name not in list(Recompute):
        raise ValueError(f"times.recompute must be one of {', '.join(Recompute)}, got {name!r}")
    return Recompute(name)


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value
