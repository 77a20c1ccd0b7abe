"""Whether ranks that nobody here has seen can be relied on: a page of what they did."""

import copy
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.tensor import DTensor

from zeropp.build import pipeline
from zeropp.costs import Costs
from zeropp.ir import Placement, Shape
from zeropp.ir.files import write_text
from zeropp.launch import Ended
from zeropp.measure.links import SMALL, measure_hop, measure_link
from zeropp.measure.rehearsal import rehearse
from zeropp.plan import Plan
from zeropp.runtime import data_rank, default_device
from zeropp.runtime.compat import common_store
from zeropp.runtime.mesh import gathered, new_name
from zeropp.runtime.pipeline import Pipeline
from zeropp.runtime.watchdog import Watchdog

_LARGE = 2**23  # bytes of a message whose time is all bandwidth
_SLOW = 3.0  # times the median of all links
_EXACT = 1e-4  # of a gradient, in fp32
_WIDTH, _ACTION_S = 32, 0.010
_STUCK_S, _PATIENCE_S = 1.0, 10.0  # a timeout, and how long all ranks may take to hear of it
WRONG = "WRONG: "


def examine(output: Path | None) -> None:
    """Examine as one rank; the first prints the page, and writes it where it is to be kept.

    Raises:
        Ended: on every rank: something on the page is wrong.
    """
    device, page = default_device(), [f"# {dist.get_world_size()} ranks, {default_device().type}"]
    sections: dict[str, Callable[[torch.device], Iterator[str]]] = {
        "Ranks": _ranks,
        "Messages from a rank to the next": _messages,
        "Collectives of all": _collectives,
        "Gradients against plain PyTorch": _gradients,
        "A step of sleeping stages, predicted and measured": _step,
        "A rank that stands still": _watchdog,
    }
    leads = dist.get_rank() == 0
    if leads:
        print(page[0], flush=True)
    for title, section in sections.items():
        page += (lines := ["", f"## {title}", "", *(f"- {line}" for line in section(device))])
        if leads:
            print("\n".join(lines), flush=True)
    if leads and output is not None:
        write_text("output", output, "\n".join(page) + "\n")
    if wrong := sum(WRONG in line for line in page):
        raise Ended(f"doctor: {wrong} of these lines say what is wrong")


