"""Whatever is wrong with an invocation: one line that names it, status 2, and nothing left."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.invocations import EARLY, LATE, PLAN, make_files
from zeropp.cli.main import main

LONGEST = 250
TWO_HOSTS = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
VARIABLES = (*TWO_HOSTS, "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: files that are wrong in some way, and one of each special kind."""
    make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def content(folder: Path) -> dict[str, bytes | None]:
    """All that is there, with what plain files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that is said."""
    before = content(folder)
    capsys.readouterr()
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zeropp: ")
    assert len(line) <= LONGEST
    assert content(folder) == before
    return line


@pytest.mark.parametrize(
    ("names", "arguments"),
    [*EARLY, *LATE],
    ids=lambda part: " ".join(part)[:60].encode("ascii", "replace").decode() if part else "",
)
def test_one_line_names_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], names: str, arguments: tuple[str, ...]
) -> None:
    assert names in refusal(folder, capsys, *arguments)


WITHOUT_TORCH = """
import sys
from support.invocations import EARLY
from zeropp.cli.main import main
class Poison:
    def find_spec(self, name, *_):
        assert name != "torch", "torch is imported"
sys.meta_path.insert(0, Poison())
for _, arguments in EARLY:
    print(arguments, file=sys.stderr)
    assert main([*arguments]) == 2
"""


def test_what_is_refused_early_is_refused_without_torch(folder: Path) -> None:
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.getenv("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WORLD_SIZE", value) for value in ("abc", "0", "-2", None, "2.0", "")),
        *(("RANK", value) for value in ("x", "5", "-1", None)),
        *(("LOCAL_RANK", value) for value in ("x", "7", "-1")),
        *(("LOCAL_WORLD_SIZE", value) for value in ("x", "0", "3")),
        *(("MASTER_PORT", value) for value in ("x", "99999", "0", None)),
        *(("MASTER_ADDR", value) for value in ("", None)),
    ],
)
@pytest.mark.parametrize("verb", ["train", "profile"])
def test_a_launchers_variable_is_named(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    name: str,
    value: str | None,
) -> None:
    for variable, text in (TWO_HOSTS | {name: value}).items():
        if text is not None:
            monkeypatch.setenv(variable, text)
    assert f"{name} must be" in refusal(folder, capsys, verb)


def test_a_device_that_is_not_there_leaves_no_run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "device" in refusal(folder, capsys, "train", "--run.device", "cuda")


def _full(path: Path, text: str, encoding: str) -> int:
    """A disk that is full after half of the text."""
    with path.open("w", encoding=encoding) as file:
        file.write(text[: len(text) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "1f1b", "-o", "ok.txt"),
        ("show", "1f1b", "-o", "ok.txt"),
        ("train", "--data.seq-len", "16"),
        (*PLAN, "--micro-batch-sizes", "1", "-o", "plan.toml"),
    ],
    ids=" ".join,
)
def test_a_full_disk_changes_and_leaves_nothing(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setattr(Path, "write_text", _full)
    assert "No space left on device" in refusal(folder, capsys, *arguments)


def test_an_output_file_is_replaced_as_a_whole(folder: Path) -> None:
    (folder / "link.txt").symlink_to(folder / "ok.txt")
    (folder / "ok.txt").chmod(0o640)
    assert main(["generate", "gpipe", "-o", "link.txt"]) == 0
    assert "name: gpipe" in (folder / "ok.txt").read_text()
    assert (folder / "link.txt").is_symlink()
    assert (folder / "ok.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("output", [">/dev/full", ">&-"])
@pytest.mark.parametrize("verb", ["generate 1f1b", "--help"])
def test_standard_output_that_takes_nothing(tmp_path: Path, verb: str, output: str) -> None:
    command = f"{sys.executable} -m zeropp.cli.main {verb} {output}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("zeropp: standard output")


def test_the_ends_of_a_message_exist(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = (folder / "program.txt").read_text()
    sends = {"SEND_F": 1, "RECV_B": 1, "SEND_B": 0, "RECV_F": 0}
    for kind, stage in [*sends.items(), *((kind, 9) for kind in sends)]:
        (folder / "x.txt").write_text(program.replace("1REDUCE", f"1REDUCE {stage}{kind}0"))
        capsys.readouterr()
        assert main(["verify", "x.txt"]) == 1
        assert f"{stage}{kind}0 is between stages that do not both" in capsys.readouterr().out
