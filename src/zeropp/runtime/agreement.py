"""What the ranks tell each other before a step, in the one collective that counts its tokens.

Every rank says what it is about to do, how many tokens it brings, what it was given, and whether it
refuses, so that a mistake that one rank alone can see is an error on all of them, and nobody waits.
On a GPU this goes over a group of the hosts, and only the tokens are summed on the device.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from zeropp.runtime.compat import end_group, host_group
from zeropp.runtime.inputs import Cut, Microbatch, Nested
from zeropp.runtime.mesh import T, as_carried, data_rank, gathered, greatest, own_pipeline
from zeropp.runtime.tape import autocast_of

_TOKENS = 38  # bits of the one number that is summed; those above are 0 where all is well
_LARGE = 2**17  # bytes


class _Row(NamedTuple):
    """What a rank says, as one row of whole numbers; of tokens, those of its share."""

    refuses: int
    tokens: int
    call: str  # what it is about to do
    autocast: int  # checksum of what it computes in
    pipeline: int  # which of the data-parallel ones
    microbatches: int = 0
    batch: int = 0  # checksum of what it was given


class Agreement:
    """Meets before every step; collective, on all ranks; `tokens` counts those of targets."""

    def __init__(
        self, mesh: DeviceMesh, device: torch.device, tokens: Callable[[Nested], Tensor | int]
    ) -> None:
        self._device, self._tokens = device, tokens
        self._pipeline, self._data_rank = own_pipeline(mesh), data_rank(mesh)
        self._at = self._pipeline.index(dist.get_rank())
        self._hosts = host_group(range(dist.get_world_size()), "hosts", device)
        self._of_all = -1 if dist.get_rank() else dist.get_world_size() - 1
        self._of_own = (2 * self._data_rank + 1) * (-1 if self._at else len(self._pipeline) - 1)

    def meet(
        self, prepare: Callable[[], list[Microbatch]], call: str
    ) -> tuple[list[Microbatch], Tensor]:
        """This rank's micro-batches, and the tokens of all data-parallel ranks.

        Where another rank has more micro-batches, this one's are followed by some without samples.

        Args:
            prepare: gives the micro-batches, if any, or raises why this rank does nothing.
            call: what all are about to do, and with what.

        Raises:
            ValueError: on every rank: one refuses, makes another call, or has another batch.
        """
        own, counted, batch, refusal = [], 0, 0, None
        tokens: Tensor | int = 0
        autocast = crc32(repr(autocast_of(self._device.type)).encode())
        try:
            own = prepare()
            tokens, batch = self._count(own), _checksum(own)
            counted = 0 if self._hosts is not None else int(tokens)
        except Exception as error:
            refusal = error
        refuses = int(refusal is not None)
        row = _Row(refuses, counted, call, autocast, self._data_rank, len(own), batch)
        told = counted + (refuses << _TOKENS) + self._difference(row)
        total, few = torch.tensor((told + 2**63) % 2**64 - 2**63), 0
        group = self._hosts or cast("dist.ProcessGroup", dist.group.WORLD)
        group.allreduce([total]).wait()  # dist's own call takes half as long again
        if int(total) >> _TOKENS:
            rows = gathered(row, self._hosts)
            total = torch.tensor(sum(row.tokens for row in rows))
            if any(row.refuses for row in rows):
                _refuse(refusal, gathered(None if refusal is None else str(refusal)))
            _compare(rows)
            few = max(row.microbatches for row in rows) - len(own)
        if self._hosts is not None and own:
            total = torch.as_tensor(tokens, dtype=torch.int64).to(self._device, non_blocking=True)
            dist.all_reduce(total)
        return own + [own[-1].nothing() for _ in range(few)], total

    def _difference(self, row: _Row) -> int:
        """What adds up to 0 where all were given what they should be; else once in 2**24 cases. It
        shares the one number that is summed: on gloo two take longer, and eight ten times as long.
        """
        same = hash((crc32(row.call.encode()), row.autocast, row.microbatches))  # on all ranks
        found = same * self._of_all + row.batch * self._of_own
        return found % 2**24 << _TOKENS + 2

    def _count(self, microbatches: Sequence[Microbatch]) -> Tensor | int:
        """Tokens of this rank's share of a batch that all ranks of its pipeline have."""
        share = microbatches[self._at :: len(self._pipeline)]
        return sum(self._tokens(m.targets) for m in share)

    def close(self) -> None:
        """Destroy the group of the hosts."""
        end_group(self._hosts)
        self._hosts = None


