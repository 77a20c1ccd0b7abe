"""What the trainer learns by, against a plain loop: optimizers, rates, accumulation, averages."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.ranks import run_ranks
from zeropp.checkpoint.files import read
from zeropp.cli.train import _prepared, _task
from zeropp.ir.model import GPTConfig
from zeropp.models import init_block
from zeropp.plan import Plan
from zeropp.train.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from zeropp.train.data import open_corpus
from zeropp.train.gpt import demo_gpt, token_loss
from zeropp.train.loop import train_task
from zeropp.train.optimizer import averaged, learning_rate, make_optimizers

STEPS, SEED = 4, 3
OPTIMS = {
    "adamw": OptimConfig(warmup=2, lr=1e-3),
    "muon": OptimConfig(kind="muon", warmup=2, lr=1e-3),
    "wsd": OptimConfig(schedule="wsd", decay_share=0.5, warmup=1, lr=1e-3),
    "constant": OptimConfig(schedule="constant", warmup=1, lr=1e-3, weight_decay=0.0),
    "accumulated": OptimConfig(accumulate=3, warmup=2, lr=1e-3),
    "averaged": OptimConfig(average=0.5, warmup=2, lr=1e-3),
}
PLANS = {"P2": Plan(2, 1, 2), "D2": Plan(1, 2, 1, dp_shard=2)}


def config_of(folder: Path, optim: OptimConfig, plan: Plan, **run: Any) -> Config:
    words = folder / "words.txt"
    words.write_text("to be or not to be, that is the question " * 400)
    data = DataConfig(str(words), seq_len=16, micro_batch_size=1, eval_sets=(f"words={words}",))
    chosen = RunConfig(
        folder=str(folder / "runs"), steps=STEPS, eval_every=STEPS, seed=SEED, sample=0, **run
    )
    return Config(run=chosen, model=ModelConfig(layers=2), data=data, parallel=plan, optim=optim)


def trained(config: Config) -> list[dict[str, Any]]:
    """The metrics of a run."""
    with ExitStack() as held:
        task = _prepared(config, _task(config, None), held)
        run_ranks(task.saved.plan.world_size, train_task, config, task)
    lines = (config.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def plain(config: Config) -> tuple[list[float], dict[str, float]]:
    """Losses of a plain loop, and of the weights and their averages in the end."""
    gpt: GPTConfig = config.model.gpt()
    with torch.device("meta"):
        blocks = demo_gpt(gpt).blocks
    for index, block in enumerate(blocks):
        block.to_empty(device="cpu")
        init_block(block, gpt, index, SEED)
    model = nn.Sequential(*blocks)
    corpus = open_corpus(config, demo_gpt(gpt))
    optim, found = config.optim, []
    optimizers = make_optimizers(model.named_parameters(), optim, len(blocks))

    def loss_of(split: Any, step: int) -> torch.Tensor:
        tokens = torch.from_numpy(corpus.batch(split, step, 2, SEED).tokens)
        return token_loss(model(tokens[:, :-1]), tokens[:, 1:]) / tokens[:, 1:].numel()

    for step in range(STEPS):
        for group in (group for one in optimizers for group in one.param_groups):
            group["lr"] = learning_rate(optim, config.highest_rate, step, STEPS)
        parts = range(step * optim.accumulate, (step + 1) * optim.accumulate)
        losses = [loss_of("train", part) / optim.accumulate for part in parts]
        total = torch.stack(losses).sum()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        for one in optimizers:
            one.step()
            one.zero_grad()
        found.append(total.item())
    with torch.no_grad():
        ends = {
            "val_loss": float(loss_of("validation", 0)),
            "val_loss_words": float(loss_of("train", 0)),
        }
        if optim.average:
            with averaged(optimizers):
                ends["val_loss_average"] = float(loss_of("validation", 0))
    return found, ends


@pytest.mark.parametrize(
    ("name", "plan"), [*((name, "P2") for name in OPTIMS), ("adamw", "D2"), ("muon", "D2")]
)
def test_as_a_plain_loop(name: str, plan: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, OPTIMS[name], PLANS[plan])
    losses, ends = plain(config)
    metrics = trained(config)
    assert [step["loss"] for step in metrics] == pytest.approx(losses, rel=1e-5)
    assert {key: metrics[-1][key] for key in ends} == pytest.approx(ends, rel=1e-5)


def test_an_average_is_an_average() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    config = replace(OPTIMS["averaged"], weight_decay=0.0)
    (optimizer,) = make_optimizers([("1.weight", weight)], config, 3)
    seen = []
    for _ in range(4):
        optimizer.param_groups[0]["lr"] = 0.1
        weight.grad = torch.ones(2, 2)
        optimizer.step()
        seen.append(weight.detach().clone())
    wanted = seen[0]
    for one in seen[1:]:
        wanted = 0.5 * wanted + 0.5 * one
    with averaged([optimizer]):
        assert torch.allclose(weight, wanted)
    assert torch.equal(weight, seen[-1])


def test_rates() -> None:
    wsd = OptimConfig(schedule="wsd", decay_share=0.2, warmup=10)
    assert [learning_rate(wsd, 1.0, step, 100) for step in (0, 9, 10, 80)] == [0.1, 1.0, 1.0, 1.0]
    assert learning_rate(wsd, 1.0, 90, 100) == pytest.approx(0.55)
    assert learning_rate(wsd, 1.0, 100, 100) == pytest.approx(0.1)
    constant = replace(wsd, schedule="constant")
    assert learning_rate(constant, 1.0, 99, 100) == 1.0
    assert learning_rate(replace(wsd, schedule="cosine"), 1.0, 100, 100) == pytest.approx(0.1)


def test_a_run_that_is_profiled_deterministic_and_goes_on(tmp_path: Path) -> None:
    config = config_of(tmp_path, OPTIMS["averaged"], PLANS["P2"], profile=1, deterministic=True)
    whole = trained(config)
    assert {f.name for f in (config.folder / "profile").iterdir()} == {"rank-0.json", "rank-1.json"}
    header, tensors = read(config.folder / "checkpoints" / f"step-{STEPS}")
    assert header.optimizers["1.attention.qkv.weight"] == "AdamW"
    assert "optimizer.state.1.attention.qkv.weight.average" in tensors
    shutil.rmtree(config.folder)
    half = replace(config, run=replace(config.run, steps=2, profile=0))
    half = replace(half, optim=replace(half.optim, schedule_steps=STEPS))
    trained(half)
    again = trained(replace(config, run=replace(config.run, resume="auto", profile=0)))
    assert [step["loss"] for step in again] == [step["loss"] for step in whole]
    assert again[-1]["val_loss_average"] == whole[-1]["val_loss_average"]
