"""The executor: a plain loop from action kind to handler, driven by a verified program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zeropp.ir.action import Action, Kind
from zeropp.runtime.boundary import Boundaries, Specs
from zeropp.runtime.channel import Arrival, Messages
from zeropp.runtime.inputs import Constants
from zeropp.runtime.instructions import Instruction
from zeropp.runtime.lane import Lane
from zeropp.runtime.observer import Observer, Phase
from zeropp.runtime.stage import Head, Stage, Tensors
from zeropp.runtime.watchdog import Watchdog


class Work(NamedTuple):
    """One micro-batch: what the first stage takes, and what the last makes of its outputs."""

    inputs: Tensors
    head: Head


@dataclass(frozen=True)
class Feed:
    """What a step is fed with.

    Attributes:
        microbatches: the batch; every rank has it, and uses the parts that it needs.
        constants: the same for every micro-batch.
        seed: scalar, gradient of the head's result; None: run forwards only, without autograd.
    """

    microbatches: Sequence[Work]
    constants: Constants
    seed: Tensor | None


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
    """

    stages: Mapping[int, Stage]
    messages: Messages
    boundaries: Boundaries
    device: torch.device
    watchdog: Watchdog
    lane: Lane

    def close(self) -> None:
        """Stop watching and end communication; nothing can run afterwards."""
        self.watchdog.close()
        self.messages.close()
        self.lane.close()


class Execution:
    """One run of one rank's program over one batch.

    Args:
        machine: stages and links.
        feed: what goes in.
        observer: told when the phases of every compute action end.
    """

    def __init__(self, machine: Machine, feed: Feed, observer: Observer) -> None:
        self._machine, self._feed, self._observe = machine, feed, observer.observe
        self._specs = [machine.boundaries.of(m.inputs, feed.constants) for m in feed.microbatches]
        self._inbox: dict[Action, Arrival] = {}
        self._results: dict[int, Tensors] = {}
        self._handlers: Mapping[Kind, Callable[[Instruction], None]] = {
            Kind.F: self._forward,
            Kind.B: self._backward,
            Kind.BW: self._backward,
            Kind.W: self._weight,
            Kind.SEND_F: self._send,
            Kind.SEND_B: self._send,
            Kind.RECV_F: self._receive_inputs,
            Kind.RECV_B: self._receive_gradients,
            Kind.UNSHARD: lambda do: do.stage.parameters.unshard(),
            Kind.RESHARD: lambda do: do.stage.parameters.reshard(),
            Kind.REDUCE: lambda do: do.stage.parameters.reduce(),
        }

    def run(self, program: Sequence[Instruction]) -> list[Tensors]:
        """Run the program; what the head returned, by micro-batch, where the last stage lives."""
        watchdog, handlers = self._machine.watchdog, self._handlers
        with watchdog.during("beginning"):
            for do in program:
                watchdog.begin(do.action)
                handlers[do.action.kind](do)
        with watchdog.during("waiting for its sends to end"):
            self._machine.messages.flush()
        if self._feed.seed is not None:
            with watchdog.during("waiting for its gradients to be reduced"):
                for stage in self._machine.stages.values():
                    stage.parameters.finish()
        return [self._results[m] for m in sorted(self._results)]

    def _forward(self, do: Instruction) -> None:
        work, constants = self._feed.microbatches[do.microbatch], self._feed.constants
        self._observe(do.action, Phase.BEGIN)
        inputs = self._inputs(do, work)
        self._observe(do.action, Phase.INPUT)
        do.stage.parameters.wait()
        self._observe(do.action, Phase.PARAMETERS)
        head = work.head if do.target is None else None
        if self._feed.seed is None:
            outputs = do.stage.infer(inputs, constants, head)
        else:
            outputs = do.stage.forward(do.microbatch, inputs, constants, self._feed.seed, head)
        self._observe(do.action, Phase.COMPUTE)
        if do.target is None:
            self._results[do.microbatch] = outputs
        else:
            self._inbox[do.target] = Arrival(outputs)

    def _backward(self, do: Instruction) -> None:
        self._observe(do.action, Phase.BEGIN)
        gradients = self._awaited(do.source) if do.source is not None else (self._seed,)
        self._observe(do.action, Phase.INPUT)
        do.stage.parameters.wait()
        self._observe(do.action, Phase.PARAMETERS)
        fused = do.action.kind is Kind.BW
        gradients = do.stage.backward(do.microbatch, gradients, fused=fused)
        self._observe(do.action, Phase.COMPUTE)
        if do.target is not None:
            self._inbox[do.target] = Arrival(gradients)

    def _weight(self, do: Instruction) -> None:
        self._observe(do.action, Phase.BEGIN)
        do.stage.weight(do.microbatch)
        self._observe(do.action, Phase.COMPUTE)

    def _send(self, do: Instruction) -> None:
        self._machine.messages.send(do.action, self._inbox.pop(do.action).tensors)

    def _receive_inputs(self, do: Instruction) -> None:
        self._receive(do, self._specs[do.microbatch][do.action.stage])

    def _receive_gradients(self, do: Instruction) -> None:
        outputs = self._specs[do.microbatch][do.action.stage + 1]
        self._receive(do, tuple(spec for spec in outputs if spec.differentiable))

    def _receive(self, do: Instruction, specs: Specs) -> None:
        self._inbox[do.action] = self._machine.messages.receive(do.action, specs)

    def _inputs(self, do: Instruction, work: Work) -> Tensors:
        """The batch's, or, as leaves, what the stage before made."""
        if do.source is None:
            return tuple(tensor.to(self._machine.device) for tensor in work.inputs)
        pairs = zip(
            self._awaited(do.source), self._specs[do.microbatch][do.action.stage], strict=True
        )
        return tuple(t.requires_grad_() if spec.differentiable else t for t, spec in pairs)

    def _awaited(self, source: Action) -> Tensors:
        return self._inbox.pop(source).wait()

    @property
    def _seed(self) -> Tensor:
        assert self._feed.seed is not None, "a forward-only program has no backward"
        return self._feed.seed
