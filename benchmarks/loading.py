"""How much memory a rank takes while it loads its part of a model of transformers.

Run: python benchmarks/loading.py [--json]; four ranks, P=2 and D=2, a minute.
"""

import tempfile
import threading
from contextlib import closing

import torch.distributed as dist
from transformers import AutoModelForCausalLM, LlamaConfig

import zeropp
from support.claim import Figure, Row, run
from support.memory import anonymous
from support.ranks import run_ranks
from zeropp import Plan, hf
from zeropp.runtime.ties import local_part

CLAIM = "A rank that loads a model never holds more than its part and one block's copy"
SHAPE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16}
SHAPE |= {"vocab_size": 8192, "num_attention_heads": 16, "num_key_value_heads": 4}
PLAN = Plan(2, 2, 4, dp_shard=2, max_resident=1)


def grown(folder: str) -> tuple[int, int]:
    """A rank's own share, and by how much its memory grew at most, looked at every 2 ms."""
    model = hf.on_meta(folder)
    blocks, most, ended = hf.blocks(model), 0, threading.Event()
    given = {"tokens": hf.count_tokens, "load": hf.load(folder, model)}
    dist.barrier()
    before = anonymous()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.002):
            most = max(most, anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with closing(zeropp.pipeline(blocks, hf.loss(model), PLAN, **given)) as pipe:
        ended.set()
        watcher.join()
        share = sum(local_part(p.detach()).nbytes for p in pipe.parameters())
    return share, most


def measure() -> tuple[list[Row], list[Figure]]:
    """A row a rank."""
    with tempfile.TemporaryDirectory() as folder:
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE))
        size = sum(p.nbytes for p in model.parameters())
        model.save_pretrained(folder, max_shard_size="200MB")
        del model
        found = run_ranks(4, grown, folder, timeout=300)
    rows: list[Row] = [
        {"rank": rank, "share MiB": share / 2**20, "grown MiB": most / 2**20}
        for rank, (share, most) in enumerate(found)
    ]
    worst = max(most / share for share, most in found)
    return rows, [
        Figure("model", size / 1e9, 1.0, "GB", at_least=True),
        Figure("grown, of a rank's own share", worst, 1.3, "times"),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)
