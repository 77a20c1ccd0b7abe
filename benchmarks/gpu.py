"""One GPU: what the B/W split costs a decoder layer, and a training step against plain PyTorch.

Run: python benchmarks/gpu.py layers|training [--compile] [--json]; bf16, a minute or two each.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from support.claim import Figure, Row, parser, report
from zeropp.build import pipeline
from zeropp.ir.model import SIZES
from zeropp.measure.trace import clock_of
from zeropp.models import gpt_blocks, init_block
from zeropp.plan import Plan
from zeropp.runtime.lane import Lane
from zeropp.runtime.shard import place_parameters
from zeropp.runtime.stage import Stage, StageModule
from zeropp.train.gpt import token_loss

CLAIM = "On a GPU the split costs no time, and a step is as fast as plain PyTorch's"

GPU = torch.device("cuda")
TOKENS = 8192  # of a micro-batch
WARM_UP, REPEATS = 3, 8
Step = Callable[[], object]


def timed(steps: dict[str, Step], repeats: int = REPEATS) -> dict[str, tuple[float, float]]:
    """Of each by name, in turns: median seconds of the device, and of the host until it is free."""
    clock = clock_of(GPU)
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in steps}
    for turn in range(WARM_UP + repeats):
        for name, step in steps.items():
            clock.settle()
            start, begin = clock.now(), time.perf_counter()
            step()
            issued = time.perf_counter() - begin
            end = clock.now()
            clock.settle()
            if turn >= WARM_UP:
                found[name][0].append(clock.seconds(start, end))
                found[name][1].append(issued)
    return {name: (median(device), median(host)) for name, (device, host) in found.items()}


# Layers


def layers_of(family: str, hidden: int, seq_len: int, count: int) -> list[nn.Module]:
    """Decoder layers in bf16, of GPT-2's or Llama's parts."""
    own = {"GPT": SIZES["6.2b"], "Llama": replace(SIZES["llama-8b"], ffn=None)}[family]
    heads = hidden // 128
    kv_heads = None if own.kv_heads is None else max(1, heads // 4)
    shape = replace(own, hidden=hidden, heads=heads, kv_heads=kv_heads)
    config = replace(shape, layers=count, vocab_size=256, seq_len=seq_len)
    with GPU:
        made = gpt_blocks(config)[1:-1]
    return [block.to(torch.bfloat16) for block in made]


def layer_row(family: str, hidden: int, seq_len: int, compiled: bool) -> Row:
    """F, B and W in ms, their sum over forward and backward of the same layers."""
    count = max(1, 8192 // hidden)
    own, plain = (layers_of(family, hidden, seq_len, count) for _ in range(2))
    for block in (*own, *plain) if compiled else ():
        block.compile()
    module, policy = StageModule(dict(enumerate(own))), MixedPrecisionPolicy()
    stage = Stage(module, place_parameters({0: module}, None, policy, Lane())[0], policy)
    shape = (TOKENS // seq_len, seq_len, hidden)
    x, grad = (torch.randn(shape, device=GPU, dtype=torch.bfloat16) for _ in range(2))
    x.requires_grad_()
    seed = torch.ones((), device=GPU)

    def fused() -> None:
        hidden_state = x
        for block in plain:
            hidden_state = block(hidden_state)
        torch.autograd.backward(hidden_state, grad)
        x.grad = None

    def forward() -> None:
        stage.forward(0, (x,), {}, seed)

    def backward() -> None:
        stage.backward(0, (grad,), fused=False)

    def split() -> None:
        forward()
        backward()
        stage.weight(0)

    whole = timed({"fused": fused, "split": split})
    parts = timed({"F": forward, "B": backward, "W": lambda: stage.weight(0)})
    sizes = sum(p.numel() for block in own for p in block.parameters())
    flops = 6 * sizes * TOKENS + 6 * count * TOKENS * seq_len * hidden  # causal attention: half
    return {
        "layers": f"{family} h={hidden} s={seq_len}" + (" compiled" if compiled else ""),
        "number": count,
        **{f"{name} ms": round(device * 1e3, 3) for name, (device, _) in parts.items()},
        **{f"{name} host us/layer": round(h / count * 1e6) for name, (_, h) in parts.items()},
        "fused ms": round(whole["fused"][0] * 1e3, 3),
        "fused host us/layer": round(whole["fused"][1] / count * 1e6),
        "split ms": round(whole["split"][0] * 1e3, 3),
        "TFLOP/s": round(flops / whole["split"][0] / 1e12),
        "ratio": round(whole["split"][0] / whole["fused"][0], 4),
        "hidden": hidden,
    }


def layers(compiled: bool) -> tuple[list[Row], list[Figure]]:
    """Every width and length; compiled, only the most usual, since compiling takes long."""
    widths = (2048,) if compiled else (1024, 2048, 4096, 8192)
    rows = []
    for family in ("GPT", "Llama"):
        for hidden in widths:
            for seq_len in (2048,) if compiled else (2048, 8192):
                rows.append(layer_row(family, hidden, seq_len, compiled))
                print(rows[-1], file=sys.stderr, flush=True)
                torch.cuda.empty_cache()
    worst = max(row["ratio"] for row in rows if row["hidden"] >= 2048)
    return rows, [Figure("F + B + W over forward + backward, h >= 2048", worst, 1.02, "times")]


# Training


def layers_in(model: nn.Module) -> list[nn.Module]:
    """The decoder layers, which are compiled one by one."""
    kinds = ("DecoderLayer", "LlamaDecoderLayer")
    return [module for module in model.modules() if type(module).__name__ in kinds]


@contextmanager
def memory(row: Row, name: str) -> Iterator[None]:
    """Adds the most GiB that are allocated meanwhile."""
    torch.cuda.reset_peak_memory_stats()
    yield
    row[f"{name} GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)


@dataclass(frozen=True)
class Trained:
    """A model to train: as plain PyTorch calls it, tokens -> logits, and as blocks."""

    name: str
    plain: Callable[[], nn.Module]
    blocks: Callable[[], list[nn.Module]]
    loss_fn: Callable[..., Tensor]
    vocabulary: int


def gpt() -> Trained:
    """GPT-2 of 124 million parameters."""
    config = SIZES["gpt2-124m"]

    def blocks() -> list[nn.Module]:
        made = gpt_blocks(config)
        for index, block in enumerate(made):
            init_block(block, config, index, seed=0)
        return [block.to(GPU) for block in made]

    def plain() -> nn.Module:
        return nn.Sequential(*blocks())

    return Trained("gpt2-124m", plain, blocks, token_loss, config.vocab_size)


def llama() -> Trained:
    """A Llama of transformers, 12 layers of width 1024, through `zeropp.hf`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from zeropp import hf

    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        vocab_size=32_000,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=4,
    )

    def model() -> nn.Module:
        torch.manual_seed(0)
        with GPU:
            return LlamaForCausalLM(config)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model()

        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = self.model(tokens, use_cache=False).logits
            return logits

    return Trained("Llama", Logits, lambda: hf.blocks(model()), hf.loss(model()), 32_000)


