"""The guide's commands for tokens run as they stand."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from zeropp.cli.main import main

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text("utf-8")


def test_commands_run(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, "MODEL")
    Path("FOLDER").mkdir()
    Path("FOLDER/a.txt").write_text("All work and no play. " * 500)
    said = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    Path("chats.jsonl").write_text(json.dumps({"messages": said}))
    commands = re.findall(r"^    zeropp (tokenize.*|train --data.path.*)$", GUIDE, re.M)
    assert [command.split()[0] for command in commands] == ["tokenize", "tokenize", "train"]
    for command in commands:
        short = ["--run.steps", "2", "--run.sample", "4"] if command.startswith("train") else []
        assert main([*shlex.split(command), *short]) == 0
    assert not Path("runs/tokens").exists()
