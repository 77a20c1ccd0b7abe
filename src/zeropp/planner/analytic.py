"""The analytic profile: times and bytes from a model's shape and a named GPU, its links assumed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from itertools import product

from zeropp.ir.model import GPTConfig
from zeropp.ir.program import Recompute
from zeropp.planner.decoder import DecoderShape, Load, Work, embedding, head, layer
from zeropp.planner.hardware import GPU, between_wire, gpu_named, inside_wire
from zeropp.planner.link import steady
from zeropp.planner.profile import Block, Device, Profile, Setting

_OPTIMIZER_BYTES = 32.0  # AdamW in fp32 reads p, g, m, v and writes p, m, v; the norm reads g


@dataclass(frozen=True)
class Efficiency:
    """What share of a nominal rate is reached.

    Attributes:
        products: of the peak FLOP/s, in matrix products.
        attention: of the peak FLOP/s, in attention.
        memory: of the memory's bandwidth.
        links: of a link's rate.
        launch: seconds below which no pass of a block gets, to launch its kernels.

    Raises:
        ValueError: a share that is not above 0 and at most 1, or a negative time.
    """

    products: float = 0.65
    attention: float = 0.45
    memory: float = 0.8
    links: float = 0.8
    launch: float = 1e-4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "launch" and not 0 < value <= 1:
                raise ValueError(f"{field.name} must be above 0 and at most 1, got {value}")
        if not 0 <= self.launch < 1:
            raise ValueError(f"launch must be from 0 to 1 second, got {self.launch}")


@dataclass(frozen=True)
class Hardware:
    """A cluster by names.

    Attributes:
        gpu: a key of `hardware.GPUS`.
        inside: link inside a node: `nvlink`, a PCIe, or GB/s in one direction.
        between: link of one network card: InfiniBand, Ethernet, or GB/s in one direction.
        gpus_per_node: GPUs that share a node's cards.
        cards: network cards of a node; None: one for each GPU with InfiniBand, else one.
    """

    gpu: str
    inside: str
    between: str
    gpus_per_node: int = 8
    cards: int | None = None

    @property
    def num_cards(self) -> int:
        """Network cards of a node, with the default filled in."""
        if self.cards is not None:
            return self.cards
        return self.gpus_per_node if self.between.startswith("ib-") else 1


def analytic_profile(
    model: GPTConfig | DecoderShape,
    hardware: Hardware,
    seq_len: int,
    micro_batch_sizes: Iterable[int],
    *,
    flash: bool = True,
    efficiency: Efficiency | None = None,
) -> Profile:
    """A profile at every micro-batch size and every `Recompute`.

    Compute is FLOPs over an achieved share of the peak, plus other bytes over the memory's
    bandwidth. Against measurements expect 10 to 20 % in time, and more where kernels are small.

    Raises:
        ValueError: an unknown GPU or link, or a number out of range.
    """
    efficiency = efficiency or Efficiency()
    shape = DecoderShape.of(model) if isinstance(model, GPTConfig) else model
    gpu = gpu_named(hardware.gpu)
    if hardware.gpus_per_node < 1 or hardware.num_cards < 1:
        raise ValueError("gpus_per_node and cards must be at least 1")
    inside = inside_wire(hardware.inside, hardware.gpu)
    between = between_wire(hardware.between)
    shared = between.bandwidth * hardware.num_cards / hardware.gpus_per_node
    clock = partial(_seconds, gpu, efficiency)
    blocks = {
        Setting(size, recompute): {
            "embedding": _block(embedding(shape, size, seq_len), clock),
            "layer": _block(layer(shape, size, seq_len, recompute, flash=flash), clock),
            "head": _block(head(shape, size, seq_len), clock),
        }
        for size, recompute in product(micro_batch_sizes, Recompute)
    }
    return Profile(
        device=Device(hardware.gpu, gpu.memory, gpu.peak_flops),
        seq_len=seq_len,
        kinds=("embedding", *("layer",) * shape.layers, "head"),
        parameters=shape.parameters,
        trained=shape.trained,
        blocks=blocks,
        inside=steady(inside.latency, inside.bandwidth * efficiency.links),
        between=steady(between.latency, shared * efficiency.links),
        optimizer=_OPTIMIZER_BYTES / (gpu.memory_bandwidth * efficiency.memory),
        assumptions=(*shape.assumptions, *_assumptions(hardware, gpu, efficiency, flash)),
    )


def _seconds(gpu: GPU, share: Efficiency, work: Work | None) -> float:
    """Of work on one GPU; of none, nothing."""
    if work is None or work == Work():  # weights that are frozen have no W
        return 0.0
    time = work.products / (gpu.peak_flops * share.products)
    time += work.attention / (gpu.peak_flops * share.attention)
    time += work.moved / (gpu.memory_bandwidth * share.memory)
    return max(time, share.launch)


def _block(load: Load, clock: Callable[[Work | None], float]) -> Block:
    passes = {name: clock(getattr(load, name)) for name in ("forward", "backward", "weight")}
    return Block(**vars(load) | passes)


def _assumptions(
    hardware: Hardware, gpu: GPU, efficiency: Efficiency, flash: bool
) -> tuple[str, ...]:
    cards = f"{hardware.num_cards} x {hardware.between}"
    return (
        f"{hardware.gpu}: {efficiency.products:.0%} of {gpu.peak_flops / 1e12:g} TFLOP/s in matrix "
        f"products, {efficiency.attention:.0%} in attention, {efficiency.memory:.0%} of "
        f"{gpu.memory_bandwidth / 1e12:g} TB/s for the rest; no pass of a block below "
        f"{efficiency.launch * 1e6:g} us",
        f"links at {efficiency.links:.0%} of their rate: {hardware.inside} inside a node, "
        f"{cards} of a node's {hardware.gpus_per_node} GPUs between nodes",
        f"{'flash attention, causal' if flash else 'attention with its scores in memory'}; "
        "activations in bf16, sums of gradients and AdamW in fp32",
        "communication does not slow down compute that runs beside it",
    )
