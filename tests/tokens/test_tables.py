"""Parquet and data sets on disk: rows are documents, whatever groups and parts they lie in."""

import sys
from pathlib import Path

import datasets
import pytest

from zeropp.tokens import BYTES, sources
from zeropp.tokens.files import read_tokens
from zeropp.tokens.making import Job, make_tokens
from zeropp.tokens.sources import find_sources, parts_of


def test_what_reads_tables_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "x.parquet").touch()
    message = "files: cannot read .*x.parquet: reading tables needs the package datasets; install"
    with pytest.raises(ValueError, match=message):
        find_sources("files", [tmp_path / "x.parquet"])


@pytest.mark.parametrize("name", ["x.parquet", "set"])
def test_rows_are_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    texts = [f"row {number}. " for number in range(1000)]
    table = datasets.Dataset.from_dict({"text": texts, "other": [0] * 1000})
    table.to_parquet(str(tmp_path / "x.parquet"), batch_size=150)
    table.save_to_disk(str(tmp_path / "set"))
    monkeypatch.setattr(sources, "_PART_BYTES", 2000)
    job = Job(tuple(find_sources("files", [tmp_path / name])), BYTES)
    assert len(parts_of(job.sources)) > 2
    make_tokens(job, tmp_path / "out")
    files = read_tokens("x", tmp_path / "out")
    assert sum(len(file.ends) for file in files) == 1000
    assert b"".join(bytes(file.tokens.astype("u1")) for file in files) == "".join(texts).encode()


def test_a_bad_row_and_a_bad_table(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"text": ["a", None]})
    table.to_parquet(str(tmp_path / "x.parquet"))
    with pytest.raises(ValueError, match=r"x.parquet, row 2: its 'text' must be text, got NoneTyp"):
        make_tokens(
            Job(tuple(find_sources("files", [tmp_path / "x.parquet"])), BYTES), tmp_path / "o"
        )
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"cannot read .*x.parquet: it is no parquet \("):
        find_sources("files", [tmp_path / "x.parquet"])
