"""The training loop of one rank, and what it leaves in the run's folder."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from numpy.typing import NDArray

from zeropp import checkpoint
from zeropp.costs import Costs
from zeropp.ir import format_program
from zeropp.ir.files import write_text
from zeropp.ir.toml_file import table_of
from zeropp.launch import Ended, Refused
from zeropp.launch.stops import Stops
from zeropp.measure.adapt import Adapter
from zeropp.measure.links import SMALL, measure_hop
from zeropp.measure.memory import held_bytes, peak_bytes
from zeropp.measure.rehearsal import rehearse
from zeropp.measure.trace import Trace, predicted
from zeropp.planner import SavedPlan
from zeropp.planner.plan_file import COMPARED, format_plan
from zeropp.runtime import (
    Observers,
    Pipeline,
    data_rank,
    data_size,
    default_device,
    make_mesh,
    pipelines,
)
from zeropp.runtime.agreement import together
from zeropp.runtime.inputs import Part
from zeropp.runtime.mesh import gathered
from zeropp.show import show
from zeropp.tokens import Corpus, Split
from zeropp.train.choice import model_of
from zeropp.train.config import Config
from zeropp.train.data import eval_sets, open_corpus
from zeropp.train.health import Losses, Speeds, require_equal_copies
from zeropp.train.log import Log, rewind
from zeropp.train.model import Model, precision_of
from zeropp.train.optimizer import averaged, learning_rate, make_optimizers
from zeropp.train.pulse import Pulse
from zeropp.train.start import PATIENCE_S, WRITER, checkpoints
from zeropp.train.task import Task

_REHEARSED_S = 0.010  # of every action in a rehearsal
_MIB = 2**20


def train_task(config: Config, task: Task | None) -> None:
    """Train as one rank of an initialised process group; the first one's task is everybody's.

    Raises:
        Refused: on every rank: something that was given cannot be used.
        Ended: on every rank: training cannot go on.
    """
    with ExitStack() as held:
        try:
            if dist.get_rank() == 0:
                lock = config.folder / WRITER
                held.enter_context(checkpoint.owned("run.folder", lock, PATIENCE_S))
            task = _of_first_rank(task)
            trainer = Trainer(config, task, model_of(config.model, config.run.seed))
        except ValueError as error:
            raise Refused(str(error)) from error
        trainer.run()


def _require_seen(folder: Path) -> None:
    """Raise ValueError on a rank whose host does not see what the first has in the folder."""
    lock = folder / WRITER
    own = lock.read_text(encoding="utf-8") if lock.is_file() else None
    if own != gathered(own)[0]:
        raise ValueError(
            f"run.folder: host {socket.gethostname()} does not see {folder} as the first rank's "
            "does; put it on a disk that all hosts share"
        )


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
        self.config, self.task, self.saved, self.model = config, task, task.saved, model
        if config.run.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
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
            timeout=config.run.timeout,
            seed=config.run.seed,
            **model.fill,
        )
        self.corpus = open_corpus(config, model)
        self.sets = {n: open_corpus(config, model, path) for n, path in eval_sets(config).items()}
        named = self.pipe.named_parameters()
        self.optimizers = make_optimizers(named, config.optim, len(model.blocks))
        run, folder, self.leads = config.run, config.folder, dist.get_rank() == 0
        together(partial(_require_seen, folder))
        if task.start.path is not None:
            self._load(task.start.path)
        if self.leads:
            rewind(folder, task.start.step)
            for path in checkpoint.set_aside_after(checkpoints(config), task.start.step):
                print(f"{path}: of what the run did after step {task.start.step}", flush=True)
            write_text("run.folder", folder / "program.txt", format_program(task.program))
            checkpoints(config).mkdir(exist_ok=True)
        self.log = Log(folder, run.steps, self.leads)
        self.losses, self.speeds = Losses(run.stop_after), Speeds()
        self.pulse = Pulse(run.save_minutes)
        keep = checkpoint.Keep(run.keep_last, run.keep_every)
        self.saver = checkpoint.Saver(checkpoints(config), self.pipe, self.optimizers, keep)
        self.adapter = self._new_adapter() if run.adapt_every else None
        self.last_good = "none" if task.start.path is None else str(task.start.path)

    def _load(self, path: Path) -> None:
        """Everything but the optimizer's settings, which are the configuration's."""
        wanted = [{k: v for k, v in group.items() if k != "params"} for group in self._groups]
        checkpoint.load(path, self.pipe, self.optimizers)
        for group, own in zip(self._groups, wanted, strict=True):
            group.update(own)

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return [group for one in self.optimizers for group in one.param_groups]

    def _new_adapter(self) -> Adapter:
        run, ends = self.config.run, (0, dist.get_world_size() - 1)
        latency = measure_hop(*ends, SMALL, self.pipe.device).latency
        return Adapter(self.pipe, self.saved.plan, run.adapt_every, run.adapt_gain, latency)

    def run(self) -> None:
        """Train, evaluate, save; at the end sample."""
        stopped = None
        with Stops() as stops, self._profiled() as watched:
            for step in range(self.task.start.step, self.config.run.steps):
                self.pulse.begin(stops.received)
                self._train(step)
                watched()
                self._tell_saved()
                stopped, late = self.pulse.end()
                due = stopped is not None or late or self._is_due(step + 1)
                self._look_at_copies(step + 1, due)
                if due:
                    self._save(step + 1)
                if stopped is not None:
                    break
            self.saver.wait()
            self._tell_saved(at_end=True)
        if stopped is not None:
            self.log.say(
                f"stopped by {stopped.name} after step {step + 1}; the same command with "
                "--run.resume auto goes on"
            )
        elif self.model.text is not None:
            self._write_sample(self.model.text)
        self.saver.close()
        self.pulse.close()
        self.pipe.close()

    @contextmanager
    def _profiled(self) -> Iterator[Callable[[], None]]:
        """Torch's profiler, where it is asked for; what is called after each step."""
        if not self.config.run.profile:
            yield lambda: None
            return
        folder = self.config.folder / "profile"
        plan = torch.profiler.schedule(wait=2, warmup=0, active=self.config.run.profile, repeat=1)

        def write(seen: torch.profiler.profile) -> None:
            folder.mkdir(exist_ok=True)
            seen.export_chrome_trace(str(folder / f"rank-{dist.get_rank()}.json"))

        with torch.profiler.profile(schedule=plan, on_trace_ready=write) as seen:
            yield seen.step

    def _is_due(self, done: int) -> bool:
        run = self.config.run
        return done == run.steps or bool(run.save_every and done % run.save_every == 0)

    def _train(self, step: int) -> None:
        """One step, with all that is looked at after it."""
        run = self.config.run
        due = (step + 1) % run.eval_every == 0 or step + 1 == run.steps
        trace = Trace(self.pipe.device) if due else None
        metrics = self._step(step, trace)
        if trace is not None:
            metrics |= self._evaluate() | self._measure(trace)
        self.log.write(metrics)
        if step == self.task.start.step + 1 and self.saved.predicted.keys() >= COMPARED:
            self._compare(metrics["step_s"])
        if self.adapter and (switch := self.adapter.after_step()):
            self.log.say(switch)

    def _look_at_copies(self, done: int, saves: bool) -> None:
        every = self.config.run.check_every
        if every and (saves or done % every == 0):
            require_equal_copies(self.pipe, self.last_good)

    def _evaluate(self) -> dict[str, float]:
        """Losses of held-out text, of each further set, and of the averaged weights."""
        batches = {"val_loss": self._batch(self.corpus, "validation", 0)}
        for name, corpus in self.sets.items():
            batches[f"val_loss_{name}"] = self._batch(corpus, "train", 0)
        pieces = self.pipe.num_microbatches
        found = {name: float(self.pipe.eval(one, pieces).loss) for name, one in batches.items()}
        if self.config.optim.average:
            with averaged(self.optimizers):
                found |= {
                    f"{name}_average": float(self.pipe.eval(one, pieces).loss)
                    for name, one in batches.items()
                }
        return found

    def _save(self, done: int) -> None:
        """Begin a checkpoint."""
        plan = self.adapter.plan if self.adapter else self.saved.plan
        run = {
            "batch": self.task.batch * self.config.optim.accumulate,
            "schedule_steps": self.task.start.length,
            "ranks": plan.world_size,
            "config": table_of(self.config),
        }
        saved = SavedPlan(plan, self.saved.micro_batch_size)
        files = {
            "plan.toml": format_plan(saved),
            "program.txt": format_program(self.pipe.program),
        }
        first = not self.saver.copied_bytes
        self.saver.begin(done, run, files)
        self.pulse.saved()
        self.log.look_at_disk(checkpoints(self.config), self.saver.written_bytes)
        if first:
            self.log.say(
                f"checkpoints are written from a copy: {self.saver.copied_bytes / _MIB:.1f} MiB of "
                "host memory on this rank"
            )

    def _tell_saved(self, at_end: bool = False) -> None:
        told = self.saver.take()
        for saved in told:
            if saved.refusal is None:
                self.last_good = str(saved.path)
                self.log.say(f"{saved.path} written in {saved.seconds:.2f} s")
                continue
            said = f"{saved.refusal}; the last good one: {self.last_good}"
            if at_end and saved is told[-1]:
                raise Ended(said)
            self.log.warn(f"{said}; training goes on")

    def _batch(self, corpus: Corpus, split: Split, step: int) -> Part:
        world = data_size(self.mesh)
        size = self.saved.micro_batch_size * self.pipe.num_microbatches * world
        what = split, step, size, self.config.run.seed
        given = corpus.batch(*what, rank=data_rank(self.mesh), world=world)
        tokens, labels = map(torch.from_numpy, given[:2])
        positions = None if given.positions is None else torch.from_numpy(given.positions)
        return self.model.batch(tokens, labels, positions)

    def _step(self, step: int, trace: Trace | None) -> dict[str, Any]:
        config, length = self.config, self.task.start.length
        rate = learning_rate(config.optim, config.highest_rate, step, length)
        for group in self._groups:
            group["lr"] = rate
        start = time.perf_counter()
        loss, tokens = self._gradients(step, trace)
        norm = self.pipe.clip_grad_norm_(config.optim.clip)
        good = bool(norm.isfinite())  # the same on every rank
        for one in self.optimizers:
            if good:
                one.step()
            one.zero_grad()
        seconds = time.perf_counter() - start
        metrics = {
            "step": step + 1,
            "loss": loss,
            "grad_norm": float(norm),
            "lr": rate,
            "tokens_per_s": tokens / seconds,
            "step_s": seconds,
            "time": time.time(),
        }
        if not good:
            self.log.warn(self.losses.skipped(step + 1, self.last_good))
            return metrics | {"skipped": True}
        if self.losses.is_spike(loss):
            self.log.warn(f"step {step + 1}: loss {loss:.4f} is far above those before")
            metrics["spike"] = True
        return metrics

    def _gradients(self, step: int, trace: Trace | None) -> tuple[float, int]:
        """Of the step's batches; the mean loss of their tokens, and how many these are."""
        times, parts = self.adapter.times if self.adapter else None, self.config.optim.accumulate
        observers = Observers(*filter(None, (trace, times)))
        if parts == 1:
            out = self.pipe.step(self._batch(self.corpus, "train", step), observer=observers)
            return float(out.loss), int(out.tokens)
        loss, tokens = 0.0, 0
        for part in range(parts):
            batch = self._batch(self.corpus, "train", step * parts + part)
            last = observers if part == parts - 1 else None
            out = self.pipe.step(batch, observer=last, divisor=1)
            loss, tokens = loss + float(out.loss) * int(out.tokens), tokens + int(out.tokens)
        for parameter in self.pipe.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(max(tokens, 1))
        return loss / max(tokens, 1), tokens

    def _compare(self, seconds: float) -> None:
        """What the plan predicted against the second step; memory of the fullest rank."""
        memory = max(gathered(peak_bytes(self.pipe.device) - self.before))
        step, peak = (float(self.saved.predicted[name]) for name in ("step_s", "peak_bytes"))
        self.log.say(
            f"second step: {step * 1e3:.0f} ms predicted, {seconds * 1e3:.0f} ms measured "
            f"({seconds / step - 1:+.0%}); fullest rank: {peak / _MIB:.0f} MiB predicted, "
            f"{memory / _MIB:.0f} MiB measured ({memory / peak - 1:+.0%})"
        )

    def _measure(self, trace: Trace) -> dict[str, float]:
        """Draw the traced step below its prediction; bubble ratios and idle time by cause, each
        over P x makespan.
        """
        step = trace.gather(self.pipe.placement, "measured", pipelines(self.mesh)[0])
        ideal = predicted(step.timeline, self.pipe.program.schedule)
        if self.leads:
            for name in ("timeline.png", "timeline.json"):
                show([ideal, step.timeline], self.config.folder / name)
        for slow in self.speeds.slow(trace.compute_s()):
            self.log.warn(slow)
        found = {"bubble_predicted": ideal.bubble_ratio, "bubble": step.timeline.bubble_ratio}
        return found | {f"idle_{cause}": ratio for cause, ratio in step.idle_ratios().items()}

    def _write_sample(self, text: Callable[[NDArray[Any]], str]) -> None:
        sample = self._sample(text)
        if self.leads:
            write_text("run.folder", self.config.folder / "sample.txt", sample)
            print(f"\nsample:\n{sample}\n")

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
