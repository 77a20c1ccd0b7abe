"""Both runtimes run the same emulated blocks: every F, B and W once, in every schedule."""

import sys
from pathlib import Path

from support.ranks import run_ranks

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


def measured(path: str) -> list[tuple[str, int, float]]:
    """On one rank of two: every side, which raises unless its blocks ran once a micro-batch."""
    sys.path.insert(0, path)
    import peers

    setting = peers.Setting(2, 4, (1, 1, 1), 0.004)
    found = peers.run_settings([setting])
    return [(r.side.title, len(r.taken), sum(r.shares.values())) for r in found]


def test_every_side_runs_its_blocks_once() -> None:
    ranks = run_ranks(2, measured, BENCHMARKS, timeout=240)
    titles = [title for title, _, _ in ranks[0]]
    assert titles[:3] == ["zeropp carry", "zeropp drain", "zeropp eager"]
    assert titles[3:] == [
        f"torch {name}"
        for name in (
            "1F1B",
            "Interleaved1F1B",
            "LoopedBFS",
            "InterleavedZeroBubble",
            "ZBVZeroBubble",
            "DualPipeV",
        )
    ]
    for title, repeats, shares in ranks[0]:
        assert repeats == 3
        assert abs(shares - (0 if title.startswith("torch") else 1)) < 1e-3
