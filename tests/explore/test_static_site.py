"""The static site: what it holds, and the same figures from the browser's own Python."""

import ast
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.explore import (
    drag,
    headline,
    put,
    random_settings,
    settled,
    shows,
    simulated,
    table,
    until,
)
from support.pyodide import pyodide_folder, site_at
from zeropp.cli.main import main
from zeropp.explore.server import page_files
from zeropp.explore.site import bundle

if TYPE_CHECKING:
    from playwright.sync_api import Page

Opener = Callable[..., "Page"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pyodide = pyodide_folder()
    if pyodide is None:
        pytest.skip("neither build/pyodide nor npm with its registry is here")
    folder = tmp_path_factory.mktemp("site") / "explore"
    assert main(["explore", "--static", str(folder), "--pyodide", str(pyodide)]) == 0
    with site_at(folder) as address:
        yield f"{address}index.html"


@pytest.mark.browser
def test_figures_are_those_of_the_command_line(
    site: str, open_page: Opener, capsys: pytest.CaptureFixture[str]
) -> None:
    page = open_page(site)
    settled(page)
    for seed in (3, 11, 21):
        wanted = random_settings(seed)
        put(page, {"schedule": wanted["schedule"]})
        settled(page, shows({"schedule": wanted["schedule"]}))
        rest = {name: value for name, value in wanted.items() if name != "schedule"}
        put(page, rest)
        settled(page, shows(rest))
        has = json.loads(page.evaluate("document.body.dataset.answers"))
        expected = simulated(has, capsys)
        rows = table(page, "figures")
        assert rows["makespan"] == [f"{expected['makespan']:.4g}"]
        assert rows["bubble ratio = idle / (P x makespan)"] == [f"{expected['bubble_ratio']:.2%}"]
        assert rows["peak slots"] == [" ".join(map(str, expected["peak_slots"]))]


@pytest.mark.browser
def test_edits_explanations_and_plans_come_from_it_too(site: str, open_page: Opener) -> None:
    page = open_page(site)
    settled(page)
    assert headline(page)["makespan"] == "27"
    drag(page, 0, 0.5, 8.6, 27)
    settled(page, lambda wanted: "moves" in wanted)
    assert "comes before 0F0, which it needs" in page.inner_text("#unsound")
    page.click("#undo")
    settled(page, lambda wanted: "moves" not in wanted)
    page.locator("#panels canvas").first.focus()
    page.keyboard.press("End")
    until(page, "document.querySelector('#explained').textContent.startsWith('0W7')")
    page.click("#tab-planner")
    page.select_option("#field-asked-model", "gpt2-124m")
    page.fill("#field-asked-gpus", "8")
    page.click("#asked button[type=submit]")
    page.wait_for_selector("#plan table", timeout=60_000)
    page.select_option("#field-asked-model", "llama-70b")
    page.fill("#field-asked-gpus", "2048")
    page.fill("#field-asked-global_batch", "4096")
    page.click("#asked button[type=submit]")
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Cancel").click()
    until(page, "document.querySelector('#plan').textContent === 'Cancelled.'")
    page.click("#tab-schedule")
    put(page, {"pp": "5"})
    page.wait_for_timeout(3000)  # Python starts anew
    settled(page, shows({"pp": 5}))


def test_a_site_without_pyodide_names_its_release(tmp_path: Path) -> None:
    assert main(["explore", "--static", str(tmp_path / "new" / "site")]) == 0
    folder = tmp_path / "new" / "site"
    assert {p.name for p in folder.iterdir()} == {*page_files(), "engine.json", "zeropp.zip"}
    told = json.loads((folder / "engine.json").read_text())
    assert told["engine"] == "browser"
    assert told["pyodide"].startswith("https://")


def test_the_bundle_imports_by_itself_and_nothing_else(tmp_path: Path) -> None:
    """Without what is installed here; only the standard library is beside it."""
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        archive.extractall(tmp_path)
        assert not [name for name in archive.namelist() if not name.endswith(".py")]
    code = """
import sys
from zeropp.explore.answers import answer
assert answer({"do": "simulate", "wanted": {}})["main"]["makespan"] == 27
assert "rows" in answer({"do": "plan", "asked": {"model": "toy", "gpus": 1, "global_batch": 4}})
print({m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ("zeropp", "cattrs")})
"""
    alone = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"
    command = [sys.executable, "-S", "-I", "-c", alone]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(str(tmp_path) in path for path in ast.literal_eval(done.stdout))
    assert bundle() == bundle()
