"""The executor: a plain loop from action kind to handler, driven by a verified program."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from zeropp.ir import Action, Kind, Placement
from zeropp.ir.deps import incoming, outgoing
from zeropp.runtime.boundary import Boundaries, Specs, Tensors
from zeropp.runtime.channel import Arrival, Channels
from zeropp.runtime.microbatches import Microbatch
from zeropp.runtime.stage import Stage
from zeropp.runtime.watchdog import Watchdog

Head = Callable[[Microbatch, Tensors], Tensors]
Spans = Callable[[Action], AbstractContextManager[None]]


@dataclass(frozen=True)
class Machine:
    """What a rank executes programs with.

    Attributes:
        placement: stage -> rank.
        stages: this rank's stages by global index.
        channels: links to the other ranks of the pipeline.
        boundaries: what travels between stages.
        device: where this rank computes.
        watchdog: told of every action that begins.
    """

    placement: Placement
    stages: Mapping[int, Stage]
    channels: Channels
    boundaries: Boundaries
    device: torch.device
    watchdog: Watchdog


class Execution:
    """One run of one rank's actions over one batch.

    Args:
        machine: stages and channels.
        microbatches: the batch; every rank has it, and uses the parts that it needs.
        head: what the last stage makes of its outputs: a loss, or the outputs themselves.
        seed: gradient of the head's result; None: run forwards only, without autograd.
        span: wraps the computing part of every compute action; measures it.
    """

    def __init__(
        self,
        machine: Machine,
        microbatches: Sequence[Microbatch],
        head: Head,
        seed: Tensor | None,
        span: Spans | None = None,
    ) -> None:
        self._machine, self._microbatches = machine, microbatches
        self._head, self._seed = head, seed
        self._span: Spans = span or (lambda action: nullcontext())
        self._specs = [machine.boundaries.of(m.inputs) for m in microbatches]
        self._arrivals: dict[Action, Arrival] = {}
        self._here: dict[Action, Tensors] = {}  # made on this rank: by the SEND or by the consumer
        self._results: list[tuple[int, Tensors]] = []
        self._handlers: Mapping[Kind, Callable[[Action], None]] = {
            Kind.F: self._forward if seed is not None else self._infer,
            Kind.B: self._backward,
            Kind.BW: self._backward,
            Kind.W: self._weight,
            Kind.SEND_F: self._send,
            Kind.SEND_B: self._send,
            Kind.RECV_F: self._receive,
            Kind.RECV_B: self._receive,
            Kind.UNSHARD: lambda action: self._stage(action).parameters.unshard(),
            Kind.RESHARD: lambda action: self._stage(action).parameters.reshard(),
            Kind.REDUCE: lambda action: self._stage(action).parameters.reduce(),
        }

    def run(self, order: Sequence[Action]) -> list[Tensors]:
        """Run the actions; what the head returned, by micro-batch, where the last stage lives."""
        for action in order:
            self._machine.watchdog.begin(action)
            try:
                self._handlers[action.kind](action)
            except Exception as error:
                error.add_note(f"while in {self._machine.watchdog.place()}")
                raise
        self._machine.watchdog.begin("waiting for its sends to end")
        self._machine.channels.flush()
        if self._seed is not None:
            for stage in self._machine.stages.values():
                stage.parameters.finish()
        return [result for _, result in sorted(self._results, key=lambda pair: pair[0])]

    def _forward(self, action: Action) -> None:
        stage, m = self._stage(action), _microbatch(action)
        inputs = self._inputs(action)
        stage.parameters.wait()
        with self._span(action):
            self._deliver(action, stage.forward(m, inputs, self._head_of(action)))

    def _infer(self, action: Action) -> None:
        inputs = self._inputs(action)
        head = self._head_of(action)
        self._stage(action).parameters.wait()
        with self._span(action), torch.no_grad():
            outputs = self._stage(action).infer(inputs)
            self._deliver(action, head(outputs) if head else outputs)

    def _backward(self, action: Action) -> None:
        stage, m = self._stage(action), _microbatch(action)
        gradients = self._output_gradients(action)
        stage.parameters.wait()
        with self._span(action):
            gradients = stage.backward(m, gradients, fused=action.kind is Kind.BW)
        if action.stage > 0:
            self._pass_on(action, Action(Kind.B, action.stage - 1, m), gradients)

    def _weight(self, action: Action) -> None:
        with self._span(action):
            self._stage(action).weight(_microbatch(action))

    def _send(self, action: Action) -> None:
        self._machine.channels.send(action, self._here.pop(action))

    def _receive(self, action: Action) -> None:
        m = _microbatch(action)
        specs = self._specs[m]
        if action.kind is Kind.RECV_F:
            wanted = specs[action.stage]
        else:
            wanted = tuple(spec for spec in specs[action.stage + 1] if spec.differentiable)
        self._arrivals[action] = self._machine.channels.receive(action, wanted)

    def _inputs(self, action: Action) -> Tensors:
        m = _microbatch(action)
        if action.stage == 0:
            return tuple(t.to(self._machine.device) for t in self._microbatches[m].inputs)
        return _as_leaves(self._awaited(action), self._specs[m][action.stage])

    def _output_gradients(self, action: Action) -> Tensors:
        if action.stage < self._machine.placement.num_stages - 1:
            return self._awaited(Action(Kind.B, action.stage, action.microbatch))
        return () if self._seed is None else (self._seed,)

    def _awaited(self, action: Action) -> Tensors:
        receive = incoming(action, self._machine.placement)
        return self._here.pop(action) if receive is None else self._arrivals.pop(receive).wait()

    def _deliver(self, action: Action, outputs: Tensors) -> None:
        if action.stage == self._machine.placement.num_stages - 1:
            self._results.append((_microbatch(action), outputs))
        else:
            self._pass_on(action, Action(Kind.F, action.stage + 1, action.microbatch), outputs)

    def _pass_on(self, action: Action, consumer: Action, tensors: Tensors) -> None:
        self._here[outgoing(action, self._machine.placement) or consumer] = tensors

    def _head_of(self, action: Action) -> Callable[[Tensors], Tensors] | None:
        if action.stage < self._machine.placement.num_stages - 1:
            return None
        microbatch = self._microbatches[_microbatch(action)]
        return lambda outputs: self._head(microbatch, outputs)

    def _stage(self, action: Action) -> Stage:
        return self._machine.stages[action.stage]


def _microbatch(action: Action) -> int:
    if action.microbatch is None:
        raise ValueError(f"{action} has no micro-batch")
    return action.microbatch


def _as_leaves(tensors: Tensors, specs: Specs) -> Tensors:
    pairs = zip(tensors, specs, strict=True)
    return tuple(t.requires_grad_(spec.differentiable) for t, spec in pairs)
