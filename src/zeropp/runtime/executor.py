"""The executor: a plain loop from action kind to handler, driven by a verified program."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from zeropp.ir import Action, Kind
from zeropp.runtime.boundary import Specs
from zeropp.runtime.channel import Arrival
from zeropp.runtime.instructions import Instruction
from zeropp.runtime.machine import Feed, Machine
from zeropp.runtime.observer import Lap, Phase
from zeropp.runtime.stage import Tensors


class Execution:
    """One run of one rank's program over one batch.

    Args:
        machine: stages and links.
        feed: what goes in.
        lap: told when the phases of every compute action end; measures them.
    """

    def __init__(self, machine: Machine, feed: Feed, lap: Lap) -> None:
        self._machine, self._feed, self._lap = machine, feed, lap
        self._specs = [machine.boundaries.of(m.inputs, feed.constants) for m in feed.microbatches]
        self._inbox: dict[Action, Arrival] = {}
        self._results: dict[int, Tensors] = {}
        self._handlers: Mapping[Kind, Callable[[Instruction], None]] = {
            Kind.F: self._forward if feed.seed is not None else self._infer,
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
        inputs = self._inputs(do)
        do.stage.parameters.wait()
        self._lap(do.action, Phase.PARAMETERS)
        m, constants, seed = do.microbatch, self._feed.constants, self._seed
        outputs = do.stage.forward(m, inputs, constants, seed, self._head_of(do))
        self._lap(do.action, Phase.COMPUTE)
        self._deliver(do, outputs)

    def _infer(self, do: Instruction) -> None:
        inputs = self._inputs(do)
        do.stage.parameters.wait()
        self._lap(do.action, Phase.PARAMETERS)
        head = self._head_of(do)
        with torch.no_grad():
            outputs = do.stage.infer(inputs, self._feed.constants)
            outputs = head(outputs) if head else outputs
        self._lap(do.action, Phase.COMPUTE)
        self._deliver(do, outputs)

    def _backward(self, do: Instruction) -> None:
        self._lap(do.action, Phase.BEGIN)
        gradients = self._awaited(do.source) if do.source is not None else (self._seed,)
        self._lap(do.action, Phase.INPUT)
        do.stage.parameters.wait()
        self._lap(do.action, Phase.PARAMETERS)
        fused = do.action.kind is Kind.BW
        gradients = do.stage.backward(do.microbatch, gradients, fused=fused)
        self._lap(do.action, Phase.COMPUTE)
        if do.target is not None:
            self._inbox[do.target] = Arrival(gradients)

    def _weight(self, do: Instruction) -> None:
        self._lap(do.action, Phase.BEGIN)
        do.stage.weight(do.microbatch)
        self._lap(do.action, Phase.COMPUTE)

    def _send(self, do: Instruction) -> None:
        self._machine.messages.send(do.action, self._inbox.pop(do.action).tensors)

    def _receive_inputs(self, do: Instruction) -> None:
        self._receive(do, self._specs[do.microbatch][do.action.stage])

    def _receive_gradients(self, do: Instruction) -> None:
        outputs = self._specs[do.microbatch][do.action.stage + 1]
        self._receive(do, tuple(spec for spec in outputs if spec.differentiable))

    def _receive(self, do: Instruction, specs: Specs) -> None:
        self._inbox[do.action] = self._machine.messages.receive(do.action, specs)

    def _inputs(self, do: Instruction) -> Tensors:
        self._lap(do.action, Phase.BEGIN)
        if do.source is None:
            given = self._feed.microbatches[do.microbatch].inputs
            inputs = tuple(t.to(self._machine.device) for t in given)
        else:
            specs = self._specs[do.microbatch][do.action.stage]
            inputs = _as_leaves(self._awaited(do.source), specs)
        self._lap(do.action, Phase.INPUT)
        return inputs

    def _awaited(self, source: Action) -> Tensors:
        return self._inbox.pop(source).wait()

    @property
    def _seed(self) -> Tensor:
        if self._feed.seed is None:
            raise ValueError("a forward-only run has no backward")
        return self._feed.seed

    def _deliver(self, do: Instruction, outputs: Tensors) -> None:
        if do.target is None:
            self._results[do.microbatch] = outputs
        else:
            self._inbox[do.target] = Arrival(outputs)

    def _head_of(self, do: Instruction) -> Callable[[Tensors], Tensors] | None:
        if do.target is not None:
            return None
        microbatch = self._feed.microbatches[do.microbatch]
        return lambda outputs: self._feed.head(microbatch, outputs)


def _as_leaves(tensors: Tensors, specs: Specs) -> Tensors:
    pairs = zip(tensors, specs, strict=True)
    return tuple(t.requires_grad_() if spec.differentiable else t for t, spec in pairs)
