"""The page in a real browser: figures, peers, edits, files, keys, small screens, the planner."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.explore import (
    drag,
    field,
    headline,
    place,
    put,
    random_settings,
    settled,
    shows,
    simulated,
    table,
    until,
)
from zeropp.cli.main import main
from zeropp.explore.server import Explorer
from zeropp.generate import generate
from zeropp.ir import Order, format_program, parse
from zeropp.program import lower, verify

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
TRUNCATED = "q1YqSUxSslIqTs5ITSnNSVXSUSpPzCtJTVGyqq7VUUosLk"
Opener = Callable[..., "Page"]


@pytest.fixture
def page(open_page: Opener, explorer: Explorer) -> "Page":
    made = open_page(explorer.address)
    settled(made)
    return made


def assert_figures(page: "Page", expected: dict[str, Any]) -> None:
    """What the page shows is what the command line prints."""
    rows = table(page, "figures")
    assert rows["makespan"] == [f"{expected['makespan']:.4g}"]
    assert rows["floor"][0].split()[0] == f"{expected['floor']:.4g}"
    assert rows["bubble ratio = idle / (P x makespan)"] == [f"{expected['bubble_ratio']:.2%}"]
    for name in ("units", "peak_slots", "gathers", "reduces", "messages"):
        assert rows[name.replace("_", " ")] == [" ".join(map(str, expected[name]))]
    causes = {c: f"{t:.4g}" for c, t in expected["idle"].items() if t}
    shown = {k.partition(": ")[2]: v[0] for k, v in rows.items() if k.startswith("idle, all")}
    assert shown == causes
    bubble = float(headline(page)["bubble ratio"].removesuffix(" %"))
    assert bubble == pytest.approx(100 * expected["bubble_ratio"], abs=0.051)
    makespan = float(headline(page)["makespan"])
    assert makespan == pytest.approx(expected["makespan"], rel=1e-3)


@pytest.mark.parametrize(
    "seeds", [range(10), pytest.param(range(10, 30), marks=pytest.mark.nightly)], ids=str
)
def test_figures_are_those_of_the_command_line(
    page: "Page", seeds: range, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in seeds:
        wanted = random_settings(seed)
        clear = {"shard": "", "F": 1, "B": 1, "W": 1, "seam": "", "unit_size": ""}
        put(page, {"schedule": "zeropp"})
        settled(page, lambda has: has.get("schedule") == "zeropp")
        put(page, {**clear, "p2p": "", "transfer": "", "host": "", "gather": "", "reduce": ""})
        put(page, {"schedule": wanted["schedule"]})
        settled(page, shows({"schedule": wanted["schedule"]}))
        put(page, {name: value for name, value in wanted.items() if name != "schedule"})
        settled(page, shows(wanted))
        assert page.locator("#refused").is_hidden()
        assert_figures(page, simulated(wanted, capsys))


def test_peers_are_drawn_on_the_same_axis(page: "Page", capsys: pytest.CaptureFixture[str]) -> None:
    page.click("#controls summary")
    for name in ("1f1b", "zb-v"):
        page.check(f"{field('compare')}-{name}")
    settled(page, shows({"compare": "1f1b,zb-v"}))
    captions = page.locator("#panels figcaption").all_inner_texts()
    assert [caption.split()[0] for caption in captions] == ["zeropp", "1f1b", "zb-v"]
    rows = simulated({"compare": "zeropp,1f1b,zb-v"}, capsys)["rows"]
    shown = table(page, "compared")
    assert {row["schedule"]: f"{row['makespan']:.4g}" for row in rows} == {
        name: cells[1] for name, cells in shown.items()
    }
    assert page.locator("#panels canvas").count() == 3
    page.locator("#as-text summary").click()
    until(page, "document.querySelector('#as-text pre').textContent.includes('zb-v')")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("pp", "0", "pp must be at least 1, got 0"),
        ("pp", "many", "pp must be int, got 'many'"),
        ("unit_size", "99", "unit_size must be at most num_microbatches (8), got 99"),
        ("F", "0", "costs: forward must be above 0, got 0.0"),
        ("chunks", "9999", "microbatches: a page draws pp x chunks x microbatches up to 8192"),
        ("prefetch", "2", "prefetch is for gathers ahead; add --shard unit or --shard step"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(
    page: "Page", name: str, value: str, line: str
) -> None:
    put(page, {name: value})
    page.wait_for_selector("#controls .wrong:not([hidden])")
    (said,) = [t for t in page.locator("#controls .wrong").all_inner_texts() if t]
    assert said.startswith(line)
    marked = page.locator("#controls [aria-invalid]")
    assert marked.count() == 1
    assert marked.get_attribute("aria-describedby") is not None
    put(page, {name: {"pp": "4", "F": "1", "chunks": "1"}.get(name, "")})
    until(page, "!document.querySelector('[aria-invalid]')")


def test_pointing_tells_what_an_action_waits_for(page: "Page") -> None:
    page.mouse.move(*place(page, 1, 6.5, 27))
    page.wait_for_selector("#explained strong")
    told = page.inner_text("#explained")
    assert told.startswith("1B0: input gradient of micro-batch 0, stage 1, on rank 1, from 6 to 7")
    assert "2SEND_B0 on rank 2 brings its input: ready at 6" in told
    assert "1F0 on rank 1 makes its input on its rank: ready at 2" in told


def test_a_sound_drag_an_unsound_one_and_undo(page: "Page") -> None:
    assert headline(page)["makespan"] == "27"
    drag(page, 3, 23.5, 26.9, 27)  # W4 behind W7
    settled(page, shows({"moves": [[3, 20, 23]]}))
    assert headline(page)["makespan"] == "27"
    assert page.locator("#panels figcaption").first.inner_text().startswith("zeropp-edited")
    drag(page, 0, 0.5, 8.6, 27)  # F0 behind W0, which stands behind B0
    settled(page, lambda wanted: len(wanted["moves"]) == 2)
    shown = page.inner_text("#unsound")
    assert "precedence: rank 0" in shown
    assert "0B0 comes before 0F0, which it needs" in shown
    assert "it cannot run" in headline(page)["not sound"]
    assert page.locator("#save").is_disabled()
    page.click("#undo")
    settled(page, shows({"moves": [[3, 20, 23]]}))
    assert page.locator("#unsound").is_hidden()
    page.keyboard.press("Control+z")
    settled(page, lambda wanted: "moves" not in wanted)
    assert page.locator("#panels figcaption").first.inner_text().startswith("zeropp ")
    assert page.locator("#undo").is_disabled()


def test_what_the_verifier_says_of_an_edit_is_what_it_says_of_the_order(page: "Page") -> None:
    drag(page, 0, 0.5, 8.6, 27)
    settled(page, lambda wanted: "moves" in wanted)
    shown = page.inner_text("#unsound")
    ((_, start, end),) = json.loads(page.evaluate("document.body.dataset.answers"))["moves"]
    schedule = generate(Order("zeropp"), 4, 1, 8)
    orders = [list(order) for order in schedule.actions]
    orders[0].insert(end, orders[0].pop(start))
    edited = type(schedule)(
        schedule.name, schedule.placement, schedule.units, tuple(map(tuple, orders))
    )
    assert shown.split() == " ".join(map(str, verify(edited)[:3])).split()


def test_edits_are_gone_where_another_order_is_made_and_kept_where_asked(page: "Page") -> None:
    drag(page, 3, 23.5, 26.9, 27)
    settled(page, lambda wanted: "moves" in wanted)
    put(page, {"p2p": "0.5"})
    settled(page, shows({"p2p": 0.5}))
    assert "the edits are gone" in page.inner_text("#note")
    page.click("#undo")
    settled(page, lambda wanted: "moves" in wanted)
    page.click("#keep")
    settled(page, lambda wanted: "file" in wanted)
    put(page, {"p2p": "0.5"})
    settled(page, shows({"p2p": 0.5, "file_name": "zeropp-edited.txt"}))
    assert page.locator("#panels figcaption").first.inner_text().startswith("zeropp-edited")
    assert page.locator(field("pp")).is_disabled()
    page.click("#unload")
    settled(page, lambda wanted: "file" not in wanted)
    assert page.locator("#panels figcaption").first.inner_text().startswith("zeropp ")


def saved(page: "Page", folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.click("#save")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_a_saved_edit_is_accepted_and_trained(
    page: "Page",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(page, {"pp": "2", "chunks": "2", "microbatches": "4", "shard": "unit"})
    settled(page, shows({"pp": 2, "chunks": 2, "microbatches": 4, "shard": "unit"}))
    page.locator("#panels canvas").first.focus()
    page.keyboard.press("End")
    page.keyboard.press("Alt+ArrowLeft")
    settled(page, lambda wanted: "moves" in wanted)
    assert page.locator("#unsound").is_hidden()
    path = saved(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["verify", path.name]) == 0
    assert "program.txt: sound" in capsys.readouterr().out
    assert "name: zeropp-edited" in path.read_text()
    from cli.test_cli import TINY, zeropp

    done = zeropp("train", "--program", path.name, "--run.steps", "2", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "demo"
    assert (run / "program.txt").read_text() == path.read_text()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_file_is_loaded_shown_and_saved_as_it_is(page: "Page", tmp_path: Path) -> None:
    program = lower(generate(Order("gis"), 2, 2, 4), "unit", max_resident=1)
    path = tmp_path / "mine.txt"
    path.write_text(format_program(program))
    page.set_input_files("#load", path)
    settled(page, shows({"file_name": "mine.txt"}))
    assert page.locator("#panels figcaption").first.inner_text().startswith("gis   P=2 V=2 B=4")
    assert saved(page, tmp_path).read_text() == path.read_text()
    path.write_text("zeropp program\nname: x\n")
    page.set_input_files("#load", path)
    page.wait_for_selector("#refused:not([hidden])")
    assert page.inner_text("#refused").startswith("file: mine.txt: missing field 'shard'")


def test_an_address_shows_the_same_again(page: "Page", open_page: Opener) -> None:
    put(page, {"pp": "3", "p2p": "0.25", "seam": "drain"})
    settled(page, shows({"pp": 3, "p2p": 0.25, "seam": "drain"}))
    page.locator("#panels canvas").first.focus()
    for key in ("ArrowDown", "ArrowDown", "End", "Alt+ArrowLeft"):
        page.keyboard.press(key)
    settled(page, lambda wanted: "moves" in wanted)
    assert page.locator("#unsound").is_hidden()
    page.wait_for_timeout(500)  # until the address is written
    other = open_page(page.url)
    settled(other, lambda wanted: wanted.get("pp") == 3 and "moves" in wanted)
    assert headline(other) == headline(page)
    assert table(other, "figures") == table(page, "figures")
    assert other.locator(field("p2p")).input_value() == "0.25"


@pytest.mark.parametrize("fragment", ["hello", TRUNCATED, "%%%", "ig"])
def test_an_address_that_says_nothing_shows_the_defaults_and_says_so(
    open_page: Opener, explorer: Explorer, fragment: str
) -> None:
    page = open_page(f"{explorer.address}#{fragment}")
    settled(page)
    assert headline(page)["makespan"] == "27"
    assert "settings that are not understood" in page.inner_text("#note")


def test_everything_is_reached_by_keys(page: "Page") -> None:
    canvas = "document.activeElement.tagName === 'CANVAS'"
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(canvas):
            break
    assert page.evaluate(canvas)
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('#explained').textContent.startsWith('1F1: forward')")
    page.keyboard.press("Enter")
    assert page.locator("#explained.kept").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#explained.kept").count() == 0
    page.keyboard.press("Alt+ArrowRight")
    settled(page, shows({"moves": [[1, 1, 2]]}))
    until(page, "document.querySelector('#explained').textContent.startsWith('1F1: forward')")
    page.keyboard.press("Control+z")
    settled(page, lambda wanted: "moves" not in wanted)
    for key in ("+", "+", "Shift+ArrowRight", "-", "0"):
        before = page.evaluate("document.body.dataset.drawn")
        page.keyboard.press(key)
        assert page.evaluate("document.body.dataset.drawn") != before
    page.locator("#tab-planner").focus()
    page.keyboard.press("Enter")
    assert page.locator("#planner").is_visible()
    page.locator("#tab-schedule").focus()
    page.keyboard.press("Enter")
    page.locator(field("pp")).focus()
    page.keyboard.press("ArrowUp")
    settled(page, shows({"pp": 5}))


def test_wheel_and_fingers_zoom_and_pan(page: "Page") -> None:
    """What stands at a place of the picture tells which part of the time is shown."""

    def pointed(share: float) -> str:
        page.mouse.move(*place(page, 3, 26.9, 27))
        page.mouse.move(*place(page, 3, 27 * share, 27))
        page.wait_for_timeout(300)
        return page.inner_text("#explained").partition(":")[0]

    assert pointed(0.87) == "3W4"
    page.mouse.move(*place(page, 3, 4.5, 27))  # which stays where it is
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    assert pointed(4.5 / 27) == "3B0"
    assert pointed(0.87) != "3W4"
    page.keyboard.down("Shift")
    page.mouse.wheel(0, 4000)
    page.keyboard.up("Shift")
    assert pointed(0.98) == "3W7"
    page.click("#fit")
    assert pointed(0.87) == "3W4"
    scrolled = page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(200)
    assert page.evaluate("scrollY") > scrolled
    pinch = """() => {
      const canvas = document.querySelector("#panels canvas"), box = canvas.getBoundingClientRect();
      canvas.setPointerCapture = () => {};
      const touch = (type, pointerId, x) => canvas.dispatchEvent(new PointerEvent(type, {
        pointerId, pointerType: "touch", clientX: box.left + x, clientY: box.top + 200 }));
      touch("pointerdown", 11, 300); touch("pointerdown", 12, 400);
      touch("pointermove", 11, 100); touch("pointermove", 12, 600);
      touch("pointerup", 11, 100); touch("pointerup", 12, 600);
    }"""
    page.evaluate(pinch)
    assert pointed(0.87) != "3W4"


def test_everything_has_a_name(page: "Page") -> None:
    nameless = """
    [...document.querySelectorAll("button, input, select, canvas, summary")].filter((e) =>
      !e.closest("[aria-hidden=true]") && !(e.labels?.length || e.getAttribute("aria-label") ||
      e.textContent.trim())).map((e) => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.evaluate("document.documentElement.lang") == "en"


def test_a_small_screen_shows_all_without_scrolling_aside(
    open_page: Opener, explorer: Explorer
) -> None:
    page = open_page(explorer.address, 390, 800)
    wide = "document.documentElement.scrollWidth"
    put(page, {"pp": "8", "microbatches": "32"})
    page.click("#controls summary")
    page.check(f"{field('compare')}-interleaved-1f1b")
    settled(page, shows({"pp": 8, "microbatches": 32, "compare": "interleaved-1f1b"}))
    assert page.evaluate(wide) == 390
    page.locator("#panels canvas").first.focus()
    for _ in range(40):
        page.keyboard.press("Alt+ArrowRight")  # faster than answers come
    settled(page, lambda wanted: len(wanted.get("moves", [])) == 40)
    assert "comes before 0F0, which it needs" in page.inner_text("#unsound")
    assert page.evaluate(wide) == 390
    page.click("#tab-planner")
    page.click("#asked button[type=submit]")
    page.wait_for_selector("#plan table", timeout=60_000)
    assert page.evaluate(wide) == 390


def test_the_planners_tab(page: "Page", capsys: pytest.CaptureFixture[str]) -> None:
    page.click("#tab-planner")
    page.select_option(field("model", "asked"), "gpt2-124m")
    for name, value in (("gpus", "4"), ("gpus_per_node", "4"), ("global_batch", "16")):
        page.fill(field(name, "asked"), value)
    page.click("#asked button[type=submit]")
    page.wait_for_selector("#plan table", timeout=60_000)
    where = ["--model", "gpt2-124m", "--gpus", "4", "--global-batch", "16", "--gpus-per-node", "4"]
    assert main(["plan", *where, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    text = page.inner_text("#plan")
    assert expected["family"] in text
    assert f"{expected['predicted']['step_s']:.4g} s" in text
    assert all(reason in text for reason in expected["reasons"])
    with page.expect_download() as waiting:
        page.click("#plan button")
    assert "pp_size = " in Path(waiting.value.path()).read_text()
    page.fill(field("gpus", "asked"), "7")
    page.click("#asked button[type=submit]")
    page.wait_for_selector("#asked .wrong:not([hidden])")
    (said,) = [t for t in page.locator("#asked .wrong").all_inner_texts() if t]
    assert said.startswith("gpus must be a multiple of gpus_per_node (4), got 7")


def test_what_takes_long_says_so_and_can_be_cancelled(page: "Page") -> None:
    page.click("#tab-planner")
    page.select_option(field("model", "asked"), "llama-70b")
    page.fill(field("gpus", "asked"), "2048")
    page.fill(field("global_batch", "asked"), "4096")
    page.click("#asked button[type=submit]")
    until(page, "document.querySelector('#status').textContent.startsWith('Comp')")
    page.get_by_role("button", name="Cancel").click()
    until(page, "document.querySelector('#plan').textContent === 'Cancelled.'")
    until(page, "document.querySelector('#status').textContent === 'Ready'")


def test_a_program_of_the_page_reads_back_as_the_same_schedule(
    page: "Page", tmp_path: Path
) -> None:
    path = saved(page, tmp_path)
    made = parse(path.read_text())
    assert made == lower(generate(Order("zeropp"), 4, 1, 8))
    assert re.search(r"^shard: none$", path.read_text(), re.M)
