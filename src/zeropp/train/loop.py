"""The training loop of one rank, and what it leaves in the run's folder."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from numpy.typing import NDArray

from zeropp import checkpoint
from zeropp.costs import Costs
from zeropp.ir import format_program
from zeropp.ir.files import write_text
from zeropp.measure.adapt import Adapter
from zeropp.measure.links import SMALL, measure_hop
from zeropp.measure.memory import held_bytes, peak_bytes
from zeropp.measure.rehearsal import rehearse
from zeropp.measure.trace import Trace, predicted
from zeropp.planner.plan_file import COMPARED
from zeropp.runtime import (
    Observers,
    Pipeline,
    data_rank,
    data_size,
    default_device,
    make_mesh,
    pipelines,
)
from zeropp.runtime.inputs import Part
from zeropp.runtime.mesh import gathered
from zeropp.show import show
from zeropp.tokens import Split
from zeropp.train.choice import model_of
from zeropp.train.config import Config
from zeropp.train.data import open_corpus
from zeropp.train.model import Model, precision_of
from zeropp.train.optimizer import learning_rate, make_optimizer
from zeropp.train.task import Task

_REHEARSED_S = 0.010  # of every action in a rehearsal
_MIB = 2**20


def train_task(config: Config, task: Task | None) -> None:
    """Train as one rank of an initialised process group; the first one's task is everybody's."""
    Trainer(config, _of_first_rank(task), model_of(config.model, config.run.seed)).run()


def rehearse_task(task: Task | None) -> None:
    """Rehearse with equal times for every F, B and W, and say how it went; on every rank."""
    task = _of_first_rank(task)
    plan, times = task.saved.plan, (_REHEARSED_S,) * task.program.placement.num_stages
    result = rehearse(plan, Costs(times, times, times), program=task.program)
    if dist.get_rank() == 0:
        actions = sum(map(len, task.program.schedule.actions))
        print(
            f"{plan.world_size} ranks ran the program of {plan.order}: {actions} compute "
            f"actions of {_REHEARSED_S * 1e3:.0f} ms, a hop of {result.latency_s * 1e6:.0f} us\n"
            f"step: {result.predicted_s:.3f} s predicted, {result.measured_s:.3f} s measured "
            f"({result.measured_s / result.predicted_s - 1:+.1%})"
        )


def _of_first_rank(task: Task | None) -> Task:
    found = [task]
    dist.broadcast_object_list(found)
    if found[0] is None:
        raise RuntimeError("rank 0 has no task")
    return found[0]


class Trainer:
    """One rank's pipeline, optimizer and data."""

    def __init__(self, config: Config, task: Task, model: Model) -> None:
        self.config, self.saved, self.model = config, task.saved, model
        self.before = held_bytes(default_device())
        plan = task.saved.plan
        self.mesh = make_mesh(plan.pp_size, plan.dp_replicate, plan.dp_shard)
        self.pipe = Pipeline(
            model.compiled(config.run.compile).blocks,
            model.loss_fn,
            task.program,
            self.mesh,
            tokens=model.tokens,
            precision=precision_of(config.run.precision),
            seed=config.run.seed,
            **model.fill,
        )
        self.corpus = open_corpus(config, model)
        self.optimizer = make_optimizer(self.pipe.parameters(), config.optim)
        self.first_step = 0
        if config.run.resume:
            self.first_step = checkpoint.load(Path(config.run.resume), self.pipe, self.optimizer)
        self.leads = dist.get_rank() == 0
        if self.leads:
            text = format_program(task.program)
            write_text("run.folder", config.folder / "program.txt", text)
        self.adapter = self._new_adapter() if config.run.adapt_every else None

    def _new_adapter(self) -> Adapter:
        run, ends = self.config.run, (0, dist.get_world_size() - 1)
        latency = measure_hop(*ends, SMALL, self.pipe.device).latency
        return Adapter(self.pipe, self.saved.plan, run.adapt_every, run.adapt_gain, latency)

    def run(self) -> None:
        """Train, evaluate, sample, save."""
        steps = self.config.run.steps
        for step in range(self.first_step, steps):
            due = (step + 1) % self.config.run.eval_every == 0 or step + 1 == steps
            trace = Trace(self.pipe.device) if due else None
            metrics = self._step(step, trace)
            if trace is not None:
                batch = self._batch("validation", 0)
                metrics["val_loss"] = float(self.pipe.eval(batch, self.pipe.num_microbatches).loss)
                metrics |= self._measure(trace)
            self._report(metrics)
            if step == self.first_step + 1 and self.saved.predicted.keys() >= COMPARED:
                self._compare(metrics["step_s"])
            if self.adapter and (switch := self.adapter.after_step()):
                self._say(switch)
        path = self.config.folder / "checkpoints" / f"step-{steps}"
        checkpoint.save(path, self.pipe, self.optimizer, steps)
        if self.model.text is not None:
            text = self._sample(self.model.text)
            if self.leads:
                write_text("run.folder", self.config.folder / "sample.txt", text)
                print(f"\nsample:\n{text}\n")
        self.pipe.close()

    def _batch(self, split: Split, step: int) -> Part:
        world = data_size(self.mesh)
        size = self.saved.micro_batch_size * self.pipe.num_microbatches * world
        what = split, step, size, self.config.run.seed
        given = self.corpus.batch(*what, rank=data_rank(self.mesh), world=world)
        tokens, labels = map(torch.from_numpy, given[:2])
        positions = None if given.positions is None else torch.from_numpy(given.positions)
        return self.model.batch(tokens, labels, positions)

    def _step(self, step: int, trace: Trace | None) -> dict[str, Any]:
        rate = self.config.highest_rate, self.config.optim.warmup
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(*rate, step, self.config.run.steps)
        start = time.perf_counter()
        times = self.adapter.times if self.adapter else None
        observers = Observers(*filter(None, (trace, times)))
        out = self.pipe.step(self._batch("train", step), observer=observers)
        norm = self.pipe.clip_grad_norm_(self.config.optim.clip)
        if norm.isfinite():  # the same on every rank
            self.optimizer.step()
        else:
            self._say(f"step {step + 1}: its gradients are not finite; the step is skipped")
        self.optimizer.zero_grad()
        loss = float(out.loss)
        seconds = time.perf_counter() - start
        return {
            "step": step + 1,
            "loss": loss,
            "grad_norm": float(norm),
            "tokens_per_s": int(out.tokens) / seconds,
            "step_s": seconds,
        }

    def _report(self, metrics: dict[str, Any]) -> None:
        if not self.leads:
            return
        with (self.config.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        line = (
            f"step {metrics['step']:>5}/{self.config.run.steps}  loss {metrics['loss']:.4f}  "
            f"grad norm {metrics['grad_norm']:.3f}  {metrics['tokens_per_s']:>8.0f} tokens/s  "
            f"{metrics['step_s'] * 1e3:.0f} ms"
        )
        if "val_loss" in metrics:
            line += (
                f"  validation {metrics['val_loss']:.4f}  bubble ratio "
                f"{metrics['bubble_predicted']:.1%} predicted, {metrics['bubble']:.1%} measured"
            )
        if metrics["step"] % 10 == 0 or metrics["step"] == 1 or "val_loss" in metrics:
            self._say(line)

    def _compare(self, seconds: float) -> None:
        """What the plan predicted against the second step; memory of the fullest rank."""
        memory = max(gathered(peak_bytes(self.pipe.device) - self.before))
        step, peak = (float(self.saved.predicted[name]) for name in ("step_s", "peak_bytes"))
        self._say(
            f"second step: {step * 1e3:.0f} ms predicted, {seconds * 1e3:.0f} ms measured "
            f"({seconds / step - 1:+.0%}); fullest rank: {peak / _MIB:.0f} MiB predicted, "
            f"{memory / _MIB:.0f} MiB measured ({memory / peak - 1:+.0%})"
        )

    def _say(self, what: object) -> None:
        if self.leads:
            print(what, flush=True)

    def _measure(self, trace: Trace) -> dict[str, float]:
        """Draw the traced step below its prediction; bubble ratios and idle time by cause, each
        over P x makespan.
        """
        step = trace.gather(self.pipe.placement, "measured", pipelines(self.mesh)[0])
        ideal = predicted(step.timeline, self.pipe.program.schedule)
        if self.leads:
            for name in ("timeline.png", "timeline.json"):
                show([ideal, step.timeline], self.config.folder / name)
        found = {"bubble_predicted": ideal.bubble_ratio, "bubble": step.timeline.bubble_ratio}
        return found | {f"idle_{cause}": ratio for cause, ratio in step.idle_ratios().items()}

    def _sample(self, text: Callable[[NDArray[Any]], str]) -> str:
        """The text of some held-out tokens, and of those that the model makes of them."""
        tokens = self.corpus.batch("validation", 0, 1).tokens
        prompt = torch.from_numpy(tokens[:, : self.config.data.seq_len // 4])
        seen = prompt.to(self.pipe.device)
        generator = torch.Generator().manual_seed(self.config.run.seed)
        placement = self.pipe.placement
        source = pipelines(self.mesh)[0][placement.rank_of(placement.num_stages - 1)]
        for _ in range(self.config.run.sample):
            outputs = self.pipe.predict(seen[:, -self.config.data.seq_len :])
            token = torch.zeros(1, 1, dtype=torch.int64)
            if outputs is not None:
                odds = torch.softmax(outputs[0][0][0, -1].float().cpu() / 0.8, dim=-1)
                token = torch.multinomial(odds, 1, generator=generator)[None]
            token = token.to(self.pipe.device)
            dist.broadcast(token, source)
            seen = torch.cat([seen, token], dim=1)
        return text(seen[0].cpu().numpy())