def _checksum(microbatches: Sequence[Microbatch]) -> int:
    """Of shapes, dtypes, and values on the CPU; those elsewhere would have to be waited for."""
    found = 0  # and hashes of numbers alone, which are the same in every process
    for microbatch in [microbatches.whole] if isinstance(microbatches, Cut) else microbatches:
        found = hash((found, crc32(" ".join(microbatch.keywords).encode())))
        for tensor in microbatch.tensors:
            values = _digest(tensor) if tensor.is_cpu else 0
            found = hash((found, crc32(str(tensor.dtype).encode()), tensor.shape, values))
    return found


def _digest(tensor: Tensor) -> int:
    """A checksum; of many bytes, that of their sums over rows of two widths, which takes a fifth of
    the time: what one does not see, such as rows in another order, the other does.
    """
    if tensor.dtype is torch.int64 and tensor.is_contiguous() and tensor.nbytes < _LARGE:
        return crc32(tensor.numpy().data)  # tokens; a call of torch is 1 us, or 5 in cold caches
    values = as_carried(tensor).reshape(-1).view(torch.uint8).numpy()
    if values.size < _LARGE:
        return crc32(values.data)
    words, found, start = values[: values.size // 8 * 8].view("i8"), 0, 0
    for width in (509, 521):
        start = words.size // width * width
        found = crc32(words[:start].reshape(-1, width).sum(axis=0), found)
    return crc32(values[8 * start :].data, found)


def together(
    prepare: Callable[[], T],
    same: Callable[[T], Mapping[str, object]] = lambda _: {},
    group: dist.ProcessGroup | None = None,
) -> T:
    """What `prepare` gives, once it has failed on no rank; collective, as `gathered`.

    Raises:
        ValueError: on every rank, where it has, or what `same` names of it is not so everywhere.
    """
    found, named, refusal = list[T](), dict[str, object](), None
    try:
        found.append(prepare())
        named.update(same(found[0]))
    except Exception as error:
        refusal = error
    why, known = None if refusal is None else str(refusal), crc32(repr(named).encode())
    refuses, most, least = greatest(refusal is not None, known, -known, group=group)
    if not refuses and most == -least:
        return found[0]
    reasons, everyone = zip(*gathered((why, named), group), strict=True)
    _refuse(refusal, reasons)
    for name in dict.fromkeys(name for given in everyone for name in given):
        values = [given.get(name) for given in everyone]
        if different := [rank for rank, value in enumerate(values) if value != values[0]]:
            raise ValueError(f"{name}: ranks {different} were given another than rank 0")
    return found[0]


def _refuse(own: Exception | None, reasons: Sequence[str | None]) -> None:
    """Raise on every rank what the first that refuses says; as it is where all say the same."""
    first = next((rank for rank, reason in enumerate(reasons) if reason is not None), None)
    if first is None:
        return
    if own is not None and len(set(reasons)) == 1:
        raise own
    raise ValueError(f"rank {first}: {reasons[first]}") from own


def _compare(rows: Sequence[_Row]) -> None:
    """Raise ValueError, on every rank, where some were given what they should not."""
    firsts: dict[int, int] = {}
    for rank, row in enumerate(rows):
        first = firsts.setdefault(row.pipeline, rank)
        if row.call != rows[0].call:
            raise ValueError(f"rank {rank} calls {row.call}, rank 0 {rows[0].call}; call the same")
        if row[5:] != rows[first][5:]:
            raise ValueError(
                f"batch: rank {rank} was given another batch than rank {first}, which is of the "
                "same pipeline; all ranks of a pipeline pass the same, data-parallel ones their own"
            )
        if row.autocast != rows[0].autocast:
            raise ValueError(f"autocast: rank {rank} runs under another than rank 0; use the same")
