"""The executor: a plain loop from action kind to handler, driven by a verified program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from zeropp.ir.action import BACKWARD, RECEIVES, SENDS, Action, Kind
from zeropp.runtime.block import Draw, Tensors
from zeropp.runtime.boundary import Boundaries, Specs, TensorSpec
from zeropp.runtime.channel import Arrival, Channels
from zeropp.runtime.instructions import Instruction
from zeropp.runtime.keywords import Named
from zeropp.runtime.lane import Lane
from zeropp.runtime.stage import Head, Stage
from zeropp.runtime.watchdog import Watchdog


class Phase(StrEnum):
    """What of an action has just ended."""

    BEGIN = "begin"  # the executor has come to it
    INPUT = "input"  # its input is there
    PARAMETERS = "parameters"  # so are its stage's parameters
    COMPUTE = "compute"


class Observer(Protocol):
    """Told of every phase of a step, on the thread that computes: for traces and rehearsals."""

    def observe(self, action: Action, phase: Phase) -> None:
        """`phase` of `action` ends now."""


class Work(NamedTuple):
    """One micro-batch: what the first stage takes, what blocks may ask for by name, and what the
    last stage makes of its outputs.

    `draw` says what its random numbers depend on, where it is trained.
    """

    inputs: Tensors
    named: Named
    head: Head
    draw: Draw | None = None


@dataclass(frozen=True)
class Machine:
    """What a rank executes programs with.

    Attributes:
        stages: this rank's stages by global index.
        messages: point-to-point with the other ranks of the pipeline.
        boundaries: what travels between stages.
        device: where this rank computes.
        watchdog: told of every action that begins.
        lane: where collectives run.
        travels: whether anything goes from rank to rank, so that shapes matter.
    """

    stages: Mapping[int, Stage]
    messages: Channels
    boundaries: Boundaries
    device: torch.device
    watchdog: Watchdog
    lane: Lane
    travels: bool

    def rest(self) -> None:
        """The host has nothing more to do for the step; on a GPU the device may go on."""
        if self.device.type == "cpu":
            self.watchdog.rest()
        else:
            event = torch.cuda.Event()
            event.record()
            self.watchdog.rest(event.query)

    def close(self) -> None:
        """Stop watching and end communication; nothing can run afterwards."""
        self.watchdog.close()
        self.messages.close()
        self.lane.close()


class Execution:
    """One run of one rank's program over one batch.

    A rank on which something fails goes through the rest of its program without computing: it sends
    zeros, and takes part in every collective, so that nobody waits for it; so do the others as soon
    as they know.

    Args:
        works: the batch; every rank has it, and uses the parts that it needs.
        seed: scalar, gradient of the head's result; None: run forwards only, without autograd.
        told: of every phase.

    Attributes:
        failure: what failed on this rank, if something has.
    """

    def __init__(
        self, machine: Machine, works: Sequence[Work], seed: Tensor | None, told: Observer | None
    ) -> None:
        self.machine, self._works, self._seed = machine, works, seed
        self._observe: Callable[[Action, Phase], None]
        self._observe = (lambda *_: None) if told is None else told.observe
        self._specs = [
            machine.boundaries.of(m.inputs, m.named.tensors) if machine.travels else ()
            for m in works
        ]
        self._inbox: dict[Action, Arrival] = {}
        self._results: dict[int, Tensors] = {}
        self.failure: Exception | None = None

    def run(self, program: Sequence[Instruction]) -> list[Tensors]:
        """Run the program; what the head returned, by micro-batch, where the last stage lives."""
        watchdog = self.machine.watchdog
        with watchdog.during("beginning"):
            for do in program:
                watchdog.begin(do.action)
                _HANDLERS[do.action.kind](self, do)
        with watchdog.during("waiting for its sends to end"):
            self.machine.messages.flush()
        if self.failed:
            self._drop()
        elif self._seed is not None:
            with watchdog.during("waiting for its gradients to be reduced"):
                for stage in self.machine.stages.values():
                    stage.parameters.finish()
        return [self._results[m] for m in sorted(self._results)]

    @property
    def failed(self) -> bool:
        """Whether something has failed, here or, as far as known, elsewhere."""
        return self.failure is not None or self.machine.watchdog.failed is not None

    def _drop(self) -> None:
        """Leave nothing of the step."""
        self._inbox.clear()
        for stage in self.machine.stages.values():
            stage.drop()

    def _forward(self, do: Instruction) -> None:
        outputs = self._through(do, self._inputs, self._outputs)
        if outputs is not None and do.target is None:
            self._results[do.microbatch] = tuple(output.detach() for output in outputs)

    def _backward(self, do: Instruction) -> None:
        self._through(do, self._gradients, self._input_gradients)

    def _through(
        self,
        do: Instruction,
        take: Callable[[Instruction], Tensors],
        compute: Callable[[Instruction, Tensors], Tensors],
    ) -> Tensors | None:
        """What a stage computes of what it takes, which goes where it is used."""
        self._observe(do.action, Phase.BEGIN)
        taken = take(do)
        self._observe(do.action, Phase.INPUT)
        do.stage.parameters.wait()
        self._observe(do.action, Phase.PARAMETERS)
        made = self._computed(do, lambda: compute(do, taken))
        if made is not None:
            self._observe(do.action, Phase.COMPUTE)
            if do.target is not None:
                self._inbox[do.target] = Arrival(made)
        return made

    def _outputs(self, do: Instruction, inputs: Tensors) -> Tensors:
        work, seed = self._works[do.microbatch], self._seed
        head = work.head if do.target is None else None
        if seed is None:
            outputs = do.stage.infer(inputs, work.named, head)
        else:
            outputs = do.stage.forward(do.microbatch, inputs, work.named, seed, head, work.draw)
        if do.target is not None and do.target.kind in SENDS:
            self._require_as_expected(do, outputs)
        return outputs

    def _computed(self, do: Instruction, compute: Callable[[], Tensors]) -> Tensors | None:
        """What is computed; None from the first failure on, here or, as far as known, elsewhere."""
        if self.failed:
            return None
        try:
            return compute()
        except Exception as error:
            self.failure = error
            self.machine.watchdog.fail(do.action, error)
            return None

    def _require_as_expected(self, do: Instruction, outputs: Tensors) -> None:
        """Raise ValueError if the receiver has made room for something else."""
        compared = 3 if self._seed is not None else 2  # without a backward, no requires_grad
        expected = self._specs[do.microbatch][do.action.stage + 1]
        given = tuple(TensorSpec.of(output) for output in outputs)
        if [spec[:compared] for spec in given] == [spec[:compared] for spec in expected]:
            return
        raise ValueError(
            f"block {do.stage.last_block} gives {_words(given)}, but {_words(expected)} when it "
            "was run on the meta device, by which the receiving rank has made room; blocks must "
            "not depend on the device of their tensors, nor run under an autocast of the step"
        )

    def _gradients(self, do: Instruction) -> Tensors:
        """Of the outputs; of the loss, the seed."""
        if do.source is not None:
            return self._awaited(do.source)
        assert self._seed is not None, "a forward-only program has no backward"
        return (self._seed,)

    def _input_gradients(self, do: Instruction, gradients: Tensors) -> Tensors:
        return do.stage.backward(do.microbatch, gradients, fused=do.action.kind is Kind.BW)

    def _weight(self, do: Instruction) -> None:
        self._observe(do.action, Phase.BEGIN)
        self._computed(do, lambda: do.stage.weight(do.microbatch))
        self._observe(do.action, Phase.COMPUTE)

    def _send(self, do: Instruction) -> None:
        made = self._inbox.pop(do.action, None)
        self.machine.messages.send(do.action, self._zeros(do) if made is None else made.tensors)

    def _receive(self, do: Instruction) -> None:
        self._inbox[do.action] = self.machine.messages.receive(do.action, self._travelling(do))

    def _travelling(self, do: Instruction) -> Specs:
        """What a message holds."""
        kind, stage = do.action.kind, do.action.stage
        ahead = kind in (Kind.SEND_F, Kind.RECV_B)  # between this stage and the next
        specs = self._specs[do.microbatch][stage + 1 if ahead else stage]
        if kind in (Kind.SEND_F, Kind.RECV_F):
            return specs
        return tuple(spec for spec in specs if spec.differentiable)

    def _zeros(self, do: Instruction) -> Tensors:
        assert self.failed
        return tuple(spec.empty(self.machine.device).zero_() for spec in self._travelling(do))

    def _inputs(self, do: Instruction) -> Tensors:
        """The batch's, or what the stage before made."""
        if do.source is None:
            return self._works[do.microbatch].inputs
        tensors = self._awaited(do.source)
        if do.source.kind not in RECEIVES or not tensors:
            return tensors
        specs = self._specs[do.microbatch][do.action.stage]
        return tuple(spec.arrived(t) for t, spec in zip(tensors, specs, strict=True))

    def _awaited(self, source: Action) -> Tensors:
        """What has arrived, or was made here; nothing after a failure."""
        arrival = self._inbox.pop(source, None)
        return () if arrival is None else arrival.wait()


def _words(specs: Specs) -> str:
    return ", ".join(
        f"{str(spec.dtype).removeprefix('torch.')} {list(spec.shape)}"
        f"{'' if spec.differentiable else ' without gradient'}"
        for spec in specs
    )


_HANDLERS: Mapping[Kind, Callable[[Execution, Instruction], None]] = {
    Kind.F: Execution._forward,
    **dict.fromkeys(BACKWARD, Execution._backward),
    Kind.W: Execution._weight,
    **dict.fromkeys(SENDS, Execution._send),
    **dict.fromkeys(RECEIVES, Execution._receive),
    Kind.UNSHARD: lambda _, do: do.stage.parameters.unshard(),
    Kind.RESHARD: lambda _, do: do.stage.parameters.reshard(),
    Kind.REDUCE: lambda _, do: do.stage.parameters.reduce(),
}
