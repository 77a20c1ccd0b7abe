"""torch's CSV: what we write it runs, and what it writes we verify, simulate and draw."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import pipelining

from zeropp.cli.main import main
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Action, Kind, Order, Placement, Program, Shape, parse
from zeropp.program import lower, require_valid, verify
from zeropp.torch.text import format_csv, parse_csv, torch_names

P, V, B = 4, 2, 8
SIZE = ["--pp", "4", "--chunks", "2", "--microbatches", "8"]
THEIRS = ("LoopedBFS", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV")


def runtime(schedule: Callable[..., Any], *arguments: Any) -> Any:
    """One of torch's schedules over stages that are nothing but numbers."""
    stage = {"num_stages": P * V, "group_size": P, "group_rank": 0, "is_first": True}
    stage |= {"is_last": False, "submod": None, "has_backward": True, "stage_index": 0}
    stages = [SimpleNamespace(**stage), SimpleNamespace(**stage | {"stage_index": P})]
    return schedule(stages, B, *arguments)


@pytest.mark.parametrize("name", list(GENERATORS))
def test_torch_loads_what_is_written_and_it_comes_back(name: str, tmp_path: Path) -> None:
    chunks = GENERATORS[name].chunks
    schedule = generate(Order(name), P, V if chunks is None or V in chunks else 1, B)
    text = format_csv(schedule)
    again = parse_csv(text)
    assert (again.actions, again.units) == (schedule.actions, (B,))
    assert again.placement.ranks == schedule.placement.ranks
    if schedule.placement.num_chunks == V:
        (tmp_path / "z.csv").write_text(text)
        loaded = runtime(pipelining.schedules._PipelineScheduleRuntime)
        loaded._load_csv(str(tmp_path / "z.csv"))
        rows = [list(map(str, loaded.pipeline_order[rank])) for rank in range(P)]
        assert rows == [torch_names(order) for order in schedule.actions]
        assert loaded.stage_index_to_group_rank == dict(enumerate(schedule.placement.ranks))


@pytest.mark.parametrize("name", THEIRS)
def test_what_torch_writes_is_sound_here(name: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    theirs = runtime(getattr(pipelining, f"Schedule{name}"))
    theirs._dump_csv(str(path), format="compute_only")
    schedule = parse_csv(path.read_text())
    assert not verify(schedule)
    require_valid(lower(schedule, "unit"))
    vee = name in ("ZBVZeroBubble", "DualPipeV")
    assert schedule.placement == Placement(Shape.VEE if vee else Shape.LOOP, P, V)
    ran = [cell for cells in theirs.pipeline_order.values() for cell in cells if cell is not None]
    runs = [str(part) for cell in ran for part in cell.sub_actions or [cell]]
    assert runs == [name for order in schedule.actions for name in torch_names(order)]


def test_a_file_goes_both_ways_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    csv = ["--format", "torch-csv"]
    assert main(["generate", "zeropp", *SIZE, *csv, "-o", "z.csv"]) == 0
    for verb in (["verify"], ["simulate"], ["show"], ["show", "-o", "z.svg"], ["generate", *csv]):
        assert main([verb[0], "z.csv", *verb[1:]]) == 0
    assert capsys.readouterr().out.endswith(Path("z.csv").read_text())
    made = ["--program", "--shard", "unit", "-o", "p.txt"]
    assert main(["generate", "z.csv", *made]) == 0
    program = parse(Path("p.txt").read_text())
    assert isinstance(program, Program)
    assert program.shard == "unit"
    assert main(["generate", "p.txt", *csv, "-o", "again.csv"]) == 0
    assert Path("again.csv").read_bytes() == Path("z.csv").read_bytes()
    assert main(["generate", "p.txt", "-o", "q.txt"]) == 0
    assert Path("p.txt").read_bytes() == Path("q.txt").read_bytes()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: expected the actions of rank 0"),
        ("\n,,\n", "line 1: expected the actions of rank 0"),
        ("0F0,0SEND_F0\n", "line 1: unknown action '0SEND_F0'; expected compute alone"),
        ("0F0,0I0,0W0\n1F0,1BW0\n", "line 2: unknown action '1BW0'"),
        ("(0F0;0B)OVERLAP_F_B", "unknown action '0B'"),
        ("0F0,0B0,0F99\n", "there is a micro-batch 99, and fewer actions"),
        ("1F0,1B0\n0F0,0B0\n", "rank 0 has the stages 1, and the ranks together are neither"),
        ("0F0,0B0\n\n1F0,1B0\n", "neither laid out as a loop"),
        ('0F0,"0,B0"\n', "unknown action '0,B0'"),
    ],
)
def test_what_is_not_understood_is_said_in_one_line(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "z.csv").write_text(text)
    assert main(["verify", str(tmp_path / "z.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert line.startswith("zeropp: file: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "z.csv", "--unit-size", "2"], "unit_size is for a schedule by name"),
        (["generate", "p.txt", "--shard", "unit"], "shard is for a schedule"),
        (["generate", "1f1b", "--format", "torch-csv", "--program"], "program is of a program,"),
        (["generate", "1f1b", "--format", "torch-csv", "--shard", "unit"], "shard is of a program"),
        (["generate", "x.csv", "--format", "torch-csv"], "comes before 1F0"),
        (["train", "--program", "z.csv"], "make a program of it with `zeropp generate z.csv"),
    ],
    ids=" ".join,
)
def test_what_would_be_ignored_is_refused(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("z.csv").write_text(format_csv(generate(Order("1f1b"), 2, 1, 2)))
    Path("x.csv").write_text("0F0,0B0\n1B0,1F0\n")
    assert main(["generate", "1f1b", "--pp", "2", "--program", "-o", "p.txt"]) == 0
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_names_are_torchs_own() -> None:
    kinds = pipelining.schedules._ComputationType
    names = {Kind.B: kinds.BACKWARD_INPUT, Kind.W: kinds.BACKWARD_WEIGHT, Kind.F: kinds.FORWARD}
    names |= {Kind.BW: kinds.FULL_BACKWARD, Kind.REDUCE: kinds.REDUCE_GRAD}
    names |= {Kind.UNSHARD: kinds.UNSHARD, Kind.RESHARD: kinds.RESHARD}
    for kind, theirs in names.items():
        collective = kind in (Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE)
        (name,) = torch_names([Action(kind, 3, None if collective else 5)])
        found = pipelining.schedules._Action.from_str(name)
        assert found[:3] == (3, theirs, None if collective else 5)


def test_a_schedule_without_backward_is_one() -> None:
    made = parse_csv("0F0,0F1\n1F0,1F1\n")
    assert (made.trains, made.num_microbatches) == (False, 2)
