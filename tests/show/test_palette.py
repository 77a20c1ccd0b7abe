"""Colours: told apart by all eyes, lighter for later chunks, with readable numbers on them."""

import itertools

import numpy as np
import pytest

from zeropp.ir import Kind
from zeropp.show.palette import Colour, ink_on, shade

# Linear RGB as dichromats see it: Machado, Oliveira and Fernandes 2009, severity 1.0.
VISIONS = {
    "full": "1 0 0  0 1 0  0 0 1",
    "protan": ".152286 1.052583 -.204868  .114503 .786281 .099216  -.003882 -.048116 1.051998",
    "deutan": ".367322 .860646 -.227968  .280085 .672501 .047413  -.011820 .042940 .968881",
    "tritan": "1.255528 -.076749 -.178779  -.078411 .930809 .147602  .004733 .691367 .303900",
}
TO_XYZ = "0.4124 0.3576 0.1805  0.2126 0.7152 0.0722  0.0193 0.1192 0.9505"
COMPUTE = (Kind.F, Kind.B, Kind.W, Kind.BW)


def matrix(numbers: str) -> np.ndarray:
    return np.array(numbers.split(), dtype=float).reshape(3, 3)


def as_lab(colour: Colour, vision: str = "full") -> np.ndarray:
    """CIE L*a*b* of an sRGB colour as that vision sees it."""
    part = np.array(colour)
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = np.clip(matrix(VISIONS[vision]) @ linear, 0, 1)
    xyz = matrix(TO_XYZ) @ seen / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("V", [1, 2, 4])
def test_kinds_are_told_apart_without_full_colour_vision(vision: str, V: int) -> None:
    shades = [[as_lab(shade(kind, v, V), vision) for v in range(V)] for kind in COMPUTE]
    for one, other in itertools.combinations(shades, 2):
        assert min(np.linalg.norm(a - b) for a in one for b in other) > 11


@pytest.mark.parametrize("kind", COMPUTE)
def test_later_chunks_are_lighter_and_numbers_readable(kind: Kind) -> None:
    shades = [shade(kind, chunk, 4) for chunk in range(4)]
    lightness = [as_lab(colour)[0] for colour in shades]
    assert lightness == sorted(lightness)
    inks = [as_lab(ink_on(colour))[0] for colour in shades]
    assert min(abs(np.subtract(lightness, inks))) > 35
