"""The training loop of one rank, and what it leaves in the run's folder."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from numpy.typing import NDArray

from zeropp import checkpoint
from zeropp.ir import format_program
from zeropp.ir.files import explained, write_text
from zeropp.ir.toml_file import table_of
from zeropp.launch import Ended, Refused
from zeropp.launch.stops import Stops
from zeropp.measure.adapt import Adapter
from zeropp.measure.links import SMALL, measure_hop
from zeropp.measure.trace import Trace
from zeropp.planner import SavedPlan
from zeropp.planner.plan_file import format_plan
from zeropp.report.folder import PICTURE, add_start
from zeropp.report.lines import counted, tell
from zeropp.runtime import (
    Observers,
    Pipeline,
    StepFailedError,
    data_rank,
    data_size,
    default_device,
    make_mesh,
    pipelines,
)
from zeropp.runtime.agreement import together
from zeropp.runtime.inputs import Part
from zeropp.runtime.mesh import gathered
from zeropp.tokens import Corpus, Split
from zeropp.train.choice import model_of
from zeropp.train.config import Config
from zeropp.train.data import fingerprints, open_corpora
from zeropp.train.environment import environment_of, flops_per_token, layout_of
from zeropp.train.figures import Figures, export_profile
from zeropp.train.fitting import less_memory
from zeropp.train.health import Losses, require_equal_copies
from zeropp.train.log import Log, rewind
from zeropp.train.model import Model, precision_of
from zeropp.train.optimizer import averaged, learning_rate, make_optimizers
from zeropp.train.pulse import Pulse
from zeropp.train.start import PATIENCE_S, WRITER, checkpoints
from zeropp.train.task import Task
from zeropp.train.writers import makers_of

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
            task = of_first_rank(task)
            if dist.get_rank() == 0:
                tell(f"{counted(dist.get_world_size(), 'rank')} met")
            model = together(partial(model_of, config.model, config.run.seed))
            trainer = Trainer(config, task, model)
        except ValueError as error:
            raise Refused(str(error)) from error
        trainer.run()


def _require_seen(folder: Path) -> None:
    """Raise ValueError on a rank whose host does not see what the first has in the folder."""
    own = None
    with suppress(OSError):  # all gather, whatever one meets
        own = (folder / WRITER).read_text(encoding="utf-8", errors="replace")
    if own != gathered(own)[0]:
        raise ValueError(
            f"run.folder: host {socket.gethostname()} does not see {folder} as the first rank's "
            "does; put it on a disk that all hosts share"
        )


def of_first_rank(task: Task | None) -> Task:
    """The task that the first rank has, on all of them."""
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
        run, folder, self.leads = config.run, config.folder, dist.get_rank() == 0
        self.log = Log(folder, run.steps, self.leads)
        self.figures = Figures(default_device())
        plan = task.saved.plan
        self.log.say(f"building {layout_of(task.saved)}")
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
        self.corpus, self.sets = together(partial(open_corpora, config, model), fingerprints)
        named = self.pipe.named_parameters()
        self.optimizers = make_optimizers(named, config.optim, len(model.blocks))
        together(partial(_require_seen, folder))
        if task.start.path is not None:
            self.log.say(f"loading {task.start.path}")
            self._load(task.start.path)
        self.environment = environment_of(config, task.saved, task.start.step, self.pipe.device)
        together(lambda: self._tidy() if self.leads else None)
        self.log.add(makers_of(run, folder, task.start.step, table_of(config)))
        known = self.environment["peak_flops"]
        self.flops = None if known is None else flops_per_token(config)
        self.losses = Losses(run.stop_after)
        self.pulse = Pulse(run.save_minutes)
        keep = checkpoint.Keep(run.keep_last, run.keep_every)
        self.saver = checkpoint.Saver(checkpoints(config), self.pipe, self.optimizers, keep)
        self.adapter = self._new_adapter() if run.adapt_every else None
        self.last_good = "none" if task.start.path is None else str(task.start.path)

    def _tidy(self) -> None:
        """Make the folder what it was after the step from which the run goes on."""
        folder, step = self.config.folder, self.task.start.step
        rewind(folder, step)
        for path in checkpoint.set_aside_after(checkpoints(self.config), step):
            tell(f"{path}: of what the run did after step {step}")
        write_text("run.folder", folder / "program.txt", format_program(self.task.program))
        add_start(folder, self.environment)
        with explained("run.folder: cannot make", checkpoints(self.config)):
            checkpoints(self.config).mkdir(exist_ok=True)

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
        how = "" if self.config.run.compile == "off" else ", in which blocks are compiled"
        self.log.say(f"first step{how}")
        with Stops() as stops, self._profiled() as watched:
            for step in range(self.task.start.step, self.config.run.steps):
                self.pulse.begin(stops.received, self.figures.peak.take())
                metrics = self._trained(step)
                stopped, late = self.pulse.end()
                self._tell(step, metrics)
                watched()
                self._tell_saved()
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
            if self.config.run.sample:
                self.log.say(f"sampling {self.config.run.sample} tokens")
            self._write_sample(self.model.text)
        self.log.say("ending the ranks")
        self.log.close()
        self.saver.close()
        self.pulse.close()
        self.pipe.close()

    @contextmanager
    def _profiled(self) -> Iterator[Callable[[], None]]:
        """Torch's profiler, where it is asked for; what is called after each step."""
        if not self.config.run.profile:
            yield lambda: None
            return
        path = self.config.folder / "profile" / f"rank-{dist.get_rank()}.json"
        plan = torch.profiler.schedule(wait=2, warmup=0, active=self.config.run.profile, repeat=1)

        def write(seen: torch.profiler.profile) -> None:
            self.log.keep(path, partial(export_profile, seen, path), "it is not kept")

        with torch.profiler.profile(schedule=plan, on_trace_ready=write) as seen:
            yield seen.step

    def _is_due(self, done: int) -> bool:
        run = self.config.run
        return done == run.steps or bool(run.save_every and done % run.save_every == 0)

    def _trained(self, step: int) -> dict[str, Any]:
        """What `_train` says; out of memory, the run ends and says so."""
        try:
            return self._train(step)
        except (StepFailedError, torch.OutOfMemoryError) as error:
            less = partial(less_memory, self.config, self.task, self.pipe.program, self.pipe.device)
            why = self.figures.out_of_memory(error, self.pipe, self.optimizers, less)
            raise why from error.__cause__

    def _train(self, step: int) -> dict[str, Any]:
        """One step, with all that is measured after it."""
        run = self.config.run
        due = (step + 1) % run.eval_every == 0 or step + 1 == run.steps
        trace = Trace(self.pipe.device) if due else None
        metrics = self._step(step, trace)
        if trace is None:
            return metrics
        drawn = self.figures.draw(trace, self.pipe, self.config.folder, self.log)
        return metrics | self._evaluate() | drawn

    def _tell(self, step: int, metrics: dict[str, Any]) -> None:
        """Write a step down, and what it leads to."""
        known = self.environment["peak_flops"], self.flops
        line = metrics | self.figures.of_line(metrics, self.pulse.held, *known)
        picture = self.config.folder / PICTURE if "bubble" in metrics else None
        self.log.write(line, picture)
        if step == self.task.start.step + 1:
            what = self.pipe, self.optimizers, self.saved.predicted, metrics["step_s"]
            self.figures.compare(*what, self.config.folder, self.log)
        if self.adapter and (switch := self.adapter.after_step()):
            self.log.say(switch)

    def _look_at_copies(self, done: int, saves: bool) -> None:
        every = self.config.run.check_every
        if every and (saves or done % every == 0):
            require_equal_copies(self.pipe, self.last_good)

    def _evaluate(self) -> dict[str, float]:
        """Losses of held-out text, of each further set, and of the averaged weights."""
        batches = {"val_loss": partial(self._batch, self.corpus, "validation", 0)}
        for name, corpus in self.sets.items():
            batches[f"val_loss_{name}"] = partial(self._batch, corpus, "train", 0)
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
        files = {
            "plan.toml": format_plan(SavedPlan(plan, self.saved.micro_batch_size)),
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
                self.log.trouble("saving", None)
                self.log.say(f"{saved.path} written in {saved.seconds:.2f} s")
                continue
            said = f"{saved.refusal}; the last good one: {self.last_good}"
            if at_end and saved is told[-1]:
                raise Ended(said)
            self.log.trouble("saving", f"{said}; training goes on, the next one written is told")

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
            batch = partial(self._batch, self.corpus, "train", step)
            out = self.pipe.step(batch, observer=observers)
            return float(out.loss), int(out.tokens)
        loss, tokens = 0.0, 0
        for part in range(parts):
            batch = partial(self._batch, self.corpus, "train", step * parts + part)
            last = observers if part == parts - 1 else None
            out = self.pipe.step(batch, observer=last, divisor=1)
            loss, tokens = loss + float(out.loss) * int(out.tokens), tokens + int(out.tokens)
        for parameter in self.pipe.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(max(tokens, 1))
        return loss / max(tokens, 1), tokens

    def _write_sample(self, text: Callable[[NDArray[Any]], str]) -> None:
        sample, path = self._sample(text), self.config.folder / "sample.txt"
        if self.leads:
            self.log.keep(path, partial(write_text, "run.folder", path, sample), "it is not kept")
            tell(f"sample:\n{sample}")

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
