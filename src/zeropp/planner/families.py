"""Families of plans that people would pick by name, to compare the best of each."""

from collections.abc import Mapping
from types import MappingProxyType

from zeropp.ir.placement import Shape
from zeropp.planner.layout import Layout
from zeropp.planner.order import Order
from zeropp.planner.search import Wanted
from zeropp.program.collectives import Policy


def anything(layout: Layout, order: Order) -> bool:
    """Every plan."""
    return True


def _plain(layout: Layout, order: Order) -> bool:
    """What FSDP and DDP do: every stage is gathered for each micro-batch, or stays."""
    return layout.pp_size == 1 and (order.unit_size == 1 or order.shard is Policy.STEP)


def _pipelined(schedule: str) -> Wanted:
    return lambda layout, order: layout.pp_size > 1 and order.schedule == schedule


FAMILIES: Mapping[str, Wanted] = MappingProxyType(
    {
        "plain FSDP": _plain,
        "FSDP in units": lambda layout, order: layout.pp_size == 1 and not _plain(layout, order),
        "1F1B": _pipelined("1f1b"),
        "interleaved 1F1B": _pipelined("interleaved-1f1b"),
        "breadth-first": _pipelined("breadth-first"),
        "ZeroPP": _pipelined("zeropp"),
        "a vee": lambda layout, order: layout.placement.shape is Shape.VEE,
    }
)


def family_of(layout: Layout, order: Order) -> str:
    """The family's name."""
    return next(name for name, wanted in FAMILIES.items() if wanted(layout, order))
