"""Tensors of any dtype and layout arrive as they were, from stage to stage and as constants."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from support.features import H, loss_sum, stack
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement, Shape
from zeropp.plan import Plan
from zeropp.runtime.boundary import TensorSpec
from zeropp.runtime.channel import Channels

CPU = torch.device("cpu")


def odd_tensors() -> dict[str, Tensor]:
    numbers = torch.arange(6.0).view(2, 3)
    complexes = torch.complex(numbers, -numbers)
    return {
        "conjugated": complexes.conj(),
        "negated": complexes.conj().imag,
        "double complex": complexes.to(torch.complex128),
        "int16": numbers.to(torch.int16),
        "transposed": numbers.to(torch.int16).t(),
        "uint16": numbers.to(torch.uint16),
        "float8": numbers.to(torch.float8_e4m3fn),
        "truth": numbers > 2,
        "scalar": torch.tensor(7, dtype=torch.int16),
        "empty": torch.empty(0, 3, dtype=torch.int16),
    }


def values(tensor: Tensor) -> list[complex]:
    return tensor.resolve_conj().resolve_neg().to(torch.complex128).flatten().tolist()


class Asks(nn.Module):
    """Keeps the constants that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(H, H), list[list[complex]]()

    def forward(self, x: Tensor, *, one: Tensor, two: Tensor) -> Tensor:
        if not x.is_meta:
            self.seen = [values(one), values(two)]
        return self.layer(x)


def arrived() -> tuple[dict[str, list[complex]], list[list[complex]]]:
    """What rank 1 receives, and the constants of its block."""
    channels, found = Channels(Placement(Shape.LOOP, 2, 1), [0, 1], CPU), {}
    for name, tensor in odd_tensors().items():
        if dist.get_rank() == 0:
            channels.send(Action(Kind.SEND_F, 0, 0), (tensor,))
        else:
            specs = (TensorSpec.of(tensor),)
            (received,) = channels.receive(Action(Kind.RECV_F, 1, 0), specs).wait()
            found[name] = values(received)
    channels.flush()
    channels.close()
    blocks = stack(Asks)
    pipe = pipeline(blocks, loss_sum, Plan(2, 1, 2))
    odd = odd_tensors()
    constants = {"one": odd["conjugated"], "two": odd["float8"]}
    tokens = torch.arange(20).view(4, 5)
    pipe.step((tokens, tokens), constants=constants if dist.get_rank() == 0 else None)
    asking = [b for module in pipe.modules for _, b in module.numbered if isinstance(b, Asks)]
    pipe.close()
    return found, asking[0].seen


def test_any_tensor_arrives_as_it_was() -> None:
    sent = {name: values(tensor) for name, tensor in odd_tensors().items()}
    (_, first), (found, last) = run_ranks(2, arrived)
    assert found == sent
    assert first == last == [sent["conjugated"], sent["float8"]]
