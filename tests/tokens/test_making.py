"""Making token files: the same however often it is stopped, and nothing of another job's."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from zeropp.cli.main import main
from zeropp.tokens import BYTES, cached, making, sources
from zeropp.tokens.files import read_tokens
from zeropp.tokens.making import Job, make_tokens
from zeropp.tokens.sources import find_sources

SMALL_PARTS = """
import sys
from zeropp.tokens import making, sources
from zeropp.cli.main import main
sources._PART_BYTES = 2**17
making._THREADS = 1  # so that two cores have a process each
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Twelve parts, for two processes, of text and of records."""
    folder = tmp_path / "text"
    folder.mkdir()
    numbers = [f"{n}: {n * n}\n" for n in range(60_000)]
    (folder / "a.txt").write_text("".join(numbers))
    records = [{"prompt": line, "completion": line[::-1]} for line in numbers[:5000]]
    (folder / "b.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@contextmanager
def started(folder: Path, text: Path, bpe: Path, output: str) -> Iterator[subprocess.Popen[str]]:
    (folder / "own.py").write_text(SMALL_PARTS)
    command = [sys.executable, "own.py", "tokenize", str(text), "--tokenizer", str(bpe)]
    command += ["-o", output]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            if not gone(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(what: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.001)


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


MOMENTS = (  # files that are there when the next one is killed
    ("tokens.json", 1),
    (".zeropp-*", 1),
    ("[0-9]*.ds", 1),
    ("[0-9]*.ds", 6),
)


def test_killed_at_any_moment_and_run_again(tmp_path: Path, text: Path, bpe: Path) -> None:
    with started(tmp_path, text, bpe, "whole") as process:
        assert "each with <|endoftext|> at its end" in process.communicate(timeout=60)[0]
    killed = tmp_path / "killed"
    for pattern, number in MOMENTS:
        with started(tmp_path, text, bpe, "killed") as process:
            wait_for(lambda p=pattern, n=number: len(list(killed.glob(p))) >= n)
            process.kill()
            process.wait()
            wait_for(lambda group=process.pid: gone(group))
        assert "tokens" not in json.loads((killed / "tokens.json").read_text())
    kept = {path.name: path.stat().st_mtime_ns for path in killed.glob("[0-9]*.ds")}
    assert len(kept) >= 6
    with started(tmp_path, text, bpe, "killed") as process:
        assert "next: zeropp train --data.path killed" in process.communicate(timeout=60)[0]
    assert content(killed) == content(tmp_path / "whole")
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in killed.glob("[0-9]*.ds")}.items()
    assert 0 < len(list(killed.glob("*.loss"))) < len(list(killed.glob("[0-9]*.ds")))


def test_stopped_by_the_user(tmp_path: Path, text: Path, bpe: Path) -> None:
    with started(tmp_path, text, bpe, "out") as process:
        wait_for(lambda: bool(list((tmp_path / "out").glob("[0-9]*.ds"))))
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        wait_for(lambda: gone(process.pid))
    assert process.returncode == 130
    assert said == "zeropp: stopped; the same command goes on from here\n"
    assert not list((tmp_path / "out").glob(".zeropp-*"))


def tokenize(text: Path, output: Path, tokenizer: str = BYTES, field: str | None = None) -> None:
    make_tokens(Job(tuple(find_sources("files", [text])), tokenizer, field), output)


def test_what_is_made_is_not_made_again(tmp_path: Path, text: Path) -> None:
    tokenize(text, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    tokenize(text, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("change", ["tokenizer", "sources", "field"])
def test_another_jobs_folder_is_refused(tmp_path: Path, text: Path, bpe: Path, change: str) -> None:
    tokenize(text / "a.txt", tmp_path / "out")
    before = content(tmp_path / "out")
    if change == "sources":
        os.utime(text / "a.txt", ns=(0, 0))
    field = "body" if change == "field" else None
    message = f"output: .*out was made by another command .not the same {change}.; name another"
    with pytest.raises(ValueError, match=message):
        tokenize(
            text / "a.txt", tmp_path / "out", str(bpe) if change == "tokenizer" else BYTES, field
        )
    assert content(tmp_path / "out") == before
    (tmp_path / "text" / "c.md").touch()
    with pytest.raises(ValueError, match=r"output: .*text is not empty; name another folder"):
        tokenize(text, text)


def test_a_bad_line_leaves_nothing(tmp_path: Path, text: Path) -> None:
    with (text / "b.jsonl").open("a") as file:
        file.write("{}\n")
    message = r"files: .*b.jsonl, line 5001: it has no field 'text', but none; name the field"
    with pytest.raises(ValueError, match=message):
        tokenize(text, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_that_is_none_is_refused(tmp_path: Path, bpe: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"x.txt: it is no text in UTF-8 \(byte 3\); convert"):
        tokenize(tmp_path / "x.txt", tmp_path / "out", str(bpe))
    tokenize(tmp_path / "x.txt", tmp_path / "out")


def test_one_makes_what_many_ask_for(tmp_path: Path, text: Path, bpe: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from zeropp.tokens import cached\n"
        "print(cached(*sys.argv[1:3], Path('cache')))"
    )
    command = [sys.executable, "-c", code, str(text / "b.jsonl"), str(bpe)]
    run = partial(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True)
    with ThreadPoolExecutor(3) as threads:
        every = list(threads.map(lambda _: run(check=True, timeout=60), range(3)))
    folders = {done.stdout.strip() for done in every}
    (folder,) = (tmp_path / path for path in folders)
    assert len(read_tokens("x", folder)) == 1
    again = cached(str(text / "b.jsonl"), str(bpe), tmp_path / "cache")
    assert again == folder
    assert cached(str(folder), BYTES, tmp_path / "cache") == folder
    assert cached(str(text / "b.jsonl"), BYTES, tmp_path / "cache") != folder


def test_text_without_a_byte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    with pytest.raises(ValueError, match=r"data.path: '.*x.txt' holds no text; set"):
        cached(str(tmp_path / "x.txt"), BYTES, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_verb_says_what_is_made(
    tmp_path: Path, text: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(text / "b.jsonl"), "--tokenizer", str(model), "-o", str(tmp_path / "out")]
    assert main(["tokenize", *arguments]) == 0
    assert "in 5,000 documents, each with <|end|> at its end" in capsys.readouterr().out


def test_a_log_has_a_line_now_and_then(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "_PART_BYTES", 2**18)
    monkeypatch.setattr(making, "_TELL_S", 0.0)
    tokenize(text, tmp_path / "out")
    told = capsys.readouterr().err.splitlines()
    shares = [int(one.removeprefix(f"tokens of {BYTES}: ").removesuffix("%")) for one in told]
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert shares[-1] == 100


def test_processes_make_what_one_makes(
    tmp_path: Path, text: Path, bpe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_PART_BYTES", 2**17)
    tokenize(text, tmp_path / "one", str(bpe))
    monkeypatch.setattr(making, "_THREADS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    tokenize(text, tmp_path / "three", str(bpe))
    assert content(tmp_path / "three") == content(tmp_path / "one")
