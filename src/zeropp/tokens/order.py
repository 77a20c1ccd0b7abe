"""The order of windows: a shuffle of any size that needs no table, another one in every epoch."""

import hashlib

_ROUNDS = 6
_MASK = 2**64 - 1


class Permutation:
    """A shuffle of `range(count)` by `key`: a Feistel network over the next power of four.

    Of what lands beyond `count` the image is taken again (cycle walking), at most about four times
    on average.
    """

    def __init__(self, count: int, key: str) -> None:
        self._count = count
        self._bits = max(1, ((count - 1).bit_length() + 1) // 2)
        digests = (hashlib.blake2b(f"{key} {n}".encode(), digest_size=8) for n in range(_ROUNDS))
        self._keys = [int.from_bytes(digest.digest(), "little") for digest in digests]

    def __getitem__(self, index: int) -> int:
        """The number at place `index`."""
        while True:
            index = self._once(index)
            if index < self._count:
                return index

    def _once(self, index: int) -> int:
        left, right = index >> self._bits, index & ((1 << self._bits) - 1)
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) >> (64 - self._bits))
        return (left << self._bits) | right


def _mixed(x: int) -> int:
    """All of 64 bits depend on all of them (the finalizer of splitmix64)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def in_epochs(count: int, first: int, number: int, key: str) -> list[int]:
    """What stands at the places `first`, `first + 1`, ... of endless shuffles of `range(count)`."""
    found: list[int] = []
    while len(found) < number:
        epoch, at = divmod(first + len(found), count)
        shuffle = Permutation(count, f"{key} {epoch}")
        found += [shuffle[i] for i in range(at, min(count, at + number - len(found)))]
    return found


def in_rounds(count: int, first: int, number: int) -> list[int]:
    """The same of one fixed shuffle, over and over."""
    shuffle = Permutation(count, "validation")
    return [shuffle[place % count] for place in range(first, first + number)]
