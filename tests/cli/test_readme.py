"""The commands and examples of README and guide run as they stand, and their table is true."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from support.decoders import decoder, folder_with_tokenizer, plain
from zeropp.cli.main import main
from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir import Kind, Order, evaluate, peak_slots_per_rank
from zeropp.program import lower

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| ([\w-]+)(?:, U=(\d+))?(?:, (drain|carry))?"
    r" \| (\d) \| ([\d.]+) \| ([\d.]+) % \| ([\d.]+) \| (\d+) \|$",
    GUIDE,
    re.M,
)


def run(folder: Path, module: str, *arguments: str) -> str:
    """What a module prints that runs in `folder` and ends well."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EXAMPLE, FIVE_LINES = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_example_trains(tmp_path: Path) -> None:
    code = EXAMPLE
    (command,) = re.findall(r"^    torchrun (.*)$", README, re.M)
    *options, script = shlex.split(command)
    (tmp_path / script).write_text(code, encoding="utf-8")
    printed = run(tmp_path, "torch.distributed.run", *options, script)
    losses = [float(loss) for loss in re.findall(r"rank 0: loss ([\d.]+)", printed)]
    assert len(losses) == 3
    assert losses[2] < losses[0]


def test_a_model_of_transformers_takes_five_lines(tmp_path: Path) -> None:
    assert len(FIVE_LINES.splitlines()) == 5
    decoder("llama").save_pretrained(tmp_path / "MODEL")
    before = (
        "import torch, torch.distributed as dist, zeropp\nfrom zeropp import hf\n"
        'dist.init_process_group("gloo")\nplan = zeropp.Plan(2, 2, 4)\n'
        "tokens = torch.arange(3, 91).view(8, 11)\n"
    )
    after = "print(f'rank {pipe.rank}: loss {float(out.loss)}')\npipe.close()\n"
    (tmp_path / "own.py").write_text(before + FIVE_LINES + after, encoding="utf-8")
    options = "--nproc-per-node", "2", "own.py"
    printed = run(tmp_path, "torch.distributed.run", *options)
    loss, _ = plain(decoder("llama"), *[torch.arange(3, 91).view(8, 11)] * 2, 4)
    found = re.findall(r"loss ([\d.]+)", printed)
    assert [float(one) for one in found] == pytest.approx([loss, loss], rel=1e-6)
    came, went = (AutoModelForCausalLM.from_pretrained(tmp_path / f) for f in ("MODEL", "TRAINED"))
    for one, other in zip(came.parameters(), went.parameters(), strict=True):
        assert torch.equal(one, other)


def test_readme_is_short() -> None:
    assert len(README.split()) <= 650


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(
        r"^    zeropp ((?:schedules|generate|verify|show|simulate).*)$", GUIDE, re.M
    )
    assert len(commands) == 7
    for command in commands:
        assert main(shlex.split(command)) == 0


def test_from_a_profile_to_training_by_its_plan(tmp_path: Path) -> None:
    chosen = GUIDE.partition("## Let it choose")[2]
    commands = re.findall(r"^    zeropp ((?:profile|plan|train --plan).*)$", chosen, re.M)
    assert [command.split()[0] for command in commands] == ["profile", "plan", "train", "plan"]
    for command in commands:
        short = ["--run.steps", "2", "--run.sample", "4"] if command.startswith("train") else []
        run(tmp_path, "zeropp.cli.main", *shlex.split(command), *short)


def test_a_folder_is_trained_exported_and_planned(tmp_path: Path) -> None:
    section = GUIDE.partition("## Your own model of Hugging Face")[2].partition("\n## ")[0]
    commands = [shlex.split(line) for line in re.findall(r"^    zeropp (.*)$", section, re.M)]
    verbs = "train train export export profile plan plan"
    assert " ".join(verb for verb, *_ in commands) == verbs
    text = [f"{a} times {b} is {a * b}" for a in range(40) for b in range(30)]
    folder_with_tokenizer("llama", tmp_path / "MODEL", text)
    (tmp_path / "FILES").mkdir()
    (tmp_path / "FILES" / "products.txt").write_text("\n".join(text), encoding="utf-8")
    for command in commands:
        short = ["--run.steps", "2", "--run.sample", "4"] if command[0] == "train" else []
        run(tmp_path, "zeropp.cli.main", *command, *short)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "TRAINED")
    adapters = load_file(tmp_path / "ADAPTERS" / "adapter_model.safetensors")
    assert model.num_parameters() == decoder("llama").num_parameters()
    assert len(adapters) == 4 * 2 * 2


def test_a_run_that_survives_and_how_it_learns(tmp_path: Path) -> None:
    short = ["--run.steps", "2", "--run.sample", "0", "--model.layers", "2"]
    for title in ("A run that survives", "How it learns"):
        section = GUIDE.partition(f"## {title}")[2].partition("\n## ")[0]
        (command,) = re.findall(r"^    zeropp (.*)$", section, re.M)
        run(tmp_path, "zeropp.cli.main", *shlex.split(command), *short)


def test_a_run_is_watched_and_reported(tmp_path: Path) -> None:
    watching, reporting = (
        GUIDE.partition(f"## {title}")[2].partition("\n## ")[0]
        for title in ("While it runs", "When it is over")
    )
    short = ["--run.steps", "2", "--run.sample", "0", "--model.layers", "2"]
    (command,) = re.findall(r"^    zeropp (.*)$", watching, re.M)
    for name in ("demo", "watched"):
        run(tmp_path, "zeropp.cli.main", *shlex.split(command), "--run.name", name, *short)
    for command in re.findall(r"^    zeropp (report .*)$", reporting, re.M):
        run(tmp_path, "zeropp.cli.main", *shlex.split(command))
    assert {file.name for file in tmp_path.glob("*.html")} == {"report.html", "both.html"}
    (picture,) = re.findall(r"\]\((\S+\.png)\)", reporting)
    assert (ROOT / "docs" / picture).is_file()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:3]))
def test_the_table_is_true(row: tuple[str, ...]) -> None:
    name, unit, seam, chunks, makespan, bubble, peak, gathers = row
    V = int(chunks)
    schedule = generate(
        Order(name, unit_size=int(unit) if unit else None, seam=seam or None), 8, V, 32
    )
    timeline = evaluate(schedule, Costs.uniform(8, V).duration)
    assert timeline.makespan == pytest.approx(float(makespan))
    assert timeline.bubble_ratio * 100 == pytest.approx(float(bubble), abs=0.051)
    assert max(peak_slots_per_rank(schedule)) / V == float(peak)
    assert max(lower(schedule, "unit", max_resident=1).count(Kind.UNSHARD)) == int(gathers)


def test_the_table_is_there() -> None:
    assert len(ROWS) == 8
