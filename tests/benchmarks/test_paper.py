"""The paper's claims are counted over the cases that compare, and the largest effect is told."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_largest_effect_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import paper
    from support.pictures import regimes

    cases = [paper.Case("1.5b", 4, 8, 2, B, "8 x ib-200", paper.INSIDE) for B in (4, 8, 16)]
    compared = [paper.compare(case) for case in cases]
    ratios = [
        each.peer(paper.BREADTH_FIRST).step_s / each.fastest(paper.OURS["ZeroPP"]).step_s
        for each in compared
    ]
    found = list(paper.figures(compared))
    over = next(f for f in found if f.name.startswith("ZeroPP, small batch, shards inside"))
    assert over.value == max(ratios[:2])
    assert "best of 2 (0 reach it)" in over.name
    rows = [paper.row(each) for each in compared]
    assert rows[0]["breadth-first"]["s"] / rows[0]["ZeroPP"]["s"] == pytest.approx(ratios[0], 1e-3)
    regimes(rows, tmp_path / "paper.svg")
    assert "over breadth-first, shards inside" in (tmp_path / "paper.svg").read_text("utf-8")
