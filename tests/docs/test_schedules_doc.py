"""The page about schedules is what its script writes, and the script refuses what is not so."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import schedules_doc

    return schedules_doc


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(DOCS / "schedules.md", tmp_path)
    shutil.copytree(DOCS / "schedules", tmp_path / "schedules")
    return tmp_path


def test_the_page_and_its_pictures_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "schedules_doc.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


def test_every_picture_that_is_shown_is_there() -> None:
    shown = re.findall(r"\]\((schedules/[\w-]+\.svg)\)", (DOCS / "schedules.md").read_text("utf-8"))
    assert len(shown) == 13
    assert all((DOCS / name).is_file() for name in shown)


@pytest.mark.parametrize("name", ["schedules.md", "schedules/zb-v.svg"])
def test_an_edited_or_missing_file_is_named(script: ModuleType, copy: Path, name: str) -> None:
    script.compare(copy, DOCS)
    (copy / name).write_text((DOCS / name).read_text("utf-8") + " ", "utf-8")
    with pytest.raises(script.RefusedError, match=f"{name} differs; run scripts/schedules_doc.py"):
        script.compare(copy, DOCS)
    (copy / name).unlink()
    with pytest.raises(script.RefusedError, match=f"{name} is missing"):
        script.compare(copy, DOCS)


def test_a_picture_of_another_matplotlib_counts_by_what_it_shows(
    script: ModuleType, copy: Path
) -> None:
    picture = copy / "schedules" / "1f1b.svg"
    there = picture.read_text("utf-8")
    other = re.sub(r"Matplotlib v[\d.]+", "Matplotlib v1.2.3", there)
    picture.write_text(re.sub(r'x="(\d+)\.\d+"', r'x="\1.5"', other), "utf-8")
    script.compare(copy, DOCS)
    picture.write_text(other.replace(">rank 3<", ">rank 4<"), "utf-8")
    with pytest.raises(script.RefusedError, match=r"1f1b\.svg differs"):
        script.compare(copy, DOCS)


def test_a_superfluous_picture_is_named(script: ModuleType, copy: Path) -> None:
    (copy / "schedules" / "old.svg").touch()
    with pytest.raises(script.RefusedError, match=r"old\.svg is no picture of the page"):
        script.compare(copy, DOCS)


def test_false_figures_are_refused(script: ModuleType) -> None:
    from schedules_figures import Formula, time_and_memory, traffic

    (row,) = next(entry.rows for entry in script.ENTRIES if entry.slug == "1f1b")
    size = script.SIZES[0]
    assert time_and_memory(row, size).bubble == 9
    with pytest.raises(script.RefusedError, match=r"1f1b: bubble `P` gives 4, but 9 is simulated"):
        time_and_memory(replace(row, bubble=Formula("P")), size)
    with pytest.raises(script.RefusedError, match="1f1b: peak `2P` gives 8, but 4 is simulated"):
        time_and_memory(replace(row, peak=Formula("2*P")), size)
    with pytest.raises(script.RefusedError, match="1f1b: gathers `B` gives 32, but 1"):
        traffic(replace(row, gathers=Formula("B")))


def test_false_advice_is_refused(script: ModuleType) -> None:
    with pytest.raises(script.RefusedError, match="recommends zb-h1, not gpipe"):
        script._require_choice("--compare gpipe,zb-h1 --pp 2 --microbatches 4", "gpipe")
