"""Kinds: a name and a hue each, a shade per chunk, which stay apart for colour-blind readers.

Chunk 0 has the full hue and the last chunk the lightest, so that a rank's chunks read from dark to
light in forward order. The four compute hues were searched for the largest colour difference
between kinds, over all chunks of V = 4, as protanopes, deuteranopes and tritanopes see them.
"""

from collections.abc import Mapping

from zeropp.ir.action import RECEIVES, SENDS, Kind

Colour = tuple[float, float, float]

IDLE: Colour = (0.93, 0.93, 0.94)
INK: Colour = (0.13, 0.14, 0.16)
QUIET: Colour = (0.40, 0.42, 0.45)
WHITE: Colour = (1.0, 1.0, 1.0)
HELD: Colour = (0.80, 0.85, 0.89)
HELD_EDGE: Colour = (0.42, 0.52, 0.60)

_LIGHTEST = 0.5  # how much of the way to white the last chunk goes
_KINDS: Mapping[Kind, tuple[str, str]] = {
    Kind.F: ("F forward", "1F5FAE"),
    Kind.B: ("B input gradient", "E69F00"),
    Kind.W: ("W weight gradient", "3BA64C"),
    Kind.BW: ("BW fused backward", "B5446E"),
    Kind.UNSHARD: ("U unshard", "6A51A3"),
    Kind.RESHARD: ("X reshard", "8A8D91"),
    Kind.REDUCE: ("R reduce", "8C6D31"),
    Kind.SEND_F: (">F send", "4D5156"),
    Kind.SEND_B: (">B send", "4D5156"),
    Kind.RECV_F: ("<F receive", "A4A8AD"),
    Kind.RECV_B: ("<B receive", "A4A8AD"),
}


def meaning(kind: Kind) -> str:
    """The letters of `kind` in text, and its name."""
    return _KINDS[kind][0]


def shade(kind: Kind, chunk: int = 0, num_chunks: int = 1) -> Colour:
    """The colour of an action of `kind` in `chunk` of `num_chunks`; messages have one for all."""
    red, green, blue = (part / 255 for part in bytes.fromhex(_KINDS[kind][1]))
    hue = red, green, blue
    return hue if kind in SENDS or kind in RECEIVES else lighten(hue, chunk, num_chunks)


def lighten(hue: Colour, chunk: int, num_chunks: int) -> Colour:
    """`hue` for chunk 0, mixed with more and more white for later ones."""
    share = _LIGHTEST * chunk / max(num_chunks - 1, 1)
    red, green, blue = (part + (1.0 - part) * share for part in hue)
    return red, green, blue


def ink_on(colour: Colour) -> Colour:
    """White or dark text, whichever is easier to read on `colour`."""
    luminance = 0.2126 * colour[0] ** 2.2 + 0.7152 * colour[1] ** 2.2 + 0.0722 * colour[2] ** 2.2
    return INK if luminance > 0.3 else WHITE
