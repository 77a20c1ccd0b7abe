"""Answers to a page: the command line's figures and lines, edits under the verifier, files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.explore import options, random_settings, simulated
from zeropp.cli.main import main
from zeropp.explore.answers import answer, answer_json
from zeropp.generate import generate
from zeropp.ir import Action, Kind, Order, Program, format_program, format_schedule, parse
from zeropp.program import lower, verify
from zeropp.torch.text import format_csv

SMALL = {"pp": 2, "microbatches": 4}


def plain(told: Any) -> Any:
    """As it travels."""
    return json.loads(json.dumps(told))


@pytest.mark.parametrize("seed", range(40))
def test_figures_are_those_of_the_command_line(
    seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = random_settings(seed)
    told = answer({"do": "simulate", "wanted": wanted})
    assert "refused" not in told, told
    assert plain(told["main"]["figures"]) == simulated(wanted, capsys)


def test_stages_have_their_own_costs(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {**SMALL, "costs": "1,1,1;3,2,1"}
    told = answer({"do": "simulate", "wanted": wanted})["main"]
    assert plain(told["figures"]) == simulated(wanted, capsys)
    lengths = {(s[1], s[2]): s[5] - s[4] for rank in told["ranks"] for s in rank["compute"][0]}
    assert lengths["F", 0] == 1
    assert lengths["F", 1] == 3
    refused = answer({"do": "simulate", "wanted": {**SMALL, "costs": "1,1,1;2,2,2;3,3,3"}})
    assert refused["field"] == "costs"
    assert "or one for each of the 2 stages (pp x chunks), got 3" in refused["refused"]


def test_peers_are_those_of_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {**SMALL, "pp": 4, "compare": "zeropp,zb-v,1f1b", "limit": 3.0, "chunks": 2}
    told = answer({"do": "simulate", "wanted": wanted})
    assert plain([peer["figures"] for peer in told["peers"]]) == simulated(wanted, capsys)["rows"]
    assert [peer["fits"] for peer in told["peers"]] == [
        max(peer["figures"]["peak_slots"]) / peer["figures"]["num_chunks"] <= 3.0
        for peer in told["peers"]
    ]
    unknown = answer({"do": "simulate", "wanted": {**SMALL, "compare": "1f1b,best"}})
    assert unknown["peers"][0]["figures"]["schedule"] == "1f1b"
    assert "unknown schedule 'best'" in unknown["peers"][1]["refused"]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"pp": 0}, "pp"),
        ({"microbatches": 10**8}, "microbatches"),
        ({"schedule": "1f1b", "chunks": 2}, "chunks"),
        ({"schedule": "1f1b", "unit_size": 2}, "unit_size"),
        ({"schedule": "best"}, "schedule"),
        ({"unit_size": 99}, "unit_size"),
        ({"costs": "1,1"}, "costs"),
        ({"costs": "0,1,1"}, "costs"),
        ({"p2p": -1.0}, "p2p"),
        ({"slots": "auto"}, "budget"),
        ({"prefetch": 2}, "prefetch"),
        ({"max_resident": 1}, "max_resident"),
        ({"seam": "soft"}, "seam"),
    ],
    ids=str,
)
def test_what_is_wrong_is_the_line_of_the_command_line_at_its_field(
    wanted: dict[str, Any], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = answer({"do": "simulate", "wanted": wanted})
    capsys.readouterr()
    assert main(["simulate", *options(wanted)]) == 2
    assert capsys.readouterr().err == f"zeropp: {told['refused']}\n"
    assert told["field"] == field


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ([], "do must be one of catalogue,"),
        ({"do": "run"}, "do must be one of catalogue,"),
        ({"do": "simulate", "wanted": 3}, "wanted must be an object"),
        ({"do": "simulate", "wanted": {"pp": "x"}}, "pp must be int, got 'x'"),
        ({"do": "simulate", "wanted": {"ranks": 2}}, "unknown field ranks"),
        ({"do": "simulate", "wanted": {"shard": "never"}}, "shard must be one of unit, step"),
        ({"do": "simulate", "wanted": {"pp": 64, "microbatches": 256}}, "up to 8192, got 16384"),
        ({"do": "simulate", "wanted": {"schedule": "/etc/passwd"}}, "unknown schedule"),
        ({"do": "simulate", "wanted": {"moves": [[9, 0, 1]]}}, "there is no rank 9"),
        ({"do": "simulate", "wanted": {"moves": [[0, 0, 99]]}}, "none at position 99"),
        ({"do": "simulate", "wanted": {"file": "hello"}}, "file: file: line 1: expected"),
        ({"do": "explain", "wanted": {}, "rank": 9, "at": 0}, "runs nothing"),
        ({"do": "explain", "wanted": {}, "rank": "x"}, "rank must be a whole number"),
        ({"do": "plan", "asked": {"gpus": 8}}, "missing field global_batch"),
        (
            {"do": "plan", "asked": {"gpus": 8, "global_batch": 8, "model": "/etc/a.toml"}},
            "model must be one of toy",
        ),
        (
            {"do": "plan", "asked": {"gpus": 8, "global_batch": 8, "profile": "/etc/a.toml"}},
            "profile: a page reads no files",
        ),
        (
            {"do": "plan", "asked": {"gpus": 8192, "global_batch": 8, "model": "toy"}},
            "gpus: a page plans for up to 4096",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_questions_that_have_no_answer(question: Any, says: str) -> None:
    assert says in answer(question)["refused"]


def test_a_question_that_is_no_json() -> None:
    assert json.loads(answer_json("{")) == {"refused": "the question is not JSON", "field": None}


def test_a_sound_edit_has_a_makespan_and_an_unsound_one_the_verifiers_line() -> None:
    before = answer({"do": "simulate", "wanted": SMALL})["main"]
    order = [f"{s[2]}{s[1]}{s[3]}" for s in before["ranks"][1]["compute"][0]]
    start = order.index("1W0")
    moved = answer({"do": "simulate", "wanted": {**SMALL, "moves": [[1, start, start + 1]]}})
    after = [f"{s[2]}{s[1]}{s[3]}" for s in moved["main"]["ranks"][1]["compute"][0]]
    assert after != order
    assert sorted(after) == sorted(order)
    assert moved["main"]["name"] == "zeropp-edited"
    assert moved["main"]["makespan"] >= before["floor"]
    spoilt = answer({"do": "simulate", "wanted": {**SMALL, "moves": [[1, 0, 5]]}})["main"]
    schedule = parse(answer({"do": "order", "wanted": SMALL})["text"])
    orders = [list(order) for order in schedule.actions]
    orders[1].insert(5, orders[1].pop(0))
    edited = type(schedule)(**{**vars(schedule), "actions": tuple(map(tuple, orders))})  # type: ignore[arg-type]
    assert spoilt["unsound"] == [str(violation) for violation in verify(edited)[:3]]
    assert spoilt["wrong"] == [[v.rank, v.position] for v in verify(edited)]
    refused = answer({"do": "save", "wanted": {**SMALL, "moves": [[1, 0, 5]]}})
    assert refused["refused"] == "moves: " + spoilt["unsound"][0].splitlines()[0]


def test_a_saved_program_is_what_generate_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {**SMALL, "chunks": 2, "shard": "unit", "recompute": "full", "split": [1, 2, 2, 1]}
    told = answer({"do": "save", "wanted": wanted})
    sizes = ["zeropp", "--pp", "2", "--chunks", "2", "--microbatches", "4", "--shard", "unit"]
    more = ["--program", "--recompute", "full", "--split", "1", "2", "2", "1"]
    assert main(["generate", *sizes, *more]) == 0
    assert told["text"] == capsys.readouterr().out
    (tmp_path / told["name"]).write_text(told["text"])
    assert main(["verify", str(tmp_path / told["name"])]) == 0


def test_files_are_shown_as_they_are_and_edited(capsys: pytest.CaptureFixture[str]) -> None:
    schedule = generate(Order("gis"), 2, 2, 4)
    program = lower(schedule, "unit", max_resident=1)
    for text, name in (
        (format_schedule(schedule), "s.txt"),
        (format_csv(schedule), "s.csv"),
        (format_program(program), "p.txt"),
    ):
        wanted = {"file": text, "file_name": name, "p2p": 0.1}
        told = answer({"do": "simulate", "wanted": {**wanted, "compare": "1f1b"}})
        assert told["main"]["figures"]["num_microbatches"] == 4
        assert told["peers"][0]["figures"]["pp_size"] == 2
    saved = answer({"do": "save", "wanted": {"file": format_program(program)}})["text"]
    assert saved == format_program(program)
    at = schedule.actions[0].index(Action(Kind.W, 0, 2))
    edited = {"file": format_program(program), "moves": [[0, at, at + 1]]}
    after = parse(answer({"do": "save", "wanted": edited})["text"])
    assert isinstance(after, Program)
    assert (after.shard, after.max_resident) == ("unit", 1)
    assert after.schedule.actions[0][at + 1] == schedule.actions[0][at]
    refused = answer({"do": "simulate", "wanted": {"file": format_schedule(schedule), "pp": 3}})
    assert refused["refused"].startswith("pp is for a schedule by name")


def test_another_schedule_keeps_the_settings_that_it_has() -> None:
    wanted = {**SMALL, "unit_size": 2, "seam": "drain"}
    told = answer({"do": "turn", "wanted": wanted, "schedule": "zb-v"})["wanted"]
    assert (told["schedule"], told["chunks"], told["unit_size"], told["seam"]) == (
        "zb-v",
        2,
        None,
        None,
    )


def test_the_plan_is_that_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"model": "gpt2-124m", "gpus": 4, "global_batch": 16, "gpus_per_node": 4}
    told = answer({"do": "plan", "asked": asked})
    where = ["--model", "gpt2-124m", "--gpus", "4", "--global-batch", "16", "--gpus-per-node", "4"]
    assert main(["plan", *where, "--json"]) == 0
    assert plain(told["found"]) == json.loads(capsys.readouterr().out)
    smaller = answer({"do": "plan", "asked": {**asked, "layers": 4, "hidden": 384, "heads": 6}})
    assert smaller["found"]["predicted"]["step_s"] < told["found"]["predicted"]["step_s"]


def test_the_text_is_what_show_prints(capsys: pytest.CaptureFixture[str]) -> None:
    told = answer({"do": "text", "wanted": {**SMALL, "compare": "1f1b"}})["text"]
    assert main(["show", "--compare", "zeropp,1f1b", "--pp", "2", "--microbatches", "4"]) == 0
    assert told.strip() == capsys.readouterr().out.strip()


@pytest.mark.parametrize("module", ["zeropp.explore.answers", "zeropp.explore.server"])
def test_answers_need_nothing_that_a_browsers_python_lacks(module: str) -> None:
    heavy = ("torch", "numpy", "matplotlib", "tyro", "rich", "plotly")
    code = f"""
import sys, {module}
from zeropp.explore.answers import answer
assert "main" in answer({{"do": "simulate", "wanted": {{}}}})
assert "rows" in answer({{"do": "plan", "asked": {{"model": "toy", "gpus": 1, "global_batch": 4}}}})
print([name for name in {heavy!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