def _ranks(device: torch.device) -> Iterator[str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    hosts: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for rank, what in enumerate(gathered((socket.gethostname(), name, torch.__version__))):
        hosts[what].append(rank)
    for (host, name, version), ranks in hosts.items():
        yield f"{host}: ranks {_listed(ranks)}, {name}, torch {version}"
    if len({version for *_, version in hosts}) > 1:
        yield f"{WRONG}torch is not the same everywhere"


def _listed(ranks: list[int]) -> str:
    in_a_row = ranks == list(range(ranks[0], ranks[-1] + 1)) and len(ranks) > 1
    return f"{ranks[0]} to {ranks[-1]}" if in_a_row else ", ".join(map(str, ranks))


def _messages(device: torch.device) -> Iterator[str]:
    pairs = [(rank, rank + 1) for rank in range(dist.get_world_size() - 1)]
    times = {}
    for pair in pairs:
        small = measure_hop(*pair, SMALL, device)
        large = measure_hop(*pair, _LARGE, device, rounds=5)
        times[pair] = small.latency + small.host, large.latency + large.host
    if not times:
        yield "one rank sends none"
        return
    usual = [median(each) for each in zip(*times.values(), strict=True)]
    yield f"latency {usual[0] * 1e6:.0f} us, {_LARGE / usual[1] / 1e9:.2f} GB/s; of the median pair"
    for (first, last), (small_s, large_s) in times.items():
        if large_s > _SLOW * usual[1]:
            yield (
                f"{WRONG}rank {first} to {last}: {small_s * 1e6:.0f} us, "
                f"{_LARGE / large_s / 1e9:.2f} GB/s"
            )


def _collectives(device: torch.device) -> Iterator[str]:
    link = measure_link(range(dist.get_world_size()), device)
    if link is None:
        yield "one rank needs none"
        return
    for name, times in (("gather", link.gather), ("reduce", link.reduce)):
        size, seconds = times[-1]
        speed = f"{size / seconds / 1e9:.2f} GB/s"
        yield f"{name} of {size / 2**20:.0f} MiB: {seconds * 1e3:.1f} ms, {speed}"


def _gradients(device: torch.device) -> Iterator[str]:
    for plan in plans(dist.get_world_size()):
        error, where = worst_error(plan, device)
        said = "" if error <= _EXACT else f"{WRONG}{where}: "
        layout = f"P={plan.pp_size} V={plan.num_chunks} D={plan.dp_size}"
        yield f"{said}{plan.schedule}, {layout}: {error:.1e}"


def plans(ranks: int) -> Iterator[Plan]:
    """Layouts over so many ranks: a loop and a vee of up to eight, and all of them sharded."""
    longest = max(size for size in range(1, 9) if ranks % size == 0)
    for schedule in ("zeropp", "zb-v") if longest > 1 else ("zeropp",):
        yield Plan(longest, 2, 2 * longest, schedule, dp_shard=ranks // longest)
    if longest > 1:
        yield Plan(1, 2, 4, dp_shard=ranks)


def worst_error(plan: Plan, device: torch.device) -> tuple[float, str]:
    """The largest relative error of any rank's gradients, and whose; collective."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.Tanh()) for _ in range(2 * plan.pp_size)]
    samples = plan.num_microbatches * plan.dp_size
    inputs, targets = torch.randn(2, samples, _WIDTH, device=device)
    plain = nn.Sequential(*copy.deepcopy(layers)).to(device)
    (_squares(plain(inputs), targets) / targets.numel()).backward()
    pipe = pipeline(layers, _squares, plan)
    own = slice(data_rank(pipe.mesh), None, plan.dp_size)
    pipe.step((inputs[own], targets[own]))
    wanted = {name: parameter.grad for name, parameter in plain.named_parameters()}
    errors = {name: _error(grad, wanted[name]) for name, grad in _whole_gradients(pipe)}
    pipe.close()
    own_worst = max((error, f"rank {dist.get_rank()}, {name}") for name, error in errors.items())
    return max(gathered(own_worst))


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum()


def _whole_gradients(pipe: Pipeline) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in pipe.named_parameters():
        grad = parameter.grad
        if grad is not None:
            yield name, grad.full_tensor() if isinstance(grad, DTensor) else grad


def _error(found: Tensor, wanted: Tensor | None) -> float:
    if wanted is None or not bool(found.isfinite().all()):
        return float("inf")
    return float((found - wanted).norm() / wanted.norm())


def _step(_: torch.device) -> Iterator[str]:
    ranks = dist.get_world_size()
    plan = next(plans(ranks))
    times = (_ACTION_S,) * (plan.pp_size * plan.num_chunks)
    found = rehearse(plan, Costs(times, times, times))
    late = found.measured_s / found.predicted_s - 1
    yield (
        f"{found.predicted_s * 1e3:.0f} ms predicted, {found.measured_s * 1e3:.0f} ms measured "
        f"({late:+.1%}), a hop of {found.latency_s * 1e6:.0f} us between the hosts' processors"
    )


def _watchdog(_: torch.device) -> Iterator[str]:
    """The last rank begins an action that does not end; all must hear, and say where they are."""
    stuck = dist.get_world_size() - 1
    seconds, said = _stood_still(stuck)
    found = gathered((seconds, said.count(f"rank {stuck} waited more than {_STUCK_S:g} s")))
    deaf = [rank for rank, (_, heard) in enumerate(found) if not heard]
    if deaf:
        yield f"{WRONG}ranks {_listed(deaf)} did not hear that rank {stuck} stood still"
    else:
        late = max(seconds for seconds, _ in found)
        yield f"found on all ranks in {late:.1f} s, with a timeout of {_STUCK_S:g} s"


def _stood_still(stuck: int) -> tuple[float, str]:
    """Seconds until this rank's watchdog spoke, and what it said; it ends nothing here."""
    rank, ended, said = dist.get_rank(), threading.Event(), StringIO()
    store = PrefixStore(new_name(), common_store())
    line = Placement(Shape.LOOP, dist.get_world_size(), 1)
    with redirect_stderr(said):
        watchdog = Watchdog(line, rank, store, _STUCK_S, stop=lambda _: ended.set())
        dist.barrier()
        begun = time.perf_counter()
        if rank == stuck:
            watchdog.begin("in a trial of the watchdog")
        while not said.getvalue() and time.perf_counter() < begun + _PATIENCE_S:
            time.sleep(0.01)
        seconds = time.perf_counter() - begun
        ended.wait(_PATIENCE_S)
        watchdog.close()
    return seconds, said.getvalue()
