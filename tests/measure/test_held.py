"""What a process holds, on Linux and where there is no /proc."""

import resource
import sys

import pytest
import torch

from zeropp.measure.memory import held_bytes, peak_bytes

CPU = torch.device("cpu")


def test_what_is_held_grows_with_what_is_made_and_the_peak_stays() -> None:
    before = held_bytes(CPU)
    made = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert held_bytes(CPU) >= before + 0.9 * made.nbytes
    del made
    assert held_bytes(CPU) < peak_bytes(CPU)


def test_a_mac_tells_its_peak_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(sys, "platform", "darwin")
    assert held_bytes(CPU) == peak_bytes(CPU) >= most
    assert peak_bytes(CPU) < 2 * most
