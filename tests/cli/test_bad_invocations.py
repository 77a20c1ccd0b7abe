"""Whatever is wrong with an invocation: one line that names it, status 2, and nothing left."""

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from zeropp.cli.main import main
from zeropp.generate import generate
from zeropp.ir import Order, format_program, format_schedule
from zeropp.plan import Plan
from zeropp.planner import SavedPlan
from zeropp.planner.plan_file import format_plan
from zeropp.program import lower

LONGEST = 250
LONG = "x" * 300
TWO_HOSTS = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
VARIABLES = (*TWO_HOSTS, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
TOKENIZE = ("tokenize", "--tokenizer", "bytes", "-o", "new")
PLAN = ("plan", "--model", "toy", "--gpus", "2", "--global-batch", "16")


def _files() -> Mapping[str, str]:
    schedule = generate(Order("1f1b"), 2, 1, 3)
    text, program = format_schedule(schedule), format_program(lower(schedule, "unit"))
    plan = format_plan(SavedPlan(Plan(2, 2, 8), 1))
    return {
        "ok.txt": text,
        "program.txt": program,
        "units.txt": text.replace("units: 3", "units: 99999999999"),
        "chunks.txt": text.replace("num_chunks: 1", "num_chunks: 9999999999"),
        "pp.txt": text.replace("pp_size: 2", "pp_size: 9999999999"),
        "digits.txt": text.replace("pp_size: 2", "pp_size: " + 5000 * "9"),
        "shard.txt": program.replace("shard: unit", "shard: banana"),
        "last.txt": program.replace("1REDUCE", "1REDUCE 1SEND_F0"),
        "far.txt": program.replace("1REDUCE", "1REDUCE 9SEND_F0"),
        "empty.txt": text.partition("rank 1:")[0] + "rank 1:\n",
        "nothing.txt": "",
        "lr.toml": "[optim]\nlr = inf\n",
        "clip.toml": "[optim]\nclip = 1e300\n",
        "steps.toml": "[run]\nsteps = true\n",
        "seed.toml": "[run]\nseed = 99999999999999999999999999999\n",
        "size.toml": plan.replace("micro_batch_size = 1", "micro_batch_size = true"),
        "predicted.toml": f"predicted = 3\n{plan}",
        "step.toml": f"{plan}\n[predicted]\nstep_s = 'x'\npeak_bytes = 1.0\n",
        "plan.toml": plan,
        "bad.jsonl": '{"text": "a"}\n{"text": 1}\n',
        "tokenizer.json": "{}",
        "layers.toml": "vocab_size=9\nseq_len=9\nlayers=99999999999\nhidden=8\nheads=1\n",
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: files that are wrong in some way, and one of each special kind."""
    for name, text in _files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"zeropp \xff")
    os.mkfifo(tmp_path / "pipe")
    for name, content in {"folder": b"", "garbage": b"\x80garbage", "none": b""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / ".metadata").write_bytes(content)
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


FILES: list[tuple[str, tuple[str, ...]]] = [
    *(
        ("output", (*verb, "-o", path.format(suffix)))
        for verb, suffix in {
            ("generate", "zeropp"): ".txt",
            ("show", "1f1b"): ".svg",
            PLAN: ".toml",
            ("profile",): ".toml",
        }.items()
        for path in ("folder", "/proc/x{}", "", LONG + "{}", "ok.txt/x{}", "nowhere/x{}")
    ),
    ("output", ("generate", "zeropp", "-o", "/dev/full")),
    ("output", ("generate", "zeropp", "-o", "pipe")),
    ("explain", (*PLAN, "--explain", "/proc/x.svg")),
    *(("file", ("verify", path)) for path in ("folder", "", LONG, "pipe", "latin.txt", "no.txt")),
    *(("file", ("simulate", path)) for path in ("folder", "pipe", "latin.txt")),
    *(("file", ("verify", path)) for path in ("nothing.txt", "/dev/zero", "digits.txt")),
    ("num_chunks, units", ("verify", "units.txt")),
    ("num_chunks, units", ("verify", "chunks.txt")),
    ("num_chunks, units", ("verify", "pp.txt")),
    ("shard must be one of", ("verify", "shard.txt")),
    ("shard must be one of", ("simulate", "shard.txt", "--gather", "1")),
    ("do not both exist", ("simulate", "last.txt")),
    ("9SEND_F0", ("show", "far.txt")),
    ("1F0 runs 0 times", ("simulate", "empty.txt")),
    ("config", ("train", "--config", "pipe")),
    ("config", ("train", "--config", "latin.txt")),
    ("program", ("train", "--program", "pipe")),
    ("plan", ("train", "--plan", "folder")),
    ("plan: size.toml: micro_batch_size", ("train", "--plan", "size.toml")),
    ("plan: predicted.toml: predicted", ("train", "--plan", "predicted.toml")),
    ("plan: step.toml: predicted.step_s", ("train", "--plan", "step.toml")),
    ("layers", ("plan", "--model", "layers.toml", *PLAN[3:])),
    ("run.steps", ("train", "--config", "steps.toml")),
    ("run.seed", ("train", "--config", "seed.toml")),
    ("optim.lr", ("train", "--config", "lr.toml")),
    ("optim.clip", ("train", "--config", "clip.toml")),
    *(("run.resume", ("train", "--run.resume", path)) for path in ("garbage", "none", "", "pipe")),
    *(
        ("run.folder", ("train", "--run.folder", path))
        for path in ("/proc/x", "ok.txt", "/dev/null/x", "", f"new/{LONG}", "a\0b")
    ),
    *(("run.name", ("train", "--run.name", name)) for name in ("..", ".", "", " ", "a\nb", "a/b")),
    ("run.folder", ("train", "--run.name", LONG)),
    *(
        ("data.path", ("train", "--data.path", path))
        for path in ("pipe", "no.txt", "nothing.txt", LONG)
    ),
    ("data.path: bad.jsonl, line 2: its 'text'", ("train", "--data.path", "bad.jsonl")),
    ("data.seq_len", ("train", "--data.path", "lr.toml")),
    *(("files", (*TOKENIZE, path)) for path in ("no.txt", "pipe", "folder", LONG)),
    ("files: bad.jsonl, line 2: its 'text'", (*TOKENIZE, "bad.jsonl")),
    (
        "files: bad.jsonl, line 1: it has no field 'body'",
        (*TOKENIZE, "bad.jsonl", "--field", "body"),
    ),
    *(
        ("output", (*TOKENIZE[:-1], path, "ok.txt"))
        for path in ("folder", "/proc/x", "", "ok.txt", LONG)
    ),
    *(
        ("tokenizer", ("tokenize", "ok.txt", "-o", "new", "--tokenizer", name))
        for name in ("nowhere", "folder", "tokenizer.json", "", LONG)
    ),
    ("not UTF-8", ("train", "--data.path", "\udcff")),
]

NUMBERS = [
    *(("p2p", ("generate", "zeropp", "--p2p", value)) for value in ("1e308", "inf", "nan", "-1")),
    ("costs", ("generate", "zeropp", "--p2p", "1e17")),
    ("costs", ("generate", "zeropp", "--costs", "1e-320,1,1")),
    ("pp", ("generate", "1f1b", "--pp", "99999999999")),
    ("pp_size", ("generate", "1f1b", "--pp", "9999999")),
    ("microbatches", ("generate", "1f1b", "--microbatches", "99999999999")),
    ("num_microbatches", ("generate", "1f1b", "--microbatches", "9999999")),
    ("slot_bytes", ("generate", "zeropp", "--slot-bytes", "-1")),
    ("slot_bytes", ("generate", "zeropp", "--slot-bytes", "2")),
    ("max_resident", ("simulate", "zeropp", "--max-resident", "0")),
    ("max_resident", ("show", "zeropp", "--max-resident", "1")),
    ("prefetch", ("simulate", "zeropp", "--prefetch", "-1")),
    ("shard", ("simulate", "program.txt", "--shard", "unit")),
    ("chunks", ("simulate", "ok.txt", "--chunks", "2")),
    ("slots", ("verify", "ok.txt", "--slots", "-3")),
    ("limit", ("simulate", "--compare", "all", "--limit", "inf")),
    ("budget", ("simulate", "--slots", "auto", "--budget", "1e400")),
    ("memory", (*PLAN, "--memory", "inf")),
    ("gpus", ("plan", "--model", "toy", "--gpus", "99999999999", "--global-batch", "8")),
    ("ranks", ("profile", "--ranks", "99999999999")),
    ("ranks", ("profile", "--ranks", "9999999")),
    *(("optim.lr", ("train", "--optim.lr", value)) for value in ("inf", "1e400", "nan", "0")),
    *(("optim.weight_decay", ("train", "--optim.weight-decay", v)) for v in ("nan", "inf", "-1")),
    ("run.steps", ("train", "--run.steps", "99999999999")),
    ("dp_shard", ("train", "--parallel.dp-shard", "99999999999")),
    ("ranks", ("train", "--parallel.dp-shard", "999")),
    ("data.micro_batch_size", ("train", "--data.micro-batch-size", "9999999")),
    ("layers", ("train", "--model.layers", "99999")),
]

WORDS = [
    ("--pp", ("generate", "1f1b", "--pp", "x")),
    ("--ppp", ("generate", "1f1b", "--ppp", "3")),
    ("STR", ("generate",)),
    ("files", ("tokenize", "--tokenizer", "bytes", "-o", "new")),
    ("--tokenizer", ("tokenize", "ok.txt", "-o", "new")),
    ("PATH", ("verify",)),
    ("--unit-size", ("simulate", "--unit-size", "1.5")),
    ("--run.precision", ("train", "--run.precision", "fp8")),
    ("--run.steps", ("train", "--run.steps")),
    ("--gpus", ("plan", "--model", "toy")),
    ("--split", (*PLAN, "--split", "1", "x")),
    ("extra", ("schedules", "extra")),
    ("unknown verb", ("nonsense",)),
]


@pytest.mark.parametrize(
    ("names", "arguments"),
    [*FILES, *NUMBERS, *WORDS],
    ids=lambda part: " ".join(part)[:60].encode("ascii", "replace").decode() if part else "",
)
def test_one_line_names_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], names: str, arguments: tuple[str, ...]
) -> None:
    assert names in refusal(folder, capsys, *arguments)


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
