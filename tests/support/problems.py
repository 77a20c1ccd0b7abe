"""Small random planning problems, and the best plan of each by trying every one."""

import random
from dataclasses import replace

from zeropp.ir.program import Recompute
from zeropp.planner import Problem
from zeropp.planner.layout import Layout
from zeropp.planner.link import steady
from zeropp.planner.order import Order, orders
from zeropp.planner.predict import made_order, predict
from zeropp.planner.pricing import cut, price
from zeropp.planner.profile import Block, Device, Profile, Setting
from zeropp.planner.search import layouts

CHUNKS = (1, 2, 4, 8)


def random_problem(seed: int) -> Problem:
    """A few blocks on two to eight devices with ample memory, and fast or slow links."""
    r = random.Random(seed)
    layers, gpus = r.randint(2, 6), r.choice([2, 4, 4, 8])
    kinds = ("embedding", *("layer",) * layers, "head")
    settings = [Setting(r.choice([1, 2]), Recompute.NONE)]
    if r.random() < 0.5:
        settings.append(Setting(settings[0].micro_batch_size, Recompute.FULL))
    profile = Profile(
        device=Device("test", memory=1e9, peak_flops=1e12),
        seq_len=128,
        kinds=kinds,
        parameters={kind: round(10 ** r.uniform(5, 7.3)) for kind in sorted(set(kinds))},
        blocks={
            s: {kind: _block(r, s) for kind in ("embedding", "layer", "head")} for s in settings
        },
        inside=steady(1e-5, 10 ** r.uniform(7, 9.5)),
        between=steady(1e-5, 10 ** r.uniform(7, 9.5)),
        optimizer=1e-9,
    )
    batch = gpus * settings[0].micro_batch_size * r.choice([1, 2, 3])
    return Problem(profile, gpus, r.choice([1, 2, gpus]), batch)


def _block(r: random.Random, setting: Setting) -> Block:
    forward = r.uniform(1, 10) * 1e-3 * setting.micro_batch_size
    again = setting.recompute is Recompute.FULL
    kept = r.uniform(0.5, 3) * 1e6
    return Block(
        forward=forward,
        backward=forward * (r.uniform(0.8, 1.3) + again),
        weight=forward * r.uniform(0.4, 1.0),
        until_backward=kept * (0.1 if again else 1.0),
        until_weight=kept * r.uniform(0.3, 1.0),
        message=r.uniform(0.1, 1) * 1e6,
        workspace=kept if again else 0.0,
    )


def every_plan(problem: Problem) -> list[tuple[float, float, Layout, Order]]:
    """Seconds, peak bytes, layout and order of every plan in the space."""
    found = []
    for layout in layouts(problem, CHUNKS):
        priced = price(problem, layout, cut(problem, layout))
        for order in orders(layout.placement, priced.num_microbatches):
            prediction = predict(priced, order, made_order(priced, order))
            found.append((prediction.step_s, prediction.peak_bytes, layout, order))
    return found


def tightened(problem: Problem, share: float) -> tuple[Problem, float]:
    """With memory for so large a share of all plans, and the fastest of those, in seconds."""
    every = sorted(every_plan(problem), key=lambda plan: plan[1])
    memory = every[round(share * (len(every) - 1))][1]
    return replace(problem, memory=memory), min(step for step, peak, *_ in every if peak <= memory)
