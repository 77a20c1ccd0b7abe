"""A rank makes only its own process groups, and none outlives the pipeline that it was made for."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _world
from torch.testing._internal.distributed import fake_pg as fake_pg  # registers the backend

import zeropp.runtime.compat as compat
from support.exactness import whole
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime import grid
from zeropp.runtime.grid import make_mesh
from zeropp.runtime.pipeline import Pipeline

P, ROUNDS = 16, 5


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).pow(2).sum()


def linear(count: int) -> list[nn.Module]:
    """The first and the last are tied."""
    torch.manual_seed(5)
    blocks = [nn.Linear(4, 4) for _ in range(count)]
    blocks[-1].weight = blocks[0].weight
    return [*blocks]


class CountingStore(dist.Store):
    """Counts what would be sent to the store's host."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.counts = dist.HashStore(), Counter[str]()

    def set(self, key: str, value: Any) -> None:
        self.counts["set"] += 1
        self.real.set(key, value)

    def get(self, key: str) -> bytes:
        self.counts["get"] += 1
        return self.real.get(key)

    def add(self, key: str, value: int) -> int:
        self.counts["add"] += 1
        return self.real.add(key, value)

    def wait(self, keys: list[str], timeout: timedelta = timedelta(seconds=1)) -> None:
        self.counts["wait"] += 1
        self.real.wait(keys, timeout)

    def check(self, keys: list[str]) -> bool:  # the watchdog's, once a second
        return self.real.check(keys)


def start_up(d: int, rank: int) -> dict[str, int]:
    """What pipeline rank `rank` of an emulated world of P x d ranks makes and asks of the store."""
    plan = Plan(P, 1, 4, "gpipe", dp_shard=d)
    store = CountingStore()
    dist.init_process_group(dist.Backend.FAKE, store=store, rank=rank * d, world_size=P * d)
    mesh, held = make_mesh(plan.pp_size, 1, plan.dp_shard), len(_world.pg_names)
    store.counts.clear()
    with patch.object(dist, "new_group") as new_group:
        pipe = pipeline(linear(P), squares, plan, mesh)
    found = {**store.counts, "groups": len(_world.pg_names) - held}
    assert not new_group.called  # by which every rank would take part in every group
    pipe.close()
    dist.destroy_process_group()
    return found


def start_ups() -> list[list[dict[str, int]]]:
    """For several ranks, with 1, 4 and 64 pipelines."""
    dist.destroy_process_group()
    return [[start_up(d, rank) for d in (1, 4, 64)] for rank in (0, 7, 15)]


def test_what_a_rank_makes_does_not_grow_with_the_number_of_pipelines() -> None:
    (found,) = run_ranks(1, start_ups)
    for groups, by_pipelines in zip((3, 4, 3), found, strict=True):  # channels, and the ends' tie
        assert by_pipelines == [{"groups": groups, "add": groups}] * 3


Held = tuple[int, int, int, int]


def held() -> Held:
    """Files, threads of the process and of Python, process groups."""
    files, threads = len(os.listdir("/proc/self/fd")), len([*own_threads()])
    return files, threads, threading.active_count(), len(_world.pg_names)


def own_threads() -> Iterator[str]:
    """All but those of autograd, which a build for CUDA makes once, in the first backward."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            name = (task / "comm").read_text()
            if not name.startswith("pt_autograd"):
                yield name


def left(before: Held) -> Held:
    """What is held once threads that have ended are gone."""
    deadline = time.monotonic() + 5
    while (now := held()) != before and time.monotonic() < deadline:
        time.sleep(0.02)
    return now


def train(pipe: Pipeline) -> float:
    """The loss of a step."""
    x = torch.ones(2, 4)
    return float(pipe.step((x, x)).loss)


def make_and_close(dp_size: int) -> list[Held]:
    """What is held before and after each of several pipelines that are made, run and closed."""
    found = [held()]
    for _ in range(ROUNDS):
        pipe = pipeline(linear(2), squares, Plan(2, 1, 2, dp_shard=dp_size))
        optimizer = torch.optim.Adam(pipe.parameters())
        train(pipe)
        optimizer.step()
        for state in optimizer.state.values():  # it is on this pipeline's mesh, no closed one's
            assert whole(state["exp_avg"]).abs().sum() > 0
        pipe.close()
        found.append(left(found[0]))
        pipe.close()  # which changes nothing
    return found


@pytest.mark.parametrize("dp_size", [1, 2])
def test_a_closed_pipeline_leaves_nothing_behind(dp_size: int) -> None:
    for found in run_ranks(2 * dp_size, make_and_close, dp_size, timeout=200):
        assert found == found[:1] * (1 + ROUNDS)


def take_turns() -> list[float]:
    """Losses of pipelines of the same ranks at work in turns, one closed and made anew between."""
    if dist.get_rank() == 0:  # ranks need not have the same number of groups
        dist.new_group([0], use_local_synchronization=True)
    plan = Plan(2, 2, 2)
    mesh = make_mesh(plan.pp_size, 1, plan.dp_shard)
    first, second = (pipeline(linear(4), squares, plan, mesh) for _ in range(2))
    losses = [train(pipe) for pipe in (first, second, second, first)]
    first.close()
    third = pipeline(linear(4), squares, plan, mesh)
    losses += [train(pipe) for pipe in (second, third)]
    second.close()
    losses.append(train(third))
    third.close()
    mesh["pp"].get_group().size()  # was given, and is still there
    return losses


def test_pipelines_of_the_same_ranks_work_side_by_side() -> None:
    for losses in run_ranks(2, take_turns):
        assert losses == losses[:1] * 7


def make_groups() -> list[tuple[str, float, bool]]:
    """Of the members' own, one after another, in a world that is bound to a device."""
    world, found = dist.group.WORLD, []
    assert world is not None
    world.bound_device_id = torch.device("cuda", 0)  # type: ignore[assignment]
    for ranks in ((1, 0), (2, 1), (1, 0)):
        if dist.get_rank() in ranks:
            group = compat.new_group(ranks, "test")
            total = torch.ones(())
            dist.all_reduce(total, group=group)
            first = dist.get_global_rank(group, 0) == ranks[0]
            found.append((group.group_name, float(total), first))
            dist.destroy_process_group(group)
    assert world.bound_device_id == torch.device("cuda", 0)
    return found


def test_groups_are_made_by_their_members_alone() -> None:
    one, other = ("zeropp test 1-0 #1", 2.0, True), ("zeropp test 2-1 #1", 2.0, True)
    again = ("zeropp test 1-0 #2", 2.0, True)
    assert run_ranks(4, make_groups) == [[one, again], [one, other, again], [other], []]


@pytest.mark.parametrize(
    ("local_rank", "in_use", "chosen"), [("3", False, [3]), (None, False, [1]), ("3", True, [])]
)
def test_a_rank_takes_the_gpu_of_its_place_before_it_meets_others(
    monkeypatch: pytest.MonkeyPatch, local_rank: str | None, in_use: bool, chosen: list[int]
) -> None:
    taken: list[int] = []
    known = {"is_available": True, "is_initialized": in_use, "device_count": 4}
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cuda:nccl")
    monkeypatch.setattr(dist, "get_rank", lambda: 5)
    monkeypatch.setenv("LOCAL_RANK", local_rank or "")
    if local_rank is None:
        monkeypatch.delenv("LOCAL_RANK")
    grid._choose_gpu()
    assert taken == chosen
