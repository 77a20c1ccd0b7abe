"""`zeropp show`: what is simulated is what is drawn, also for several schedules on one axis."""

import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zeropp.cli.main import main
from zeropp.generate import generate
from zeropp.ir import Order, Placement, Shape, format_program, format_schedule
from zeropp.program.derived import forward_only
from zeropp.program.lowering import lower

SIZE = ["--pp", "4", "--chunks", "2", "--microbatches", "8", "--unit-size", "4"]
SHARDED = ["--shard", "unit", "--max-resident", "1", "--gather", "0.3", "--reduce", "0.3"]


def drawn(path: Path, *arguments: str) -> Counter[str]:
    """The texts of the picture that `zeropp show` makes."""
    assert main(["show", *arguments, "-o", str(path)]) == 0
    nodes = ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    return Counter("".join(node.itertext()) for node in nodes)


def simulated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[float]]:
    assert main(["simulate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_rank_has_its_peak_in_microbatches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = drawn(tmp_path / "z.svg", "interleaved-1f1b", *SIZE[:-2])
    report = simulated(capsys, "interleaved-1f1b", *SIZE[:-2])
    assert report["peak_slots"] == [11, 9, 7, 5]
    assert [shown[f"peak {slots / 2}"] for slots in report["peak_slots"]] == [1, 1, 1, 1]
    assert shown["activations held, in micro-batches through a whole rank"] == 1


def test_collectives_and_their_delay_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = drawn(tmp_path / "plain.svg", "zeropp", *SIZE)
    assert not {"UNSHARD", "REDUCE", "SEND"} & set(plain)
    shown = drawn(tmp_path / "sharded.svg", "zeropp", *SIZE, *SHARDED)
    assert {"UNSHARD", "REDUCE"} <= set(shown)
    assert "SEND" not in shown
    makespan = simulated(capsys, "zeropp", *SIZE, *SHARDED)["makespan"]
    assert any(f"makespan {makespan:.4g} f" in text for text in shown)
    assert shown["floor 25.5 f"] == 1


def test_messages_are_drawn_where_they_take_time(tmp_path: Path) -> None:
    assert "SEND" in drawn(tmp_path / "slow.svg", "1f1b", "--p2p", "0.5")


def test_a_comparison_shares_one_axis(tmp_path: Path) -> None:
    names = ["zeropp", "interleaved-1f1b", "1f1b", "zb-v"]
    shown = drawn(tmp_path / "all.svg", "--compare", ",".join(names), *SIZE)
    assert shown["time (f)"] == 1
    assert all(shown[name] == 1 for name in names)
    assert shown["rank 3"] == 4
    assert shown["P=4 V=1 B=8"] == 1  # 1f1b has no chunks and no units
    assert shown["floor 25.5 f"] == 3
    assert shown["floor 27 f"] == 1
    assert sum(count for text, count in shown.items() if text.startswith("peak ")) == 16


def test_a_comparison_as_text_and_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--compare", "gpipe,1f1b", *SIZE, *SHARDED]) == 0
    printed = capsys.readouterr().out
    assert printed.index("gpipe  P=4") < printed.index("\n\n1f1b  P=4")
    assert "U unshard" in printed
    file = tmp_path / "trace.json"
    assert main(["show", "--compare", "zeropp,1f1b", *SIZE, *SHARDED, "-o", str(file)]) == 0
    events = json.loads(file.read_text())["traceEvents"]
    assert len({event["pid"] for event in events}) == 2
    phases = Counter(event["ph"] for event in events)
    assert phases["s"] == phases["f"] == 2 * 7 * 8 + 2 * 3 * 8
    assert {"UNSHARD", "REDUCE"} <= {event.get("cat") for event in events}


def test_a_program_file_is_drawn_with_its_collectives(tmp_path: Path) -> None:
    file = tmp_path / "program.txt"
    program = lower(generate(Order("zeropp"), 2, 2, 4), "unit", max_resident=1)
    file.write_text(format_program(program))
    assert "UNSHARD" in drawn(tmp_path / "program.svg", str(file), "--gather", "0.5")


def test_a_forward_only_file_has_neither_floor_nor_memory(tmp_path: Path) -> None:
    file = tmp_path / "forward.txt"
    file.write_text(format_schedule(forward_only(Placement(Shape.LOOP, 2, 2), 4)))
    shown = drawn(tmp_path / "forward.svg", str(file))
    assert "F forward" in shown
    assert not any(text.startswith(("peak", "floor", "activations")) for text in shown)
