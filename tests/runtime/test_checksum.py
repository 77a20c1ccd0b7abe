"""What tells a batch from another one: the checksum by which ranks of a pipeline compare theirs."""

import pytest
import torch
from torch import Tensor

from zeropp.runtime.agreement import _checksum
from zeropp.runtime.inputs import microbatches_of


def told(x: Tensor, parts: int = 4) -> int:
    return _checksum(microbatches_of((x, x[:, :1]), parts))


@pytest.mark.parametrize("width", [8, 513, 2048])
def test_what_differs_anywhere_is_another_batch(width: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(50_000, (64, width), generator=draw)
    rows = torch.randperm(64, generator=draw)
    others = [x.flip(0), x.flip(1), x[rows], x.roll(1, 0), torch.cat([x[:2].flip(0), x[2:]])]
    others += [x + 1, -x, x * 0, x * 0 + 1, x.float(), -x.float(), x.to(torch.bfloat16), x.bool()]
    others += [x[:63], x.reshape(32, -1), torch.cat([x, x[:0]]).to(torch.int32)]
    seen = {told(x), *map(told, others)}
    assert len(seen) == 1 + len(others)
    for where in torch.randint(x.numel(), (100,), generator=draw).tolist():
        other = x.clone()
        other.view(-1)[where] += 1
        assert told(other) != told(x)


def test_the_last_bytes_count_too() -> None:
    x = torch.zeros(3, 80_003, dtype=torch.uint8)
    for where in (-1, -7, -9, -5_000):
        other = x.clone()
        other.view(-1)[where] = 1
        assert told(other, 1) != told(x, 1)


def test_equal_batches_are_equal_however_they_lie() -> None:
    x = torch.arange(64 * 2048).reshape(64, 2048)
    apart = torch.empty(2048, 64, dtype=x.dtype).t().copy_(x)
    assert told(apart) == told(x) == told(x.clone())
