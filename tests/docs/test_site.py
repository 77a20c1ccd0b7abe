"""The site is built of the pages without a warning; what concepts and tutorial run is true."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support.decoders import folder_with_tokenizer
from support.processes import free_port
from zeropp.cli.main import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONCEPTS = sorted((DOCS / "concepts").glob("*.md"))
SHORT = ["--run.steps", "2", "--run.sample", "4"]


def commands(page: Path, of: str) -> list[list[str]]:
    """The commands of a page that begin so, each of one line."""
    return [shlex.split(line) for line in re.findall(rf"^    ({of} .*)$", page.read_text(), re.M)]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for page in (*CONCEPTS, DOCS / "tutorial.md"):
        folder = tmp_path / page.relative_to(DOCS).with_suffix("")
        assert (folder / "index.html").stat().st_size > 2000
    reference = (tmp_path / "reference" / "index.html").read_text("utf-8")
    assert 'id="zeropp.Pipeline.step"' in reference
    assert "micro-batches of nearly equal size" in reference
    pages = (tmp_path.rglob("*.html"), tmp_path.rglob("*.css"))
    for page in (one for found in pages for one in found):  # nothing comes from elsewhere
        fetched = r'(?:src|@import|url\()\s*=?\s*["\']?(?:https?:)?//'
        assert not re.search(fetched, page.read_text("utf-8")), page


def test_every_page_is_on_the_site() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8")))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


@pytest.mark.parametrize("page", CONCEPTS, ids=lambda page: page.stem)
def test_a_concept_has_the_picture_that_its_command_draws(
    page: Path, simulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _, *arguments in commands(page, "zeropp"):
        assert main(arguments) == 0
    name = f"{page.stem}.svg"
    assert f"]({name})" in page.read_text("utf-8")
    assert simulated.shown(tmp_path)[name] == simulated.shown(DOCS / "concepts")[name]


@pytest.mark.timeout(900)
def test_the_tutorial_leads_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = [f"{a} times {b} is {a * b}" for a in range(40) for b in range(30)]
    folder_with_tokenizer("llama", tmp_path / "MODEL", text)
    (tmp_path / "FILES").mkdir()
    (tmp_path / "FILES" / "products.txt").write_text("\n".join(text), encoding="utf-8")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.setenv("PORT", str(free_port()))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    found = commands(DOCS / "tutorial.md", "(?:zeropp|torchrun|sh)")
    assert len(found) == 16
    for program, *given in found:
        short = SHORT if given[0] == "train" else []
        if "--run.resume" in given:
            short = ["--run.steps", "3", *SHORT[2:]]
        done = subprocess.run(
            [program, *given, *short], cwd=tmp_path, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, (given, done.stderr)