def training_row(subject: Trained, compiled: bool) -> Row:
    """Tokens per second of plain PyTorch with autocast and of a pipeline of one rank."""
    name = subject.name + (" compiled" if compiled else "")
    row: Row = {"model": name, "B": 4, "tokens": TOKENS}
    generator = torch.Generator(GPU).manual_seed(1)
    shape = (4 * TOKENS // 1024, 1024)
    batch = torch.randint(subject.vocabulary, shape, generator=generator, device=GPU)
    every = batch.numel()

    plain, blocks = subject.plain(), subject.blocks()
    for block in (*layers_in(plain), *layers_in(nn.ModuleList(blocks))) if compiled else ():
        block.compile()
    adam = torch.optim.AdamW(plain.parameters(), lr=1e-4, fused=True)

    def plain_step() -> None:
        for part in batch.chunk(4):
            with torch.autocast("cuda", torch.bfloat16):
                logits = plain(part)
            torch.autograd.backward(subject.loss_fn(logits, part) / every)
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    pipe = pipeline(blocks, subject.loss_fn, Plan(1, 1, 4, shard="step"), precision=policy)
    own = torch.optim.AdamW(pipe.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        pipe.step((batch, batch))
        pipe.clip_grad_norm_(1.0)
        own.step()
        own.zero_grad()

    for kind, one in (("plain", plain_step), ("zeropp", step)):
        one()
        with memory(row, kind):
            one()
    found = timed({"plain": plain_step, "zeropp": step})
    for kind, (device, host) in found.items():
        row[f"{kind} tokens/s"] = round(every / device)
        row[f"{kind} host ms"] = round(host * 1e3, 1)
    row["ratio"] = round(found["plain"][0] / found["zeropp"][0], 4)
    pipe.close()
    return row


def training(compiled: bool) -> tuple[list[Row], list[Figure]]:
    """The demo's GPT-2 and, where transformers is installed, a Llama of it."""
    kinds: list[Callable[[], Trained]] = [gpt]
    with suppress(ImportError):
        import transformers  # noqa: F401

        kinds.append(llama)
    rows = []
    for kind in kinds:
        rows.append(training_row(kind(), compiled))
        print(rows[-1], file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
    return rows, [
        Figure(f"tokens/s over plain, {row['model']}", row["ratio"], 0.98, "times", at_least=True)
        for row in rows
    ]


def main() -> int:
    """Measure what was asked for, as the only rank of a process group."""
    options = parser(CLAIM)
    options.add_argument("what", choices=["layers", "training"])
    options.add_argument("--compile", action="store_true", help="blocks compiled by inductor")
    wanted = options.parse_args()
    dist.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    measure = {"layers": layers, "training": training}[wanted.what]
    try:
        return report(CLAIM, *measure(wanted.compile), wanted)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
