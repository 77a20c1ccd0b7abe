"""The page about performance shows every benchmark, and names what exists."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text("utf-8")


def benchmarks() -> list[str]:
    listed = re.search(r"^BENCHMARKS = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    return listed[1].split()


def test_every_benchmark_is_there_and_its_figures_are_shown(measured: ModuleType) -> None:
    published = measured.results()
    shown = set(re.findall(r'"(\w+)"', " ".join(re.findall(r"\[\[\[cog(.*?)\]\]\]", PAGE))))
    for name in benchmarks():
        assert f"Run: python benchmarks/{name}.py" in (ROOT / f"benchmarks/{name}.py").read_text()
        assert f"`python benchmarks/{name}.py`" in PAGE
        assert published[name]["figures"]
    assert shown == set(benchmarks())
    assert published.keys() - {"exactness"} == shown


def test_every_figure_is_on_the_page_and_what_misses_is_explained(measured: ModuleType) -> None:
    for name, made in measured.results().items():
        for figure in made.get("figures", ()):
            assert figure["name"].partition(", best of")[0].rpartition(": ")[2] in PAGE
        if not all(figure["holds"] for figure in made.get("figures", ())):
            place = name if f"\n## {name}\n" in PAGE else "And the others"
            assert "**W" in PAGE.partition(f"\n## {place}\n")[2].partition("\n## ")[0]


def test_what_the_page_names_is_there() -> None:
    assert len(PAGE.splitlines()) <= 200
    shown = re.findall(r"\]\((performance/.*?\.svg)\)", PAGE)
    assert sorted(shown) == sorted(
        f"performance/{path.name}" for path in (ROOT / "docs/performance").iterdir()
    )
    assert set(re.findall(r"benchmarks/(\w+)\.py", PAGE)) == set(benchmarks())


@pytest.mark.parametrize("name", ["peers", "cluster"])
def test_options_that_the_page_gives_exist(name: str) -> None:
    commands = re.findall(r"`python benchmarks/(\w+)\.py( [^`]*)`", PAGE)
    assert {name for name, _ in commands} == {"peers", "cluster"}
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    given = " ".join(options for each, options in commands if each == name)
    for option in ("--json", *re.findall(r"--\w+", given)):
        assert f"{option} " in done.stdout
